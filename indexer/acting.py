"""Who acts, and through which door: known at the border, needed where the act is recorded.

Every request, command and job begins with :func:`begin`, which puts one :class:`Acting` into the
context; whoever authenticates the caller fills it in. It is one object for the whole request, so
that what a thread of the pool or a dependency learns is known everywhere in it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

ActorKind = Literal["user", "key", "cli", "system", "nobody"]
Channel = Literal["api", "web", "cli", "system"]


@dataclass(slots=True)
class Acting:
    """``actor``: the id of a person or key, ``cli:<account>`` or the name of a part of Homeward.

    ``agency`` is None for those who work for all agencies. ``recorded``: the outcome of
    the last act of this request that is in the audit log already; ``refused``: the code of the
    error that was answered; ``noted``: what goes into the record of a read (:func:`note`).
    """

    channel: Channel = "system"
    kind: ActorKind = "system"
    actor: str = "system"
    agency: str | None = None
    request_id: str | None = None
    purpose: str | None = None
    recorded: str = ""
    refused: str | None = None
    noted: dict[str, Any] = field(default_factory=dict)


_current: ContextVar[Acting] = ContextVar("homeward_acting")


def acting() -> Acting:
    """Whoever acts now; Homeward itself where nobody asked for it."""
    found = _current.get(None)
    return Acting() if found is None else found


@contextmanager
def begin(who: Acting) -> Generator[Acting]:
    """Everything within is done by ``who``."""
    token = _current.set(who)
    try:
        yield who
    finally:
        _current.reset(token)


def note(**facts: str | int | float | bool | list[str] | None) -> None:
    """Add to the record of the read that is going on: ids, figures and words of fixed lists, never
    what a person wrote. ``case_id``, ``purpose`` and ``outcome`` become columns of their own."""
    acting().noted.update(facts)
