"""Sending alerts to webhooks, signed as Standard Webhooks have it (standardwebhooks.com).

The signature is HMAC-SHA256 over ``id.timestamp.body``. The id of a message is that of the
alert, the same at every try, so that the receiver can tell a repeat.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
import ssl
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import httpx2
from standardwebhooks import Webhook

from indexer.catalog import Catalog
from indexer.errors import DeliveryFailed
from indexer.ids import new_id
from indexer.notify import AlertNote, WebhookRecord, add_webhook
from indexer.times import rfc3339, utc_now
from indexer.withheld.notices import Notice
from models.calibration import band
from service import __version__
from service.alerts.addresses import (
    NameUnknown,
    Resolve,
    WebhookRefused,
    addresses_of,
    parsed,
    shown_url,
    system_resolve,
)
from service.config import Settings
from service.search.explain import NOTICE, shown_band

# It writes the whole address of each request at this level; that of a webhook may hold a secret.
logging.getLogger("httpx2").setLevel(logging.WARNING)

SECRET_BYTES: Final = 24
MAX_ANSWER_BYTES: Final = 16_384
"""What a receiver answers is read up to here and thrown away."""
LONGEST_WAIT_S: Final = 3_600.0
RETRIED: Final = frozenset({408, 425, 429})

T = TypeVar("T")


class WebhookSender:
    """Sends messages to webhooks, each within ``timeout_seconds`` from looking up the name to
    the end of the answer. ``resolve`` and ``tls`` are this machine's own unless given."""

    def __init__(
        self,
        *,
        timeout_seconds: float,
        allow_private: bool,
        resolve: Resolve = system_resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = timeout_seconds
        self._allow_private = allow_private
        self._resolve = resolve
        self._tls = tls or ssl.create_default_context()

    @classmethod
    def of(cls, settings: Settings) -> WebhookSender:
        """The sender that ``settings`` ask for."""
        return cls(
            timeout_seconds=settings.webhook_timeout_seconds,
            allow_private=settings.webhook_allow_private,
        )

    def check(self, url: str) -> None:
        """Whether alerts may be sent to ``url`` as things are now.

        Raises :class:`WebhookRefused` and :class:`NameUnknown`.
        """

        async def check() -> None:
            address = parsed(url, allow_private=self._allow_private)
            await addresses_of(address, self._resolve, allow_private=self._allow_private)

        try:
            _run(self._in_time(check()))
        except TimeoutError:
            raise NameUnknown from None

    def send(self, webhook: WebhookRecord, message_id: str, body: str) -> None:
        """Send one message. Raises :class:`DeliveryFailed`."""
        try:
            _run(self._in_time(self._send(webhook, message_id, body)))
        except TimeoutError:
            raise DeliveryFailed(
                f"The webhook did not answer within {self._timeout:g} seconds.", retry=True
            ) from None
        except WebhookRefused as error:
            raise DeliveryFailed(
                error.detail, remedy=error.remedy, code=error.code, retry=False
            ) from None
        except NameUnknown as error:
            raise DeliveryFailed(error.detail, remedy=error.remedy, retry=True) from None

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(self._timeout):
            await work

    async def _send(self, webhook: WebhookRecord, message_id: str, body: str) -> None:
        url = parsed(webhook.url, allow_private=self._allow_private)
        # Again at each delivery: a name may lead elsewhere than when it was set.
        addresses = await addresses_of(url, self._resolve, allow_private=self._allow_private)
        now = datetime.now(UTC)
        headers = {
            "host": url.netloc.decode("ascii"),
            "content-type": "application/json",
            "user-agent": f"homeward/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(webhook.secret).sign(message_id, now, body),
        }
        for place, address in enumerate(addresses):
            try:
                await self._post(url, address, headers, body, len(addresses))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if place + 1 == len(addresses):
                    raise _unreachable(error) from None
            except httpx2.HTTPError as error:
                # Only its kind: what it says may hold what the other side sent.
                raise DeliveryFailed(
                    f"The connection to the webhook broke off ({type(error).__name__}).",
                    retry=True,
                ) from None
            else:
                return

    async def _post(
        self, url: httpx2.URL, address: str, headers: dict[str, str], body: str, addresses: int
    ) -> None:
        """Post to the very address that was checked; the name stands in Host header and TLS."""
        timeout = httpx2.Timeout(self._timeout, connect=self._timeout / addresses)
        async with httpx2.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, timeout=timeout
        ) as client:
            request = client.build_request(
                "POST",
                url.copy_with(host=address),
                headers=headers,
                content=body.encode(),
                extensions={"sni_hostname": url.raw_host.decode("ascii").strip("[]").rstrip(".")},
            )
            answer = await client.send(request, stream=True)
            try:
                _require_taken(answer)
                left = MAX_ANSWER_BYTES
                async for part in answer.aiter_raw():
                    left -= len(part)
                    if left <= 0:
                        break
            finally:
                await answer.aclose()


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _require_taken(answer: httpx2.Response) -> None:
    """Raises :class:`DeliveryFailed` unless the receiver took the message (2xx)."""
    status = answer.status_code
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise DeliveryFailed(
            f"The webhook answered with a redirect ({status}); none is followed.",
            retry=False,
            remedy="Set the webhook to the address that it leads to.",
        )
    retry = status in RETRIED or status >= 500
    raise DeliveryFailed(
        f"The webhook answered with status {status}.",
        retry=retry,
        retry_after=_wait(answer.headers.get("retry-after", "")) if retry else None,
    )


