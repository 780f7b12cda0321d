"""``homeward calibrate``: what it needs, what it keeps, and who takes it up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance
from typer.testing import CliRunner, Result

from indexer.errors import CalibrationDamaged
from models.calibration import Calibration
from models.packs.base import FacePack
from service.cli.main import app
from service.config import Settings
from service.doctor import examine
from service.opening import calibration_for, open_for, open_pack
from tests.service.conftest import jpeg, make_settings
from tests.tables import lend_tables


def run(settings: Settings, *words: str | Path) -> Result:
    given = [str(word) for word in words]
    return CliRunner().invoke(app, [*given, "--data-dir", str(settings.data_dir)])


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, pack: FacePack, pack_cache: Path
) -> Settings:
    made = make_settings(tmp_path_factory.mktemp("calibrate") / "data")
    made.data_dir.mkdir(mode=0o700)
    made.packs_dir.symlink_to(pack_cache)
    lend_tables(made.data_dir)
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
    path = settings.calibrations_dir / f"{pack.contract.id}.json"
    assert f"Kept in {path}" in result.stderr
    assert "Warning: only 5,995 pairs of people" in result.stderr
    assert "calibration of dlib-" in result.stdout
    assert "By group" in result.stdout
    facts = Calibration.load(path).provenance
    assert facts["source"] == "five pictures"
    assert facts["pack"] == "dlib"
    assert (facts["photos"], facts["identities"], facts["pairs_of_people"]) == (150, 110, 5995)
    assert facts["people_by_group"]["sex"] == {"female": 73, "male": 37}
    assert str(facts["measured_at"]).endswith("Z")
    assert facts["version"]


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
    assert "five pictures, measured 2" in line.detail
    # Another data folder has the one that the pack brings.
    other = make_settings(settings.data_dir.parent / "other")
    assert calibration_for(other, pack) is shipped


def test_again_keeps_the_one_before(
    settings: Settings, people: Path, cache: Path, kept: tuple[Result, dict[str, object]]
) -> None:
    before = calibration_for(settings, open_pack(settings))
    assert before is not None
    result = run(settings, "calibrate", people, "--cache", cache)
    assert result.exit_code == 0, result.output
    (path,) = settings.calibrations_dir.glob("*.json")
    assert Calibration.load(path).provenance["source"] == f"{people.name}, 150 photos"
    assert Calibration.load(path.with_name(path.name + ".1")).to_json() == before.to_json()


def test_a_damaged_one_is_an_error_and_nothing_stands_in(
    settings: Settings, kept: tuple[Result, dict[str, object]], pack: FacePack
) -> None:
    (path,) = settings.calibrations_dir.glob("*.json")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:1000])
        with pytest.raises(CalibrationDamaged):
            calibration_for(settings, pack)
        result = run(settings, "candidates", "2026-0001")
        assert result.exit_code == 1
        assert "[calibration_damaged]" in result.stderr
        assert "What to do:" in result.stderr
        finding = {finding.name: finding for finding in examine(settings)}["calibration_damaged"]
        assert not finding.ok
    finally:
        path.write_bytes(whole)


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
    assert not data.calibrations_dir.exists()
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
