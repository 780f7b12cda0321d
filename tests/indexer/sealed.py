"""A data folder with something in every sealed column, and what must not be found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from indexer import ads, cases, jobs, quarantine
from indexer.catalog.schema import Base
from indexer.catalog.tables import (
    Candidate,
    Face,
    IdempotentResponse,
    ImageHash,
    Judgement,
    Search,
    Webhook,
    WebSession,
)
from indexer.ids import new_id
from indexer.quarantine import BadItem
from indexer.records import AdInput, CaseInput, LastSeen, Person, Upload
from indexer.sealing.outer import OuterKeys
from indexer.times import utc_now
from indexer.workspace import Workspace
from tests.indexer.small import face_picture

OUTER = OuterKeys("first", {"first": b"1" * 32})
OTHER = OuterKeys("second", {"second": b"2" * 32})


@dataclass
class Filled:
    """What was put in. ``needles``: bytes that nobody may find, by what they are."""

    case_id: str
    ad_id: str
    needles: dict[str, bytes] = field(default_factory=dict)


def fill(ws: Workspace) -> Filled:
    """Something in every sealed column that this package writes, an original and a page."""
    person = Person(name="Zebulon Quillfeather", aliases=("Quillfeather Zeb",))
    case = cases.create_case(
        ws,
        CaseInput(
            case_number="2026-1",
            person=person,
            missing_since=date(1987, 2, 3),
            last_seen=LastSeen(place="under the Marblewood bridge"),
            notes="the Tangerine notes",
            alert_emails=("quill@feather.test",),
        ),
    )
    photo = face_picture(1)
    cases.add_photo(ws, case.case_id, photo, filename="zebulon-portrait.png")
    page = b"<p>" + b"page of Wobblington " * 60_000 + b"</p>"
    receipt = ads.receive_ad(
        ws,
        AdInput(
            site="example.test",
            external_id="1",
            url="https://example.test/secret-path",
            title="Title of Grumblethorpe",
            body="Body of Grumblethorpe \u00e9",
            phones=("+1 206 555 0177",),
            emails=("hidden@adsender.test",),
            handles=("@marmaladefox",),
            age_stated="nineteenish",
            city="Springfield",
            location_text="behind the Cobblestone mill",
            attributes={"colour": "ultramarine-marker"},
        ),
        [Upload(face_picture(1, 7), "ad-picture-name.png")],
        [Upload(page, "saved-page-name.html", "text/html")],
    )
    jobs.run_pending(ws)
    quarantine.add(
        ws.catalog, [BadItem("line 1", "bad", "detail Pumpernickel", b"content Rutabaga")], "k"
    )
    with ws.catalog.write() as session:
        _write_rows(session, case.case_id)
    filled = Filled(case.case_id, receipt.ad_id)
    for number, word in enumerate(
        (
            *("Zebulon", "Quillfeather", "1987-02-03", "Marblewood", "Tangerine"),
            *("quill@feather.test", "zebulon-portrait", "Wobblington", "secret-path"),
            *("Grumblethorpe", "2065550177", "206 555 0177", "hidden@adsender", "marmaladefox"),
            *("nineteenish", "Cobblestone", "ultramarine-marker", "ad-picture-name"),
            *("saved-page-name", "Pumpernickel", "Rutabaga", "Persimmon", "Elderberry"),
            *("hooks.test/Mulberry", "whsec-Gooseberry", "Loganberry", "Cloudberry", "Boysenberry"),
        )
    ):
        filled.needles[f"{number} {word}"] = word.encode()
    for name, data in (("photo", photo), ("ad", face_picture(1, 7))):
        filled.needles[f"bytes of the {name}"] = data[len(data) // 3 :][:48]
    with ws.catalog.read() as session:
        for number, vector in enumerate(session.scalars(select(Face.vector))):
            assert vector is not None
            filled.needles[f"vector {number}"] = vector.astype("<f4").tobytes()[:40]
        filled.needles["pdq"] = session.scalars(select(ImageHash.pdq)).one()
    return filled


def _write_rows(session: Session, case_id: str) -> None:
    candidate = session.scalars(select(Candidate)).first()
    session.add(
        Judgement(
            judgement_id=new_id(),
            case_id=case_id,
            candidate_id=candidate.candidate_id if candidate else new_id(),
            image_sha256="0" * 64,
            x=0.0,
            y=0.0,
            width=1.0,
            height=1.0,
            conclusion="uncertain",
            reason="reason Persimmon",
            components={"ears": "Elderberry"},
            actor="k",
            at=utc_now(),
            contract_id="c",
            supersedes=None,
        )
    )
    session.add(
        Webhook(
            webhook_id=new_id(),
            url="https://hooks.test/Mulberry",
            secret="whsec-Gooseberry",
            created_by="k",
            created_at=utc_now(),
        )
    )
    session.add(
        Search(
            search_id=new_id(),
            at=utc_now(),
            actor="k",
            case_id=case_id,
            purpose="search",
            purpose_note="note Loganberry",
            gallery_size=1,
            contract_id="c",
            k=1,
            filters={},
            candidate_ids=[],
        )
    )
    session.add(
        IdempotentResponse(
            owner="k",
            key="1",
            request_digest="0" * 64,
            status=200,
            media_type="text/plain",
            body=b"answer Cloudberry",
            subject_id=None,
            created_at=utc_now(),
        )
    )
    session.add(
        WebSession(
            session_id=new_id(),
            token_sha256="1" * 64,
            data={"held": "Boysenberry"},
            created_at=utc_now(),
            last_used_at=utc_now(),
            expires_at=utc_now(),
        )
    )


def everything(folder: Path, ws: Workspace | None = None) -> dict[str, bytes]:
    """All bytes of all files below ``folder``, by path, and all values of a catalog elsewhere."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if ws is not None and not ws.catalog.is_sqlite:
        with ws.catalog.read() as session:
            for table in Base.metadata.sorted_tables:
                rows = session.execute(text(f"SELECT * FROM {table.name}")).all()
                found[table.name] = b"\n".join(_bytes(value) for row in rows for value in row)
    return found


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def found_in(places: dict[str, bytes], needles: dict[str, bytes]) -> dict[str, list[str]]:
    """Where each needle lies; only those that lie somewhere."""
    where = {
        name: [path for path, data in places.items() if needle in data]
        for name, needle in needles.items()
    }
    return {name: paths for name, paths in where.items() if paths}
