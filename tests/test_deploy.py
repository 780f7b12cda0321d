"""The files of the distributed set-up: valid by their schemas, with settings that exist, hardened.

They are validated, not run: no test here starts a container.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from scripts.dockerfile import stages
from service.app import create_app
from service.cli.main import app
from service.config import Settings, load_settings
from tests.house.repository import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES = ("1.30", "1.35")
"""The oldest and newest of the versions whose schemas the files are held against."""
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY|CATALOG_URL")


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return loaded


def resources() -> list[dict[str, Any]]:
    """Every resource of Kubernetes; the list of files itself is none."""
    found = [doc for path in MANIFESTS for doc in yaml.safe_load_all(path.read_text("utf-8"))]
    return [doc for doc in found if doc["kind"] != "Kustomization"]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {doc["metadata"]["name"]: doc for doc in resources() if doc["kind"] == kind}


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each container with the name and the specification of its pod."""
    for name, doc in named("StatefulSet").items():
        pod = doc["spec"]["template"]["spec"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield name, pod, container


# --- schemas ---------------------------------------------------------------------------------


def compose_schema() -> dict[str, Any]:
    """The schema of the Compose specification, which check-jsonschema carries."""
    spec = importlib.util.find_spec("check_jsonschema")
    if spec is None or spec.origin is None:
        pytest.skip("check-jsonschema, which carries the schema, is not installed")
    path = Path(spec.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


def problems(document: Mapping[str, Any]) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    schema = compose_schema()
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(document)]


def test_the_compose_file_is_valid() -> None:
    assert problems(compose()) == []


def test_the_addition_for_gpus_is_valid_and_changes_the_workers_alone() -> None:
    added = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text("utf-8"))
    assert problems(added) == []
    assert set(added["services"]) == {"worker"}
    assert added["services"]["worker"]["command"] == ["worker", "--gpus", "all"]
    given = plain_settings(added["services"]["worker"]["environment"])
    assert load_settings(**given).provider == "cuda"


def started() -> Iterator[tuple[str, list[str]]]:
    """What each container of Homeward's own images starts, as its runtime puts it together."""
    entry = {file: image_words(file, "ENTRYPOINT") for file in ("Dockerfile", "Dockerfile.gpu")}
    added = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text("utf-8"))
    for services in (compose()["services"], added["services"]):
        for name, service in services.items():
            if service["image"].startswith(("${IMAGE", "${GPU_IMAGE")):
                file = "Dockerfile.gpu" if "GPU" in service["image"] else "Dockerfile"
                yield name, [*service.get("entrypoint", entry[file]), *service["command"]]
    for name, _, container in containers():
        if container["image"].startswith("homeward"):
            # `command` of Kubernetes replaces the entry point, `args` the command.
            words = container.get("command", entry["Dockerfile"])
            yield name, [*words, *container.get("args", [])]
    for file, words in entry.items():
        yield file, [*words, *image_words(file, "CMD")]
    text = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    for given in re.findall(r"`args: (\[[^`]*\])`", text):
        yield "docs/gpu.md", [*entry["Dockerfile.gpu"], *yaml.safe_load(given)]


def image_words(file: str, keyword: str) -> list[str]:
    found = stages((ROOT / file).read_text("utf-8"))[-1].last(keyword)
    assert found is not None
    return found.words


def parsed(words: list[str]) -> str:
    """The command that the words mean: its options are read and checked, and nothing is started.

    Raises SystemExit as the command line would, AssertionError for a program that is not there.
    """
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert words[0] in scripts, f"{words[0]} is no program of the image"
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    called: list[str] = []
    for name, command in group.commands.items():
        command.callback = lambda name=name, **_options: called.append(name)
    try:
        group.main(words[1:], prog_name=words[0])
    except SystemExit as ended:
        if ended.code != 0:
            raise
    (name,) = called
    return name


def test_what_the_containers_start_is_a_command() -> None:
    found = [(name, parsed(words)) for name, words in started()]
    assert set(found) == {
        *(("serve", "serve"), ("worker", "worker")),
        *(("homeward-serve", "serve"), ("homeward-worker", "worker")),
        *(("Dockerfile", "serve"), ("Dockerfile.gpu", "serve"), ("docs/gpu.md", "worker")),
    }
    assert len([one for one in found if one == ("worker", "worker")]) == 2, "on GPUs, and without"


@pytest.mark.parametrize(
    "words",
    [
        ["homeward", "homeward", "serve"],
        ["homeward", "worker", "-n", "x"],
        ["homeward", "worker", "--gpu", "all"],
        ["homeward", "serve", "now"],
        ["serve"],
    ],
)
def test_what_is_no_command_is_told(words: list[str]) -> None:
    with pytest.raises((SystemExit, AssertionError)):
        parsed(words)


def test_the_schema_of_compose_finds_what_it_must() -> None:
    broken = compose()
    broken["services"]["serve"]["portz"] = ["8000"]
    assert problems(broken)


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_manifests_are_valid(version: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="it carries the schemas")
    for resource in resources():
        kubernetes.validate(resource, version, strict=True)
    (broken,) = [doc for doc in resources() if doc["metadata"]["name"] == "homeward-settings"][:1]
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate({**broken, "dataz": {}}, version, strict=True)


def test_every_manifest_is_listed() -> None:
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text("utf-8"))
    names = {path.name for path in MANIFESTS} - {"kustomization.yaml"}
    assert set(listed["resources"]) == names
    images = {image["name"] for image in listed["images"]}
    assert {container["image"] for _, _, container in containers()} == images
    for image in listed["images"]:
        assert image["newTag"] not in ("", "latest")


# --- settings and secrets --------------------------------------------------------------------


