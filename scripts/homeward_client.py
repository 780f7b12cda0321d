"""A small client for scrapers: images once, ads in batches, nothing twice, patience when refused.

Both ready senders use it: ``send_ads.py`` from a file, ``scrapy_homeward.py`` from a crawl.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

ASK_FIRST_BYTES = 65_536
"""Of a larger image it is asked first whether it is known already."""

MOST_SECONDS = 120.0
"""Longest wait between two attempts, whatever the service asks for."""

REMEMBERED = 50_000
"""Digests of images known to be there; more are asked for again."""

_LATER = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
_LATER_CODES = frozenset(
    {
        *("queue_full", "overloaded", "not_ready", "catalog_busy", "catalog_unusable"),
        *("storage_full", "storage_denied", "storage_error"),
    }
)


_PROBLEM = "urn:homeward:problem:"
_NO_SUCH_ADDRESS = frozenset({"not_found", "method_not_allowed"})


class GaveUp(Exception):
    """The service did not answer, or took nothing, in any attempt; or something else answered in
    its place. Nothing is refused by that: try again later."""


class NotAllowed(Exception):
    """The key is not valid or lacks the scope ``ads:write``: no attempt will do."""


class Refused(Exception):
    """What was sent is refused, and will be each time."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"[{code}] {detail}")
        self.code = code
        self.detail = detail


