"""A time-stamping authority of the tests: OpenSSL's own, behind a small server on loopback."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_CONFIG = """
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[req]
distinguished_name = name
[name]
[tsa]
default_tsa = tsa1
[tsa1]
serial = {folder}/serial
signer_cert = {folder}/leaf.pem
signer_key = {folder}/leaf.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha512
ess_cert_id_alg = sha256
"""


class Authority:
    """Answers requests with stamps. ``replayed``: give this answer instead, whatever is asked;
    ``away``: refuse to answer; ``asked``: every request so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.url = ""
        self.away = False
        self.replayed: bytes | None = None
        self.asked: list[bytes] = []
        self.answers: list[bytes] = []
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder))
        (folder / "serial").write_text("01")
        self._certificates()

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

    def _certificates(self) -> None:
        key = ("-newkey", "rsa:2048", "-nodes", "-config", "tsa.cnf")
        ca = ("-x509", "-days", "30", "-extensions", "ca", "-subj", "/CN=Test root")
        self._openssl("req", *ca, *key, "-keyout", "ca.key", "-out", "ca.pem")
        self._openssl(
            *("req", *key, "-subj", "/CN=Test authority", "-keyout", "leaf.key"),
            *("-out", "leaf.csr"),
        )
        self._openssl(
            *("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "30", "-extfile", "tsa.cnf", "-extensions", "leaf"),
            *("-out", "leaf.pem"),
        )

    def stamp(self, query: bytes) -> bytes:
        """The answer to a request."""
        (self.folder / "query.tsq").write_bytes(query)
        self._openssl(
            *("ts", "-reply", "-config", "tsa.cnf", "-section", "tsa1"),
            *("-queryfile", "query.tsq", "-out", "answer.tsr"),
        )
        return (self.folder / "answer.tsr").read_bytes()


@contextmanager
def authority(folder: Path) -> Iterator[Authority]:
    """An authority that listens on loopback."""
    made = Authority(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["content-length"]))
            made.asked.append(query)
            assert self.headers["content-type"] == "application/timestamp-query"
            if made.away:
                self.send_error(503)
                return
            answer = made.replayed if made.replayed is not None else made.stamp(query)
            made.answers.append(answer)
            self.send_response(200)
            self.send_header("content-type", "application/timestamp-reply")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
