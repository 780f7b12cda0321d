"""The second factor: time-based one-time codes (RFC 6238), and codes for the day without them.

SHA-1, six digits and 30 seconds: what every authenticator understands. A code of the step before or
after is taken too (section 5.2), each step once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import re
import secrets
from datetime import datetime
from typing import Final

import pyotp
import segno

from indexer.catalog.account_tables import User

RECOVERY_CODES: Final = 8
_RECOVERY_BYTES: Final = 10
"""80 random bits, so that a digest without salt or stretching is enough."""
SECRET_BYTES: Final = 20
"""The length of the digest, as RFC 4226 recommends."""
ISSUER: Final = "Homeward"
_SKEW: Final = 1


def secret_of(token: str, user: str) -> str:
    """The secret that a session proposes for ``user``, in base32: made from the text of its
    cookie, so that it is stored nowhere until it is confirmed."""
    made = hmac.new(token.encode(), f"second factor {user}".encode(), hashlib.sha256).digest()
    return base64.b32encode(made[:SECRET_BYTES]).decode()


def accepted_step(secret: str, code: str, last: int | None, now: datetime) -> int | None:
    """The time step that ``code`` belongs to; None where it is wrong or not newer than ``last``."""
    given = re.sub(r"\s", "", code)
    if not re.fullmatch(r"[0-9]{6}", given):
        return None
    totp = pyotp.TOTP(secret)
    current = totp.timecode(now)
    found = None
    for step in range(current - _SKEW, current + _SKEW + 1):
        right = hmac.compare_digest(totp.generate_otp(step), given)
        if right and (last is None or step > last):
            found = step
    return found


def take(user: User, code: str, now: datetime) -> str | None:
    """Use up ``code`` of a person in the caller's write transaction: ``code`` or
    ``recovery_code`` for what it was, None where it is not taken."""
    if user.totp_secret is None:
        return None
    step = accepted_step(user.totp_secret, code, user.totp_step, now)
    if step is not None:
        user.totp_step = step
        return "code"
    digest = recovery_digest(user.user_id, code)
    kept = [known for known in user.recovery_codes if not hmac.compare_digest(known, digest)]
    if len(kept) < len(user.recovery_codes):
        user.recovery_codes = kept
        return "recovery_code"
    return None


def new_recovery_codes(user: User) -> tuple[str, ...]:
    """Give a person fresh codes in the caller's transaction; only their digests are kept."""
    codes = tuple(_recovery_code() for _ in range(RECOVERY_CODES))
    user.recovery_codes = [recovery_digest(user.user_id, code) for code in codes]
    return codes


def recovery_digest(user_id: str, code: str) -> str:
    """The digest of a recovery code, however it was typed."""
    plain = re.sub(r"[^A-Z2-7]", "", code.upper())
    return hashlib.sha256(f"{user_id}\n{plain}".encode()).hexdigest()


def _recovery_code() -> str:
    text = base64.b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode()
    return "-".join(text[i : i + 4] for i in range(0, len(text), 4))


def qr_svg(secret: str, login: str) -> bytes:
    """What an authenticator scans, as an SVG without styles or scripts."""
    address = pyotp.TOTP(secret).provisioning_uri(name=login, issuer_name=ISSUER)
    buffer = io.BytesIO()
    segno.make(address, error="m", micro=False).save(
        buffer,
        kind="svg",
        scale=5,
        border=4,
        dark="#000",
        light="#fff",
        svgclass=None,
        lineclass=None,
        omitsize=False,
    )
    return buffer.getvalue()
