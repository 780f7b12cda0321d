"""Faces of ads that are kept only as candidates of open cases: PRACTICE 17."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from indexer import (
    ads,
    candidates,
    cases,
    forget,
    health,
    jobs,
    kept_faces,
    queue,
    reindex,
)
from indexer.audit import chain
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.tables import (
    Candidate,
    Case,
    Face,
    FaceCluster,
    GalleryMember,
    ImageAnalysis,
    Job,
    Purge,
)
from indexer.errors import SearchNeedsEnrolment
from indexer.jobs import run_pending
from indexer.judgements import judge
from indexer.records import AdInput, CaseInput, Failure, Upload
from indexer.transient import settle_mode
from indexer.workspace import Workspace, WorkspaceOptions
from tests.indexer.conftest import Opens
from tests.indexer.small import colour, face_picture, picture, vector_of
from tests.indexer.watch import CALIBRATION


@pytest.fixture
def transient(opens: Opens) -> Workspace:
    return opens(options=WorkspaceOptions(ad_faces="transient"), calibration=CALIBRATION)()


def add(ws: Workspace, number: int, *pictures: bytes) -> str:
    ad = AdInput(site="site-a.example", external_id=str(number))
    receipt = ads.receive_ad(ws, ad, [Upload(data, "picture.png") for data in pictures])
    run_pending(ws)
    return receipt.ad_id


def new_case(ws: Workspace, *photos: bytes, number: str = "1") -> str:
    case_id = cases.create_case(ws, CaseInput(case_number=number)).case_id
    for photo in photos:
        cases.add_photo(ws, case_id, photo)
    run_pending(ws)
    return case_id


@pytest.fixture
def fixed_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``full_lists`` sets stays, though few candidates are there."""
    monkeypatch.setattr(candidates, "_note_floor", lambda *_: None)


def full_lists(ws: Workspace) -> None:
    """As if every open case had its list full of better candidates than strangers are."""
    with ws.catalog.write() as session:
        session.execute(update(Case).values(listed_floor=0.6))


def stored(ws: Workspace) -> dict[str, int]:
    with ws.catalog.read() as session:
        return {
            "rows": session.scalar(select(func.count()).select_from(Face)) or 0,
            "vectors": session.scalar(select(func.count()).where(Face.vector.is_not(None))) or 0,
            "ads": session.scalar(select(func.count()).where(GalleryMember.gallery == "ads")) or 0,
            "clusters": session.scalar(select(func.count()).select_from(FaceCluster)) or 0,
        }


def found_ads(ws: Workspace, case_id: str) -> list[str]:
    return [item.ad.ad_id for item in candidates.ranked(ws, case_id).items]


@pytest.mark.practice(17)
def test_practice_17_without_a_case_no_face_of_an_ad_is_kept(transient: Workspace) -> None:
    ws = transient
    ad_id = add(ws, 1, face_picture(1, 2), face_picture(2, 2))
    assert stored(ws) == {"rows": 0, "vectors": 0, "ads": 0, "clusters": 0}
    images = ads.get_ad(ws, ad_id).images
    assert [(image.analysis, image.faces) for image in images] == [("done", ()), ("done", ())]
    ws.compared_faces.clear()
    assert kept_faces.compared_size(ws) == 2
    # No face lies in any file either.
    needles = [vector_of(colour(n, 2)).tobytes() for n in (1, 2)]
    for path in Path(ws.data_dir).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path
    assert not reindex.outdated(ws)
    assert [item for item in health.check(ws).items if not item.ok] == []


@pytest.mark.usefixtures("fixed_floor")
@pytest.mark.practice(17)
def test_practice_17_only_candidates_are_kept(transient: Workspace) -> None:
    ws = transient
    case_id = new_case(ws, face_picture(1, 1))
    full_lists(ws)
    wanted = add(ws, 1, face_picture(1, 2))
    add(ws, 2, face_picture(2, 2), face_picture(3, 2))
    group = add(ws, 3, picture((10, 20, 60, colour(1, 3)), (100, 20, 50, colour(7, 3))))
    assert stored(ws) == {"rows": 3, "vectors": 3, "ads": 2, "clusters": 0}
    assert set(found_ads(ws, case_id)) == {wanted, group}
    assert [len(i.faces) for i in ads.get_ad(ws, group).images] == [1]
    # Strangers to expect are reckoned by all faces that were compared.
    ws.compared_faces.clear()
    assert candidates.ranked(ws, case_id).gallery_size == 5


