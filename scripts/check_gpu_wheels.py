"""Prove from the wheels themselves that those of requirements-gpu.lock can live in one process.

    python -m scripts.check_gpu_wheels                 # downloads what it reads (0.4 GB)
    python -m scripts.check_gpu_wheels --nvidia        # and NVIDIA's own libraries (1.6 GB more)
    python -m scripts.check_gpu_wheels --wheels DIR    # reads the wheels that are there already
    python -m scripts.check_gpu_wheels --nvidia --record tests/data/gpu_wheels.json

ONNX Runtime and FAISS each load CUDA. Two majors of it in one process are two runtimes that know
nothing of each other's memory, and libraries whose names do not change between majors
(libcurand.so.10) would be shared by both. So every CUDA library that either needs has to be of one
major, and with NVIDIA's wheels at hand each has to be in one of them. And what we set for TensorRT
has to be of the kind that ONNX Runtime's binding takes: it stops the start otherwise.

The wheels are too large for the tests. ``--record`` keeps what was read, with the digest of each
wheel, and the tests hold the lock file and the options against that: a lock file of other wheels
fails until this was run anew.

Exit code 0: they can; 1: they cannot; 2: the wheels could not be had.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.libraries import needed
from models.runtime import RuntimeOptions, ShapeRange, provider_chain

LOCK = Path(__file__).resolve().parents[1] / "requirements-gpu.lock"
RUNTIMES = ("onnxruntime-gpu", "faiss-gpu")
# Libraries of the extension that are loaded only where TensorRT is chosen: its own wheel holds
# them, and it is not in the lock file.
OPTIONAL = ("libnvinfer", "libnvonnxparser")
_CUDA = re.compile(
    r"lib(?:cud|cublas|cufft|curand|cusolver|cusparse|nvrtc|nvJitLink|nvinfer|nvonnx)"
)
# How the binding of onnxruntime-gpu refuses a value; it says so of every option that it knows.
_SAYS = re.compile(rb"The value for the key '(\w+)' should be ([^\0\n]{1,80})")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True, slots=True)
class Wheel:
    """``needs``: CUDA libraries that its own name as needed. ``holds``: libraries in it.

    ``options``: those of TensorRT that its binding knows, each with the kind of value that it
    takes (``boolean``, ``number`` or ``text``). ``sha256``: of the file.
    """

    name: str
    version: str
    needs: frozenset[str]
    holds: frozenset[str]
    requirements: tuple[str, ...]
    sha256: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


def pinned(lock: str) -> dict[str, str]:
    """Names and versions of the packages in the text of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, flags=re.MULTILINE))


