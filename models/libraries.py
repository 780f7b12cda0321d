"""Shared libraries that a GPU provider of ONNX Runtime needs: which, and which cannot be loaded.

ONNX Runtime says little where a provider does not start: it goes on without it and writes one line
to standard error, naming the first library only. Here all of them are read from the provider's own
file and tried one by one.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import io
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import onnxruntime as ort

GpuProvider = Literal["cuda", "tensorrt"]

_FILES: Final[dict[GpuProvider, str]] = {
    "cuda": "libonnxruntime_providers_cuda.so",
    "tensorrt": "libonnxruntime_providers_tensorrt.so",
}

# Beginning of a library's name, and the wheel that holds it on a machine with CUDA {major}.
_HOLDERS: Final = {
    "libcuda.": "the NVIDIA driver",
    "libcudart.": "nvidia-cuda-runtime-cu{major}",
    "libcublas": "nvidia-cublas-cu{major}",
    "libcudnn": "nvidia-cudnn-cu{major}",
    "libcufft": "nvidia-cufft-cu{major}",
    "libcurand": "nvidia-curand-cu{major}",
    "libnvrtc": "nvidia-cuda-nvrtc-cu{major}",
    "libnvinfer": "tensorrt-cu{major}-libs",
    "libnvonnxparser": "tensorrt-cu{major}-libs",
}

_MOST_DYNAMIC: Final = 1 << 20
"""Bytes of a dynamic section that are read; real ones have a few hundred."""

_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class MissingLibrary:
    """A library that cannot be loaded: ``reason`` in the loader's words, ``holder`` what has it."""

    name: str
    reason: str
    holder: str


class NotElf(ValueError):
    """The file is no 64-bit little-endian ELF file with a dynamic section."""


def needed(path: Path) -> tuple[str, ...]:
    """The libraries that a shared library names as needed (``DT_NEEDED``), in its order.

    What ``readelf -d`` shows, without needing it. Layout: System V ABI, "Program Header" and
    "Dynamic Section", and its AMD64 supplement.

    Raises:
        NotElf: the file is something else, or cut short.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return tuple(_needed(file))
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise NotElf(f"{path.name}: {error}") from error


def _needed(file: io.BufferedReader) -> list[str]:
    header = file.read(64)
    if header[:6] != b"\x7fELF\x02\x01":
        raise NotElf("no 64-bit little-endian ELF file")
    (start,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    segments: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    for number in range(count):
        file.seek(start + number * size)
        kind, _, offset, address, _, length = struct.unpack("<IIQQQQ", file.read(40))
        if kind == 1:  # PT_LOAD
            segments.append((address, offset, length))
        elif kind == 2:  # PT_DYNAMIC
            dynamic = (offset, length)
    if dynamic is None:
        raise NotElf("no dynamic section")
    file.seek(dynamic[0])
    data = file.read(min(dynamic[1], _MOST_DYNAMIC))
    entries = [struct.unpack_from("<QQ", data, at) for at in range(0, len(data) - 15, 16)]
    tables = [value for tag, value in entries if tag == 5]  # DT_STRTAB
    if not tables:
        return []
    strings = next((o + tables[0] - a for a, o, n in segments if a <= tables[0] < a + n), None)
    if strings is None:
        raise NotElf("the names lie outside of what is loaded")
    names = []
    for tag, value in entries:
        if tag == 0:  # DT_NULL
            break
        if tag == 1:  # DT_NEEDED
            file.seek(strings + value)
            names.append(file.read(256).split(b"\0", 1)[0].decode("ascii"))
    return names


def runtime_cuda_version() -> str:
    """The CUDA that this ONNX Runtime was built with, such as ``12.8``; empty without CUDA."""
    try:
        from onnxruntime.capi import build_and_package_info
    except ImportError:
        return ""
    return str(getattr(build_and_package_info, "cuda_version", "") or "")


def provider_file(provider: GpuProvider) -> Path:
    """Where ONNX Runtime keeps the library of a provider, whether it is there or not."""
    return Path(ort.__file__).parent / "capi" / _FILES[provider]


def preload(provider: GpuProvider) -> None:
    """Load NVIDIA's libraries from their wheels, since the system's loader does not look there.

    Does nothing where the wheels are not installed; what is missing then is said by
    :func:`missing_libraries`.
    """
    with _loading:
        # It prints what it does not find, and that may be somebody's JSON.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(RuntimeError):
            ort.preload_dlls()
        if provider == "tensorrt":
            for path in _tensorrt_files():
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(path))


def _tensorrt_files() -> list[Path]:
    """The libraries of TensorRT's wheel that ONNX Runtime names, in the order of their needs."""
    spec = importlib.util.find_spec("tensorrt_libs")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0])
    return [*folder.glob("libnvinfer.so.*"), *folder.glob("libnvonnxparser.so.*")]


def missing_libraries(provider: GpuProvider) -> list[MissingLibrary]:
    """Every library that the provider needs and that cannot be loaded into this process.

    Empty also where ONNX Runtime has no such provider at all.
    """
    file = provider_file(provider)
    if not file.is_file():
        return []
    preload(provider)
    return unloadable(needed(file), runtime_cuda_version().partition(".")[0] or "12")


def unloadable(names: tuple[str, ...], cuda_major: str) -> list[MissingLibrary]:
    """Those of ``names`` that the loader refuses, each with its reason."""
    found = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            found.append(MissingLibrary(name, str(error), holder(name, cuda_major)))
    return found


def holder(name: str, cuda_major: str) -> str:
    """What brings the library ``name``: a wheel, the driver, or the system."""
    for beginning, what in _HOLDERS.items():
        if name.startswith(beginning):
            return what.format(major=cuda_major)
    return "the operating system"


def driver_cuda_version() -> str | None:
    """The newest CUDA that the installed driver runs, such as ``12.8``; ``None`` without one.

    From ``cuDriverGetVersion``, which counts 1000 for a major and 10 for a minor version (CUDA
    Driver API, "Version Management").
    """
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
        number = ctypes.c_int(0)
        if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def both_runtimes_installed() -> bool:
    """Whether ``onnxruntime`` and ``onnxruntime-gpu`` are both installed, and so both broken."""
    return all(_installed(name) for name in ("onnxruntime", "onnxruntime-gpu"))


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
