"""The images: what can be checked without building them. `make images-check` runs their steps."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scripts.check_images import Root, _copy
from scripts.dockerfile import Instruction, Stage, Unreadable, instructions, stages
from service.config import Settings
from tests.house.repository import ROOT
from tests.service.live import LiveServer

FILES = ("Dockerfile", "Dockerfile.gpu")
LOCKS = {"Dockerfile": "requirements-scale.lock", "Dockerfile.gpu": "requirements-gpu.lock"}
IMAGE = ROOT / "deploy" / "image"


def read(name: str) -> list[Stage]:
    return stages((ROOT / name).read_text(encoding="utf-8"))


def steps(name: str, keyword: str) -> list[Instruction]:
    return [step for stage in read(name) for step in stage.steps if step.keyword == keyword]


# --- hadolint --------------------------------------------------------------------------------


def hadolint() -> str:
    beside = Path(sys.executable).parent / "hadolint"
    found = str(beside) if beside.is_file() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed")
    return found


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([hadolint(), *FILES], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_hadolint_finds_what_it_must(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN cd /srv && pip install x\n", encoding="utf-8")
    done = subprocess.run([hadolint(), str(bad)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "DL3007" in done.stdout


# --- what the files say ----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_base_images_are_pinned_arguments(name: str) -> None:
    first = instructions((ROOT / name).read_text(encoding="utf-8"))[0]
    assert first.keyword == "ARG"
    build, last = read(name)
    assert build.base == last.base, "what is built in the one has to run in the other"
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", build.base)
    assert {stage.base for other in FILES for stage in read(other)} == {build.base}


@pytest.mark.parametrize("name", FILES)
def test_every_step_is_a_script_of_the_repository(name: str) -> None:
    scripts = []
    for step in steps(name, "RUN"):
        assert step.rest.startswith("["), "in a form that no shell takes apart"
        shell, script, *given = step.words
        assert shell == "sh"
        scripts.append(Path(script).name)
        assert (IMAGE / scripts[-1]).is_file(), script
        assert all((ROOT / word).is_file() for word in given)
    assert scripts == ["dependencies.sh", "program.sh", "system.sh", "verify.sh"]
    (lock,) = [word for step in steps(name, "RUN") for word in step.words if "requirements" in word]
    assert lock == LOCKS[name]


@pytest.mark.parametrize("path", sorted(IMAGE.glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_are_read_without_error_and_stop_at_the_first(path: Path) -> None:
    subprocess.run(["sh", "-n", str(path)], check=True)
    assert "set -eu" in path.read_text(encoding="utf-8")


def in_context(source: str) -> bool:
    """Whether .dockerignore, which lets in what it names alone, lets a source in."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    allowed = [line[1:] for line in lines if line.startswith("!")]
    return any(source == each or source.startswith(f"{each}/") for each in allowed)


@pytest.mark.parametrize("name", FILES)
def test_everything_that_is_copied_is_there(name: str) -> None:
    copied = [step.words for step in steps(name, "COPY")]
    own = [source for words in copied if not words[0].startswith("--") for source in words[:-1]]
    assert {"models", "indexer", "service", "pyproject.toml", LOCKS[name]} <= set(own)
    for source in own:
        assert (ROOT / source).exists(), source
        assert in_context(source), source
    assert not in_context("homeward-data")
    assert not in_context("tests")


@pytest.mark.parametrize("name", FILES)
def test_it_runs_as_nobody_and_writes_in_two_places_alone(name: str) -> None:
    last = read(name)[-1]
    keywords = [step.keyword for step in last.steps]
    user = last.last("USER")
    assert user is not None and re.fullmatch(r"10001:10001", user.rest)
    assert keywords.count("USER") == 1
    volume = last.last("VOLUME")
    assert volume is not None and volume.words == ["/data"]
    environment = last.environment()
    assert environment["HOMEWARD_DATA_DIR"] == "/data"
    for variable in ("HOME", "MPLCONFIGDIR"):
        assert environment[variable].startswith("/tmp")
    entry, command, health = (last.last(k) for k in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
    assert entry is not None and entry.words == ["homeward"]
    assert command is not None and command.words == ["serve"]
    assert health is not None and "/opt/homeward/image/health.py" in health.rest


@pytest.mark.parametrize("name", FILES)
def test_no_secret_is_built_in_and_every_setting_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"(?i)password|secret|token|api_?key|credential", text)
    named = {n.removeprefix("HOMEWARD_").lower() for n in re.findall(r"HOMEWARD_[A-Z_]+", text)}
    assert {"data_dir", "host"} <= named
    assert named <= set(Settings.model_fields)


