"""Packs are installed whole or not at all, pinned, checked on every load, and removed."""

from __future__ import annotations

import json
import shutil
import signal
import zipfile
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.errors import (
    LicenceInvalid,
    LicenceNotAccepted,
    PackDiffers,
    PackDigestMismatch,
    PackDownloadFailed,
    PackError,
    PackMissing,
    PackSourceInvalid,
)
from models.packs import known, store
from models.packs.licences import OWN_RESPONSIBILITY, RESEARCH_ONLY, Acceptance, Terms, accept
from models.packs.record import RECORD, read_record, sha256_of
from models.packs.registry import find_pack, list_packs, load_pack, record_of, rights_of
from models.runtime import RuntimeOptions
from tests import forked
from tests.models.insightface_models import make_recogniser, make_v1_folder, make_v2_folder
from tests.models.licence_files import write_licence
from tests.models.opencv_models import planted, sface, write_folder
from tests.models.pack_kills import install_and_be_killed, install_from

KEY = Ed25519PrivateKey.generate()
KEYS = (KEY.public_key(),)
ONE = RuntimeOptions(threads=1)


class Person:
    """Accepts whatever is shown, and remembers what that was."""

    def __init__(self) -> None:
        self.shown: list[Terms] = []

    def __call__(self, terms: Terms) -> Acceptance:
        self.shown.append(terms)
        return accept(terms, "Ada Lovelace")


def nobody(terms: Terms) -> Acceptance:
    raise LicenceNotAccepted(f"{terms.title} was not accepted.", remedy="Accept it.")


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "zoo")


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    return tmp_path / "packs"


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def zipped(folder: Path, path: Path, below: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, below + str(file.relative_to(folder)))
    return path


# --- installing ------------------------------------------------------------------------------


def test_a_folder_is_installed_and_loaded(zoo: Path, packs: Path) -> None:
    person = Person()
    record = store.install("yunet-sface", packs, source=zoo, accept=person)
    assert person.shown == [OWN_RESPONSIBILITY], "small models are not the published ones"
    assert (record.kind, record.format, record.source) == ("opencv", "onnx", "folder")
    assert record == record_of("yunet-sface", packs)
    pack = load_pack("yunet-sface", packs_dir=packs, runtime=ONE)
    assert pack.contract.id == record.contract_id
    assert pack.info.digests == record.files
    assert pack.detect(planted(200, 200, (64, 64, 64)), 1.0, 0.3)
    shutil.rmtree(zoo)
    assert load_pack("yunet-sface", packs_dir=packs, runtime=ONE).contract.id == record.contract_id


