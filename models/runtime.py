"""ONNX Runtime sessions, and the choice between processor and GPU.

A GPU that was asked for and is not there is an error at start. Nothing falls back in silence,
because a service that is twenty times slower than planned loses faces just as surely as a crash.

What is written here for GPUs was run as far as the loading of ONNX Runtime's and NVIDIA's
libraries and the reading of every CUDA option; no machine with a GPU was at hand.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_state

from models import libraries
from models.errors import GpuLost, InferenceFailed, ProviderUnavailable
from models.libraries import GpuProvider

Provider = Literal["cpu", "cuda", "tensorrt"]

CPU_NAME: Final = "CPUExecutionProvider"
_PROVIDERS: Final[dict[str, str]] = {
    "cpu": CPU_NAME,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

RUNTIME_FAILURES: Final[tuple[type[Exception], ...]] = (
    RuntimeError,
    ort_state.Fail,
    ort_state.EPFail,
    ort_state.RuntimeException,
    ort_state.NotImplemented,
)
"""What ONNX Runtime raises where a provider fails; the others are about the model or its input."""

_NO_ANSWER: Final[tuple[type[Exception], ...]] = (ProviderUnavailable, *RUNTIME_FAILURES)

_log = logging.getLogger(__name__)
_lost = threading.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Where models run. ``threads`` inside one model run (0: one for each core).

    On a GPU: ``device`` is its number, ``memory_bytes`` the most that one session may take of it
    (0: no bound), ``engine_cache`` the folder in which TensorRT keeps what it compiled.
    """

    provider: Provider = "cpu"
    threads: int = 0
    device: int = 0
    memory_bytes: int = 0
    engine_cache: Path | None = None


ON_CPU: Final = RuntimeOptions()


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The least, the usual and the largest shape of an input; TensorRT compiles for these."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]


Shapes = Mapping[str, ShapeRange]
"""The range of each input of a model, by its name."""


def open_session(
    model: bytes, options: RuntimeOptions = ON_CPU, *, shapes: Shapes | None = None
) -> ort.InferenceSession:
    """One session for one model; share it between threads.

    ``shapes`` bounds the inputs for TensorRT. A model without bounds, such as a detector that
    takes images of every size, runs on CUDA there, and the log says so: TensorRT would compile it
    anew, for minutes, with each size that it has not seen.

    The memory arena is off on the processor: it keeps the largest buffers of every shape that it
    has seen, and images come in every shape.

    Raises:
        ProviderUnavailable: the installed runtime has no such provider, or it did not start; the
            detail says why, as far as that can be found out. As InferenceFailed: it started, and
            this model was too much for it.
        Exception: ONNX Runtime's own, where it cannot use the model itself, on any provider.
    """
    try:
        session, chain = _open(model, options, shapes)
    except RUNTIME_FAILURES as error:
        if options.provider == "cpu":
            raise
        # A provider that runs another model did start: then it is this model, or the room for it.
        if not _runs_something(options):
            raise _did_not_start(options.provider, str(error)) from error
        if speaks_of_gpu(str(error)):
            raise gpu_failure(options, str(error)) from error
        raise
    running = session.get_providers()
    if running[: len(chain)] != chain:
        if options.provider == "cpu":
            raise ProviderUnavailable(f"ONNX Runtime chose {', '.join(running)} by itself.")
        raise _did_not_start(options.provider, "")
    session.disable_fallback()
    _say_where(session, options, shapes)
    return session


def _open(
    model: bytes, options: RuntimeOptions, shapes: Shapes | None
) -> tuple[ort.InferenceSession, list[str]]:
    """A session, and the names of the providers that it was to have. Raises ONNX Runtime's own."""
    require_provider(options.provider)
    chain = provider_chain(options, model, shapes=shapes)
    if options.provider != "cpu":
        libraries.preload(options.provider)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.provider != "cpu":
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Without `enable_fallback=0` it would print the error and go on with the processor.
    session = ort.InferenceSession(model, settings, providers=chain, enable_fallback=0)
    return session, [name for name, _ in chain]


def provider_chain(
    options: RuntimeOptions, model: bytes = b"", *, shapes: Shapes | None = None
) -> list[tuple[str, dict[str, str]]]:
    """Providers in order of preference, each with its options, as ONNX Runtime takes them.

    ``model`` tells models apart in TensorRT's folder of compiled engines.
    """
    if options.provider == "cpu":
        return [(CPU_NAME, {})]
    cuda = (_PROVIDERS["cuda"], _cuda_options(options))
    if options.provider == "cuda" or shapes is None:
        return [cuda]
    return [(_PROVIDERS["tensorrt"], _tensorrt_options(options, model, shapes)), cuda]


