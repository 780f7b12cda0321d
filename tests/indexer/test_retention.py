"""Ads age out slowly, and not at all where the clock contradicts them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from indexer import ads, candidates, cases, jobs, judgements, purges, retention, times
from indexer.blobs import sha256_hex
from indexer.catalog.tables import Ad
from indexer.records import CaseInput, Upload
from indexer.times import utc_now
from indexer.workspace import Workspace
from tests.indexer.small import face_picture
from tests.indexer.test_ads import ad

DAYS = 30


@pytest.fixture
def ageing(ws: Workspace) -> Workspace:
    """A workspace in which ads are forgotten after thirty days."""
    ws.options = replace(ws.options, ad_max_age_days=DAYS)
    return ws


def receive(ws: Workspace, count: int, *, days_ago: float = 0, site: str = "example.test") -> None:
    moment = utc_now() - timedelta(days=days_ago)
    for number in range(count):
        ad_id = ads.receive_ad(ws, ad(f"{days_ago}-{number}", site=site), []).ad_id
        with ws.catalog.write() as session:
            session.get_one(Ad, ad_id).last_received_at = moment


def left(ws: Workspace) -> int:
    return len(ads.list_ads(ws, limit=1000).items)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[timedelta]:
    """How far the clock of the machine is off; only labels are made from it."""
    off = [timedelta(0)]

    def shifted() -> datetime:
        return times.utc_now() + off[0]

    monkeypatch.setattr(retention, "utc_now", shifted)
    return off


def test_ads_age_out_and_that_is_recorded(ageing: Workspace) -> None:
    receive(ageing, 3, days_ago=31)
    receive(ageing, 4, days_ago=29)
    with ageing.catalog.write() as session:
        session.query(Ad).filter_by(external_id="31-0").one().legal_hold = True
    ageing.maintain()
    assert left(ageing) == 5, "one is under hold"
    records = purges.list_purges(ageing).items
    assert [(record.kind, record.actor) for record in records] == [("ad", "retention")] * 2
    ageing.maintain()
    assert left(ageing) == 5


def test_an_ad_that_is_seen_again_is_young_again(ageing: Workspace) -> None:
    receive(ageing, 2, days_ago=31)
    receive(ageing, 3)
    ads.receive_ad(ageing, ad("31-0"), [])
    ageing.maintain()
    assert {record.external_id for record in ads.list_ads(ageing).items} == {
        "31-0",
        *(f"0-{number}" for number in range(3)),
    }


def test_without_an_age_limit_nothing_goes(ws: Workspace) -> None:
    receive(ws, 3, days_ago=5000)
    ws.maintain()
    assert left(ws) == 3


def test_a_clock_that_jumped_ahead_erases_nothing(
    ageing: Workspace, clock: list[timedelta]
) -> None:
    receive(ageing, 10)
    clock[0] = timedelta(days=3650)
    assert retention.forget_aged(ageing) == 0
    assert left(ageing) == 10
    found = retention.look(ageing, DAYS)
    assert (found.due, found.total) == (10, 10)
    assert found.held_back is not None
    assert "jumped" in found.held_back


def test_a_clock_behind_the_ads_erases_nothing(ageing: Workspace, clock: list[timedelta]) -> None:
    receive(ageing, 3, days_ago=100)
    receive(ageing, 4)
    clock[0] = timedelta(days=-1)
    assert retention.forget_aged(ageing) == 0
    held_back = retention.look(ageing, DAYS).held_back
    assert held_back is not None
    assert "behind" in held_back
    clock[0] = timedelta(0)
    assert retention.forget_aged(ageing) == 3


def test_a_share_an_hour_and_no_more(
    ageing: Workspace, monkeypatch: pytest.MonkeyPatch, clock: list[timedelta]
) -> None:
    monkeypatch.setattr(retention, "HOURLY_LEAST", 3)
    receive(ageing, 10, days_ago=31)
    receive(ageing, 12)
    assert retention.forget_aged(ageing) == 3
    assert retention.forget_aged(ageing) == 0, "the hour is used up, for all processes"
    clock[0] = timedelta(hours=1, minutes=1)
    assert retention.forget_aged(ageing) == 3
    assert left(ageing) == 16


def test_a_person_may_do_more_at_once(ageing: Workspace) -> None:
    receive(ageing, 25, days_ago=31)
    receive(ageing, 2, days_ago=31, site="other.test")
    batches = list(retention.forget_older(ageing, DAYS, site="example.test", actor="person"))
    assert [len(batch) for batch in batches] == [20, 5]
    assert left(ageing) == 2
    assert {record.actor for record in purges.list_purges(ageing).items} == {"person"}


def test_an_ad_that_supports_an_open_case_stays(ageing: Workspace) -> None:
    """As long as the case is open, and the judgement in force."""
    person = {number: face_picture(number) for number in (1, 2, 3)}
    case_id = cases.create_case(ageing, CaseInput(case_number="1")).case_id
    cases.add_photo(ageing, case_id, face_picture(1, 9))
    for number, data in person.items():
        ads.receive_ad(ageing, ad(str(number)), [Upload(data)])
    receive(ageing, 20)
    jobs.run_pending(ageing)
    ranked = {
        item.face.sha256: item.candidate_id for item in candidates.ranked(ageing, case_id).items
    }
    judged = {number: ranked[sha256_hex(data)] for number, data in person.items()}

    def judge(number: int, conclusion: judgements.Conclusion) -> None:
        judgements.judge(ageing, judged[number], conclusion, "ears", actor="a")

    judge(1, "strongly_supports_same")
    judge(2, "supports_same")
    judge(3, "inconclusive")

    def aged() -> set[str]:
        with ageing.catalog.write() as session:
            for row in session.query(Ad).filter(Ad.external_id.in_(("1", "2", "3"))):
                row.last_received_at = utc_now() - timedelta(days=31)
        ageing.maintain()
        return {one.external_id for one in ads.list_ads(ageing, limit=100).items} & {"1", "2", "3"}

    assert aged() == {"1", "2"}
    judge(2, "supports_different")
    assert aged() == {"1"}, "superseded"
    cases.update_case(ageing, case_id, {"status": "closed"})
    assert aged() == set()
