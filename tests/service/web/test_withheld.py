"""Withheld pictures over HTTP: no route of the interface or the pages gives their pixels."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.routing import BaseRoute, Route

from indexer.blobs import sha256_hex
from indexer.withheld import lists, rows
from indexer.workspace import Workspace
from models.decode import decode
from models.pdq import pdq
from service.accounts.keys import KeyStore
from tests.service.conftest import AUTH, problem
from tests.service.web.browser import Browser
from tests.service.web.conftest import AddAd, new_case, settle

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"ftyp")


def is_picture(body: bytes) -> bool:
    """Whether a body holds a raster picture, whatever it is called."""
    if any(mark in body[:32] for mark in MAGIC) or b"base64," in body:
        return True
    try:
        Image.open(io.BytesIO(body)).load()
    except Exception:  # noqa: BLE001 - whatever it is, it is no picture
        return False
    return True


def get_routes(app: Any) -> list[str]:
    def walk(routes: list[BaseRoute]) -> list[str]:
        found = []
        for route in routes:
            if isinstance(route, Route) and "GET" in (route.methods or ()):
                found.append(route.path)
            else:
                inner = getattr(route, "original_router", route)
                found += walk(list(getattr(inner, "routes", None) or []))
        return found

    return sorted(set(walk(app.routes)))


class Scene:
    """A case with a photo and a candidate, and a photo that waits for a choice."""

    def __init__(self, browser: Browser, workspace: Workspace, client: TestClient) -> None:
        self.browser, self.workspace, self.client = browser, workspace, client
        self.case_id = new_case(browser)

    def enrol(self, data: bytes) -> None:
        self.browser.get(f"/cases/{self.case_id}")
        self.browser.send(f"/cases/{self.case_id}/photos", file=("a.jpg", data))

    def values(self) -> dict[str, list[str]]:
        case = self.client.get(f"/v1/cases/{self.case_id}", headers=AUTH).json()
        found = self.client.get(f"/v1/cases/{self.case_id}/candidates", headers=AUTH).json()
        shown = [
            self.client.get(f"/v1/ads/{one['ad']['ad_id']}", headers=AUTH).json()
            for one in found["items"]
        ]
        faces = {one["face"]["face_id"] for one in found["items"]}
        faces |= {one["person_face_id"] for one in found["items"]}
        faces |= {f["face_id"] for ad in shown for i in ad["images"] for f in i["faces"]}
        shas = {one["sha256"] for one in case["photos"]}
        shas |= {one["image_sha256"] for one in found["items"]}
        return {
            "case_id": [self.case_id],
            "photo_id": [one["photo_id"] for one in case["photos"]],
            "candidate_id": [one["candidate_id"] for one in found["items"]],
            "face_id": sorted(faces),
            "sha256": sorted(shas),
            "ad_id": [one["ad"]["ad_id"] for one in found["items"]],
            "index": ["0", "1"],
        }


def addresses(path: str, values: dict[str, list[str]]) -> list[str]:
    """The route with each value that its parameters may have."""
    found = [path]
    for name in re.findall(r"{(\w+)", path):
        found = [
            re.sub(rf"{{{name}[^}}]*}}", value, one)
            for one in found
            for value in values.get(name, ["unknown"])
        ]
    return found


@pytest.fixture
def scene(
    browser: Browser,
    workspace: Workspace,
    client: TestClient,
    add_ad: AddAd,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
    group_photo_bytes: bytes,
) -> Scene:
    made = Scene(browser, workspace, client)
    add_ad("1", mirrored_bytes, title="First ad")
    made.enrol(portrait_bytes)
    settle(workspace)
    return made


def sealed(scene: Scene, candidate_id: str) -> str:
    """The address of the whole picture as the page of a reveal has it."""
    path = f"/cases/{scene.case_id}/candidates/{candidate_id}/picture"
    scene.browser.get(path)
    page = scene.browser.send(path, {"reason": "check_face"})
    return next(i["src"] for i in page.images if i["src"].startswith("/cases/"))


@pytest.mark.practice(14)
def test_practice_14_no_route_gives_pixels_of_a_withheld_picture(
    scene: Scene, group_photo_bytes: bytes
) -> None:
    client, workspace = scene.client, scene.workspace
    values = scene.values()
    revealed = sealed(scene, values["candidate_id"][0])
    scene.enrol(group_photo_bytes)
    held = [i["src"] for i in scene.browser.page.images if i["src"].startswith("/held/")]
    values["held_id"] = [held[0].split("/")[2]]
    every = [a for path in get_routes(client.app) for a in addresses(path, values)] + [revealed]

    def pictures() -> set[str]:
        found = set()
        for address in every:
            if address.startswith("/static/") or address.endswith("/events"):
                continue
            key = AUTH if address.startswith("/v1/") else {}
            answer = client.get(address, headers=key)
            if is_picture(answer.content):
                found.add(re.sub(r"[0-9a-f-]{20,}", "*", address.partition("?")[0]))
        return found

    before = pictures()
    # What gives pixels today; a new route that does is walked as these are.
    assert {
        "/v1/images/*",
        "/v1/faces/*/crop",
        "/faces/*",
        "/cases/*/photos/*/whole.jpg",
        "/cases/*/candidates/*/picture.jpg",
    } <= before
    assert any(one.startswith("/held/") for one in before)

    for sha256 in [*values["sha256"], sha256_hex(group_photo_bytes)]:
        with workspace.catalog.write() as session:
            why = rows.Why(reason="listed", actor="x", list_name="a", hash_kind="sha256")
            rows.withhold(session, workspace, sha256, why)
    assert pictures() == set()
    face_id, sha256 = values["face_id"][0], values["sha256"][0]
    problem(client.get(f"/v1/images/{sha256}", headers=AUTH), 403, "picture_withheld")
    problem(client.get(f"/v1/faces/{face_id}/crop", headers=AUTH), 403, "picture_withheld")
    # Pages show a neutral picture that says so, and go on.
    placeholder = client.get(f"/faces/{face_id}")
    assert placeholder.status_code == 403
    assert placeholder.headers["content-type"] == "image/svg+xml"
    assert b"Picture withheld" in placeholder.content
    assert "First ad" in scene.browser.get(f"/cases/{scene.case_id}").prose
    found = client.get(f"/v1/cases/{scene.case_id}/candidates", headers=AUTH).json()
    assert [one["ad"]["title"] for one in found["items"]] == ["First ad"]
    assert found["items"][0]["score"] > 0.5


def test_a_reviewer_flags_and_the_role_settles(scene: Scene) -> None:
    client, browser = scene.client, scene.browser
    values = scene.values()
    [candidate_id], [ad_id] = values["candidate_id"], values["ad_id"]
    item = client.get(f"/v1/cases/{scene.case_id}/candidates", headers=AUTH).json()["items"][0]
    sha256, face_id = item["image_sha256"], item["face"]["face_id"]
    # Every page that shows it offers to have it withheld.
    pages = [
        f"/cases/{scene.case_id}",
        f"/cases/{scene.case_id}/photos/{values['photo_id'][0]}/whole",
    ]
    for page in pages:
        assert any("/flag?case_id=" in link for link in browser.get(page).links), page
    assert candidate_id in str(browser.get(pages[0]).ids)
    browser.get(f"/faces/{face_id}/flag?case_id={scene.case_id}")
    assert browser.path == f"/pictures/{sha256}/flag?case_id={scene.case_id}"
    assert not [i for i in browser.page.images if "icon" not in i["src"]]
    browser.send(f"/pictures/{sha256}/flag", expect=422)
    browser.send(f"/pictures/{sha256}/flag", {"reason": "nudity_of_minor"})
    assert "The picture is withheld" in browser.page.prose
    assert client.get(f"/faces/{face_id}").status_code == 403

    listing = browser.get("/withheld")
    assert "Nudity of a person who may be a minor" in listing.prose
    assert "site-a.example 1" in listing.prose and sha256 in listing.prose
    assert [i for i in listing.images if "icon" not in i["src"]] == []
    address = f"/withheld/{sha256}/settle"
    browser.send(address, {"outcome": "not_applicable_released"}, expect=409)
    assert "another person" in browser.page.prose
    [listed] = client.get("/v1/withheld", headers=AUTH).json()["items"]
    assert listed["sha256"] == sha256 and listed["ad_ids"] == [ad_id]
    assert listed["ads"][0]["site"] == "site-a.example" and listed["case_id"] == scene.case_id

    # Somebody else releases it.
    other = KeyStore(scene.workspace.catalog, None).create("other", ("withheld:settle",))
    theirs = {"authorization": f"Bearer {other.text}"}
    problem(client.post(f"/v1/withheld/{sha256}/settle", json={"outcome": "x"}, headers=theirs),
            422, "validation_failed")  # fmt: skip
    answer = client.post(
        f"/v1/withheld/{sha256}/settle",
        json={"outcome": "not_applicable_released"},
        headers=theirs,
    )
    assert answer.status_code == 200 and answer.json()["outcome"] == "not_applicable_released"
    assert client.get(f"/faces/{face_id}").status_code == 200
    assert client.get("/v1/withheld", headers=AUTH).json()["items"] == []
    every = client.get("/v1/withheld?settled=true", headers=AUTH).json()["items"]
    assert [one["sha256"] for one in every] == [sha256]
    problem(
        client.post(
            f"/v1/withheld/{sha256}/settle",
            json={"outcome": "reported_and_preserved"},
            headers=AUTH,
        ),
        409,
        "withheld_state_invalid",
    )
    problem(client.post("/v1/withheld/" + "0" * 64 + "/settle",
            json={"outcome": "reported_and_preserved"}, headers=AUTH), 404,
            "withheld_not_found")  # fmt: skip


def test_a_flag_needs_its_case_its_picture_and_its_permission(
    scene: Scene, client: TestClient
) -> None:
    sha256 = scene.values()["sha256"][0]
    body = {"case_id": scene.case_id, "reason": "court_order"}
    keys = KeyStore(scene.workspace.catalog, None)
    reader = {"authorization": f"Bearer {keys.create('reader', ('images:read',)).text}"}
    problem(client.post(f"/v1/images/{sha256}/flag", json=body, headers=reader), 403, "forbidden")
    problem(client.get("/v1/withheld", headers=reader), 403, "forbidden")
    unknown = {**body, "case_id": "00000000-0000-7000-8000-000000000000"}
    problem(client.post(f"/v1/images/{sha256}/flag", json=unknown, headers=AUTH), 404,
            "case_not_found")  # fmt: skip
    problem(client.post("/v1/images/" + "0" * 64 + "/flag", json=body, headers=AUTH), 404,
            "image_not_found")  # fmt: skip
    problem(client.post(f"/v1/images/{sha256}/flag", json={**body, "reason": "x"}, headers=AUTH),
            422, "validation_failed")  # fmt: skip
    assert client.post(f"/v1/images/{sha256}/flag", json=body, headers=AUTH).status_code == 200
    problem(client.get(f"/v1/images/{sha256}", headers=AUTH), 403, "picture_withheld")


def test_a_photo_that_waits_is_compared_with_lists_that_come_meanwhile(
    scene: Scene, group_photo_bytes: bytes
) -> None:
    scene.enrol(group_photo_bytes)
    preview = next(i["src"] for i in scene.browser.page.images if i["src"].startswith("/held/"))
    assert scene.client.get(preview).status_code == 200
    value = pdq(decode(group_photo_bytes).pixels)[0].hex().encode()
    lists.load(scene.workspace, [b"pdq:" + value], "agency", actor="op")
    answer = scene.client.get(preview)
    assert answer.status_code == 403 and not is_picture(answer.content)
