"""A data folder that an earlier release made, opened by this one: nothing is lost.

``release-0.1.0.tar.gz`` was made by that release with the analyser of ``small.py``: eleven ads
with a face, three cases, four photos, one search, two purges; one ad whose image cannot be
analysed, one job that failed, one that waits, and one of a process that was killed.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, inspect, select, text

from indexer import ads, candidates, cases, images, jobs, purges
from indexer.catalog.engine import open_catalog, sqlite_url
from indexer.catalog.schema import Base
from indexer.catalog.tables import Ad, Candidate, Capture, Job, Search
from indexer.errors import AdNotFound, CatalogUnusable
from indexer.health import check
from indexer.workspace import Workspace, open_workspace
from service.accounts.keys import KeyStore
from tests.indexer.small import SmallAnalyser
from tests.indexer.test_jobs import wait_for

RELEASE = Path(__file__).parents[1] / "data" / "release-0.1.0.tar.gz"
FORGOTTEN_AD = "01a20c13-cb05-75c0-bb4e-7d4b75316310"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    with tarfile.open(RELEASE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "data"


@pytest.fixture
def expected(data_dir: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((data_dir / "expected.json").read_text(encoding="utf-8"))
    return value


@contextmanager
def opened(data_dir: Path) -> Iterator[Workspace]:
    with open_workspace(data_dir, SmallAnalyser()) as ws:
        yield ws


def rows_before(data_dir: Path) -> dict[str, int]:
    engine = create_engine(sqlite_url(data_dir / "catalog.sqlite3"))
    try:
        with engine.connect() as connection:
            return {
                name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
                for name in inspect(connection).get_table_names()
                if name in Base.metadata.tables
            }
    finally:
        engine.dispose()


def best(ws: Workspace, case_id: str) -> list[tuple[str, float]]:
    return [
        (item.candidate_id, round(item.score, 6)) for item in candidates.ranked(ws, case_id).items
    ]


def test_nothing_is_lost(data_dir: Path, expected: dict[str, Any]) -> None:
    before = rows_before(data_dir)
    with opened(data_dir) as ws, ws.catalog.read() as session:
        after = {
            name: session.scalar(select(func.count()).select_from(Base.metadata.tables[name]))
            for name in before
        }
        assert after == before
        assert before["ads"] == expected["ads"] + 4, "four ads have no face that is compared yet"
        assert before["cases"] == expected["cases"]
        assert session.scalar(select(Search.purpose)) == "training"
        # An ad ages from its newest capture on.
        for ad in session.scalars(select(Ad)):
            received = session.scalars(
                select(Capture.received_at).where(Capture.ad_id == ad.ad_id)
            ).all()
            assert ad.last_received_at == max(received)
        # A candidate is a sighting of its own until a later one is told to be a copy of it.
        for candidate in session.scalars(select(Candidate)):
            assert candidate.sighting_id == candidate.candidate_id


def test_the_list_of_the_best_is_the_same(data_dir: Path, expected: dict[str, Any]) -> None:
    wanted = [(candidate_id, score) for candidate_id, score in expected["best"]]
    with opened(data_dir) as ws:
        assert best(ws, expected["case"]) == wanted
    with opened(data_dir) as ws:
        assert best(ws, expected["case"]) == wanted, "opened a second time"


def test_photos_captures_and_originals_are_whole(data_dir: Path, expected: dict[str, Any]) -> None:
    with opened(data_dir) as ws:
        photos = [photo for case in cases.list_cases(ws).items for photo in case.photos]
        assert len(photos) == 4
        for photo in photos:
            assert images.original(ws, photo.sha256)[0]
        assert {photo.case_id for photo in photos if not photo.enrolled} == {expected["found_case"]}
        records = ads.list_ads(ws, limit=100).items
        assert sum(len(record.captures) for record in records) == 15
        pages = [page for record in records for one in record.captures for page in one.pages]
        assert len(pages) == 3
        assert all(ws.blobs.get(page.sha256) for page in pages)
        report = check(ws, verify_blobs=True)
        wrong = {item.name for item in report.items if not item.ok}
        assert wrong <= {"jobs", "contract"}, "one job is failed and three are not done, as before"


def test_jobs_go_on_where_they_stood(data_dir: Path, expected: dict[str, Any]) -> None:
    with opened(data_dir) as ws:
        done = jobs.counts(ws)["done"]

        def all_done() -> bool:
            ws.maintain()
            jobs.run_pending(ws)
            return jobs.counts(ws)["done"] == done + 2

        wait_for(all_done)
        assert jobs.get_job(ws, expected["waiting"]).state == "done"
        taken_up = jobs.get_job(ws, expected["running"])
        assert (taken_up.state, taken_up.failures) == ("done", ())
        failed = jobs.get_job(ws, expected["failed"])
        assert (failed.state, failed.failures[0].code) == ("failed", "internal_error")
        with ws.catalog.read() as session:
            assert session.scalar(select(func.count()).where(Job.runner.is_not(None))) == 0


def test_the_key_still_opens(data_dir: Path, expected: dict[str, Any]) -> None:
    with opened(data_dir) as ws:
        keys = KeyStore(ws.catalog)
        assert keys.authenticate(expected["key"]) is not None
        assert keys.authenticate(expected["key"] + "x") is None
        assert keys.ensure_administrator() is None


def test_what_was_deleted_stays_deleted(data_dir: Path, expected: dict[str, Any]) -> None:
    with opened(data_dir) as ws:
        kinds = {record.kind: record for record in purges.list_purges(ws).items}
        assert kinds["ad"].subject_id == FORGOTTEN_AD
        assert kinds["case_withdrawn"].subject_id == expected["found_case"]
        with pytest.raises(AdNotFound):
            ads.get_ad(ws, FORGOTTEN_AD)
        assert ws.cases.count() == 3


def test_a_catalog_of_a_newer_version_is_refused(data_dir: Path) -> None:
    path = data_dir / "catalog.sqlite3"
    with opened(data_dir) as ws, ws.catalog.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    held = path.read_bytes()
    for _ in range(2):
        with pytest.raises(CatalogUnusable) as refused, opened(data_dir):
            pass
        assert "another version" in refused.value.detail
        assert refused.value.remedy
    with pytest.raises(CatalogUnusable):
        open_catalog(sqlite_url(path))
    assert path.read_bytes() == held, "and it is left as it is"