def _wait(text: str) -> float | None:
    """Seconds to wait by a Retry-After header; None where it states none (a date is not read).

    Never 0: a receiver may ask for a longer pause than the queue's own, not for none.
    """
    seconds = text.strip()
    if not seconds.isascii() or not seconds.isdecimal():
        return None
    return max(1.0, min(float(seconds[:10]), LONGEST_WAIT_S))


def _unreachable(error: Exception) -> DeliveryFailed:
    reason = ""
    cause: BaseException | None = error
    while cause is not None and not reason:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = ": its certificate is not trusted here or is for another name"
        cause = cause.__cause__ or cause.__context__
    return DeliveryFailed(f"No connection to the webhook could be made{reason}.", retry=True)


# --- messages --------------------------------------------------------------------------------


def alert_body(alert: AlertNote) -> str:
    """The message of one alert: ids and figures, nothing that tells of a person."""
    return _body(
        "alert.raised",
        alert.created_at,
        {
            "alert_id": alert.alert_id,
            "case_id": alert.case_id,
            "candidate_id": alert.candidate_id,
            "lead_id": alert.lead_id,
            "band": shown_band(band(alert.expected_false), alert.limited_pictures),
            "tightened": alert.tightened,
            "notice": NOTICE,
        },
    )


def notice_body(notice: Notice) -> str:
    """The message about a withheld picture: which entry, and by when to settle it."""
    return _body(
        notice.event,
        notice.at,
        {"withheld_id": notice.withheld_id, "due_at": rfc3339(notice.due_at)},
    )


def send_test(sender: WebhookSender, webhook: WebhookRecord) -> str:
    """Send a message that stands for no alert; returns its id. Raises DeliveryFailed."""
    message_id = new_id()
    body = _body("webhook.test", utc_now(), {"webhook_id": webhook.webhook_id, "notice": NOTICE})
    sender.send(webhook, message_id, body)
    return message_id


def _body(kind: str, at: datetime, data: dict[str, Any]) -> str:
    message = {"type": kind, "timestamp": rfc3339(at), "data": data}
    return json.dumps(message, separators=(",", ":"))


# --- setting one -----------------------------------------------------------------------------


def set_webhook(
    catalog: Catalog,
    sender: WebhookSender,
    url: str,
    description: str,
    actor: str,
    agency: str | None = None,
) -> WebhookRecord:
    """Have alerts sent to ``url``, all or those of one ``agency``; the secret is made here and
    shown once.

    Raises WebhookRefused, NameUnknown and TooManyWebhooks.
    """
    sender.check(url)
    return add_webhook(
        catalog, url, secret=new_secret(), description=description, actor=actor, agency=agency
    )


def shown(webhook: WebhookRecord, *, secret: bool = False) -> dict[str, Any]:
    """A webhook as people see it: with the host of its address only, and without its secret,
    unless it was made just now."""
    values: dict[str, Any] = {
        "webhook_id": webhook.webhook_id,
        "url": webhook.url if secret else shown_url(webhook.url),
        "description": webhook.description,
        "created_by": webhook.created_by,
        "created_at": webhook.created_at,
    }
    return {**values, "secret": webhook.secret} if secret else values


def new_secret() -> str:
    """192 random bits in the form that the libraries of Standard Webhooks take."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")
