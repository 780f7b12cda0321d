"""Two generations beside each other: built, fed, switched, taken back, dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update

from indexer import (
    ads,
    alerting,
    calibrations,
    candidates,
    cases,
    forget,
    images,
    jobs,
    judgements,
    queue,
    reading,
)
from indexer.calibrations import keep
from indexer.catalog.schema import Base
from indexer.catalog.tables import (
    Case,
    Enrolment,
    Face,
    GalleryMember,
    Generation,
    Job,
)
from indexer.errors import (
    GenerationIncomplete,
    GenerationNotFound,
    GenerationStateInvalid,
    GenerationUnavailable,
    SeveralFacesFound,
)
from indexer.faces import same_place
from indexer.generations import missing, rows, switching
from indexer.generations.views import Loaded, Unloaded
from indexer.records import AdInput, Failure
from indexer.reindex import IMAGES_A_JOB, reindex
from indexer.times import utc_now
from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from models.calibration import Calibration
from models.errors import ContractMismatch
from models.types import Box
from tests.indexer.conftest import url_of
from tests.indexer.small import (
    CONTRACT,
    DIMENSION,
    SmallAnalyser,
    colour,
    face_picture,
    picture,
    vector_of,
)
from tests.indexer.test_candidates import crowd, make_case, scores, send
from tests.indexer.test_jobs import wait_for
from tests.indexer.watch import CALIBRATION, alerts_of
from tests.tables import lend_tables

NEW = "small-ffffffffffff"
NEW_CALIBRATION = Calibration(NEW, CALIBRATION.curves, {})

Opens = Callable[[], Workspace]


@pytest.fixture
def opens(tmp_path_factory: pytest.TempPathFactory, catalog_url: str | None) -> Iterator[Opens]:
    """Opens the folder as a process does that has both packs: it begins with the one in use."""
    folder = tmp_path_factory.mktemp("both") / "data"
    if catalog_url is None:
        lend_tables(folder)
    packs = {
        "first": lambda: Loaded(SmallAnalyser(CONTRACT), CALIBRATION),
        "second": lambda: Loaded(SmallAnalyser(NEW), NEW_CALIBRATION),
    }
    with ExitStack() as stack:

        def opened() -> Workspace:
            return stack.enter_context(
                open_workspace(
                    folder,
                    SmallAnalyser(CONTRACT),
                    catalog_url=catalog_url,
                    calibration=CALIBRATION,
                    options=WorkspaceOptions(alert_budget=100),
                    pack="first",
                    load=lambda generation: packs[generation.pack](),
                )
            )

        yield opened


@pytest.fixture
def ws(opens: Opens) -> Workspace:
    return opens()


def begin(ws: Workspace) -> Workspace:
    """A second generation is being built; its view."""
    switching.begin(ws, NEW, "second", ws.analyser.dimension, actor="tester")
    return ws.views.loaded(NEW)


def build(ws: Workspace) -> Workspace:
    view = begin(ws)
    assert reindex(view).failures == ()
    return view


def switch(ws: Workspace) -> Workspace:
    """Build the second generation and bring it into use; its view, after what that queued."""
    build(ws)
    switching.activate(ws, NEW, actor="tester")
    jobs.run_pending(ws)
    return ws.views.current


def ads_waiting(ws: Workspace) -> int:
    """What counts towards the bound from which no ad is taken in."""
    with ws.catalog.read() as session:
        return queue.waiting_in(session)


def members(ws: Workspace, gallery: str) -> dict[str, int]:
    with ws.catalog.read() as session:
        found = session.execute(
            select(GalleryMember.contract_id, func.count())
            .where(GalleryMember.gallery == gallery)
            .group_by(GalleryMember.contract_id)
        )
        return {row[0]: row[1] for row in found}


def test_it_is_built_beside_and_answers_nothing_until_it_is_in_use(ws: Workspace) -> None:
    crowd(ws, 30)
    send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1), face_picture(1, 1))
    jobs.run_pending(ws)
    before = candidates.ranked(ws, case_id, 20)
    told = len(alerts_of(ws))
    view = build(ws)
    assert ws.views.refresh() is ws
    assert members(ws, "ads") == {CONTRACT: 31, NEW: 31}
    assert members(ws, "cases") == {CONTRACT: 2, NEW: 2}
    during = candidates.ranked(ws, case_id, 20)
    assert during.contract_id == CONTRACT
    assert [item.candidate_id for item in during.items] == [
        item.candidate_id for item in before.items
    ]
    assert len(alerts_of(ws)) == told
    switching.activate(ws, NEW, actor="tester")
    assert ws.views.current is view
    jobs.run_pending(ws)
    after = candidates.ranked(view, case_id, 20)
    assert after.contract_id == NEW
    assert scores(after) == scores(before)
    assert [item.lead.lead_id for item in after.items] == [
        item.lead.lead_id for item in before.items
    ]
    assert len(alerts_of(ws)) == told, "nothing that was told is told again"


def test_what_is_new_goes_to_both(ws: Workspace) -> None:
    build(ws)
    send(ws, "later", face_picture(1, 9), face_picture(2))
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    assert members(ws, "ads") == {CONTRACT: 2, NEW: 2}
    assert members(ws, "cases") == {CONTRACT: 1, NEW: 1}
    switching.activate(ws, NEW, actor="tester")
    send(ws, "latest", face_picture(3))
    photo = cases.add_photo(ws.views.current, case_id, face_picture(1, 4))
    jobs.run_pending(ws)
    assert members(ws, "ads") == {CONTRACT: 3, NEW: 3}
    assert members(ws, "cases") == {CONTRACT: 2, NEW: 2}
    forget.forget_photo(ws.views.current, case_id, photo.photo_id)
    cases.update_case(ws.views.current, case_id, {"status": "found"})
    assert members(ws, "cases") == {}
    cases.update_case(ws.views.current, case_id, {"status": "open"})
    jobs.run_pending(ws)
    assert members(ws, "cases") == {CONTRACT: 1, NEW: 1}


def test_work_of_the_generation_before_reaches_the_one_in_use(ws: Workspace) -> None:
    """A request that began before the switch, and ends after it."""
    view = build(ws)
    crowd(ws, 3)
    hers = send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    switching.activate(ws, NEW, actor="tester")
    case_id = make_case(ws, face_picture(1))  # ``ws`` is the view of the one before
    jobs.run_pending(ws)
    found = candidates.ranked(view, case_id, 5)
    assert found.search_state.state == "searched"
    assert found.items[0].ad.ad_id == hers
    assert [alert.contract_id for alert in alerts_of(ws, case_id)] == [NEW]


def test_every_process_follows(ws: Workspace, opens: Opens) -> None:
    crowd(ws, 5)
    jobs.run_pending(ws)
    other = opens()
    build(ws)
    switching.activate(ws, NEW, actor="tester")
    assert other.views.current is other
    wait_for(lambda: other.views.refresh().contract_id == NEW)
    assert other.views.behind is None
    assert other.views.current.ads.count() == 5
    switching.roll_back(ws, actor="tester")
    assert other.views.refresh() is other


def test_it_comes_into_use_with_the_rates_that_were_measured_meanwhile(ws: Workspace) -> None:
    view = build(ws)
    assert view.calibration is NEW_CALIBRATION
    keep(ws.catalog, Calibration(NEW, CALIBRATION.curves, {"source": "first"}), actor="tester")
    ws.maintain()
    waiting = ws.views.loaded(NEW).calibration
    assert waiting is not None
    assert waiting.provenance == {"source": "first"}
    keep(ws.catalog, Calibration(NEW, CALIBRATION.curves, {"source": "second"}), actor="tester")
    switching.activate(ws, NEW, actor="tester")
    now = ws.views.current
    assert now.contract_id == NEW
    assert now.calibration is not None
    assert now.calibration.provenance == {"source": "second"}
    assert {one.contract_id for one in ws.views.opened()} == {CONTRACT, NEW}
    keep(ws.catalog, Calibration(CONTRACT, CALIBRATION.curves, {"source": "old"}), actor="tester")
    switching.roll_back(ws, actor="tester")
    back = ws.views.current
    assert back.calibration is not None
    assert back.calibration.provenance == {"source": "old"}
    assert back.ads is ws.ads


def test_a_process_that_loads_it_has_the_rates_measured_here(ws: Workspace, opens: Opens) -> None:
    keep(ws.catalog, Calibration(NEW, CALIBRATION.curves, {"source": "here"}), actor="tester")
    begin(ws)
    found = opens().views.loaded(NEW).calibration
    assert found is not None
    assert found.provenance == {"source": "here"}


def test_going_back_loses_nothing(ws: Workspace) -> None:
    crowd(ws, 10)
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1))
    view = switch(ws)
    send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    assert len(alerts_of(ws, case_id)) == 1
    first = candidates.ranked(view, case_id, 5).items[0]
    judgements.judge(view, first.candidate_id, "supports_different", "Another chin.", actor="a")
    found = switching.roll_back(ws, actor="tester")
    assert (found.contract_id, found.state, found.pack) == (CONTRACT, "active", "first")
    jobs.run_pending(ws)
    back = candidates.ranked(ws, case_id, 5)
    assert back.contract_id == CONTRACT
    assert back.items[0].image_sha256 == first.image_sha256
    assert back.items[0].status == "supports_different", "the pair was judged"
    assert back.items[0].lead.lead_id == first.lead.lead_id
    assert len(alerts_of(ws, case_id)) == 1
    with ws.catalog.read() as session:
        said = [(change.event, change.contract_id) for change in rows.changes(session)]
    assert said == [
        ("activated", CONTRACT),
        ("begun", NEW),
        ("activated", NEW),
        ("activated", CONTRACT),
    ]


def test_alerts_are_raised_for_what_only_the_new_one_shows(ws: Workspace) -> None:
    send(ws, "hers", face_picture(1, 9))
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    assert len(alerts_of(ws, case_id)) == 1
    with ws.catalog.write() as session:
        # As under a weaker model: one was found, the other was not near enough to be told.
        session.execute(update(Case).values(alert_expected_false=1e-9))
    send(ws, "again", face_picture(1, 30))
    jobs.run_pending(ws)
    assert len(alerts_of(ws, case_id)) == 1
    with ws.catalog.write() as session:
        session.execute(update(Case).values(alert_expected_false=None))
    switch(ws)
    told = alerts_of(ws, case_id)
    assert [alert.contract_id for alert in told] == [CONTRACT, NEW]


def test_held_alerts_of_another_model_stay_held(ws: Workspace) -> None:
    """Their scores would be read on the wrong scale."""
    case_id = make_case(ws, face_picture(1))
    with ws.catalog.write() as session:
        session.execute(update(Case).values(alert_budget=1))
    for photo in (9, 10, 11):
        send(ws, f"hers-{photo}", face_picture(1, photo))
        jobs.run_pending(ws)
    raised = len(alerts_of(ws, case_id))
    view = build(ws)
    switching.activate(ws, NEW, actor="tester")
    with ws.catalog.write() as session:
        session.execute(update(Case).values(alert_budget=1000))
    assert alerting.release_held(view) == 0
    jobs.run_pending(ws)
    told = alerts_of(ws, case_id)
    assert {alert.contract_id for alert in told[raised:]} <= {NEW}
    assert len({alert.sighting_id for alert in told}) == len(told)


def test_it_is_not_switched_to_before_it_is_whole(ws: Workspace) -> None:
    crowd(ws, 3)
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    view = begin(ws)
    with pytest.raises(GenerationIncomplete, match="3 images of ads and 1 photos"):
        switching.activate(ws, NEW, actor="tester")
    reindex(view)
    send(ws, "while it waits", face_picture(2))
    switching.activate(ws, NEW, actor="tester")
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        assert not missing.look(session, NEW)
        assert not missing.look(session, CONTRACT)
    assert candidates.ranked(view, case_id, 9).gallery_size == 4


def test_a_photo_whose_face_is_not_found_again_is_said(opens: Opens) -> None:
    ws = opens()
    case_id = make_case(ws, picture((40, 30, 80, colour(1))))
    jobs.run_pending(ws)
    with ws.catalog.write() as session:
        # Where the face lay under the first model the second finds none.
        session.execute(update(Base.metadata.tables["photos"]).values(x=150.0, y=120.0, width=9.0))
    report = reindex(begin(ws))
    assert [failure.code for failure in report.failures] == ["no_face_found"]
    switching.activate(ws, NEW, actor="tester")
    view = ws.views.current
    photo = cases.get_case(view, case_id).photos[0]
    assert not photo.enrolled
    assert photo.face_id, "the face of the generation before is still there to be shown"
    assert reindex(view).jobs == 0, "it is not tried for ever"


def test_a_process_without_the_pack_goes_on_with_the_one_before(
    ws: Workspace, catalog_url: str | None
) -> None:
    crowd(ws, 4)
    jobs.run_pending(ws)
    build(ws)
    with open_workspace(ws.data_dir, SmallAnalyser(CONTRACT), catalog_url=catalog_url) as lacking:
        switching.activate(ws, NEW, actor="tester")
        assert lacking.views.refresh() is lacking
        assert "second" not in (lacking.views.behind or "")
        assert "one face pack" in (lacking.views.behind or "")
        with pytest.raises(GenerationUnavailable):
            lacking.views.loaded(NEW)
        switching.roll_back(ws, actor="tester")
        with pytest.raises(GenerationUnavailable):
            switching.activate(lacking, NEW, actor="who could not use it")
        switching.activate(ws, NEW, actor="tester")
        # What it takes in waits for who has the pack; searches of the switch do so as well.
        case_id = make_case(lacking, face_picture(5))
        send(lacking, "through it", face_picture(5, 9))
        assert jobs.run_pending(lacking) == 0
        jobs.run_pending(ws)
        assert members(ws, "ads") == {CONTRACT: 5, NEW: 5}
        assert members(ws, "cases") == {CONTRACT: 1, NEW: 1}
        assert [alert.contract_id for alert in alerts_of(ws, case_id)] == [NEW]


def test_what_is_dropped_leaves_nothing_but_what_was_judged(ws: Workspace) -> None:
    crowd(ws, 6)
    hers = send(ws, "hers", face_picture(1, 9))
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    old = candidates.ranked(ws, case_id, 3)
    judgements.judge(ws, old.items[0].candidate_id, "supports_same", "The scar.", actor="a")
    view = switch(ws)
    with pytest.raises(GenerationStateInvalid):
        switching.drop(ws, NEW, actor="tester")
    switching.drop(ws, CONTRACT, actor="tester")
    with pytest.raises(GenerationStateInvalid):
        switching.activate(ws, CONTRACT, actor="tester")
    assert switching.clear(ws, CONTRACT, most=None)
    assert members(ws, "ads") == {NEW: 7}
    with ws.catalog.read() as session:
        left = session.scalars(select(Face).where(Face.contract_id == CONTRACT)).all()
        assert all(face.vector is None for face in left)
        assert session.get(Generation, CONTRACT) is None
        assert not session.scalars(select(Enrolment).where(Enrolment.contract_id == CONTRACT)).all()
        with pytest.raises(GenerationNotFound):
            rows.find(session, CONTRACT)
    kept = judgements.judgements_of(ws, old.items[0].candidate_id)
    assert [one.conclusion for one in kept] == ["supports_same"]
    assert candidates.ranked(view, case_id, 3).items[0].status == "supports_same"
    assert candidates.ranked(view, case_id, 3).items[0].ad.ad_id == hers
    with pytest.raises(GenerationStateInvalid):
        switching.roll_back(ws, actor="tester")


def test_one_that_was_kept_for_long_enough_goes(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(ws, 3)
    jobs.run_pending(ws)
    build(ws)
    found = switching.activate(ws, NEW, actor="tester", keep_days=10.0)
    assert found.keep_until is None
    ws.maintain()
    assert members(ws, "ads") == {CONTRACT: 3, NEW: 3}
    with ws.catalog.write() as session:
        kept = rows.require(session, CONTRACT)
        assert kept.keep_until is not None
        assert timedelta(days=9) < kept.keep_until - utc_now() < timedelta(days=10)
        kept.keep_until = utc_now() - timedelta(seconds=1)
    for _ in range(3):
        ws.maintain()
    assert members(ws, "ads") == {CONTRACT: 3, NEW: 3}, "it may be the clock that is wrong"
    monkeypatch.setattr(switching, "_SURE_S", 0.0)
    for _ in range(3):
        ws.maintain()
    assert members(ws, "ads") == {NEW: 3}
    send(ws, "after", face_picture(7))
    jobs.run_pending(ws)
    assert members(ws, "ads") == {NEW: 4}


def test_a_dropped_one_may_be_built_anew(ws: Workspace) -> None:
    crowd(ws, 3)
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    build(ws)
    switching.drop(ws, NEW, actor="tester")
    with pytest.raises(GenerationStateInvalid):
        begin(ws)
    ws.maintain()
    build(ws)
    assert members(ws, "ads") == {CONTRACT: 3, NEW: 3}
    assert members(ws, "cases") == {CONTRACT: 1, NEW: 1}
    forget.forget_case(ws, case_id)
    assert members(ws, "cases") == {}


def test_a_reindex_is_no_burden_on_the_queue(ws: Workspace) -> None:
    """Its jobs come after those of new ads, and never keep an ad out."""
    pictures = [face_picture(person) for person in range(IMAGES_A_JOB + 6)]
    for at in range(0, len(pictures), 10):
        ads_of = pictures[at : at + 10]
        send(ws, f"ad-{at}", *ads_of)
    jobs.run_pending(ws)
    view = begin(ws)
    stopped: list[int] = []

    def stop(_: object) -> None:
        stopped.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reindex(view, stop)
    assert ads_waiting(ws) == 0
    with ws.catalog.read() as session:
        left = session.scalars(select(Job.total).where(Job.state == "queued")).all()
    assert sum(left) in (6, IMAGES_A_JOB), "two jobs were queued, and one of them is done"
    report = reindex(view)
    assert report.images == sum(left)
    assert members(ws, "ads") == {CONTRACT: len(pictures), NEW: len(pictures)}


def test_an_ad_without_pictures_gives_no_work(ws: Workspace) -> None:
    build(ws)
    receipt = ads.receive_ad(ws, AdInput(site="site-a.example", external_id="bare"), [])
    assert receipt.created
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        queued = session.scalars(select(Job.kind).where(Job.contract_id == NEW)).all()
    assert queued == [], "an ad without pictures has nothing for another generation"


@pytest.mark.parametrize(
    ("box", "same"),
    [
        (Box(100, 100, 80, 80), True),
        (Box(104, 85, 70, 105), True),  # taller, as other detectors draw it
        (Box(95, 92, 110, 110), True),  # wider
        (Box(180, 100, 80, 80), False),  # cheek to cheek
        (Box(110, 150, 60, 60), False),  # a face printed on the shirt below
        (Box(120, 120, 25, 25), False),  # another, far smaller one in the same place
        (Box(100, 100, 0, 80), False),
    ],
)
def test_a_face_is_the_same_whichever_detector_drew_its_box(box: Box, same: bool) -> None:
    there = Box(100, 100, 80, 80)
    assert same_place(there, box) is same
    assert same_place(box, there) is same


def test_another_model_does_not_take_over_by_itself(ws: Workspace, catalog_url: str | None) -> None:
    """A worker of another version, a pack that was installed over the one in use."""
    crowd(ws, 3)
    jobs.run_pending(ws)
    with pytest.raises(ContractMismatch, match="take-over"):
        open_workspace(ws.data_dir, SmallAnalyser(NEW), catalog_url=catalog_url)
    assert ws.views.refresh() is ws
    with open_workspace(
        ws.data_dir, SmallAnalyser(NEW), catalog_url=catalog_url, take_over=True
    ) as over:
        assert over.ads.count() == 0
        reindex(over)
        assert over.ads.count() == 3


def test_a_new_version_is_built_by_a_process_that_cannot_run_the_one_in_use(
    opens: Opens, ws: Workspace, catalog_url: str | None
) -> None:
    crowd(ws, 3)
    jobs.run_pending(ws)
    with open_workspace(
        ws.data_dir,
        Unloaded(CONTRACT, DIMENSION),
        catalog_url=catalog_url,
        load=lambda generation: Loaded(SmallAnalyser(NEW), NEW_CALIBRATION),
    ) as fresh:
        assert fresh.views.able() == set()
        view = build(fresh)
        assert members(ws, "ads") == {CONTRACT: 3, NEW: 3}
        assert ws.views.refresh() is ws
        switching.activate(fresh, NEW, actor="tester")
        assert fresh.views.current is view


def test_the_model_before_tells_nothing_any_more(ws: Workspace) -> None:
    """Work that was under way at the switch ends under the old contract, and on its scale."""
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    send(ws, "hers", face_picture(1, 9))
    (job,) = queue.claim(ws, 1)
    build(ws)
    switching.activate(ws, NEW, actor="tester")
    reading.ingest_ads(ws, [job])
    queue.let_go(ws, [job])
    assert alerts_of(ws, case_id) == []
    jobs.run_pending(ws)
    assert [alert.contract_id for alert in alerts_of(ws, case_id)] == [NEW]


def test_a_photo_that_was_not_found_again_is_enrolled_anew(ws: Workspace) -> None:
    picture_of_two = picture((20, 30, 60, colour(1)), (120, 30, 60, colour(2)))
    case_id = make_case(ws, face_picture(3))
    first = cases.add_photo(ws, case_id, picture_of_two, face_index=0)
    jobs.run_pending(ws)
    with ws.catalog.write() as session:
        photo = Base.metadata.tables["photos"]
        session.execute(
            update(photo).where(photo.c.photo_id == first.photo_id).values(x=500.0, y=500.0)
        )
    report = reindex(begin(ws))
    assert [failure.code for failure in report.failures] == ["no_face_found"]
    switching.activate(ws, NEW, actor="tester")
    jobs.run_pending(ws)
    view = ws.views.current
    with pytest.raises(SeveralFacesFound):
        cases.add_photo(view, case_id, picture_of_two)
    again = cases.add_photo(view, case_id, picture_of_two, face_index=1)
    assert (again.photo_id, again.created, again.enrolled_face_index) == (first.photo_id, False, 1)
    photos = cases.get_case(view, case_id).photos
    assert [photo.enrolled for photo in photos] == [True, True]
    assert members(ws, "cases")[NEW] == 2
    assert not cases.add_photo(view, case_id, picture_of_two).created, "it is there now"


def test_a_reindex_of_what_cannot_be_read_ends(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, short_pauses: None
) -> None:
    crowd(ws, 3)
    jobs.run_pending(ws)
    view = begin(ws)

    def broken(*_: object) -> None:
        raise RuntimeError("whatever it is")

    monkeypatch.setitem(jobs._DOING, "embed_images", broken)
    report = reindex(view)
    assert [failure.code for failure in report.failures] == ["generation_incomplete"]
    with ws.catalog.read() as session:
        failed = session.scalars(select(Job.job_id).where(Job.state == "failed")).all()
    assert 1 <= len(failed) <= 3


def test_a_face_that_cannot_be_had_again_keeps_nothing_up(ws: Workspace) -> None:
    """A bystander in a photo of a case, which an ad shows as well, and whose bytes are lost."""
    both = picture((20, 30, 60, colour(1)), (120, 30, 60, colour(2)))
    case_id = make_case(ws)
    photo = cases.add_photo(ws, case_id, both, face_index=0)
    jobs.run_pending(ws)
    ws.blobs.delete(photo.sha256)
    with ws.catalog.write() as session:
        session.execute(update(Base.metadata.tables["faces"]).values(vector=None))
        images.note_failure(
            session, CONTRACT, Failure(item=photo.sha256, code="blob_missing", detail="gone")
        )
    send(ws, "with her", face_picture(7))
    jobs.run_pending(ws)
    reindex(ws)
    with ws.catalog.read() as session:
        assert missing.look(session, CONTRACT).ad_images == 0


def test_what_is_dropped_leaves_the_process_that_began_with_it(ws: Workspace) -> None:
    crowd(ws, 5)
    jobs.run_pending(ws)
    switch(ws)
    switching.drop(ws, CONTRACT, actor="tester")
    ws.maintain()
    assert ws.views.opened() == [ws.views.current]
    assert ws.ads.search(vector_of(colour(100))[None], 3)[0].ids == ()


def test_candidates_that_nobody_judged_go_with_their_generation(ws: Workspace) -> None:
    crowd(ws, 6)
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    old = candidates.ranked(ws, case_id, 6)
    judgements.judge(ws, old.items[2].candidate_id, "inconclusive", "Too small.", actor="a")
    switch(ws)
    switching.drop(ws, CONTRACT, actor="tester")
    assert switching.clear(ws, CONTRACT, most=None)
    with ws.catalog.read() as session:
        left = session.scalars(select(Face).where(Face.contract_id == CONTRACT)).all()
        assert [face.face_id for face in left] == [old.items[2].face.face_id]


def test_faces_of_contracts_that_no_generation_names_go(ws: Workspace) -> None:
    """Of versions before there were generations."""
    crowd(ws, 3)
    jobs.run_pending(ws)
    with ws.catalog.write() as session:
        session.execute(delete(Generation))
    switching.settle(ws.catalog, NEW, "second", DIMENSION)
    with ws.catalog.read() as session:
        states = {one.contract_id: one.state for one in rows.all_generations(session)}
    assert states == {NEW: "active", CONTRACT: "dropping"}


def test_rates_that_come_late_raise_what_was_due(ws: Workspace) -> None:
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    with ws.catalog.write() as session:
        session.execute(update(Case).values(listed_floor=None))
    ws.calibration = None
    send(ws, "hers", face_picture(1, 9))
    jobs.run_pending(ws)
    assert alerts_of(ws, case_id) == []
    calibrations.keep(ws.catalog, CALIBRATION, actor="tester")
    jobs.run_pending(ws)
    assert len(alerts_of(ws, case_id)) == 1


def test_nobody_waits_while_a_pack_is_loaded(ws: Workspace) -> None:
    crowd(ws, 2)
    jobs.run_pending(ws)
    build(ws)
    loading, go_on = threading.Event(), threading.Event()

    def slowly(_: rows.Generation) -> Loaded:
        loading.set()
        assert go_on.wait(60)
        return Loaded(SmallAnalyser(NEW), NEW_CALIBRATION)

    url = url_of(ws)
    with open_workspace(ws.data_dir, SmallAnalyser(CONTRACT), catalog_url=url) as other:
        other.views._load = slowly
        other.views._failed.clear()
        switching.activate(ws, NEW, actor="tester")
        assert other.views.refresh() is other
        assert loading.wait(60)
        assert other.views.refresh() is other
        assert "being opened" in (other.views.behind or "")
        assert other.ads.count() == 2
        assert other.views.view(CONTRACT) is other
        go_on.set()
        wait_for(lambda: other.views.refresh().contract_id == NEW)


def test_the_searches_of_a_switch_keep_no_ad_out(ws: Workspace) -> None:
    for person in range(5):
        make_case(ws, face_picture(person), number=str(person))
    jobs.run_pending(ws)
    build(ws)
    switching.activate(ws, NEW, actor="tester")
    assert ads_waiting(ws) == 0
    with ws.catalog.read() as session:
        probes = session.scalars(select(Job.subject_id).where(Job.kind == "probe_case"))
        assert len(probes.all()) >= 5
    with pytest.raises(GenerationStateInvalid):
        switching.roll_back(ws, actor="tester", keep_days=float("nan"))