def test_models_that_are_known_to_be_free_need_no_acceptance(
    zoo: Path, packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The published files cannot be here: their place in the table is lent to the small ones.
    monkeypatch.setattr(known, "FREE_FILES", {sha256_of(path): "" for path in zoo.iterdir()})
    record = store.install("yunet-sface", packs, source=zoo, accept=nobody)
    assert record.terms is None and record.acceptance is None
    assert rights_of("yunet-sface", packs).warning() is None
    assert find_pack("yunet-sface", packs).free_for_police_use
    assert find_pack("yunet-sface", packs).licence == "MIT (YuNet) and Apache-2.0 (SFace)"


def test_a_zip_is_installed(zoo: Path, packs: Path, tmp_path: Path) -> None:
    archive = zipped(zoo, tmp_path / "any.zip", below="inside/")
    record = store.install("yunet-sface", packs, source=archive, accept=Person())
    assert record.source == "zip"
    assert set(record.files) == {path.name for path in zoo.iterdir()}
    kept = {Path(name).name for name in files_below(packs / "yunet-sface")}
    assert kept == {*record.files, RECORD}


def test_without_acceptance_nothing_is_installed(zoo: Path, packs: Path) -> None:
    with pytest.raises(LicenceNotAccepted):
        store.install("yunet-sface", packs, source=zoo, accept=nobody)
    assert files_below(packs) == [".lock"]
    with pytest.raises(PackMissing, match="not installed"):
        load_pack("yunet-sface", packs_dir=packs)


def test_an_acceptance_of_other_terms_does_not_count(zoo: Path, packs: Path) -> None:
    with pytest.raises(LicenceNotAccepted, match="Other terms"):
        store.install(
            "yunet-sface", packs, source=zoo, accept=lambda _: accept(RESEARCH_ONLY, "Ada Lovelace")
        )
    assert store.installed(packs) == []


def test_the_same_files_again_change_nothing(zoo: Path, packs: Path) -> None:
    first = store.install("yunet-sface", packs, source=zoo, accept=Person())
    again = store.install("yunet-sface", packs, source=zoo, accept=nobody)
    assert again == first == record_of("yunet-sface", packs)


def test_other_files_need_a_word(zoo: Path, packs: Path, tmp_path: Path) -> None:
    first = store.install("yunet-sface", packs, source=zoo, accept=Person())
    other = write_folder(tmp_path / "other", recogniser=sface(seed=8))
    with pytest.raises(PackDiffers, match="yunet-sface") as caught:
        store.install("yunet-sface", packs, source=other, accept=Person())
    assert "--replace" in caught.value.remedy
    assert record_of("yunet-sface", packs) == first
    second = store.install("yunet-sface", packs, source=other, accept=Person(), replace_other=True)
    assert second.contract_id != first.contract_id
    assert load_pack("yunet-sface", packs_dir=packs).contract.id == second.contract_id
    assert len(files_below(packs / "yunet-sface")) == 3, "the old files are gone"


def test_what_does_not_load_is_not_installed(zoo: Path, packs: Path) -> None:
    write_folder(zoo, recogniser=sface(dimension=64))
    with pytest.raises(PackError):
        store.install("yunet-sface", packs, source=zoo, accept=Person())
    assert files_below(packs) == [".lock"]


def test_damaged_files_are_made_whole_by_installing_again(zoo: Path, packs: Path) -> None:
    record = store.install("yunet-sface", packs, source=zoo, accept=Person())
    place = packs / "yunet-sface" / record.folder
    (place / sorted(record.files)[0]).write_bytes(b"damaged")
    store.install("yunet-sface", packs, source=zoo, accept=Person())
    load_pack("yunet-sface", packs_dir=packs)


def test_nobody_else_may_look_inside(zoo: Path, tmp_path: Path) -> None:
    packs = tmp_path / "data" / "packs"
    store.install("yunet-sface", packs, source=zoo, accept=Person())
    for folder in (packs.parent, packs):
        assert folder.stat().st_mode & 0o077 == 0


def test_sources_that_are_none(packs: Path, tmp_path: Path) -> None:
    with pytest.raises(PackSourceInvalid, match="neither"):
        store.install("buffalo_l", packs, source=tmp_path / "nothing", accept=Person())
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackMissing):
        store.install("buffalo_l", packs, source=tmp_path / "empty", accept=Person())
    (tmp_path / "file.zip").write_bytes(b"no archive")
    with pytest.raises(PackSourceInvalid, match=r"file\.zip"):
        store.install("buffalo_l", packs, source=tmp_path / "file.zip", accept=Person())
    assert files_below(packs) == [".lock"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "a b", "x" * 65, "é"])
def test_names_stay_inside_the_folder(packs: Path, zoo: Path, name: str) -> None:
    for step in (
        lambda: store.install(name, packs, source=zoo, accept=Person()),
        lambda: load_pack(name, packs_dir=packs),
        lambda: store.remove(name, packs),
        lambda: rights_of(name, packs),
    ):
        with pytest.raises(PackMissing):
            step()


def test_folders_that_the_operator_put_there_stay(zoo: Path, packs: Path) -> None:
    (packs / "yunet-sface" / "mine").mkdir(parents=True)
    (packs / "yunet-sface" / "mine" / "note.txt").write_text("keep")
    store.install("yunet-sface", packs, source=zoo, accept=Person())
    assert (packs / "yunet-sface" / "mine" / "note.txt").read_text() == "keep"


# --- InsightFace packages --------------------------------------------------------------------


def test_an_insightface_folder_of_any_name(packs: Path, tmp_path: Path) -> None:
    person = Person()
    source = make_v1_folder(tmp_path / "models")
    (source / "README.md").write_text("not needed")
    record = store.install("ours", packs, source=source, accept=person)
    assert person.shown == [OWN_RESPONSIBILITY]
    assert (record.kind, record.format, record.dimension) == ("insightface", "v1", 512)
    assert all(name.endswith(".onnx") for name in record.files)
    pack = load_pack("ours", packs_dir=packs, runtime=ONE)
    assert pack.info.name == "ours" and not pack.info.free_for_police_use
    assert pack.contract.id == record.contract_id
    assert [info.name for info in list_packs(packs)][-1] == "ours"
    assert find_pack("ours", packs).digests == record.files