@pytest.mark.practice(17)
def test_practice_17_a_new_case_reads_the_stored_pictures(transient: Workspace) -> None:
    ws = transient
    wanted = add(ws, 1, face_picture(1, 2))
    for number in range(2, 6):
        add(ws, number, face_picture(number, 2))
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    receipt = cases.add_photo(ws, case_id, face_picture(1, 1))
    job = jobs.get_job(ws, receipt.job_id)
    assert (job.kind, job.subject_id, job.total) == ("read_again", case_id, 5)
    assert candidates.ranked(ws, case_id).search_state.state == "searching"
    # What is done for the case at once is not the end of it.
    run_pending(ws, kinds=("probe_case",))
    assert candidates.ranked(ws, case_id).search_state.state == "searching"
    run_pending(ws)
    ranked = candidates.ranked(ws, case_id)
    assert ranked.search_state.state == "searched" and ranked.items[0].ad.ad_id == wanted
    done = jobs.get_job(ws, receipt.job_id)
    assert (done.state, done.done) == ("done", 5)
    # A list that is not full takes in whoever comes nearest, as in the other mode.
    assert len(ranked.items) == 5


def test_several_cases_are_read_for_at_once_and_a_broken_one_goes_on(
    transient: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import indexer.transient

    ws = transient
    for number in range(6):
        add(ws, number, face_picture(number, 2))
    ids = [cases.create_case(ws, CaseInput(case_number=str(n))).case_id for n in range(3)]
    receipts = [cases.add_photo(ws, ids[n], face_picture(n, 1)) for n in range(3)]
    run_pending(ws, kinds=("probe_case",))
    monkeypatch.setattr(indexer.transient, "_PICTURES", 2)
    read = indexer.transient._read_batch
    seen: list[list[str]] = []

    def broken(ws: Workspace, shas: list[str], *, alone: bool) -> tuple[list[str], list[Failure]]:
        seen.append(shas)
        if len(seen) == 2:
            raise RuntimeError("the process is gone")
        return read(ws, shas, alone=alone)

    monkeypatch.setattr(indexer.transient, "_read_batch", broken)
    monkeypatch.setattr(queue, "_PAUSES", {False: (0.01, 0.01), True: (0.01, 0.01)})
    run_pending(ws, patient=True)
    assert [jobs.get_job(ws, one.job_id).state for one in receipts] == ["done"] * 3
    # The second batch is read again, the first is not; nobody reads all of it again.
    assert len(seen) == 4 and seen[1] == seen[2]
    assert sorted(seen[0] + seen[1] + seen[3]) == sorted({s for batch in seen for s in batch})
    for number, case_id in enumerate(ids):
        best = candidates.ranked(ws, case_id).items[0]
        assert best.ad.external_id == str(number)


def test_a_search_that_was_read_for_in_vain_says_so(transient: Workspace) -> None:
    ws = transient
    add(ws, 1, face_picture(1, 2))
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    receipt = cases.add_photo(ws, case_id, face_picture(1, 1))
    jobs.drop(ws, receipt.job_id)
    run_pending(ws)
    assert candidates.ranked(ws, case_id).search_state.state == "not_searched"
    jobs.retry(ws, receipt.job_id)
    run_pending(ws)
    assert candidates.ranked(ws, case_id).search_state.state == "searched"


def test_a_photo_that_is_not_enrolled_is_refused(transient: Workspace) -> None:
    case_id = new_case(transient)
    with pytest.raises(SearchNeedsEnrolment):
        candidates.search_photo(
            transient, case_id, face_picture(1, 1), purpose="locate_missing_person"
        )


def test_faces_go_when_the_case_ends_and_come_back_with_it(transient: Workspace) -> None:
    ws = transient
    case_id = new_case(ws, face_picture(1, 1))
    full_lists(ws)
    add(ws, 1, face_picture(1, 2))
    judged = add(ws, 2, face_picture(1, 3))
    items = {item.ad.ad_id: item for item in candidates.ranked(ws, case_id).items}
    judge(
        ws,
        items[judged].candidate_id,
        conclusion="inconclusive",
        reason="too dark",
        actor="reviewer",
    )
    cases.update_case(ws, case_id, {"status": "found"})
    run_pending(ws)
    # The photo's row and that of the judged face, neither with a vector.
    assert stored(ws) == {"rows": 2, "vectors": 0, "ads": 0, "clusters": 0}
    with ws.catalog.read() as session:
        assert session.scalar(select(func.count()).select_from(Candidate)) == 1
    cases.update_case(ws, case_id, {"status": "open"})
    run_pending(ws)
    assert len(found_ads(ws, case_id)) == 2
    forget.forget_case(ws, case_id)
    run_pending(ws)
    assert stored(ws) == {"rows": 0, "vectors": 0, "ads": 0, "clusters": 0}


def test_the_photo_of_a_case_that_an_ad_shows_keeps_its_rows(transient: Workspace) -> None:
    ws = transient
    photo = picture((10, 20, 60, colour(1, 1)), (100, 20, 50, colour(7, 3)))
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    cases.add_photo(ws, case_id, photo, face_index=0)
    full_lists(ws)
    ad_id = add(ws, 1, photo)
    assert found_ads(ws, case_id) == [ad_id]
    assert not reindex.outdated(ws)
    cases.update_case(ws, case_id, {"status": "closed"})
    run_pending(ws)
    assert stored(ws)["vectors"] == 0 and stored(ws)["rows"] == 2


@pytest.mark.usefixtures("fixed_floor")
def test_switching_there_purges_with_proof_and_back_reads_again(opens: Opens) -> None:
    standard = opens(options=WorkspaceOptions(), calibration=CALIBRATION)
    transient = opens(options=WorkspaceOptions(ad_faces="transient"), calibration=CALIBRATION)
    ws = standard()
    case_id = new_case(ws, face_picture(1, 1))
    wanted = add(ws, 1, face_picture(1, 2), face_picture(1, 2, salt=1))
    full_lists(ws)
    for number in range(2, 7):
        add(ws, number, face_picture(number, 2))
    before = stored(ws)
    assert before["ads"] == 7
    ws.close()

    ws = transient()
    settle_mode(ws)
    run_pending(ws)
    assert stored(ws)["ads"] == 2 and stored(ws)["rows"] == 3
    assert set(found_ads(ws, case_id)) == {wanted}
    assert kept_faces.compared_size(ws) == 7
    with ws.catalog.read() as session:
        [proof] = session.scalars(select(Purge).where(Purge.kind == "ad_faces")).all()
        assert dict(proof.counts) == {"faces": 5, "vectors": 5}
        kinds = set(session.scalars(select(AuditRecord.action)))
        assert session.scalar(select(func.sum(ImageAnalysis.faces))) == 8
    assert {"face.mode", "face.transient_purge"} <= kinds and chain.GENESIS
    ws.maintain()
    assert [item for item in health.check(ws).items if not item.ok] == []
    assert not reindex.outdated(ws)
    ws.close()
    # Opened again in the same mode, there is nothing to do.
    ws = transient()
    settle_mode(ws)
    with ws.catalog.read() as session:
        assert session.scalar(select(func.count()).where(Job.state == "queued")) == 0
    ws.close()

    # Whatever a command was started with, the catalog stays in its mode until the service says.
    ws = standard()
    assert kept_faces.is_transient(ws)
    settle_mode(ws)
    assert candidates.ranked(ws, case_id).search_state.state == "searching"
    run_pending(ws)
    assert stored(ws)["ads"] == 7
    assert candidates.ranked(ws, case_id).search_state.state == "searched"
    assert candidates.ranked(ws, case_id).gallery_size == 7
