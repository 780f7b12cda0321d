"""Profiles: one table of defaults, as documented; what is set wins, and is told where laxer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy.orm import DeclarativeBase
from typer.testing import CliRunner

from indexer.catalog.schema import Base
from service import profiles
from service.cli.main import app
from service.config import Settings, SettingsInvalid, load_settings
from service.doctor import _profile
from tests.conftest import REPOSITORY


def block(name: str, file: str = "profiles.md") -> str:
    text = (REPOSITORY / "docs" / file).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"<!-- {name}: begin")
    return rest.partition("-->\n")[2].partition(f"<!-- {name}: end")[0].strip()


def test_the_documented_table_is_that_of_the_code() -> None:
    assert block("profiles") == profiles.table()
    for fixed in profiles.FIXED:
        assert f"| {fixed.what} | {fixed.value} | {fixed.source} |" in block("fixed")


def test_every_rule_is_of_a_setting_and_standard_is_its_default() -> None:
    for rule in profiles.RULES:
        assert rule.value("standard") == Settings.model_fields[rule.setting].default
        assert len(rule.values) == len(profiles.PROFILES) and rule.source


def test_a_profile_sets_defaults_and_what_is_given_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEWARD_PROFILE", "eu")
    settings = load_settings()
    assert (settings.ad_faces, settings.approval, settings.ad_max_age_days) == (
        "transient",
        "required",
        180,
    )
    assert _profile(settings).ok
    monkeypatch.setenv("HOMEWARD_AD_MAX_AGE_DAYS", "0")
    monkeypatch.setenv("HOMEWARD_APPROVAL_DAYS", "7")
    settings = load_settings()
    assert (settings.ad_max_age_days, settings.approval_days) == (0, 7)
    finding = _profile(settings)
    assert not finding.ok and "HOMEWARD_AD_MAX_AGE_DAYS is 0" in finding.detail
    assert "APPROVAL_DAYS" not in finding.detail
    shown = json.loads(CliRunner().invoke(app, ["profile", "show", "--json"]).stdout)
    assert shown["profile"] == "eu"
    assert [one["setting"] for one in shown["settings"] if one["laxer"]] == ["ad_max_age_days"]
    plain = CliRunner().invoke(app, ["profile", "show"])
    assert plain.exit_code == 0 and "laxer" in plain.stdout


def test_an_unknown_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEWARD_PROFILE", "elsewhere")
    with pytest.raises(SettingsInvalid, match="HOMEWARD_PROFILE"):
        load_settings()


def test_every_table_of_the_catalog_is_in_the_table_of_retention() -> None:
    rows = [line for line in block("retention").splitlines() if line.startswith("| ")][1:]
    named = [name.strip("` ") for row in rows for name in row.split("|")[1].split(",")]
    base: type[DeclarativeBase] = Base
    assert sorted(named) == sorted(base.metadata.tables)
    assert all(len(row.split("|")) == 7 for row in rows)
    assert Path(REPOSITORY / "docs" / "profiles.md").is_file()
