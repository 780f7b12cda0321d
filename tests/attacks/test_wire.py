"""Bytes that no client would send, on a raw connection to a real server."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from service.headers import SECURITY_HEADERS
from service.peers import MAX_HEAD_BYTES
from tests.attacks.conftest import open_small
from tests.attacks.servers import Server, parsed, read_all, running
from tests.indexer.small import face_picture
from tests.service.conftest import AUTH, make_settings, post_ad

KEY_LINE = f"Authorization: {AUTH['authorization']}\r\n".encode()
HOST = b"Host: homeward.example\r\n"
END = b"Connection: close\r\n\r\n"


def request(line: bytes, *headers: bytes, host: bytes = HOST) -> bytes:
    return line + b" HTTP/1.1\r\n" + host + KEY_LINE + b"".join(headers) + END


MALFORMED = {
    "no_version": b"GET /healthz\r\n\r\n",
    "tls_on_a_plain_port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "nul_in_a_header": request(b"GET /healthz", b"X-A: a\x00b\r\n"),
    "nul_in_the_path": request(b"GET /health\x00z"),
    "bare_cr_in_a_header": request(b"GET /healthz", b"X-A: a\rSet-Cookie: b\r\n"),
    "space_before_the_colon": request(b"GET /healthz", b"X-A : a\r\n"),
    "header_without_a_name": request(b"GET /healthz", b": a\r\n"),
    "no_host": request(b"GET /healthz", host=b""),
    "two_hosts": request(b"GET /healthz", host=HOST + b"Host: other.example\r\n"),
    "space_in_the_path": request(b"GET /health z"),
    # Request smuggling: where the body ends must never be a matter of opinion.
    "two_lengths": request(b"POST /v1/cases", b"Content-Length: 5\r\nContent-Length: 6\r\n"),
    "two_lengths_in_one": request(b"POST /v1/cases", b"Content-Length: 5, 6\r\n"),
    "signed_length": request(b"POST /v1/cases", b"Content-Length: +5\r\n"),
    "negative_length": request(b"POST /v1/cases", b"Content-Length: -1\r\n"),
    "length_in_hex": request(b"POST /v1/cases", b"Content-Length: 0x5\r\n"),
    "unknown_coding": request(b"POST /v1/cases", b"Transfer-Encoding: xchunked\r\n"),
    "coding_twice": request(
        b"POST /v1/cases", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"
    ),
    "coding_with_a_tail": request(b"POST /v1/cases", b"Transfer-Encoding: chunked, gzip\r\n"),
    "huge_header": request(b"GET /healthz", b"X-A: " + b"a" * (2 * MAX_HEAD_BYTES) + b"\r\n"),
    "many_headers": request(b"GET /healthz", b"X-A: a\r\n" * (MAX_HEAD_BYTES // 4)),
    "huge_path": request(b"GET /" + b"a" * (2 * MAX_HEAD_BYTES)),
}


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_requests_are_refused_and_the_connection_ends(server: Server, name: str) -> None:
    answer = server.send(MALFORMED[name])
    assert 400 <= answer.status < 500, (answer.status, answer.rest[:200])
    for header, value in SECURITY_HEADERS.items():
        assert answer.headers[header] == value, header
    assert "server" not in answer.headers and "set-cookie" not in answer.headers
    # One answer, then the end: nothing that followed was read as a request of its own.
    assert answer.rest.count(b"HTTP/1.1 ") == 0
    assert server.send(request(b"GET /healthz")).status == 200


SMUGGLED = b"GET /v1/cases HTTP/1.1\r\nHost: homeward.example\r\n" + KEY_LINE + END


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(b"0\r\n\r\n"),
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: CHUNKED\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n",
    ],
)
def test_request_smuggling_by_two_ways_to_end_a_body(server: Server, head: bytes) -> None:
    """With both a length and chunks, chunks win (RFC 9112, section 6.3) or it is refused: never
    does the rest of the body become a request that somebody else's answer is given for."""
    sent = b"POST /v1/cases HTTP/1.1\r\n" + HOST + KEY_LINE + head + b"Connection: close\r\n\r\n"
    answer = server.send(sent + b"0\r\n\r\n" + SMUGGLED)
    assert 400 <= answer.status < 500
    assert b"HTTP/1.1 200" not in answer.rest and b'"items"' not in answer.rest


@pytest.mark.parametrize(
    "chunk",
    [
        b"5;" + b"a" * 40_000 + b"\r\n",
        b"-5\r\nabcde\r\n",
        b"0x5\r\nabcde\r\n",
        b"FFFFFFFFFFFFFFFFFFFFF\r\n",
        b"5\nabcde\n",
    ],
)
def test_chunks_that_lie_are_refused(server: Server, chunk: bytes) -> None:
    head = b"POST /v1/cases HTTP/1.1\r\n" + HOST + KEY_LINE
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = server.send(head + chunk)
    assert answer.status == 0 or 400 <= answer.status < 500
    assert b"HTTP/1.1 2" not in answer.rest
    assert server.send(request(b"GET /healthz")).status == 200


