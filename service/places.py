"""Places for forms that are on their way: so many at a time, and so many for one sender.

Text forms are small and arrive at once. Whoever sends one by the byte holds a place of these and no
place of the uploads, and those who are not signed in hold none of those who are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from service.errors import Overloaded

FORM_SECONDS: Final = 15.0
"""How long the body of a text form may take."""


class Places:
    """At most ``limit`` at a time, of them ``each`` for one owner; for one event loop."""

    def __init__(self, limit: int, each: int) -> None:
        self._limit = limit
        self._each = each
        self._held: Counter[str] = Counter()

    @asynccontextmanager
    async def take(self, owner: str) -> AsyncIterator[None]:
        """Hold a place. Raises :class:`Overloaded` where none is free for this owner."""
        if self._held[owner] >= self._each or self._held.total() >= self._limit:
            if not self._held[owner]:
                del self._held[owner]
            raise Overloaded(
                "More forms are on their way than this service takes in at a time.",
                remedy="Wait a few seconds and send the form again.",
            )
        self._held[owner] += 1
        try:
            yield
        finally:
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]
