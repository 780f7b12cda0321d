"""Keys that data is encrypted with, each itself encrypted by a key that is not in the catalog."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from indexer.catalog.base import Base
from indexer.catalog.types import UtcDateTime


class DataKey(Base):
    """A data key wrapped by the key ``wrapped_by``; the newest that is not retired seals what is
    written, the others only open what was sealed before."""

    __tablename__ = "data_keys"

    data_key_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    wrapped_by: Mapped[str] = mapped_column(String(60))
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
