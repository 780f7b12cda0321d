"""Coverage-guided fuzzing of the image decoder.

    python -m tests.fuzz.fuzz_decode -max_total_time=120 CORPUS

The arguments are libFuzzer's; without a corpus folder the seeds are mutated in memory. The
Python code is instrumented; the libraries below it are only driven. A failing input is left
as ``crash-*`` in the working folder.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["models.decode", "models.decoding"]):
    import models.decode  # noqa: F401  (imported here to be instrumented)

from models.decode import DecodeLimits
from tests.fuzz.mutations import LIMITS, check, mend_png, seeds

_LENIENT = DecodeLimits(LIMITS.max_bytes, LIMITS.max_pixels, allow_truncated=True)


def one_input(data: bytes) -> None:
    """One run: the bytes strictly, and leniently where that differs."""
    if check(data) == "image_truncated":
        check(data, _LENIENT)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutation; then, often, a splice of two seeds or mended checksums."""
    rng = random.Random(seed)
    if rng.random() < 0.05:
        one, other = rng.choices(list(seeds().values()), k=2)
        data = one[: rng.randrange(len(one))] + other[rng.randrange(len(other)) :]
    changed = bytes(atheris.Mutate(data, max_size))
    return mend_png(changed) if rng.random() < 0.9 else changed


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not any(not argument.startswith("-") for argument in arguments[1:]):
            arguments = [*arguments, folder]
            for name, data in seeds().items():
                Path(folder, name).write_bytes(data)
        atheris.Setup(
            [*arguments, "-max_len=65536", "-rss_limit_mb=3000", "-timeout=20"],
            one_input,
            custom_mutator=mutate,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
