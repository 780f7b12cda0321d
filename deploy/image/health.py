"""Whether the container works: `serve` has to answer; other commands end it where they fail.

Runs beside the service, without its packages, so it reads the address where the service does: from
the options of the first process, else from the environment.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 5

# What listens on all addresses is asked on the one of this machine.
_ALL = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def serves(words: list[str]) -> bool:
    """Whether the words of a process start the service."""
    return "serve" in words or "demo" in words


def option(words: list[str], name: str) -> str | None:
    """The value of ``--name VALUE`` or ``--name=VALUE``; the last one counts."""
    found = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            found = following
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def address(words: list[str], environment: Mapping[str, str]) -> str:
    """Host and port that the service was told to listen on, as they stand in a URL."""
    host = option(words, "--host") or environment.get("HOMEWARD_HOST", "127.0.0.1")
    port = option(words, "--port") or environment.get("HOMEWARD_PORT", "8000")
    host = _ALL.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ready(where: str) -> bool:
    """Whether the service at this address says that it is ready."""
    # No proxy of the environment is meant for it.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{where}/readyz", timeout=TIMEOUT_S) as answer:
            return int(answer.status) == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def main(first_process: Path = Path("/proc/1/cmdline")) -> int:
    try:
        # Each word is ended by a zero byte.
        words = os.fsdecode(first_process.read_bytes()).split("\0")
    except OSError:
        return 1
    if not serves(words):
        return 0
    return 0 if ready(address(words, os.environ)) else 1


if __name__ == "__main__":
    sys.exit(main())