def test_every_setting_that_is_named_exists() -> None:
    files = [DEPLOY / "compose.yaml", DEPLOY / "README.md", *MANIFESTS]
    text = "\n".join(path.read_text("utf-8") for path in files)
    used = {name.lower() for name in re.findall(r"\bHOMEWARD_([A-Z_]+)\b", text)}
    assert {"catalog_url", "blobs_url", "jobs_in_server"} <= used
    assert used <= set(Settings.model_fields)


def plain_settings(values: Mapping[str, str]) -> dict[str, str]:
    """The settings with values of their own, by the names of the fields that exist already."""
    given = {
        name.removeprefix("HOMEWARD_").lower(): value
        for name, value in values.items()
        if name.startswith("HOMEWARD_") and "${" not in value
    }
    return {name: value for name, value in given.items() if name in Settings.model_fields}


def test_the_settings_are_taken_as_they_stand() -> None:
    in_compose = plain_settings(compose()["services"]["serve"]["environment"])
    in_cluster = plain_settings(named("ConfigMap")["homeward-settings"]["data"])
    for given in (in_compose, in_cluster):
        settings = load_settings(**given)
        assert not settings.jobs_in_server, "that is the workers' part"
        assert settings.blobs_url
        assert settings.blobs_endpoint


def test_no_secret_is_written_down_or_has_a_default() -> None:
    for name, service in compose()["services"].items():
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable) and not variable.endswith("_FILE"):
                assert re.fullmatch(r"(root:)?\$\{[A-Z0-9_]+:\?[^}]*\}", value), (name, variable)
    for name, _, container in containers():
        for entry in container.get("env", []):
            if SECRET.search(entry["name"]) and not entry["name"].endswith("_FILE"):
                assert "secretKeyRef" in entry.get("valueFrom", {}), (name, entry["name"])
    for config in named("ConfigMap").values():
        assert not [key for key in config["data"] if SECRET.search(key)]
    assert named("Secret") == {}, "a secret is made where it is used, not here"


# --- hardening -------------------------------------------------------------------------------


def test_services_of_compose_are_hardened() -> None:
    for name, service in compose()["services"].items():
        assert service["user"] == "10001:10001", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert {"limits", "reservations"} <= set(service["deploy"]["resources"]), name
        assert not service.get("privileged"), name
        image = service["image"]
        pinned = re.search(r":-[^:}]+:[^:}]+\}$", image)
        assert image.startswith("${IMAGE:?") or (pinned and "latest" not in image), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "what is open to others goes through a proxy"
        for network in set(service["networks"]) - {"front", "out"}:
            assert compose()["networks"][network]["internal"], name


def test_pods_are_hardened() -> None:
    found = list(containers())
    assert {name for name, _, _ in found} >= {"homeward-serve", "homeward-worker"}
    for name, pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        # Variables that the cluster adds for each service would change the settings of Milvus.
        assert pod["enableServiceLinks"] is False, name
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        for part in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][part]), name
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert mounts == volumes | {"data"}, name
    for name, doc in named("StatefulSet").items():
        (claim,) = doc["spec"]["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "data", name
        assert doc["spec"]["serviceName"] in named("Service"), name


def test_probes_ask_what_the_service_answers() -> None:
    (container,) = [found for name, _, found in containers() if name == "homeward-serve"]
    asked = {
        kind: container[kind]["httpGet"]["path"]
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert set(asked.values()) <= set(create_app(load_settings()).openapi()["paths"])
    assert any("/readyz" in word for word in compose()["services"]["serve"]["healthcheck"]["test"])


def test_every_workload_may_be_moved_one_pod_at_a_time() -> None:
    budgets = {
        doc["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
        for doc in named("PodDisruptionBudget").values()
    }
    assert budgets == set(named("StatefulSet"))


def _selected(selector: Mapping[str, Any], name: str) -> bool:
    """Whether a selector of pods chooses the workload ``name``."""
    wanted = selector.get("matchLabels", {}).get("app.kubernetes.io/name", name)
    among = [
        expression["values"]
        for expression in selector.get("matchExpressions", [])
        if expression["key"] == "app.kubernetes.io/name"
    ]
    return wanted == name and all(name in values for values in among)


def _allowed(direction: str, mine: str, other: str, port: int) -> bool:
    """Whether a policy lets the pods ``mine`` speak to ``other`` (or be spoken to by it)."""
    kind, peers = ("Egress", "to") if direction == "egress" else ("Ingress", "from")
    for policy in named("NetworkPolicy").values():
        spec = policy["spec"]
        if kind not in spec["policyTypes"] or not _selected(spec["podSelector"], mine):
            continue
        for rule in spec.get(direction, []):
            pods = [peer["podSelector"] for peer in rule[peers] if "podSelector" in peer]
            ports = [entry["port"] for entry in rule["ports"]]
            if port in ports and any(_selected(selector, other) for selector in pods):
                return True
    return False


def test_traffic_is_denied_but_for_what_is_needed() -> None:
    deny = named("NetworkPolicy")["deny-all"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    workloads = set(named("StatefulSet"))
    ports = {"postgres": 5432, "milvus": 19530, "s3": 8333, "etcd": 2379, "homeward-serve": 8000}
    needed = {
        (name, store)
        for name in ("homeward-serve", "homeward-worker")
        for store in ("postgres", "milvus", "s3")
    } | {("milvus", "etcd"), ("milvus", "s3")}
    for source in workloads:
        for target in workloads - {source}:
            port = ports.get(target, 8000)
            both = (
                _allowed("egress", source, target, port),
                _allowed("ingress", target, source, port),
            )
            assert both == ((source, target) in needed,) * 2, (source, target)
