"""``homeward webhooks``: where alerts are sent."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from indexer.notify import get_webhook, list_webhooks, remove_webhook
from indexer.times import rfc3339
from service.alerts.webhooks import WebhookSender, send_test, set_webhook, shown
from service.cli.console import (
    AsJson,
    DataDir,
    catalog_for,
    columns,
    expected_errors,
    out,
    print_json,
    settings_for,
)

app = typer.Typer(help="Set, list, test and remove webhooks for alerts.", no_args_is_help=True)

ACTOR = "command line"
WebhookIdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the webhook.")]


@app.command("add")
@expected_errors
def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Begins with https.")],
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Have alerts sent to an address, and print the secret that signs them once."""
    settings = settings_for(context, data_dir)
    with catalog_for(settings) as catalog:
        made = set_webhook(catalog, WebhookSender.of(settings), url, description[:200], ACTOR)
    if as_json:
        print_json(_values(shown(made, secret=True)))
        return
    out.print(Text(f"Webhook {made.webhook_id} is set. Its secret (shown once, keep it):"))
    out.print(Text(f"    {made.secret}"))


@app.command("list")
@expected_errors
def list_all(context: typer.Context, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the webhooks, never their secrets."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        found = [shown(item) for item in list_webhooks(catalog, limit=200).items]
    if as_json:
        print_json([_values(item) for item in found])
        return
    rows = [("id", "address", "description", "set")]
    rows += [
        (item["webhook_id"], item["url"], item["description"], rfc3339(item["created_at"]))
        for item in found
    ]
    out.print(Text(columns(rows)))


@app.command("remove")
@expected_errors
def remove(context: typer.Context, webhook_id: WebhookIdArgument, data_dir: DataDir = None) -> None:
    """Send nothing there any more; what waits to be sent there goes too."""
    with catalog_for(settings_for(context, data_dir)) as catalog:
        record = remove_webhook(catalog, webhook_id)
    out.print(Text(f"Webhook {record.webhook_id} is removed."))


@app.command("test")
@expected_errors
def send(context: typer.Context, webhook_id: WebhookIdArgument, data_dir: DataDir = None) -> None:
    """Send a message that stands for no alert, and say whether it was taken."""
    settings = settings_for(context, data_dir)
    with catalog_for(settings) as catalog:
        record = get_webhook(catalog, webhook_id)
    message_id = send_test(WebhookSender.of(settings), record)
    out.print(Text(f"Webhook {record.webhook_id} took the message {message_id}."))


def _values(webhook: dict[str, Any]) -> dict[str, Any]:
    return {**webhook, "created_at": rfc3339(webhook["created_at"])}
