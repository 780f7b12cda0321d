"""The house in order: lock files, words, sizes, what may be read, true documentation."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import service
from models.packs.dlib import files as dlib_files
from service.app import create_app
from service.cli.main import app as command_line
from service.config import Settings, load_settings
from tests.house import repository, words
from tests.house.repository import ROOT, shown

LOCKS = ("requirements-build.lock", "requirements.lock", "requirements-dev.lock")
GPU_LOCK = "requirements-gpu.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

LONGEST_MODULE = 475
# Path: why it is one room all the same. A module that gets shorter leaves this list.
LONG_MODULES = {
    "indexer/errors.py": "definitions only: every error of storing, indexing and probing",
    "indexer/records.py": "definitions only: every value that crosses the border of its room",
    "indexer/catalog/tables.py": "definitions only: every table of the one catalog",
}


# --- lock files ------------------------------------------------------------------------------


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package name to version and hashes; every line has to be one of the two known kinds."""
    found: dict[str, tuple[str, list[str]]] = {}
    current = ""
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        text = line.strip().removesuffix("\\").strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("--hash="):
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", text), text
            found[current][1].append(text)
            continue
        requirement = re.fullmatch(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([\w.+!]+)(?: ; .+)?", text)
        assert requirement, f"{name}: {text}"
        current = requirement.group(1)
        found[current] = (requirement.group(2), [])
    return found


def normalised(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


@pytest.mark.parametrize("name", [*LOCKS, GPU_LOCK])
def test_lock_files_hold_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find-links|trusted-host)|\bfile:|@", text)
    packages = locked(name)
    assert packages
    assert [package for package, (_, hashes) in packages.items() if not hashes] == []


def test_running_and_developing_use_the_same_versions() -> None:
    running, developing = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: running[name] for name in running} == {
        name: developing.get(name) for name in running
    }
    build = locked("requirements-build.lock")
    assert developing["setuptools"] == build["setuptools"]


def test_every_dependency_that_is_named_is_locked() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["cpu"]]
    assert {normalised(r) for r in needed} <= set(locked("requirements.lock"))
    assert {normalised(r) for r in extras["dev"]} <= set(locked("requirements-dev.lock"))


def test_every_import_is_of_a_dependency_that_is_named() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["cpu"], *extras["scale"]]
    allowed = {normalised(requirement) for requirement in named}
    providers = importlib.metadata.packages_distributions()
    found: dict[str, str] = {}
    for path in repository.modules():
        for name in _imported(ast.parse(path.read_text(encoding="utf-8"))):
            if name in sys.stdlib_module_names or name in repository.PACKAGES:
                continue
            if not {normalised(p) for p in providers.get(name, [])} & allowed:
                found.setdefault(name, shown(path))
    assert found == {}


def _imported(tree: ast.Module) -> Iterator[str]:
    """Top-level names of everything that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_packages_that_overwrite_each_other_never_meet() -> None:
    rivals = ("opencv-python-headless", "onnxruntime-gpu", "faiss-gpu", "faiss-gpu-cu12")
    for name in LOCKS:
        assert not set(rivals) & set(locked(name)), name


# --- version ---------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert importlib.metadata.version("homeward") == version
    assert service.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["It is a match.", "3 hits", "Identified!", "a\nmatched face"])
def test_the_word_scanner_finds_what_it_must(text: str) -> None:
    assert words.offences(text)


@pytest.mark.parametrize(
    "text", ["the false match rate", "False  match\nrate", "white", "rematch", "identify_victim"]
)
def test_the_word_scanner_lets_the_rest_pass(text: str) -> None:
    assert not words.offences(text)


def test_templates_are_read_as_people_see_them() -> None:
    source = "<p title='a hit'>{# a match #}{{ x or 'was identified' }}<b>hits</b></p>"
    assert len(words.offences(words.template_prose(source))) == 3
    assert not words.offences(words.template_prose("<p class='hit'>{{ match }}</p>"))


def documents() -> list[Path]:
    return [path for path in repository.files(".md") if not shown(path).startswith("tests/")]


@pytest.mark.parametrize("path", documents(), ids=shown)
def test_documents_make_no_claim_of_identity(path: Path) -> None:
    assert words.offences(words.markdown_prose(path.read_text(encoding="utf-8"))) == []


def test_pages_make_no_claim_of_identity() -> None:
    templates = [path for path in repository.files(".html") if shown(path).startswith("service/")]
    assert templates
    found = {
        shown(path): words.offences(words.template_prose(path.read_text(encoding="utf-8")))
        for path in templates
    }
    assert {path: offences for path, offences in found.items() if offences} == {}


def test_messages_make_no_claim_of_identity() -> None:
    found = [
        f"{shown(path)}:{line}: {offence}"
        for path in repository.modules()
        for line, text in words.code_prose(path)
        for offence in words.offences(text)
    ]
    assert found == []


def test_the_interface_makes_no_claim_of_identity(tmp_path: Path) -> None:
    document = create_app(load_settings(data_dir=tmp_path)).openapi()
    texts = list(words.flattened(document))
    assert len(texts) > 50
    assert [offence for text in texts for offence in words.offences(text)] == []


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The command (Typer's own kind of it) and all below it, each with its full name."""
    yield name, command
    for child, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {child}")


