"""Sending a person to the provider, and taking them back.

Nothing is kept here meanwhile: the browser that begins gets a cookie with 256 random bits, and
``state``, ``nonce`` and the PKCE verifier are made from it. What comes back without that cookie, or
with that of another sign-in, proves nothing; whoever reads ``state`` and ``nonce`` in an address
learns nothing of the cookie or the verifier.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from service.signon.errors import SignOnRefused
from service.signon.provider import Provider
from service.signon.tokens import LONGEST_SIGNED_IN_SECONDS, Proved

CALLBACK: Final = "/sign-in/provider/back"
SECONDS: Final = 600
"""So long a sign-in at the provider may take."""
MAX_CODE: Final = 4_096


def new_secret() -> str:
    """What the browser that begins a sign-in holds."""
    return secrets.token_urlsafe(32)


def redirect_uri(public_url: str) -> str:
    """Where the provider sends people back; it has to be told in advance."""
    return public_url.rstrip("/") + CALLBACK


async def begin(provider: Provider, secret: str, back: str) -> str:
    """The address at the provider to send the browser to. Raises :class:`SignOnAway`."""
    about = await provider.metadata()
    more = {"acr_values": provider.acr[0]} if provider.acr else {}
    address = prepare_grant_uri(
        about.authorization_endpoint,
        client_id=provider.client_id,
        response_type="code",
        redirect_uri=back,
        scope="openid email profile",
        state=_made(secret, "state"),
        nonce=_made(secret, "nonce"),
        code_challenge=create_s256_code_challenge(_made(secret, "verifier")),
        code_challenge_method="S256",
        max_age=str(LONGEST_SIGNED_IN_SECONDS),
        **more,
    )
    return str(address)


async def finish(
    provider: Provider,
    secret: str,
    back: str,
    *,
    code: str = "",
    state: str = "",
    issuer: str = "",
    error: str = "",
) -> Proved:
    """Whom the provider says this is, given what came back in the address.

    ``issuer``: the parameter ``iss`` of RFC 9207, where the provider sends it. Raises
    SignOnRefused and SignOnAway.
    """
    if not secret or not hmac.compare_digest(_made(secret, "state").encode(), state.encode()):
        raise SignOnRefused("state_wrong")
    if error:
        raise SignOnRefused("provider_refused")
    about = await provider.metadata()
    if issuer and issuer != about.issuer:
        raise SignOnRefused("claims_wrong")
    if not 0 < len(code) <= MAX_CODE:
        raise SignOnRefused("answer_unusable")
    return await provider.redeem(code, _made(secret, "verifier"), back, _made(secret, "nonce"))


def _made(secret: str, what: str) -> str:
    """43 characters that only who holds ``secret`` can make, others for each ``what``."""
    digest = hmac.new(secret.encode(), f"homeward sign-on {what}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
