"""Many ads in one request: one JSON object on each line, images by their SHA-256."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from indexer import ads, quarantine
from indexer.batches import chunks
from indexer.errors import ItemRefused, QueueFull, StorageError
from indexer.incoming import Delivery
from indexer.quarantine import BadItem
from indexer.records import AdReceipt, SentBefore, Upload
from indexer.workspace import Workspace
from models.errors import HomewardError
from service.accounts.principal import Principal
from service.api.common import LINES, IdempotencyHeader, answer, problems, router
from service.api.forms import ad_of
from service.api.schemas.ads import BatchAdIn, BatchItemOut, BatchOut, ImageOutcomeOut
from service.api.schemas.common import FieldError
from service.deps import ServiceDep, requires
from service.errors import (
    MAX_REPORTED_ERRORS,
    RETRY_AFTER_SECONDS,
    BadRequestBody,
    InvalidFields,
    field_errors,
)
from service.idempotency import Answer, once
from service.jsonbody import parse_json
from service.rawbody import NDJSON, receive_lines
from service.uploads import clean_filename

api = router("ads")

Writer = Annotated[Principal, Depends(requires("ads:write"))]

ADS_AT_ONCE = 16
"""Lines that are taken in one transaction."""

NOT_THE_LINES_FAULT = frozenset({"image_unknown", "queue_full", "overloaded"})
"""A line that is refused with one of these may be sent again as it is: no quarantine."""

Line = tuple[int, bytes, bool]
"""Number, bytes (those within the limit), and whether that is all of it."""

LINES.add(BatchAdIn)


@api.post(
    "/ads/batch",
    response_model=BatchOut,
    responses={
        200: {
            "description": "What became of each line",
            "headers": {
                "Retry-After": {
                    "description": "Seconds to wait; there where the rest was not taken, such "
                    "as with `queue_full`",
                    "schema": {"type": "integer"},
                }
            },
        },
        **problems(408, 409, 413, 415, 422, 507),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One ad on each line, each a JSON object as `x-line` says",
            "content": {NDJSON: {"schema": {"x-line": {"$ref": "#/components/schemas/BatchAdIn"}}}},
        }
    },
)
async def receive_batch(
    request: Request,
    service: ServiceDep,
    principal: Writer,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Take in many ads whose images were sent before. Each line is taken or refused by itself.

    The same line again gives the same ids. Bad lines are kept in a quarantine with the reason.
    Where the queue is full or the disk fails the rest is refused; if that is all of it, the whole
    answer is that problem.
    """
    settings = service.settings
    async with (
        service.upload_slot(),
        receive_lines(
            request,
            service.spool_dir,
            sealed=service.sealed,
            max_bytes=settings.max_batch_bytes,
            max_lines=settings.max_batch_lines,
        ) as lines,
    ):
        batch = _Batch(service.workspace, lines.read(settings.max_json_bytes), principal.actor_id)

        async def work() -> Answer:
            while not batch.ended:
                try:
                    await service.pool.run(batch.step)
                except HomewardError as error:  # no place in the pool
                    batch.stopped = error
                    await run_in_threadpool(batch.step)
                service.runner.wake()
            return answer(200, batch.result(), None)

        response = await once(
            service.workspace,
            service.idempotency,
            request,
            principal.actor_id,
            lines.sha256,
            work,
            # Done anew each time: what was refused for want of room is taken then.
            replay=False,
        )
    if batch.stopped is not None:
        response.headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    return response


class _Batch:
    """A batch on its way: a few lines at a time, until what is beyond a line stops the rest."""

    def __init__(self, workspace: Workspace, lines: Iterator[Line], actor: str) -> None:
        self.workspace = workspace
        self.actor = actor
        self.ended = False
        self.stopped: HomewardError | None = None
        self._groups = chunks(lines, ADS_AT_ONCE)
        self._items: list[BatchItemOut] = []

    def step(self) -> None:
        """Take the next few lines."""
        group = next(self._groups, None)
        if group is None:
            self.ended = True
            return
        if self.stopped is not None:
            self._items += [_refused(number, self.stopped) for number, _, _ in group]
            return
        outcomes = [_delivery(line) for line in group]
        good = [one for one in outcomes if isinstance(one, Delivery)]
        taken: Iterator[AdReceipt | HomewardError]
        try:
            taken = iter(ads.receive_ads(self.workspace, good))
        except StorageError as error:
            self.stopped = error
            taken = iter([error] * len(good))
        bad = []
        for (number, text, _), delivery in zip(group, outcomes, strict=True):
            outcome = next(taken) if isinstance(delivery, Delivery) else delivery
            if isinstance(outcome, AdReceipt):
                self._items.append(_taken(number, outcome))
                continue
            self._items.append(_refused(number, outcome))
            if isinstance(outcome, QueueFull):
                self.stopped = outcome
            elif not isinstance(outcome, StorageError) and outcome.code not in NOT_THE_LINES_FAULT:
                bad.append(BadItem(f"batch line {number}", outcome.code, _told(outcome), text))
        if not isinstance(self.stopped, StorageError):
            quarantine.add(self.workspace.catalog, bad, self.actor)

    def result(self) -> BatchOut:
        """What became of all lines. Raises what stopped it if nothing was taken before."""
        count = dict.fromkeys(("created", "known", "refused"), 0)
        for item in self._items:
            count[item.status] += 1
        if self.stopped is not None and not count["created"] + count["known"]:
            raise self.stopped
        return BatchOut(items=self._items, **count)


def _delivery(line: Line) -> Delivery | HomewardError:
    _, text, whole = line
    if not whole:
        return ItemRefused(
            f"The line is longer than {len(text)} bytes.",
            remedy="Send long texts as a page file, with POST /v1/ads.",
            code="line_too_long",
        )
    try:
        body = BatchAdIn.model_validate(parse_json(text))
    except ValidationError as error:
        return InvalidFields(field_errors(error.errors(include_url=False)))
    except BadRequestBody:
        return ItemRefused(
            "The line is no JSON object in UTF-8.",
            remedy="Write each ad on one line with a JSON library.",
            code="malformed_line",
        )
    except InvalidFields as error:
        return error
    images = [
        Upload(SentBefore(image), None)
        if isinstance(image, str)
        else Upload(
            SentBefore(image.sha256),
            None if image.filename is None else clean_filename(image.filename),
        )
        for image in body.images
    ]
    return Delivery(ad_of(body), images)


def _taken(number: int, receipt: AdReceipt) -> BatchItemOut:
    return BatchItemOut(
        line=number,
        status="created" if receipt.created else "known",
        ad_id=receipt.ad_id,
        capture_id=receipt.capture_id,
        job_id=receipt.job_id,
        images=[ImageOutcomeOut.model_validate(image) for image in receipt.images],
    )


def _refused(number: int, error: HomewardError) -> BatchItemOut:
    fields: list[Any] = list(getattr(error, "errors", ()))[:MAX_REPORTED_ERRORS]
    return BatchItemOut(
        line=number,
        status="refused",
        code=error.code,
        detail=error.detail,
        remedy=error.remedy or None,
        errors=[FieldError.model_validate(field) for field in fields] or None,
    )


def _told(error: HomewardError) -> str:
    """All that is wrong, by field; never the values."""
    if isinstance(error, InvalidFields):
        return "; ".join(f"{one['field']}: {one['message']}" for one in error.errors)
    return error.detail
