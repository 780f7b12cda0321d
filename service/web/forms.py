"""Forms of the pages: read under limits, checked for their token, and turned into typed values.

What cannot be used comes back with a message beside its field; what was typed is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final

from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from starlette.types import Message, Receive

from indexer.records import CaseInput, CaseRecord, SearchFilter
from indexer.searches import PURPOSES
from service.errors import BadRequestBody, Forbidden, InvalidFields, ProblemHTTPException
from service.networks import client_of, network_of
from service.places import FORM_SECONDS
from service.state import Service
from service.uploads import Form, Part, PartRule, receive_form
from service.web import texts
from service.web.held import Wishes
from service.web.sessions import Session, form_token_valid

MAX_TEXT_BYTES: Final = 500_000
"""The longest text of a case has 100,000 characters of up to four bytes."""
_DRAIN_FACTOR: Final = 8
_OVERHEAD: Final = 100_000
"""Bytes that boundaries and part headers may take."""

PERSON_FIELDS: Final = (
    "name",
    "aliases",
    "date_of_birth",
    "sex",
    "race",
    "height_cm",
    "weight_kg",
    "eye_color",
    "hair_color",
    "marks",
)
CASE_FIELDS: Final = (
    "case_number",
    "agency",
    *PERSON_FIELDS,
    "missing_since",
    "last_seen_place",
    "last_seen_on",
    "last_seen_time",
    "last_seen_lat",
    "last_seen_lon",
    "default_purpose",
    "notes",
    "alert_expected_false",
    "alert_budget",
    "alert_emails",
)
SEARCH_FIELDS: Final = (
    "purpose",
    "purpose_note",
    "site",
    "region",
    "posted_after",
    "posted_before",
)
_CASE: Final = TypeAdapter(CaseInput)
_ISO_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_ISO_TIME: Final = re.compile(r"\d{2}:\d{2}(:\d{2})?")


@dataclass(slots=True)
class Typed:
    """What was typed into a form, and what is wrong with it, by field."""

    values: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> str:
        return self.values.get(name, "")

    def error(self, name: str) -> str:
        return self.errors.get(name, "")


@asynccontextmanager
async def page_form(
    request: Request,
    service: Service,
    secret: Session | str,
    names: Iterable[str] = (),
    *,
    file: bool = False,
) -> AsyncIterator[Form]:
    """The body of a form of ours with the text fields ``names``, and ``file`` where it has one.

    Raises :class:`Forbidden` where the form token is wrong, and what ``receive_form`` raises.
    """
    rules = {name: PartRule(MAX_TEXT_BYTES) for name in names}
    rules["csrf"] = PartRule(200)
    if file:
        rules["file"] = PartRule(service.settings.max_image_bytes, required=True, is_file=True)
    cookie = secret.token if isinstance(secret, Session) else secret
    body = _Body(request.receive, sum(rule.max_bytes for rule in rules.values()) + _OVERHEAD)
    async with _place(request, service, secret, file), AsyncExitStack() as stack:
        try:
            whole = Request(request.scope, body.receive)
            receiving = receive_form(whole, rules, service.spool_dir, sealed=service.sealed)
            form = await _received(stack, receiving, None if file else FORM_SECONDS)
            if not form_token_valid(cookie, _plain(form, "csrf")):
                raise Forbidden(
                    "The form did not carry the token of this session; nothing was changed.",
                    remedy="Open the page again and send the form from there.",
                )
            yield form
        except BadRequestBody:
            if file:
                # A browser shows an answer only once it has sent all of its body.
                await body.drain(_DRAIN_FACTOR * service.settings.max_image_bytes)
            raise


def _place(
    request: Request, service: Service, secret: Session | str, file: bool
) -> AbstractAsyncContextManager[None]:
    """A place for the body: that of an upload for a file, which only the signed-in send."""
    if file:
        return service.upload_slot()
    if isinstance(secret, Session):
        return service.form_places.take(secret.session_id)
    return service.visitor_places.take(network_of(client_of(request.scope)))


async def _received(
    stack: AsyncExitStack, receiving: AbstractAsyncContextManager[Form], seconds: float | None
) -> Form:
    """The form once all of it has arrived; the deadline is for that alone."""
    try:
        async with asyncio.timeout(seconds):
            return await stack.enter_async_context(receiving)
    except TimeoutError:
        raise BadRequestBody(
            f"The form did not arrive within {seconds:g} seconds.",
            remedy="Send it again, or use a faster connection.",
            code="upload_timeout",
        ) from None


class _Body:
    """The messages of a body of at most ``limit`` bytes, and whether there are more to come."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit
        self._more = True

    async def receive(self) -> Message:
        message = await self._next()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise BadRequestBody(
                "This is more than the form takes.",
                remedy="Send less in one form.",
                code="body_too_large",
            )
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drain(self, limit: int) -> None:
        """Take in what is left, up to ``limit`` bytes, and keep none of it."""
        total = 0
        with contextlib.suppress(ProblemHTTPException):
            while self._more and total <= limit:
                message = await self._next()
                total += len(message.get("body", b""))


