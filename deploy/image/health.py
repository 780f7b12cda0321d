"""Whether the container works: `serve` has to answer; other commands end it where they fail."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_S = 5


def serves(command_line: bytes) -> bool:
    """Whether the words of a process, each ended by a zero byte, start the service."""
    words = command_line.split(b"\0")
    return b"serve" in words or b"demo" in words


def ready(port: str) -> bool:
    """Whether the service on this port says that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_S) as answer:
            return int(answer.status) == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def main(first_process: Path = Path("/proc/1/cmdline")) -> int:
    try:
        if not serves(first_process.read_bytes()):
            return 0
    except OSError:
        return 1
    return 0 if ready(os.environ.get("HOMEWARD_PORT", "8000")) else 1


if __name__ == "__main__":
    sys.exit(main())
