"""Checking an ID token (OpenID Connect Core 1.0, section 3.1.3.7)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import (
    ExceededSizeError,
    ExpiredTokenError,
    InvalidKeyIdError,
    JoseError,
)
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from service.signon.errors import SignOnRefused

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
)
"""Signatures with the provider's own key. Never ``none``, and never HS*: with those whoever knows
the public key, or the client secret, could sign."""
LEEWAY_SECONDS: Final = 60
OLDEST_SECONDS: Final = 600
"""A token that was made longer ago than this is not the answer to a sign-in begun just now."""
LONGEST_SIGNED_IN_SECONDS: Final = 1_800
"""A person proves who they are anew where they last did at the provider longer ago than this: as
long as a session here may be idle (CJIS AC-11), or the provider's own session would undo that."""
MAX_SUBJECT: Final = 255
"""OpenID Connect Core 1.0, section 2: ``sub`` has at most 255 ASCII characters."""


class KeyUnknown(Exception):
    """No key of the provider has the id that the token names; it may have new ones."""


@dataclass(frozen=True, slots=True)
class Proved:
    """What the provider says of a person. ``email`` only where it says that it is verified;
    ``second_factor``: whether it says so in the way that the settings ask for."""

    issuer: str
    subject: str
    email: str | None
    name: str | None
    second_factor: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token has to say; ``acr`` and ``amr``: values that prove a second factor."""

    issuer: str
    client_id: str
    nonce: str
    acr: Sequence[str] = ()
    amr: Sequence[str] = ()


def checked(
    token: str, keys: KeySet, expected: Expected, access_token: str = "", now: float | None = None
) -> Proved:
    """Whom an ID token speaks of. Raises :class:`SignOnRefused` and :class:`KeyUnknown`."""
    registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    try:
        decoded = jwt.decode(token, keys, algorithms=ALGORITHMS, registry=registry)
    except InvalidKeyIdError:
        raise KeyUnknown from None
    except (JoseError, ExceededSizeError, ValueError, TypeError, KeyError):
        raise SignOnRefused("signature_wrong") from None
    moment = int(time.time() if now is None else now)
    claims = CodeIDToken(
        decoded.claims,
        decoded.header,
        options={
            "iss": {"essential": True, "value": expected.issuer},
            "aud": {"essential": True, "value": expected.client_id},
            "nonce": {"essential": True, "value": expected.nonce},
        },
        params={
            "nonce": expected.nonce,
            "client_id": expected.client_id,
            "access_token": access_token or None,
        },
    )
    try:
        claims.validate(now=moment, leeway=LEEWAY_SECONDS)
    except ExpiredTokenError:
        raise SignOnRefused("token_expired") from None
    except (JoseError, ValueError, TypeError):
        raise SignOnRefused("claims_wrong") from None
    if claims["iat"] < moment - OLDEST_SECONDS:
        raise SignOnRefused("token_expired")
    _signed_in_lately(claims.get("auth_time"), moment)
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT:
        raise SignOnRefused("claims_wrong")
    return Proved(
        issuer=expected.issuer,
        subject=subject,
        email=_email(claims),
        name=_text(claims.get("preferred_username")),
        second_factor=_second_factor(claims, expected),
    )


def _signed_in_lately(auth_time: object, moment: int) -> None:
    """``auth_time`` belongs into the answer to ``max_age`` (section 2), but not every provider
    sends it. Raises :class:`SignOnRefused`."""
    if auth_time is None:
        return
    if isinstance(auth_time, bool) or not isinstance(auth_time, int | float):
        raise SignOnRefused("claims_wrong")
    if auth_time < moment - LONGEST_SIGNED_IN_SECONDS - LEEWAY_SECONDS:
        raise SignOnRefused("signed_in_long_ago")


def _email(claims: Mapping[str, Any]) -> str | None:
    # Anything but the literal truth is none: some providers send it as a text.
    return _text(claims.get("email")) if claims.get("email_verified") is True else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_SUBJECT else None


def _second_factor(claims: Mapping[str, Any], expected: Expected) -> bool:
    if expected.acr and claims.get("acr") in expected.acr:
        return True
    methods = claims.get("amr")
    return isinstance(methods, list) and any(
        isinstance(method, str) and method in expected.amr for method in methods
    )
