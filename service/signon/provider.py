"""The provider as this service speaks to it: what it says of itself, its keys, and codes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx2
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from service.netconfig import NetworkSettings, is_loopback, words
from service.signon.errors import SignOnAway, SignOnRefused
from service.signon.tokens import Expected, KeyUnknown, Proved, checked

_log = logging.getLogger(__name__)
# It writes the whole address of each request at this level.
logging.getLogger("httpx2").setLevel(logging.WARNING)

DISCOVERY: Final = "/.well-known/openid-configuration"
TIMEOUT_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 512_000
KEEP_SECONDS: Final = 3_600.0
"""So long what the provider says of itself, and its keys, are taken as they were."""
ASK_AGAIN_SECONDS: Final = 30.0
"""Unknown keys make us ask for new ones at most this often: tokens come from outside."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is needed of the provider's discovery document."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    basic: bool


class Provider:
    """One provider. Safe to use from one event loop."""

    def __init__(self, settings: NetworkSettings, *, verify: Any = True) -> None:
        """``settings`` name an issuer. ``verify``: what the provider's certificate is checked
        against; what this machine trusts, unless given."""
        assert settings.oidc_issuer and settings.oidc_client_id and settings.oidc_client_secret
        self.issuer = settings.oidc_issuer
        self.client_id = settings.oidc_client_id
        self.acr = words(settings.oidc_acr)
        self.amr = words(settings.oidc_amr)
        self._secret = settings.oidc_client_secret.get_secret_value()
        self._verify = verify
        self._metadata: tuple[float, Metadata] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._lock = asyncio.Lock()

    async def metadata(self) -> Metadata:
        """What the provider says of itself. Raises :class:`SignOnAway`."""
        async with self._lock:
            if self._metadata is None or time.monotonic() - self._metadata[0] > KEEP_SECONDS:
                found = await self._get(self.issuer.rstrip("/") + DISCOVERY)
                self._metadata = (time.monotonic(), self._understood(found))
            return self._metadata[1]

    async def redeem(self, code: str, verifier: str, redirect_uri: str, nonce: str) -> Proved:
        """Exchange a code for an ID token and check it. Raises SignOnRefused and SignOnAway."""
        about = await self.metadata()
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        auth: tuple[str, str] | None = None
        if about.basic:
            # RFC 6749, section 2.3.1: both are form-encoded first.
            auth = (quote(self.client_id, safe=""), quote(self._secret, safe=""))
        else:
            fields |= {"client_id": self.client_id, "client_secret": self._secret}
        status, answer = await self._ask("POST", about.token_endpoint, data=fields, auth=auth)
        if status != 200:
            error = answer.get("error")
            _log.warning("the provider refused a code: %s", error if _is_word(error) else status)
            raise SignOnRefused("code_refused")
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise SignOnRefused("answer_unusable")
        access = answer.get("access_token")
        expected = Expected(about.issuer, self.client_id, nonce, self.acr, self.amr)
        access_token = access if isinstance(access, str) else ""
        try:
            return checked(token, await self._key_set(), expected, access_token)
        except KeyUnknown:
            pass
        try:
            return checked(token, await self._key_set(fresh=True), expected, access_token)
        except KeyUnknown:
            raise SignOnRefused("signature_wrong") from None

    async def _key_set(self, *, fresh: bool = False) -> KeySet:
        about = await self.metadata()
        async with self._lock:
            age = time.monotonic() - self._keys[0] if self._keys else KEEP_SECONDS
            if self._keys is None or age >= (ASK_AGAIN_SECONDS if fresh else KEEP_SECONDS):
                found = await self._get(about.jwks_uri)
                try:
                    keys = KeySet.import_key_set(found)  # type: ignore[arg-type]
                except (JoseError, ValueError, TypeError, KeyError, AttributeError):
                    raise SignOnAway("its keys cannot be read") from None
                self._keys = (time.monotonic(), keys)
            return self._keys[1]

    def _understood(self, found: dict[str, Any]) -> Metadata:
        issuer = found.get("issuer")
        # A trailing slash is where settings and documents differ most.
        if not isinstance(issuer, str) or issuer.rstrip("/") != self.issuer.rstrip("/"):
            raise SignOnAway("it calls itself by another name than HOMEWARD_OIDC_ISSUER")
        addresses = {}
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            text = found.get(name)
            if not isinstance(text, str) or not self._safe(text):
                raise SignOnAway(f"it names no {name} that can be used")
            addresses[name] = text
        methods = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        basic = not isinstance(methods, list) or "client_secret_basic" in methods
        return Metadata(issuer=issuer, basic=basic, **addresses)

    def _safe(self, text: str) -> bool:
        parts = urlsplit(text)
        if not parts.hostname or "@" in parts.netloc or parts.fragment:
            return False
        local = urlsplit(self.issuer).scheme == "http" and is_loopback(parts.hostname)
        return parts.scheme == "https" or (parts.scheme == "http" and local)

    async def _get(self, address: str) -> dict[str, Any]:
        status, found = await self._ask("GET", address)
        if status != 200:
            raise SignOnAway(f"it answered with status {status}")
        return found

    async def _ask(
        self,
        method: str,
        address: str,
        *,
        data: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON object. Follows no redirect, uses no proxy of the environment's."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                httpx2.AsyncClient(
                    verify=self._verify, trust_env=False, follow_redirects=False
                ) as client,
                client.stream(
                    method, address, data=data, auth=auth, headers={"accept": "application/json"}
                ) as answer,
            ):
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise SignOnAway("its answer is too long")
                status = answer.status_code
        except TimeoutError:
            raise SignOnAway("it did not answer in time") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            # Only its kind: what it says may hold what the other side sent.
            raise SignOnAway(type(error).__name__) from None
        try:
            found = json.loads(bytes(body))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            if status != 200:
                return status, {}
            raise SignOnAway("its answer is no JSON object")
        return status, found


def _is_word(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 40 and value.replace("_", "").isalpha()
