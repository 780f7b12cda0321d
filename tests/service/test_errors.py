"""Every error of the tree has a place in the one table, and says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
from fastapi.testclient import TestClient

import indexer.errors
import models.errors
import service.accounts.errors
import service.errors
from indexer import cases
from indexer.errors import StorageAway, StorageDenied, StorageFull
from models.errors import HomewardError, ImageCode, PackDigestMismatch
from service.errors import STATUS_BY_CODE, field_errors, status_of, title_of
from tests.service.conftest import problem

NEVER_OVER_HTTP = {
    "delivery_failed",  # the reason of a job that failed
    "item_invalid",  # a line of a file
    "quarantine_item_not_found",  # a command
    "source_unreadable",  # a file of the command line
    "idempotency_conflict",  # told as idempotency_key_reused
}
PACK_CODES = {
    "gpu_lost",
    "inference_failed",
    "licence_invalid",
    "licence_not_accepted",
    "pack_differs",
    "pack_digest_mismatch",
    "pack_download_failed",
    "pack_in_use",
    "pack_missing",
    "pack_source_invalid",
    "pack_unusable",
    "provider_unavailable",
}


def _codes() -> Iterator[str]:
    for module in (models.errors, indexer.errors, service.errors, service.accounts.errors):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, HomewardError):
                yield value.code
    yield from get_args(ImageCode)


def test_every_code_has_a_status() -> None:
    missing = set(_codes()) - set(STATUS_BY_CODE) - NEVER_OVER_HTTP - PACK_CODES
    assert missing == set()


def test_titles_are_text() -> None:
    for code in STATUS_BY_CODE:
        assert title_of(code)
        assert "_" not in title_of(code)


def test_a_broken_pack_is_no_fault_of_the_client() -> None:
    assert status_of(PackDigestMismatch("x")) == 503


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageFull("blobs"), 507, "storage_full"),
        (StorageDenied("blobs"), 503, "storage_denied"),
        (StorageAway("the store", "no answer"), 503, "storage_away"),
    ],
)
def test_storage_errors_are_told_with_a_remedy(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    error: HomewardError,
    status: int,
    code: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cases, "create_case", fail)
    body = problem(client.post("/v1/cases", json={"case_number": "1"}), status, code)
    assert body["remedy"]


def test_field_errors_hold_no_value() -> None:
    item = {"loc": ("body", "person", "name"), "msg": "too long", "input": "secret", "ctx": {}}
    assert field_errors([item]) == [{"field": "person.name", "message": "too long"}]
