"""Keys that data is encrypted with, each itself encrypted by a key that is not in the catalog."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from indexer.catalog.base import Base, Id
from indexer.catalog.types import UtcDateTime


class DataKey(Base):
    """A data key wrapped by the outer key ``wrapped_by``.

    ``purpose``: of the keys for ``seal`` the newest that is not retired seals what is written, the
    others only open what was sealed before; the one for ``lookup`` is never changed. ``seals``: how
    many values it has sealed, nearly.
    """

    __tablename__ = "data_keys"
    __table_args__ = (CheckConstraint("purpose IN ('seal', 'lookup')", name="purpose"),)

    data_key_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(10))
    wrapped_by: Mapped[str] = mapped_column(String(60))
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    seals: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class SealingWork(Base):
    """All that is stored being sealed with the key ``data_key_id``, and how far that is.

    ``part`` and ``after``: what it is at, and the last row or file there that is done. ``plain``:
    proof that what is not sealed may be read until this ends.
    """

    __tablename__ = "sealing_works"

    work_id: Mapped[str] = mapped_column(Id, primary_key=True)
    data_key_id: Mapped[str] = mapped_column(String(16))
    part: Mapped[str] = mapped_column(String(60), default="")
    after: Mapped[str] = mapped_column(Text, default="")
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    plain: Mapped[bytes | None] = mapped_column(LargeBinary)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
