"""Multipart bodies: limits while they stream in, whole or not at all, hostile names made safe."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from models.errors import HomewardError
from service.errors import BadRequestBody, InvalidFields, status_of
from service.uploads import Form, PartRule, clean_filename, receive_form

RULES = {
    "file": PartRule(1_000, required=True, is_file=True),
    "note": PartRule(100),
    "images": PartRule(1_000, max_count=2, is_file=True),
    "page": PartRule(1_000, is_page=True),
}
BOUNDARY = b"edge"


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"'
    return b"--edge\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--edge--\r\n"


def request(chunks: Iterable[bytes], content_type: str | None = None) -> tuple[Request, list[int]]:
    """A request whose body comes in these chunks, and how many of them were taken."""
    waiting = list(chunks)
    taken = [0]

    async def receive() -> dict[str, Any]:
        taken[0] += 1
        chunk = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    kind = content_type or "multipart/form-data; boundary=edge"
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", kind.encode())],
    }
    return Request(scope, receive), taken


def receive(made: Request, folder: Path, look: Callable[[Form], Any] = lambda form: None) -> Any:
    async def work() -> Any:
        async with receive_form(made, RULES, folder) as form:
            return look(form)

    return asyncio.run(work())


def failure(data: Iterable[bytes], folder: Path, content_type: str | None = None) -> HomewardError:
    made, _ = request(data, content_type)
    with pytest.raises(HomewardError) as caught:
        receive(made, folder)
    return caught.value


def test_parts_arrive_whole_whatever_the_chunks(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3 + b"\r\n--edg"
    data = body(part("file", content, "p.jpg"), part("note", "Grüße".encode()))
    for size in (1, 3, 7, len(data)):
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        made, _ = request(chunks)
        got = receive(
            made, tmp_path, lambda f: (f.file("file").read(), f.file("file").sha256, f.text("note"))
        )
        assert got == (content, hashlib.sha256(content).hexdigest(), "Grüße")


def test_a_body_that_ends_in_the_middle_is_refused(tmp_path: Path) -> None:
    whole = body(part("file", b"x" * 500, "p.jpg"))
    error = failure([whole[:300]], tmp_path)
    assert error.code == "malformed_body"
    assert "ends before" in error.detail


def test_a_large_part_is_refused_before_the_rest_is_read(tmp_path: Path) -> None:
    chunks = [part("file", b"", "p.jpg")[:-2], *[b"x" * 400] * 1_000]
    made, taken = request(chunks)
    with pytest.raises(BadRequestBody) as caught:
        receive(made, tmp_path)
    assert caught.value.code == "image_too_large"
    assert taken[0] < 10


def test_too_many_and_unknown_and_missing_parts_are_all_named(tmp_path: Path) -> None:
    error = failure(
        [
            body(
                *[part("images", b"x", "i.jpg")] * 3,
                part("surprise", b"x"),
            )
        ],
        tmp_path,
    )
    assert isinstance(error, InvalidFields)
    assert {e["field"] for e in error.errors} == {"images", "surprise", "file"}


@pytest.mark.parametrize("names", ["one", "many"])
def test_reading_stops_after_a_hundred_refused_parts(tmp_path: Path, names: str) -> None:
    parts = [part("images" if names == "one" else f"x{n}", b"x") for n in range(1_000)]
    made, taken = request(parts)
    with pytest.raises(InvalidFields) as caught:
        receive(made, tmp_path)
    assert len(caught.value.errors) == (1 if names == "one" else 101)
    assert taken[0] < 110


def test_a_page_that_is_too_large_is_called_a_page(tmp_path: Path) -> None:
    error = failure([body(part("page", b"x" * 1_001, "p.html"))], tmp_path)
    assert (error.code, status_of(error)) == ("page_too_large", 413)
    assert "page" in error.detail


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "text/plain", "multipart/form-data", "multipart/mixed; boundary=edge"],
)
def test_other_content_types_are_refused(tmp_path: Path, content_type: str) -> None:
    error = failure([body(part("file", b"x"))], tmp_path, content_type)
    assert error.code in ("unsupported_media_type", "malformed_body")


def test_a_nameless_part_and_rubbish_are_refused(tmp_path: Path) -> None:
    nameless = b'--edge\r\nContent-Disposition: form-data; filename="x"\r\n\r\nx\r\n--edge--\r\n'
    assert failure([nameless], tmp_path).code == "malformed_body"
    assert failure([b"rubbish"], tmp_path).code == "malformed_body"
    assert failure([b"--edge\r\n" + b"A: " + b"b" * 100_000], tmp_path).code == "malformed_body"


def test_text_has_to_be_utf8_without_nul(tmp_path: Path) -> None:
    for bad in (b"\xff\xfe", b"a\0b"):
        made, _ = request([body(part("file", b"x"), part("note", bad))])
        with pytest.raises(InvalidFields):
            receive(made, tmp_path, lambda f: f.text("note"))


def test_the_fingerprint_does_not_depend_on_the_boundary(tmp_path: Path) -> None:
    one = body(part("file", b"x", "p.jpg"))
    two = one.replace(b"edge", b"brim")
    first = receive(request([one])[0], tmp_path, Form.fingerprint)
    second = receive(
        request([two], "multipart/form-data; boundary=brim")[0], tmp_path, Form.fingerprint
    )
    other = receive(request([body(part("file", b"y", "p.jpg"))])[0], tmp_path, Form.fingerprint)
    assert first == second != other


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    receive(request([body(part("file", b"x" * 900, "p.jpg"))])[0], tmp_path)
    failure([body(part("file", b"x" * 2_000, "p.jpg"))], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disconnect_stores_nothing(tmp_path: Path) -> None:
    async def stream() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": part("file", b"x" * 10), "more_body": True}
        yield {"type": "http.disconnect"}

    messages = stream()
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", b"multipart/form-data; boundary=edge")],
    }
    made = Request(scope, lambda: anext(messages))
    with pytest.raises(ClientDisconnect):
        receive(made, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\a b.jpg", "a b.jpg"),
        ("a\x00b\r\nc.jpg", "abc.jpg"),
        ("\u202egpj.exe", "gpj.exe"),
        ("", "unnamed"),
        ("..", ".."),
        ("x" * 500, "x" * 200),
    ],
)
def test_names_from_outside_are_only_labels(given: str, kept: str) -> None:
    assert clean_filename(given) == kept
