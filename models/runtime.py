"""ONNX Runtime sessions, and the choice between processor and GPU.

A GPU that was asked for and is not there is an error at start. Nothing falls back in silence,
because a service that is twenty times slower than planned loses faces just as surely as a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import onnxruntime as ort

from models.errors import ProviderUnavailable

Provider = Literal["cpu", "cuda", "tensorrt"]

_PROVIDERS: Final[dict[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


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


def open_session(model: bytes, options: RuntimeOptions = ON_CPU) -> ort.InferenceSession:
    """One session for one model; share it between threads.

    The memory arena is off on the processor: it keeps the largest buffers of every shape that it
    has seen, and images come in every shape.

    Raises:
        ProviderUnavailable: the installed runtime has no such provider, or it did not start.
    """
    wanted = _PROVIDERS[options.provider]
    available = ort.get_available_providers()
    if wanted not in available:
        raise ProviderUnavailable(
            f"ONNX Runtime has no {wanted} here (it has {', '.join(available)}).",
            remedy="Install onnxruntime-gpu with its CUDA libraries, or choose the provider cpu.",
        )
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, settings, providers=[wanted])
    if session.get_providers()[0] != wanted:
        raise ProviderUnavailable(
            f"{wanted} did not start; ONNX Runtime would have used {session.get_providers()[0]}.",
            remedy="Run `homeward doctor` to see which library is missing.",
        )
    return session