def _plain(form: Form, name: str) -> str:
    try:
        return form.text(name) or ""
    except InvalidFields:
        return ""


def typed(form: Form, names: Iterable[str]) -> Typed:
    """The text fields ``names`` as they were typed."""
    found = Typed()
    for name in names:
        try:
            found.values[name] = form.text(name) or ""
        except InvalidFields:
            found.errors[name] = texts.text("field.unreadable")
    return found


def chosen_file(form: Form, found: Typed) -> Part | None:
    """The file of the form; a browser sends an empty one where none was chosen."""
    part = form.file("file")
    if part.size == 0:
        found.errors["file"] = texts.text("field.no_file")
        return None
    return part


def face_index(form: Form) -> int | None:
    """The number of the face that was chosen, counted from zero; None where none was."""
    text = _plain(form, "face_index")
    return int(text) if re.fullmatch(r"\d{1,4}", text) else None


def photo_wishes(found: Typed) -> Wishes:
    """What was typed beside a photo to enrol."""
    return Wishes(taken_on=_day(found, "taken_on"))


def search_wishes(found: Typed) -> Wishes:
    """What was typed beside a photo to search with."""
    if found.value("purpose") not in PURPOSES:
        found.errors.setdefault("purpose", texts.text("field.choose"))
    for name, limit in (("purpose_note", 2000), ("site", 200), ("region", 500)):
        if len(found.value(name)) > limit:
            found.errors[name] = texts.text("field.too_long", limit=limit)
    return Wishes(
        purpose=found.value("purpose"),
        purpose_note=found.value("purpose_note") or None,
        filters=SearchFilter(
            site=found.value("site") or None,
            region=found.value("region") or None,
            posted_after=_midnight(_day(found, "posted_after")),
            posted_before=_midnight(_day(found, "posted_before")),
        ),
    )


def case_input(found: Typed) -> CaseInput | None:
    """The case that was typed, or None: then ``found.errors`` names every bad field."""
    values = {name: found.value(name) or None for name in CASE_FIELDS}
    person: dict[str, Any] = {name: values[name] for name in PERSON_FIELDS}
    person["aliases"] = _lines(found, "aliases")
    person["date_of_birth"] = _day(found, "date_of_birth")
    for name in ("height_cm", "weight_kg"):
        person[name] = _number(found, name)
    last_seen = {
        "place": values["last_seen_place"],
        "lat": _number(found, "last_seen_lat"),
        "lon": _number(found, "last_seen_lon"),
        "at": _moment(found, "last_seen_on", "last_seen_time"),
    }
    given = {
        "case_number": found.value("case_number"),
        "agency": found.value("agency"),
        "person": person,
        "missing_since": _day(found, "missing_since"),
        "last_seen": last_seen if any(v is not None for v in last_seen.values()) else None,
        "default_purpose": values["default_purpose"],
        "notes": values["notes"],
        "alert_expected_false": _number(found, "alert_expected_false"),
        "alert_budget": _whole(found, "alert_budget"),
        "alert_emails": _lines(found, "alert_emails"),
    }
    try:
        case = _CASE.validate_python(given)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            name = _field_of(item["loc"])
            found.errors.setdefault(name, _message(item, name))
        return None
    return None if found.errors else case


