"""The file of purges: outside of the catalog, chained, whole again whatever happened to it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from indexer import ads, cases, forget, ledger, purges
from indexer.catalog.tables import Purge
from indexer.errors import LedgerDamaged
from indexer.ids import new_id
from indexer.records import CaseInput, PurgeRecord
from indexer.times import utc_now
from indexer.workspace import Workspace
from tests.indexer.test_ads import ad


def entry(number: int = 0) -> PurgeRecord:
    return PurgeRecord(
        purge_id=new_id(),
        at=utc_now(),
        actor="k",
        kind="ad",
        subject_id=new_id(),
        counts={"images": number},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outside" / "purges.jsonl"


@pytest.fixture
def kept(ws: Workspace, path: Path) -> Workspace:
    """A workspace with a file of purges."""
    path.parent.mkdir()
    ws.options = replace(ws.options, purge_ledger=path)
    return ws


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "purges.jsonl"
    first, second = [entry(1), entry(2)], [entry(3)]
    ledger.append(path, first)
    ledger.append(path, second)
    ledger.append(path, first)
    assert ledger.read(path) == ledger.Ledger((*first, *second), torn=False)
    assert path.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["before"] for line in lines] == [
        ledger.FIRST,
        *(line["sha256"] for line in lines[:-1]),
    ]


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "purges.jsonl"
    ledger.append(path, [entry(number) for number in range(5)])
    lines = path.read_bytes().splitlines(keepends=True)
    other = json.loads(lines[2])
    other["subject_id"] = new_id()
    changed = {
        "edited": [*lines[:2], json.dumps(other).encode() + b"\n", *lines[3:]],
        "one taken out": lines[:2] + lines[3:],
        "the first taken out": lines[1:],
        "exchanged": [lines[1], lines[0], *lines[2:]],
        "put in": [*lines, lines[3]],
        "no JSON": [*lines[:3], b"[" * 5000 + b"\n", *lines[3:]],
        "no object": [b"[]\n"],
        "too long": [*lines, b"x" * 20_000 + b"\n"],
        "not UTF-8": [b"\xff\n"],
    }
    for what, content in changed.items():
        path.write_bytes(b"".join(content))
        with pytest.raises(LedgerDamaged) as damaged:
            ledger.read(path)
        assert "line" in damaged.value.detail, what


def test_a_line_that_was_cut_off_is_left_out_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "purges.jsonl"
    whole = [entry(number) for number in range(3)]
    ledger.append(path, whole)
    size = path.stat().st_size
    for cut in (1, 2, 40):
        os.truncate(path, size - cut)
        assert ledger.read(path) == ledger.Ledger(tuple(whole[:2]), torn=True)
    ledger.append(path, whole[2:])
    assert ledger.read(path) == ledger.Ledger(tuple(whole), torn=False)
    path.write_bytes(path.read_bytes()[:7])
    ledger.append(path, whole)
    assert ledger.read(path).purges == tuple(whole)


def test_nothing_is_added_to_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "purges.jsonl"
    ledger.append(path, [entry()])
    ours = path.read_bytes()
    foreign = [
        b"notes of somebody\n",
        b"notes without an end",
        b"\n",
        ours + b"notes without an end",
        ours + b'{"purge_id": "' + b"x" * 20_000,
        ours + b"x" * 30_000,
        ours.replace(b'"k"', b'"l"'),
    ]
    for content in foreign:
        path.write_bytes(content)
        with pytest.raises(LedgerDamaged):
            ledger.append(path, [entry()])
        assert path.read_bytes() == content, "nothing of it is cut off"
        with pytest.raises(LedgerDamaged):
            ledger.read(path)


def test_every_deletion_is_in_the_file_at_once(kept: Workspace, path: Path) -> None:
    assert purges.write_ledger(kept) == 0
    assert not path.exists(), "nothing was deleted yet"
    case_id = cases.create_case(kept, CaseInput(case_number="1")).case_id
    ad_id = ads.receive_ad(kept, ad("a"), []).ad_id
    records = [
        forget.forget_ad(kept, ad_id, actor="k"),
        forget.forget_case(kept, case_id, actor="k"),
    ]
    assert ledger.read(path).purges == tuple(records)
    with kept.catalog.read() as session:
        assert all(row.written_at is not None for row in session.query(Purge))
    assert purges.pending_entries(kept) == 0


def test_a_file_that_is_away_is_caught_up(kept: Workspace, path: Path) -> None:
    def deleted() -> PurgeRecord:
        return forget.forget_ad(kept, ads.receive_ad(kept, ad(new_id()), []).ad_id)

    first = deleted()
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    second = deleted()
    assert purges.pending_entries(kept) == 1, "the deletion itself is done"
    path.rmdir()
    kept.maintain()
    assert ledger.read(path).purges == (first, second), "written anew, whole"
    with kept.catalog.write() as session:
        session.get_one(Purge, first.purge_id).written_at = None
    kept.maintain()
    assert ledger.read(path).purges == (first, second), "twice does no harm"
    assert len(path.read_bytes().splitlines()) == 3
