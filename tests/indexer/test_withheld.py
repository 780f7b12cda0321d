"""Pictures that go to nobody: PRACTICE 14. The picture is withheld, never the lead."""

from __future__ import annotations

import ast
import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from indexer import candidates, forget, health, holds, images, purges, retention, staging
from indexer.ads import receive_ad
from indexer.audit.chain import GENESIS, digest
from indexer.blobs import sha256_hex
from indexer.cases import add_photo, create_case
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.picture_tables import WithheldImage
from indexer.catalog.tables import Ad, ApiKey, Job, Webhook
from indexer.errors import (
    BlobMissing,
    HashListNotFound,
    ImageNotFound,
    LegalHold,
    PictureWithheld,
    SecondPersonNeeded,
    WithheldNotFound,
    WithheldStateInvalid,
)
from indexer.jobs import run_pending
from indexer.records import AdInput, CaseInput, Upload
from indexer.restore import reapply
from indexer.times import utc_now
from indexer.withheld import lists, rows, settling, shown
from indexer.workspace import Workspace, open_workspace
from models.decode import decode
from models.pdq import pdq
from tests.indexer.conftest import Reopen
from tests.indexer.small import SmallAnalyser, face_picture

ROOT = Path(__file__).resolve().parents[2]
REASON = "sexual_picture_of_minor"


def add(ws: Workspace, number: int, *pictures: bytes) -> str:
    ad = AdInput(site="site-a.example", external_id=str(number), phones=("+1 555 0100",))
    receipt = receive_ad(ws, ad, [Upload(data, "picture.png") for data in pictures])
    run_pending(ws)
    return receipt.ad_id


def new_case(ws: Workspace, number: str = "1") -> str:
    return create_case(ws, CaseInput(case_number=number)).case_id


def flag(ws: Workspace, data: bytes, case_id: str, actor: str = "reviewer") -> None:
    shown.flag(ws, sha256_hex(data), case_id=case_id, reason=REASON, actor=actor)


def actions(ws: Workspace) -> list[str]:
    with ws.catalog.read() as session:
        return list(session.scalars(select(AuditRecord.action).order_by(AuditRecord.seq)))


def hidden(ws: Workspace, data: bytes) -> bool:
    try:
        images.original(ws, sha256_hex(data))
    except PictureWithheld:
        return True
    return False


@pytest.mark.practice(14)
def test_practice_14_a_flag_hides_the_pixels_and_keeps_the_lead(ws: Workspace) -> None:
    case_id = new_case(ws)
    seen = face_picture(1, 2)
    ad_id = add(ws, 1, seen)
    photo = add_photo(ws, case_id, face_picture(1, 1))
    run_pending(ws)
    before = candidates.ranked(ws, case_id).items
    assert [item.ad.ad_id for item in before] == [ad_id]

    flag(ws, seen, case_id)
    assert hidden(ws, seen)
    with pytest.raises(PictureWithheld):
        images.crop(ws, before[0].face.face_id)
    after = candidates.ranked(ws, case_id).items
    assert [(i.candidate_id, i.score, i.ad.ad_id) for i in after] == [
        (i.candidate_id, i.score, i.ad.ad_id) for i in before
    ]
    # Another case finds the child all the same.
    other = new_case(ws, "2")
    add_photo(ws, other, face_picture(1, 3))
    run_pending(ws)
    assert [item.ad.ad_id for item in candidates.ranked(ws, other).items] == [ad_id]
    assert not hidden(ws, face_picture(1, 1))
    # The photo of a case can be flagged too: it is still searched with.
    flag(ws, face_picture(1, 1), case_id)
    assert hidden(ws, face_picture(1, 1))
    assert [item.ad.ad_id for item in candidates.ranked(ws, case_id).items] == [ad_id]
    assert images.owners(ws, photo.sha256).case_ids == {case_id}
    assert actions(ws).count("picture.flag") == 2


def test_a_flag_holds_in_another_open_view_at_once(ws: Workspace, opened: Reopen) -> None:
    case_id = new_case(ws)
    seen = face_picture(1, 2)
    add(ws, 1, seen)
    other = opened()
    assert not hidden(other, seen)
    flag(ws, seen, case_id)
    assert hidden(other, seen)


