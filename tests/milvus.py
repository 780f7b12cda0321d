"""A real Milvus for the tests: the standalone server that the package ``milvus`` carries.

The package's own starter changes the working directory of the process and leaves sockets open, so
the server is started here: a child process in a folder of its own, which can be killed and
started again over the same data.
"""

from __future__ import annotations

import fcntl
import importlib.util
import lzma
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 120
_TICK_MS = 20
"""How often the server moves its clock on, which every strong read waits for; 200 by default."""

_LOOK_MS = 50
"""How often the server looks whether what is to be in memory is there, which reading a collection
waits for several times; 500 to 10,000 by default."""

_SESSION_SECONDS = 2
"""After how long a server that was killed is given up by the one that follows; 30 by default."""

_LOOKS = ("checkInterval", "checkSegmentInterval", "checkChannelInterval", "distPullInterval")

# The server goes when the tests go, however they end (PR_SET_PDEATHSIG of prctl(2)).
_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class MilvusAbsent(Exception):
    """The package with the server is not made for this platform."""


class MilvusServer:
    """A server over the data in ``folder``; ``uri`` is where it listens, the same each time.

    ``programs`` is where the server is unpacked, once for all.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        spec = importlib.util.find_spec("milvus")
        if spec is None or not spec.submodule_search_locations:
            raise MilvusAbsent("the package milvus, which carries the server, is not installed")
        package = Path(spec.submodule_search_locations[0]) / "data"
        self._folder = folder
        self._programs = programs
        _unpack(package / "bin", programs)
        self._port, self._health = _free_port(), _free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._configure(package)
        self._process: subprocess.Popen[bytes] | None = None

    def _configure(self, package: Path) -> None:
        values = {
            "proxy_port": str(self._port),
            "etcd_port": str(_free_port()),
            "etcd_data_dir": str(self._folder / "etcd"),
            "etcd_log_path": str(self._folder / "etcd.log"),
            "local_storage_dir": str(self._folder / "data"),
            "rocksmq_data_dir": str(self._folder / "rocksmq"),
            "system_log_path": str(self._folder),
        }

        def value(place: re.Match[str]) -> str:
            name, default = place["name"], place["default"]
            return values.get(name) or (str(_free_port()) if name.endswith("_port") else default)

        text = (package / "config.yaml.template").read_text(encoding="utf-8")
        text = re.sub(
            r"\{\{\s*(?P<name>\w+)(\(\w+\))?(:\s*(?P<default>[^}]*?))?\s*\}\}", value, text
        )
        etcd = self._folder / "configs" / "etcd.yaml"
        text = text.replace("\netcd:\n", f"\netcd:\n  config:\n    path: {etcd}\n", 1)
        text = re.sub(r"(?m)^  ip:.*$", "  ip: 127.0.0.1", text)
        text = re.sub(r"(?m)^  timeTickInterval:.*$", f"  timeTickInterval: {_TICK_MS}", text)
        text = re.sub(r"(?m)^  (checkInterval|distPullInterval):.*\n", "", text)
        looks = "".join(f"  {name}: {_LOOK_MS}\n" for name in _LOOKS)
        text = re.sub(r"(?m)^queryCoord:.*\n", f"queryCoord:\n{looks}", text)
        text = re.sub(r"(?m)^    ttl: 30 ", f"    ttl: {_SESSION_SECONDS} ", text)
        (self._folder / "configs").mkdir()
        (self._folder / "run").mkdir()
        etcd.write_text(_etcd(values["etcd_port"], self._folder / "etcd"), encoding="utf-8")
        (self._folder / "configs" / "milvus.yaml").write_text(text, encoding="utf-8")
        shutil.copy(package / "glog.conf", self._folder / "configs")

    def start(self) -> None:
        """Start the server and wait until it says that it is healthy."""
        assert self._process is None
        environment = os.environ | {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health),
            "MILVUS_RUN_DIR": str(self._folder / "run"),
            "LD_LIBRARY_PATH": str(self._programs),
        }
        program = str(self._programs / "milvus")
        with (self._folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WITH_PARENT, program, "run", "standalone"],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + _START_SECONDS
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"Milvus did not start; see {self._folder / 'output.log'}")
            time.sleep(0.1)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/healthz") as answer:
                return b"OK" in answer.read()
        except OSError:
            return False

    def kill(self) -> None:
        """End the server as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def _etcd(port: str, data: Path) -> str:
    """The configuration of the etcd inside, which would listen on ports of its own choice."""
    here, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{_free_port()}"
    return (
        f"name: only\ndata-dir: {data}\n"
        f"listen-client-urls: {here}\nadvertise-client-urls: {here}\n"
        f"listen-peer-urls: {peers}\ninitial-advertise-peer-urls: {peers}\n"
        f"initial-cluster: only={peers}\n"
    )


def _unpack(packed: Path, programs: Path) -> None:
    """Unpack what is not unpacked yet; other test processes wait."""
    programs.mkdir(parents=True, exist_ok=True)
    with (programs / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for source in packed.glob("*.lzma"):
            target = programs / source.stem
            if target.exists():
                continue
            temporary = target.with_suffix(".part")
            with lzma.open(source) as reader, temporary.open("wb") as writer:
                shutil.copyfileobj(reader, writer, 2**20)
            temporary.chmod(0o755)
            temporary.rename(target)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_milvus(folder: Path, programs: Path) -> Iterator[MilvusServer]:
    """A server in an empty folder. Raises :class:`MilvusAbsent` where there is none."""
    server = MilvusServer(folder, programs)
    try:
        server.start()
        yield server
    finally:
        server.kill()