def read_wheel(path: Path) -> Wheel:
    """What a wheel says of itself and what its libraries need."""
    needs: set[str] = set()
    holds: set[str] = set()
    options: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        (metadata,) = [n for n in archive.namelist() if re.fullmatch(r"[^/]+/METADATA", n)]
        text = archive.read(metadata).decode("utf-8")
        for member in archive.namelist():
            name = member.rpartition("/")[2]
            if not re.search(r"\.so(\.\d+)*$", name):
                continue
            holds.add(name)
            # NVIDIA's own libraries load each other as they are needed; theirs is not our affair.
            if path.name.startswith("nvidia"):
                continue
            extracted = Path(archive.extract(member, folder))
            if name.startswith("onnxruntime_pybind11_state"):
                options = option_kinds(extracted.read_bytes())
            found = needed(extracted)
            needs.update(library for library in found if _CUDA.match(library))
    fields = dict(re.findall(r"^(Name|Version): (.+)$", text, flags=re.MULTILINE))
    requirements = tuple(re.findall(r"^Requires-Dist: (.+)$", text, flags=re.MULTILINE))
    return Wheel(
        fields["Name"].strip(),
        fields["Version"].strip(),
        frozenset(needs),
        frozenset(holds),
        requirements,
        _sha256(path),
        options,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def option_kinds(binding: bytes) -> dict[str, str]:
    """The kind of value of each option, from the messages in ONNX Runtime's binding."""
    return {key.decode(): _kind(said) for key, said in _SAYS.findall(binding)}


def _kind(said: bytes) -> str:
    if b"'True' or 'False'" in said:
        return "boolean"
    return "number" if b"number" in said else "text"


def tensorrt_options() -> dict[str, str]:
    """Every option that Homeward may set for TensorRT, with a value that it sets."""
    with tempfile.TemporaryDirectory() as folder:
        options = RuntimeOptions(
            provider="tensorrt", memory_bytes=1 << 30, engine_cache=Path(folder)
        )
        shapes = {"x": ShapeRange((1, 3), (16, 3), (32, 3))}
        return provider_chain(options, shapes=shapes)[0][1]


def refused(options: Mapping[str, str], kinds: Mapping[str, str]) -> Iterator[str]:
    """The options that a binding with these ``kinds`` does not take, in words."""
    for key, value in options.items():
        kind = kinds.get(key)
        if kind is None:
            yield f"onnxruntime-gpu knows no option {key}"
        elif (kind == "boolean" and value not in ("True", "False")) or (
            kind == "number" and not value.isdecimal()
        ):
            yield f"onnxruntime-gpu takes a {kind} for {key}, not {value!r}"


def recorded(wheels: list[Wheel]) -> dict[str, Any]:
    """What the tests need of the wheels, as JSON; :func:`from_record` reads it."""
    return {
        wheel.name: {
            "version": wheel.version,
            "sha256": wheel.sha256,
            "needs": sorted(wheel.needs),
            "holds": sorted(wheel.holds) if wheel.name.startswith("nvidia") else [],
            "requirements": sorted(r for r in wheel.requirements if r.startswith("nvidia")),
            "options": dict(sorted(wheel.options.items())),
        }
        for wheel in wheels
    }


def from_record(record: Mapping[str, Any]) -> list[Wheel]:
    return [
        Wheel(
            name,
            kept["version"],
            frozenset(kept["needs"]),
            frozenset(kept["holds"]),
            tuple(kept["requirements"]),
            kept["sha256"],
            kept["options"],
        )
        for name, kept in record.items()
    ]


def not_pinned(wheels: list[Wheel], lock: str) -> Iterator[str]:
    """Where wheels are not those of a lock file's text: other packages, versions or files."""
    versions = pinned(lock)
    wanted = {name for name in versions if name in RUNTIMES or name.startswith("nvidia-")}
    by_name = {wheel.name: wheel for wheel in wheels}
    for name in sorted(wanted ^ set(by_name)):
        yield f"{name} is {'not in the lock file' if name in by_name else 'in the lock file alone'}"
    for name in sorted(wanted & set(by_name)):
        # Up to the next line that is not set in: the digests are.
        entry = re.split(r"\n(?=\S)", lock.partition(f"\n{name}==")[2], maxsplit=1)[0]
        if versions[name] != by_name[name].version:
            yield f"{name} is pinned to {versions[name]}, and {by_name[name].version} was read"
        elif f"sha256:{by_name[name].sha256}" not in entry:
            yield f"the wheel of {name} that was read has no digest in the lock file"


def cuda_majors(needs: frozenset[str]) -> set[int]:
    """The majors of CUDA that libraries are of: these two carry it in their names."""
    pattern = re.compile(r"lib(?:cudart|cublas|cublasLt)\.so\.(\d+)$")
    return {int(found.group(1)) for found in map(pattern.match, needs) if found}


def problems(wheels: list[Wheel]) -> Iterator[str]:
    """Why the wheels cannot be used together; nothing where they can."""
    by_name = {wheel.name: wheel for wheel in wheels}
    for name in RUNTIMES:
        if name not in by_name:
            yield f"there is no wheel of {name}"
        elif not cuda_majors(by_name[name].needs):
            yield f"{name} needs no CUDA at all"
    majors = {name: cuda_majors(by_name[name].needs) for name in RUNTIMES if name in by_name}
    binding = by_name.get("onnxruntime-gpu")
    if binding is not None and binding.options:
        yield from refused(tensorrt_options(), binding.options)
    if len(set().union(*majors.values())) > 1:
        shown = ", ".join(f"{name} {sorted(found)}" for name, found in majors.items())
        yield f"they are of different CUDA majors: {shown}"
    nvidia = [wheel for wheel in wheels if wheel.name.startswith("nvidia")]
    if not nvidia:
        return
    held = frozenset().union(*(wheel.holds for wheel in nvidia))
    for name in majors:
        for library in sorted(by_name[name].needs - held):
            # The driver brings libcuda.so.1.
            if not library.startswith(OPTIONAL) and library != "libcuda.so.1":
                yield f"no wheel holds {library}, which {name} needs"


def download(names: list[str], folder: Path) -> None:
    """Get the wheels of ``names`` as they are pinned, for Linux on x86-64, and nothing else."""
    versions = pinned(LOCK.read_text(encoding="utf-8"))
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    wanted = [f"{name}=={versions[name]}" for name in names]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
            *("--no-deps", "--only-binary=:all:", "--python-version", "3.11", *platforms),
            *("--dest", str(folder), *wanted),
        ],
        check=True,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheels", type=Path, help="a folder with the wheels; nothing is loaded")
    parser.add_argument("--nvidia", action="store_true", help="also get NVIDIA's libraries")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep what was read, as JSON")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.wheels or Path(scratch)
        if given.wheels is None:
            names = list(RUNTIMES)
            if given.nvidia:
                locked = pinned(LOCK.read_text(encoding="utf-8"))
                names += [name for name in locked if name.startswith("nvidia-")]
            try:
                download(names, folder)
            except subprocess.CalledProcessError as error:
                print(f"The wheels could not be had: {error}", file=sys.stderr)
                return 2
        wheels = [read_wheel(path) for path in sorted(folder.glob("*.whl"))]
    for wheel in wheels:
        print(f"{wheel.name} {wheel.version}")
        for kind, words in (("needs", wheel.needs), ("requires", set(wheel.requirements))):
            shown = sorted(w for w in words if kind == "needs" or "nvidia" in w)
            if shown and not wheel.name.startswith("nvidia"):
                print(f"  {kind}: {', '.join(shown)}")
    found = list(problems(wheels))
    if given.record is not None:
        text = json.dumps(recorded(wheels), indent=2) + "\n"
        given.record.write_text(text, encoding="utf-8")
    for problem in found:
        print(f"WRONG: {problem}")
    if not found:
        print("They can live in one process.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