def test_copies_are_hidden_before_any_job_and_escalated_by_it(ws: Workspace) -> None:
    case_id = new_case(ws)
    seen, copy = face_picture(1, 2), face_picture(1, 2, salt=3)
    assert seen != copy
    add(ws, 1, seen)
    add(ws, 2, copy)
    other = face_picture(9, 9)
    add(ws, 3, other)
    flag(ws, seen, case_id)
    assert hidden(ws, copy) and not hidden(ws, other)
    run_pending(ws)
    record = rows.get_withheld(ws, sha256_hex(copy))
    assert (record.reason, record.copy_of) == ("copy", sha256_hex(seen))
    # A copy that comes in later, as an ad's and as a photo's.
    late = face_picture(1, 2, salt=5)
    add(ws, 4, late)
    assert rows.get_withheld(ws, sha256_hex(late)).reason == "copy"
    settling.settle(ws, sha256_hex(seen), rows.RELEASED, actor="somebody else")
    assert not any(hidden(ws, data) for data in (seen, copy, late))


def test_copies_found_by_the_job_alone(ws: Workspace) -> None:
    case_id = new_case(ws)
    seen, copy = face_picture(1, 2), face_picture(1, 2, salt=3)
    add(ws, 1, seen)
    add(ws, 2, copy)
    flag(ws, seen, case_id)
    run_pending(ws)
    with ws.catalog.read() as session:
        assert rows.hidden(session, [sha256_hex(copy)])
        row = session.get_one(WithheldImage, sha256_hex(seen))
        assert row.compared_at is not None


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5", "pdq"])
@pytest.mark.parametrize("first", ["list", "picture"])
@pytest.mark.practice(14)
def test_practice_14_a_listed_hash_hides_the_picture(ws: Workspace, kind: str, first: str) -> None:
    data, other = face_picture(1, 2), face_picture(4, 4)
    if kind == "pdq":
        value = bytearray(pdq(decode(data).pixels)[0])
        value[0] ^= 0xFF  # eight bits away
        value[1] ^= 0xFF
        line = b"pdq:" + bytes(value).hex().encode()
    else:
        line = hashlib.new(kind, data).hexdigest().upper().encode()

    def load() -> None:
        report = lists.load(ws, [b"# remark\n", line + b"\r\n", b"\n"], "agency", actor="op")
        assert (report.added, report.refused_total) == (1, 0)

    if first == "list":
        load()
        run_pending(ws)
    receive_ad(
        ws,
        AdInput(site="s.example", external_id="1"),
        [Upload(data, "a.png"), Upload(other, "b.png")],
    )
    if first == "list":
        # Before any job has looked at it.
        assert hidden(ws, data)
    run_pending(ws)
    if first == "picture":
        load()
        # Before the job that the list asked for.
        assert hidden(ws, data)
        run_pending(ws)
    assert hidden(ws, data) and not hidden(ws, other)
    record = rows.get_withheld(ws, sha256_hex(data))
    assert (record.reason, record.hash_kind, record.list_name) == ("listed", kind, "agency")
    assert record.due_at - record.at == timedelta(hours=24)
    with ws.catalog.read() as session:
        assert lists.unchecked(session) == 0
    assert "hashes.load" in actions(ws) and "picture.withhold" in actions(ws)
    # What is gone from the lists stays withheld.
    assert lists.drop(ws.catalog, "agency") == 1
    assert hidden(ws, data)
    with pytest.raises(HashListNotFound):
        lists.drop(ws.catalog, "agency")


def test_the_job_of_a_list_finds_what_nobody_looks_at(ws: Workspace) -> None:
    data = face_picture(1, 2)
    add(ws, 1, data)
    lists.load(ws, [hashlib.sha1(data).hexdigest().encode()], "agency", actor="op")
    run_pending(ws)
    with ws.catalog.read() as session:
        assert rows.hidden(session, [sha256_hex(data)])


def test_a_photo_that_is_only_sent_is_compared_too(ws: Workspace) -> None:
    case_id = new_case(ws)
    data = face_picture(1, 2)
    assert not shown.is_withheld_upload(ws, data)
    lists.load(ws, [hashlib.md5(data).hexdigest().encode()], "agency", actor="op")
    assert shown.is_withheld_upload(ws, data)
    assert not shown.is_withheld_upload(ws, face_picture(5, 5))
    photo = add_photo(ws, case_id, data)
    run_pending(ws)
    assert rows.get_withheld(ws, photo.sha256).case_ids == (case_id,)
    assert shown.is_withheld_upload(ws, data)


