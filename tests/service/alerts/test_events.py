"""Event streams over a live service: nothing lost, nothing twice, and an end when it has to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from indexer import alerts, cases, forget, jobs, queue
from indexer.alerts import alert_cursor, latest_seq
from indexer.ids import new_id
from indexer.records import CaseInput
from indexer.workspace import Workspace
from models.packs.base import FacePack
from service.accounts.keys import KeyStore
from service.alerts import streams
from tests.indexer.raising import add_candidate, raise_alert
from tests.service.alerts.conftest import Event, Live, events
from tests.service.conftest import KEY, problem

StartLive = Callable[..., Live]
ALERTS = "/v1/alerts/events"
ROOT = Path(__file__).parents[3]


def test_a_stream_begins_now_and_tells_what_comes(live: Live, case_id: str) -> None:
    before = raise_alert(live.ws, case_id)
    with live.client() as client, client.stream("GET", ALERTS) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"] and answer.headers["x-accel-buffering"] == "no"
        seen = events(answer)
        assert next(seen).name == "ready"
        candidate_id = add_candidate(live.ws, case_id, 1, "7")
        raised = [raise_alert(live.ws, case_id, candidate_id)]
        first = next(seen)
        assert first.name == "alert" and first.data["alert_id"] == raised[0] != before
        assert first.data["ad"]["external_id"] == "7" and first.data["notice"]
        assert first.data == client.get(f"/v1/alerts/{raised[0]}").json()
        raised += [raise_alert(live.ws, case_id) for _ in range(3)]
        assert [next(seen).data["alert_id"] for _ in range(3)] == raised[1:]


def test_coming_back_misses_none_and_gets_none_twice(live: Live, case_id: str) -> None:
    raised = [raise_alert(live.ws, case_id) for _ in range(streams.BATCH + 10)]
    seen: list[str] = []
    last = alert_cursor(0)
    with live.client() as client:
        while len(seen) < len(raised):
            # Each time the connection is cut after some events, in the middle of what comes.
            with client.stream("GET", ALERTS, headers={"last-event-id": last}) as answer:
                for event, _ in zip(
                    (e for e in events(answer) if e.name == "alert"), range(17), strict=False
                ):
                    seen.append(event.data["alert_id"])
                    last = event.id
                    if len(seen) == len(raised):
                        break
        assert seen == raised
        assert client.get("/v1/alerts", params={"cursor": last}).json()["items"] == []


def test_a_client_that_saw_no_alert_yet_can_come_back_too(live: Live, case_id: str) -> None:
    raise_alert(live.ws, case_id)
    with live.client() as client:
        with client.stream("GET", ALERTS) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": open"
            last = next(lines).removeprefix("id: ")
        assert last == alert_cursor(latest_seq(live.ws))
        missed = raise_alert(live.ws, case_id)
        with client.stream("GET", ALERTS, params={"cursor": last}) as answer:
            found = (event for event in events(answer) if event.name == "alert")
            assert next(found).data["alert_id"] == missed


def test_the_header_goes_before_the_query(live: Live, case_id: str) -> None:
    raised = [raise_alert(live.ws, case_id) for _ in range(2)]
    query = {"cursor": alert_cursor(0)}
    with live.client() as client:
        first = client.get("/v1/alerts", params={"limit": 1}).json()["next_cursor"]
        header = {"last-event-id": first}
        with client.stream("GET", ALERTS, params=query, headers=header) as answer:
            found = (event for event in events(answer) if event.name == "alert")
            assert next(found).data["alert_id"] == raised[1]


def test_a_stream_of_one_case_and_of_open_cases_only(live: Live, case_id: str) -> None:
    other = cases.create_case(live.ws, CaseInput(case_number="A-2")).case_id
    query = {"case_id": case_id, "cursor": alert_cursor(0)}
    raise_alert(live.ws, other)
    mine = raise_alert(live.ws, case_id)
    with live.client() as client:
        with client.stream("GET", ALERTS, params=query) as answer:
            found = (event for event in events(answer) if event.name == "alert")
            assert next(found).data["alert_id"] == mine
        cases.update_case(live.ws, other, {"status": "closed"})
        late = raise_alert(live.ws, case_id)
        with client.stream("GET", ALERTS, params={"cursor": alert_cursor(0)}) as answer:
            found = (event for event in events(answer) if event.name == "alert")
            assert [next(found).data["alert_id"] for _ in range(2)] == [mine, late]


@pytest.mark.parametrize("cursor", ["x", "djE6MQ", "a" * 300])
def test_a_place_that_is_none_is_refused_before_the_stream(live: Live, cursor: str) -> None:
    with live.client() as client:
        for sent in ({"params": {"cursor": cursor}}, {"headers": {"last-event-id": cursor}}):
            answer = client.get(ALERTS, **sent)  # type: ignore[arg-type]
            assert answer.status_code == 422, answer.text
        # A refused stream takes no place.
        assert live.state.service.streams.open == 0


def test_more_streams_than_there_are_places_are_refused(
    start_live: StartLive, case_id: str
) -> None:
    live = start_live(max_event_streams=2)
    with live.client() as client:
        with client.stream("GET", ALERTS) as one, client.stream("GET", ALERTS) as two:
            seen = [events(answer) for answer in (one, two)]
            assert [next(each).name for each in seen] == ["ready", "ready"]
            refused = client.get(ALERTS)
            problem(refused, 503, "overloaded")
            assert refused.headers["retry-after"]
            metrics = client.get("/metrics").text
            assert "homeward_event_streams 2.0" in metrics
            # An open stream is an answer that was given, not one that is being worked on.
            assert "homeward_http_requests_in_flight 1.0" in metrics
            counted = 'homeward_http_requests_total{method="GET",route="/v1/alerts/events"'
            assert f'{counted},status="200"}} 2.0' in metrics
        while live.state.service.streams.open:
            threading.Event().wait(0.02)
        with client.stream("GET", ALERTS) as answer:
            assert next(events(answer)).name == "ready"


def test_one_key_keeps_no_other_out(start_live: StartLive, case_id: str) -> None:
    live = start_live(max_event_streams=20)
    other = KeyStore(live.ws.catalog).create("a team", ("alerts:read",))
    with live.client() as client, live.client(other.text) as second, ExitStack() as stack:

        def begin(who: httpx2.Client) -> Iterator[Event]:
            seen = events(stack.enter_context(who.stream("GET", ALERTS)))
            assert next(seen).name == "ready"
            return seen

        # Kept, because a stream that nobody reads any more is closed.
        kept = [begin(client) for _ in range(5)]
        problem(client.get(ALERTS), 503, "overloaded")
        kept.append(begin(second))
        assert live.state.service.streams.open == 6
        stack.close()
        while live.state.service.streams.open:
            threading.Event().wait(0.02)
        with client.stream("GET", ALERTS) as answer:
            assert next(events(answer)).name == "ready"


def test_a_stream_ends_when_its_key_is_revoked(
    live: Live, case_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RECHECK_S", 0.2)
    store = KeyStore(live.ws.catalog)
    made = store.create("a team", ("alerts:read",))
    with live.client(made.text) as client, client.stream("GET", ALERTS) as answer:
        seen = events(answer)
        assert next(seen).name == "ready"
        store.revoke(made.record.key_id)
        raise_alert(live.ws, case_id)
        assert list(seen) == []
    with live.client(made.text) as client:
        problem(client.get(ALERTS), 401, "unauthenticated")


def test_an_idle_stream_is_kept_alive(
    live: Live, case_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.2)
    with live.client() as client, client.stream("GET", ALERTS) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith(": ping"))


def test_all_streams_of_a_service_share_one_look_at_the_catalog(
    live: Live, case_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    real = alerts.latest_seq

    def counted(ws: Workspace) -> int:
        looks.append(1)
        return real(ws)

    monkeypatch.setattr(alerts, "latest_seq", counted)
    with live.client() as client:
        answers = []
        for _ in range(8):
            answer = client.send(client.build_request("GET", ALERTS), stream=True)
            answers.append(events(answer))
            assert next(answers[-1]).name == "ready"
        before, started = len(looks), time.monotonic()
        raised = {raise_alert(live.ws, case_id)}
        assert {next(seen).data["alert_id"] for seen in answers} == raised
        raised = {raise_alert(live.ws, case_id)}
        assert {next(seen).data["alert_id"] for seen in answers} == raised
        # However long that took: as many looks as one stream would have made.
        assert len(looks) - before <= (time.monotonic() - started) / streams.POLL_S + 2


# --- jobs ------------------------------------------------------------------------------------


def test_a_job_is_followed_to_its_end(start_live: StartLive, case_id: str) -> None:
    live = start_live()
    live.state.service.runner.close()
    with live.ws.catalog.write() as session:
        job_id = queue.enqueue(session, "enrol_case", case_id, total=3)
    with live.client() as client, client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        seen = events(answer)
        first = next(seen)
        assert (first.name, first.data["state"], first.data["done"]) == ("progress", "queued", 0)
        assert queue.claim_one(live.ws, job_id) is not None
        assert next(seen).data["state"] == "running"
        with live.ws.catalog.write() as session:
            queue.advance(session, live.ws.runner_id, job_id, 2)
        assert next(seen).data["done"] == 2
        with live.ws.catalog.write() as session:
            queue.finish(session, live.ws.runner_id, job_id)
        last = next(seen)
        assert last.name == "end" and last.data == client.get(f"/v1/jobs/{job_id}").json()
        assert list(seen) == []


def test_a_job_that_is_over_or_goes_away(start_live: StartLive, case_id: str) -> None:
    live = start_live()
    jobs.run_pending(live.ws)
    live.state.service.runner.close()
    with live.client() as client:
        problem(client.get(f"/v1/jobs/{new_id()}/events"), 404, "job_not_found")
        problem(client.get("/v1/jobs/nonsense/events"), 404, "job_not_found")
        done = jobs.list_jobs(live.ws).items[0].job_id
        with client.stream("GET", f"/v1/jobs/{done}/events") as answer:
            assert [event.name for event in events(answer)] == ["end"]
        with live.ws.catalog.write() as session:
            job_id = queue.enqueue(session, "enrol_case", case_id)
        with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            seen = events(answer)
            assert next(seen).name == "progress"
            forget.forget_case(live.ws, case_id)
            (last,) = list(seen)
            assert (last.name, last.data) == ("end", None)


# --- stopping --------------------------------------------------------------------------------


def test_serve_stops_in_order_while_streams_are_open(
    tmp_path: Path, pack: FacePack, pack_cache: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "packs").symlink_to(pack_cache)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOMEWARD_")}
    environment["HOMEWARD_API_KEY"] = KEY
    process = subprocess.Popen(
        [sys.executable, "-c", "from service.cli import main; main()", "serve", "--port", "0",
         "--data-dir", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "listens on" in said, said
        header = {"authorization": f"Bearer {KEY}"}
        with (
            httpx2.Client(base_url=said.split()[-1], headers=header, timeout=60) as client,
            client.stream("GET", ALERTS) as answer,
        ):
            seen = events(answer)
            assert next(seen).name == "ready"
            process.send_signal(signal.SIGTERM)
            # The answer ends as an answer does: it is not cut off, and nothing waits for it.
            assert list(seen) == []
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
