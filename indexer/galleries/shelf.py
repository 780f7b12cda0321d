"""The published segments of one gallery in one index folder: rows of the catalog that name files.

A shelf says which segments hold the gallery up to one entry of its log. It is changed in one
transaction, after the files it names are safe on disk; a file that it does not name is nobody's.
Another folder, of another machine on the same catalog, has a shelf of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.orm import Session

from indexer.catalog import Catalog
from indexer.catalog.tables import CatalogIdentity, GallerySegment, GalleryShelf
from indexer.files import file_lock, storage_errors, write_atomic
from indexer.ids import new_id, random_id
from indexer.times import utc_now
from indexer.vectors.segment import History

_STORE = "store"


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is published: ``segments`` by name, good up to ``upto``; ``version`` of this set."""

    segments: tuple[str, ...]
    upto: History
    version: int


@dataclass(frozen=True, slots=True)
class Place:
    """Whose shelf: an index folder, a gallery and a contract."""

    store_id: str
    gallery: str
    contract_id: str


def store_id(folder: Path) -> str:
    """The id of an index folder, given to it when it is first opened. Raises StorageError."""
    path = folder / _STORE
    with file_lock(folder / ".store.lock"), storage_errors(str(path)):
        if path.exists() and len(text := path.read_text("ascii", "replace")) == len(new_id()):
            return text
        made = new_id()
        write_atomic(path, [made.encode()])
        return made


def version(session: Session, place: Place) -> int:
    """The version that is published now, 0 for none."""
    found = session.scalar(select(GalleryShelf.version).where(*_is(GalleryShelf, place)))
    return found or 0


def published(session: Session, place: Place) -> Shelf | None:
    """What is published, or ``None``."""
    row = session.scalar(select(GalleryShelf).where(*_is(GalleryShelf, place)))
    if row is None:
        return None
    names = session.scalars(
        select(GallerySegment.segment_id)
        .where(*_is(GallerySegment, place))
        .order_by(GallerySegment.segment_id)
    )
    return Shelf(tuple(names), History(row.seq, row.seq_face_id), row.version)


def publish(
    session: Session,
    place: Place,
    *,
    upto: History | None,
    gone: Sequence[str],
    added: Sequence[tuple[str, int]],
) -> int:
    """Take segments ``gone`` off and put ``added`` (name, rows) on; returns the new version.

    ``upto=None`` leaves the entry up to which they are good as it is.
    """
    now = version(session, place) + 1
    values: dict[str, object] = {"version": now, "published_at": utc_now()}
    if upto is not None:
        values |= {"seq": upto.seq, "seq_face_id": upto.seq_face_id}
    key = {
        "store_id": place.store_id,
        "gallery": place.gallery,
        "contract_id": place.contract_id,
    }
    if now == 1:
        session.execute(insert(GalleryShelf).values(**key, **values))
    else:
        session.execute(update(GalleryShelf).where(*_is(GalleryShelf, place)).values(**values))
    if gone:
        session.execute(delete(GallerySegment).where(GallerySegment.segment_id.in_(gone)))
    if added:
        session.execute(
            insert(GallerySegment),
            [{**key, "segment_id": name, "rows": rows} for name, rows in added],
        )
    return now


def forget_shelves(session: Session) -> None:
    """Take off everything, of all folders: the catalog was restored, and no index goes with it.

    It is another catalog from now on, so that it never touches what the first has on a server.
    """
    session.execute(delete(GallerySegment))
    session.execute(delete(GalleryShelf))
    session.execute(delete(CatalogIdentity))


def catalog_id(catalog: Catalog) -> str:
    """What tells this catalog from all others; given to it when it is first asked for."""
    with catalog.read() as session:
        found: str | None = session.scalar(select(CatalogIdentity.catalog_id))
    if found is not None:
        return found
    with catalog.write() as session:
        given = session.scalar(select(CatalogIdentity.catalog_id)) or random_id()
        session.merge(CatalogIdentity(catalog_id=given))
        return given


def _is(
    table: type[GalleryShelf] | type[GallerySegment], place: Place
) -> tuple[ColumnElement[bool], ...]:
    return (
        table.store_id == place.store_id,
        table.gallery == place.gallery,
        table.contract_id == place.contract_id,
    )
