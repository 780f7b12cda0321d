"""What happens at once with a switch, a roll-back or a drop: nothing lost, nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from indexer import candidates, cases, forget, jobs, queue
from indexer.catalog.tables import (
    Alert,
    Case,
    Face,
    GalleryLog,
    GalleryMember,
    ImageAnalysis,
    Job,
)
from indexer.errors import (
    GenerationDropped,
    GenerationIncomplete,
    GenerationNotFound,
    GenerationStateInvalid,
    StorageError,
    StorageFull,
    StorageLow,
)
from indexer.generations import missing, rows, switching
from indexer.records import Progress
from indexer.reindex import reindex
from indexer.workspace import Workspace
from models.types import Face as FoundFace
from models.types import RgbImage
from tests.endurance import both
from tests.endurance.drawn_packs import CONTRACTS, FIRST, SECOND, analyser, calibration, load
from tests.indexer.conftest import Opens, Reopen
from tests.indexer.small import face_picture
from tests.indexer.test_jobs import wait_for
from tests.indexer.watch import alerts_of, open_case, send

OTHER = CONTRACTS[SECOND]


@pytest.fixture
def opened(opens: Opens) -> Reopen:
    """Opens the folder with both packs at hand, as often as called."""
    return opens(calibration=calibration(FIRST), pack=FIRST, load=load)


@pytest.fixture
def ws(opened: Reopen) -> Workspace:
    return opened()


def begun(ws: Workspace) -> Workspace:
    """The view of the other generation, begun."""
    switching.begin(ws, OTHER, SECOND, analyser(SECOND).dimension, actor="tester")
    return ws.views.of(OTHER)


def built(ws: Workspace) -> Workspace:
    """The view of the other generation, whole."""
    view = begun(ws)
    assert reindex(view).failures == ()
    return view


def switch(ws: Workspace) -> Workspace:
    """Have the other generation answer."""
    switching.activate(ws, OTHER, actor="tester")
    return ws.views.current


def drop_other(ws: Workspace) -> None:
    switching.drop(ws, OTHER, actor="tester")
    assert switching.clear(ws, OTHER, most=None)


def left_under(ws: Workspace, contract_id: str) -> int:
    """Rows that speak of a contract."""
    with ws.catalog.read() as session:
        return sum(
            session.scalar(select(func.count()).where(table.contract_id == contract_id)) or 0
            for table in (Face, GalleryMember, GalleryLog, ImageAnalysis, Job)
        )


def check(ws: Workspace) -> both.Counted:
    return both.check_all(ws.data_dir, ws.catalog)


def during_analysis(
    monkeypatch: pytest.MonkeyPatch, view: Workspace, happens: Callable[[], object]
) -> None:
    """Have something happen once, while the next images are being analysed in this view."""
    plain = view.analyser.analyse
    done: list[bool] = []

    def analyse(images: Any) -> list[list[FoundFace]]:
        found = plain(images)
        if not done:
            done.append(True)
            happens()
        return found

    monkeypatch.setattr(view.analyser, "analyse", analyse)


# --- a generation that is dropped meanwhile --------------------------------------------------


def test_what_is_read_while_it_is_dropped_leaves_nothing(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(ws, "one", face_picture(1))
    jobs.run_pending(ws)
    view = begun(ws)
    during_analysis(monkeypatch, view, lambda: drop_other(ws))
    with pytest.raises((GenerationNotFound, GenerationStateInvalid)):
        reindex(view)
    assert left_under(ws, OTHER) == 0
    check(ws)


def test_what_is_enrolled_while_it_is_dropped_leaves_nothing(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_case(ws, 1)
    jobs.run_pending(ws)
    view = begun(ws)
    during_analysis(monkeypatch, view, lambda: drop_other(ws))
    with pytest.raises((GenerationNotFound, GenerationStateInvalid)):
        reindex(view)
    assert left_under(ws, OTHER) == 0
    check(ws)


def test_a_photo_is_not_stored_under_a_dropped_generation(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that began before the roll-back, and ends after what it began with is gone."""
    case_id = open_case(ws, 1)
    jobs.run_pending(ws)
    built(ws)
    view = switch(ws)

    def back() -> None:
        switching.roll_back(ws, actor="tester")
        drop_other(ws)

    during_analysis(monkeypatch, view, back)
    with pytest.raises(GenerationDropped):
        cases.add_photo(view, case_id, face_picture(1, 5))
    assert left_under(ws, OTHER) == 0
    photo = cases.add_photo(ws.views.refresh(), case_id, face_picture(1, 5))
    assert photo.created
    jobs.run_pending(ws)
    check(ws)


