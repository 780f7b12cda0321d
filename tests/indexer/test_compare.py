"""Two generations compared before a switch: what is lost, gained and buried, and what is kept."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select, update

from indexer import candidates, cases, forget, images, jobs, judgements, queue
from indexer.catalog.schema import Base
from indexer.catalog.tables import Face, GalleryMember, Job, Judgement
from indexer.errors import GenerationNotFound, GenerationStateInvalid
from indexer.generations import reports, switching
from indexer.generations.compare import compare
from indexer.generations.comparing import compare_case
from indexer.generations.comparison import CaseComparison, Comparison, Moved
from indexer.generations.figures import build_rate
from indexer.generations.views import Loaded
from indexer.records import Progress
from indexer.reindex import reindex
from indexer.times import utc_now
from indexer.workspace import Workspace, open_workspace
from models.calibration import fuse, shares
from tests.indexer.small import (
    CONTRACT,
    Colour,
    OtherAnalyser,
    SmallAnalyser,
    colour,
    face_picture,
    picture,
    vector_of,
)
from tests.indexer.test_candidates import crowd, make_case, send
from tests.tables import lend_tables

NEW = "other-ffffffffffff"
ALIKE = np.full(2, 0.5)
"""The quality of both of her photos."""
CROWD = range(100, 120)
HERS = (9, 8, 7)
"""Photos of the missing person (1) in ads."""
MISTAKEN, UNSEEN = colour(1, 8), colour(1, 7)
STRANGER = colour(105)
TAKES: dict[Colour, Colour] = {MISTAKEN: colour(400), STRANGER: colour(1, 20)}


@dataclass
class Both:
    """An open folder with both packs; ``other`` may be changed before the second is built."""

    ws: Workspace
    other: OtherAnalyser

    def build(self) -> Workspace:
        switching.begin(self.ws, NEW, "second", self.ws.analyser.dimension, actor="tester")
        view = self.ws.views.loaded(NEW)
        reindex(view)
        return view


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    """On SQLite."""
    with opened(tmp_path / "data", None) as made:
        yield made


@pytest.fixture
def each(tmp_path: Path, catalog_url: str | None) -> Iterator[Both]:
    """On both databases, for what they count and compare."""
    with opened(tmp_path / "data", catalog_url) as made:
        yield made


@contextmanager
def opened(folder: Path, catalog_url: str | None) -> Iterator[Both]:
    if catalog_url is None:
        lend_tables(folder)
    other = OtherAnalyser(NEW, takes=TAKES, blind={UNSEEN}, shift=5.0)
    packs = {"first": SmallAnalyser(), "second": other}
    with ExitStack() as stack:
        ws = stack.enter_context(
            open_workspace(
                folder,
                packs["first"],
                catalog_url=catalog_url,
                pack="first",
                load=lambda generation: Loaded(packs[generation.pack], None),
            )
        )
        yield Both(ws, other)


def fill(ws: Workspace) -> str:
    """Twenty strangers and three pictures of the missing person in ads; her case."""
    crowd(ws, len(CROWD), CROWD.start)
    for photo in HERS:
        send(ws, f"hers-{photo}", face_picture(1, photo))
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1), face_picture(1, 1))
    jobs.run_pending(ws)
    return case_id


def order(new: bool) -> list[Colour]:
    """By brute force: the blocks in ads as one of the models ranks them for her two photos."""
    blocks = [colour(i) for i in CROWD] + [colour(1, photo) for photo in HERS]
    if new:
        blocks.remove(UNSEEN)
    seen = [TAKES.get(block, block) if new else block for block in blocks]
    photos = np.stack([vector_of(colour(1)), vector_of(colour(1, 1))])
    scores = fuse(photos @ np.stack([vector_of(one) for one in seen]).T, shares(photos, ALIKE))
    return [blocks[i] for i in np.argsort(-scores, kind="stable")]


def shas(ws: Workspace) -> dict[str, str]:
    """Which picture each face lies in."""
    with ws.catalog.read() as session:
        rows = session.execute(select(Face.face_id, Face.sha256))
        return {row.face_id: row.sha256 for row in rows}


def sha_of(block: Colour) -> str:
    return hashlib.sha256(picture((40, 30, 80, block))).hexdigest()


def by_picture(ws: Workspace, moved: tuple[Moved, ...]) -> dict[str, Moved]:
    pictures = shas(ws)
    return {pictures[one.old.face_id or one.new.face_id or ""]: one for one in moved}


def only_case(ws: Workspace, whole: Comparison) -> CaseComparison:
    found = list(reports.cases(ws.data_dir, whole))
    assert len(found) == whole.cases == 1
    return found[0]


def rows_of(ws: Workspace) -> dict[str, int]:
    with ws.catalog.read() as session:
        return {
            name: session.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def test_what_is_lost_gained_and_pushed_down(each: Both) -> None:
    case_id = fill(each.ws)
    each.build()
    before = rows_of(each.ws)
    steps: list[Progress] = []
    whole = compare(each.ws, NEW, k=5, actor="tester", progress=steps.append)
    assert rows_of(each.ws) == before, "it only reads"
    one = only_case(each.ws, whole)
    assert (one.case_id, one.photos, one.listed) == (case_id, (2, 2), (5, 5))

    was, now = order(new=False), order(new=True)
    lost = [block for block in was[:5] if block not in now[:5]]
    gained = [block for block in now[:5] if block not in was[:5]]
    assert {MISTAKEN, UNSEEN} <= set(lost) and STRANGER in gained
    found = by_picture(each.ws, one.lost)
    assert set(found) == {sha_of(block) for block in lost}
    for block in lost:
        place = found[sha_of(block)]
        assert (place.old.state, place.old.rank) == ("listed", was.index(block) + 1)
        if block == UNSEEN:
            assert (place.new.state, place.new.rank, place.new.face_id) == ("no_face", None, None)
        else:
            assert (place.new.state, place.new.rank) == ("lower", now.index(block) + 1)
            assert place.new.face_id != place.old.face_id
    found = by_picture(each.ws, one.gained)
    assert set(found) == {sha_of(block) for block in gained}
    for block in gained:
        place = found[sha_of(block)]
        assert (place.old.state, place.old.rank) == ("lower", was.index(block) + 1)
        assert place.new.rank == now.index(block) + 1
        assert place.old.score is not None and place.new.score is not None

    kept = 10 - len(lost) - len(gained)
    assert one.overlap == one.face_overlap == pytest.approx(kept / 10)
    assert (whole.overlap, whole.lost, whole.gained) == (one.overlap, len(lost), len(gained))
    assert whole.lost_to == {"lower": len(lost) - 1, "no_face": 1}
    assert whole.gained_from == {"lower": len(gained)}
    assert [(worst.case_id, worst.lost) for worst in whole.worst] == [(case_id, len(lost))]
    assert (steps[-1].done, steps[-1].total) == (1, 1)
    assert (whole.actor, whole.k) == ("tester", 5)


def test_ranks_of_what_both_list_are_correlated(both: Both) -> None:
    fill(both.ws)
    both.build()
    one = only_case(both.ws, compare(both.ws, NEW, k=30, actor="tester"))
    was, now = order(new=False)[:30], order(new=True)[:30]
    kept = [block for block in was if block in now]
    pairs = [(was.index(a) - was.index(b)) * (now.index(a) - now.index(b))
             for i, a in enumerate(kept) for b in kept[:i]]  # fmt: skip
    assert one.order == pytest.approx(sum(np.sign(pairs)) / len(pairs))
    # Too few to speak of an order.
    assert only_case(both.ws, compare(both.ws, NEW, k=3, actor="tester")).order is None


def test_the_same_model_again_changes_nothing(both: Both) -> None:
    case_id = fill(both.ws)
    both.other.__init__(NEW)  # type: ignore[misc]
    view = both.build()
    one = only_case(both.ws, compare(both.ws, NEW, actor="tester"))
    assert (one.overlap, one.face_overlap, one.order) == (1.0, 1.0, 1.0)
    assert (one.lost, one.gained) == ((), ())
    # No worst case where nothing changed, and which is searched first makes no difference.
    whole = compare(both.ws, NEW, actor="tester")
    assert whole.worst == ()
    turned, _ = compare_case((both.ws, view), case_id, k=20, depth=100, swapped=True)
    assert turned == one


def test_beyond_what_is_looked_at_the_rank_is_open(both: Both) -> None:
    case_id = fill(both.ws)
    view = both.build()
    one, _ = compare_case((both.ws, view), case_id, k=3, depth=3, swapped=False)
    found = by_picture(both.ws, one.lost)[sha_of(MISTAKEN)].new
    assert (found.state, found.rank) == ("beyond", None)
    photos = np.stack([vector_of(colour(1)), vector_of(colour(1, 1))])
    score = fuse((photos @ vector_of(TAKES[MISTAKEN]))[:, None], shares(photos, ALIKE))[0]
    assert found.score == pytest.approx(float(score), abs=1e-6)


def test_faces_are_told_apart_in_one_picture(both: Both) -> None:
    """Two people in one picture, and boxes that another detector draws a little elsewhere."""
    ws = both.ws
    two = picture((10, 40, 60, colour(1, 8)), (110, 40, 60, colour(200)))
    send(ws, "two", two)
    crowd(ws, 5)
    jobs.run_pending(ws)
    case_id = make_case(ws, face_picture(1))
    view = both.build()
    one, _ = compare_case((ws, view), case_id, k=1, depth=100, swapped=False)
    # Her face is taken for another's; the picture's other face stands for it in no list.
    with view.catalog.read() as session:
        there = session.get_one(Face, one.lost[0].new.face_id)
    assert (one.lost[0].old.rank, there.x) == (1, 15.0)


def judge(ws: Workspace, case_id: str, block: Colour, *conclusions: judgements.Conclusion) -> None:
    wanted = sha_of(block)
    item = next(i for i in candidates.ranked(ws, case_id, 50).items if i.image_sha256 == wanted)
    for conclusion in conclusions:
        judgements.judge(ws, item.candidate_id, conclusion, "reason", actor="reviewer")


def test_where_judged_pairs_are(each: Both) -> None:
    ws = each.ws
    case_id = fill(ws)
    judge(ws, case_id, MISTAKEN, "inconclusive", "supports_same")
    judge(ws, case_id, UNSEEN, "strongly_supports_same")
    judge(ws, case_id, STRANGER, "supports_different")
    judge(ws, case_id, colour(112), "inconclusive")
    gone = send(ws, "gone", face_picture(1, 5))
    jobs.run_pending(ws)
    judge(ws, case_id, colour(1, 5), "supports_same")
    forget.forget_ad(ws, gone)
    each.build()
    whole = compare(ws, NEW, k=5, actor="tester")
    one = only_case(ws, whole)
    was, now = order(new=False), order(new=True)
    with ws.catalog.read() as session:
        pairs = {
            session.get_one(Judgement, pair.judgement_id).image_sha256: pair for pair in one.judged
        }
    assert set(pairs) == {sha_of(b) for b in (MISTAKEN, UNSEEN, STRANGER, colour(112))}
    mistaken = pairs[sha_of(MISTAKEN)]
    assert mistaken.conclusion == "supports_same", "the one in force"
    assert (mistaken.old.rank, mistaken.new.rank) == (was.index(MISTAKEN) + 1,
                                                      now.index(MISTAKEN) + 1)  # fmt: skip
    assert mistaken.new.state == "lower"
    assert pairs[sha_of(UNSEEN)].new.state == "no_face"
    refused = pairs[sha_of(STRANGER)]
    assert (refused.old.state, refused.new.rank) == ("lower", now.index(STRANGER) + 1)
    moves = {(m.finding, m.old, m.new): m.pairs for m in whole.moves}
    assert moves[("confirmed", "top_5" if was.index(UNSEEN) else "first", "absent")] == 1
    assert whole.pairs("confirmed") == 2 and whole.pairs("refused") == 1
    assert whole.pairs("inconclusive") == 1


def test_what_could_not_be_enrolled_is_counted(each: Both) -> None:
    ws = each.ws
    case_id = fill(ws)
    send(ws, "nobody", picture())
    jobs.run_pending(ws)
    make_case(ws, face_picture(1, 7), number="unseen")
    make_case(ws, number="without a photo")
    closed = make_case(ws, face_picture(30), number="closed")
    cases.update_case(ws, closed, {"status": "closed"})
    jobs.run_pending(ws)
    switching.begin(ws, NEW, "second", ws.analyser.dimension, actor="tester")
    unread = compare(ws, NEW, actor="tester").new
    assert (unread.faces, unread.unread, unread.photos_unread) == (0, 24, 3)
    assert (unread.without_face, unread.not_enrolled, unread.images_per_second) == (0, 0, None)
    assert unread.cases_without_photo == 2

    each.build()
    whole = compare(ws, NEW, actor="tester")
    assert whole.cases == 2
    old, new = whole.old, whole.new
    assert (old.contract_id, old.pack, new.contract_id, new.pack) == (
        CONTRACT, "first", NEW, "second",
    )  # fmt: skip
    assert (old.faces, old.ad_images, old.without_face, old.unread) == (23, 24, 1, 0)
    assert (new.faces, new.ad_images, new.without_face, new.unread) == (22, 24, 2, 0)
    assert (old.photos, old.not_enrolled, old.photos_unread) == (3, 0, 0)
    assert (new.photos, new.not_enrolled, new.photos_unread) == (3, 1, 0)
    assert dict(new.reasons) == {"no_face_found": 1}
    assert (old.cases_without_photo, new.cases_without_photo) == (0, 1)
    assert new.images_per_second is not None and new.images_per_second > 0
    assert old.images_per_second is None, "it came from ads as they arrived"
    assert old.search_ms and new.search_ms
    assert whole.search_ratio == pytest.approx(new.search_ms / old.search_ms)
    blind = next(c for c in reports.cases(ws.data_dir, whole) if c.case_id != case_id)
    assert (blind.photos, blind.listed[1]) == ((1, 0), 0)
    assert {moved.new.state for moved in blind.lost} == {"no_photo"}


def test_the_rate_of_a_build_is_that_of_all_processes_together(each: Both) -> None:
    ws = each.ws
    switching.begin(ws, NEW, "second", ws.analyser.dimension, actor="tester")
    start = utc_now()
    spans = ((0, 10), (5, 15), (100, 105))  # two side by side, then a pause
    with ws.catalog.write() as session:
        for begun, ended in spans:
            job_id = queue.enqueue(session, "embed_images", "x", total=64, contract_id=NEW)
            session.execute(
                update(Job)
                .where(Job.job_id == job_id)
                .values(
                    state="done",
                    done=64,
                    started_at=start + timedelta(seconds=begun),
                    finished_at=start + timedelta(seconds=ended),
                )
            )
    with ws.catalog.read() as session:
        assert build_rate(session, NEW) == pytest.approx(3 * 64 / 20)


def test_the_report_is_private_and_says_nothing_of_people(both: Both) -> None:
    ws = both.ws
    case_id = fill(ws)
    both.build()
    whole = compare(ws, NEW, k=5, actor="tester")
    folder = ws.data_dir / "comparisons"
    assert [path.name for path in folder.iterdir()] == [f"{CONTRACT}--{NEW}.json"]
    path = folder / f"{CONTRACT}--{NEW}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    text = path.read_text()
    document = json.loads(text)
    assert document["comparison"]["actor"] == "tester"
    assert [case["case_id"] for case in document["cases"]] == [case_id]
    for sha256 in set(shas(ws).values()):
        assert sha256 not in text
    assert reports.latest(ws.data_dir, NEW, [CONTRACT]) == whole
    assert reports.latest(ws.data_dir, CONTRACT, [NEW]) is None
    path.write_bytes(text.encode()[: len(text) // 4])
    assert reports.latest(ws.data_dir, NEW, [CONTRACT]) is None
    path.write_text('{"format":2,"comparison":{},"cases":[\n]}')
    assert reports.latest(ws.data_dir, NEW, [CONTRACT]) is None
    again = compare(ws, NEW, k=5, actor="another")
    assert reports.latest(ws.data_dir, NEW, [CONTRACT]) == again
    # What belongs to a report that was replaced is not mixed with the one that is there now.
    assert list(reports.cases(ws.data_dir, whole)) == []


def test_a_report_that_is_cut_off_is_read_as_far_as_it_goes(both: Both) -> None:
    ws = both.ws
    fill(ws)
    make_case(ws, face_picture(102, 3), number="second")
    both.build()
    whole = compare(ws, NEW, k=3, actor="tester")
    path = ws.data_dir / "comparisons" / f"{CONTRACT}--{NEW}.json"
    text = path.read_bytes()
    path.write_bytes(text[: len(text) - 40])
    assert reports.latest(ws.data_dir, NEW, [CONTRACT]) == whole
    assert len(list(reports.cases(ws.data_dir, whole))) == 1


def test_what_a_power_cut_left_is_swept_later(tmp_path: Path) -> None:
    with reports.draft(tmp_path):
        pass
    young, old = (tmp_path / "comparisons" / f".a--b.json.{n}.part" for n in (1, 2))
    for path in (young, old):
        path.write_text("{}")
    os.utime(old, (0, 0))
    reports.keep_only(tmp_path, {"a", "b"})
    assert young.exists() and not old.exists()


def test_many_cases_are_told_apart_and_the_worst_come_first(both: Both) -> None:
    ws = both.ws
    fill(ws)
    for number in range(12):
        make_case(ws, face_picture(100 + number, 3), number=f"n{number}")
    both.build()
    whole = compare(ws, NEW, k=2, actor="tester")
    found = list(reports.cases(ws.data_dir, whole))
    assert whole.cases == len(found) == 13
    overlaps = [one.overlap for one in found if one.overlap is not None]
    assert whole.overlap == pytest.approx(sum(overlaps) / len(overlaps))
    changed = sorted(one.overlap for one in found if one.lost and one.overlap is not None)
    assert [worst.overlap for worst in whole.worst] == changed[:10]


def test_a_report_goes_with_its_generation(both: Both) -> None:
    ws = both.ws
    fill(ws)
    both.build()
    whole = compare(ws, NEW, actor="tester")
    path = ws.data_dir / "comparisons" / f"{CONTRACT}--{NEW}.json"
    ws.maintain()
    assert path.exists()
    switching.drop(ws, NEW, actor="tester")
    assert not path.exists()
    assert list(reports.cases(ws.data_dir, whole)) == []
    with pytest.raises(GenerationStateInvalid):
        compare(ws, NEW, actor="tester")
    # Dropped by another process: upkeep of this one takes the file away.
    path.write_text("left")
    ws.maintain()
    assert not path.exists()


def test_what_cannot_be_compared_is_refused(both: Both) -> None:
    with pytest.raises(GenerationStateInvalid):
        compare(both.ws, CONTRACT, actor="tester")
    with pytest.raises(GenerationNotFound):
        compare(both.ws, "nothing-000000000000", actor="tester")
    assert not (both.ws.data_dir / "comparisons").exists()


def test_a_comparison_that_is_stopped_leaves_nothing(both: Both) -> None:
    fill(both.ws)
    both.build()

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(both.ws, NEW, actor="tester", progress=stop)
    assert list((both.ws.data_dir / "comparisons").iterdir()) == []


def test_no_pack_is_needed_to_compare(both: Both) -> None:
    case_id = fill(both.ws)
    both.build()
    with open_workspace(both.ws.data_dir, SmallAnalyser(), pack="first") as without:
        whole = compare(without, NEW, actor="tester")
        assert only_case(without, whole).case_id == case_id
        with without.catalog.read() as session:
            face = session.scalars(
                select(GalleryMember.face_id).where(GalleryMember.contract_id == NEW)
            ).first()
        # The faces of the other generation can be shown by the one in use.
        assert face is not None and images.crop(without, face).shape == (224, 224, 3)