class _Later(Exception):
    """The service asks to come back, perhaps after so many seconds."""

    def __init__(self, said: str, after: float | None) -> None:
        super().__init__(said)
        self.after = after


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image on the disk, by its SHA-256."""

    path: Path
    sha256: str
    filename: str


@dataclass(frozen=True, slots=True)
class OutgoingAd:
    """An ad as ``POST /v1/ads`` takes it, with its images and the page it was read from."""

    ad: Mapping[str, Any]
    images: Sequence[ImageFile] = ()
    pages: Sequence[Path] = ()


@dataclass(slots=True)
class Outcome:
    """What became of an ad. ``waiting``: not taken yet, and not refused either.

    ``refused_images`` are those that Homeward cannot use, and why; the ad went without them.
    """

    status: Literal["created", "known", "refused", "waiting"] = "waiting"
    ad_id: str | None = None
    code: str | None = None
    detail: str | None = None
    refused_images: list[tuple[ImageFile, str]] = field(default_factory=list)


class Client:
    """Sends to one service with one key; for one thread at a time.

    ``attempts``: how often one request is tried, with growing pauses, before :class:`GaveUp`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        attempts: int = 8,
        timeout: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.images_sent = 0
        self._attempts = attempts
        self._sleep = sleep
        self._there: OrderedDict[str, None] = OrderedDict()
        # Images that the service cannot use, so that they are not sent again with each ad.
        self._unusable: OrderedDict[str, Refused] = OrderedDict()
        self._http = httpx2.Client(
            base_url=url.rstrip("/"),
            headers={"authorization": f"Bearer {key}"},
            timeout=timeout,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def put_image(self, image: ImageFile) -> None:
        """Make sure that the service has an image. Raises :class:`Refused` for an unusable one,
        :class:`GaveUp`, :class:`NotAllowed` and OSError."""
        if image.sha256 in self._there:
            return
        if image.sha256 in self._unusable:
            raise self._unusable[image.sha256]
        path = f"/v1/images/{image.sha256}"
        if image.path.stat().st_size > ASK_FIRST_BYTES:
            try:
                self._request("PUT", path, b"")
            except Refused as error:
                if error.code != "image_not_found":
                    raise
            else:
                _remember(self._there, image.sha256, None)
                return
        try:
            answer = self._request("PUT", path, image.path.read_bytes())
        except Refused as error:
            _remember(self._unusable, image.sha256, error)
            raise
        self.images_sent += answer.status_code == 201
        _remember(self._there, image.sha256, None)

    def deliver(self, ads: Sequence[OutgoingAd]) -> list[Outcome]:
        """Send ads with their images; what the service has no room for is tried again.

        Where it has none for too long the outcome of those ads is ``waiting``. Raises
        :class:`GaveUp` where it does not answer, :class:`NotAllowed`, and OSError for a file that
        cannot be read.
        """
        outcomes = [Outcome() for _ in ads]
        for attempt in range(self._attempts):
            left = [at for at, outcome in enumerate(outcomes) if outcome.status == "waiting"]
            if not left:
                break
            for at in left:
                if ads[at].pages:
                    self._post_alone(ads[at], outcomes[at])
            together = [(ads[at], outcomes[at]) for at in left if not ads[at].pages]
            wait = self._post(together) if together else None
            if attempt + 1 < self._attempts and wait is not None:
                self._sleep(min(wait, MOST_SECONDS))
        return outcomes

    def _post_alone(self, one: OutgoingAd, outcome: Outcome) -> None:
        """Send an ad with page files, which no batch takes."""

        def send() -> httpx2.Response:
            with ExitStack() as stack:
                files: list[Any] = [("ad", (None, _text(one.ad), "application/json"))]
                for image in one.images:
                    opened = stack.enter_context(image.path.open("rb"))
                    files.append(("images", (image.filename, opened)))
                for page in one.pages:
                    files.append(("page", (page.name, stack.enter_context(page.open("rb")))))
                return self._http.post("/v1/ads", files=files)

        try:
            told = self._tried("POST /v1/ads", send).json()
        except Refused as error:
            outcome.status, outcome.code, outcome.detail = "refused", error.code, error.detail
            return
        outcome.status, outcome.ad_id = "created" if told["created"] else "known", told["ad_id"]
        outcome.refused_images += [
            (image, f"[{said['code']}] {said['detail']}")
            for image, said in zip(one.images, told["images"], strict=True)
            if said["status"] == "rejected"
        ]

    def _post(self, some: Sequence[tuple[OutgoingAd, Outcome]]) -> float | None:
        """Send these in one batch; returns how long to wait where the service had no room."""
        lines = []
        for one, outcome in some:
            images = self._images(one, outcome)
            lines.append(_text({**one.ad, "images": images}))
        try:
            answer = self._request(
                "POST", "/v1/ads/batch", b"\n".join(lines) + b"\n", "application/x-ndjson"
            )
        except Refused as error:
            if error.code == "body_too_large" and len(some) > 1:
                half = len(some) // 2
                waits = [self._post(some[:half]), self._post(some[half:])]
                return max((wait for wait in waits if wait is not None), default=None)
            for _, outcome in some:
                outcome.status, outcome.code, outcome.detail = "refused", error.code, error.detail
            return None
        full = False
        for item in answer.json()["items"]:
            one, outcome = some[item["line"] - 1]
            outcome.code, outcome.detail = item["code"], item["detail"]
            if item["status"] != "refused":
                outcome.status, outcome.ad_id = item["status"], item["ad_id"]
            elif item["code"] == "image_unknown":
                # What was there has been let go of since; it is sent again.
                for image in one.images:
                    self._there.pop(image.sha256, None)
            elif item["code"] in _LATER_CODES:
                full = True
            else:
                outcome.status = "refused"
        return (_retry_after(answer) or 1.0) if full else None

    def _images(self, one: OutgoingAd, outcome: Outcome) -> list[dict[str, str]]:
        found = []
        outcome.refused_images.clear()
        for image in one.images:
            try:
                self.put_image(image)
            except Refused as error:
                outcome.refused_images.append((image, str(error)))
            else:
                found.append({"sha256": image.sha256, "filename": image.filename[:200]})
        return found

    def _request(
        self, method: str, path: str, body: bytes, kind: str = "application/octet-stream"
    ) -> httpx2.Response:
        headers = {"content-type": kind}
        return self._tried(
            f"{method} {path}",
            lambda: self._http.request(method, path, content=body, headers=headers),
        )

    def _tried(self, what: str, send: Callable[[], httpx2.Response]) -> httpx2.Response:
        """One request, made again while that may help."""
        attempts = Retrying(
            stop=stop_after_attempt(self._attempts),
            wait=_pause,
            retry=retry_if_exception_type((_Later, httpx2.TransportError)),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return attempts(lambda: _checked(what, send()))
        except (_Later, httpx2.TransportError) as error:
            raise GaveUp(f"{what}: {error}") from error


def _checked(what: str, answer: httpx2.Response) -> httpx2.Response:
    """The answer if it is a success; or else raises what to make of it.

    Only Homeward itself can refuse: what a proxy answers is never the end of an ad or an image.
    """
    try:
        told = answer.json()
        if answer.is_success and isinstance(told, dict):
            return answer
        code, detail = str(told["code"]), str(told["detail"])
        ours = str(told["type"]) == _PROBLEM + code and code not in _NO_SUCH_ADDRESS
    except (ValueError, KeyError, TypeError):
        code, detail, ours = f"http_{answer.status_code}", answer.reason_phrase, False
    if answer.status_code in (401, 403):
        raise NotAllowed(f"[{code}] {detail}")
    if answer.status_code in _LATER:
        raise _Later(f"[{code}] {detail}", _retry_after(answer))
    if not ours:
        raise GaveUp(f"{what}: {_not_ours(answer)}")
    raise Refused(code, detail)


def _not_ours(answer: httpx2.Response) -> str:
    text = (
        f"status {answer.status_code} came from something that is not Homeward, such as a proxy "
        "in between, or from an address that Homeward does not have. Nothing is lost."
    )
    if answer.status_code == 413:
        text += " The proxy limits the size of a request: raise that (nginx: client_max_body_size)."
    elif answer.is_redirect:
        text += " It is a redirect, and none is followed: give the address that it leads to."
    return text


def _text(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _remember(kept: OrderedDict[str, Any], sha256: str, value: Any) -> None:
    kept[sha256] = value
    if len(kept) > REMEMBERED:
        kept.popitem(last=False)


_growing = wait_random_exponential(multiplier=0.5, max=30)


def _pause(state: RetryCallState) -> float:
    """What the service asks for, or else longer each time; a little apart from other senders."""
    error = state.outcome.exception() if state.outcome is not None else None
    pause = float(_growing(state))
    if isinstance(error, _Later) and error.after is not None:
        pause = error.after + pause / 10
    return min(pause, MOST_SECONDS)


def _retry_after(answer: httpx2.Response) -> float | None:
    """Seconds of ``Retry-After``, which may be a number or a date (RFC 9110)."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
