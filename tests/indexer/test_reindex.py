"""Another contract: what is stored is read again, searched again, and joins what was known."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import delete, select

from indexer import candidates, cases, forget, health, jobs, queue
from indexer.catalog.tables import Face, ImageHash, Photo
from indexer.records import Progress
from indexer.reindex import outdated, reindex
from indexer.workspace import Workspace, open_workspace
from tests.indexer.conftest import Reopen, url_of
from tests.indexer.small import POISON, SmallAnalyser, colour, face_picture, picture
from tests.indexer.test_candidates import crowd, make_case, scores, send


@pytest.fixture
def stored(opened: Reopen) -> tuple[Workspace, str]:
    """A folder with 31 ads and an open case under the old contract, closed again."""
    ws = opened()
    crowd(ws, 30)
    send(ws, "hers", face_picture(1, 9))
    case_id = make_case(ws, face_picture(1), face_picture(1, 1))
    jobs.run_pending(ws)
    return ws, case_id


def renewed(ws: Workspace) -> Workspace:
    other = SmallAnalyser("small-ffffffffffff")
    return open_workspace(ws.data_dir, other, catalog_url=url_of(ws), take_over=True)


def test_everything_is_searched_again(stored: tuple[Workspace, str]) -> None:
    old, case_id = stored
    before = candidates.ranked(old, case_id, 20)
    assert not outdated(old)
    with renewed(old) as ws:
        left = outdated(ws)
        assert (left.ad_images, left.photos) == (31, 2)
        assert candidates.ranked(ws, case_id, 20).items == ()
        steps: list[Progress] = []
        report = reindex(ws, steps.append)
        assert report.failures == ()
        assert steps[-1].done == steps[-1].total
        assert not outdated(ws)
        after = candidates.ranked(ws, case_id, 20)
        assert after.contract_id == ws.contract_id != before.contract_id
        assert scores(after) == scores(before)
        # The same image is the same lead, whichever contract compared it.
        assert after.items[0].lead.lead_id == before.items[0].lead.lead_id
        again = SmallAnalyser("small-ffffffffffff")
    with open_workspace(old.data_dir, again, catalog_url=url_of(old)) as ws:
        assert reindex(ws).jobs == 0
        assert again.images == 0
    # Going back reads nothing: the vectors of both are still there.
    assert not outdated(old)
    assert reindex(old).jobs == 0
    assert scores(candidates.ranked(old, case_id, 20)) == scores(before)


def test_a_stopped_reindex_goes_on(stored: tuple[Workspace, str]) -> None:
    old, case_id = stored
    before = scores(candidates.ranked(old, case_id, 20))

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with renewed(old) as ws, pytest.raises(KeyboardInterrupt):
        reindex(ws, stop)
    with renewed(old) as ws:
        reindex(ws)
        assert not outdated(ws)
        assert ws.ads.count() == 31
        assert scores(candidates.ranked(ws, case_id, 20)) == before


def test_closed_cases_stay_out(stored: tuple[Workspace, str]) -> None:
    old, case_id = stored
    cases.update_case(old, case_id, {"status": "found"})
    with renewed(old) as ws:
        assert outdated(ws).photos == 0
        reindex(ws)
        assert ws.cases.count() == 0
        cases.update_case(ws, case_id, {"status": "open"})
        jobs.run_pending(ws)
        assert ws.cases.count() == 2


def test_what_cannot_be_read_again_is_listed(opened: Reopen, short_pauses: None) -> None:
    ws = opened()
    send(ws, "poisoned", picture((8, 8, 24, POISON)))
    send(ws, "sound", picture((8, 8, 24, colour(3))))
    jobs.run_pending(ws, patient=True)
    with renewed(ws) as new:
        report = reindex(new)
        assert [failure.code for failure in report.failures] == ["analysis_failed"]
        assert new.ads.count() == 1
        # It was tried under this contract; it is not tried for ever.
        assert reindex(new).jobs == 0


def test_a_deletion_reaches_every_contract(stored: tuple[Workspace, str], tmp_path: Path) -> None:
    old, case_id = stored
    with renewed(old) as ws:
        reindex(ws)
        forget.forget_case(ws, case_id, actor="tester")
        assert ws.cases.count() == 0
    assert old.cases.count() == 0


def test_the_check_up_says_what_is_to_be_done(stored: tuple[Workspace, str]) -> None:
    old, _ = stored
    with renewed(old) as ws:
        wrong = {item.name: item for item in health.check(ws).items if not item.ok}
        assert "31 images" in wrong["contract"].detail
        assert "homeward reindex" in wrong["contract"].remedy
        reindex(ws)
        assert "contract" not in {item.name for item in health.check(ws).items if not item.ok}


def test_a_photo_of_a_case_does_not_hide_the_ad_that_shows_it(opened: Reopen) -> None:
    """The same bytes are analysed as a case's photo first; the ad must be read all the same."""
    old = opened()
    send(old, "hers", face_picture(1))
    jobs.run_pending(old)
    with renewed(old) as ws:
        case_id = make_case(ws, face_picture(1))
        assert outdated(ws).ad_images == 1
        reindex(ws)
        assert ws.ads.count() == 1
        assert len(candidates.ranked(ws, case_id, 5).items) == 1


def test_work_of_a_contract_is_left_to_who_has_its_pack(stored: tuple[Workspace, str]) -> None:
    old, _ = stored
    with renewed(old) as ws:
        report: list[int] = []

        def snatch(_: Progress) -> None:
            # The process of the old contract runs whatever it may take.
            report.append(jobs.run_pending(old, kinds=queue.EMBEDDING))

        assert reindex(ws, snatch).failures == ()
        assert set(report) == {0}
        assert not outdated(ws)


def test_found_takes_away_the_vectors_of_every_contract(stored: tuple[Workspace, str]) -> None:
    old, case_id = stored
    with renewed(old) as ws:
        reindex(ws)
        assert (old.cases.count(), ws.cases.count()) == (2, 2)
        cases.update_case(ws, case_id, {"status": "found"})
        assert (old.cases.count(), ws.cases.count()) == (0, 0)
        with ws.catalog.read() as session:
            kept = session.scalars(
                select(Face.face_id)
                .join(Photo, Photo.sha256 == Face.sha256)
                .where(Face.vector.is_not(None))
            ).all()
        assert kept == []


def test_a_case_without_an_enrolled_photo_is_not_searched(stored: tuple[Workspace, str]) -> None:
    old, case_id = stored
    assert candidates.ranked(old, case_id, 5).search_state.state == "searched"
    with renewed(old) as ws:
        assert candidates.ranked(ws, case_id, 5).search_state.state == "searching"
        jobs.run_pending(ws)
        state = candidates.ranked(ws, case_id, 5).search_state
        assert (state.state, state.up_to) == ("not_searched", None)


def test_images_of_earlier_versions_are_hashed(stored: tuple[Workspace, str]) -> None:
    ws, _ = stored
    with ws.catalog.write() as session:
        before = {row.sha256: row.pdq for row in session.scalars(select(ImageHash))}
        session.execute(delete(ImageHash))
    assert len(before) == 31
    assert reindex(ws).jobs == 0
    with ws.catalog.read() as session:
        assert {row.sha256: row.pdq for row in session.scalars(select(ImageHash))} == before
