"""Whether the models run where the settings say, and on a GPU everything that this takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from models.errors import ProviderUnavailable
from service.config import Settings
from service.findings import Finding
from service.gpus import driver_version, visible_gpus

if TYPE_CHECKING:
    from models.libraries import GpuProvider

_RIVALS = (("onnxruntime", "onnxruntime-gpu"), ("faiss-cpu", "faiss-gpu"))
_GPU_LOCK = "Make a fresh environment from requirements-gpu.lock alone (docs/gpu.md)."
_DRIVER = "Install NVIDIA's driver, or a newer one; check it with nvidia-smi."


def examine_inference(settings: Settings) -> Iterator[Finding]:
    """Packages, provider and, where a GPU is asked for or its packages are there, the GPU."""
    for one, other in _RIVALS:
        if _version(one) and _version(other):
            detail = f"{one} and {other} are both installed; one overwrote files of the other"
            yield Finding("packages that exclude each other", False, detail, _GPU_LOCK)
    # Here, not above: loading the runtime is itself part of what may fail.
    try:
        import onnxruntime
    except ImportError as error:
        yield Finding(
            "inference",
            False,
            f"ONNX Runtime cannot be loaded: {error}",
            "Install the extra 'cpu' or the GPU requirements.",
        )
        return
    asked = settings.provider != "cpu"
    if asked or settings.vectors == "gpu" or _version("onnxruntime-gpu"):
        yield from _gpu(settings, asked=asked or settings.vectors == "gpu")
    there = ", ".join(onnxruntime.get_available_providers())
    yield _started(settings, there)


def _started(settings: Settings, there: str) -> Finding:
    from models.runtime import RUNTIME_FAILURES, condensed, try_provider

    try:
        try_provider(settings.runtime)
    except ProviderUnavailable as error:
        detail = f"{settings.provider} was asked for. {error.detail} There are: {there}"
        return Finding("inference", False, detail, error.remedy)
    except RUNTIME_FAILURES as error:
        detail = f"{settings.provider} started and then failed: {condensed(str(error))}"
        return Finding("inference", False, detail, _DRIVER)
    return Finding("inference", True, f"runs on {settings.provider}; there are: {there}")


def _gpu(settings: Settings, *, asked: bool) -> Iterator[Finding]:
    """Each thing that a GPU takes. Where none was asked for, what is missing is nothing wrong."""
    gpus = visible_gpus()
    named = ", ".join(f"{gpu.name} {gpu.model}".strip() for gpu in gpus) or "none was found"
    yield Finding("GPUs", bool(gpus) or not asked, named, _DRIVER)
    yield _driver(asked)
    if _version("onnxruntime-gpu") or _version("faiss-gpu"):
        yield _wheels()
    yield from _libraries(settings, asked)


def _driver(asked: bool) -> Finding:
    from models.libraries import driver_cuda_version, runtime_cuda_version

    loaded, runs, wanted = driver_version(), driver_cuda_version(), runtime_cuda_version()
    if runs is None:
        detail = "libcuda.so.1 cannot be loaded" + (f" (kernel driver {loaded})" if loaded else "")
        return Finding("GPU driver", not asked, detail, _DRIVER)
    needs = f"; ONNX Runtime has {wanted}" if wanted else ""
    detail = f"{loaded or 'version unknown'}, runs CUDA up to {runs}{needs}"
    # Within one major version an older driver runs newer libraries (NVIDIA, "CUDA
    # Compatibility": minor version compatibility).
    ok = not wanted or _major(runs) >= _major(wanted)
    return Finding("GPU driver", ok, detail, _DRIVER)


def _wheels() -> Finding:
    """Both libraries load CUDA into one process, so both have to be of one CUDA."""
    from models.libraries import runtime_cuda_version

    runtime = runtime_cuda_version()
    vectors = cuda_major_of(requires("faiss-gpu") or []) if _version("faiss-gpu") else None
    detail = (
        f"onnxruntime-gpu {_version('onnxruntime-gpu') or 'is not installed'}"
        f"{f' (CUDA {runtime})' if runtime else ''}, "
        f"faiss-gpu {_version('faiss-gpu') or 'is not installed'}"
        f"{f' (CUDA {vectors})' if vectors else ''}"
    )
    ok = not runtime or vectors is None or _major(runtime) == vectors
    return Finding("CUDA of the packages", ok, detail, _GPU_LOCK)


def _libraries(settings: Settings, asked: bool) -> Iterator[Finding]:
    from models.libraries import missing_libraries, provider_file

    chain: tuple[GpuProvider, ...] = ("cuda",)
    if settings.provider == "tensorrt":
        chain = ("cuda", "tensorrt")
    for provider in chain:
        if not provider_file(provider).is_file():
            continue
        missing = missing_libraries(provider)
        detail = ", ".join(f"{lack.name} from {lack.holder}" for lack in missing)
        yield Finding(
            f"libraries for {provider}",
            not missing or not asked,
            f"cannot be loaded: {detail}" if missing else "none is missing",
            "Install what is named, or all of requirements-gpu.lock (docs/gpu.md).",
        )


def cuda_major_of(requirements: list[str]) -> int | None:
    """The CUDA that a wheel's requirements name: ``nvidia-cuda-runtime-cu12``, or, from 13 on,
    ``nvidia-cuda-runtime`` with a version."""
    for text in requirements:
        found = re.match(r"nvidia-cuda-runtime(?:-cu(\d+)|\s*[(]?[~>=]=\s*(\d+))", text)
        if found:
            return int(found.group(1) or found.group(2))
    return None


def _major(dotted: str) -> int:
    return int(dotted.partition(".")[0])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
