"""A real server on loopback, as ``homeward serve`` sets it up, and raw bytes to and from it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from indexer.workspace import Workspace
from service.app import create_app
from service.cli.hosting import server_config
from service.cli.serve import listen
from service.config import Settings


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back on a raw connection: ``rest`` is everything after the first answer's head."""

    status: int
    headers: dict[str, str]
    rest: bytes


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, *parts: bytes) -> Answer:
        """The answer to these very bytes, read until the server closes."""
        with self.connect() as connection:
            for part in parts:
                connection.sendall(part)
            return parsed(read_all(connection))


@contextmanager
def running(settings: Settings, workspace: Workspace) -> Iterator[Server]:
    """Served from a thread of this process until the block ends."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(create_app(settings, workspace), settings))
    with listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield Server(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    found = bytearray()
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionResetError:
        # Closed with bytes of ours unread; what it said before that has arrived.
        pass
    return bytes(found)


def parsed(data: bytes) -> Answer:
    """The head of the first answer, and the rest as it came."""
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1]) if lines[0] else 0
    pairs = (line.partition(":") for line in lines[1:])
    return Answer(status, {name.lower(): value.strip() for name, _, value in pairs}, rest)
