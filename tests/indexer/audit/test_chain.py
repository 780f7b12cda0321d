"""The chain on both databases: what is refused, and what is found where somebody got past that.

PRACTICE 9: deleting, editing or truncating the log is found.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text

from indexer.acting import Acting, begin
from indexer.audit import AuditWriter, entry_of, heads, record
from indexer.audit.chain import Detail
from indexer.audit.export import MANIFEST, Range, export
from indexer.audit.heads import Head
from indexer.audit.reading import Wanted, head, list_records
from indexer.audit.verify import Problem, verify
from indexer.catalog import Catalog, open_catalog
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.engine import sqlite_url
from indexer.errors import AuditDamaged, AuditUnavailable, HeadsDamaged, StorageError
from indexer.times import utc_now
from indexer.workspace import WorkspaceOptions, open_workspace
from tests.indexer.small import SmallAnalyser
from tests.tables import lend_tables

RECORDS = 12


@pytest.fixture
def catalog(catalog_url: str | None, tmp_path: Path) -> Iterator[Catalog]:
    lend_tables(tmp_path)
    opened = open_catalog(catalog_url or sqlite_url(tmp_path / "catalog.sqlite3"))
    with begin(Acting("cli", "cli", "cli:somebody")):
        for number in range(RECORDS):
            with opened.write() as session:
                record(session, "job.retry", subject=("job", str(number)), details={"n": number})
    yield opened
    opened.close()


def tamper(catalog: Catalog, change: Callable[[Connection], None]) -> None:
    """What somebody does who owns the database: the triggers are off meanwhile."""
    with catalog.engine.begin() as connection:
        if catalog.is_sqlite:
            found = connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit%'")
            )
            for name in found.scalars().all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("ALTER TABLE audit_log DISABLE TRIGGER USER"))
        change(connection)


def run(*statements: str) -> Callable[[Connection], None]:
    def change(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    return change


def found(catalog: Catalog, *known: Head) -> Problem:
    problem = verify(catalog, known).problem
    assert problem is not None
    return problem


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'another' WHERE seq = 3",
        "DELETE FROM audit_log WHERE seq = 3",
        "DELETE FROM audit_log",
    ],
)
def test_the_database_refuses_to_change_a_record(catalog: Catalog, statement: str) -> None:
    with pytest.raises(Exception, match="append-only"), catalog.write() as session:
        session.execute(text(statement))
    verdict = verify(catalog)
    assert (verdict.records, verdict.problem) == (RECORDS, None)


def test_the_database_refuses_what_takes_a_record_away_on_the_side(catalog: Catalog) -> None:
    statement = "TRUNCATE audit_log"
    if catalog.is_sqlite:
        columns = "seq, at, action, outcome, channel, actor_kind, actor, details, hash"
        values = "3, '2026-01-01', 'a.b', 'done', 'cli', 'cli', 'x', '{}', ''"
        statement = f"REPLACE INTO audit_log ({columns}) VALUES ({values})"
    with pytest.raises(Exception, match="append-only"), catalog.write() as session:
        session.execute(text(statement))
    assert verify(catalog).problem is None


@pytest.mark.parametrize("seq", [RECORDS, RECORDS + 2])
def test_the_database_refuses_a_record_out_of_order(catalog: Catalog, seq: int) -> None:
    columns = "seq, at, action, outcome, channel, actor_kind, actor, details, hash"
    values = f"{seq}, '2026-01-01', 'a.b', 'done', 'cli', 'cli', 'x', '{{}}', ''"
    statement = f"INSERT INTO audit_log ({columns}) VALUES ({values})"
    with pytest.raises(Exception, match="append-only"), catalog.write() as session:
        session.execute(text(statement))


def test_a_whole_log_is_whole(catalog: Catalog) -> None:
    seq, digest = head(catalog)
    verdict = verify(catalog, [Head(seq, digest), Head(3, _hash(catalog, 3))])
    assert verdict.problem is None
    assert (verdict.seq, verdict.hash, verdict.last_agreed) == (RECORDS, digest, RECORDS)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'another' WHERE seq = 5",
        "UPDATE audit_log SET details = '{\"n\": 4.5}' WHERE seq = 5",
        "UPDATE audit_log SET case_id = '' WHERE seq = 5",
        "UPDATE audit_log SET at = '2020-01-01 00:00:00+00' WHERE seq = 5",
    ],
)
@pytest.mark.practice(9)
def test_an_edited_record_is_named(catalog: Catalog, statement: str) -> None:
    tamper(catalog, run(statement.replace("+00", "") if catalog.is_sqlite else statement))
    assert (found(catalog).kind, found(catalog).seq) == ("changed", 5)


def test_an_edited_record_whose_columns_cannot_be_read_is_named(catalog: Catalog) -> None:
    if catalog.is_sqlite:
        tamper(catalog, run("UPDATE audit_log SET at = 'never' WHERE seq = 5"))
    else:
        tamper(catalog, run("UPDATE audit_log SET details = '[]' WHERE seq = 5"))
    assert (found(catalog).kind, found(catalog).seq) == ("changed", 5)


@pytest.mark.practice(9)
def test_deleted_records_are_named(catalog: Catalog) -> None:
    tamper(catalog, run("DELETE FROM audit_log WHERE seq IN (4, 5)"))
    problem = found(catalog)
    assert (problem.kind, problem.seq, problem.until) == ("missing", 4, 5)


def test_the_first_record_is_missed_too(catalog: Catalog) -> None:
    tamper(catalog, run("DELETE FROM audit_log WHERE seq = 1"))
    assert (found(catalog).kind, found(catalog).seq) == ("missing", 1)


def test_a_record_taken_out_with_the_numbers_closed_up_is_named(catalog: Catalog) -> None:
    change = run(
        "DELETE FROM audit_log WHERE seq = 6",
        "UPDATE audit_log SET seq = -seq WHERE seq > 6",
        "UPDATE audit_log SET seq = -seq - 1 WHERE seq < 0",
    )
    tamper(catalog, change)
    assert (found(catalog).kind, found(catalog).seq) == ("changed", 6)


@pytest.mark.practice(9)
def test_records_in_another_order_are_named(catalog: Catalog) -> None:
    change = run(
        "UPDATE audit_log SET seq = 1000 WHERE seq = 7",
        "UPDATE audit_log SET seq = 7 WHERE seq = 8",
        "UPDATE audit_log SET seq = 8 WHERE seq = 1000",
    )
    tamper(catalog, change)
    assert (found(catalog).kind, found(catalog).seq) == ("changed", 7)


def test_a_record_put_in_is_named(catalog: Catalog) -> None:
    columns = "at, action, outcome, channel, actor_kind, actor, details, hash"
    change = run(
        "UPDATE audit_log SET seq = -seq WHERE seq > 8",
        "UPDATE audit_log SET seq = -seq + 1 WHERE seq < 0",
        f"INSERT INTO audit_log (seq, {columns}) SELECT 9, {columns} FROM audit_log WHERE seq = 2",
    )
    tamper(catalog, change)
    assert (found(catalog).kind, found(catalog).seq) == ("changed", 9)


@pytest.mark.practice(9)
def test_a_cut_end_is_found_by_a_head_that_was_kept(catalog: Catalog) -> None:
    seq, digest = head(catalog)
    tamper(catalog, run("DELETE FROM audit_log WHERE seq > 9"))
    assert verify(catalog).problem is None  # the chain alone cannot tell
    problem = found(catalog, Head(seq, digest))
    assert (problem.kind, problem.seq, problem.until) == ("truncated", 10, RECORDS)


def test_a_log_that_was_written_anew_is_found_by_a_head_that_was_kept(catalog: Catalog) -> None:
    known = [Head(4, _hash(catalog, 4)), Head(*head(catalog))]
    tamper(catalog, run("DELETE FROM audit_log WHERE seq > 6"))
    for number in range(RECORDS):
        with catalog.write() as session:
            record(session, "job.retry", subject=("job", str(number)))
    assert verify(catalog).problem is None
    problem = found(catalog, *known)
    assert (problem.kind, problem.seq, problem.until) == ("rewritten", 5, RECORDS)


def restore(catalog: Catalog, known: Head, keep: int = 6) -> Head:
    """Give up what came after ``keep``, as an older back-up does; the head right after it."""
    tamper(catalog, run(f"DELETE FROM audit_log WHERE seq > {keep}"))
    with catalog.write() as session:
        told: dict[str, Detail] = {"last_known_seq": known.seq, "last_known_hash": known.hash}
        record(session, "backup.restore", details=told)
    return now(catalog)


def now(catalog: Catalog) -> Head:
    return Head(*head(catalog), utc_now() + timedelta(seconds=1), "file")


def more(catalog: Catalog, count: int) -> Head:
    for _ in range(count):
        with catalog.write() as session:
            record(session, "job.retry")
    return now(catalog)


def test_a_gap_that_a_restore_tells_of_is_explained(catalog: Catalog) -> None:
    long_ago = utc_now() - timedelta(days=1)
    known = Head(*head(catalog), long_ago, "file")
    after = restore(catalog, known)
    before = Head(9, "f" * 64, long_ago, "file")
    verdict = verify(catalog, [before, known, after])
    assert verdict.problem is None
    (gap,) = verdict.gaps
    assert (gap.seq, gap.first, gap.last, gap.confirmed) == (7, 7, RECORDS, True)
    # What was kept after it, or before the gap, is not explained away.
    for seq, at, kind in ((13, long_ago, "truncated"), (5, long_ago, "rewritten")):
        assert found(catalog, known, after, Head(seq, "a" * 64, at)).kind == kind
    # A head of which nobody knows when it was kept: only for whoever knows of the restore.
    timeless = Head(10, "b" * 64)
    assert found(catalog, known, after, timeless).kind == "truncated"
    assert verify(catalog, [known, after, timeless], accepted=[7]).problem is None


@pytest.mark.practice(9)
def test_a_forged_restore_explains_nothing(catalog: Catalog) -> None:
    kept = [Head(4, _hash(catalog, 4)), now(catalog)]
    restore(catalog, Head(10**9, "a" * 64))
    assert found(catalog, *kept).kind == "truncated"
    # Not even one that names the last head: nothing was noted right after it.
    restore(catalog, kept[-1])
    kept[-1] = replace(kept[-1], at=utc_now() - timedelta(days=1))
    assert (found(catalog, *kept).kind, found(catalog, *kept).seq) == ("restored", 7)
    assert verify(catalog, kept, accepted=[7]).problem is None


@pytest.mark.practice(9)
def test_what_is_cut_off_or_written_anew_after_a_restore_is_found(catalog: Catalog) -> None:
    known = Head(*head(catalog), utc_now() - timedelta(days=1), "file")
    kept = [known, restore(catalog, known), more(catalog, 3)]
    assert verify(catalog, kept).problem is None
    tamper(catalog, run("DELETE FROM audit_log WHERE seq > 8"))
    assert (found(catalog, *kept).kind, found(catalog, *kept).until) == ("truncated", 10)
    more(catalog, 20)
    assert (found(catalog, *kept).kind, found(catalog, *kept).until) == ("rewritten", 10)


# --- the file of heads -------------------------------------------------------------------------


def test_heads_are_read_as_they_were_noted(tmp_path: Path) -> None:
    path = tmp_path / "heads.jsonl"
    assert heads.read(path) == []
    assert heads.latest(path) is None
    heads.append(path, 3, "a" * 64)
    heads.append(path, 7, "b" * 64)
    with path.open("a") as file:
        file.write('{"at": "2026-01')  # the machine stopped while it was written
    assert [(one.seq, one.hash) for one in heads.read(path)] == [(3, "a" * 64), (7, "b" * 64)]
    assert heads.bad_lines(path) == []
    last = heads.latest(path)
    assert last is not None and last.seq == 7
    heads.append(path, 9, "c" * 64)
    assert [one.seq for one in heads.read(path)] == [3, 7, 9]
    assert heads.bad_lines(path) == [3]
    with path.open("a") as file:
        file.write("x" * 5_000 + "\n")
    with pytest.raises(HeadsDamaged):
        heads.latest(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_head_of_a_cut_log_is_not_noted(tmp_path: Path, lent: None) -> None:
    options = WorkspaceOptions(audit_heads=tmp_path / "heads.jsonl")
    with open_workspace(tmp_path / "data", SmallAnalyser(), options=options) as ws:
        path = tmp_path / "heads.jsonl"
        more(ws.catalog, 2)
        assert heads.keep(ws, now=True)
        number, _ = head(ws.catalog)
        tamper(ws.catalog, run(f"DELETE FROM audit_log WHERE seq = {number}"))
        before = path.read_bytes()
        for count in (0, 3):  # shorter than it was, and longer
            more(ws.catalog, count)
            assert not heads.keep(ws, now=True)
            assert path.read_bytes() == before
            against = heads.contradicts(ws)
            assert against is not None and against.seq == number


def test_a_head_reads_as_it_is_printed() -> None:
    assert heads.parsed(f"12:{'A' * 64}\n") == Head(12, "a" * 64)
    assert heads.parsed("12:abc") is None
    assert heads.parsed("heads.jsonl") is None


# --- export ------------------------------------------------------------------------------------

CHECK = """
import hashlib, json, sys
before = None
for line in open(sys.argv[1], "rb"):
    line = line.rstrip(b"\\n")
    record = json.loads(line)
    assert before in (None, record["prev"]), record["seq"]
    before = hashlib.sha256(line).hexdigest()