def case_values(case: CaseRecord) -> dict[str, str]:
    """A stored case as it stands in the form."""
    person, seen = case.person, case.last_seen
    values: dict[str, object] = {name: getattr(person, name) for name in PERSON_FIELDS}
    values["aliases"] = "\n".join(person.aliases)
    if isinstance(person.marks, tuple):
        values["marks"] = "\n".join(person.marks)
    values |= {
        "case_number": case.case_number,
        "agency": case.agency,
        "missing_since": _day_text(case.missing_since),
        "default_purpose": case.default_purpose,
        "notes": case.notes,
        "alert_expected_false": case.alert_expected_false,
        "alert_budget": case.alert_budget,
        "alert_emails": "\n".join(case.alert_emails),
    }
    if seen is not None:
        values |= {
            "last_seen_place": seen.place,
            "last_seen_lat": seen.lat,
            "last_seen_lon": seen.lon,
            "last_seen_on": _day_text(seen.at),
            "last_seen_time": f"{seen.at:%H:%M:%S}" if isinstance(seen.at, datetime) else "",
        }
    return {name: _shown(value) for name, value in values.items()}


def case_changes(before: CaseRecord, after: CaseInput, found: Typed) -> dict[str, Any]:
    """What an edited form changes. A time that the form can show only as a day is not lost."""
    changes: dict[str, Any] = {
        name: getattr(after, name)
        for name in (
            *("case_number", "agency", "person", "last_seen", "default_purpose", "notes"),
            *("alert_expected_false", "alert_budget", "alert_emails"),
        )
    }
    if found.value("missing_since") != _day_text(before.missing_since):
        changes["missing_since"] = after.missing_since
    return changes


def _day_text(value: date | datetime | None) -> str:
    return f"{value:%Y-%m-%d}" if value is not None else ""


def _day(found: Typed, name: str) -> date | None:
    text = found.value(name)
    if not text:
        return None
    try:
        if not _ISO_DAY.fullmatch(text):
            raise ValueError
        value = date.fromisoformat(text)
        if not 1900 <= value.year <= 2200:
            raise ValueError
    except ValueError:
        found.errors[name] = texts.text("field.date")
        return None
    return value


def _moment(found: Typed, day_name: str, time_name: str) -> date | datetime | None:
    """A date, with a time in UTC where one was typed: nothing is guessed."""
    day = _day(found, day_name)
    text = found.value(time_name)
    if not text:
        return day
    try:
        if not _ISO_TIME.fullmatch(text):
            raise ValueError
        clock = time.fromisoformat(text)
    except ValueError:
        found.errors[time_name] = texts.text("field.time")
        return day
    if day is None:
        found.errors.setdefault(day_name, texts.text("field.date_needed"))
        return None
    return datetime.combine(day, clock, UTC)


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), UTC)


def _number(found: Typed, name: str) -> float | None:
    text = found.value(name)
    if not text:
        return None
    if not re.fullmatch(r"-?\d{1,6}([.,]\d{1,8})?", text):
        found.errors[name] = texts.text("field.number")
        return None
    return float(text.replace(",", "."))


def _whole(found: Typed, name: str) -> int | None:
    text = found.value(name)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        found.errors[name] = texts.text("field.whole")
        return None
    return int(text)


def _shown(value: object) -> str:
    """A value as text that the form takes back; a number with all its digits, never with a
    power of ten."""
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    return "" if value is None else str(value)


def _lines(found: Typed, name: str) -> tuple[str, ...]:
    return tuple(line for part in found.value(name).splitlines() if (line := part.strip()))


def _field_of(loc: tuple[int | str, ...]) -> str:
    """The field of the form that a place in the case belongs to."""
    names = [part for part in loc if isinstance(part, str)]
    if names[:1] == ["last_seen"] and len(names) > 1:
        return f"last_seen_{names[1]}" if names[1] != "at" else "last_seen_on"
    if names[:1] == ["person"] and len(names) > 1:
        return names[1]
    return names[0] if names else "case_number"


def _message(item: Mapping[str, Any], name: str) -> str:
    limits = item.get("ctx", {})
    kind = item["type"]
    if name == "alert_emails" and kind != "too_long":
        return texts.text("field.emails")
    if kind == "string_too_short":
        return texts.text("field.needed")
    if kind == "string_too_long":
        return texts.text("field.too_long", limit=limits["max_length"])
    if kind == "too_long":
        return texts.text("field.too_many", limit=limits["max_length"])
    if kind == "greater_than_equal":
        return texts.text("field.at_least", limit=f"{limits['ge']:g}")
    if kind == "greater_than":
        return texts.text("field.more_than", limit=f"{limits['gt']:g}")
    if kind == "less_than_equal":
        return texts.text("field.at_most", limit=f"{limits['le']:g}")
    if kind == "literal_error":
        return texts.text("field.choose")
    return texts.text("field.unusable")
