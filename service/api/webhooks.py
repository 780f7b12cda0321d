"""Webhooks: where alerts are sent. For administrators."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from indexer import notify
from indexer.notify import WebhookRecord
from service.accounts.principal import Principal
from service.alerts import webhooks
from service.api.common import (
    Cursor,
    IdempotencyHeader,
    Limit,
    WebhookId,
    answer,
    problems,
    router,
)
from service.api.schemas.alerts import NewWebhookOut, WebhookIn, WebhookList
from service.deps import ServiceDep, requires
from service.idempotency import Answer, once

api = router("webhooks")

Writer = Annotated[Principal, Depends(requires("webhooks:write"))]


@api.post(
    "/webhooks",
    status_code=201,
    response_model=NewWebhookOut,
    responses=problems(409, 413, 415, 422),
)
async def add_webhook(
    request: Request,
    webhook: WebhookIn,
    service: ServiceDep,
    principal: Writer,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Have alerts sent to an address. The answer holds the secret that signs them, this once."""

    def make() -> WebhookRecord:
        return webhooks.set_webhook(
            service.workspace.catalog,
            webhooks.WebhookSender.of(service.settings),
            webhook.url,
            webhook.description,
            principal.actor_id,
            principal.agency,
        )

    async def work() -> Answer:
        made = await run_in_threadpool(make)
        body = NewWebhookOut.model_validate(webhooks.shown(made, secret=True))
        return answer(201, body, made.webhook_id)

    content = hashlib.sha256(webhook.model_dump_json().encode()).hexdigest()
    return await once(
        service.workspace, service.idempotency, request, principal.actor_id, content, work
    )


@api.get("/webhooks", response_model=WebhookList, responses=problems(422))
def list_webhooks(
    service: ServiceDep, principal: Writer, limit: Limit = 50, cursor: Cursor = None
) -> WebhookList:
    """The webhooks, oldest first; never their secrets, and of their addresses the host only."""
    page = notify.list_webhooks(
        service.workspace.catalog, limit=limit, cursor=cursor, agency=principal.agency
    )
    return WebhookList.model_validate(
        {"items": [webhooks.shown(item) for item in page.items], "next_cursor": page.next_cursor}
    )


@api.delete("/webhooks/{webhook_id}", status_code=204, responses=problems(404))
def remove_webhook(service: ServiceDep, principal: Writer, webhook_id: WebhookId) -> None:
    """Send nothing there any more; what waits to be sent there goes too."""
    notify.remove_webhook(service.workspace.catalog, webhook_id)
