"""Passwords: which are taken (NIST SP 800-63B), and how they are kept (argon2id).

The parameters are the second recommended option of RFC 9106, section 4: 3 passes, 4 lanes, 64 MiB.
A verification takes tens of milliseconds of two cores, so callers bound how many run at once.
"""

from __future__ import annotations

import functools
import re
import secrets
import unicodedata
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.profiles import RFC_9106_LOW_MEMORY

from service.accounts.errors import PasswordRefused

SHORTEST: Final = 12
LONGEST: Final = 256
SITE: Final = "homeward"
_OWN_PART: Final = 6
"""Characters that have to be left when names, common words and runs are taken out."""

COMMON: Final = (
    *("password", "passwort", "passw0rd", "p@ssword", "p@ssw0rd", "administrator", "changeme"),
    *("letmein", "iloveyou", "welcome", "sunshine", "princess", "football", "baseball", "monkey"),
    *("dragon", "master", "superman", "batman", "trustno1", "whatever", "starwars", "computer"),
    *("michael", "jennifer", "secret", "summer", "winter", "spring", "autumn", "january"),
    *("qwertyuiop", "qwertzuiop", "azertyuiop", "qwerty", "asdfghjkl", "zxcvbnm", "1q2w3e4r5t"),
    *("1qaz2wsx3edc", "1qaz2wsx", "1q2w3e4r", "zaq12wsx", "abcdefghij", "abcdef", "abc123"),
    *("01234567890", "1234567890", "0987654321", "987654321", "123456789", "12345678", "123456"),
    *("police", "sheriff", "detective", "missing", "admin", "login", "user", "test", "pass"),
)
"""Beginnings and parts of the commonest passwords; the longer ones stand before their parts."""

_hasher: Final = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


def normal(text: str) -> str:
    """The form that is compared: NFKC, so that one keyboard is as good as another."""
    return unicodedata.normalize("NFKC", text)


def check(password: str, *names: str) -> None:
    """Raises :class:`PasswordRefused` for a password that is too short, too long or easily guessed.

    ``names`` are those of the person. No rule says which kinds of characters it has to hold.
    """
    text = normal(password)
    if len(text) < SHORTEST:
        raise PasswordRefused(
            f"A password has at least {SHORTEST} characters.",
            remedy="Several words in a row are easy to remember and hard to guess.",
        )
    if len(text) > LONGEST:
        raise PasswordRefused(f"A password has at most {LONGEST} characters.", remedy="Shorten it.")
    if not _hard_to_guess(text.casefold(), names):
        raise PasswordRefused(
            "This password is too easily guessed: it is little more than a common password, a "
            "name or a repetition.",
            remedy="Use several words that have nothing to do with you or with this service.",
        )


def _hard_to_guess(text: str, names: tuple[str, ...]) -> bool:
    given = [normal(name).casefold() for name in names]
    given += [part for name in given for part in re.split(r"[^\w]+", name)]
    words = sorted({word for word in given if len(word) >= 3}, key=len, reverse=True)
    left = text
    for word in (*words, SITE, *COMMON):
        left = left.replace(word, "")
    # One unit again and again is worth one unit.
    left = re.sub(r"(.{1,6}?)\1+", r"\1", left)
    return len(left) >= _OWN_PART and len(set(text)) >= 5


def hashed(password: str) -> str:
    """The PHC string of argon2id, with a fresh salt."""
    return _hasher.hash(normal(password))


def verify(stored: str | None, password: str) -> bool:
    """Whether ``password`` is the one of ``stored``. Without one the same work is done for nothing,
    so that the time tells nobody whether there is an account."""
    if len(password) > 4 * LONGEST:
        password = password[: 4 * LONGEST]
    try:
        _hasher.verify(stored or _nobodys(), normal(password))
    except (Argon2Error, InvalidHashError):
        return False
    return stored is not None


def outdated(stored: str) -> bool:
    """Whether ``stored`` was made with other parameters than those in use now."""
    return _hasher.check_needs_rehash(stored)


@functools.cache
def _nobodys() -> str:
    """The hash of a random text that nobody knows."""
    return _hasher.hash(secrets.token_urlsafe(32))
