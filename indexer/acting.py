"""Who acts, and through which door: known at the border, needed where the act is recorded.

Every request, command and job begins with :func:`begin`, which puts one :class:`Acting` into the
context; whoever authenticates the caller fills it in. It is one object for the whole request, so
that what a thread of the pool or a dependency learns is known everywhere in it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

ActorKind = Literal["user", "key", "cli", "system", "nobody"]
Channel = Literal["api", "web", "cli", "system"]


@dataclass(slots=True)
class Acting:
    """``actor``: the id of a person or key, ``cli:<account>`` or the name of a part of Homeward.

    ``agency`` is None for those who work for all agencies.
    """

    channel: Channel = "system"
    kind: ActorKind = "system"
    actor: str = "system"
    agency: str | None = None
    request_id: str | None = None
    purpose: str | None = None


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
