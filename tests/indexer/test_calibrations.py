"""Calibrations in the catalog: whole or not at all, taken up by what runs, never passed over."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from indexer import alerting, calibrations, jobs
from indexer.calibrations import history, keep, newest_ids, stored
from indexer.catalog import Catalog, open_catalog
from indexer.catalog.engine import sqlite_url
from indexer.catalog.tables import Calibration as Row
from indexer.catalog.tables import Candidate, Job
from indexer.errors import CalibrationDamaged, CatalogAbsent, RestoreUnfinished
from indexer.generations import rows
from indexer.ids import new_id
from indexer.times import utc_now
from indexer.workspace import RESTORING, Workspace, make_catalog
from models.calibration import Calibration, Curve
from models.errors import ContractMismatch
from tests.indexer.conftest import Reopen
from tests.indexer.small import CONTRACT, face_picture
from tests.indexer.watch import CALIBRATION, alerts_of, open_case, send, show
from tests.postgres import TestServer
from tests.tables import lend_tables

OTHER = "small-ffffffffffff"


def made(upper: float = 0.2, contract_id: str = CONTRACT) -> Calibration:
    score = np.array([0.25, 0.5, 0.75])
    curve = Curve(
        score, np.array([0.1, 0.01, 0.0]), np.array([upper, 0.02, 0.001]), np.array([0.05, 0, 0])
    )
    return Calibration(contract_id, {1: curve}, {"source": "ä", "counts": {"1": [1, 2]}})


def upper_of(calibration: Calibration | None) -> float:
    assert calibration is not None
    return float(calibration.curves[1].upper[0])


@pytest.fixture
def catalog(tmp_path: Path, catalog_url: str | None) -> Iterator[Catalog]:
    if catalog_url is None:
        lend_tables(tmp_path)
        catalog_url = sqlite_url(tmp_path / "catalog.sqlite3")
    with closing(open_catalog(catalog_url)) as opened:
        yield opened


def change(catalog: Catalog, calibration_id: str, **values: str) -> None:
    with catalog.write() as session:
        session.execute(update(Row).where(Row.calibration_id == calibration_id).values(**values))


def content_of(catalog: Catalog, calibration_id: str) -> str:
    with catalog.read() as session:
        row = session.get(Row, calibration_id)
        assert row is not None
        return row.content


def test_what_was_kept_comes_back(catalog: Catalog, tmp_path: Path) -> None:
    assert stored(catalog, CONTRACT) is None
    calibration_id = keep(catalog, made(), actor="somebody")
    found = stored(catalog, CONTRACT)
    assert found is not None
    assert found.to_json() == made().to_json()
    assert stored(catalog, OTHER) is None
    (entry,) = history(catalog, CONTRACT)
    content = content_of(catalog, calibration_id)
    assert (entry.calibration_id, entry.contract_id) == (calibration_id, CONTRACT)
    assert (entry.actor, entry.sha256) == ("somebody", hashlib.sha256(content.encode()).hexdigest())
    # It is the plain table, so that it can be shipped with a pack.
    made().save(tmp_path / "table.json")
    assert content == (tmp_path / "table.json").read_text(encoding="utf-8")


def test_the_newest_is_in_force_and_the_earlier_ones_stay(catalog: Catalog) -> None:
    ids = [keep(catalog, made(upper), actor="a") for upper in (0.2, 0.3, 0.4)]
    foreign = keep(catalog, made(0.9, OTHER), actor="b")
    assert upper_of(stored(catalog, CONTRACT)) == 0.4
    assert upper_of(stored(catalog, OTHER)) == 0.9
    assert [entry.calibration_id for entry in history(catalog, CONTRACT)] == ids[::-1]
    assert "0.2," in content_of(catalog, ids[0])
    with catalog.read() as session:
        assert newest_ids(session) == {CONTRACT: ids[-1], OTHER: foreign}


def test_a_clock_that_is_behind_does_not_hide_the_newest(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = new_id()
    first = keep(catalog, made(0.2), actor="a")
    monkeypatch.setattr(calibrations, "new_id", lambda: early)
    assert keep(catalog, made(0.3), actor="a") > first
    assert upper_of(stored(catalog, CONTRACT)) == 0.3


def test_two_at_once_lose_neither(catalog: Catalog) -> None:
    writers = [
        threading.Thread(target=keep, args=(catalog, made(upper)), kwargs={"actor": "a"})
        for upper in (0.3, 0.4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    texts = [content_of(catalog, entry.calibration_id) for entry in history(catalog, CONTRACT)]
    assert {json.loads(text)["curves"]["1"]["upper"][0] for text in texts} == {0.3, 0.4}


def test_what_json_cannot_hold_is_not_kept(catalog: Catalog) -> None:
    odd = Calibration(CONTRACT, made().curves, {"photos": float("nan")})
    with pytest.raises(ValueError, match="JSON compliant"):
        keep(catalog, odd, actor="a")
    assert history(catalog, CONTRACT) == []


@pytest.mark.parametrize("way", ["cut", "empty", "changed", "digest", "list", "deep", "no curves"])
def test_damage_is_an_error_with_a_way_out(catalog: Catalog, way: str) -> None:
    keep(catalog, made(0.3), actor="a")
    calibration_id = keep(catalog, made(), actor="a")
    text = content_of(catalog, calibration_id)
    if way == "digest":
        change(catalog, calibration_id, sha256="0" * 64)
    else:
        other = {
            "cut": text[:-40],
            "empty": "",
            "changed": text.replace("0.2,", "0.21,"),
            "list": "[1]",
            "deep": "[" * 100_000,
            "no curves": text.replace("curves", "curve"),
        }[way]
        assert other != text
        change(catalog, calibration_id, content=other)
        if way in ("list", "deep", "no curves"):  # written so, with a digest that fits
            digest = hashlib.sha256(other.encode()).hexdigest()
            change(catalog, calibration_id, sha256=digest)
    with pytest.raises(CalibrationDamaged) as caught:
        stored(catalog, CONTRACT)
    assert caught.value.code == "calibration_damaged"
    assert calibration_id in caught.value.detail
    assert "homeward calibrate" in caught.value.remedy
    keep(catalog, made(0.4), actor="a")
    assert upper_of(stored(catalog, CONTRACT)) == 0.4


def test_a_table_of_another_contract_is_not_taken(catalog: Catalog) -> None:
    change(catalog, keep(catalog, made(), actor="a"), contract_id=OTHER)
    with pytest.raises(ContractMismatch, match=CONTRACT):
        stored(catalog, OTHER)


# --- the catalog of a folder where nothing was started -----------------------------------------


def test_a_catalog_is_made_without_a_generation(tmp_path: Path, catalog_url: str | None) -> None:
    folder = tmp_path / "new"
    with closing(make_catalog(folder, catalog_url)) as catalog:
        keep(catalog, made(), actor="a")
        with catalog.read() as session:
            assert rows.all_generations(session) == []
            assert rows.in_force(session) == (None, None)
    assert folder.stat().st_mode & 0o777 == 0o700
    if catalog_url is None:
        assert (folder / "catalog.sqlite3").stat().st_mode & 0o777 == 0o600
    (folder / RESTORING).touch()
    with pytest.raises(RestoreUnfinished):
        make_catalog(folder, catalog_url)


def test_who_only_reads_leaves_an_empty_database_empty(
    tmp_path: Path, postgresql: TestServer
) -> None:
    with postgresql.empty_database() as url:
        for _ in range(2):
            with pytest.raises(CatalogAbsent):
                open_catalog(url, make=False)
        open_catalog(url).close()
        open_catalog(url, make=False).close()
    with pytest.raises(CatalogAbsent):
        open_catalog(sqlite_url(tmp_path / "empty.sqlite3"), make=False)


# --- views -------------------------------------------------------------------------------------


def test_opening_takes_the_one_in_force(reopen_watched: Reopen) -> None:
    first = reopen_watched()
    assert first.calibration is CALIBRATION
    assert first.calibration_id is None
    calibration_id = keep(first.catalog, made(0.3), actor="a")
    second = reopen_watched()
    assert upper_of(second.calibration) == 0.3
    assert second.calibration_id == calibration_id


def test_what_runs_takes_a_newer_one_and_what_was_begun_keeps_its_own(
    reopen_watched: Reopen,
) -> None:
    here, elsewhere = reopen_watched(), reopen_watched()
    begun = here.views.refresh()
    assert begun is here
    keep(elsewhere.catalog, made(0.3), actor="a")
    keep(elsewhere.catalog, made(0.9, OTHER), actor="a")
    now = here.views.refresh()
    assert upper_of(now.calibration) == 0.3
    assert begun.calibration is CALIBRATION
    assert now.cases is begun.cases
    assert now.ads is begun.ads
    assert here.views.refresh() is now
    assert here.views.current is now
    assert here.views.opened() == [now]
    keep(elsewhere.catalog, made(0.4), actor="a")
    here.maintain()
    assert upper_of(here.views.current.calibration) == 0.4
    assert upper_of(now.calibration) == 0.3


def test_alerts_go_by_it_from_the_next_job_on(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "1", face_picture(1, 2))
    assert alerts_of(ws) == []
    keep(ws.catalog, CALIBRATION, actor="a")
    show(ws, "2", face_picture(1, 3))
    assert [alert.case_id for alert in alerts_of(ws)] == [case_id] * 2, "of what came before too"


def test_held_alerts_are_released_by_the_view_in_use(ws: Workspace) -> None:
    case_id = open_case(ws, 1)
    show(ws, "1", face_picture(1, 2))
    with ws.catalog.write() as session:
        session.execute(update(Candidate).values(held_at=utc_now()))
    assert alerting.release_held(ws) == 0, "opened without rates"
    keep(ws.catalog, CALIBRATION, actor="a")
    assert alerting.release_held(ws.views.refresh()) == 1
    assert [alert.case_id for alert in alerts_of(ws)] == [case_id]


def test_a_damaged_one_stops_what_runs_and_loses_no_job(watched: Workspace) -> None:
    open_case(watched, 1)
    jobs.run_pending(watched)
    calibration_id = keep(watched.catalog, made(), actor="a")
    change(watched.catalog, calibration_id, content="{}")
    with pytest.raises(CalibrationDamaged):
        watched.views.refresh()
    receipt = send(watched, "1", face_picture(1, 2))
    with pytest.raises(CalibrationDamaged):
        jobs.run_pending(watched)
    with watched.catalog.read() as session:
        job = session.get(Job, receipt.job_id)
        assert job is not None
        assert (job.state, job.attempts) == ("queued", 0)
    watched.maintain()  # which says so in the log, and goes on with everything else
    keep(watched.catalog, CALIBRATION, actor="a")
    with watched.catalog.write() as session:
        session.execute(update(Job).values(run_after=None))
    jobs.run_pending(watched)
    assert len(alerts_of(watched)) == 1
