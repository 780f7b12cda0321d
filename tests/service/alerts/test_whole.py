"""From an ad to the receiver: the parts together, in a service that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from indexer import jobs, notify
from indexer.catalog.tables import Job
from indexer.records import JobRecord
from indexer.workspace import Workspace, open_workspace
from tests.indexer.small import SmallAnalyser, face_picture
from tests.indexer.watch import CALIBRATION
from tests.service.alerts.conftest import Live, Receiver, events
from tests.service.conftest import post_ad, post_case


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with open_workspace(tmp_path / "data", SmallAnalyser(), calibration=CALIBRATION) as opened:
        yield opened


def deliveries(ws: Workspace, state: str, attempts: int = 0) -> list[JobRecord]:
    """The deliveries, once each was tried so often and is in this state."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = [job for job in jobs.list_jobs(ws).items if job.kind == "deliver_webhook"]
        tried = all(job.attempts >= attempts for job in found)
        if found and tried and {job.state for job in found} == {state}:
            return found
        time.sleep(0.05)
    pytest.fail(f"the deliveries are {[job.state for job in found]}, not {state}")


def test_an_ad_is_told_to_feed_stream_and_webhook(
    ws: Workspace,
    start_live: Callable[..., Live],
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("indexer.runner._REST_S", 0.1)
    live = start_live(webhook_allow_private=True)
    receiver.status = 503
    with live.client() as client:
        case_id = post_case(client)
        url = f"http://127.0.0.1:{receiver.port}/in"
        webhook = client.post("/v1/webhooks", json={"url": url}).json()
        photo = {"file": ("photo.png", face_picture(1))}
        assert client.post(f"/v1/cases/{case_id}/photos", files=photo).status_code == 201
        with client.stream("GET", "/v1/alerts/events") as answer:
            seen = events(answer)
            assert next(seen).name == "ready"
            for number in ("7", "8"):
                # The very same picture in two ads: one sighting, one alert.
                post_ad(client, number, [("a.png", face_picture(1, 1))])
            alert = next(seen).data
        (waiting,) = deliveries(ws, "queued", attempts=1)
        assert waiting.run_after is not None
        receiver.status = 204
        with ws.catalog.write() as session:
            session.get_one(Job, waiting.job_id).run_after = None
        deliveries(ws, "done")
        (listed,) = client.get("/v1/alerts").json()["items"]
        assert listed["alert_id"] == alert["alert_id"] and listed["case_id"] == case_id
        assert listed["false_match_rate_upper"] is not None
        assert {one.headers["webhook-id"] for one in receiver.received} == {alert["alert_id"]}
        last = receiver.received[-1]
        message = Webhook(webhook["secret"]).verify(last.body, last.headers)
        assert message["data"]["candidate_id"] == listed["candidate_id"]
        assert message["data"]["band"] == listed["band"]


def test_what_a_receiver_refuses_is_a_failed_job_with_its_reason(
    ws: Workspace, start_live: Callable[..., Live], receiver: Receiver
) -> None:
    live = start_live(webhook_allow_private=True)
    receiver.status = 410
    url = f"http://127.0.0.1:{receiver.port}/in?token=topsecret"
    notify.add_webhook(ws.catalog, url, secret="whsec_c2VjcmV0")
    with live.client() as client:
        case_id = post_case(client)
        photo = {"file": ("photo.png", face_picture(1))}
        client.post(f"/v1/cases/{case_id}/photos", files=photo)
        post_ad(client, "7", [("a.png", face_picture(1, 1))])
        (failed,) = deliveries(ws, "failed")
        body = client.get(f"/v1/jobs/{failed.job_id}").json()
    assert body["state"] == "failed" and body["kind"] == "deliver_webhook"
    assert "status 410" in body["failures"][0]["detail"]
    assert "topsecret" not in str(body)
    assert len(receiver.received) == 1
