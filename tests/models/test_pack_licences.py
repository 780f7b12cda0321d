"""Terms that bind by bytes, acceptance by name, and signed licences."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.errors import LicenceInvalid, LicenceNotAccepted
from models.packs.known import (
    FREE_FILES,
    KNOWN,
    PACKAGES_WITH,
    RESEARCH_FILES,
    confined,
    terms_of,
)
from models.packs.licences import (
    AURAFACE,
    OWN_RESPONSIBILITY,
    RESEARCH_ONLY,
    TERMS,
    Acceptance,
    ModelLicence,
    Rights,
    accept,
    inspect_licence,
    require_valid,
    stricter,
)
from tests.models.licence_files import write_licence

KEY = Ed25519PrivateKey.generate()
KEYS = (KEY.public_key(),)
DAY = timedelta(days=1)


def by_name(name: str) -> dict[str, str]:
    return {file: digest for digest, file in {**RESEARCH_FILES, **FREE_FILES}.items()} | {"": name}


# --- terms -----------------------------------------------------------------------------------


def test_packs_that_are_not_free_have_terms() -> None:
    assert next(iter(KNOWN)) == "dlib"
    assert set(KNOWN) == {
        *("dlib", "buffalo_l", "buffalo_m", "buffalo_s", "buffalo_sc", "antelopev2"),
        *("raccoon_s", "raccoon_l", "auraface", "yunet-sface"),
    }
    for pack in KNOWN.values():
        assert pack.info.free_for_police_use == (pack.terms is None)
        assert pack.info.licence and pack.info.provenance
        assert pack.fetch or pack.kind == "dlib"


@pytest.mark.parametrize("terms", TERMS.values(), ids=list(TERMS))
def test_terms_say_what_they_bind_to(terms: object) -> None:
    assert terms in (RESEARCH_ONLY, AURAFACE, OWN_RESPONSIBILITY)
    for found in TERMS.values():
        assert "SHA-256 of this text" in found.text
        assert len(found.sha256) == 64
    assert len({found.sha256 for found in TERMS.values()}) == len(TERMS)


def test_terms_follow_the_bytes_not_the_name() -> None:
    named = by_name("")
    yunet = [
        named["face_detection_yunet_2023mar.onnx"],
        named["face_recognition_sface_2021dec.onnx"],
    ]
    aura, det = named["glintr100.onnx of AuraFace-v1"], named["det_10g.onnx"]
    assert terms_of("yunet-sface", yunet) is None
    assert terms_of("ours", yunet) is None
    assert terms_of("auraface", [aura, det]) is AURAFACE
    assert terms_of("ours", [named["w600k_r50.onnx"], det]) is RESEARCH_ONLY
    assert terms_of("auraface", [named["glintr100.onnx"], det]) is RESEARCH_ONLY
    assert terms_of("yunet-sface", [yunet[0], named["w600k_r50.onnx"]]) is RESEARCH_ONLY
    assert terms_of("auraface", [aura, yunet[0]]) is None


def test_what_is_not_known_is_never_free() -> None:
    for name in ("yunet-sface", "auraface", "ours"):
        assert terms_of(name, ["0" * 64]) is OWN_RESPONSIBILITY
    assert terms_of("buffalo_l", ["0" * 64]) is RESEARCH_ONLY
    assert terms_of("ours", []) is OWN_RESPONSIBILITY


# --- acceptance ------------------------------------------------------------------------------


def test_an_acceptance_names_person_time_and_text() -> None:
    moment = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)
    found = accept(RESEARCH_ONLY, "  Ada   Lovelace ", moment)
    assert found == Acceptance(
        "Ada Lovelace", "2026-05-04T12:30:00.000Z", "research-only", RESEARCH_ONLY.sha256
    )


@pytest.mark.parametrize("name", ["", "  ", "x", "12 34", "Ada\x00Lovelace", "y" * 201])
def test_no_name_is_no_acceptance(name: str) -> None:
    with pytest.raises(LicenceNotAccepted) as caught:
        accept(RESEARCH_ONLY, name)
    assert "--accept-licence-as" in caught.value.remedy


# --- signed licences -------------------------------------------------------------------------


def test_no_file_means_no_licence(tmp_path: Path) -> None:
    assert inspect_licence(tmp_path, "buffalo_l", public_keys=KEYS) is None
    require_valid(None)


def test_a_commercial_licence_lifts_the_warning_until_it_ends(tmp_path: Path) -> None:
    write_licence(tmp_path, KEY, "buffalo_l")
    licence = inspect_licence(tmp_path, "buffalo_l", public_keys=KEYS)
    assert licence is not None and not licence.refused
    assert licence.customer == "Sample Police Department"
    require_valid(licence)
    rights = Rights("buffalo_l", RESEARCH_ONLY.key, accept(RESEARCH_ONLY, "Ada Lovelace"), licence)
    now = datetime.now(UTC)
    assert rights.warning(now) is None
    assert rights.warning(now + 29 * DAY) is None
    ended = rights.warning(now + 31 * DAY)
    assert ended is not None and "ended on" in ended and "Ada Lovelace" in ended


def test_a_licence_without_an_end_holds(tmp_path: Path) -> None:
    write_licence(tmp_path, KEY, "buffalo_l", valid_for=None)
    licence = inspect_licence(tmp_path, "buffalo_l", public_keys=KEYS)
    assert licence is not None and licence.commercial_at(datetime.now(UTC) + 10_000 * DAY)


def test_a_non_commercial_licence_lifts_nothing(tmp_path: Path) -> None:
    write_licence(tmp_path, KEY, "raccoon_s", grant="non-commercial")
    licence = inspect_licence(tmp_path, "raccoon_s", public_keys=KEYS)
    require_valid(licence)
    warning = Rights("raccoon_s", RESEARCH_ONLY.key, None, licence).warning()
    assert warning is not None and "non-commercial research" in warning


def test_licences_that_do_not_hold_are_refused(tmp_path: Path) -> None:
    stranger = Ed25519PrivateKey.generate()
    cases: dict[str, tuple[Ed25519PrivateKey, str, dict[str, Any], str]] = {
        "other key": (stranger, "buffalo_l", {}, "signature"),
        "other model": (KEY, "antelopev2", {}, "antelopev2"),
        "over": (KEY, "buffalo_l", {"valid_for": -DAY}, "its time is over"),
        "not yet": (KEY, "buffalo_l", {"starts_in": DAY}, "its time has not come"),
    }
    for number, (key, model, changes, said) in enumerate(cases.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_licence(folder, key, model, **changes)
        licence = inspect_licence(folder, "buffalo_l", public_keys=KEYS)
        with pytest.raises(LicenceInvalid, match=said) as caught:
            require_valid(licence)
        assert str(tmp_path) not in str(caught.value)
        warning = Rights("buffalo_l", RESEARCH_ONLY.key, None, licence).warning()
        assert warning is not None and "does not hold" in warning


def test_a_licence_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = write_licence(tmp_path, KEY, "buffalo_l", valid_for=-DAY)
    document = json.loads(path.read_text())
    document["valid_until"] = "2099-01-01T00:00:00Z"
    path.write_text(json.dumps(document))
    with pytest.raises(LicenceInvalid, match="signature"):
        require_valid(inspect_licence(tmp_path, "buffalo_l", public_keys=KEYS))
    path.write_text("no JSON")
    with pytest.raises(LicenceInvalid):
        require_valid(inspect_licence(tmp_path, "buffalo_l", public_keys=KEYS))


def test_keys_of_a_test_are_not_trusted_in_earnest(tmp_path: Path) -> None:
    write_licence(tmp_path, KEY, "buffalo_l")
    licence = inspect_licence(tmp_path, "buffalo_l")
    assert licence is not None and licence.status == "invalid"


def test_a_manifest_names_the_model(tmp_path: Path) -> None:
    manifest = {"manifest_version": 2, "model_id": "raccoon_l", "license": "MODEL.LICENSE"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    write_licence(tmp_path, KEY, "raccoon_l")
    licence = inspect_licence(tmp_path, "ours", form="v2", public_keys=KEYS)
    assert licence is not None and licence.status == "verified_commercial"


@pytest.mark.parametrize(
    "manifest",
    [
        {"manifest_version": 1, "license": "MODEL.LICENSE", "model_id": "cheap_s"},
        {"package": {"name": "cheap_s"}, "models": [{"file": "det_10g.onnx"}]},
    ],
)
def test_an_older_manifest_does_not_make_a_licence_for_another_model_hold(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    write_licence(tmp_path, KEY, "cheap_s")
    with pytest.raises(LicenceInvalid):
        require_valid(inspect_licence(tmp_path, "buffalo_l", public_keys=KEYS))


def test_a_licence_covers_known_files_only_where_its_model_has_them(tmp_path: Path) -> None:
    assert set(PACKAGES_WITH) == set(RESEARCH_FILES)
    named = by_name("")
    large = [named["det_10g.onnx"], named["w600k_r50.onnx"]]
    write_licence(tmp_path, KEY, "buffalo_l")
    licence = inspect_licence(tmp_path, "buffalo_l", public_keys=KEYS)
    assert confined(licence, ["0" * 64, *large]) == licence
    for other in (named["w600k_mbf.onnx"], named["glintr100.onnx"]):
        narrow = confined(licence, ["0" * 64, other])
        with pytest.raises(LicenceInvalid, match="another model"):
            require_valid(narrow)
        assert "does not hold" in str(Rights("x", RESEARCH_ONLY.key, None, narrow).warning())
    manifest = {"manifest_version": 2, "model_id": "cheap_s", "license": "MODEL.LICENSE"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    write_licence(tmp_path, KEY, "cheap_s")
    cheap = inspect_licence(tmp_path, "buffalo_l", form="v2", public_keys=KEYS)
    assert cheap is not None and not cheap.refused
    assert confined(cheap, ["0" * 64]) == cheap
    assert getattr(confined(cheap, large), "refused", None) is True


def test_of_two_terms_the_stricter_ones_bind() -> None:
    rising = [None, AURAFACE, OWN_RESPONSIBILITY, RESEARCH_ONLY]
    for low, one in enumerate(rising):
        for high, other in enumerate(rising):
            assert stricter(one, other) is rising[max(low, high)]
    assert set(TERMS.values()) == set(rising) - {None}


def test_rights_that_cannot_be_read_are_not_free() -> None:
    assert "cannot be told" in str(Rights("some", unreadable="it is damaged.").warning())


def test_free_packs_need_no_words() -> None:
    assert Rights("dlib").warning() is None
    for key in TERMS:
        assert Rights("some", key).warning()
    unknown = ModelLicence("dependency_missing", "no cryptography at /somewhere")
    assert "cannot be checked" in str(Rights("some", "research-only", None, unknown).warning())