print(before)
"""


def test_an_export_verifies_without_homeward(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "out" / "log.jsonl"
    path.parent.mkdir()
    made = export(catalog, path, Range(3, 9), homeward="1")
    assert (made.records, made.first, made.last) == (7, 3, 9)
    manifest = json.loads(path.with_name(path.name + MANIFEST).read_text())
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    told = subprocess.run([sys.executable, "-c", CHECK, str(path)], capture_output=True, text=True)
    assert told.stdout.strip() == manifest["last_hash"] == _hash(catalog, 9)
    path.write_bytes(path.read_bytes().replace(b'"n":5', b'"n":6'))
    assert subprocess.run([sys.executable, "-c", CHECK, str(path)], capture_output=True).returncode


def test_an_export_of_one_case_names_each_hash(catalog: Catalog, tmp_path: Path) -> None:
    for case in ("one", "two", "one"):
        with catalog.write() as session:
            record(session, "case.update", case_id=case)
    path = tmp_path / "case.jsonl"
    assert export(catalog, path, Range(case_id="one"), homeward="1").records == 2
    hashes = json.loads(path.with_name(path.name + MANIFEST).read_text())["hashes"]
    lines = path.read_bytes().splitlines()
    assert [hashlib.sha256(line).hexdigest() for line in lines] == list(hashes.values())


def test_a_damaged_log_is_not_exported(catalog: Catalog, tmp_path: Path) -> None:
    tamper(catalog, run("UPDATE audit_log SET actor = 'another' WHERE seq = 5"))
    with pytest.raises(AuditDamaged, match="Record 5"):
        export(catalog, tmp_path / "log.jsonl", Range(), homeward="1")
    assert not (tmp_path / "log.jsonl").exists()


# --- reading and writing -----------------------------------------------------------------------


def test_a_page_says_whether_its_records_follow_from_each_other(catalog: Catalog) -> None:
    page = list_records(catalog, Wanted(), limit=5)
    assert [item.seq for item in page.items] == [12, 11, 10, 9, 8]
    assert page.fit is True
    below = list_records(catalog, Wanted(), limit=50, cursor=page.next_cursor)
    assert [item.seq for item in below.items] == [7, 6, 5, 4, 3, 2, 1]
    assert below.fit is True and below.next_cursor is None
    assert list_records(catalog, Wanted(actor="cli:somebody")).fit is None
    tamper(catalog, run("UPDATE audit_log SET actor = 'another' WHERE seq = 9"))
    assert list_records(catalog, Wanted(), limit=5).fit is False


def test_what_waits_is_written_in_a_handful_of_transactions(catalog: Catalog) -> None:
    writer = AuditWriter(catalog)
    with catalog.write():  # somebody else has the lock, so all of them wait
        futures = [
            writer.submit(entry_of(Acting(), "case.read", subject=("case", str(n))))
            for n in range(100)
        ]
    for future in futures:
        future.result(30)
    writer.close()
    page = list_records(catalog, Wanted(action="case.read"), limit=200)
    assert [item.subject_id for item in page.items] == [str(n) for n in range(99, -1, -1)]
    assert len({item.at for item in page.items}) <= 3  # one time for each transaction
    assert verify(catalog).problem is None
    with pytest.raises(AuditUnavailable):
        writer.write(entry_of(Acting(), "case.read"))


def test_a_record_that_cannot_be_written_fails_for_whoever_waits(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = AuditWriter(catalog)

    def away() -> None:
        raise StorageError("The disk is gone.")

    monkeypatch.setattr(catalog, "write", away)
    with pytest.raises(AuditUnavailable):
        writer.write(entry_of(Acting(), "case.read"))
    monkeypatch.undo()
    writer.write(entry_of(Acting(), "case.read"))
    writer.close()
    assert verify(catalog).records == RECORDS + 1


def test_one_bad_record_fails_alone(catalog: Catalog) -> None:
    writer = AuditWriter(catalog)
    good = entry_of(Acting(), "case.read", outcome="x" * 500, case_id="y" * 64)
    with catalog.write():  # somebody else has the lock, so all of them wait
        first = writer.submit(good)
        bad = writer.submit(entry_of(Acting(), "case.read", details={"n": 2**60}))
        others = [writer.submit(good) for _ in range(5)]
    for future in (first, *others):
        future.result(30)
    with pytest.raises(AuditUnavailable):
        bad.result(30)
    writer.close()
    verdict = verify(catalog)
    assert (verdict.records, verdict.problem) == (RECORDS + 6, None)
    assert len(list_records(catalog, Wanted(), limit=1).items[0].case_id or "") == 36


def _hash(catalog: Catalog, seq: int) -> str:
    with catalog.read() as session:
        return str(session.scalar(select(AuditRecord.hash).where(AuditRecord.seq == seq)))