def _cuda_options(options: RuntimeOptions) -> dict[str, str]:
    given = {
        "device_id": str(options.device),
        # Doubling, the default, soon holds twice what was ever needed at once.
        "arena_extend_strategy": "kSameAsRequested",
        # The default measures every algorithm for each new shape: images come in every size. And
        # a choice by measurement differs between two starts, and with it the last bits of vectors.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Ten bits of mantissa: vectors made on a processor and on a GPU meet in one gallery.
        "use_tf32": "0",
        # Workspace comes out of the arena; where that is bounded, at most 32 MiB of it.
        "cudnn_conv_use_max_workspace": "0" if options.memory_bytes else "1",
        "do_copy_in_default_stream": "1",
    }
    if options.memory_bytes:
        given["gpu_mem_limit"] = str(options.memory_bytes)
    return given


def _tensorrt_options(options: RuntimeOptions, model: bytes, shapes: Shapes) -> dict[str, str]:
    # Its booleans are True and False alone: another parser than CUDA's, which takes 0 and 1 too.
    given = {
        "device_id": str(options.device),
        # Half precision moves vectors; what it does to a pack has to be measured first.
        "trt_fp16_enable": "False",
        "trt_profile_min_shapes": _profile({name: r.least for name, r in shapes.items()}),
        "trt_profile_opt_shapes": _profile({name: r.usual for name, r in shapes.items()}),
        "trt_profile_max_shapes": _profile({name: r.largest for name, r in shapes.items()}),
    }
    if options.memory_bytes:
        given["trt_max_workspace_size"] = str(options.memory_bytes)
    if options.engine_cache is not None:
        folder = str(engine_folder(options.engine_cache, model))
        given |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
        }
    return given


