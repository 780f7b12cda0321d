"""The GPUs of this machine, counted without loading a framework, and who may use which."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import HomewardError, ProviderUnavailable

BUS_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Environment of a process in which CUDA numbers GPUs as nvidia-smi does; its own default puts the
fastest first. It is read once, as CUDA starts."""

_PROC = Path("/proc/driver/nvidia")
_SMI_TIMEOUT_S = 30.0


class NoSuchGpu(HomewardError):
    """A GPU was named that is not there."""

    code = "no_such_gpu"


@dataclass(frozen=True, slots=True)
class Gpu:
    """``name`` as CUDA_VISIBLE_DEVICES takes it: a number in the order of the bus, or a UUID."""

    name: str
    model: str = ""


def visible_gpus(environment: Mapping[str, str] | None = None, proc: Path = _PROC) -> list[Gpu]:
    """The GPUs that a process with this environment may use, in CUDA's order of them.

    CUDA_VISIBLE_DEVICES counts where it is set; else `nvidia-smi -L`, else the driver's folder
    under ``proc``. Empty where there is none.
    """
    environment = os.environ if environment is None else environment
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [Gpu(name) for name in _until_the_first_invalid(chosen)]
    return _listed(environment) or _in_proc(proc)


def _until_the_first_invalid(chosen: str) -> list[str]:
    """CUDA ignores an entry that is none of its own, and all that follow it."""
    names: list[str] = []
    for word in chosen.split(","):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", word.strip()):
            break
        names.append(word.strip())
    return names


def _listed(environment: Mapping[str, str]) -> list[Gpu]:
    """By NVIDIA's own command, which asks the driver's management library."""
    command = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if command is None:
        return []
    try:
        done = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    found = re.findall(r"^GPU (\d+): (.+?)(?: \(UUID: .*\))?$", done.stdout, flags=re.MULTILINE)
    return [Gpu(number, model) for number, model in found]


def _in_proc(proc: Path) -> list[Gpu]:
    """One folder for each GPU, named by its place on the bus, and so in the order of the bus."""
    try:
        places = sorted(path for path in (proc / "gpus").iterdir() if path.is_dir())
    except OSError:
        return []
    return [Gpu(str(number), _model(place)) for number, place in enumerate(places)]


def _model(place: Path) -> str:
    try:
        text = (place / "information").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^Model:\s*(.+)$", text, flags=re.MULTILINE)
    return found.group(1).strip() if found else ""


def driver_version(proc: Path = _PROC) -> str:
    """The version of the loaded kernel driver, such as ``550.54.15``; empty without one."""
    try:
        text = (proc / "version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return found.group() if found else ""


def chosen_gpus(words: str, visible: list[Gpu]) -> list[Gpu]:
    """The GPUs that ``all`` or a list such as ``0,2`` means; the numbers count ``visible`` ones.

    Raises:
        ProviderUnavailable: there is none at all.
        NoSuchGpu: a number is none of them, or stands there twice, or is no number.
    """
    if not visible:
        raise ProviderUnavailable(
            "No GPU was found: neither nvidia-smi nor the driver lists one.",
            remedy="Check the driver with nvidia-smi; `homeward doctor` says what is missing.",
        )
    if words.strip() == "all":
        return visible
    places = [word.strip() for word in words.split(",")]
    good = [place for place in places if place.isdecimal() and int(place) < len(visible)]
    if good != places or len({int(place) for place in places}) < len(places):
        raise NoSuchGpu(
            f"{words!r} does not name GPUs of this machine, each once.",
            remedy=f"Say `all`, or numbers from 0 to {len(visible) - 1} such as 0,1.",
        )
    return [visible[int(place)] for place in places]


def environment_of(gpu: Gpu) -> dict[str, str]:
    """What a process has to be given so that it sees this GPU alone, as its number 0."""
    return {
        "CUDA_VISIBLE_DEVICES": gpu.name,
        **BUS_ORDER,
        "HOMEWARD_GPU_DEVICE": "0",
    }
