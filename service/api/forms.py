"""Bodies of the routes: which parts, how large, and what is in them as typed values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from indexer.records import AdInput, CaptureInfo
from service.api.schemas.ads import AdIn, CaptureIn
from service.errors import InvalidFields, field_errors
from service.state import Service
from service.uploads import Form, PartRule, receive_form

MAX_FIELD_BYTES = 10_000
M = TypeVar("M", bound=BaseModel)


@asynccontextmanager
async def photo_form(
    request: Request, service: Service, names: Iterable[str]
) -> AsyncIterator[Form]:
    """A form with one picture ``file`` and the text fields ``names``."""
    rules = {"file": PartRule(service.settings.max_image_bytes, required=True, is_file=True)}
    rules |= {name: PartRule(MAX_FIELD_BYTES) for name in names}
    async with (
        service.upload_slot(),
        receive_form(request, rules, service.spool_dir, sealed=service.sealed) as form,
    ):
        yield form


@asynccontextmanager
async def ad_form(request: Request, service: Service) -> AsyncIterator[Form]:
    """An ad: its JSON, its images and the page it was read from.

    An image somewhat over the limit is taken in, so that the ad and its other images are kept
    and the refusal of the one is recorded; only a far larger one refuses the request.
    """
    settings = service.settings
    options = service.workspace.options
    rules = {
        "ad": PartRule(settings.max_json_bytes, required=True),
        "images": PartRule(
            2 * settings.max_image_bytes,
            max_count=options.max_images_per_ad,
            is_file=True,
            original=True,
        ),
        "page": PartRule(
            settings.max_page_bytes,
            max_count=options.max_pages_per_ad,
            is_page=True,
            original=True,
        ),
    }
    store = service.workspace.blobs
    async with (
        service.upload_slot(),
        receive_form(request, rules, service.spool_dir, store, sealed=service.sealed) as form,
    ):
        yield form


def ad_of(body: AdIn) -> AdInput:
    """A checked ad as the indexer takes it."""
    values: dict[str, Any] = {f.name: getattr(body, f.name) for f in fields(AdInput)}
    if isinstance(body.capture, CaptureIn):
        capture = {f.name: getattr(body.capture, f.name) for f in fields(CaptureInfo)}
        values["capture"] = CaptureInfo(**_tuples(capture))
    return AdInput(**_tuples(values))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def fields_of(form: Form, model: type[M]) -> M:
    """The text fields of ``form`` as a ``model``; empty ones count as not given.

    Raises InvalidFields that names every bad one.
    """
    texts = {name: form.text(name) for name in model.model_fields}
    try:
        return model.model_validate({k: v for k, v in texts.items() if v is not None})
    except ValidationError as error:
        raise InvalidFields(field_errors(error.errors(include_url=False))) from None
