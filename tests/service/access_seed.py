"""What the access matrix asks with and about: two agencies, every role in both, one seeded case."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from indexer import approvals, cases, images, jobs, judgements, notify
from indexer.ads import receive_ad
from indexer.agencies import add_agency
from indexer.blobs import sha256_hex
from indexer.catalog.casework_tables import LinkRequest
from indexer.catalog.tables import Alert, Candidate, Case, WebSession
from indexer.ids import new_id
from indexer.records import AdInput, CaseInput, FaceSummary, Person, Upload
from indexer.times import utc_now
from indexer.withheld.rows import Why, withhold
from indexer.workspace import Workspace
from service.accounts.keys import KeyStore
from service.accounts.roles import ROLES
from service.web.held import Held, HeldPhoto, Wishes
from service.web.sessions import begin_for_user, form_token
from tests.indexer.raising import raise_alert
from tests.service.conftest import KEY
from tests.service.people import make_person

OWN: Final = "north"
OTHER: Final = "south"
THIRD: Final = "west"
"""Has a lead in common with ``OWN``, so that there is somebody to ask."""
FULL: Final = "full key"
NOBODY: Final = "no credentials"

NUMBER: Final = "N-77-0412"
NAME: Final = "Zephyrine Quillfeather"
NOTES: Final = "violet umbrella"

HTML: Final = {"accept": "text/html"}


@dataclass(frozen=True)
class Caller:
    """Somebody of one agency with one role; or the full key; or nobody."""

    role: str
    agency: str | None = None

    def __str__(self) -> str:
        return self.role if self.agency is None else f"{self.role} of {self.agency}"


CALLERS: Final = (
    *(Caller(role, agency) for agency in (OTHER, OWN) for role in ROLES),
    Caller(FULL),
    Caller(NOBODY),
)


@dataclass
class Seed:
    """The records, the people, their keys and sessions. ``ids`` are those of ``OWN``, by the
    name they have in addresses; ``secrets`` may be in no answer to whoever is not of ``OWN``."""

    app: FastAPI
    client: TestClient
    ws: Workspace
    pictures: Mapping[str, bytes]
    ids: dict[str, str] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    keys: dict[Caller, str] = field(default_factory=dict)
    people: dict[Caller, str] = field(default_factory=dict)
    cookies: dict[Caller, str] = field(default_factory=dict)
    third: dict[str, str] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    # --- records -----------------------------------------------------------------------------

    @property
    def other_sha256(self) -> str:
        """Of the picture that scrapers send ahead."""
        return sha256_hex(self.pictures["other"])

    def sow(self) -> None:
        """Make everything, once."""
        store = KeyStore(self.ws.catalog)
        with self.ws.catalog.write() as session:
            for agency in (OWN, OTHER, THIRD):
                add_agency(session, agency)
        for caller in CALLERS:
            if caller.role == NOBODY:
                continue
            roles = (caller.role,) if caller.agency else ROLES
            self.people[caller] = make_person(
                self.ws.catalog, f"user{len(self.people)}", roles, caller.agency
            ).user_id
            if caller.agency is None:
                self.keys[caller] = KEY
                continue
            made = store.create(str(caller), (f"role:{caller.role}",), agency=caller.agency)
            self.keys[caller] = made.text
        self.ids = {**self.case(NUMBER, person=Person(name=NAME), notes=NOTES), **self.ad()}
        self.ids |= self.candidate(self.ids)
        with self.ws.catalog.read() as session:
            self.ids["alert_id"] = session.scalars(
                select(Alert.alert_id).where(Alert.case_id == self.ids["case_id"])
            ).one()
        self.third = self.candidate(self.case(agency=THIRD))
        judgements.judge(self.ws, self.third["candidate_id"], "supports_same", "ears", actor="x")
        self.ids |= self.question()
        self.ids |= self.webhook()
        self.ids["approval_id"] = self.approval("N-78-0413")["approval_id"]
        self.ids |= {
            "contract_id": self.ws.contract_id,
            "index": "0",
            "year": "2026",
            "name": "no-such-file",
        }
        self.ids |= self.withheld_photo()
        self.ids["held_id"] = Held.new_id()
        own = Caller("administrator", OWN)
        self.ids |= {**self.person(own), **self.key(own)}
        shared = {"ad_id", "contract_id", "index", "year", "name", "ad_job_id", "user_id", "key_id"}
        shared.add("session_id")
        self.secrets = {NUMBER, NAME, NOTES, "N-78-0413"} | {
            value for name, value in self.ids.items() if name not in shared
        }
        # The other agency has something of its own, so that its lists are not empty.
        theirs = cases.create_case(self.ws, CaseInput(case_number="S-1", agency=OTHER))
        raise_alert(self.ws, theirs.case_id)

    def case(self, number: str | None = None, agency: str = OWN, **fields: Any) -> dict[str, str]:
        """A case with a photo, through the functions that the service calls."""
        made = cases.create_case(
            self.ws,
            CaseInput(case_number=number or f"N-{next(self.numbers)}-T", agency=agency, **fields),
        )
        photo = cases.add_photo(self.ws, made.case_id, self.pictures["portrait"])
        jobs.run_pending(self.ws)
        return {
            "case_id": made.case_id,
            "photo_id": photo.photo_id,
            "sha256": photo.sha256,
            "face_id": images.faces_of(self.ws, photo.sha256)[0].face_id,
            "job_id": photo.job_id,
        }

    def ad(self) -> dict[str, str]:
        """An ad with a picture of the person."""
        receipt = receive_ad(
            self.ws,
            AdInput(site="site-a.example", external_id=f"{next(self.numbers)}"),
            [Upload(self.pictures["mirrored"], "one.jpg")],
        )
        jobs.run_pending(self.ws)
        return {"ad_id": receipt.ad_id, "ad_job_id": receipt.job_id}

    def candidate(self, case: Mapping[str, str]) -> dict[str, str]:
        """The case with its candidate in the ads."""
        with self.ws.catalog.read() as session:
            found = session.scalars(
                select(Candidate).where(Candidate.case_id == case["case_id"])
            ).one()
            return {**case, "candidate_id": found.candidate_id, "lead_id": found.lead_id}

    def question(self) -> dict[str, str]:
        """``THIRD`` asks ``OWN`` about a lead that both have."""
        row = LinkRequest(
            request_id=new_id(),
            case_id=self.third["case_id"],
            other_case_id=self.ids["case_id"],
            candidate_id=self.third["candidate_id"],
            other_candidate_id=self.ids["candidate_id"],
            kind="same_picture",
            state="asked",
            note="Who is this?",
            asked_by="x",
            asked_at=utc_now(),
        )
        with self.ws.catalog.write() as session:
            session.add(row)
        return {"link_request_id": row.request_id}

    def plain_picture(self) -> dict[str, str]:
        """A picture of an ad that is like no other and shows nobody."""
        data = self.pictures["nobody"] + f"{next(self.numbers)}".encode()
        receive_ad(
            self.ws,
            AdInput(site="site-b.example", external_id=f"{next(self.numbers)}"),
            [Upload(data, "plain.jpg")],
        )
        jobs.run_pending(self.ws)
        return {"sha256": sha256_hex(data)}

    def withheld_photo(self) -> dict[str, str]:
        """A picture that only a case has, withheld."""
        made = self.case()
        data = self.pictures["portrait"] + bytes([next(self.numbers) % 256])
        sha256 = cases.add_photo(self.ws, made["case_id"], data).sha256
        why = Why(reason="listed", actor="system", list_name="agency", hash_kind="pdq")
        with self.ws.catalog.write() as session:
            withhold(session, self.ws, sha256, why)
        return {"withheld_sha256": sha256}

    def suspended(self, number: str | None = None) -> dict[str, str]:
        """A case that is searched only once that is approved."""
        made = self.case(number)
        with self.ws.catalog.write() as session:
            session.get_one(Case, made["case_id"]).suspended = True
        return made

    def approval(self, number: str | None = None) -> dict[str, str]:
        """A request that waits for a decision."""
        made = self.suspended(number)
        asked = approvals.ask(self.ws, made["case_id"], "locate_missing_person")
        return {"approval_id": asked.approval_id}

    def webhook(self) -> dict[str, str]:
        """A webhook of ``OWN``."""
        made = notify.add_webhook(
            self.ws.catalog, "https://8.8.8.8/in", secret="whsec_c2VjcmV0", agency=OWN
        )
        return {"webhook_id": made.webhook_id}

    def person(self, caller: Caller) -> dict[str, str]:
        """Somebody of the caller's agency, signed in; whom they manage if they manage anybody."""
        made = make_person(
            self.ws.catalog, f"person{next(self.numbers)}", ("administrator",), caller.agency
        )
        session_id = begin_for_user(self.ws.catalog, made.user_id).session_id
        return {"user_id": made.user_id, "session_id": session_id}

    def key(self, caller: Caller) -> dict[str, str]:
        """A key of the caller's agency."""
        made = KeyStore(self.ws.catalog).create("some", ("jobs:read",), agency=caller.agency)
        return {"key_id": made.record.key_id}

    def own_session(self, caller: Caller) -> dict[str, str]:
        """Another session of the caller."""
        return {"session_id": begin_for_user(self.ws.catalog, self.people[caller]).session_id}

    def hold(self, caller: Caller, case_id: str, aim: Any) -> dict[str, str]:
        """A photo that waits for this caller's choice of a face."""
        with self.ws.catalog.read() as session:
            newest = select(WebSession.session_id).order_by(WebSession.session_id.desc())
            newest = newest.where(WebSession.user_id == self.people[caller])
            session_id = session.scalars(newest).first()
        assert session_id is not None
        _, faces = images.examine(self.ws, self.pictures["portrait"])
        held = HeldPhoto(
            held_id=Held.new_id(),
            session_id=session_id,
            sha256=sha256_hex(self.pictures["portrait"]),
            case_id=case_id,
            aim=aim,
            data=self.pictures["portrait"],
            filename=None,
            faces=tuple(
                FaceSummary(
                    face_index=i, box=f.box, detection_score=f.detection_score, quality=f.quality
                )
                for i, f in enumerate(faces)
            ),
            preview=self.pictures["portrait"],
            crops=(self.pictures["portrait"],),
            wishes=Wishes(purpose="locate_missing_person"),
        )
        self.app.state.web.held.put(held)
        return {"held_id": held.held_id, "index": "0"}

    # --- asking ------------------------------------------------------------------------------

    def sign_in(self, caller: Caller) -> str:
        """A fresh session of the pages; returns its cookie."""
        return begin_for_user(self.ws.catalog, self.people[caller]).token

    def cookie(self, caller: Caller) -> str:
        """The session of a caller, begun at its first use."""
        if caller not in self.cookies:
            self.cookies[caller] = self.sign_in(caller)
        return self.cookies[caller]

    def ask(
        self, caller: Caller, route: str, ids: Mapping[str, str], body: Mapping[str, Any]
    ) -> Any:
        """Send one request; ``body`` is what the table says for the route."""
        method, _, path = route.partition(" ")
        for name, value in ids.items():
            path = path.replace(f"{{{name}}}", value)
        assert "{" not in path, path
        body = dict(body)
        headers = dict(body.pop("headers", {}))
        form = body.pop("form", None)
        photo = body.pop("photo", None)
        if path.startswith("/v1") or path == "/openapi.json":
            if caller.role != NOBODY:
                headers["authorization"] = f"Bearer {self.keys[caller]}"
            if form is not None or photo is not None:
                body["files"] = _parts(form or {}, photo)
        else:
            headers |= HTML
            token = ""
            if caller.role != NOBODY:
                token = body.pop("session", None) or self.cookie(caller)
                headers["cookie"] = f"homeward_session={token}"
            if method == "POST":
                body["files"] = _parts({**(form or {}), "csrf": form_token(token)}, photo)
        answer = self.client.request(method, path, headers=headers, follow_redirects=False, **body)
        self.client.cookies.clear()
        return answer

    def listen(self, caller: Caller, path: str) -> int:
        """Open an event stream and leave after its first words; returns the status."""
        assert self.client.portal is not None
        return self.client.portal.call(_listen, self.app, path, self.keys[caller])


def _parts(form: Mapping[str, str], photo: bytes | None) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = [(name, (None, value)) for name, value in form.items()]
    if photo is not None:
        parts.append(("file", ("photo.jpg", photo, "image/jpeg")))
    return parts


async def _listen(app: FastAPI, path: str, key: str) -> int:
    heard = asyncio.Event()
    status = 0
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await heard.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message.get("body") or not message.get("more_body"):
            heard.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"authorization", f"Bearer {key}".encode())],
        "client": ("testclient", 1),
        "server": ("testserver", 80),
    }
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return status


Body = Callable[[Seed, Caller], Mapping[str, Any]]
Fresh = Callable[[Seed, Caller], Mapping[str, str]]
