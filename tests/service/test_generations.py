"""Generations in the interface and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from typer.testing import CliRunner, Result

from indexer import cases, forget, jobs
from indexer.catalog.tables import ApiKey
from indexer.generations import rows, switching
from indexer.generations.compare import compare
from indexer.generations.views import Loaded
from indexer.records import CaseInput
from indexer.reindex import reindex
from indexer.workspace import Workspace, open_workspace
from models.contract import EmbeddingContract
from models.packs.base import FacePack
from models.pipeline import Analyser
from models.types import Embedding, Face, Landmarks, RgbImage
from service.accounts.keys import KeyStore
from service.accounts.roles import ALL_SCOPES
from service.app import create_app
from service.cli.main import app
from service.config import Settings
from tests.indexer.small import CONTRACT, OtherAnalyser, SmallAnalyser, colour, face_picture
from tests.indexer.test_candidates import crowd, make_case, send
from tests.service.conftest import AUTH, make_settings, problem
from tests.tables import lend_tables

NEW = "other-ffffffffffff"


@pytest.fixture
def workspace(settings: Settings) -> Iterator[Workspace]:
    """Twelve ads and a case; the second model does not see one of the pictures of the person."""
    lend_tables(settings.data_dir)
    packs = {
        "first": Loaded(SmallAnalyser(), None),
        "second": Loaded(OtherAnalyser(NEW, blind={colour(1, 8)}), None),
    }
    with open_workspace(
        settings.data_dir,
        SmallAnalyser(),
        pack="first",
        load=lambda generation: packs[generation.pack],
    ) as opened:
        crowd(opened, 10)
        for photo in (9, 8):
            send(opened, f"hers-{photo}", face_picture(1, photo))
        jobs.run_pending(opened)
        make_case(opened, face_picture(1), number="A-1")
        jobs.run_pending(opened)
        yield opened


def build(ws: Workspace) -> None:
    switching.begin(ws, NEW, "second", ws.analyser.dimension, actor="tester")
    assert reindex(ws.views.loaded(NEW)).failures == ()


def states(client: TestClient) -> dict[str, str]:
    items = client.get("/v1/generations").json()["items"]
    return {item["contract_id"]: item["state"] for item in items}


def test_the_list(client: TestClient, workspace: Workspace) -> None:
    switching.begin(workspace, NEW, "second", workspace.analyser.dimension, actor="tester")
    found = client.get("/v1/generations").json()
    new, old = found["items"]
    assert (old["contract_id"], old["state"], old["loaded"]) == (CONTRACT, "active", True)
    assert new["missing"] == {"ad_images": 12, "photos": 1}
    assert (new["compared_at"], new["keep_until"], new["activated_at"]) == (None, None, None)
    assert [(change["event"], change["actor"]) for change in found["history"]] == [
        ("activated", "system"), ("begun", "tester"),
    ]  # fmt: skip


def test_the_comparison(client: TestClient, workspace: Workspace) -> None:
    address = f"/v1/generations/{NEW}/comparison"
    problem(client.get(address), 404, "generation_not_found")
    build(workspace)
    told = problem(client.get(address), 404, "comparison_not_found")
    assert f"homeward generations compare {NEW}" in told["remedy"]
    for person in (3, 4):
        make_case(workspace, face_picture(person), number=f"B-{person}")
    jobs.run_pending(workspace)
    compare(workspace, NEW, k=3, actor="tester")
    found = client.get(address, params={"limit": 2}).json()
    assert (found["old"]["contract_id"], found["new"]["contract_id"]) == (CONTRACT, NEW)
    assert (found["cases"], found["k"], found["actor"]) == (3, 3, "tester")
    assert [case["case_number"] for case in found["items"]] == ["A-1", "B-3"]
    rest = client.get(address, params={"cursor": found["next_cursor"]}).json()
    assert [case["case_number"] for case in rest["items"]] == ["B-4"]
    assert rest["next_cursor"] is None
    one = found["items"][0]
    unseen = next(moved for moved in one["lost"] if moved["new"]["state"] == "no_face")
    assert unseen["new"]["face"] is None and unseen["old"]["rank"] in (1, 2)
    crop = client.get(f"/v1/faces/{unseen['old']['face']['face_id']}/crop")
    assert crop.headers["content-type"] == "image/jpeg"
    assert found["worst"][0]["case_number"]
    listed = client.get("/v1/generations").json()["items"]
    assert next(g for g in listed if g["contract_id"] == NEW)["compared_at"] == found["at"]
    problem(client.get(address, params={"cursor": "x"}), 422, "invalid_cursor")

    # What is deleted afterwards is not told any more.
    sha256 = unseen["old"]["face"]["image_sha256"]
    ads = client.get("/v1/ads").json()["items"]
    ad = next(ad for ad in ads if sha256 in [image["sha256"] for image in ad["images"]])
    forget.forget_ad(workspace, ad["ad_id"])
    one = client.get(address).json()["items"][0]
    assert [m for m in one["lost"] if m["new"]["state"] == "no_face"] == []
    forget.forget_case(workspace, one["case_id"], actor="tester")
    found = client.get(address).json()
    assert [case["case_number"] for case in found["items"]] == ["B-3", "B-4"]
    assert "A-1" not in [worst["case_number"] for worst in found["worst"]]


def test_bringing_into_use_and_going_back(client: TestClient, workspace: Workspace) -> None:
    problem(client.post("/v1/generations/rollback"), 409, "generation_state_invalid")
    problem(client.post(f"/v1/generations/{NEW}/activate"), 404, "generation_not_found")
    problem(client.post(f"/v1/generations/{CONTRACT}/activate"), 409, "generation_state_invalid")
    switching.begin(workspace, NEW, "second", workspace.analyser.dimension, actor="tester")
    problem(client.post(f"/v1/generations/{NEW}/activate"), 409, "generation_incomplete")
    build(workspace)
    key = {"Idempotency-Key": "once"}
    first = client.post(f"/v1/generations/{NEW}/activate", headers=key)
    assert (first.status_code, first.json()["state"]) == (200, "active")
    again = client.post(f"/v1/generations/{NEW}/activate", headers=key)
    assert again.json() == first.json() and again.headers["idempotency-replayed"] == "true"
    assert states(client) == {NEW: "active", CONTRACT: "kept"}
    assert client.get("/readyz").json()["contract_id"] == NEW
    with workspace.catalog.read() as session:
        actor = rows.changes(session)[-1].actor
    assert actor == client.get("/v1/generations").json()["history"][-1]["actor"]
    assert actor in key_ids(workspace)
    back = client.post("/v1/generations/rollback")
    assert (back.status_code, back.json()["contract_id"]) == (200, CONTRACT)
    assert states(client) == {NEW: "kept", CONTRACT: "active"}


def key_ids(ws: Workspace) -> set[str]:
    with ws.catalog.read() as session:
        return set(session.scalars(select(ApiKey.key_id)))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/generations"),
        ("GET", f"/v1/generations/{NEW}/comparison"),
        ("POST", f"/v1/generations/{NEW}/activate"),
        ("POST", "/v1/generations/rollback"),
    ],
)
def test_it_takes_the_scope(
    client: TestClient, workspace: Workspace, method: str, path: str
) -> None:
    build(workspace)
    compare(workspace, NEW, actor="tester")
    store = KeyStore(workspace.catalog)
    for scopes in (ALL_SCOPES - {"generations:write"}, {"cases:read", "scores:read"}):
        key = store.create("some", tuple(scopes)).text
        answer = client.request(method, path, headers={"authorization": f"Bearer {key}"})
        problem(answer, 403, "forbidden")
    assert states(client) == {NEW: "building", CONTRACT: "active"}


def test_scores_are_for_who_may_see_them(client: TestClient, workspace: Workspace) -> None:
    build(workspace)
    compare(workspace, NEW, actor="tester")
    key = KeyStore(workspace.catalog).create("some", ("generations:write", "cases:read")).text
    bearer = {"authorization": f"Bearer {key}"}
    assert client.get("/v1/generations", headers=bearer).status_code == 200
    problem(client.get(f"/v1/generations/{NEW}/comparison", headers=bearer), 403, "forbidden")


def test_a_process_without_the_pack_does_not_switch(
    settings: Settings, workspace: Workspace
) -> None:
    build(workspace)
    with (
        open_workspace(settings.data_dir, SmallAnalyser(), pack="first") as without,
        TestClient(create_app(settings, without), headers=AUTH) as client,
    ):
        problem(client.post(f"/v1/generations/{NEW}/activate"), 503, "generation_unavailable")
        assert states(client) == {NEW: "building", CONTRACT: "active"}


# --- the command line ------------------------------------------------------------------------


class Renamed:
    """The default pack's own analyser under another contract, as a new version of it would be;
    it finds no face in pictures that are no wider than ``blind_below``."""

    contract_id = "renamed-ffffffffffff"

    def __init__(self, analyser: Analyser, blind_below: int) -> None:
        self._analyser = analyser
        self._blind_below = blind_below
        self.dimension = analyser.dimension

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        return [
            [
                replace(face, embedding=Embedding(face.embedding.vector, self.contract_id))
                for face in faces
                if image.shape[1] > self._blind_below
            ]
            for image, faces in zip(images, self._analyser.analyse(images), strict=True)
        ]

    def crop(self, image: RgbImage, landmarks: Landmarks, size: int = 224) -> RgbImage:
        return self._analyser.crop(image, landmarks, size)


@pytest.fixture
def folder(
    tmp_path: Path,
    pack_cache: Path,
    analyser: Analyser,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
    other_bytes: bytes,
) -> Path:
    """A case and two ads under the default pack, and another generation beside it."""
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    (made / "packs").symlink_to(pack_cache)
    lend_tables(made)
    with open_workspace(
        make_settings(made).data_dir,
        analyser,
        pack="dlib",
        load=lambda _: Loaded(Renamed(analyser, 250), None),
    ) as ws:
        send(ws, "hers", mirrored_bytes)
        send(ws, "other", other_bytes)
        jobs.run_pending(ws)
        case_id = cases.create_case(ws, CaseInput(case_number="2026-0001")).case_id
        cases.add_photo(ws, case_id, portrait_bytes)
        switching.begin(ws, Renamed.contract_id, "renamed", ws.analyser.dimension, actor="t")
        reindex(ws.views.loaded(Renamed.contract_id))
    return made


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--data-dir", str(folder)])


def test_the_command_says_what_would_change(folder: Path, analyser: Analyser) -> None:
    done = run(folder, "generations", "compare", Renamed.contract_id, "-k", "5")
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "Open cases: 1, the first 5 candidates" in words
    assert "Candidates lost: 2 (now: face not found 2)" in words
    assert "2026-0001" in words and f"/generations/{Renamed.contract_id}/comparison" in words
    report = folder / "comparisons" / f"{analyser.contract_id}--{Renamed.contract_id}.json"
    assert json.loads(report.read_text())["comparison"]["actor"] == "command line"

    told = json.loads(run(folder, "generations", "compare", Renamed.contract_id, "--json").stdout)
    assert (told["cases"], told["lost"], told["gained"]) == (1, 2, 0)
    assert (told["old"]["without_face"], told["new"]["without_face"]) == (0, 2)
    assert [worst["case_number"] for worst in told["worst"]] == ["2026-0001"]


class RenamedPack:
    """The default pack under another name: its networks, its own contract."""

    contract = EmbeddingContract("renamed", 128, {"of": "a test"})
    calibration = None

    def __init__(self, pack: FacePack) -> None:
        self._pack = pack

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pack, name)


def test_a_reindex_for_another_pack_ends_with_the_comparison(
    folder: Path, pack: FacePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = {"dlib": pack, "another": cast("FacePack", RenamedPack(pack))}
    monkeypatch.setattr("service.opening.load_pack", lambda name, **_: packs[name])
    done = run(folder, "reindex", "--pack", "another", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["state"], told["images"]) == ("building", 3)
    assert (told["comparison"]["overlap"], told["comparison"]["lost"]) == (1.0, 0)
    assert told["comparison"]["new"]["contract_id"] == RenamedPack.contract.id
    done = run(folder, "reindex", "--pack", "another")
    assert "Of the entries of both lists 100.0% are in the other too" in done.stdout
    # Who says so from the start wants no comparison.
    done = run(folder, "reindex", "--pack", "another", "--switch", "--json")
    told = json.loads(done.stdout)
    assert (told["state"], told["comparison"]) == ("active", None)


@pytest.mark.parametrize("contract", ["nothing-000000000000", "in use"])
def test_what_cannot_be_compared_is_said(folder: Path, analyser: Analyser, contract: str) -> None:
    contract = analyser.contract_id if contract == "in use" else contract
    done = run(folder, "generations", "compare", contract)
    assert done.exit_code == 1 and "[generation_" in done.stderr
    assert "What to do:" in done.stderr
    assert not (folder / "comparisons").exists()
    assert run(folder, "generations", "compare", contract, "-k", "0").exit_code == 2


def test_reindexing_what_is_in_use_compares_nothing(folder: Path) -> None:
    done = run(folder, "reindex", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["state"], told["comparison"]) == ("active", None)