def test_the_command_line_makes_no_claim_of_identity() -> None:
    found = []
    for name, command in commands(typer.main.get_command(command_line), "homeward"):
        texts = [command.help or "", command.short_help or "", command.epilog or ""]
        texts += [getattr(parameter, "help", None) or "" for parameter in command.params]
        assert command.help, f"{name} has no help"
        found += [f"{name}: {offence}" for text in texts for offence in words.offences(text)]
    assert found == []


# --- rooms -----------------------------------------------------------------------------------


def test_no_module_is_long_without_a_reason() -> None:
    lengths = {
        shown(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*repository.modules(), *repository.files(".sh")]
    }
    long = {path for path, lines in lengths.items() if lines > LONGEST_MODULE}
    assert long == set(LONG_MODULES)


def test_the_models_read_no_environment() -> None:
    found = []
    for path in repository.modules():
        if path.relative_to(ROOT).parts[0] != "models":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            if name in {"environ", "getenv", "putenv"}:
                found.append(f"{shown(path)}:{getattr(node, 'lineno', 0)}")
    assert found == []


def test_packages_say_what_they_are_and_are_typed() -> None:
    for package in repository.PACKAGES:
        assert (ROOT / package / "py.typed").is_file(), package
        tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), package


# --- what may be read and kept ---------------------------------------------------------------


def test_only_the_three_free_model_files_can_be_opened() -> None:
    assert set(dlib_files.SHA256) == {
        "dlib_face_recognition_resnet_model_v1.dat",
        "mmod_human_face_detector.dat",
        "shape_predictor_5_face_landmarks.dat",
    }
    refused = "shape_predictor_" + "68"
    naming = [shown(p) for p in repository.modules() if refused in p.read_text(encoding="utf-8")]
    assert naming == []
    with pytest.raises(KeyError):
        dlib_files.read_verified(f"{refused}_face_landmarks.dat")


def test_the_repository_holds_no_photos_and_no_weights() -> None:
    kinds = (".jpg", ".jpeg", ".webp", ".avif", ".heic", ".onnx", ".dat", ".npz", ".npy", ".bin")
    assert [shown(path) for path in repository.files(*kinds)] == []
    # Pictures in the documentation are plots and pages of the demonstration.
    pictures = list(repository.files(".png", ".svg", ".gif", ".ico"))
    outside = [shown(p) for p in pictures if shown(p).split("/")[0] not in {"docs", "service"}]
    assert outside == []
    large = [shown(p) for p in repository.files() if p.stat().st_size > 1_500_000]
    assert large == []


def test_files_name_no_place_on_the_machine_they_were_written_on() -> None:
    places = re.compile(r"(?<![\w.])/(?:tmp|work|root|home)/\w")
    found = []
    for path in repository.files(".py", ".md", ".toml", ".sh", ".html", ".lock", ".json"):
        if path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{shown(path)}: {hit.group()}" for hit in places.finditer(text)]
    assert found == []


def test_tests_reach_no_network() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737); nothing answers there.
    with pytest.raises(PermissionError, match="tests use no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


# --- documentation ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", documents(), ids=shown)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target and "mailto:" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    table = text.partition("<!-- settings: begin")[2].partition("<!-- settings: end")[0]
    rows = re.findall(r"^\| `HOMEWARD_(\w+)` \| (?:`(.+?)`)?", table, flags=re.M)
    documented = {name.lower(): default for name, default in rows}
    assert set(documented) == set(Settings.model_fields)
    for name, default in documented.items():
        if default:
            actual = Settings.model_fields[name].get_default()
            shown_as = f"{actual:g}" if isinstance(actual, float) else str(actual).lower()
            assert default.removeprefix("./") == shown_as, name


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "index.md").read_text("utf-8"))
    assert sorted(listed) == sorted(path.name for path in folder.glob("0*.md"))


def test_the_make_targets_that_documents_name_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents())
    named = set(re.findall(r"(?:^ {4}|^\$ |`)make ([a-z-]+)", text, flags=re.M))
    assert {"run", "test"} <= named
    assert named <= targets


def test_the_commands_that_documents_name_are_there() -> None:
    root = typer.main.get_command(command_line)
    known = {name.partition(" ")[2] for name, _ in commands(root, "homeward")}
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents())
    named = re.findall(r"(?:^ {4}|^\$ |`)homeward ([a-z]+)(?: ([a-z]+)\b)?", text, flags=re.M)
    assert named
    unknown = {
        first
        for first, second in named
        if first not in known
        or (second and _has_commands(root, first) and f"{first} {second}" not in known)
    }
    assert unknown == set()


def _has_commands(root: Any, name: str) -> bool:
    return bool(getattr(getattr(root, "commands", {}).get(name), "commands", {}))


def test_the_bare_machine_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8").splitlines()