def test_a_job_outlives_the_generation_that_it_began_under(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ads are read under the generation in use; where that goes meanwhile, under the next."""
    built(ws)
    view = switch(ws)
    case_id = open_case(view, 1)
    jobs.run_pending(ws)

    def back() -> None:
        switching.roll_back(ws, actor="tester")
        drop_other(ws)

    during_analysis(monkeypatch, view, back)
    send(ws, "hers", face_picture(1, 5))
    jobs.run_pending(ws, patient=True)
    with ws.catalog.read() as session:
        assert set(session.scalars(select(Job.state))) == {"done"}
    assert left_under(ws, OTHER) == 0
    assert check(ws).alerts == len(alerts_of(ws, case_id)) == 1


def test_two_may_clear_at_once(ws: Workspace, opened: Reopen) -> None:
    for number in range(6):
        send(ws, f"ad-{number}", face_picture(number))
    jobs.run_pending(ws)
    built(ws)
    other = opened()
    switching.drop(ws, OTHER, actor="tester")
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda w=one: found.append(switching.clear(w, OTHER, most=None)))
        for one in (ws, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True, True]
    assert switching.clear(ws, OTHER)
    assert left_under(ws, OTHER) == 0


def test_a_dropped_generation_leaves_the_memory_of_all(ws: Workspace, opened: Reopen) -> None:
    """Another process has had it open, and the same contract is built once more."""
    receipts = [send(ws, f"ad-{number}", face_picture(number)) for number in range(4)]
    jobs.run_pending(ws)
    built(ws)
    other = opened()
    view = other.views.of(OTHER)
    assert view.ads.count() == 4
    drop_other(ws)
    forget.forget_ad(ws, receipts[0].ad_id)
    built(ws)
    switch(ws)
    wait_for(lambda: other.views.refresh().contract_id == OTHER)
    current = other.views.current
    assert current.ads.count() == 3
    assert current.ads.health() is None


def test_even_the_first_view_of_a_process_is_built_anew(ws: Workspace, opened: Reopen) -> None:
    receipts = [send(ws, f"ad-{number}", face_picture(number)) for number in range(4)]
    jobs.run_pending(ws)
    built(ws)
    other = opened()
    assert other.ads.count() == 4
    switch(ws)
    switching.drop(ws, CONTRACTS[FIRST], actor="tester")
    assert switching.clear(ws, CONTRACTS[FIRST], most=None)
    forget.forget_ad(ws, receipts[0].ad_id)
    switching.begin(ws, CONTRACTS[FIRST], FIRST, analyser(FIRST).dimension, actor="tester")
    assert reindex(ws.views.of(CONTRACTS[FIRST])).failures == ()
    switching.activate(ws, CONTRACTS[FIRST], actor="tester")
    assert other.views.refresh().contract_id == CONTRACTS[FIRST]
    assert other.views.current.ads.count() == 3
    assert other.views.current.ads.health() is None
    check(ws)


def test_one_that_is_half_dropped_is_used_again_only_once_it_is_gone(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens the folder with the pack of that contract uses it, as after a downgrade."""
    for number in range(6):
        send(ws, f"ad-{number}", face_picture(number))
    open_case(ws, 1)
    jobs.run_pending(ws)
    built(ws)
    switching.drop(ws, OTHER, actor="tester")
    monkeypatch.setattr(switching, "_AT_ONCE", 2)
    assert not switching.clear(ws, OTHER, most=2)
    taking_over = (ws.catalog, OTHER, SECOND, analyser(SECOND).dimension)
    with pytest.raises(GenerationStateInvalid):
        switching.settle(*taking_over, take_over=True)
    assert switching.clear(ws, OTHER, most=None)
    switching.settle(*taking_over, take_over=True)
    view = ws.views.of(OTHER)
    with ws.catalog.read() as session:
        assert missing.look(session, OTHER).ad_images == 6
    assert reindex(view).failures == ()
    jobs.run_pending(ws)
    assert set(check(ws).faces.values()) == {6}


def test_nothing_is_planned_for_one_that_is_dropped(ws: Workspace) -> None:
    send(ws, "one", face_picture(1))
    jobs.run_pending(ws)
    view = begun(ws)
    switching.drop(ws, OTHER, actor="tester")
    with pytest.raises(GenerationStateInvalid):
        reindex(view)
    assert switching.clear(ws, OTHER, most=None)
    assert left_under(ws, OTHER) == 0
    with pytest.raises(GenerationNotFound):
        reindex(view)


# --- a switch meanwhile ----------------------------------------------------------------------


def test_a_case_that_is_opened_again_reaches_both(ws: Workspace) -> None:
    """Its job waits while another generation comes into use, and is then done under that one."""
    case_id = open_case(ws, 1)
    send(ws, "hers", face_picture(1, 5))
    jobs.run_pending(ws)
    built(ws)
    cases.update_case(ws, case_id, {"status": "closed"})
    cases.update_case(ws, case_id, {"status": "open"})
    switching.activate(ws, OTHER, actor="tester") if not _left(ws) else _activate_by_row(ws)
    jobs.run_pending(ws)
    assert set(check(ws).enrolled.values()) == {1}
    switching.roll_back(ws, actor="tester")
    jobs.run_pending(ws)
    check(ws)


def _left(ws: Workspace) -> bool:
    with ws.catalog.read() as session:
        return bool(missing.look(session, OTHER))


def _activate_by_row(ws: Workspace) -> None:
    """As after a kept generation is taken back, which is not asked whether it is whole."""
    with ws.catalog.write() as session:
        rows.require(session, OTHER).state = "kept"
    switching.activate(ws, OTHER, actor="tester")


def test_a_request_that_ends_after_the_switch_reaches_both(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    jobs.run_pending(ws)
    built(ws)
    cases.update_case(ws, case_id, {"status": "closed"})
    switch(ws)
    # The view is the one with which the request began.
    cases.update_case(ws, case_id, {"status": "open"})
    jobs.run_pending(ws)
    assert set(check(ws).enrolled.values()) == {1}


def test_ads_that_are_read_over_a_switch_are_in_both_and_told_once(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = open_case(ws, 1)
    jobs.run_pending(ws)
    built(ws)
    during_analysis(monkeypatch, ws, lambda: switch(ws))
    send(ws, "hers", face_picture(1, 5))
    jobs.run_pending(ws)
    found = check(ws)
    assert set(found.faces.values()) == {1}
    assert len(alerts_of(ws, case_id)) == 1


def test_a_switch_while_a_case_is_closed_tells_nothing_again(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    send(ws, "hers", face_picture(1, 5))
    jobs.run_pending(ws)
    (alert,) = alerts_of(ws, case_id)
    built(ws)
    cases.update_case(ws, case_id, {"status": "closed"})
    switch(ws)
    cases.update_case(ws, case_id, {"status": "open"})
    jobs.run_pending(ws)
    (again,) = alerts_of(ws, case_id)
    assert again.alert_id == alert.alert_id
    check(ws)
    # Nor once nothing of the contract is left under which it was told.
    switching.drop(ws, CONTRACTS[FIRST], actor="tester")
    assert switching.clear(ws, CONTRACTS[FIRST], most=None)
    cases.update_case(ws, case_id, {"status": "closed"})
    cases.update_case(ws, case_id, {"status": "open"})
    jobs.run_pending(ws)
    assert [one.alert_id for one in alerts_of(ws, case_id)] == [alert.alert_id]
    with ws.catalog.read() as session:
        assert session.scalar(select(Face.vector).where(Face.face_id == alert.face_id)) is None


def test_a_late_answer_writes_no_score_of_another_scale(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    for number in range(90):
        send(ws, f"ad-{number}", face_picture(number + 2))
    jobs.run_pending(ws)
    built(ws)
    with ws.catalog.read() as session:
        assert session.get_one(Case, case_id).listed_floor is not None
    switch(ws)
    assert len(candidates.ranked(ws, case_id, 90).items) == 90
    with ws.catalog.read() as session:
        assert session.get_one(Case, case_id).listed_floor is None
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        assert session.get_one(Case, case_id).listed_floor is not None


# --- several at once -------------------------------------------------------------------------


def test_two_processes_plan_the_same_work_once(ws: Workspace, opened: Reopen) -> None:
    for number in range(10):
        send(ws, f"ad-{number}", face_picture(number))
    open_case(ws, 1)
    jobs.run_pending(ws)
    first = begun(ws)
    second = opened().views.of(OTHER)
    reports = []
    start = threading.Barrier(2)

    def run(view: Workspace) -> None:
        start.wait()
        reports.append(reindex(view))

    threads = [threading.Thread(target=run, args=(view,)) for view in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.failures for report in reports] == [(), ()]
    # One that looked before the other had done its share may plan that again, and reads nothing.
    assert 2 <= sum(report.jobs for report in reports) <= 4
    assert set(check(ws).faces.values()) == {10}


def test_all_at_once(ws: Workspace, opened: Reopen) -> None:
    """Ads, photos, deletions, closed cases, builds, switches and drops from several processes."""
    for number in range(12):
        send(ws, f"ad-{number}", face_picture(number))
    case_ids = [open_case(ws, person) for person in (1, 2)]
    jobs.run_pending(ws)
    errors: list[str] = []
    halt = threading.Event()

    def repeat(work: Callable[[Workspace, int], object]) -> None:
        own = opened()
        number = 0
        while not halt.is_set():
            number += 1
            try:
                work(own, number)
            except (GenerationStateInvalid, GenerationNotFound, GenerationDropped):
                pass  # another was first
            except GenerationIncomplete:
                pass
            except Exception as error:  # noqa: BLE001 - each is a finding
                errors.append(f"{work.__name__}: {type(error).__name__} {error}")
            time.sleep(0.01)

    def ingest(own: Workspace, number: int) -> None:
        receipt = send(own.views.refresh(), f"new-{number}", face_picture(number % 9, 20 + number))
        if number % 4 == 0:
            forget.forget_ad(own, receipt.ad_id)

    def close(own: Workspace, number: int) -> None:
        view = own.views.refresh()
        for status in ("closed", "open"):
            cases.update_case(view, case_ids[number % 2], {"status": status})
        if number % 5 == 0:
            cases.add_photo(view, case_ids[0], face_picture(1, 60 + number))

    def work(own: Workspace, _: int) -> None:
        jobs.run_pending(own, 4)
        own.views.keep()

    def build(own: Workspace, _: int) -> None:
        switching.begin(own, OTHER, SECOND, analyser(SECOND).dimension, actor="tester")
        reindex(own.views.of(OTHER))

    def swap(own: Workspace, number: int) -> None:
        with own.catalog.read() as session:
            state = rows.find(session, OTHER).state
        if state == "building":
            switching.activate(own, OTHER, actor="tester")
        elif state == "active":
            switching.roll_back(own, actor="tester")
        elif number % 3 == 0:
            drop_other(own)
        else:
            switching.activate(own, OTHER, actor="tester")

    threads = [
        threading.Thread(target=repeat, args=(one,)) for one in (ingest, close, work, build, swap)
    ]
    for thread in threads:
        thread.start()
    time.sleep(2.5)
    halt.set()
    for thread in threads:
        thread.join(60)
    assert errors == []
    with ws.catalog.read() as session:
        state = {one.contract_id: one.state for one in rows.all_generations(session)}
    if state.get(OTHER) == "dropping":
        assert switching.clear(ws, OTHER, most=None)
    ws.views.refresh()
    jobs.run_pending(ws, patient=True)
    if state.get(OTHER) != "active":
        built(ws)
    reindex(ws.views.refresh())
    jobs.run_pending(ws, patient=True)
    check(ws)


# --- a disk that is full ---------------------------------------------------------------------


def test_a_build_on_a_full_disk_says_so_and_goes_on_later(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        send(ws, f"ad-{number}", face_picture(number))
    jobs.run_pending(ws)
    view = begun(ws)
    tries: list[int] = []
    plain = view.analyser.analyse

    def full(images: list[RgbImage]) -> list[list[FoundFace]]:
        tries.append(len(images))
        raise StorageFull("the catalog")

    monkeypatch.setattr("indexer.reindex._LOOK_S", 0.01)
    monkeypatch.setattr("indexer.reading._read", lambda *_, **__: full([]))
    with pytest.raises(StorageError):
        reindex(view)
    assert 1 < len(tries) < 50
    monkeypatch.undo()
    assert plain == view.analyser.analyse
    with ws.catalog.read() as session:
        # It says nothing about the job.
        assert set(session.scalars(select(Job.attempts).where(Job.state == "queued"))) == {0}
    assert reindex(view).failures == ()
    assert set(check(ws).faces.values()) == {3}


def test_below_the_watermark_nothing_is_built(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = opens(calibration=calibration(FIRST), pack=FIRST, load=load)()
    send(ws, "one", face_picture(1))
    jobs.run_pending(ws)
    view = begun(ws)
    steps: list[Progress] = []
    monkeypatch.setattr("indexer.room.free_bytes", lambda _: -1)
    view.room._seen = None
    with pytest.raises(StorageLow):
        reindex(view, steps.append)
    assert steps == []
    monkeypatch.undo()
    view.room._seen = None
    assert reindex(view).failures == ()
    assert queue.next_due_s(ws) is None
    with ws.catalog.read() as session:
        assert session.scalar(select(func.count()).select_from(Alert)) == 0
