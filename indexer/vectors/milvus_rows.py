"""How faces lie in Milvus: the fields, the rows of a face, and expressions that find them.

A row is one tag of one face, because a filter wants one and the same tag to pass all of it; a
face without tags has one row all the same. The rows of a face are numbered by ``ordinal`` from 0,
so that the rows with 0 are all faces, each once. Rows that are no face (what a readiness check
writes, the stamp, and rows on their way out) have the ordinal :data:`NO_FACE`, empty words and no
time, so no search finds them.

Words are kept as digests: a digest has one length, and needs no quoting in an expression,
whatever the word holds; and Milvus learns no name of a site or an agency.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from indexer.vectors.tags import KEYWORDS, NEVER, Filter, Tag, folded
from models.types import FloatArray

SCHEMA_VERSION: Final = 1
"""Part of a collection's name: rows of another version are never looked at."""

NO_FACE: Final = -1
BUCKETS: Final = 65_536
"""Faces are spread evenly over this many numbers, to read all of them in parts."""

WORD_LENGTH: Final = 32
NOTE_LENGTH: Final = 256
_ID_LENGTH: Final = 36
_KEY_LENGTH: Final = 64
_NAME_LENGTH: Final = 255  # the longest name of a collection that a server takes by default

_GALLERY = re.compile(r"[a-z]{1,32}")
_CONTRACT = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

Row = dict[str, Any]


def fields(dimension: int) -> dict[str, tuple[str, Mapping[str, int]]]:
    """The fields of a collection: the type's name, and its parameters."""
    word = ("VARCHAR", {"max_length": WORD_LENGTH})
    return {
        "key": ("VARCHAR", {"max_length": _KEY_LENGTH}),
        "face_id": ("VARCHAR", {"max_length": _ID_LENGTH}),
        "ordinal": ("INT32", {}),
        "rows": ("INT32", {}),
        "bucket": ("INT32", {}),
        **dict.fromkeys(KEYWORDS, word),
        "posted_ms": ("INT64", {}),
        "note": ("VARCHAR", {"max_length": NOTE_LENGTH}),
        "vector": ("FLOAT_VECTOR", {"dim": dimension}),
    }


def collection_prefix(owner: str) -> str:
    """How the names of all collections of one owner begin: the id of a catalog, say."""
    digest = hashlib.sha256(owner.encode()).hexdigest()[:16]
    return f"homeward_{SCHEMA_VERSION}_{digest}_"


def collection_name(owner: str, gallery: str, contract_id: str) -> str:
    """The collection of a gallery under a contract; ``ValueError`` for names out of the ordinary.

    Several owners can share a server: no name of one is ever a name of another.

    Milvus takes letters, digits and underscores. A contract that holds anything else is written
    with underscores, and told apart from one that has them by a digest of the original.
    """
    if not _GALLERY.fullmatch(gallery) or not _CONTRACT.fullmatch(contract_id):
        raise ValueError(f"no collection can be named after {gallery!r} and {contract_id!r}")
    plain = re.sub(r"[^A-Za-z0-9]", "_", contract_id)
    if plain != contract_id:
        plain += "_" + hashlib.sha256(contract_id.encode()).hexdigest()[:16]
    name = f"{collection_prefix(owner)}{gallery}_{plain}"
    assert len(name) <= _NAME_LENGTH
    return name


def word_key(word: str) -> str:
    """The form in which a word is kept and compared: a digest of 128 bits, empty for no word."""
    if not word:
        return ""
    # A word may hold half of a surrogate pair, which plain UTF-8 refuses.
    text = folded(word).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=WORD_LENGTH // 2).hexdigest()


def key(face_id: str, ordinal: int = 0) -> str:
    """The primary key of a row."""
    return f"{face_id}/{ordinal}"


def face_rows(face_id: str, vector: FloatArray, tags: Sequence[Tag]) -> list[Row]:
    """The rows of a face, one for each tag that says something of its own."""
    kept = {(*(word_key(getattr(tag, name)) for name in KEYWORDS), _posted(tag)) for tag in tags}
    told = sorted(kept) or [("",) * len(KEYWORDS) + (NEVER,)]
    return [
        {
            "key": key(face_id, ordinal),
            "face_id": face_id,
            "ordinal": ordinal,
            "rows": len(told),
            "bucket": zlib.crc32(face_id.encode()) % BUCKETS,
            **dict(zip(KEYWORDS, words, strict=True)),
            "posted_ms": posted,
            "note": "",
            "vector": vector,
        }
        for ordinal, (*words, posted) in enumerate(told)
    ]


def no_face(row_key: str, dimension: int, note: str = "") -> Row:
    """A row that no search finds."""
    return {
        "key": row_key,
        "face_id": "",
        "ordinal": NO_FACE,
        "rows": 0,
        "bucket": 0,
        **dict.fromkeys(KEYWORDS, ""),
        "posted_ms": NEVER,
        "note": note,
        "vector": [1.0] + [0.0] * (dimension - 1),
    }


def _posted(tag: Tag) -> int:
    posted = NEVER if tag.posted_ms is None else tag.posted_ms
    if not NEVER <= posted <= -(NEVER + 1):
        raise ValueError(f"the time {posted} of a tag does not fit into 64 bits")
    return posted


# --- expressions ------------------------------------------------------------------------------
#
# What goes into one is a number, a digest or an id that was checked to be a UUID: never text as
# it came.

ALL_FACES: Final = "ordinal == 0"


def expression(where: Filter) -> str | None:
    """What finds the rows that pass, ``None`` where none can."""
    if where.empty:
        return ALL_FACES
    terms = []
    for name in KEYWORDS:
        wanted = getattr(where, name)
        if wanted == "":
            return None
        if wanted is not None:
            terms.append(f'{name} == "{word_key(wanted)}"')
    if where.posted_from_ms is not None or where.posted_before_ms is not None:
        # The smallest number of 64 bits stands for "never" and cannot be written down here.
        first = NEVER + 1 if where.posted_from_ms is None else where.posted_from_ms
        terms.append(f"posted_ms >= {max(first, NEVER + 1)}")
        if first > -(NEVER + 1):
            return None
    if where.posted_before_ms is not None:
        if where.posted_before_ms <= NEVER + 1:
            return None
        if where.posted_before_ms <= -(NEVER + 1):
            terms.append(f"posted_ms < {where.posted_before_ms}")
    return " and ".join(terms)


def between(terms: str, after: str | None, before: str | None) -> str:
    """``terms`` for the faces whose ids lie between two, neither included."""
    parts = [terms]
    if after is not None:
        parts.append(f'face_id > "{after}"')
    if before is not None:
        parts.append(f'face_id < "{before}"')
    return " and ".join(parts)


def keyed(keys: Iterable[str]) -> str:
    """What finds rows by key."""
    return "key in [" + ", ".join(f'"{row_key}"' for row_key in keys) + "]"