def test_a_research_pack_is_bound_by_its_name(packs: Path, tmp_path: Path) -> None:
    person = Person()
    source = zipped(make_v1_folder(tmp_path / "models"), tmp_path / "buffalo_s.zip")
    record = store.install("buffalo_s", packs, source=source, accept=person)
    assert person.shown == [RESEARCH_ONLY]
    assert record.acceptance is not None
    assert record.acceptance.accepted_by == "Ada Lovelace"
    assert record.acceptance.terms_sha256 == RESEARCH_ONLY.sha256
    warning = rights_of("buffalo_s", packs).warning()
    assert warning is not None and "Ada Lovelace" in warning


def test_a_manifest_package(packs: Path, tmp_path: Path) -> None:
    source = make_v2_folder(tmp_path / "models", model_id="raccoon_s")
    with pytest.raises(LicenceInvalid):
        store.install("raccoon_s", packs, source=source, accept=Person(), public_keys=KEYS)
    write_licence(source, KEY, "raccoon_s", grant="non-commercial")
    record = store.install("raccoon_s", packs, source=source, accept=Person(), public_keys=KEYS)
    assert record.format == "v2"
    assert "manifest.json" in record.files
    load_pack("raccoon_s", packs_dir=packs, runtime=ONE)


def test_a_signed_licence_goes_with_the_pack(packs: Path, tmp_path: Path) -> None:
    source = make_v1_folder(tmp_path / "models")
    write_licence(source, KEY, "buffalo_l")
    record = store.install("buffalo_l", packs, source=source, accept=Person(), public_keys=KEYS)
    assert record.model_license is not None
    assert record.model_license.customer == "Sample Police Department"
    assert "MODEL.LICENSE" in record.files
    assert rights_of("buffalo_l", packs, public_keys=KEYS).warning() is None
    # The key of the test is trusted nowhere else.
    warning = rights_of("buffalo_l", packs).warning()
    assert warning is not None and "does not hold" in warning
    (packs / "buffalo_l" / record.folder / "MODEL.LICENSE").unlink()
    assert "does not hold" in str(rights_of("buffalo_l", packs, public_keys=KEYS).warning())


HELD = "the generation X (active) holds vectors that it made"


