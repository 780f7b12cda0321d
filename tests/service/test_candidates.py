"""From a photo to ranked candidates, over HTTP, and what the answer says and does not say."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from indexer.searches import list_searches
from indexer.workspace import Workspace
from models.pipeline import Analyser
from service.api.schemas.candidates import CandidatesOut
from service.app import create_app
from service.search.rank import case_candidates
from service.search.render import candidates_json
from tests.service.conftest import (
    AUTH,
    jpeg,
    make_settings,
    open_with,
    post_ad,
    post_case,
    post_photo,
    problem,
    wait_for_job,
)

Loaded = tuple[TestClient, Workspace, str]


@pytest.fixture(scope="module")
def loaded(
    tmp_path_factory: pytest.TempPathFactory,
    analyser: Analyser,
    portrait: Image.Image,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
    other_bytes: bytes,
    nobody_bytes: bytes,
) -> Iterator[Loaded]:
    """Four ads: two with the very same picture of the person, one with another of her, one not.

    Her two pictures show one face to the model, which makes them one lead of three ads.
    """
    folder: Path = tmp_path_factory.mktemp("loaded")
    settings = make_settings(folder)
    with (
        open_with(settings, analyser) as workspace,
        TestClient(create_app(settings, workspace), headers=AUTH) as client,
    ):
        case_id = post_case(client, "LOOKED-FOR")
        jobs = [post_photo(client, case_id, portrait_bytes).json()["job_id"]]
        same = jpeg(portrait.resize((300, 300)), 70)
        ads: list[tuple[str, list[tuple[str, bytes]], dict[str, Any]]] = [
            ("other", [("o.jpg", other_bytes)], {"region": "North"}),
            ("mirrored", [("m.jpg", mirrored_bytes), ("n.jpg", nobody_bytes)], {"region": "South"}),
            ("same-1", [("s.jpg", same)], {"posted_at": "2026-01-01T00:00:00Z"}),
            ("same-2", [("t.jpg", same)], {"posted_at": "2026-03-01T00:00:00Z"}),
        ]
        for external_id, pictures, fields in ads:
            answer = post_ad(client, external_id, pictures, **fields)
            assert answer.status_code == 202, answer.text
            jobs.append(answer.json()["job_id"])
        for job in jobs:
            assert wait_for_job(client, job)["state"] == "done"
        yield client, workspace, case_id


def test_the_person_ranks_before_the_stranger(loaded: Loaded) -> None:
    client, _, case_id = loaded
    body = client.get(f"/v1/cases/{case_id}/candidates").json()
    assert body["case_id"] == case_id
    assert body["k"] == 20
    assert body["gallery_size"] == 3
    assert body["search_state"]["state"] == "searched"
    assert body["notice"]
    names = [item["ad"]["external_id"] for item in body["items"]]
    assert names == ["same-1", "other"]
    assert [(item["lead"]["ads"], item["lead"]["images"]) for item in body["items"]] == [
        (3, 2),
        (1, 1),
    ]
    assert [item["rank"] for item in body["items"]] == [1, 2]
    scores = [item["score"] for item in body["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(-1 <= score <= 1 for score in scores)


def test_one_lead_for_two_pictures_of_the_person_in_three_ads(loaded: Loaded) -> None:
    client, _, case_id = loaded
    first = client.get(f"/v1/cases/{case_id}/candidates").json()["items"][0]
    assert first["lead"]["ads"] == 3
    assert first["lead"]["images"] == 2
    assert first["lead"]["first_seen"] == "2026-01-01T00:00:00.000Z"
    assert first["lead"]["last_seen"] == "2026-03-01T00:00:00.000Z"


def test_ids_stay_the_same_and_k_is_obeyed(loaded: Loaded) -> None:
    client, _, case_id = loaded
    ids = [
        [item["candidate_id"] for item in client.get(path).json()["items"]]
        for path in (
            f"/v1/cases/{case_id}/candidates",
            f"/v1/cases/{case_id}/candidates",
            f"/v1/cases/{case_id}/candidates?k=1",
        )
    ]
    assert ids[0] == ids[1]
    assert ids[2] == ids[0][:1]
    for bad in ("0", "51", "many", "1e9"):
        answer = client.get(f"/v1/cases/{case_id}/candidates", params={"k": bad})
        problem(answer, 422, "validation_failed")


def test_rates_belong_to_the_calibration_or_are_not_given(loaded: Loaded) -> None:
    client, workspace, case_id = loaded
    body = client.get(f"/v1/cases/{case_id}/candidates").json()
    for item in body["items"]:
        if workspace.calibration is None:
            assert item["band"] is None
            assert item["false_match_rate"] is None
            assert item["expected_false_candidates"] is None
        else:
            assert item["band"] in ("very_strong", "strong", "moderate", "weak")
            assert 0 < item["false_match_rate"] <= item["false_match_rate_upper"] <= 1
            assert item["expected_false_candidates"] == pytest.approx(
                item["false_match_rate"] * body["gallery_size"]
            )


def test_the_command_line_prints_what_http_answers(loaded: Loaded) -> None:
    client, workspace, case_id = loaded
    over_http = client.get(f"/v1/cases/{case_id}/candidates").json()
    printed = candidates_json(case_candidates(workspace, case_id))
    # The moment up to which ads are compared moves on between the two.
    assert printed["search_state"].pop("up_to") >= over_http["search_state"].pop("up_to")
    assert printed == over_http
    assert set(printed) == set(CandidatesOut.model_fields)


def test_no_text_speaks_of_identity(loaded: Loaded) -> None:
    client, _, case_id = loaded
    text = client.get(f"/v1/cases/{case_id}/candidates").text
    text += client.get("/openapi.json").text
    text = re.sub(r"false.match.rate", "", text, flags=re.IGNORECASE)
    for word in (r"\bmatch(es|ed|ing)?\b", r"\bhits?\b", r"\bidentified\b"):
        assert not re.search(word, text, re.IGNORECASE), word


def test_a_search_with_another_photo_is_recorded_and_not_kept(
    loaded: Loaded, mirrored_bytes: bytes, portrait: Image.Image
) -> None:
    client, workspace, case_id = loaded
    probe = jpeg(portrait.rotate(7), 80)
    answer = client.post(
        f"/v1/cases/{case_id}/search",
        files={"file": ("probe.jpg", probe)},
        data={"purpose": "verify_sighting", "purpose_note": "call at 9", "k": "2"},
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [item["ad"]["external_id"] for item in body["items"]] == ["same-1", "other"]
    assert [item["lead"]["ads"] for item in body["items"]] == [3, 1]
    assert body["faces"][0]["face_index"] == body["face_index"] == 0
    assert body["purpose"] == "verify_sighting"
    record = next(
        r for r in list_searches(workspace, case_id).items if r.search_id == body["search_id"]
    )
    assert (record.purpose, record.purpose_note, record.k) == ("verify_sighting", "call at 9", 2)
    assert record.candidate_ids == tuple(item["candidate_id"] for item in body["items"])
    assert record.actor
    assert len(client.get(f"/v1/cases/{case_id}").json()["photos"]) == 1


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"region": "South"}, ["mirrored"]),
        ({"site": "site-a.example", "region": "North"}, ["other"]),
        ({"site": "elsewhere.example"}, []),
        ({"posted_after": "2026-02-01T00:00:00Z"}, ["same-2"]),
        ({"posted_before": "2026-02-01T00:00:00Z"}, ["same-1"]),
    ],
)
def test_a_search_can_be_narrowed(
    loaded: Loaded, portrait_bytes: bytes, fields: dict[str, str], names: list[str]
) -> None:
    client, _, case_id = loaded
    answer = client.post(
        f"/v1/cases/{case_id}/search",
        files={"file": portrait_bytes},
        data={"purpose": "training", **fields},
    )
    assert answer.status_code == 200, answer.text
    assert [item["ad"]["external_id"] for item in answer.json()["items"]] == names


@pytest.mark.parametrize("purpose", [None, "", "curiosity", "training\n"])
def test_a_search_without_a_purpose_is_refused(
    loaded: Loaded, portrait_bytes: bytes, purpose: str | None
) -> None:
    client, workspace, case_id = loaded
    before = len(list_searches(workspace, case_id).items)
    data = {} if purpose is None else {"purpose": purpose}
    answer = client.post(f"/v1/cases/{case_id}/search", files={"file": portrait_bytes}, data=data)
    if purpose is not None and purpose.strip() == "training":
        assert answer.status_code == 200
        return
    body = problem(answer, 422, "purpose_required")
    assert "locate_missing_person" in body["remedy"]
    assert len(list_searches(workspace, case_id).items) == before


def test_bad_fields_of_a_search_are_all_named(loaded: Loaded, portrait_bytes: bytes) -> None:
    client, _, case_id = loaded
    answer = client.post(
        f"/v1/cases/{case_id}/search",
        files={"file": portrait_bytes},
        data={"purpose": "training", "k": "51", "face_index": "x", "posted_after": "1700000000"},
    )
    fields = {error["field"] for error in problem(answer, 422, "validation_failed")["errors"]}
    assert fields == {"k", "face_index", "posted_after"}


def test_a_case_without_photos_has_no_candidates(loaded: Loaded) -> None:
    client, _, _ = loaded
    case_id = post_case(client, "EMPTY")
    body = client.get(f"/v1/cases/{case_id}/candidates").json()
    assert body["items"] == []
    assert body["search_state"]["state"] == "not_searched"


def test_images_are_served_as_pictures_and_nothing_else(
    loaded: Loaded, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    client, _, case_id = loaded
    found = client.post(
        f"/v1/cases/{case_id}/search",
        files={"file": portrait_bytes},
        data={"purpose": "training", "region": "South"},
    )
    (item,) = found.json()["items"]
    assert item["ad"]["external_id"] == "mirrored"
    answer = client.get(f"/v1/images/{item['image_sha256']}")
    assert answer.content == mirrored_bytes
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-disposition"].startswith("inline; filename=")
    assert answer.headers["cache-control"].startswith("no-store")
    crop = client.get(f"/v1/faces/{item['face']['face_id']}/crop")
    assert crop.status_code == 200
    assert crop.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(crop.content)) as picture:
        assert picture.size == (224, 224)


@pytest.mark.parametrize("sha", ["0" * 64, "nonsense", "A" * 64, "..%2F..%2Fcatalog", "%00"])
def test_unknown_images_are_not_found(loaded: Loaded, sha: str) -> None:
    client = loaded[0]
    answer = client.get(f"/v1/images/{sha}")
    assert answer.status_code == 404
    problem(client.get("/v1/faces/nonsense/crop"), 404, "face_not_found")


# --- judgements ------------------------------------------------------------------------------


def test_a_judgement_is_recorded_and_superseded(
    client: TestClient, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    case_id = post_case(client)
    job_id = post_photo(client, case_id, portrait_bytes).json()["job_id"]
    wait_for_job(client, job_id)
    ad = post_ad(client, "1", [("a.jpg", mirrored_bytes)]).json()
    wait_for_job(client, ad["job_id"])
    (item,) = client.get(f"/v1/cases/{case_id}/candidates").json()["items"]
    path = f"/v1/candidates/{item['candidate_id']}/judgements"
    body = {"conclusion": "supports_same", "reason": "the ears", "components": {"ears": "similar"}}
    answer = client.post(path, json=body, headers={"Idempotency-Key": "one"})
    assert answer.status_code == 201, answer.text
    first = answer.json()
    assert first["conclusion"] == "supports_same"
    assert (first["case_id"], first["supersedes"]) == (case_id, None)
    again = client.post(path, json=body, headers={"Idempotency-Key": "one"})
    assert again.json() == first, "sent twice, recorded once"
    second = client.post(path, json={"conclusion": "inconclusive", "reason": "too dark"}).json()
    assert second["supersedes"] == first["judgement_id"]
    (item,) = client.get(f"/v1/cases/{case_id}/candidates").json()["items"]
    assert item["status"] == "inconclusive"


def test_a_judgement_that_cannot_be_recorded_is_refused(client: TestClient) -> None:
    path = "/v1/candidates/01890a5d-ac96-774b-bcce-b302099a8057/judgements"
    good = {"conclusion": "inconclusive", "reason": "x"}
    problem(client.post(path, json=good), 404, "candidate_not_found")
    problem(client.post("/v1/candidates/none/judgements", json=good), 404, "candidate_not_found")
    bad = {"conclusion": "certain", "reason": "", "components": {"aura": "similar", "nose": "same"}}
    body = problem(client.post(path, json=bad), 422, "validation_failed")
    fields = {error["field"].partition(".")[0] for error in body["errors"]}
    assert fields == {"conclusion", "reason", "components"}
    problem(client.post(path, json={**good, "reason": "a\0b"}), 422, "validation_failed")
    problem(client.post(path, json={**good, "score": 1}), 422, "validation_failed")


def test_the_list_says_what_is_told(
    client: TestClient, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    case_id = post_case(client, alert_expected_false=0.5, alert_budget=7)
    post_photo(client, case_id, portrait_bytes)
    wait_for_job(client, post_ad(client, "1", [("a.jpg", mirrored_bytes)]).json()["job_id"])
    found = client.get(f"/v1/cases/{case_id}/candidates").json()
    assert found["alert_expected_false_candidates"] == 0.5
    assert (found["alert_tightened"], found["alert_budget"]) == (False, 7)
    assert found["alerts_this_week"] == 1
    assert found["threshold"] > 0.9, "a small gallery counts as a thousand faces"