def test_bad_lines_are_counted_and_never_repeated(ws: Workspace) -> None:
    bad = [b"xyz", b"z" * 64, b"pdq:12", b"sha256:" + b"0" * 63, b"a" * 5000, b"\xff\xfe"]
    good = b"0" * 64
    report = lists.load(ws, [*bad, good, good], "agency", actor="op")
    assert (report.added, report.known, report.refused_total) == (1, 1, len(bad))
    assert [one.item for one in report.refused] == [f"line {n}" for n in range(1, 7)]
    assert not any("zzz" in one.detail or "aaa" in one.detail for one in report.refused)
    again = lists.load(ws, [good], "agency", actor="op")
    assert (again.added, again.known) == (0, 1)
    found, waiting = lists.list_lists(ws.catalog)
    assert [one.hashes for one in found] == [{"sha256": 1}] and waiting == 0


def test_who_flagged_does_not_release_and_bytes_go_last(ws: Workspace) -> None:
    case_id = new_case(ws)
    data = face_picture(1, 2)
    sha256 = sha256_hex(data)
    with pytest.raises(WithheldNotFound):
        settling.settle(ws, sha256, rows.PRESERVED, actor="role")
    ad_id = add(ws, 1, data)
    add_photo(ws, case_id, face_picture(1, 1))
    run_pending(ws)
    flag(ws, data, case_id)
    with pytest.raises(SecondPersonNeeded):
        settling.settle(ws, sha256, rows.RELEASED, actor="reviewer")
    for wrong in (rows.DELETED, "anything"):
        with pytest.raises(WithheldStateInvalid):
            settling.settle(ws, sha256, wrong, actor="role")
    # What a report needs is not forgotten, by nobody and by no age.
    with pytest.raises(LegalHold):
        forget.forget_ad(ws, ad_id)
    with ws.catalog.write() as session:
        session.execute(update(Ad).values(last_received_at=utc_now() - timedelta(days=90)))
    assert retention.look(ws, 30).due == 0

    assert settling.settle(ws, sha256, rows.PRESERVED, actor="role").outcome == rows.PRESERVED
    assert ws.blobs.has(sha256) and hidden(ws, data)
    assert retention.look(ws, 30).due == 1
    for wrong in ("reviewer", "role"):
        with pytest.raises(SecondPersonNeeded):
            settling.settle(ws, sha256, rows.DELETED, actor=wrong)
    settling.settle(ws, sha256, rows.DELETED, actor="another")
    assert not ws.blobs.has(sha256) and hidden(ws, data)
    with pytest.raises(WithheldStateInvalid):
        settling.settle(ws, sha256, rows.RELEASED, actor="role")
    # The lead is there still, the face found, and nothing is said to be missing.
    assert [i.ad.ad_id for i in candidates.ranked(ws, case_id).items] == [ad_id]
    assert health.check(ws).ok
    # The same bytes again have to be dealt with again.
    add(ws, 2, data)
    assert ws.blobs.has(sha256) and hidden(ws, data)
    assert rows.get_withheld(ws, sha256).settled_at is None
    assert actions(ws).count("picture.settle") == 2


def test_preserved_bytes_outlive_the_ad(ws: Workspace) -> None:
    data = face_picture(1, 2)
    ad_id = add(ws, 1, data)
    flag(ws, data, new_case(ws))
    settling.settle(ws, sha256_hex(data), rows.PRESERVED, actor="role")
    forget.forget_ad(ws, ad_id)
    with pytest.raises(ImageNotFound):
        images.original(ws, sha256_hex(data))
    assert ws.blobs.get(sha256_hex(data)) == data
    settling.settle(ws, sha256_hex(data), rows.DELETED, actor="another")
    with pytest.raises(BlobMissing):
        ws.blobs.get(sha256_hex(data))


def test_what_is_overdue_is_told_once(ws: Workspace) -> None:
    data = face_picture(1, 2)
    add(ws, 1, data)
    with ws.catalog.write() as session:
        session.add(
            Webhook(
                webhook_id="w",
                url="https://hooks.example/",
                secret="whsec_x",
                created_by="x",
                created_at=utc_now(),
            )
        )
    flag(ws, data, new_case(ws))
    assert rows.note_overdue(ws) == 0
    with ws.catalog.write() as session:
        session.execute(update(WithheldImage).values(due_at=utc_now() - timedelta(hours=1)))
    assert (rows.note_overdue(ws), rows.note_overdue(ws)) == (1, 0)
    assert rows.list_withheld(ws).items[0].overdue
    assert actions(ws).count("picture.overdue") == 1
    with ws.catalog.read() as session:
        told = session.scalars(select(Job).where(Job.kind == "deliver_webhook")).all()
    assert {job.payload["event"] for job in told} == {"picture.withheld", "picture.overdue"}
    assert not any(sha256_hex(data) in str(job.payload) for job in told)


