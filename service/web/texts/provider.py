"""The words of signing in with a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PROVIDER_TEXTS: Final[Mapping[str, str]] = {
    "provider.begin": "Sign in with {name}",
    "provider.code.title": "One more step",
    "provider.code.why": (
        "You are signed in at the provider. Now give a code from your authenticator, or one of "
        "your recovery codes."
    ),
    "provider.code.label": "Code",
    "provider.code.submit": "Go on",
    "provider.code.wrong": (
        "The code is not right, is too old or was used already, or there were too many tries. Wait "
        "for the next code and type that one."
    ),
    "provider.code.over": "That took too long. Begin again.",
    "provider.done.title": "You are signed in",
    "provider.done.go": "Go on",
}
