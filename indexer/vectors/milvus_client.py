"""The line to Milvus: a client made on demand, time limits, and errors of our own.

pymilvus is needed by installations that keep their vectors in Milvus, and imported by them only.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from indexer.errors import ExtraMissing, IndexAway, IndexDamaged, StorageError

_CONNECT_FAILED = 2
_COLLECTION_NOT_FOUND = 100
_NOT_LOADED = 101
_INCONSISTENT = 2200  # a row went away between the search and the reading of its vector
_INPUT_CODES = range(1100, 1200)


class NotInMemory(IndexAway):
    """The server has the collection, and somebody let it out of memory: it is to be loaded."""


class ChangedMeanwhile(Exception):
    """Rows changed while they were being read: the same has to be asked again."""


def pymilvus() -> Any:
    """The module. Raises :class:`ExtraMissing` where it is not installed."""
    # At import pymilvus puts what a file .env holds, wherever it finds one above its own folder,
    # into the environment; settings come from where we read them, and from nowhere else.
    os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
    try:
        module = importlib.import_module("pymilvus")
    except ImportError:
        raise ExtraMissing("pymilvus", "scale", "vectors in Milvus") from None
    # It prints every error with a traceback before it raises it; we tell them once, in our words.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return module


def connect(uri: str, *, token: str, database: str, timeout: float) -> Any:
    """A client of the server at ``uri``, with a connection of its own.

    Raises :class:`IndexAway` if it does not answer within ``timeout`` seconds. What pymilvus says
    about a connection may repeat the address with what it holds, so it goes no further.
    """
    module = pymilvus()
    try:
        return module.MilvusClient(
            uri, token=token, db_name=database, timeout=timeout, dedicated=True
        )
    except module.exceptions.ConnectionConfigException:
        raise StorageError(
            "The address of Milvus cannot be used.",
            remedy="Give it as http://host:port or https://host:port.",
        ) from None
    except Exception as error:
        _raise(error, timeout)
        raise


@contextmanager
def calling(timeout: float) -> Generator[None]:
    """Turn what goes wrong in calls to the server into our own errors.

    :class:`IndexAway` for a server that is away, still starts or takes too long,
    :class:`NotInMemory`, :class:`IndexDamaged` for a collection that is gone,
    :class:`ChangedMeanwhile`, and :class:`StorageError` for a request that the server does not
    understand.
    """
    try:
        yield
    except Exception as error:
        _raise(error, timeout)
        raise


def _raise(error: Exception, timeout: float) -> None:
    """Raise what ``error`` means; return if it is none of Milvus's."""
    grpc = importlib.import_module("grpc")
    milvus = pymilvus().MilvusException
    if isinstance(error, grpc.RpcError):
        code = error.code() if hasattr(error, "code") else None
    elif isinstance(error, grpc.FutureTimeoutError):
        code = grpc.StatusCode.DEADLINE_EXCEEDED
    elif isinstance(error, milvus):
        code = error.code
    else:
        return
    if isinstance(code, grpc.StatusCode):
        raise IndexAway(_STATES.get(code.name, code.name).format(timeout=timeout)) from None
    if code == _CONNECT_FAILED:
        raise IndexAway(_STATES["UNAVAILABLE"]) from None
    message = str(getattr(error, "message", ""))
    if code == _INCONSISTENT or "incomplete query result" in message:
        raise ChangedMeanwhile from None
    if code == _COLLECTION_NOT_FOUND or "can't find collection" in message:
        raise IndexDamaged(
            "The collection is gone from Milvus.", remedy="It is filled again from the catalog."
        ) from None
    if code == _NOT_LOADED:
        raise NotInMemory("its collection is not in memory") from None
    if code in _INPUT_CODES or getattr(error, "is_input_error", False):
        raise StorageError(
            f"Milvus does not take a request (its code is {code}).",
            remedy="Check that its version is one that Homeward was tested with.",
        ) from None
    raise IndexAway(f"it reports the error {code}") from None


_STATES = {
    "UNAVAILABLE": "no server is reached",
    "DEADLINE_EXCEEDED": "no answer came within {timeout:g} seconds",
    "UNAUTHENTICATED": "it does not take the credentials",
    "PERMISSION_DENIED": "the account may not do this",
    "RESOURCE_EXHAUSTED": "a request is too large, or too many wait",
    "UNIMPLEMENTED": "what answers there is no Milvus of a version that is known",
}
