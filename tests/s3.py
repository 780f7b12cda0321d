"""An S3-compatible object store for tests: moto's server, spoken to over HTTP on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from indexer.ids import new_id
from indexer.object_blobs import ObjectBlobStore

REGION = "eu-west-1"


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket of the server; ``client`` is boto3's, for what goes on behind Homeward's back."""

    name: str
    endpoint: str
    client: Any

    @property
    def url(self) -> str:
        return f"s3://{self.name}/originals"

    def store(self, incoming: Path, **options: Any) -> ObjectBlobStore:
        given: dict[str, Any] = {"endpoint": self.endpoint, "region": REGION, "allow_http": True}
        given |= options
        return ObjectBlobStore(given.pop("url", self.url), incoming, **given)

    def names(self) -> list[str]:
        """The keys of all objects."""
        listed = self.client.list_objects_v2(Bucket=self.name)
        return [found["Key"] for found in listed.get("Contents", [])]

    def uploads(self) -> list[str]:
        """The ids of uploads in parts that go on, or broke off."""
        listed = self.client.list_multipart_uploads(Bucket=self.name)
        return [found["UploadId"] for found in listed.get("Uploads", [])]

    def write(self, sha256: str, data: bytes) -> None:
        """Put ``data`` where the original ``sha256`` lies."""
        key = f"originals/{sha256[:2]}/{sha256[2:4]}/{sha256}"
        self.client.put_object(Bucket=self.name, Key=key, Body=data)


class Server:
    """The server; what it holds outlives its being stopped and started again."""

    def __init__(self) -> None:
        self._running: Any = None
        self._port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        server.start()
        _, self._port = server.get_host_and_port()
        self._running = server

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def bucket(self, *, versioned: bool = False) -> Bucket:
        """A new, empty bucket."""
        import boto3

        client = boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION)
        name = f"homeward-{new_id()}"
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return Bucket(name, self.endpoint, client)


@contextmanager
def running_s3() -> Iterator[Server]:
    """The server, and credentials for it in the environment, which nothing else may add to."""
    pytest.importorskip("obstore", reason="the extra `scale` is not installed")
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret-key")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = Server()
        try:
            yield server
        finally:
            server.stop()
