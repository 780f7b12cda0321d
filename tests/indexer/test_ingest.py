"""Ads and cases from files: good ones in, bad ones told, interrupted runs taken up."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from indexer import ads, cases, health, jobs
from indexer.errors import SourceUnreadable
from indexer.galleries.local import LocalGallery
from indexer.ingest import ingest_ads, ingest_cases, refused_codes
from indexer.records import Failure, IngestReport, Progress
from indexer.sources import MAX_LINE_BYTES, AdItem, read_ads, read_cases
from indexer.times import moment_from_text, moment_text, rfc3339
from indexer.workspace import Workspace, open_workspace
from models.types import Face, RgbImage
from tests import forked
from tests.indexer.conftest import Reopen
from tests.indexer.small import POISON, SmallAnalyser, colour, face_picture, picture, vector_of


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def write_lines(path: Path, *values: dict[str, Any] | bytes) -> Path:
    lines = [v if isinstance(v, bytes) else json.dumps(v).encode() for v in values]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_images(folder: Path, count: int) -> None:
    for i in range(count):
        (folder / f"{i}.png").write_bytes(face_picture(i))


def ad_line(i: int, **fields: Any) -> dict[str, Any]:
    return {"site": "example.test", "external_id": str(i), "images": [f"{i}.png"], **fields}


def codes(report: IngestReport) -> dict[str, str]:
    return {failure.item: failure.code for failure in report.refused}


# --- ads -------------------------------------------------------------------------------------


def test_ads_from_a_file(ws: Workspace, files: Path) -> None:
    write_images(files, 40)
    (files / "p.html").write_bytes(b"<html>")
    lines = [ad_line(i, phones=["+1 206 555 0100"], pages=["p.html"]) for i in range(40)]
    source = write_lines(files / "ads.jsonl", *lines)
    seen: list[Progress] = []
    report = ingest_ads(ws, source, files, progress=seen.append)
    assert (report.done, report.created, report.refused) == (40, 40, ())
    assert ws.ads.count() == 40
    assert (seen[-1].done, seen[0].total) == (seen[-1].total, 40)
    assert [p.done for p in seen if p.stage == "ads"][-1] == 40
    got = ads.find_ad(ws, "example.test", "7")
    assert got.phones == ("+1 206 555 0100",)
    assert got.captures[0].images[0].filename == "7.png"
    again = ingest_ads(ws, source, files)
    assert (again.done, again.created, again.refused) == (40, 0, ())
    assert ws.ads.count() == 40
    assert jobs.waiting(ws) == 0
    assert health.check(ws, verify_blobs=True).ok


def test_what_is_bad_is_told_and_the_rest_goes_on(
    ws: Workspace, files: Path, short_pauses: None
) -> None:
    write_images(files, 3)
    (files / "poison.png").write_bytes(picture((9, 9, 60, POISON)))
    (files / "text.png").write_bytes(b"no image at all")
    outside = files.parent / "outside.png"
    outside.write_bytes(face_picture(9))
    source = write_lines(
        files / "ads.jsonl",
        ad_line(0),
        b"{not json",
        b"[1, 2]",
        b"\xff\xfe",
        b'{"site": "s", "external_id": "nan", "lat": NaN}',
        {"site": "s", "external_id": "x", "lat": 91, "colour": "red", "phones": "none"},
        {"external_id": "no site"},
        b"",
        ad_line(1, images=["1.png", "missing.png", "text.png", "../outside.png", "poison.png"]),
        b'{"site": "' + b"x" * MAX_LINE_BYTES + b'"}',
        b"[" * 100_000,
        ad_line(2, images=["."]),
        {"site": "s", "external_id": "many", "images": ["2.png"] * 21},
    )
    report = ingest_ads(ws, source, files)
    assert report.done == 3
    poison = next(f.item for f in report.refused if f.code == "analysis_failed")
    assert poison.startswith("line 9: ")
    assert codes(report) == {
        "line 2": "malformed_line",
        "line 3": "malformed_line",
        "line 4": "malformed_line",
        "line 5": "malformed_line",
        "line 6": "invalid_fields",
        "line 7": "invalid_fields",
        "line 9: missing.png": "file_missing",
        "line 9: text.png": "unsupported_format",
        "line 9: ../outside.png": "path_outside_folder",
        poison: "analysis_failed",
        "line 10": "line_too_long",
        "line 11": "malformed_line",
        "line 12: .": "file_unreadable",
        "line 13": "too_many_files",
    }
    fields = next(f.detail for f in report.refused if f.item == "line 6")
    for name in ("lat", "colour", "phones"):
        assert name in fields, "all that is wrong, not the first"
    assert ws.ads.count() == 2
    assert refused_codes(report.refused)["malformed_line"] == 5
    (files / "missing.png").write_bytes(face_picture(30))
    assert ingest_ads(ws, source, files).created == 1
    assert ws.ads.count() == 3


def test_text_that_no_database_holds_is_refused_alone(ws: Workspace, files: Path) -> None:
    source = write_lines(
        files / "ads.jsonl",
        {**ad_line(1), "title": "a\0b", "images": []},
        {**ad_line(2), "attributes": {"a": ["\0"]}, "images": []},
        {**ad_line(3), "attributes": {"a\0": 1}, "images": []},
        b'{"site": "s", "external_id": "4", "attributes": {"a": "\\ud800"}}',
        {**ad_line(5), "title": "half \U0001f600 of none", "images": []},
    )
    report = ingest_ads(ws, source, files)
    assert refused_codes(report.refused) == {"malformed_line": 4}
    (ad,) = ads.list_ads(ws).items
    assert ad.title == "half \U0001f600 of none"
    table = files / "cases.csv"
    table.write_bytes(b"case_number,notes\n1,a\0b\n2,\xff\n3,fine\n")
    report = ingest_cases(ws, table, files)
    assert refused_codes(report.refused) == {"malformed_line": 2}
    assert [case.case_number for case in cases.list_cases(ws).items] == ["3"]


@pytest.mark.parametrize(
    "value",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "0999-05-05T00:00:00Z",
        2020,
        "2020",
    ],
)
def test_an_ad_with_an_impossible_time_stops_nothing(
    ws: Workspace, files: Path, value: object
) -> None:
    write_images(files, 3)
    source = write_lines(
        files / "ads.jsonl",
        ad_line(0, posted_at="2026-01-31T12:00:00.123456+01:00"),
        ad_line(1, posted_at=value),
        ad_line(2),
    )
    for _ in range(2):
        report = ingest_ads(ws, source, files)
        assert report.done == 2
        assert codes(report) == {"line 2": "invalid_fields"}
        assert report.refused[0].detail.startswith("posted_at: ")
    posted = ads.find_ad(ws, "example.test", "0").posted_at
    assert posted == datetime(2026, 1, 31, 11, 0, 0, 123_000, tzinfo=UTC)


def test_sources_that_cannot_be_read(ws: Workspace, files: Path) -> None:
    source = write_lines(files / "ads.jsonl", ad_line(0))
    for bad in (files / "none.jsonl", files):
        with pytest.raises(SourceUnreadable):
            ingest_ads(ws, bad, files)
    with pytest.raises(SourceUnreadable):
        ingest_ads(ws, source, files / "none")
    with pytest.raises(SourceUnreadable):
        ingest_cases(ws, files / "none.csv", files)
    (files / "empty.jsonl").write_bytes(b"")
    assert ingest_ads(ws, files / "empty.jsonl", files).done == 0


def test_a_byte_order_mark_is_no_error(files: Path) -> None:
    source = write_lines(files / "ads.jsonl", b"\xef\xbb\xbf" + json.dumps(ad_line(0)).encode())
    assert [type(item) for item in read_ads(source)] == [AdItem]


# --- cases -----------------------------------------------------------------------------------


def test_cases_from_json_lines(ws: Workspace, files: Path) -> None:
    (files / "two.png").write_bytes(picture((5, 5, 40, colour(1)), (60, 60, 80, colour(2))))
    write_images(files, 3)
    person = {"name": "Jane Roe", "aliases": ["J"], "date_of_birth": "2008-02-29"}
    source = write_lines(
        files / "cases.jsonl",
        {
            "case_number": "1",
            "person": person,
            "missing_since": "2026-01-03",
            "photos": [
                "0.png",
                {"file": "two.png", "face_index": 1, "taken_on": "2025-01-01"},
            ],
        },
        {"case_number": "2", "photos": ["two.png", "gone.png", "1.png"]},
        {"case_number": "3", "person": {"height_cm": "tall"}},
        {"case_number": "4", "photos": [{"file": "1.png", "colour": 1}]},
    )
    report = ingest_cases(ws, source, files)
    assert (report.done, report.created) == (2, 2)
    assert codes(report) == {
        "line 2: two.png": "several_faces_found",
        "line 2: gone.png": "file_missing",
        "line 3": "invalid_fields",
        "line 4": "invalid_fields",
    }
    case = cases.find_case(ws, "1")
    assert case.person.name == "Jane Roe"
    assert [photo.enrolled_face_index for photo in case.photos] == [0, 1]
    assert case.photos[1].filename == "two.png"
    assert ws.cases.count() == 3
    assert jobs.waiting(ws) == 0
    again = ingest_cases(ws, source, files)
    assert (again.done, again.created) == (2, 0)
    assert len(again.refused) == 4
    assert ws.cases.count() == 3


def test_cases_from_csv(ws: Workspace, files: Path) -> None:
    write_images(files, 3)
    source = files / "cases.csv"
    source.write_bytes(
        b"\xef\xbb\xbfcase_number,agency,name,aliases,height_cm,missing_since,"
        b"last_seen_place,last_seen_lat,notes,photos\r\n"
        b'1,north,"Roe, Jane",J; Janie ,165.5,2026-01-03,Main station,47.5,"two\r\nlines",'
        b"0.png; 1.png\r\n"
        b"2,,,,,,,,,2.png\r\n"
        b"3,,,,tall,,,,,\r\n"
        b"4,,caf\xe9,,,,,,,\r\n"
        b"5,,,,,,,,,,,,too many\r\n"
        b"6\r\n"
    )
    report = ingest_cases(ws, source, files)
    assert (report.done, report.created) == (3, 3)
    assert codes(report) == {
        "line 5": "invalid_fields",
        "line 6": "malformed_line",
        "line 7": "malformed_line",
    }
    case = cases.find_case(ws, "1", "north")
    assert case.person.name == "Roe, Jane"
    assert case.person.aliases == ("J", "Janie")
    assert case.person.height_cm == 165.5
    assert case.notes == "two\r\nlines"
    assert case.last_seen is not None
    assert (case.last_seen.place, case.last_seen.lat) == ("Main station", 47.5)
    assert len(case.photos) == 2
    assert cases.find_case(ws, "6").person.name is None


def test_no_date_is_made_from_a_number(ws: Workspace, files: Path) -> None:
    source = files / "cases.csv"
    source.write_text(
        "case_number,missing_since,date_of_birth,last_seen_at\n"
        "1,2020,,\n"
        "2,20200131,,\n"
        "3,0999-05-05T00:00:00Z,,\n"
        "4,0001-01-01T00:00:00+14:00,,\n"
        "5,2020-01-31,1999-02-03,2020-01-30T22:00:00+01:00\n"
        "6,,0,\n"
        "7,,,2020\n"
        "8,0999-05-05,,\n"
    )
    report = ingest_cases(ws, source, files)
    assert report.done == 1
    assert codes(report) == {f"line {n}": "invalid_fields" for n in (2, 3, 4, 5, 7, 8, 9)}
    [case] = cases.list_cases(ws).items
    assert (case.case_number, case.missing_since) == ("5", date(2020, 1, 31))
    assert case.person.date_of_birth == date(1999, 2, 3)
    assert case.last_seen is not None
    assert case.last_seen.at == datetime(2020, 1, 30, 21, tzinfo=UTC)


def test_a_photo_date_is_never_a_number(ws: Workspace, files: Path) -> None:
    photo = {"file": "0.png", "taken_on": 86_400}
    source = write_lines(files / "cases.jsonl", {"case_number": "1", "photos": [photo]})
    report = ingest_cases(ws, source, files)
    assert codes(report) == {"line 1": "invalid_fields"}
    assert cases.list_cases(ws).items == ()


def test_a_year_keeps_its_zeros() -> None:
    moment = datetime(999, 5, 5, 1, 2, 3, 4_999, tzinfo=UTC)
    assert rfc3339(moment) == "0999-05-05T01:02:03.004Z"
    assert moment_from_text(moment_text(moment)) == moment.replace(microsecond=4_000)


@pytest.mark.parametrize(
    "header", ["name,photos", "case_number,shoe_size", "case_number,name,name", ""]
)
def test_a_csv_with_other_columns(ws: Workspace, files: Path, header: str) -> None:
    source = files / "cases.csv"
    source.write_text(f"{header}\n1,2,3\n")
    with pytest.raises(SourceUnreadable) as caught:
        ingest_cases(ws, source, files)
    assert "case_number" in caught.value.remedy
    assert cases.list_cases(ws).items == ()


def test_cases_from_folders(ws: Workspace, files: Path) -> None:
    for case, people in (("c-1", (1, 2)), ("c-2", (3,)), (".hidden", (4,))):
        (files / case).mkdir()
        for person in people:
            (files / case / f"{person}.png").write_bytes(face_picture(person))
    (files / "c-1" / ".DS_Store").write_bytes(b"x")
    (files / "stray.png").write_bytes(face_picture(5))
    report = ingest_cases(ws, files)
    assert (report.done, report.refused) == (2, ())
    assert len(cases.find_case(ws, "c-1").photos) == 2
    assert ws.cases.count() == 3
    assert not any(isinstance(item, Failure) for item in read_cases(files))


def test_a_closed_case_takes_no_photo(ws: Workspace, files: Path) -> None:
    write_images(files, 2)
    ingest_cases(ws, write_lines(files / "c.jsonl", {"case_number": "1"}), files)
    cases.update_case(ws, cases.find_case(ws, "1").case_id, {"status": "found"})
    more = write_lines(files / "d.jsonl", {"case_number": "1", "photos": ["0.png"]})
    assert codes(ingest_cases(ws, more, files)) == {"line 1: 0.png": "case_closed"}


# --- kill -9 ---------------------------------------------------------------------------------


class Slow(SmallAnalyser):
    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        time.sleep(0.002 * len(images))
        return super().analyse(images)


def _ingest(data: Path, files: Path, url: str | None, told: Connection) -> None:
    def tell(progress: Progress) -> None:
        told.send(f"{progress.stage} {progress.done}")

    with open_workspace(data, Slow(), catalog_url=url) as ws:
        ingest_cases(ws, files / "cases.jsonl", files, progress=tell)
        ingest_ads(ws, files / "ads.jsonl", files, progress=tell)


ADS = 120


def run_and_kill(data: Path, files: Path, url: str | None, at: str, delay_s: float) -> None:
    """Start the ingest, and kill it a little after it has told that it is ``at``."""
    ours, its = forked.pipe()
    with ours:
        with its:
            process = forked.start(_ingest, data, files, url, its)
        while ours.recv() != at:
            pass
        time.sleep(delay_s)
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL


def test_killed_half_way_and_run_again(
    opened: Reopen, catalog_url: str | None, tmp_path: Path, files: Path
) -> None:
    write_images(files, ADS)
    write_lines(files / "ads.jsonl", *(ad_line(i, title=f"ad {i}") for i in range(ADS)))
    write_lines(
        files / "cases.jsonl",
        *({"case_number": str(i), "photos": [f"{i}.png"]} for i in range(5)),
    )
    for at, delay_s in (("cases 2", 0.0), ("ads 16", 0.01), ("ads 48", 0.03), ("ads 80", 0.06)):
        run_and_kill(tmp_path / "data", files, catalog_url, at, delay_s)
    ws = opened()
    assert 80 <= len(ads.list_ads(ws, limit=1000).items) < ADS
    ingest_cases(ws, files / "cases.jsonl", files)
    report = ingest_ads(ws, files / "ads.jsonl", files)
    assert (report.done, report.refused) == (ADS, ())
    jobs.run_pending(ws)
    done = ADS + 5
    assert jobs.counts(ws) | {"dropped": 0} == {**dict.fromkeys(jobs.counts(ws), 0), "done": done}
    assert ws.cases.count() == 5
    assert ws.ads.count() == ADS, "nothing lost, nothing doubled"
    every = ads.list_ads(ws, limit=1000).items
    assert sorted(int(ad.external_id) for ad in every) == list(range(ADS))
    assert all(len(ad.captures) == len(ad.images) == 1 for ad in every)
    found = ws.ads.search(vector_of(colour(7))[None], 1)[0]
    assert found.scores[0] == pytest.approx(1, abs=1e-6)
    assert health.check(ws, verify_blobs=True).ok
    ws.blobs.sweep(older_than_s=-1)
    assert sum(path.is_file() for path in (ws.data_dir / "blobs").rglob("*")) == ADS


# --- health ----------------------------------------------------------------------------------


def test_health_tells_what_is_wrong(
    ws: Workspace, files: Path, small_analyser: SmallAnalyser
) -> None:
    write_images(files, 3)
    ingest_ads(ws, write_lines(files / "a.jsonl", *(ad_line(i) for i in range(3))), files)
    assert health.check(ws).ok
    shas = sorted(ws.blobs.digests())
    ws.blobs.delete(shas[0])
    path = ws.data_dir / "blobs" / shas[1][:2] / shas[1][2:4] / shas[1]
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    ws.blobs.put(b"nobody refers to this")
    assert isinstance(ws.ads, LocalGallery)
    ws.ads._index.delete(list(ws.ads.ids())[:1])
    report = health.check(ws, verify_blobs=True)
    assert not report.ok
    wrong = {item.name: item for item in report.items if not item.ok}
    assert set(wrong) == {"originals", "gallery of ads"}
    for said in ("1 missing", "1 damaged", "1 files that nothing refers to"):
        assert said in wrong["originals"].detail
    assert "1 faces are missing" in wrong["gallery of ads"].detail
    assert all(item.remedy for item in wrong.values())