def test_the_two_differ_in_what_a_gpu_takes_alone() -> None:
    ours, gpu = (read(name)[-1].environment() for name in FILES)
    assert {name: gpu[name] for name in ours} == ours
    assert gpu["HOMEWARD_PROVIDER"] == "cuda"
    assert set(gpu) - set(ours) == {
        "HOMEWARD_PROVIDER",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_VISIBLE_DEVICES",
    }


# --- the health check ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def health() -> ModuleType:
    spec = importlib.util.spec_from_file_location("health", IMAGE / "health.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_service_is_asked_and_other_commands_are_not(
    health: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "cmdline"
    # Neither the image's own address nor a proxy stands in the way of what `serve` was told.
    with LiveServer(tmp_path / "data") as server:
        monkeypatch.setenv("HOMEWARD_HOST", "127.0.0.1")
        monkeypatch.setenv("HOMEWARD_PORT", "1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.delenv("no_proxy", raising=False)
        told = f"--host=127.0.0.1\0--port\0{server.port}\0".encode()
        first.write_bytes(b"python\0homeward\0serve\0" + told)
        assert health.main(first) == 0
        monkeypatch.setenv("HOMEWARD_HOST", "0.0.0.0")
        monkeypatch.setenv("HOMEWARD_PORT", str(server.port))
        first.write_bytes(b"python\0homeward\0serve\0")
        assert health.main(first) == 0
        monkeypatch.delenv("http_proxy")
        server.kill()
        assert health.main(first) == 1, "it serves no more"
        first.write_bytes(b"python\0homeward\0worker\0-n\0001\0")
        assert health.main(first) == 0
        assert health.main(tmp_path / "none") == 1


@pytest.mark.parametrize(
    ("words", "host", "asked"),
    [
        ("serve", "0.0.0.0", "127.0.0.1:8000"),
        ("serve --port 9000", "0.0.0.0", "127.0.0.1:9000"),
        ("--data-dir /data serve --port=9000 --host=10.0.0.5", "0.0.0.0", "10.0.0.5:9000"),
        ("serve", "10.0.0.5", "10.0.0.5:8000"),
        ("serve --host ::", "10.0.0.5", "[::1]:8000"),
        ("demo --host fd00::5 --port 1 --port 2", "", "[fd00::5]:2"),
        ("serve", "", "127.0.0.1:8000"),
        ("serve --port", "localhost", "localhost:8000"),
    ],
)
def test_the_address_is_that_of_the_service(
    health: ModuleType, words: str, host: str, asked: str
) -> None:
    assert health.address(words.split(), {"HOMEWARD_HOST": host}) == asked


# --- the reader of Dockerfiles, and the runner -----------------------------------------------


def test_instructions_are_read_as_they_are_meant() -> None:
    first, last = stages(
        "# a comment\nARG BASE=debian@sha256:1\nFROM ${BASE} AS build\n"
        'RUN ["sh", "a b.sh"]\n\nFROM other\nENV A=1 \\\n    # within\n    B="two words"\n'
    )
    assert (first.base, first.name) == ("debian@sha256:1", "build")
    assert first.steps[0].words == ["sh", "a b.sh"]
    assert last.environment() == {"A": "1", "B": "two words"}
    with pytest.raises(Unreadable, match="SHELL"):
        stages("FROM x\nSHELL bash\n")
    with pytest.raises(Unreadable, match="before FROM"):
        stages("RUN x\n")


def test_copies_land_where_docker_puts_them(tmp_path: Path) -> None:
    before = Root(tmp_path / "before")
    (before.folder / "opt" / "venv").mkdir(parents=True)
    (before.folder / "opt" / "venv" / "python").write_text("x")
    root = Root(tmp_path / "root", work="/src")
    (root.folder / "src").mkdir(parents=True)
    _copy(["README.md", "LICENSE", "./"], root, {})
    _copy(["deploy/image", "./deploy/image"], root, {})
    _copy(["--from=build", "/opt/venv", "/opt/venv"], root, {"build": before})
    _copy(["scripts/check_native.py", "/opt/native.py"], root, {})
    made = {p.relative_to(root.folder).as_posix() for p in root.folder.rglob("*") if p.is_file()}
    assert {"src/README.md", "src/LICENSE", "src/deploy/image/health.py"} <= made
    assert {"opt/venv/python", "opt/native.py"} <= made
