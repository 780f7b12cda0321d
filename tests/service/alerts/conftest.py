"""A workspace with a case, certificates made for these tests, and a receiver of webhooks."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from indexer import cases
from indexer.records import CaseInput
from indexer.workspace import Workspace, open_workspace
from service.app import create_app
from service.cli.serve import listen
from tests.indexer.small import SmallAnalyser, face_picture
from tests.service.conftest import KEY, make_settings
from tests.tables import lend_tables

TEAM = ("one@agency.example", "two@agency.example")


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    lend_tables(tmp_path / "data")
    with open_workspace(tmp_path / "data", SmallAnalyser()) as opened:
        yield opened


@pytest.fixture
def case_id(ws: Workspace) -> str:
    made = cases.create_case(ws, CaseInput(case_number="A-1", alert_emails=TEAM))
    cases.add_photo(ws, made.case_id, face_picture(1))
    return made.case_id


# --- certificates ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """What a server shows, and what a client has to trust for it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Certificates]:
    """Makes a certificate for a name, signed by an authority that nobody else knows."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.now(UTC)

    def build(subject: str, issuer: str, public: Any, signer: Any, *, authority: bool) -> Any:
        def named(text: str) -> Any:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, authority, authority, False, False),
                critical=True,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        )
        if not authority:
            names = x509.SubjectAlternativeName([x509.DNSName(subject)])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(signer, hashes.SHA256())

    root = ec.generate_private_key(ec.SECP256R1())
    own = build("test authority", "test authority", root.public_key(), root, authority=True)
    trusted = own.public_bytes(serialization.Encoding.PEM).decode()

    def make(name: str) -> Certificates:
        key = ec.generate_private_key(ec.SECP256R1())
        shown = build(name, "test authority", key.public_key(), root, authority=False)
        path = folder / f"{name}.pem"
        path.write_bytes(
            shown.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(path)
        return Certificates(server, ssl.create_default_context(cadata=trusted))

    return make


# --- a receiver ------------------------------------------------------------------------------


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Takes what is sent to it and answers as it is told."""

    port: int
    received: list[Received] = field(default_factory=list)
    status: int = 204
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    release: threading.Event = field(default_factory=threading.Event)
    """Where ``holds``: the answer waits for this."""
    holds: bool = False


StartReceiver = Callable[..., Receiver]


@pytest.fixture
def start_receiver() -> Iterator[StartReceiver]:
    with ExitStack() as stack:

        def start(tls: ssl.SSLContext | None = None) -> Receiver:
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    length = int(self.headers["content-length"])
                    taken.received.append(
                        Received(
                            self.path,
                            {name.lower(): value for name, value in self.headers.items()},
                            self.rfile.read(length),
                        )
                    )
                    if taken.holds:
                        taken.release.wait(60)
                    self.send_response(taken.status)
                    for name, value in taken.answer_headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(taken.answer)))
                    self.end_headers()
                    self.wfile.write(taken.answer)

                def log_message(self, *_: Any) -> None:
                    pass

            class Server(http.server.ThreadingHTTPServer):
                def handle_error(self, *_: Any) -> None:
                    """A client that goes away is nothing to print."""

            server = Server(("127.0.0.1", 0), Handler)
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            taken = Receiver(server.server_address[1])
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            stack.callback(taken.release.set)
            return taken

        yield start


@pytest.fixture
def receiver(start_receiver: StartReceiver) -> Receiver:
    return start_receiver()


# --- a live service --------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One server-sent event; ``id`` is the last one that was given up to it."""

    name: str
    data: Any
    id: str


def events(answer: httpx2.Response) -> Iterator[Event]:
    """What a browser would see of a stream (HTML, 9.2.6); ``ready`` stands for its beginning."""
    name, data, last = "", list[str](), ""
    for line in answer.iter_lines():
        if line.startswith(": open"):
            yield Event("ready", None, last)
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data.append(line.removeprefix("data: "))
        elif line.startswith("id: "):
            last = line.removeprefix("id: ")
        elif not line:
            if data:
                yield Event(name or "message", json.loads("\n".join(data)), last)
            name, data = "", []


@dataclass(frozen=True)
class Live:
    """A service that listens on loopback."""

    ws: Workspace
    address: str
    state: Any

    def client(self, key: str = KEY) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.address, headers={"authorization": f"Bearer {key}"}, timeout=60
        )


@pytest.fixture
def start_live(ws: Workspace) -> Iterator[Callable[..., Live]]:
    with ExitStack() as stack:

        def start(**changes: Any) -> Live:
            application = create_app(make_settings(ws.data_dir, **changes), ws)
            listener = stack.enter_context(listen("127.0.0.1", 0))
            server = uvicorn.Server(
                uvicorn.Config(
                    application, log_config=None, access_log=False, timeout_graceful_shutdown=30
                )
            )
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join()

            stack.callback(stop)
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            port = listener.getsockname()[1]
            return Live(ws, f"http://127.0.0.1:{port}", application.state)

        yield start


@pytest.fixture
def live(start_live: Callable[..., Live]) -> Live:
    return start_live()
