"""ONNX Runtime sessions, and the choice between processor and GPU.

A GPU that was asked for and is not there is an error at start. Nothing falls back in silence,
because a service that is twenty times slower than planned loses faces just as surely as a crash.
"""

from __future__ import annotations

from typing import Final, Literal

import onnxruntime as ort

from models.errors import ProviderUnavailable

Provider = Literal["cpu", "cuda"]

_PROVIDERS: Final[dict[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}


def open_session(
    model: bytes, *, provider: Provider = "cpu", threads: int = 0
) -> ort.InferenceSession:
    """One session for one model; share it between threads.

    ``threads`` is the number of threads inside one run (0: one for each core). The memory arena is
    off on the processor: it keeps the largest buffers of every shape that it has seen, and images
    come in every shape.

    Raises:
        ProviderUnavailable: the installed runtime has no such provider, or it did not start.
    """
    wanted = _PROVIDERS[provider]
    available = ort.get_available_providers()
    if wanted not in available:
        raise ProviderUnavailable(
            f"ONNX Runtime has no {wanted} here (it has {', '.join(available)}).",
            remedy="Install onnxruntime-gpu with its CUDA libraries, or choose the provider cpu.",
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=[wanted])
    if session.get_providers()[0] != wanted:
        raise ProviderUnavailable(
            f"{wanted} did not start; ONNX Runtime would have used {session.get_providers()[0]}.",
            remedy="Run `homeward doctor` to see which library is missing.",
        )
    return session
