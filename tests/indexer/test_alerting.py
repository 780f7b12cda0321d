"""Alerts: raised once, for what is rare, whichever of case and ad comes second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from indexer import (
    alerting,
    candidates,
    cases,
    forget,
    jobs,
    judgements,
    queue,
    reading,
    watchlist,
)
from indexer.ad_faces import capture_images, vectors_of
from indexer.catalog.tables import Alert, Candidate, Face, Judgement
from indexer.errors import CandidateNotFound, CaseClosed
from indexer.galleries import add_faces
from indexer.ids import new_id
from indexer.workspace import Workspace, WorkspaceOptions
from tests.indexer.conftest import Reopen
from tests.indexer.small import colour, face_picture, picture
from tests.indexer.watch import alerts_of, candidate_of, open_case, send, show


def test_an_ad_that_comes_after_the_case(watched: Workspace) -> None:
    case_id = open_case(watched, 1)
    receipt = show(watched, "a", face_picture(1), face_picture(2))
    (alert,) = alerts_of(watched)
    row = candidate_of(watched, case_id, receipt.images[0].sha256)
    assert (alert.case_id, alert.candidate_id, alert.face_id, alert.lead_id) == (
        case_id,
        row.candidate_id,
        row.face_id,
        row.lead_id,
    )
    assert alert.score == pytest.approx(row.score)
    assert alert.gallery_size == 2
    assert alert.expected_false == pytest.approx(1e-4 * alerting.LEAST_GALLERY)
    assert (alert.expected_false_limit, alert.tightened) == (1.0, False)


def test_a_case_that_comes_after_the_ad(watched: Workspace) -> None:
    show(watched, "a", face_picture(1))
    assert alerts_of(watched) == []
    case_id = open_case(watched, 1)
    jobs.run_pending(watched)
    assert [alert.case_id for alert in alerts_of(watched)] == [case_id]


def test_looking_at_the_list_first_takes_no_alert_away(watched: Workspace) -> None:
    case_id = open_case(watched, 1)
    jobs.run_pending(watched)
    receipt = send(watched, "a", face_picture(1))
    (claimed,) = queue.claim(watched, 16)
    # The list is asked for between the face entering the gallery and the probe of the cases.
    with watched.catalog.read() as session:
        shas = capture_images(session, claimed.job_id)
    reading._analyse_pending(watched, shas, {claimed.job_id: set(shas)}, alone=False)
    with watched.catalog.write() as session:
        add_faces(
            session,
            "ads",
            watched.contract_id,
            list(vectors_of(session, watched.contract_id, shas)),
        )
    assert len(candidates.ranked(watched, case_id).items) == 1
    assert alerts_of(watched) == [], "reading raises none"
    assert jobs.run_claimed(watched, [claimed])
    assert [alert.case_id for alert in alerts_of(watched)] == [case_id]
    assert receipt.created


def test_the_same_is_told_once(watched: Workspace) -> None:
    case_id = open_case(watched, 1)
    show(watched, "a", face_picture(1))
    show(watched, "a", face_picture(1))
    show(watched, "b", face_picture(1))
    cases.add_photo(watched, case_id, face_picture(1, 91))
    jobs.run_pending(watched)
    assert len(alerts_of(watched)) == 1


def test_another_picture_in_a_known_lead_is_told(watched: Workspace) -> None:
    case_id = open_case(watched, 1)
    show(watched, "a", face_picture(1, 1))
    show(watched, "a", face_picture(1, 1), face_picture(1, 2))
    first, second = alerts_of(watched, case_id)
    assert first.lead_id == second.lead_id
    assert first.face_id != second.face_id


def test_each_case_is_told(watched: Workspace) -> None:
    ids = {open_case(watched, 1), open_case(watched, 1, 91), open_case(watched, 2)}
    show(watched, "a", face_picture(1), face_picture(2))
    assert {alert.case_id for alert in alerts_of(watched)} == ids
    assert len(alerts_of(watched)) == 3


def test_a_case_has_its_own_limit(watched: Workspace) -> None:
    strict = open_case(watched, 1, alert_expected_false=0.001)
    normal = open_case(watched, 1, 91)
    show(watched, "a", face_picture(1))
    assert [alert.case_id for alert in alerts_of(watched)] == [normal]
    listed = candidates.ranked(watched, strict).items
    assert listed[0].status == "unreviewed", "the list knows no threshold"


def test_a_closed_case_is_told_nothing(watched: Workspace) -> None:
    case_id = open_case(watched, 1)
    jobs.run_pending(watched)
    cases.update_case(watched, case_id, {"status": "found"})
    show(watched, "a", face_picture(1))
    assert alerts_of(watched) == []
    cases.update_case(watched, case_id, {"status": "open"})
    jobs.run_pending(watched)
    assert [alert.case_id for alert in alerts_of(watched)] == [case_id]


def test_without_a_calibration_nothing_is_told(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "a", face_picture(1))
    assert alerts_of(ws) == []
    assert len(candidates.ranked(ws, case_id).items) == 1


# --- the budget ------------------------------------------------------------------------------


def _last_week(ws: Workspace) -> None:
    with ws.catalog.write() as session:
        session.execute(update(Alert).values(created_at=Alert.created_at))
        for alert in session.query(Alert):
            alert.created_at -= timedelta(days=8)


def test_a_spent_budget_tightens_and_holds_back_and_lets_go(watched: Workspace) -> None:
    case_id = open_case(watched, 1, alert_budget=2)
    show(watched, "a", *(face_picture(1, n) for n in range(6)))
    told = alerts_of(watched)
    # The first two at 1 stranger, two more at a tenth; a hundredth is below these scores.
    assert [alert.expected_false_limit for alert in told] == [1.0, 1.0, 0.1, 0.1]
    assert [alert.tightened for alert in told] == [False, False, True, True]
    assert [alert.score for alert in told] == sorted((a.score for a in told), reverse=True)
    assert len(candidates.ranked(watched, case_id).items) == 1, "one ad is one lead"
    assert alerting.release_held(watched) == 0
    _last_week(watched)
    assert alerting.release_held(watched) == 2
    assert alerting.release_held(watched) == 0
    assert len({alert.sighting_id for alert in alerts_of(watched)}) == 6


def test_the_surest_come_through_whatever_the_budget(watched: Workspace) -> None:
    case_id = open_case(watched, 1, alert_budget=1)
    show(watched, "a", *(face_picture(1, n) for n in range(8)))
    before = len(alerts_of(watched))
    assert before < 8
    show(watched, "b", face_picture(1, 90))  # the enrolled photo itself
    assert len(alerts_of(watched, case_id)) == before + 1
    assert alerts_of(watched)[-1].tightened


def test_a_clock_set_back_does_not_spend_the_budget_for_years(watched: Workspace) -> None:
    open_case(watched, 1, alert_budget=1)
    show(watched, "a", face_picture(1, 1))
    with watched.catalog.write() as session:
        session.execute(update(Alert).values(created_at=datetime(2190, 1, 1, tzinfo=UTC)))
    show(watched, "b", face_picture(1, 2))
    assert [alert.tightened for alert in alerts_of(watched)] == [False, False]


def test_what_is_judged_while_it_is_held_back_is_not_told(watched: Workspace) -> None:
    case_id = open_case(watched, 1, alert_budget=1)
    receipt = show(watched, "a", *(face_picture(1, n) for n in range(5)))
    told = {alert.candidate_id for alert in alerts_of(watched)}
    held = [
        row.candidate_id
        for image in receipt.images
        if (row := candidate_of(watched, case_id, image.sha256)).candidate_id not in told
    ]
    assert held
    for candidate_id in held:
        judgements.judge(watched, candidate_id, "inconclusive", "sample", actor="a")
    _last_week(watched)
    assert alerting.release_held(watched) == 0


def test_a_forgotten_photo_takes_what_it_found_along(watched: Workspace) -> None:
    case_id = open_case(watched, 1, alert_budget=1)
    wrong = cases.add_photo(watched, case_id, face_picture(2, 90)).photo_id
    right = show(watched, "a", face_picture(1, 90), face_picture(1, 5))
    strangers = show(watched, "b", face_picture(2, 1), face_picture(2, 2), face_picture(2, 3))
    judged = candidate_of(watched, case_id, strangers.images[2].sha256).candidate_id
    judgements.judge(watched, judged, "inconclusive", "sample", actor="a")
    told = alerts_of(watched)
    known = candidate_of(watched, case_id, right.images[0].sha256).candidate_id
    assert known in {alert.candidate_id for alert in told}
    with watched.catalog.read() as session:
        held = session.query(Candidate).filter(Candidate.held_at.is_not(None)).count()
    assert held, "a stranger waits to be told"
    forget.forget_photo(watched, case_id, wrong)
    _last_week(watched)
    assert alerting.release_held(watched) == 0
    with watched.catalog.read() as session:
        assert [row.candidate_id for row in session.query(Candidate)] == [judged]
    assert jobs.run_pending(watched) == 1, "the photo that is left searches again"
    after = alerts_of(watched)
    stays = [alert.seq for alert in told]
    assert [alert.seq for alert in after][: len(told)] == stays, "what was told stays"
    shas = {image.sha256 for image in strangers.images}
    again = candidate_of(watched, case_id, right.images[0].sha256)
    assert again.candidate_id == known, "its alert leads to it again"
    with watched.catalog.read() as session:
        faces = {row.face_id: row.sha256 for row in session.query(Face)}
    assert not shas & {faces[alert.face_id] for alert in after[len(told) :]}
    assert len({alert.face_id for alert in after}) == len(after), "nothing is told twice"


def test_what_a_forgotten_photo_found_does_not_come_after_it(
    watched: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = open_case(watched, 1)
    wrong = cases.add_photo(watched, case_id, face_picture(2, 90)).photo_id
    jobs.run_pending(watched)
    fused = watchlist._fused

    def fused_and_forgotten(*given: Any) -> Any:
        found = fused(*given)
        monkeypatch.undo()
        forget.forget_photo(watched, case_id, wrong)
        return found

    monkeypatch.setattr(watchlist, "_fused", fused_and_forgotten)
    show(watched, "a", face_picture(2, 1))
    assert alerts_of(watched) == []


# --- judgements ------------------------------------------------------------------------------


def test_judgements_are_kept_and_superseded(watched: Workspace) -> None:
    case_id = open_case(watched, 1)
    receipt = show(watched, "a", face_picture(1))
    candidate_id = candidate_of(watched, case_id, receipt.images[0].sha256).candidate_id
    first = judgements.judge(
        watched,
        candidate_id,
        "supports_same",
        "the ears are alike",
        components={"ears": "similar", "nose": "not_visible"},
        actor="reviewer-1",
    )
    second = judgements.judge(
        watched, candidate_id, "supports_different", "a scar is missing", actor="reviewer-2"
    )
    assert second.supersedes == first.judgement_id
    assert judgements.judgements_of(watched, candidate_id) == (first, second)
    assert first.components == {"ears": "similar", "nose": "not_visible"}
    assert candidates.get_candidate(watched, candidate_id).status == "supports_different"
    with pytest.raises(CandidateNotFound):
        judgements.judge(watched, new_id(), "inconclusive", "x", actor="a")
    with pytest.raises(CandidateNotFound):
        judgements.judgements_of(watched, new_id())
    cases.update_case(watched, case_id, {"status": "closed"})
    with pytest.raises(CaseClosed):
        judgements.judge(watched, candidate_id, "inconclusive", "x", actor="a")


def test_what_was_decided_stays_decided(watched: Workspace) -> None:
    case_id = open_case(watched, 1)
    receipt = show(watched, "a", face_picture(1))
    sha256 = receipt.images[0].sha256
    row = candidate_of(watched, case_id, sha256)
    judgements.judge(watched, row.candidate_id, "supports_different", "sample", actor="a")
    # Sent again, in another ad, and after the ads that had it were forgotten.
    second = show(watched, "b", face_picture(1))
    assert candidate_of(watched, case_id, sha256).status == "supports_different"
    for one in (receipt, second):
        forget.forget_ad(watched, one.ad_id)
    show(watched, "c", face_picture(1))
    again = candidate_of(watched, case_id, sha256)
    assert again.candidate_id != row.candidate_id
    assert again.status == "supports_different"
    assert len(alerts_of(watched)) == 1, "and is not told again"
    assert judgements.judgements_of(watched, again.candidate_id)[0].candidate_id == row.candidate_id


def test_a_decision_holds_for_its_pair_only(watched: Workspace) -> None:
    case_id, other = open_case(watched, 1), open_case(watched, 1, 91)
    pair = picture((10, 20, 60, colour(1)), (110, 20, 60, colour(1, 3)))
    sha256 = show(watched, "a", pair).images[0].sha256
    with watched.catalog.read() as session:
        rows = session.query(Candidate).filter_by(case_id=case_id).all()
    assert len(rows) == 2
    judgements.judge(watched, rows[0].candidate_id, "supports_different", "sample", actor="a")
    show(watched, "b", face_picture(1, 5))
    with watched.catalog.read() as session:
        statuses = {
            (row.case_id, row.candidate_id == rows[0].candidate_id, row.status)
            for row in session.query(Candidate)
            if row.case_id == case_id or row.face_id == rows[0].face_id
        }
    assert sha256
    assert statuses == {
        (case_id, True, "supports_different"),
        (case_id, False, "unreviewed"),
        (other, False, "unreviewed"),
    }


def test_a_case_takes_its_judgements_with_it(watched: Workspace) -> None:
    case_id = open_case(watched, 1)
    sha256 = show(watched, "a", face_picture(1)).images[0].sha256
    row = candidate_of(watched, case_id, sha256)
    judgements.judge(watched, row.candidate_id, "inconclusive", "sample", actor="a")
    forget.forget_case(watched, case_id)
    with watched.catalog.read() as session:
        assert session.query(Judgement).count() == 0
        assert session.query(Alert).count() == 0


def test_more_cases_than_neighbours_are_all_told(
    watched: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.watchlist._NEIGHBOURS", 3)
    ids = {open_case(watched, 1, photo) for photo in range(60, 75)}
    show(watched, "a", face_picture(1))
    assert {alert.case_id for alert in alerts_of(watched)} == ids


def test_more_leads_than_a_list_shows_are_all_told(watched: Workspace) -> None:
    options: WorkspaceOptions = watched.options
    assert options.alert_budget > candidates.LISTED
    for n in range(candidates.LISTED + 20):
        send(watched, str(n), face_picture(1, n))
    jobs.run_pending(watched)
    case_id = open_case(watched, 1)
    jobs.run_pending(watched)
    assert len(alerts_of(watched, case_id)) == candidates.LISTED + 20


def test_both_at_once_by_two_processes(reopen_watched: Reopen) -> None:
    """Whichever order two processes do their work in, the pair is told once."""
    one, two = reopen_watched(), reopen_watched()
    send(one, "a", face_picture(1))
    open_case(two, 1)
    (case_job,) = queue.claim(one, 16)
    (ad_job,) = queue.claim(two, 16)
    assert jobs.run_claimed(two, [ad_job])
    assert jobs.run_claimed(one, [case_job])
    assert len(alerts_of(one)) == 1


# --- large galleries, changed limits ---------------------------------------------------------


def test_the_surest_are_told_however_large_the_gallery(
    watched: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a million faces the calibration can promise ten strangers at best, and one is allowed."""
    monkeypatch.setattr(alerting, "LEAST_GALLERY", 1_000_000)
    case_id = open_case(watched, 1)
    show(watched, "a", face_picture(1, 90), face_picture(1, 5))
    (alert,) = alerts_of(watched, case_id)
    assert alert.score == pytest.approx(1.0)
    assert alert.expected_false == pytest.approx(10.0)
    assert alert.expected_false > alert.expected_false_limit == 1.0, "and it says so"


