"""What every test may lean on: real sample pictures, the default pack, and no network.

The sample pictures are photographs that installed packages carry: scikit-image's portrait of an
astronaut (one person, public domain) and insightface's group picture (six people).
"""

from __future__ import annotations

import fcntl
import importlib.util
import io
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before NumPy, OpenCV or ONNX Runtime start their own pools: test processes share two cores.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", ".cache/hypothesis")
_own_server = os.environ.get("HOMEWARD_TEST_POSTGRESQL")
# Settings of the developer's shell must not reach the tests.
for _variable in [name for name in os.environ if name.startswith("HOMEWARD_")]:
    del os.environ[_variable]

import hypothesis
import numpy as np
import pytest
from PIL import Image

from models.types import RgbImage
from tests.postgres import ServerAbsent, TestServer, running_server

if TYPE_CHECKING:
    from models.packs.base import FacePack
    from models.pipeline import Analyser

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
CACHE = REPOSITORY / ".cache"


def _refuse_beyond_loopback(address: object) -> None:
    if not isinstance(address, tuple):
        return  # a local socket
    host = str(address[0])
    try:
        inside = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        raise PermissionError(f"tests use no network, yet something connects to {host}")


class _LoopbackSocket(socket.socket):
    """The socket that all tests use: it connects to this machine only.

    An audit hook would see every connection too, but one written in Python lets threads switch
    inside ``sys.settrace``, which then fails under coverage.
    """

    def connect(self, address: Any) -> None:
        _refuse_beyond_loopback(address)
        super().connect(address)

    def connect_ex(self, address: Any) -> int:
        _refuse_beyond_loopback(address)
        return super().connect_ex(address)


def pytest_configure(config: pytest.Config) -> None:
    socket.socket = _LoopbackSocket  # type: ignore[misc]
    # How long an example takes depends on the machine, and no test asserts a time.
    hypothesis.settings.register_profile(
        "homeward", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("homeward")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, each by its own name, the tests that measure on photos that are not here."""
    if SHARED_DATA.is_dir():
        return
    absent = pytest.mark.skip(reason="the real photos for measuring are not here")
    for item in items:
        if item.get_closest_marker("shared_data"):
            item.add_marker(absent)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One test process at a time; the others wait."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def jpeg(pixels: RgbImage, quality: int = 92) -> bytes:
    """``pixels`` (height, width, 3, uint8, RGB) as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[TestServer]:
    """A real PostgreSQL, started with the first test that needs one."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_server(_own_server))
        except ServerAbsent as absent:
            pytest.skip(str(absent))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The catalog of a test: each test that uses it runs on both databases.

    ``None`` is SQLite in the data folder; else the URL of a fresh database with all tables.
    """
    if request.param == "sqlite":
        yield None
    else:
        server: TestServer = request.getfixturevalue("postgresql")
        with server.database() as url:
            yield url


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos for measuring; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real photos for measuring are not here ({SHARED_DATA})")
    return SHARED_DATA


@pytest.fixture(scope="session")
def group_photo_path() -> Path:
    """insightface's group picture: a JPEG of 1280 x 886 with six people."""
    spec = importlib.util.find_spec("insightface")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data" / "images" / "t1.jpg"


@pytest.fixture(scope="session")
def group_photo_bytes(group_photo_path: Path) -> bytes:
    return group_photo_path.read_bytes()


@pytest.fixture(scope="session")
def group_photo(group_photo_path: Path) -> RgbImage:
    with Image.open(group_photo_path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="session")
def astronaut() -> RgbImage:
    """scikit-image's portrait: 512 x 512, one face."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None and spec.submodule_search_locations
    with Image.open(Path(spec.submodule_search_locations[0]) / "data" / "astronaut.png") as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="session")
def astronaut_bytes(astronaut: RgbImage) -> bytes:
    """The portrait as a JPEG file."""
    return jpeg(astronaut)


@pytest.fixture(scope="session")
def pack_cache() -> Path:
    """Where the default pack is built; kept between runs, since it is checked by digest."""
    return CACHE / "packs"


@pytest.fixture(scope="session")
def pack(pack_cache: Path) -> FacePack:
    """The default face pack, the real one, on one thread."""
    from models.packs.registry import load_pack
    from models.runtime import RuntimeOptions

    with _alone("packs"):
        return load_pack("dlib", packs_dir=pack_cache, runtime=RuntimeOptions(threads=1))


@pytest.fixture(scope="session")
def analyser(pack: FacePack) -> Analyser:
    from models.pipeline import Analyser

    return Analyser(pack)