@pytest.mark.parametrize(
    "start", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-"]
)
def test_slow_headers_do_not_hold_a_connection(server: Server, start: bytes) -> None:
    """Some bytes now and then (as Slowloris does) do not prolong the time either."""
    with server.connect() as connection:
        connection.sendall(start)
        connection.settimeout(0.2)
        for _ in range(100):
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                pass
            except ConnectionResetError:
                return
            if start:
                try:
                    connection.sendall(b"a")
                except OSError:
                    return
    pytest.fail("the server waited on")


def test_slow_headers_after_a_first_request_do_not_hold_a_connection(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        first = b""
        while not first.endswith(b'"ok"}'):
            first += connection.recv(65_536)
        assert first.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert read_all(connection) == b""


def test_a_slow_body_is_given_up(server: Server) -> None:
    head = b"POST /v1/cases HTTP/1.1\r\n" + HOST + KEY_LINE
    head += b"Content-Type: application/json\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head + b"{")
        answer = parsed(read_all(connection))
    assert answer.status == 408
    assert b"upload_timeout" in answer.rest


def test_an_oversized_body_is_refused_before_it_is_sent(server: Server) -> None:
    head = b"POST /v1/cases HTTP/1.1\r\n" + HOST + KEY_LINE
    head += b"Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head)
        connection.settimeout(20)
        first = connection.recv(65_536)
    assert first.startswith(b"HTTP/1.1 413")


def test_two_requests_in_one_packet_are_both_answered_in_order(server: Server) -> None:
    """What smuggling lives on works as it should: each is judged by its own key."""
    both = b"GET /v1/cases HTTP/1.1\r\n" + HOST + KEY_LINE + b"\r\n"
    both += b"GET /v1/cases HTTP/1.1\r\n" + HOST + END
    with server.connect() as connection:
        connection.sendall(both)
        found = read_all(connection)
    first, second = found.index(b"HTTP/1.1 200"), found.index(b"HTTP/1.1 401")
    assert first < second


PATHS = (
    b"/static/../config.py",
    b"/static/..%2f..%2fservice/config.py",
    b"/static/%2e%2e/%2e%2e/etc/passwd",
    b"/static/....//....//etc/passwd",
    b"/static//etc/passwd",
    b"/static/homeward.css%00.svg",
    b"/static/..%5c..%5cetc%5cpasswd",
    b"/static/%c0%ae%c0%ae/etc/passwd",
    b"//etc/passwd",
    b"/../../etc/passwd",
    b"http://elsewhere.example/etc/passwd",
    b"/v1/../metrics",
    b"/v1/images/../../etc/passwd",
    b"/v1/images/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
)


@pytest.mark.parametrize("path", PATHS)
def test_paths_lead_to_no_file(server: Server, path: bytes) -> None:
    answer = server.send(request(b"GET " + path))
    assert 400 <= answer.status < 500
    assert b"root:" not in answer.rest and b"import " not in answer.rest


def test_the_page_of_a_key_is_not_reached_by_another_spelling(server: Server) -> None:
    """The gate looks at the path that routes look at."""
    for path in (b"/v1/cases", b"/%76%31/cases", b"/v1/%63ases", b"//v1/cases", b"/v1//cases"):
        answer = server.send(b"GET " + path + b" HTTP/1.1\r\n" + HOST + END)
        assert answer.status in (401, 404), path


def test_what_the_server_is_made_of_is_not_told(server: Server) -> None:
    from service import __version__

    for path in (b"/healthz", b"/nothing", b"/v1/cases", b"/sign-in", b"/cases"):
        answer = server.send(b"GET " + path + b" HTTP/1.1\r\n" + HOST + END)
        shown = str(answer.headers) + answer.rest.decode("utf-8", "replace")
        for word in ("uvicorn", "fastapi", "starlette", "h11", "python", __version__):
            assert word not in shown.lower(), (path, word)


def test_a_method_nobody_knows_is_refused(server: Server) -> None:
    for method in (b"TRACE", b"CONNECT", b"DEBUG", b"FROB"):
        answer = server.send(request(method + b" /v1/cases"))
        assert 400 <= answer.status < 500
        assert b"authorization" not in answer.rest.lower()


def test_the_server_still_answers_after_all_that(server: Server) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if server.send(request(b"GET /readyz")).status == 200:
            return
    pytest.fail("not ready")


def test_half_sent_forms_hold_no_place_of_uploads(tmp_path: Path) -> None:
    """Nobody signed in needs a place that a visitor can hold, and one address holds few."""
    made = make_settings(tmp_path / "data", max_uploads_in_flight=1, upload_wait_seconds=1.0)
    head = (
        b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    with (
        open_small(made) as workspace,
        running(made, workspace) as server,
        ExitStack() as open_ones,
    ):
        for _ in range(4):
            open_ones.enter_context(server.connect()).sendall(head)
        with httpx2.Client(base_url=server.url, headers=AUTH, timeout=20) as client:
            deadline = time.monotonic() + 20
            while client.post("/sign-in", files={"csrf": (None, "x")}).status_code != 503:
                assert time.monotonic() < deadline, "one address holds as many places as it likes"
            assert post_ad(client, "a", [("a.jpg", face_picture(1))]).status_code == 202
