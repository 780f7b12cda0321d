"""``homeward calibrate``: what it needs, what it keeps, and who takes it up."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageEnhance
from typer.testing import CliRunner, Result

from indexer.calibrations import Entry, history
from indexer.catalog.tables import Calibration as Row
from indexer.errors import CalibrationDamaged
from indexer.generations.rows import add, all_generations
from indexer.workspace import make_catalog
from models.packs.base import FacePack
from service.app import create_app
from service.cli.main import app
from service.config import Settings
from service.doctor import examine
from service.opening import (
    NoDataFolder,
    calibration_for,
    open_catalog_only,
    open_for,
    open_pack,
    pack_in_use,
)
from tests.models.insightface_models import make_v1_folder, plant, scene
from tests.postgres import TestServer
from tests.service.conftest import jpeg, make_settings
from tests.service.web.browser import Browser


def run(settings: Settings, *words: str | Path) -> Result:
    given = [str(word) for word in words]
    return CliRunner().invoke(app, [*given, "--data-dir", str(settings.data_dir)])


def kept_in(settings: Settings, pack: FacePack) -> list[Entry]:
    with closing(open_catalog_only(settings)) as catalog:
        return history(catalog, pack.contract.id)


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, pack: FacePack, pack_cache: Path
) -> Settings:
    made = make_settings(tmp_path_factory.mktemp("calibrate") / "data")
    made.data_dir.mkdir(mode=0o700)
    made.packs_dir.symlink_to(pack_cache)
    return made


@pytest.fixture(scope="module")
def pictures(portrait: Image.Image, other_bytes: bytes) -> list[bytes]:
    """Five small pictures of two people; small ones are looked at quickly."""
    small = portrait.resize((150, 150))
    views = [small, *(ImageEnhance.Brightness(small).enhance(by) for by in (0.7, 0.85, 1.2))]
    return [*(jpeg(view) for view in views), other_bytes]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]) -> Path:
    """110 folders that share five pictures. Who is who is wrong in them, so strangers seem to look
    alike: the rates say so, and nothing else about the command depends on it."""
    folder = tmp_path_factory.mktemp("people")
    for number in range(110):
        (folder / f"p{number:03}").mkdir()
        (folder / f"p{number:03}" / "1.jpg").write_bytes(pictures[number % 5])
    for number in range(40):
        (folder / f"p{number:03}" / "2.jpg").write_bytes(pictures[(number + 1) % 5])
    return folder


@pytest.fixture(scope="module")
def cache(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings, pictures: list[bytes]
) -> Path:
    """What a run over the five pictures left: the same bytes are not looked at again."""
    folder = tmp_path_factory.mktemp("five")
    for number, data in enumerate(pictures):
        (folder / str(number)).mkdir()
        (folder / str(number) / "1.jpg").write_bytes(data)
    made = folder.parent / "cache-of-five"
    result = run(settings, "evaluate", folder, "--cache", made)
    assert result.exit_code == 0, result.output
    return made


@pytest.fixture(scope="module")
def kept(
    settings: Settings, people: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, dict[str, object]]:
    """The command once, with labels; what it printed and its figures."""
    folder = tmp_path_factory.mktemp("labels")
    labels = folder / "labels.csv"
    rows = [f"p{n:03},{'female' if n % 3 else 'male'},{n % 7}" for n in range(110)]
    labels.write_text("identity,sex,race\n" + "\n".join(rows))
    figures = folder / "figures.json"
    words = ("--pack", "dlib", "--source", "five pictures", "--labels", labels, "--cache", cache)
    result = run(settings, "calibrate", people, *words, "--json", figures)
    return result, json.loads(figures.read_text())


def test_it_keeps_the_rates_and_where_they_come_from(
    settings: Settings, kept: tuple[Result, dict[str, object]], pack: FacePack
) -> None:
    result, _ = kept
    assert result.exit_code == 0, result.output
    (entry,) = kept_in(settings, pack)
    assert f"Kept in the catalog as {entry.calibration_id}" in result.stderr
    assert entry.actor == "command line"
    assert "Warning: only 5,995 pairs of people" in result.stderr
    assert "calibration of dlib-" in result.stdout
    assert "By group" in result.stdout
    found = calibration_for(settings, pack)
    assert found is not None
    facts = found.provenance
    assert facts["source"] == "five pictures"
    assert facts["pack"] == "dlib"
    assert (facts["photos"], facts["identities"], facts["pairs_of_people"]) == (150, 110, 5995)
    assert facts["people_by_group"]["sex"] == {"female": 73, "male": 37}
    assert str(facts["measured_at"]).endswith("Z")
    assert facts["version"]


def test_the_catalog_that_it_made_has_no_generation(
    settings: Settings, kept: tuple[Result, dict[str, object]]
) -> None:
    with closing(open_catalog_only(settings)) as catalog, catalog.read() as session:
        assert all_generations(session) == []
    assert (settings.data_dir / "catalog.sqlite3").stat().st_mode & 0o777 == 0o600
    assert pack_in_use(settings) == "dlib"


def test_every_rate_has_an_interval_beside_it(kept: tuple[Result, dict[str, object]]) -> None:
    figures: dict = kept[1]  # type: ignore[type-arg]
    spans = figures["intervals"]
    for level in ("1e-2", "1e-3", "1e-4", "1e-5"):
        low, high = spans["tar_at_fmr"][level]
        assert low <= figures["tar_at_fmr"][level] <= high
        assert len(spans["fmr_at_threshold"][level]) == 2
    for name in ("eer", "failure_to_enroll", "rank_1", "rank_5", "rank_10", "rank_50"):
        low, high = spans[name]
        assert low <= figures[name] <= high
        assert low < high
    for level, value in figures["fnir_at_fpir"].items():
        low, high = spans["fnir_at_fpir"][level]
        assert low <= value <= high
    for curve in figures["calibration"]["fmr_at_score"].values():
        for point in curve:
            low, high = point["interval"]
            assert low < high
            assert point["fmr"] is None or low <= point["fmr"] <= high
    assert figures["calibration"]["warning"].startswith("Warning")
    groups = figures["groups"]["attributes"]
    assert groups["sex"]["values"]["female"]["same_fmr@1e-2"]["interval"]
    # 110 people of seven kinds: about 16 of each.
    for value in groups["race"]["values"].values():
        assert value["rank_1_miss"]["value"] is None
        assert "30 are needed" in value["rank_1_miss"]["reason"]


def test_everything_that_is_opened_takes_it_up(
    settings: Settings, kept: tuple[Result, dict[str, object]], pack: FacePack
) -> None:
    shipped = pack.calibration
    assert shipped is not None
    found = calibration_for(settings, open_pack(settings))
    assert found is not None
    assert found.provenance["source"] == "five pictures"
    assert found.to_json() != shipped.to_json()
    with open_for(settings) as workspace:
        assert workspace.calibration is not None
        assert workspace.calibration.to_json() == found.to_json()
    line = {finding.name: finding for finding in examine(settings)}["calibration"]
    assert line.ok
    (entry,) = kept_in(settings, pack)
    assert "five pictures; 150 photos, 110 identities; measured 2" in line.detail
    assert f"kept here as {entry.calibration_id} (0 earlier)" in line.detail
    # Another data folder has the one that the pack brings.
    other = make_settings(settings.data_dir.parent / "other")
    assert calibration_for(other, pack) is shipped
    with pytest.raises(NoDataFolder):
        open_catalog_only(other)


def test_a_running_server_takes_the_next_one_and_the_one_before_stays(
    settings: Settings,
    people: Path,
    cache: Path,
    pack: FacePack,
    kept: tuple[Result, dict[str, object]],
) -> None:
    before = kept_in(settings, pack)
    with (
        open_for(settings) as workspace,
        TestClient(create_app(settings, workspace)) as client,
    ):
        browser = Browser(client)
        browser.sign_in()
        assert "five pictures" in browser.get("/about").prose
        result = run(settings, "calibrate", people, "--cache", cache)
        assert result.exit_code == 0, result.output
        about = browser.get("/about").prose
        assert f"{people.name}, 150 photos" in about
        assert "five pictures" not in about
    now = kept_in(settings, pack)
    assert now[1:] == before
    line = {finding.name: finding for finding in examine(settings)}["calibration"]
    assert f"kept here as {now[0].calibration_id} (1 earlier)" in line.detail


def test_a_damaged_one_is_an_error_and_nothing_stands_in(
    settings: Settings, kept: tuple[Result, dict[str, object]], pack: FacePack
) -> None:
    newest = kept_in(settings, pack)[0].calibration_id
    with closing(open_catalog_only(settings)) as catalog:
        with catalog.write() as session:
            row = session.get_one(Row, newest)
            whole, row.content = row.content, row.content[:1000]
        try:
            with pytest.raises(CalibrationDamaged):
                calibration_for(settings, pack)
            result = run(settings, "candidates", "2026-0001")
            assert result.exit_code == 1
            assert "[calibration_damaged]" in result.stderr
            assert "What to do:" in result.stderr
            found = {finding.name: finding for finding in examine(settings)}
            assert not found["calibration_damaged"].ok
        finally:
            with catalog.write() as session:
                session.get_one(Row, newest).content = whole


def test_what_only_reads_makes_no_catalog(
    tmp_path: Path, pack_cache: Path, pictures: list[bytes]
) -> None:
    fresh = make_settings(tmp_path / "data")
    fresh.data_dir.mkdir(mode=0o700)
    fresh.packs_dir.symlink_to(pack_cache)
    for name in "ab":
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "1.jpg").write_bytes(pictures[0])
    commands: list[tuple[str | Path, ...]] = [
        ("packs", "verify"),
        ("packs", "list"),
        ("packs", "show"),
        ("evaluate", tmp_path / "two", "--clusters"),
    ]
    for words in commands:
        result = run(fresh, *words)
        assert result.exit_code == 0, result.output
    assert {path.name for path in fresh.data_dir.iterdir()} == {"packs"}


def test_in_a_database_elsewhere(
    tmp_path: Path,
    people: Path,
    cache: Path,
    pack: FacePack,
    pack_cache: Path,
    postgresql: TestServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with postgresql.empty_database() as url:
        monkeypatch.setenv("HOMEWARD_CATALOG_URL", url)
        there = make_settings(tmp_path / "data", catalog_url=url)
        there.data_dir.mkdir(mode=0o700)
        there.packs_dir.symlink_to(pack_cache)
        assert run(there, "packs", "list").exit_code == 0
        with pytest.raises(NoDataFolder):
            open_catalog_only(there)
        result = run(there, "calibrate", people, "--cache", cache)
        assert result.exit_code == 0, result.output
        # Another machine, which shares nothing but the database.
        other = make_settings(tmp_path / "other", catalog_url=url)
        (entry,) = kept_in(other, pack)
        assert entry.calibration_id in result.stderr
        found = calibration_for(other, pack)
        assert found is not None
        assert found.provenance["source"] == f"{people.name}, 150 photos"


def test_without_a_name_it_measures_the_pack_in_use(tmp_path: Path, people: Path) -> None:
    settings = make_settings(tmp_path / "data")
    with closing(make_catalog(settings.data_dir)) as catalog, catalog.write() as session:
        add(session, "a-1", pack="not-here", dimension=4, state="active", actor="tester")
    result = run(settings, "calibrate", people)
    assert result.exit_code == 1
    assert "[pack_missing]" in result.stderr
    assert "not-here" in result.stderr


def test_too_few_people_are_refused_before_the_work(
    tmp_path: Path, settings: Settings, pictures: list[bytes]
) -> None:
    data = make_settings(tmp_path / "data")
    for number in range(99):
        (tmp_path / "few" / str(number)).mkdir(parents=True)
        (tmp_path / "few" / str(number) / "1.jpg").write_bytes(b"never read")
    result = run(data, "calibrate", tmp_path / "few")
    assert result.exit_code == 1
    assert "[too_few_people]" in result.stderr
    assert "99 people; a calibration needs 100" in result.stderr
    assert "less than one stranger among 1,000" in result.stderr
    assert not data.data_dir.exists()
    # People without a face do not count either.
    (tmp_path / "few" / "99").mkdir()
    (tmp_path / "few" / "99" / "1.jpg").write_bytes(pictures[0])
    result = run(settings, "calibrate", tmp_path / "few")
    assert result.exit_code == 1
    assert "There are photos of 1 people" in result.stderr


def test_wrong_words_end_before_the_work(settings: Settings, people: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("identity,sex\np000,f\nnobody,f\n")
    for command in ("calibrate", "evaluate"):
        result = run(settings, command, people, "--labels", labels)
        assert result.exit_code == 1
        assert "[labels_invalid]" in result.stderr
        assert "labels.csv, line 3, column 1: there is no identity 'nobody'" in result.stderr
    result = run(settings, "calibrate", people, "--pack", "none")
    assert result.exit_code == 1
    assert "[pack_missing]" in result.stderr


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data folder whose generation in use is of another pack; no setting names that."""
    root = tmp_path_factory.mktemp("second")
    settings = make_settings(root / "data")
    models = make_v1_folder(root / "models")
    accept = ("--accept-licence-as", "Ada Lovelace")
    assert run(settings, "packs", "install", "buffalo_s", "--from", models, *accept).exit_code == 0
    contract = open_pack(settings, "buffalo_s").contract
    with closing(make_catalog(settings.data_dir)) as catalog, catalog.write() as session:
        add(session, contract.id, pack="buffalo_s", dimension=512, state="active", actor="tester")
    return settings


