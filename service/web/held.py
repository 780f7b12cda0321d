"""Photos that wait for a person's choice, held in memory only, for minutes, under bounds.

A photo with several faces has to be shown before one of them is chosen, and a photo that is
searched with is shown beside its candidates without being kept. Neither touches the disk: what is
held here is gone with the process, and nothing of it has to be purged.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Final, Literal

from indexer.blobs import sha256_hex
from indexer.records import FaceSummary, SearchFilter
from indexer.withheld.checks import NO_DIGESTS, Digests
from models.errors import HomewardError
from service.web.pictures import Examined

HOLD_SECONDS: Final = 15 * 60
MAX_BYTES: Final = 256_000_000
MAX_FOR_ONE: Final = 8
"""Photos that one session may have waiting; the oldest gives way."""


class HeldPhotoGone(HomewardError):
    """The photo was held too long ago, or belongs to somebody else."""

    code = "held_photo_gone"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was typed beside the photo."""

    taken_on: date | None = None
    purpose: str = ""
    purpose_note: str | None = None
    filters: SearchFilter = field(default_factory=SearchFilter)


@dataclass(frozen=True, slots=True)
class HeldPhoto:
    """One photo that waits. ``data`` is empty where only its pictures are still shown.

    ``preview`` and ``crops`` are JPEG files: the photo with its numbered boxes, and its faces.
    """

    held_id: str
    session_id: str
    case_id: str
    aim: Literal["enrol", "search"]
    data: bytes = field(repr=False)
    filename: str | None
    faces: tuple[FaceSummary, ...]
    preview: bytes = field(repr=False)
    crops: tuple[bytes, ...] = field(repr=False)
    sha256: str
    wishes: Wishes = Wishes()
    digests: Digests = NO_DIGESTS

    @classmethod
    def of(
        cls,
        found: Examined,
        session_id: str,
        case_id: str,
        aim: Literal["enrol", "search"],
        data: bytes,
        filename: str | None,
        wishes: Wishes,
    ) -> HeldPhoto:
        """A photo that was just examined, under a new id; it is not held before ``Held.put``."""
        return cls(
            held_id=Held.new_id(),
            session_id=session_id,
            case_id=case_id,
            aim=aim,
            data=data,
            filename=filename,
            faces=found.faces,
            preview=found.preview,
            crops=found.crops,
            sha256=sha256_hex(data),
            wishes=wishes,
            digests=found.digests,
        )

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.data) + len(self.preview) + sum(len(crop) for crop in self.crops)


class Held:
    """All photos that wait, of all sessions."""

    def __init__(
        self, *, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._photos: OrderedDict[str, tuple[float, HeldPhoto]] = OrderedDict()

    @staticmethod
    def new_id() -> str:
        """An id that cannot be guessed."""
        return secrets.token_urlsafe(16)

    def put(self, photo: HeldPhoto) -> None:
        """Hold a photo; the oldest ones give way where a bound is reached."""
        with self._lock:
            self._sweep()
            mine = [i for i, (_, p) in self._photos.items() if p.session_id == photo.session_id]
            for held_id in mine[: max(0, len(mine) - MAX_FOR_ONE + 1)]:
                del self._photos[held_id]
            while self._photos and self._size() + photo.size > self._max_bytes:
                self._photos.popitem(last=False)
            self._photos[photo.held_id] = (self._clock() + HOLD_SECONDS, photo)

    def get(self, held_id: str, session_id: str) -> HeldPhoto:
        """A photo of this session. Raises :class:`HeldPhotoGone`."""
        with self._lock:
            self._sweep()
            found = self._photos.get(held_id)
        if found is None or found[1].session_id != session_id:
            raise HeldPhotoGone(
                "The photo that was waiting here is no longer held.",
                remedy="Go back to the case and choose the file again.",
            )
        return found[1]

    def drop(self, held_id: str) -> None:
        """Let go of a photo that is dealt with."""
        with self._lock:
            self._photos.pop(held_id, None)

    def drop_where(self, *, session_id: str | None = None, case_id: str | None = None) -> None:
        """Let go of everything of a session that ends, or of a case that does."""
        with self._lock:
            for held_id, (_, photo) in list(self._photos.items()):
                if photo.session_id == session_id or photo.case_id == case_id:
                    del self._photos[held_id]

    def _sweep(self) -> None:
        now = self._clock()
        for held_id in [i for i, (until, _) in self._photos.items() if until <= now]:
            del self._photos[held_id]

    def _size(self) -> int:
        return sum(photo.size for _, photo in self._photos.values())