@pytest.mark.parametrize("form", ["v1", "v2"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_licence_is_added_and_renewed_while_the_pack_is_in_use(
    packs: Path, tmp_path: Path, form: str, alone: bool
) -> None:
    """Year after year, by the file alone or with the models; name and contract stay."""
    source = tmp_path / "models"
    if form == "v1":
        make_v1_folder(source)
    else:
        make_v2_folder(source, model_id="buffalo_l", changes={"license": "legal/MODEL.LICENSE"})
        (source / "MODEL.LICENSE").unlink()
        (source / "legal").mkdir()
    first = store.install("buffalo_l", packs, source=source, accept=Person(), public_keys=KEYS)
    assert first.model_license is None
    place = source if form == "v1" else source / "legal"
    for days in (3, 400):
        licence = write_licence(place, KEY, "buffalo_l", valid_for=timedelta(days=days))
        record = store.install(
            "buffalo_l",
            packs,
            source=licence if alone else source,
            accept=nobody,
            held=HELD,
            public_keys=KEYS,
        )
        assert record == record_of("buffalo_l", packs)
        assert record.contract_id == first.contract_id and record.acceptance == first.acceptance
        assert record.source == "folder"
        rights = rights_of("buffalo_l", packs, public_keys=KEYS)
        assert rights.warning() is None
        assert rights.warning(datetime.now(UTC) + timedelta(days=days + 1)) is not None
        assert load_pack("buffalo_l", packs_dir=packs, runtime=ONE).contract.id == first.contract_id
    # Where the file was copied there by hand, the way to do it is named.
    beside = next((packs / "buffalo_l").rglob("MODEL.LICENSE"))
    beside.write_text("by hand")
    with pytest.raises(PackDigestMismatch) as caught:
        load_pack("buffalo_l", packs_dir=packs)
    assert "--from MODEL.LICENSE" in caught.value.remedy
    store.install("buffalo_l", packs, source=licence, accept=nobody, held=HELD, public_keys=KEYS)
    assert rights_of("buffalo_l", packs, public_keys=KEYS).warning() is None


def test_a_package_without_a_licence_takes_none_away(packs: Path, tmp_path: Path) -> None:
    source = make_v1_folder(tmp_path / "models")
    licence = write_licence(source, KEY, "buffalo_l")
    first = store.install("buffalo_l", packs, source=source, accept=Person(), public_keys=KEYS)
    licence.unlink()
    assert store.install("buffalo_l", packs, source=source, accept=nobody) == first
    store.install("buffalo_l", packs, source=source, accept=nobody, replace_other=True, held=HELD)
    assert rights_of("buffalo_l", packs, public_keys=KEYS).licence is None


def test_a_licence_alone_is_no_pack(packs: Path, zoo: Path, tmp_path: Path) -> None:
    licence = write_licence(tmp_path, KEY, "buffalo_l")
    with pytest.raises(PackSourceInvalid, match="alone"):
        store.install("buffalo_l", packs, source=licence, accept=Person(), public_keys=KEYS)
    store.install("yunet-sface", packs, source=zoo, accept=Person())
    with pytest.raises(PackSourceInvalid, match="takes no"):
        store.install("yunet-sface", packs, source=licence, accept=Person(), public_keys=KEYS)


def test_a_renewal_that_does_not_hold_changes_nothing(packs: Path, tmp_path: Path) -> None:
    source = make_v1_folder(tmp_path / "models")
    licence = write_licence(source, KEY, "buffalo_l")
    first = store.install("buffalo_l", packs, source=source, accept=Person(), public_keys=KEYS)
    write_licence(source, KEY, "antelopev2")
    with pytest.raises(LicenceInvalid):
        store.install("buffalo_l", packs, source=licence, accept=nobody, public_keys=KEYS)
    assert record_of("buffalo_l", packs) == first
    assert rights_of("buffalo_l", packs, public_keys=KEYS).warning() is None


def test_a_licence_for_another_model_is_refused(packs: Path, tmp_path: Path) -> None:
    source = make_v1_folder(tmp_path / "models")
    write_licence(source, KEY, "antelopev2")
    with pytest.raises(LicenceInvalid, match="antelopev2"):
        store.install("buffalo_l", packs, source=source, accept=Person(), public_keys=KEYS)
    assert store.installed(packs) == []


def test_a_signed_licence_says_whose_models_these_are(packs: Path, tmp_path: Path) -> None:
    person = Person()
    source = make_v1_folder(tmp_path / "models")
    write_licence(source, KEY, "ours", grant="non-commercial")
    store.install("ours", packs, source=source, accept=person, public_keys=KEYS)
    assert person.shown == [RESEARCH_ONLY]


def test_terms_follow_every_file_that_is_used_whatever_it_is_called(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_v2_folder(tmp_path / "models")
    (source / "MODEL.LICENSE").unlink()
    (source / "detector.onnx").rename(source / "detector.ONNX")
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["tasks"]["detection"]["file"] = "detector.ONNX"
    (source / "manifest.json").write_text(json.dumps(manifest))
    detector, recogniser = (sha256_of(source / f) for f in ("detector.ONNX", "recogniser.onnx"))
    monkeypatch.setattr(known, "RESEARCH_FILES", {detector: "det_10g.onnx"})
    monkeypatch.setattr(known, "FREE_FILES", {recogniser: "free"})
    person = Person()
    record = store.install("ours", packs, source=source, accept=person)
    assert person.shown == [RESEARCH_ONLY] and record.terms == RESEARCH_ONLY.key


def test_weights_beside_a_free_model_have_to_be_free_as_well(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_v1_folder(tmp_path / "models")
    onnx.save(
        make_recogniser(),
        source / "w600k_r50.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    free = {sha256_of(source / f): "" for f in ("det_10g.onnx", "w600k_r50.onnx")}
    monkeypatch.setattr(known, "FREE_FILES", free)
    person = Person()
    store.install("ours", packs, source=source, accept=person)
    assert person.shown == [OWN_RESPONSIBILITY]
    free |= {sha256_of(source / "weights.bin"): ""}
    assert store.install("free", packs, source=source, accept=nobody).terms is None


# --- what was pinned -------------------------------------------------------------------------


def test_a_changed_file_is_named_at_every_load(zoo: Path, packs: Path) -> None:
    record = store.install("yunet-sface", packs, source=zoo, accept=Person())
    place = packs / "yunet-sface" / record.folder
    for name in record.files:
        content = (place / name).read_bytes()
        (place / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(PackDigestMismatch, match=name.replace(".", r"\.")) as caught:
            load_pack("yunet-sface", packs_dir=packs)
        assert "packs install" in caught.value.remedy
        (place / name).unlink()
        with pytest.raises(PackDigestMismatch, match=name.replace(".", r"\.")):
            load_pack("yunet-sface", packs_dir=packs)
        (place / name).write_bytes(content)
    load_pack("yunet-sface", packs_dir=packs)


def test_a_file_that_was_put_there_later_is_named(packs: Path, tmp_path: Path) -> None:
    """A manifest beside a V1 pack would change how its pixels are prepared."""
    source = make_v1_folder(tmp_path / "models")
    record = store.install("ours", packs, source=source, accept=Person())
    place = packs / "ours" / record.folder
    v2 = make_v2_folder(tmp_path / "other", size=112, dimension=512)
    manifest = json.loads((v2 / "manifest.json").read_text())
    for task, file in (("detection", "det_10g.onnx"), ("recognition", "w600k_r50.onnx")):
        manifest["tasks"][task] |= {"file": file, "sha256": record.files[file]}
        manifest["tasks"][task]["preprocessing"] = {"mean": 0.0, "std": 255.0}
    extra = place / "manifest.json"
    for put in (
        lambda: extra.write_text(json.dumps(manifest)),
        lambda: extra.symlink_to(tmp_path / "nowhere"),
    ):
        put()
        with pytest.raises(PackDigestMismatch, match=r"manifest\.json"):
            load_pack("ours", packs_dir=packs)
        extra.unlink()
    (place / "a.onnx").write_bytes((source / "det_10g.onnx").read_bytes())
    with pytest.raises(PackDigestMismatch, match=r"a\.onnx"):
        load_pack("ours", packs_dir=packs)
    (place / "a.onnx").unlink()
    load_pack("ours", packs_dir=packs, runtime=ONE)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"name": "another"},
        {"kind": "dlib"},
        {"files": {}},
        {"files": {"../../outside.onnx": "0" * 64}},
        {"folder": "/etc"},
        {"folder": ".."},
        {"contract_id": "../x"},
        {"acceptance": {"accepted_by": "x"}},
        {"acceptance": {"accepted_by": 1, "accepted_at": "", "terms": "", "terms_sha256": ""}},
        {"terms": "no-such-terms"},
        {"free": True},
    ],
)
def test_a_record_that_makes_no_sense_is_told(
    zoo: Path, packs: Path, change: dict[str, object]
) -> None:
    store.install("yunet-sface", packs, source=zoo, accept=Person())
    path = packs / "yunet-sface" / RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PackError, match="record") as caught:
        load_pack("yunet-sface", packs_dir=packs)
    assert "--replace" in caught.value.remedy
    store.install("yunet-sface", packs, source=zoo, accept=Person(), replace_other=True)
    load_pack("yunet-sface", packs_dir=packs)


@pytest.mark.parametrize("terms", [None, "own-responsibility"])
def test_the_rights_follow_the_bytes_whatever_the_record_says(
    packs: Path, tmp_path: Path, terms: str | None
) -> None:
    source = make_v1_folder(tmp_path / "models")
    store.install("buffalo_s", packs, source=source, accept=Person())
    path = packs / "buffalo_s" / RECORD
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "terms": terms}))
    assert "research only" in str(rights_of("buffalo_s", packs).warning())
    assert not find_pack("buffalo_s", packs).free_for_police_use
    load_pack("buffalo_s", packs_dir=packs, runtime=ONE)
    # Without an acceptance it does not even load, and can be accepted again.
    path.write_text(json.dumps({**whole, "terms": terms, "acceptance": None}))
    assert "research only" in str(rights_of("buffalo_s", packs).warning())
    with pytest.raises(LicenceNotAccepted) as caught:
        load_pack("buffalo_s", packs_dir=packs)
    assert "--accept-licence-as" in caught.value.remedy
    with pytest.raises(LicenceNotAccepted):
        store.install("buffalo_s", packs, source=source, accept=nobody)
    again = store.install("buffalo_s", packs, source=source, accept=Person(), held=HELD)
    assert again.contract_id == whole["contract_id"] and again.terms == RESEARCH_ONLY.key
    load_pack("buffalo_s", packs_dir=packs, runtime=ONE)