def test_the_pack_in_use_is_measured_not_the_one_of_the_settings(
    second: Settings, tmp_path: Path
) -> None:
    for number in range(100):
        picture = scene(160, 160, number)
        plant(picture, 32, 32, 96, number)
        (tmp_path / "drawn" / f"p{number:03}").mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "drawn" / f"p{number:03}" / "1.png")
    in_use = open_pack(second, "buffalo_s").contract.id
    figures = tmp_path / "figures.json"
    for command in ("evaluate", "calibrate"):
        result = run(second, command, tmp_path / "drawn", "--json", figures)
        assert result.exit_code == 0, result.output
        assert json.loads(figures.read_text())["contract_id"] == in_use
    assert f"in force for {in_use}" in result.stderr
    result = run(second, "evaluate", tmp_path / "drawn", "--pack", "not-here")
    assert "[pack_missing]" in result.stderr


def test_models_are_tried_and_vectors_moved_by_the_pack_in_use(
    settings: Settings, tmp_path: Path
) -> None:
    data = make_settings(tmp_path / "data")
    with closing(make_catalog(data.data_dir)) as catalog, catalog.write() as session:
        add(session, "a-1", pack="not-here", dimension=4, state="active", actor="tester")
    data.packs_dir.symlink_to(settings.packs_dir)
    for words in (("worker", "--try-models"), ("gallery", "migrate", "--to", "local")):
        result = run(data, *words)
        assert result.exit_code == 1
        assert "[pack_missing]" in result.stderr, words
        assert "not-here" in result.stderr
