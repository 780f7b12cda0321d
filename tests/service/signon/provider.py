"""A real OpenID Connect provider on loopback, in a process of its own, and a browser at it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2

from tests.service.processes import wait_until


@contextmanager
def provider_running(*people: Mapping[str, Any], token_seconds: int = 3_600) -> Iterator[str]:
    """Its issuer. ``people``: claims, with ``sub``. Its warnings stay in its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [f"--user-claims={json.dumps(claims)}" for claims in people]
    process = subprocess.Popen(
        [
            sys.executable,
            *("-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)),
            *("--require-nonce", "true", "--token-max-age", str(token_seconds), *words),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    issuer = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, "the provider stopped"
        try:
            return httpx2.get(f"{issuer}/jwks").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(answers)
        yield issuer
    finally:
        process.terminate()
        process.wait(30)


def consent(address: str, subject: str) -> dict[str, str]:
    """What the provider sends back, once the person has said yes there."""
    answer = httpx2.post(address, data={"sub": subject}, follow_redirects=False)
    assert answer.status_code == 302, answer.text[:300]
    return fields_of(answer.headers["location"])


def refuse(address: str) -> dict[str, str]:
    """What the provider sends back where the person says no."""
    answer = httpx2.post(address, data={"action": "deny"}, follow_redirects=False)
    assert answer.status_code == 302, answer.text[:300]
    return fields_of(answer.headers["location"])


def fields_of(address: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
