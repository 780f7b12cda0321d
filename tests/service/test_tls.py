"""TLS by certificate files, in a real server and with certificates of a real authority."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import trustme

from service.cli.hosting import CERTIFICATE_LOOK_SECONDS
from service.headers import HSTS
from service.tls import Certificate, TlsUnusable, context_of
from tests.service.conftest import KEY
from tests.service.processes import homeward, serving, wait_until
from tests.service.web.browser import HTML, Reader


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write(folder: Path, made: trustme.LeafCert, name: str = "server") -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return cert, key


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_certificate_that_cannot_be_used_says_why(tmp_path: Path, authority: trustme.CA) -> None:
    cert, key = write(tmp_path, authority.issue_cert("127.0.0.1"))
    context_of(cert, key)
    other_cert, other_key = write(tmp_path, authority.issue_cert("127.0.0.1"), "other")
    old = authority.issue_cert(
        "127.0.0.1",
        not_before=datetime.now(UTC) - timedelta(days=9),
        not_after=datetime.now(UTC) - timedelta(days=1),
    )
    early = authority.issue_cert(
        "127.0.0.1",
        not_before=datetime.now(UTC) + timedelta(days=1),
        not_after=datetime.now(UTC) + timedelta(days=9),
    )
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no certificate")
    for files, words in (
        ((tmp_path / "absent.pem", key), "There is no file"),
        ((cert, tmp_path / "absent.key"), "There is no file"),
        ((tmp_path, key), "cannot be read"),
        ((nothing, key), "holds no certificate"),
        ((cert, nothing), "cannot be used"),
        ((cert, other_key), "is not the one of the certificate"),
        ((other_cert, key), "is not the one of the certificate"),
        (write(tmp_path, old, "old"), "ended on"),
        (write(tmp_path, early, "early"), "is valid from"),
    ):
        with pytest.raises(TlsUnusable, match=words) as refused:
            context_of(*files)
        assert refused.value.remedy


def test_a_locked_key_is_refused_and_asks_nobody(tmp_path: Path, authority: trustme.CA) -> None:
    from cryptography.hazmat.primitives import serialization

    cert, key = write(tmp_path, authority.issue_cert("127.0.0.1"))
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a password"),
    )
    key.write_bytes(locked)
    with pytest.raises(TlsUnusable, match="wants a password"):
        context_of(cert, key)


def test_the_start_is_refused_before_anything_is_made(
    tmp_path: Path, authority: trustme.CA
) -> None:
    cert, _ = write(tmp_path, authority.issue_cert("127.0.0.1"))
    _, key = write(tmp_path, authority.issue_cert("127.0.0.1"), "other")
    run = homeward(tmp_path / "data", "serve", expect=1, tls_cert=str(cert), tls_key=str(key))
    assert "is not the one of" in run.stderr and "HOMEWARD_TLS_KEY" in run.stderr
    run = homeward(tmp_path / "data", "serve", expect=2, tls_cert=str(cert))
    assert "set both or not at all" in run.stderr
    assert not (tmp_path / "data" / "catalog.sqlite3").exists()


def test_a_changed_certificate_is_taken_over_and_half_a_change_is_not(
    tmp_path: Path, authority: trustme.CA
) -> None:
    cert, key = write(tmp_path, authority.issue_cert("127.0.0.1"))
    held = Certificate(cert, key)
    first = _serial(held, authority)
    assert not held.refresh()
    new_cert, new_key = write(tmp_path, authority.issue_cert("127.0.0.1"), "new")
    cert.write_bytes(new_cert.read_bytes())
    assert not held.refresh(), "the key of the new one is not there yet"
    assert _serial(held, authority) == first
    key.write_bytes(new_key.read_bytes())
    assert held.refresh()
    assert _serial(held, authority) != first


def _serial(held: Certificate, authority: trustme.CA) -> object:
    """The serial number that a client is shown, without a server: both sides in memory."""
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(client_in, client_out, server_hostname="127.0.0.1")
    server = held.context.wrap_bio(client_out, client_in, server_side=True)
    for _ in range(10):
        done = 0
        for side in (client, server):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            break
    found = client.getpeercert()
    assert found
    return found["serialNumber"]


def test_a_server_with_a_certificate_speaks_tls_only(tmp_path: Path, authority: trustme.CA) -> None:
    cert, key = write(tmp_path, authority.issue_cert("127.0.0.1"))
    with serving(
        tmp_path / "data",
        tmp_path / "log",
        trusting(authority),
        tls_cert=str(cert),
        tls_key=str(key),
    ) as client:
        assert client.base_url.scheme == "https"
        answer = client.get("/v1/cases")
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"] == HSTS
        redirect = client.get("/cases", headers=HTML)
        assert redirect.status_code == 303
        assert redirect.headers["strict-transport-security"] == HSTS
        _check_cookies(client)
        port = client.base_url.port
        assert port is not None
        _check_versions(port, authority)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://127.0.0.1:{port}/healthz")
        _check_takes_over(port, tmp_path, authority, cert, key)


def _check_cookies(client: httpx2.Client) -> None:
    page = client.get("/sign-in", headers=HTML)
    line = page.headers["set-cookie"]
    assert line.startswith("__Host-homeward_") and "Secure" in line and "Path=/" in line
    assert "Domain" not in line
    form = Reader(page.text).forms[0]
    values = {name: (None, value) for name, value in {**form.values, "key": KEY}.items()}
    done = client.post("/sign-in", files=values, headers=HTML)
    assert done.status_code == 303
    made = [line for line in done.headers.get_list("set-cookie") if "session" in line]
    assert len(made) == 1 and made[0].startswith("__Host-homeward_session=")
    assert "Secure" in made[0] and "HttpOnly" in made[0] and "samesite=strict" in made[0].lower()
    assert client.get("/cases", headers=HTML).status_code == 200


def _check_versions(port: int, authority: trustme.CA) -> None:
    for version, taken in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
        context = trusting(authority)
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            assert (wrapped.version() is not None) is taken
            assert wrapped.compression() is None


def _check_takes_over(
    port: int, folder: Path, authority: trustme.CA, cert: Path, key: Path
) -> None:
    def shown() -> object:
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            trusting(authority).wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            found = wrapped.getpeercert()
            assert found
            return found["serialNumber"]

    before = shown()
    write(folder, authority.issue_cert("127.0.0.1"))
    assert cert.exists() and key.exists()
    wait_until(lambda: shown() != before or None, 6 * CERTIFICATE_LOOK_SECONDS)