def test_a_limit_that_is_raised_tells_what_is_stored(watched: Workspace) -> None:
    case_id = open_case(watched, 1, alert_expected_false=0.02)
    show(watched, "a", face_picture(1))
    assert alerts_of(watched) == []
    cases.update_case(watched, case_id, {"alert_expected_false": 0.01})
    assert jobs.waiting(watched) == 0
    cases.update_case(watched, case_id, {"alert_expected_false": 5.0})
    jobs.run_pending(watched)
    assert len(alerts_of(watched, case_id)) == 1


def test_a_copy_that_was_told_lets_go_of_the_held_ones(watched: Workspace) -> None:
    case_id = open_case(watched, 1, alert_budget=1)
    first, *rest = (face_picture(1, n) for n in range(5))
    show(watched, "a", first, *rest)
    held = [row for row in _candidates(watched, case_id) if row.held_at is not None]
    assert held
    with watched.catalog.write() as session:
        # As if two of those that are held were copies of one picture.
        session.execute(
            update(Candidate)
            .where(Candidate.candidate_id.in_([row.candidate_id for row in held]))
            .values(sighting_id=held[0].sighting_id)
        )
    _last_week(watched)
    assert alerting.release_held(watched) == 1
    assert [row for row in _candidates(watched, case_id) if row.held_at is not None] == []


def _candidates(ws: Workspace, case_id: str) -> list[Candidate]:
    with ws.catalog.read() as session:
        return list(session.query(Candidate).filter_by(case_id=case_id))
