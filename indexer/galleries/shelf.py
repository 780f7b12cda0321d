"""The published segments of one gallery in one index folder: rows of the catalog that name files.

A shelf says which segments hold the gallery up to one entry of its log. It is changed in one
transaction, after the files it names are safe on disk; a file that it does not name is nobody's.
Another folder, of another machine on the same catalog, has a shelf of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.orm import Session

from indexer.catalog import Catalog
from indexer.catalog.tables import CatalogIdentity, GallerySegment, GalleryShelf
from indexer.files import file_lock, storage_errors
from indexer.ids import is_id, new_id, random_id
from indexer.times import utc_now
from indexer.vectors.segment import History

_STORE = "store"


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is published: ``segments`` by name, with how many dead rows each has at least, good up
    to ``upto``; ``version`` of this set."""

    segments: Mapping[str, int]
    upto: History
    version: int


@dataclass(frozen=True, slots=True)
class Place:
    """Whose shelf: an index folder, a gallery and a contract."""

    store_id: str
    gallery: str
    contract_id: str


def store_id(folder: Path) -> str:
    """The id of an index folder, given to it when it is first opened. Raises StorageError.

    A copy of the folder is another one, with a shelf of its own: the file that holds the id tells
    which file it is.
    """
    path = folder / _STORE
    with file_lock(folder / ".store.lock"), storage_errors(str(path)), path.open("a+b") as file:
        file.seek(0)
        said = file.read(200).decode("ascii", "replace").split()
        inode = str(os.fstat(file.fileno()).st_ino)
        if len(said) == 2 and is_id(said[0]) and said[1] == inode:
            return said[0]
        made = new_id()
        file.truncate(0)
        file.write(f"{made} {inode}".encode())
        file.flush()
        os.fsync(file.fileno())
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
    rows = session.execute(
        select(GallerySegment.segment_id, GallerySegment.dead)
        .where(*_is(GallerySegment, place))
        .order_by(GallerySegment.segment_id)
    )
    segments = {row.segment_id: row.dead for row in rows}
    return Shelf(segments, History(row.seq, row.seq_face_id), row.version)


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
            [{**key, "segment_id": name, "rows": rows, "dead": 0} for name, rows in added],
        )
    return now


def note_dead(session: Session, name: str, dead: int) -> None:
    """Keep that a segment has so many dead rows."""
    session.execute(
        update(GallerySegment).where(GallerySegment.segment_id == name).values(dead=dead)
    )


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
        return str(found)
    with catalog.write() as session:
        found = session.scalar(select(CatalogIdentity.catalog_id))
        if found is None:
            found = random_id()
            session.add(CatalogIdentity(catalog_id=found))
        return str(found)


def _is(
    table: type[GalleryShelf] | type[GallerySegment], place: Place
) -> tuple[ColumnElement[bool], ...]:
    return (
        table.store_id == place.store_id,
        table.gallery == place.gallery,
        table.contract_id == place.contract_id,
    )