def test_a_restored_back_up_withholds_again(
    ws: Workspace, tmp_path: Path, small_analyser: SmallAnalyser
) -> None:
    seen, released, deleted = (face_picture(n, 2) for n in (1, 2, 3))
    case_id = new_case(ws)
    for data in (seen, released, deleted):
        add(ws, int(sha256_hex(data)[:6], 16), data)
        flag(ws, data, case_id)
    settling.settle(ws, sha256_hex(released), rows.RELEASED, actor="role")
    for outcome, actor in ((rows.PRESERVED, "role"), (rows.DELETED, "another")):
        settling.settle(ws, sha256_hex(deleted), outcome, actor=actor)
    ledger = purges.list_purges(ws).items
    # The catalog as it was before any of that, with the same pictures.
    with open_workspace(tmp_path / "old", small_analyser) as old:
        for number, data in enumerate((seen, released, deleted)):
            add(old, number, data)
        reapply(old, ledger)
        old.maintain()
        assert [hidden(old, data) for data in (seen, released, deleted)] == [True, False, True]
        assert not old.blobs.has(sha256_hex(deleted))
        assert rows.get_withheld(old, sha256_hex(seen)).settled_at is None
        late = face_picture(1, 2, salt=3)
        add(old, 9, late)
        assert hidden(old, late)


def test_the_acts_are_in_the_chain(ws: Workspace) -> None:
    data = face_picture(1, 2)
    add(ws, 1, data)
    flag(ws, data, new_case(ws))
    settling.settle(ws, sha256_hex(data), rows.PRESERVED, actor="role")
    with ws.catalog.read() as session:
        chained = session.scalars(select(AuditRecord).order_by(AuditRecord.seq)).all()
    before = GENESIS
    for row in chained:
        columns = {column.name: getattr(row, column.name) for column in row.__table__.columns}
        assert digest(columns, before) == row.hash
        before = row.hash
    assert {row.subject_id for row in chained if row.action.startswith("picture.")} == {
        sha256_hex(data)
    }


def md5_of(data: bytes) -> bytes:
    return hashlib.md5(data).hexdigest().encode()


def test_held_bytes_are_not_deleted(ws: Workspace) -> None:
    data, photo = face_picture(1, 2), face_picture(2, 2)
    ad_id, case_id = add(ws, 1, data), new_case(ws)
    add_photo(ws, case_id, photo)
    for picture, kind, subject in ((data, "ad", ad_id), (photo, "case", case_id)):
        flag(ws, picture, case_id)
        settling.settle(ws, sha256_hex(picture), rows.PRESERVED, actor="role")
        holds.set_hold(ws, "ad" if kind == "ad" else "case", subject, "court_order")
        with pytest.raises(LegalHold):
            settling.settle(ws, sha256_hex(picture), rows.DELETED, actor="another")
        assert ws.blobs.has(sha256_hex(picture))


def test_a_key_is_no_second_person(ws: Workspace) -> None:
    data = face_picture(1, 2)
    add(ws, 1, data)
    flag(ws, data, new_case(ws), actor="user-1")
    with ws.catalog.write() as session:
        session.add(
            ApiKey(
                key_id="key-1",
                name="x",
                prefix="x",
                sha256="0" * 64,
                scopes=[],
                created_by="user-1",
                created_at=utc_now(),
            )
        )
    with pytest.raises(SecondPersonNeeded):
        settling.settle(ws, sha256_hex(data), rows.RELEASED, actor="key-1")


def test_a_copy_with_another_reason_is_not_released_with_its_source(ws: Workspace) -> None:
    first, second, third = (face_picture(1, 2, salt=n) for n in (1, 2, 3))
    case_id = new_case(ws)
    for number, data in enumerate((first, second, third)):
        add(ws, number, data)
    flag(ws, first, case_id)
    run_pending(ws)
    lists.load(ws, [md5_of(second)], "agency", actor="op")
    settling.settle(ws, sha256_hex(first), rows.RELEASED, actor="role")
    run_pending(ws)
    listed, copy = (rows.get_withheld(ws, sha256_hex(data)) for data in (second, third))
    assert (listed.reason, listed.list_name) == ("listed", "agency") and hidden(ws, second)
    # The third is a copy of a listed one all the same.
    assert (copy.reason, copy.copy_of) == ("copy", sha256_hex(second)) and hidden(ws, third)
    assert not hidden(ws, first)


