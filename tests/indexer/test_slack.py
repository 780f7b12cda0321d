"""What SQLite leaves in the slack of its pages is zeroed while the catalog is in use."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from indexer.batches import chunks
from indexer.catalog import Catalog, open_catalog, slack
from indexer.catalog.engine import sqlite_url
from indexer.compaction import clear_slack, too_large
from indexer.errors import StorageError

CASE = (
    "INSERT INTO cases (case_id, agency, case_number, status, person, notes, legal_hold, "
    "alert_emails, created_at, updated_at) VALUES "
    "(:id, '', :id, 'open', '{}', :notes, 0, '[]', '2026-01-01', '2026-01-01')"
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = open_catalog(sqlite_url(tmp_path / "catalog.sqlite3"))
    yield opened
    opened.close()


def database(catalog: Catalog) -> Path:
    assert catalog.engine.url.database
    return Path(catalog.engine.url.database)


def mark(number: int) -> str:
    return f"mark-{number:08d}-" + "".join(random.Random(number).choices("abcdefgh", k=20))


def write_and_delete(catalog: Catalog, seed: int, rows: int = 400) -> tuple[set[str], set[str]]:
    """Rows that grow and go, so that pages are split and joined; marks of the living, the dead."""
    chance = random.Random(seed)
    living: dict[str, str] = {}
    dead: set[str] = set()
    for numbers in chunks(range(rows), 10):
        with catalog.write() as session:
            for number in numbers:
                key = f"{seed}-{number}"
                living[key] = mark(seed * 10_000 + number)
                notes = living[key] + "." * chance.randrange(900)
                session.execute(text(CASE), {"id": key, "notes": notes})
                for _ in range(2):
                    other = chance.choice(list(living))
                    session.execute(
                        text("UPDATE cases SET notes = :notes WHERE case_id = :id"),
                        {"id": other, "notes": living[other] + "." * chance.randrange(4000)},
                    )
                if number % 3:
                    other = chance.choice(list(living))
                    dead.add(living.pop(other))
                    session.execute(text("DELETE FROM cases WHERE case_id = :id"), {"id": other})
    return set(living.values()), dead


def found_in(path: Path, marks: set[str]) -> set[str]:
    # By another process: one that opens and closes the file here would drop SQLite's own locks.
    data = subprocess.run(["cat", path], capture_output=True, check=True).stdout
    return {one for one in marks if one.encode() in data}


def test_secure_delete_alone_leaves_copies_and_they_are_cleared(catalog: Catalog) -> None:
    left: set[str] = set()
    for seed in range(1, 9):
        living, dead = write_and_delete(catalog, seed)
        assert catalog.scrub()
        left |= found_in(database(catalog), dead)
        assert clear_slack(catalog)
        assert catalog.scrub()
        assert found_in(database(catalog), dead) == set()
        assert found_in(database(catalog), living) == living
        assert catalog.problems() == []
    assert left, "this test shows something: without clearing, some would have been found"


def test_clearing_beside_readers_and_writers(catalog: Catalog) -> None:
    _, dead = write_and_delete(catalog, 100)
    other = open_catalog(sqlite_url(database(catalog)))
    stop = threading.Event()
    failed: list[BaseException] = []

    def write(seed: int) -> None:
        try:
            while not stop.is_set():
                write_and_delete(other, seed, rows=20)
                seed += 1
                with other.read() as session:
                    session.execute(text("SELECT sum(length(notes)) FROM cases")).scalar_one()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1_000, 5_000)]
    for thread in threads:
        thread.start()
    try:
        done = sum(clear_slack(catalog) for _ in range(10))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert done, "it found its moments"
    assert catalog.scrub()
    assert clear_slack(catalog)
    assert found_in(database(catalog), dead) == set()
    assert catalog.problems() == []
    other.close()


def test_a_reader_that_stays_holds_it_back_but_not_for_ever(catalog: Catalog) -> None:
    _, dead = write_and_delete(catalog, 200)
    with closing(sqlite3.connect(database(catalog), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM cases").fetchone()
        with catalog.write() as session:
            session.execute(text("DELETE FROM cases"))
        assert not catalog.scrub()
        assert not clear_slack(catalog), "what the reader still reads is not touched"
        assert reader.execute("SELECT count(*) FROM cases").fetchone()[0]
        reader.execute("COMMIT")
    assert catalog.scrub()
    assert clear_slack(catalog)
    assert found_in(database(catalog), dead) == set()


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"\x02" * 9000)
    run = subprocess.run(
        [sys.executable, "-I", slack.__file__, path], capture_output=True, check=False
    )
    assert run.returncode != 0
    assert path.read_bytes() == b"\x02" * 9000


def test_a_program_that_fails_is_said(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slack, "__file__", str(database(catalog)))
    with pytest.raises(StorageError):
        clear_slack(catalog)
    assert catalog.problems() == []


def test_who_zeroes_holds_the_write_lock(catalog: Catalog) -> None:
    """It needs nobody else to hold it: whoever started it may have died."""
    write_and_delete(catalog, 300)
    assert catalog.scrub()
    path = database(catalog)
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(slack.__file__).parent)!r})
import slack

clear = slack.clear
def look(file, offsets):
    clear(file, offsets)
    print("zeroed", len(offsets), flush=True)
    sys.stdin.readline()
slack.clear = look
print(slack.main(Path({str(path)!r})), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        word, count = child.stdout.readline().split()
        assert word == "zeroed" and int(count) > 0
        with (
            closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
    assert child.returncode == 0
    with catalog.write() as session:
        session.execute(text("DELETE FROM cases"))
    assert catalog.problems() == []


def test_a_file_of_too_many_pages_is_left_alone(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_and_delete(catalog, 400)
    assert catalog.scrub()
    assert not too_large(catalog)
    path = database(catalog)
    monkeypatch.setattr(slack, "MAX_PAGES", 5)
    # In another process: here, closing the file would drop the locks of the catalog.
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(slack.__file__).parent)!r})
import slack

slack.MAX_PAGES = 5
print(slack.main(Path({str(path)!r})))
"""
    before = subprocess.run(["cat", path], capture_output=True, check=True).stdout
    run = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "large\n"
    assert subprocess.run(["cat", path], capture_output=True, check=True).stdout == before
    assert too_large(catalog)