def _profile(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def engine_folder(cache: Path, model: bytes) -> Path:
    """Where the engines of one model lie, made if it is not there.

    ONNX Runtime names an engine after the names in the graph, not after its weights: two models
    of one architecture would be taken for each other. So each has a folder of its own, and each
    version of the two libraries has one, since engines of another are refused or worse.
    """
    built_by = f"onnxruntime-{ort.__version__}-tensorrt-{_tensorrt_version()}"
    folder = cache / built_by / hashlib.sha256(model).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _tensorrt_version() -> str:
    for name in ("tensorrt-cu12-libs", "tensorrt-cu12", "tensorrt"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def require_provider(provider: Provider) -> None:
    """Raise :class:`ProviderUnavailable` where ONNX Runtime was built without ``provider``."""
    wanted = _PROVIDERS[provider]
    available = ort.get_available_providers()
    if wanted in available:
        return
    if libraries.both_runtimes_installed():
        raise ProviderUnavailable(
            f"ONNX Runtime has no {wanted} here, because onnxruntime and onnxruntime-gpu are both "
            "installed and the one overwrote files of the other.",
            remedy="Make a fresh environment from requirements-gpu.lock alone (docs/gpu.md).",
        )
    raise ProviderUnavailable(
        f"ONNX Runtime has no {wanted} here (it has {', '.join(available)}).",
        remedy="Install from requirements-gpu.lock (docs/gpu.md), or set HOMEWARD_PROVIDER=cpu.",
    )


def _did_not_start(provider: GpuProvider, error: str) -> ProviderUnavailable:
    reason = why_not(provider, error)
    return ProviderUnavailable(
        f"{_PROVIDERS[provider]} did not start: {reason}",
        remedy="`homeward doctor` lists driver, libraries and versions; docs/gpu.md says what "
        "has to be installed.",
    )


def why_not(provider: GpuProvider, error: str = "") -> str:
    """Why a provider does not start: the libraries that are missing, else what it said itself.

    ``error`` is ONNX Runtime's own message, in which names of its source files and functions
    surround the part that helps.
    """
    missing = [lack for each in _chain(provider) for lack in libraries.missing_libraries(each)]
    if missing:
        # Both providers need CUDA's libraries.
        names = dict.fromkeys(f"{lack.name} (from {lack.holder})" for lack in missing)
        return f"these libraries cannot be loaded: {', '.join(names)}."
    if libraries.driver_cuda_version() is None:
        return "the NVIDIA driver (libcuda.so.1) is not installed, or cannot be loaded."
    return condensed(error) or "it gave no reason."


def condensed(error: str) -> str:
    """The part of ONNX Runtime's message that helps; empty for none."""
    failure = re.search(r"(CUDA|CUDNN|CUBLAS) failure (\d+): ([^;]+)", error)
    if failure:
        return f"{failure.group(1)} error {failure.group(2)}, {failure.group(3).strip()}."
    told = error.rpartition(" : ")[2].strip()[:300].rstrip(".")
    return f"{told}." if told else ""


def speaks_of_gpu(error: str) -> bool:
    """Whether ONNX Runtime's message is about the GPU or its memory, not about the model."""
    return (
        re.search(r"(?i)(cuda|cudnn|cublas) (failure|error)|allocat|out of memory", error)
        is not None
    )


def _chain(provider: GpuProvider) -> tuple[GpuProvider, ...]:
    return ("tensorrt", "cuda") if provider == "tensorrt" else ("cuda",)


def _say_where(
    session: ort.InferenceSession, options: RuntimeOptions, shapes: Shapes | None
) -> None:
    """Write to the log what does not run where it was asked to."""
    if options.provider == "cpu":
        return
    if options.provider == "tensorrt" and shapes is None:
        _log.warning("A model with inputs of every size runs on CUDA, not on TensorRT.")
    placed = placement(session)
    rest = {name: count for name, count in placed.items() if name != session.get_providers()[0]}
    if rest:
        _log.warning(
            "Of %d nodes of a model, these do not run on %s: %s.",
            sum(placed.values()),
            session.get_providers()[0],
            ", ".join(f"{count} on {name}" for name, count in sorted(rest.items())),
        )


def placement(session: ort.InferenceSession) -> dict[str, int]:
    """How many nodes of the graph each provider runs; empty where it was not recorded."""
    try:
        parts: Any = session.get_provider_graph_assignment_info()
    except RUNTIME_FAILURES:
        return {}
    counts: Counter[str] = Counter()
    for part in parts:
        counts[str(part.ep_name)] += len(part.get_nodes())
    return dict(counts)


def gpu_of(session: ort.InferenceSession) -> int | None:
    """The number of the GPU that a session runs on, or ``None`` for the processor."""
    name = session.get_providers()[0]
    if name == CPU_NAME:
        return None
    return int(session.get_provider_options()[name].get("device_id", 0))


def shrinking(session: ort.InferenceSession) -> ort.RunOptions | None:
    """Options of a run after which the GPU's memory goes back; ``None`` on the processor.

    For models whose inputs change their size with each run: the arena would otherwise keep
    pieces of every size. It costs an allocation in the next run, so models of a few shapes go
    without.
    """
    gpu = gpu_of(session)
    if gpu is None:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{gpu}")
    return options


# --- a GPU that fails ------------------------------------------------------------------------


@contextmanager
def loud(session: ort.InferenceSession) -> Iterator[None]:
    """Say in the project's words that a GPU failed while ``session`` ran.

    Raises:
        GpuLost: it does not answer any more; :func:`gpu_lost` is true from then on.
        InferenceFailed: it goes on with other inputs, so that one was too much for it.
    """
    try:
        yield
    except RUNTIME_FAILURES as error:
        gpu = gpu_of(session)
        if gpu is None:
            raise
        raise gpu_failure(RuntimeOptions(provider="cuda", device=gpu), str(error)) from error


def gpu_failure(options: RuntimeOptions, error: str) -> InferenceFailed:
    """The error to raise for a run that failed, after asking the GPU for something very small."""
    told = condensed(error) or "it gave no reason."
    if answers(options):
        return InferenceFailed(
            f"GPU {options.device} failed while a model ran: {told}",
            remedy="Mostly its memory was too small: see it with nvidia-smi, run fewer processes "
            "on it, or set HOMEWARD_GPU_MEMORY_GB.",
        )
    _lost.set()
    return GpuLost(
        f"GPU {options.device} does not answer any more: {told}",
        remedy="Start this process again; `homeward worker` does so by itself. If it comes back, "
        "look at the system's log for the driver's words (Xid).",
    )


def gpu_lost() -> bool:
    """Whether a GPU stopped answering this process, which then has to be started again."""
    return _lost.is_set()


def answers(options: RuntimeOptions) -> bool:
    """Whether a very small model runs there, in a session of its own."""
    try:
        try_provider(options)
    except _NO_ANSWER:
        return False
    return True


def try_provider(options: RuntimeOptions) -> None:
    """Run a very small model there, in a session of its own.

    Raises:
        ProviderUnavailable: it does not start, or answers wrongly.
        RuntimeError, or another of ``RUNTIME_FAILURES``: it started and failed.
    """
    # Bounded, so that TensorRT runs it where it was asked for.
    session = open_session(_very_small(), replace(options, engine_cache=None), shapes=_ONE)
    _require_answer(session, options)


_ONE: Final = {"x": ShapeRange((1,), (1,), (1,))}


def _very_small() -> bytes:
    """A model that gives the negative of each number."""
    # Here, because it takes long to import and is hardly ever needed.
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "very small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _require_answer(session: ort.InferenceSession, options: RuntimeOptions) -> None:
    (answer,) = session.run(["y"], {"x": np.ones(1, dtype=np.float32)})
    if float(answer[0]) != -1.0:
        raise ProviderUnavailable(f"{options.provider} computes wrongly: -1 came out as {answer}.")


def _runs_something(options: RuntimeOptions) -> bool:
    """Whether the provider starts and runs a very small model. Unlike :func:`answers` it does not
    ask why not, and so can be asked while that is being found out."""
    try:
        session, chain = _open(_very_small(), replace(options, engine_cache=None), _ONE)
        if session.get_providers()[: len(chain)] != chain:
            return False
        _require_answer(session, options)
    except _NO_ANSWER:
        return False
    return True