def test_a_copy_that_is_flagged_itself_stays_so(ws: Workspace) -> None:
    first, second = face_picture(1, 2), face_picture(1, 2, salt=3)
    case_id = new_case(ws)
    add(ws, 1, first)
    add(ws, 2, second)
    flag(ws, first, case_id)
    run_pending(ws)
    flag(ws, second, case_id, actor="another reviewer")
    settling.settle(ws, sha256_hex(first), rows.RELEASED, actor="role")
    assert rows.get_withheld(ws, sha256_hex(second)).reason == "flagged" and hidden(ws, second)


def test_an_exact_hash_that_is_newer_than_a_release_withholds_again(ws: Workspace) -> None:
    data = face_picture(1, 2)
    value = b"pdq:" + pdq(decode(data).pixels)[0].hex().encode()
    add(ws, 1, data)
    lists.load(ws, [md5_of(data)], "agency", actor="op")
    assert hidden(ws, data)
    settling.settle(ws, sha256_hex(data), rows.RELEASED, actor="role")
    lists.load(ws, [md5_of(data), value], "agency", actor="op")
    run_pending(ws)
    assert not hidden(ws, data) and not shown.is_withheld_upload(ws, data)
    lists.load(ws, [hashlib.sha256(data).hexdigest().encode()], "other", actor="op")
    assert shown.is_withheld_upload(ws, data) and hidden(ws, data)
    record = rows.get_withheld(ws, sha256_hex(data))
    assert (record.list_name, record.settled_at) == ("other", None)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_copies_of_what_an_exact_hash_names_are_hidden(ws: Workspace, kind: str) -> None:
    data, copy, late = (face_picture(1, 2, salt=n) for n in (1, 2, 3))
    add(ws, 1, data)
    add(ws, 2, copy)
    lists.load(ws, [hashlib.new(kind, data).hexdigest().encode()], "agency", actor="op")
    run_pending(ws)
    add(ws, 3, late)
    assert all(hidden(ws, one) for one in (data, copy, late))
    assert rows.get_withheld(ws, sha256_hex(copy)).copy_of == sha256_hex(data)


def test_a_list_that_was_dropped_hides_nothing_new(ws: Workspace) -> None:
    data, other = face_picture(1, 2), face_picture(9, 2)
    for name, picture in (("dropped", data), ("kept", other)):
        value = pdq(decode(picture).pixels)[0].hex().encode()
        lists.load(ws, [b"pdq:" + value], name, actor="op")
    add(ws, 1, face_picture(7, 2))
    lists.drop(ws.catalog, "dropped")
    add(ws, 2, data)
    add(ws, 3, other)
    assert (hidden(ws, data), hidden(ws, other)) == (False, True)


@pytest.mark.parametrize("way", ["photo", "staged"])
def test_deleted_bytes_that_come_again_are_settled_again(ws: Workspace, way: str) -> None:
    data, case_id = face_picture(1, 2), new_case(ws)
    add(ws, 1, data)
    flag(ws, data, case_id)
    settling.settle(ws, sha256_hex(data), rows.PRESERVED, actor="role")
    settling.settle(ws, sha256_hex(data), rows.DELETED, actor="another")
    assert not ws.blobs.has(sha256_hex(data))
    if way == "photo":
        add_photo(ws, case_id, data)
    else:
        receiving = ws.blobs.receive()
        receiving.write(data)
        staging.stage(ws, receiving.done(), "scraper")
    assert ws.blobs.has(sha256_hex(data)) and hidden(ws, data)
    assert rows.get_withheld(ws, sha256_hex(data)).settled_at is None


MACHINERY = {
    "indexer/backup.py": "packs the bytes; a back-up is not shown",
    "indexer/health.py": "checks digests",
    "indexer/hashes.py": "makes perceptual hashes",
    "indexer/images.py": "feeds the models",
    "indexer/incoming.py": "reads the header of bytes that were sent before",
    "indexer/sealing/work.py": "seals what lies open, and checks it",
    "indexer/withheld/checks.py": "compares with lists",
    "indexer/withheld/shown.py": "the one door to people",
}


def test_originals_are_read_in_known_places_only() -> None:
    """A new place that reads originals has to say why, or go through the one door."""
    found: dict[str, int] = {}
    for path in [*(ROOT / "indexer").rglob("*.py"), *(ROOT / "service").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "get"
                and "blobs" in ast.unparse(node.func.value)
            ):
                name = path.relative_to(ROOT).as_posix()
                found[name] = found.get(name, 0) + 1
    assert set(found) == set(MACHINERY)
    assert found["indexer/images.py"] == 1, "what people see is read by withheld.shown"
