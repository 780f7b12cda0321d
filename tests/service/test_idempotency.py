"""The same request twice under one Idempotency-Key does its work once."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from service.idempotency import IdempotencyGuard, IdempotencyInProgress
from tests.service.conftest import post_case, problem

KEY = {"idempotency-key": "3f0c-1"}


def test_the_first_answer_is_repeated(client: TestClient) -> None:
    case = {"case_number": "1", "person": {}}
    first = client.post("/v1/cases", json=case, headers=KEY)
    second = client.post("/v1/cases", json=case, headers=KEY)
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert len(client.get("/v1/cases").json()["items"]) == 1


def test_another_content_under_the_key_is_refused(client: TestClient) -> None:
    client.post("/v1/cases", json={"case_number": "1"}, headers=KEY)
    answer = client.post("/v1/cases", json={"case_number": "2"}, headers=KEY)
    problem(answer, 422, "idempotency_key_reused")
    assert len(client.get("/v1/cases").json()["items"]) == 1


def test_multipart_is_compared_by_content_not_by_boundary(
    client: TestClient, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    case_id = post_case(client)
    path = f"/v1/cases/{case_id}/photos"
    first = client.post(path, files={"file": ("p.jpg", portrait_bytes)}, headers=KEY)
    second = client.post(path, files={"file": ("p.jpg", portrait_bytes)}, headers=KEY)
    assert first.status_code == 201, first.text
    assert second.headers["idempotency-replayed"] == "true"
    assert first.json() == second.json()
    other = client.post(path, files={"file": ("p.jpg", mirrored_bytes)}, headers=KEY)
    problem(other, 422, "idempotency_key_reused")


def test_a_refused_request_may_be_corrected_under_its_key(
    client: TestClient, nobody_bytes: bytes, portrait_bytes: bytes
) -> None:
    path = f"/v1/cases/{post_case(client)}/photos"
    problem(client.post(path, files={"file": nobody_bytes}, headers=KEY), 422, "no_face_found")
    assert client.post(path, files={"file": portrait_bytes}, headers=KEY).status_code == 201


def test_a_search_is_made_anew_but_its_key_is_bound(
    client: TestClient, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    path = f"/v1/cases/{post_case(client)}/search"
    data = {"purpose": "training"}
    first = client.post(path, files={"file": portrait_bytes}, data=data, headers=KEY)
    second = client.post(path, files={"file": portrait_bytes}, data=data, headers=KEY)
    assert first.status_code == second.status_code == 200
    assert first.json()["search_id"] != second.json()["search_id"]
    other = client.post(path, files={"file": mirrored_bytes}, data=data, headers=KEY)
    problem(other, 422, "idempotency_key_reused")


def test_a_forgotten_case_is_not_replayed(client: TestClient) -> None:
    case = {"case_number": "1", "person": {"name": "Sample Person"}}
    case_id = client.post("/v1/cases", json=case, headers=KEY).json()["case_id"]
    assert client.delete(f"/v1/cases/{case_id}").status_code == 204
    again = client.post("/v1/cases", json=case, headers=KEY)
    assert again.status_code == 201
    assert again.json()["case_id"] != case_id


@pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
def test_a_bad_key_is_refused(client: TestClient, key: str) -> None:
    answer = client.post("/v1/cases", json={"case_number": "1"}, headers={"idempotency-key": key})
    problem(answer, 422, "validation_failed")


def test_two_at_once_do_not_both_work() -> None:
    guard = IdempotencyGuard()
    with guard.alone("owner", "key"):
        with guard.alone("other owner", "key"):
            pass
        with pytest.raises(IdempotencyInProgress), guard.alone("owner", "key"):
            pass
    with guard.alone("owner", "key"):
        pass
