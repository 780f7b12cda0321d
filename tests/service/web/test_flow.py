"""The whole way through the pages: a case, its photos, the candidates, a search, the end."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from indexer.catalog.audit_tables import AuditRecord
from indexer.searches import list_searches
from indexer.workspace import Workspace
from service.web.texts import label
from tests.service.conftest import post_photo
from tests.service.web.browser import HTML, Browser
from tests.service.web.conftest import AddAd, new_case, settle


def first_crop(browser: Browser) -> str:
    return next(i["src"] for i in browser.page.images if i["src"].startswith("/faces/"))


def add_photo(browser: Browser, case_id: str, data: bytes, expect: int = 200) -> None:
    browser.get(f"/cases/{case_id}")
    browser.send(f"/cases/{case_id}/photos", file=("photo.jpg", data), expect=expect)


def test_an_empty_installation_says_what_to_do(browser: Browser) -> None:
    page = browser.get("/cases")
    assert "There is no case yet" in page.prose
    assert "/cases/new" in page.links
    assert "No work has been queued" in browser.get("/jobs").prose


def test_from_a_case_to_its_end(
    browser: Browser,
    workspace: Workspace,
    add_ad: AddAd,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
    other_bytes: bytes,
) -> None:
    add_ad("a-1", mirrored_bytes, title="First ad", city="Sample City", url="https://a.example/1")
    add_ad("a-2", other_bytes, title="Second ad")
    case_id = new_case(browser, name="Sample Person", hair_color="brown")
    assert "Now add a photo" in browser.page.prose
    assert "Add a photo to begin" in browser.page.prose

    add_photo(browser, case_id, portrait_bytes)
    assert browser.path == f"/cases/{case_id}?done=photo_added"
    settle(workspace)
    page = browser.get(f"/cases/{case_id}")
    assert "2 candidates, the most similar first" in page.prose
    assert page.prose.index("First ad") < page.prose.index("Second ad")
    assert "Sample City" in page.prose and "https://a.example/1" in page.prose
    assert "https://a.example/1" not in page.links
    assert "Compared with all ads received up to" in page.prose
    crops = [image["src"] for image in page.images if image["src"].startswith("/faces/")]
    assert len(crops) == 5 and len(set(crops)) == 3

    add_photo(browser, case_id, portrait_bytes)
    assert "already" in browser.page.prose

    browser.get(f"/cases/{case_id}/end")
    browser.send(f"/cases/{case_id}/end", {"status": "found"}, expect=422)
    assert "Choose one, and confirm" in browser.page.prose
    browser.send(f"/cases/{case_id}/end", {"status": "found", "confirm": "yes"})
    assert "This case is found" in browser.page.prose
    assert "First ad" not in browser.page.prose
    assert "search ended" in browser.get("/cases").prose

    browser.get(f"/cases/{case_id}/reopen")
    browser.send(f"/cases/{case_id}/reopen")
    settle(workspace)
    assert "First ad" in browser.get(f"/cases/{case_id}").prose

    browser.get(f"/cases/{case_id}/delete")
    browser.send(f"/cases/{case_id}/delete", expect=422)
    browser.send(f"/cases/{case_id}/delete", {"confirm": "yes"})
    assert browser.path == "/cases?done=case_deleted"
    page = browser.get(f"/cases/{case_id}", expect=404)
    assert "no case" in page.prose


def test_several_faces_are_shown_to_choose_from(
    browser: Browser, client: TestClient, workspace: Workspace, group_photo_bytes: bytes
) -> None:
    case_id = new_case(browser)
    browser.get(f"/cases/{case_id}")
    browser.send(
        f"/cases/{case_id}/photos",
        {"taken_on": "2024-05-06"},
        file=("group.jpg", group_photo_bytes),
    )
    page = browser.page
    assert "Which face is the missing person?" in page.prose
    assert "6 faces were found" in page.prose
    pictures = [i["src"] for i in page.images if i["src"].startswith("/held/")]
    assert len(pictures) == 7
    for source in pictures:
        answer = client.get(source)
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["cache-control"] == "no-store, private"
        Image.open(io.BytesIO(answer.content)).load()
    preview = Image.open(io.BytesIO(client.get(pictures[0]).content)).convert("RGB")
    distance = np.abs(np.asarray(preview, dtype=int) - (255, 214, 10)).sum(axis=2)
    assert max(preview.size) == 1200 and (distance < 40).sum() > 1000  # the frames are drawn

    action = next(form.action for form in page.forms if "choose" in form.action)
    browser.send(action, expect=422)
    assert "Choose one of the faces" in browser.page.prose
    browser.send(action, {"face_index": "99"}, expect=422)
    browser.send(action, {"face_index": "2"})
    assert browser.path == f"/cases/{case_id}?done=photo_added"
    assert "taken 6 May 2024" in browser.page.prose
    settle(workspace)

    browser.get(action, expect=422)
    assert "no longer held" in browser.page.prose


def test_a_held_photo_is_for_its_own_session(
    browser: Browser, client: TestClient, group_photo_bytes: bytes
) -> None:
    case_id = new_case(browser)
    add_photo(browser, case_id, group_photo_bytes)
    source = next(i["src"] for i in browser.page.images if i["src"].startswith("/held/"))
    assert client.get(source).status_code == 200
    client.cookies.clear()
    assert client.get(source).status_code == 401
    browser.sign_in()
    assert client.get(source).status_code == 422


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("nobody", 422, "No face was found"),
        ("text", 415, "no picture that can be read"),
        ("empty", 422, "Choose a file first"),
        ("cut", 422, "ends in the middle"),
        ("tiny", 422, "too small"),
    ],
)
def test_a_photo_that_cannot_be_used_says_why_and_loses_nothing(
    browser: Browser,
    portrait_bytes: bytes,
    nobody_bytes: bytes,
    portrait: Image.Image,
    name: str,
    status: int,
    says: str,
) -> None:
    small = io.BytesIO()
    portrait.resize((44, 44)).save(small, "PNG")
    data = {
        "nobody": nobody_bytes,
        "text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "empty": b"",
        "cut": portrait_bytes[: len(portrait_bytes) // 2],
        "tiny": small.getvalue(),
    }[name]
    case_id = new_case(browser)
    browser.get(f"/cases/{case_id}")
    if name == "tiny":
        says = "face"
    action = f"/cases/{case_id}/photos"
    browser.send(action, {"taken_on": "2024-05-06"}, file=("a.jpg", data), expect=status)
    assert says in browser.page.prose
    assert browser.form(action).values["taken_on"] == "2024-05-06"


def test_a_file_over_the_limit_says_so(
    browser: Browser, client: TestClient, portrait_bytes: bytes
) -> None:
    limit = client.app.state.settings.max_image_bytes  # type: ignore[attr-defined]
    case_id = new_case(browser)
    add_photo(browser, case_id, portrait_bytes + b"\0" * limit, expect=413)
    assert "too large" in browser.page.prose


def test_a_search_with_another_photo(
    browser: Browser,
    client: TestClient,
    workspace: Workspace,
    add_ad: AddAd,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
    group_photo_bytes: bytes,
) -> None:
    add_ad("a-1", mirrored_bytes, title="First ad", region="North")
    case_id = new_case(browser, default_purpose="verify_sighting")
    action = f"/cases/{case_id}/search"
    page = browser.get(action)
    assert browser.form(action).values["purpose"] == "verify_sighting"
    for value in ("locate_missing_person", "identify_victim", "verify_sighting", "training"):
        assert label("purpose", value) in page.prose

    browser.send(action, {"purpose": "", "purpose_note": "a note"}, expect=422)
    assert browser.form(action).values["purpose_note"] == "a note"
    assert list_searches(workspace, case_id).items == ()

    values = {"purpose": "verify_sighting", "purpose_note": "seen at a station"}
    browser.send(action, values, file=("photo.jpg", portrait_bytes))
    assert "First ad" in browser.page.prose and "Recorded as search" in browser.page.prose
    crop = next(i["src"] for i in browser.page.images if i["src"].startswith("/held/"))
    assert client.get(crop).headers["content-type"] == "image/jpeg"
    recorded = list_searches(workspace, case_id).items[0]
    assert recorded.purpose == "verify_sighting" and recorded.purpose_note == "seen at a station"
    assert recorded.actor != "system" and recorded.case_id == case_id

    browser.get(action)
    browser.send(action, {"region": "South"}, file=("photo.jpg", portrait_bytes))
    assert "Nothing to show" in browser.page.prose

    browser.get(action)
    browser.send(action, file=("group.jpg", group_photo_bytes))
    assert "Which face should be searched for?" in browser.page.prose
    choose = next(form.action for form in browser.page.forms if "choose" in form.action)
    browser.send(choose, {"face_index": "1"})
    assert "Candidates for a photo that is not kept" in browser.page.prose
    assert len(list_searches(workspace, case_id).items) == 3


def test_a_search_without_a_face_keeps_what_was_typed(
    browser: Browser, nobody_bytes: bytes
) -> None:
    case_id = new_case(browser)
    action = f"/cases/{case_id}/search"
    browser.get(action)
    values = {"purpose": "training", "purpose_note": "practice", "site": "site-a.example"}
    browser.send(action, values, file=("a.jpg", nobody_bytes), expect=422)
    assert "No face was found" in browser.page.prose
    held = browser.form(action).values
    assert {name: held[name] for name in values} == values


def test_a_closed_case_is_not_searched(browser: Browser, portrait_bytes: bytes) -> None:
    case_id = new_case(browser)
    action = f"/cases/{case_id}/search"
    browser.get(action)
    search_form = browser.page
    browser.get(f"/cases/{case_id}/end")
    browser.send(f"/cases/{case_id}/end", {"status": "closed", "confirm": "yes"})
    browser.page = search_form
    browser.send(action, {"purpose": "training"}, file=("a.jpg", portrait_bytes), expect=409)
    assert "This case is closed" in browser.page.prose


def test_the_whole_picture_is_shown_only_after_a_reason(
    browser: Browser,
    client: TestClient,
    workspace: Workspace,
    add_ad: AddAd,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
) -> None:
    add_ad("a-1", mirrored_bytes)
    case_id = new_case(browser)
    add_photo(browser, case_id, portrait_bytes)
    settle(workspace)
    page = browser.get(f"/cases/{case_id}")
    link = next(link for link in page.links if link.endswith("/picture"))
    assert client.get(f"{link}.jpg", headers=HTML).status_code == 422
    assert client.get(f"{link}.jpg?seal={'0' * 64}", headers=HTML).status_code == 403
    browser.get(link)
    browser.send(link, expect=422)
    assert reveals(workspace) == []
    browser.send(link, {"reason": "read_picture_text"})
    (looked,) = reveals(workspace)
    assert (looked.case_id, looked.purpose) == (case_id, "locate_missing_person")
    assert looked.details["reason"] == "read_picture_text"
    assert looked.channel == "web" and looked.actor_kind == "key"
    source = next(i["src"] for i in browser.page.images if "picture.jpg" in i["src"])
    answer = client.get(source)
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).size == (240, 240)
    other = new_case(browser, "2026-0002")
    browser.get(link.replace(case_id, other), expect=404)
    browser.get(f"/cases/{case_id}/end")
    browser.send(f"/cases/{case_id}/end", {"status": "closed", "confirm": "yes"})
    assert client.get(source, headers=HTML).status_code == 409


def reveals(workspace: Workspace) -> list[AuditRecord]:
    with workspace.catalog.read() as session:
        return list(
            session.scalars(
                select(AuditRecord).where(
                    AuditRecord.action == "picture.reveal", AuditRecord.outcome == "done"
                )
            )
        )


def test_a_photo_is_shown_whole_and_deleted(
    browser: Browser, client: TestClient, portrait_bytes: bytes, workspace: Workspace
) -> None:
    case_id = new_case(browser)
    add_photo(browser, case_id, portrait_bytes)
    settle(workspace)
    page = browser.get(f"/cases/{case_id}")
    whole = next(link for link in page.links if link.endswith("/whole"))
    delete = next(link for link in page.links if link.endswith("/delete") and "photos" in link)
    browser.get(whole)
    picture = next(i["src"] for i in browser.page.images if i["src"].endswith("whole.jpg"))
    assert client.get(picture).headers["content-type"] == "image/jpeg"
    browser.get(delete)
    browser.send(delete, expect=422)
    browser.send(delete, {"confirm": "yes"})
    assert browser.path == f"/cases/{case_id}?done=photo_deleted"
    assert client.get(picture).status_code == 404
    assert "Add a photo to begin" in browser.page.prose


def test_poor_photos_say_what_limits_them(
    browser: Browser, workspace: Workspace, portrait: Image.Image
) -> None:
    dark = io.BytesIO()
    portrait.point(lambda value: value // 8).resize((150, 150)).save(dark, "PNG")
    case_id = new_case(browser)
    add_photo(browser, case_id, dark.getvalue())
    settle(workspace)
    page = browser.get(f"/cases/{case_id}")
    assert "This photo limits the search" in page.prose


def test_jobs_and_about(
    browser: Browser, workspace: Workspace, add_ad: AddAd, portrait_bytes: bytes
) -> None:
    add_ad("a-1", portrait_bytes)
    page = browser.get("/jobs")
    assert "Read the pictures of an ad" in page.prose and "1 of 1" in page.prose
    assert "Read the pictures" not in browser.get("/jobs?state=failed").prose
    page = browser.get("/about")
    assert workspace.contract_id in page.prose and "CC0-1.0" in page.prose


def test_lists_go_on(browser: Browser, client: TestClient) -> None:
    from indexer.cases import create_case
    from indexer.records import CaseInput

    ws = client.app.state.service.workspace  # type: ignore[attr-defined]
    for number in range(52):
        create_case(ws, CaseInput(case_number=f"2026-{number:04d}"))
    page = browser.get("/cases?text=2026")
    assert "2026-0051" in page.prose and "2026-0001" not in page.prose
    browser.get(next(link for link in page.links if "cursor=" in link))
    assert "2026-0001" in browser.page.prose and "2026-0051" not in browser.page.prose
    browser.get("/cases?cursor=nonsense", expect=422)
    assert "No case fits" in browser.get("/cases?text=%25").prose
    assert "No case fits" in browser.get("/cases?text=a%00b").prose


@pytest.mark.parametrize("path", ["/nowhere", "/cases/nonsense", "/static/nothing.css"])
def test_unknown_addresses_are_pages_for_browsers(browser: Browser, path: str) -> None:
    browser.get(path, expect=404)


def test_the_interface_keeps_its_problem_documents(client: TestClient, browser: Browser) -> None:
    answer = client.get("/v1/cases", headers=HTML)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    answer = client.get("/nowhere", headers={"accept": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    browser.get("/sign-out", expect=405)
    assert post_photo(client, "x", b"").status_code == 401


def test_an_unforeseen_error_is_a_page_too(
    client: TestClient, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.web import views

    def fail(*_args: object, **_values: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(views, "case_rows", fail)
    page = browser.get("/cases", expect=500)
    assert "Something failed inside Homeward" in page.prose
    assert "secret detail" not in browser.source


def test_our_files_are_served_with_their_version(client: TestClient, browser: Browser) -> None:
    sheet = next(f["href"] for tag, f in browser.page.tags if f.get("rel") == "stylesheet")
    answer = client.get(sheet)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert b"://" not in answer.content and b"@import" not in answer.content