def test_files_that_come_to_be_known_bind_a_pack_that_was_free(
    zoo: Path, packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [sha256_of(path) for path in zoo.iterdir()]
    with monkeypatch.context() as patch:
        patch.setattr(known, "FREE_FILES", dict.fromkeys(digests, ""))
        store.install("yunet-sface", packs, source=zoo, accept=nobody)
        load_pack("yunet-sface", packs_dir=packs)
    monkeypatch.setattr(known, "RESEARCH_FILES", {digests[0]: "known now"})
    assert "research only" in str(rights_of("yunet-sface", packs).warning())
    with pytest.raises(LicenceNotAccepted):
        load_pack("yunet-sface", packs_dir=packs)


def test_a_damaged_record_is_told(packs: Path) -> None:
    (packs / "ours").mkdir(parents=True)
    (packs / "ours" / RECORD).write_text("{")
    with pytest.raises(PackError, match="record"):
        read_record(packs / "ours")


# --- removal and interruptions ---------------------------------------------------------------


def test_removal_takes_everything(zoo: Path, packs: Path) -> None:
    store.install("yunet-sface", packs, source=zoo, accept=Person())
    assert store.remove("yunet-sface", packs)
    assert files_below(packs) == [".lock"]
    assert not store.remove("yunet-sface", packs)


def test_whoever_is_killed_leaves_the_old_pack_or_the_new(
    zoo: Path, packs: Path, tmp_path: Path
) -> None:
    other = write_folder(tmp_path / "other", recogniser=sface(seed=8))
    install_from(packs, other)
    contracts = [load_pack("yunet-sface", packs_dir=packs).contract.id]
    seen = []
    for step in range(40):
        ended = forked.run(install_and_be_killed, packs, zoo, step)
        seen.append(load_pack("yunet-sface", packs_dir=packs, runtime=ONE).contract.id)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        install_from(packs, other)
    assert ended == 0 and len(seen) > 5
    assert set(seen) == {contracts[0], seen[-1]} and len(set(seen)) == 2
    record = record_of("yunet-sface", packs)
    assert record is not None
    assert len(files_below(packs / "yunet-sface")) == 1 + len(record.files), "nothing is left over"


def test_whoever_is_killed_the_first_time_leaves_nothing_that_loads(zoo: Path, packs: Path) -> None:
    for step in range(40):
        if forked.run(install_and_be_killed, packs, zoo, step) == 0:
            break
        if store.installed(packs):  # killed when it was in force already
            load_pack("yunet-sface", packs_dir=packs, runtime=ONE)
            store.remove("yunet-sface", packs)
            continue
        with pytest.raises(PackMissing):
            load_pack("yunet-sface", packs_dir=packs)
    load_pack("yunet-sface", packs_dir=packs, runtime=ONE)


def test_two_at_a_time_take_turns(zoo: Path, packs: Path) -> None:
    running = [forked.start(install_from, packs, zoo) for _ in range(3)]
    for process in running:
        process.join(120)
        assert process.exitcode == 0
    load_pack("yunet-sface", packs_dir=packs, runtime=ONE)


# --- fetching --------------------------------------------------------------------------------


def test_offline_it_is_said_what_to_fetch(packs: Path) -> None:
    person = Person()
    with pytest.raises(PackDownloadFailed) as caught:
        store.install("buffalo_s", packs, source=None, accept=person)
    assert person.shown == [RESEARCH_ONLY], "asked before anything is fetched"
    assert "buffalo_s.zip" in caught.value.remedy and "--from" in caught.value.remedy
    assert files_below(packs) == [".lock"]


def test_what_cannot_be_fetched_here_is_said(packs: Path) -> None:
    for name, what in (("auraface", "huggingface"), ("yunet-sface", "opencv_zoo"), ("own", "PATH")):
        with pytest.raises(PackDownloadFailed) as caught:
            store.install(name, packs, source=None, accept=nobody)
        assert what in caught.value.remedy
    with pytest.raises(LicenceNotAccepted):
        store.install("buffalo_s", packs, source=None, accept=nobody)


def test_a_package_is_fetched_by_insightfaces_downloader(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from insightface.utils import storage

    served = tmp_path / "served"
    served.mkdir()
    zipped(make_v1_folder(tmp_path / "models"), served / "buffalo_s.zip")

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(served))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(storage, "MODEL_ZOO_RELEASE_DOWNLOAD_URL", address)
        record = store.install("buffalo_s", packs, source=None, accept=Person())
        assert record.source == "download"
        with pytest.raises(PackDownloadFailed, match=r"buffalo_m\.zip"):
            store.install("buffalo_m", packs, source=None, accept=Person())
        server.shutdown()
    load_pack("buffalo_s", packs_dir=packs, runtime=ONE)
    assert store.installed(packs) == ["buffalo_s"]
