"""Prove from the wheels themselves that those of requirements-gpu.lock can live in one process.

    python -m scripts.check_gpu_wheels                 # downloads what it reads (0.4 GB)
    python -m scripts.check_gpu_wheels --nvidia        # and NVIDIA's own libraries (1.6 GB more)
    python -m scripts.check_gpu_wheels --wheels DIR    # reads the wheels that are there already

ONNX Runtime and FAISS each load CUDA. Two majors of it in one process are two runtimes that know
nothing of each other's memory, and libraries whose names do not change between majors
(libcurand.so.10) would be shared by both. So every CUDA library that either needs has to be of one
major, and with NVIDIA's wheels at hand each has to be in one of them.

Exit code 0: they can; 1: they cannot; 2: the wheels could not be had.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.libraries import needed

LOCK = Path(__file__).resolve().parents[1] / "requirements-gpu.lock"
RUNTIMES = ("onnxruntime-gpu", "faiss-gpu")
# Libraries of the extension that are loaded only where TensorRT is chosen: its own wheel holds
# them, and it is not in the lock file.
OPTIONAL = ("libnvinfer", "libnvonnxparser")
_CUDA = re.compile(
    r"lib(?:cud|cublas|cufft|curand|cusolver|cusparse|nvrtc|nvJitLink|nvinfer|nvonnx)"
)
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True, slots=True)
class Wheel:
    """``needs``: CUDA libraries that its own name as needed. ``holds``: libraries in it."""

    name: str
    version: str
    needs: frozenset[str]
    holds: frozenset[str]
    requirements: tuple[str, ...]


def pinned(lock: str) -> dict[str, str]:
    """Names and versions of the packages in the text of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, flags=re.MULTILINE))


def read_wheel(path: Path) -> Wheel:
    """What a wheel says of itself and what its libraries need."""
    needs: set[str] = set()
    holds: set[str] = set()
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
            found = needed(Path(archive.extract(member, folder)))
            needs.update(library for library in found if _CUDA.match(library))
    fields = dict(re.findall(r"^(Name|Version): (.+)$", text, flags=re.MULTILINE))
    requirements = tuple(re.findall(r"^Requires-Dist: (.+)$", text, flags=re.MULTILINE))
    return Wheel(
        fields["Name"].strip(),
        fields["Version"].strip(),
        frozenset(needs),
        frozenset(holds),
        requirements,
    )


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
    for problem in found:
        print(f"WRONG: {problem}")
    if not found:
        print("They can live in one process.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
