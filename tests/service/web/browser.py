"""A browser without scripts: it follows redirects, fills in forms, and checks what it sees."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from fastapi.testclient import TestClient

from service.web.render import PAGE_HEADERS
from service.web.texts.pages import TEXTS
from tests.house import words
from tests.service.conftest import KEY

HTML = {"accept": "text/html,application/xhtml+xml"}
_VOID = {"input", "img", "br", "meta", "link", "hr"}


@dataclass
class Form:
    """A form of a page with what its fields hold already."""

    action: str
    method: str
    enctype: str
    values: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


class Reader(HTMLParser):
    """What a browser and a screen reader make of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.images: list[dict[str, str]] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.controls: list[dict[str, str]] = []
        self._open: list[str] = []
        self._select = ""
        self._textarea = ""
        self.feed(source)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag not in _VOID:
            self._open.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "form":
            self.forms.append(
                Form(found["action"], found.get("method", "get"), found.get("enctype", ""))
            )
        elif tag == "a":
            self.links.append(found["href"])
        elif tag == "img":
            self.images.append(found)
        elif tag == "label" and "for" in found:
            self.labelled.add(found["for"])
        elif tag in ("input", "select", "textarea"):
            self._control(tag, found)
        elif tag == "option" and "selected" in found:
            self.forms[-1].values[self._select] = found["value"]

    def _control(self, tag: str, found: dict[str, str]) -> None:
        form, name, kind = self.forms[-1], found["name"], found.get("type", "text")
        form.names.add(name)
        inside_label = "label" in self._open
        if kind != "hidden" and not inside_label:
            self.controls.append(found)
        if tag == "select":
            self._select = name
            form.values.setdefault(name, "")
        elif tag == "textarea":
            self._textarea = name
            form.values[name] = ""
        elif kind in ("radio", "checkbox"):
            if "checked" in found:
                form.values[name] = found["value"]
        elif kind != "file":
            form.values[name] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()
        if tag == "textarea":
            self._textarea = ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._textarea:
            # A browser drops the line break that follows the tag.
            self.forms[-1].values[self._textarea] += data.removeprefix("\n")

    @property
    def prose(self) -> str:
        return " ".join(" ".join(self.text).split())


class Browser:
    """One browser at one service."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.path = ""
        self.status = 0
        self.page = Reader("")
        self.source = ""

    def get(self, path: str, expect: int = 200) -> Reader:
        """Open a page; redirects are followed."""
        answer = self.client.get(path, headers=HTML, follow_redirects=False)
        return self._arrive(path, answer, expect)

    def _arrive(self, path: str, answer: Any, expect: int) -> Reader:
        for _ in range(3):
            if answer.status_code != 303:
                break
            path = answer.headers["location"]
            answer = self.client.get(path, headers=HTML, follow_redirects=False)
        assert answer.status_code == expect, (answer.status_code, path, answer.text[:2000])
        self.path, self.status, self.source = path, answer.status_code, answer.text
        self.page = check_page(answer)
        return self.page

    def form(self, action: str) -> Form:
        found = [form for form in self.page.forms if form.action == action]
        assert len(found) == 1, [form.action for form in self.page.forms]
        return found[0]

    def send(
        self,
        action: str,
        values: dict[str, str] | None = None,
        *,
        file: tuple[str, bytes] | None = None,
        expect: int = 200,
        without: tuple[str, ...] = (),
    ) -> Reader:
        """Fill in the form of this page that leads to ``action``, and send it."""
        form = self.form(action)
        assert set(values or {}) <= form.names, form.names
        held = {**form.values, **(values or {})}
        parts: list[tuple[str, Any]] = [
            (name, (None, value)) for name, value in held.items() if name not in without
        ]
        if "file" in form.names:
            parts.append(("file", file or ("", b"")))
        assert form.enctype == "multipart/form-data" and form.method == "post"
        answer = self.client.post(action, files=parts, headers=HTML, follow_redirects=False)
        return self._arrive(action, answer, expect)

    def sign_in(self, key: str = KEY, expect: int = 200) -> Reader:
        self.get("/sign-in")
        return self.send("/sign-in", {"key": key}, expect=expect)


def check_page(answer: Any) -> Reader:
    """What holds for every page: headers, words, structure, labels, nothing active."""
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for name, value in PAGE_HEADERS.items():
        assert answer.headers[name] == value, name
    assert answer.headers["x-request-id"]
    page = Reader(answer.text)
    assert words.offences(words.template_prose(answer.text)) == []
    assert TEXTS["app.notice"] in page.prose
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags and "style" not in tags and "iframe" not in tags
    for tag, found in page.tags:
        assert not [name for name in found if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action"):
            # Nothing leads away from here, addresses in ads least of all.
            assert found.get(name, "/").startswith(("/", "#")), (tag, found)
            assert not found.get(name, "/").startswith("//"), (tag, found)
    assert tags.count("main") == 1 and tags.count("h1") == 1 and tags.count("header") == 1
    assert len(page.ids) == len(set(page.ids)), page.ids
    unlabelled = [control for control in page.controls if control.get("id") not in page.labelled]
    assert unlabelled == []
    assert [image for image in page.images if "alt" not in image] == []
    _check_headings(tags)
    described = [found["aria-describedby"] for _, found in page.tags if "aria-describedby" in found]
    assert {part for text in described for part in text.split()} <= set(page.ids)
    for form in page.forms:
        assert form.method == "get" or "csrf" in form.names, form.action
    return page


def _check_headings(tags: list[str]) -> None:
    """No level is skipped on the way down."""
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    for before, after in itertools.pairwise(levels):
        assert after <= before + 1, levels
