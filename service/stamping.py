"""Asking a time-stamping authority over HTTP (RFC 3161, section 3.4), at the address that an
administrator set."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import httpx2
from cryptography import x509

from indexer.audit import stamps
from indexer.audit.stamps import Stamp
from indexer.catalog import Catalog
from indexer.errors import DeliveryFailed, StampInvalid
from indexer.records import JobRecord
from models.errors import HomewardError
from service import __version__
from service.config import Settings

MAX_ANSWER_BYTES: Final = 100_000
_QUERY: Final = "application/timestamp-query"


class StampingOff(HomewardError):
    """No authority is set."""

    code = "stamping_off"

    def __init__(self) -> None:
        super().__init__(
            "No time-stamping authority is set.",
            remedy="Set HOMEWARD_STAMP_URL to the address of one (RFC 3161).",
        )


class Stamper:
    """Gets stamps from the authority at ``url``. ``roots``: what its signature has to lead to;
    without them only what is stamped is checked."""

    def __init__(self, url: str, roots: list[x509.Certificate], timeout_seconds: float) -> None:
        self._url = url
        self._roots = roots
        self._timeout = timeout_seconds

    @classmethod
    def of(cls, settings: Settings) -> Stamper:
        """The one that the settings ask for. Raises :class:`StampingOff`, StampInvalid for a file
        without certificates, and the StorageError tree."""
        if settings.stamp_url is None:
            raise StampingOff
        roots = stamps.certificates(settings.stamp_ca_file)
        return cls(settings.stamp_url, roots, settings.webhook_timeout_seconds)

    def stamp(self, catalog: Catalog, stamp_id: str) -> None:
        """Get the stamp and keep it; nothing where it is there. Raises :class:`DeliveryFailed`."""
        wanted = stamps.stamp_of(catalog, stamp_id)
        if wanted is None or wanted.state != "pending":
            return
        request = stamps.request_for(wanted)
        answer = self._ask(request.as_bytes())
        try:
            response = stamps.check(answer, wanted.seq, wanted.hash, self._roots, request)
        except StampInvalid as error:
            raise DeliveryFailed(error.detail, remedy=error.remedy, retry=True) from None
        stamps.store(catalog, stamp_id, answer, response.tst_info.gen_time)

    def __call__(self, catalog: Catalog, job: JobRecord) -> None:
        """Do the job that asks for a stamp."""
        self.stamp(catalog, job.subject_id)

    def _ask(self, query: bytes) -> bytes:
        headers = {"content-type": _QUERY, "user-agent": f"homeward/{__version__}"}
        try:
            with (
                httpx2.Client(timeout=self._timeout, follow_redirects=False) as client,
                client.stream("POST", self._url, content=query, headers=headers) as answer,
            ):
                if answer.status_code != 200:
                    raise DeliveryFailed(
                        f"The time-stamping authority answered {answer.status_code}.", retry=True
                    )
                body = b""
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        raise DeliveryFailed("The answer is too long for a stamp.", retry=True)
        except httpx2.HTTPError as error:
            # Only its kind: what it says may hold what the other side sent.
            raise DeliveryFailed(
                f"The time-stamping authority cannot be reached ({type(error).__name__}).",
                retry=True,
            ) from None
        return body


def stamp_now(catalog: Catalog, stamper: Stamper) -> Stamp | None:
    """Ask for a stamp over the head and try once to get it; where the authority is away its job
    is left to the service. ``None`` where the head has a stamp or waits for one."""
    with catalog.write() as session:
        stamp_id = stamps.ask(session)
    if stamp_id is None:
        return None
    with suppress(DeliveryFailed):
        stamper.stamp(catalog, stamp_id)
    return stamps.stamp_of(catalog, stamp_id)
