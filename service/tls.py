"""TLS by certificate files: checked at the start, read again when they change."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from models.errors import HomewardError

_log = logging.getLogger(__name__)

SOON: Final = timedelta(days=14)
"""A certificate that ends within this time is warned of at the start."""


class TlsUnusable(HomewardError):
    """The certificate or its key cannot be used."""

    code = "tls_unusable"


def context_of(cert: Path, key: Path, now: datetime | None = None) -> ssl.SSLContext:
    """A server's context with the certificate: TLS 1.2 or newer, HTTP/1.1.

    Raises :class:`TlsUnusable` where a file is missing or cannot be read, the key is not that of
    the certificate or wants a password, or the certificate is not valid now.
    """
    ends = _checked_times(cert, now or datetime.now(UTC))
    _read(key, "HOMEWARD_TLS_KEY")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password, so that a locked key is an error and no question on the terminal.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            raise TlsUnusable(
                f"The key {key} is not the one of the certificate {cert}.",
                remedy="Name the key that the certificate was made for in HOMEWARD_TLS_KEY.",
            ) from None
        raise TlsUnusable(
            f"The key {key} cannot be used: it is no key in PEM form, or it wants a password.",
            remedy="Name a file with the unlocked key, which only Homeward's account may read.",
        ) from None
    if ends - (now or datetime.now(UTC)) < SOON:
        _log.warning("the certificate %s ends on %s", cert, f"{ends:%Y-%m-%d}")
    return context


class Certificate:
    """The certificate of a running server. ``context`` stays; each new connection is given the
    newest good certificate, and those that are open keep theirs."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises :class:`TlsUnusable`."""
        self._cert, self._key = cert, key
        self._stamps = self._look()
        self.context = context_of(cert, key)
        self._newest = self.context
        self.context.sni_callback = self._choose

    def refresh(self) -> bool:
        """Take over changed files; whether that was done. A pair that cannot be used is logged
        and the one before stays, so that half a change harms nobody."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            self._newest = context_of(self._cert, self._key)
        except TlsUnusable as error:
            _log.warning("the changed certificate is not used: %s", error.detail)
            return False
        _log.warning("the changed certificate %s is in use", self._cert)
        return True

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _by: ssl.SSLContext
    ) -> None:
        connection.context = self._newest

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._cert, self._key))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        # Follows links, which is how Kubernetes and certbot change files.
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise TlsUnusable(
            f"There is no file {path}.", remedy=f"Name the file in {setting}."
        ) from None
    except OSError as error:
        raise TlsUnusable(
            f"{path} cannot be read: {error.strerror}.",
            remedy="Let the account that Homeward runs under read it, and nobody else.",
        ) from None


def _checked_times(cert: Path, now: datetime) -> datetime:
    data = _read(cert, "HOMEWARD_TLS_CERT")
    try:
        found = x509.load_pem_x509_certificates(data)[0]
    except (ValueError, IndexError):
        raise TlsUnusable(
            f"{cert} holds no certificate in PEM form.",
            remedy="Name the file with the certificate, and those between it and the root after "
            "it, in HOMEWARD_TLS_CERT.",
        ) from None
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    if now >= ends:
        raise TlsUnusable(
            f"The certificate {cert} ended on {ends:%Y-%m-%d}.",
            remedy="Get a new one and put it in its place.",
        )
    if now < begins:
        raise TlsUnusable(
            f"The certificate {cert} is valid from {begins:%Y-%m-%d} on.",
            remedy="Check the clock of this machine, or wait.",
        )
    return ends
