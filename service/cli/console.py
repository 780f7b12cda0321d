"""What every command shares: output, errors, progress, the data folder and the workspace."""

from __future__ import annotations

import functools
import getpass
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typer.core import TyperCommand

from indexer.acting import Acting, acting, begin
from indexer.audit import record
from indexer.catalog import Catalog
from indexer.records import Page
from indexer.workspace import Workspace
from models.errors import HomewardError
from service.accounts import access
from service.config import Settings, load_settings
from service.opening import open_catalog_only, open_for

P = ParamSpec("P")
T = TypeVar("T")

FAILED = 1
USAGE = 2
SOME_REFUSED = 3
USAGE_CODES = frozenset({"settings_invalid", "purpose_required"})
PLAIN_EVERY_SECONDS = 5.0

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder of catalog, images and packs (or HOMEWARD_DATA_DIR; ./homeward-data).",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

STDOUT = Path("-")
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the figures as JSON; to standard output without FILE or with -.",
        show_default=False,
    ),
]


class BareOptionCommand(TyperCommand):
    """A command some of whose options may stand without their value.

    ``--json`` alone means standard output, ``--degrade`` alone the standard degradations. What
    follows is no value if it is another option or a folder.
    """

    bare: ClassVar[Mapping[str, str]] = {"--json": str(STDOUT), "--degrade": "standard"}

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        given: list[str] = []
        for place, word in enumerate(args):
            given.append(word)
            following = args[place + 1] if place + 1 < len(args) else "--"
            if word in self.bare and (following.startswith("--") or Path(following).is_dir()):
                given.append(self.bare[word])
        return super().make_context(info_name, given, parent, **extra)


class OutputDenied(HomewardError):
    """A result could not be written."""

    code = "output_denied"


def check_writable(path: Path | None) -> None:
    """Said before the work, not after it. Raises :class:`OutputDenied`."""
    if path is None or path == STDOUT:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise OutputDenied(
            f"{path} cannot be written: {error.strerror}.",
            remedy="Name a file in a folder that this account may write to.",
        ) from None


def write_json(path: Path | None, value: Any) -> None:
    """Write ``value`` to ``path``, or to standard output."""
    if path == STDOUT:
        print_json(value)
    elif path is not None:
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def settings_for(
    context: typer.Context, data_dir: Path | None = None, **overrides: object
) -> Settings:
    """Settings with the options of the command and of ``homeward`` itself on top."""
    before: Path | None = (context.obj or {}).get("data_dir")
    return load_settings(data_dir=data_dir or before, **overrides)


@contextmanager
def workspace_for(
    settings: Settings, *, analysing: bool = True, take_over: bool = False
) -> Iterator[Workspace]:
    """The open workspace of ``settings``, closed at the end; the rest as for ``open_for``."""
    workspace = open_for(settings, analysing=analysing, take_over=take_over)
    try:
        yield workspace
    finally:
        workspace.close()


@contextmanager
def catalog_for(settings: Settings) -> Iterator[Catalog]:
    """The open catalog of ``settings`` without the face pack, closed at the end."""
    with closing(open_catalog_only(settings)) as catalog:
        yield catalog


def expected_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Turn errors of the tree into a message with code and remedy, and the exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with begin(Acting("cli")):
                access.operator(operator()).acts()
                return command(*args, **kwargs)
        except HomewardError as error:
            show_error(error)
            raise typer.Exit(USAGE if error.code in USAGE_CODES else FAILED) from None
        except KeyboardInterrupt:
            err.print("Stopped. Nothing is lost; run the same command again to go on.")
            raise typer.Exit(FAILED) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(FAILED) from None

    return wrapped


def record_read(
    catalog: Catalog,
    action: str,
    *,
    subject: tuple[str, str] | None = None,
    case_id: str | None = None,
) -> None:
    """Record what is about to be shown, with what was noted on the way (``acting.note``)."""
    noted = {name: value for name, value in acting().noted.items() if name != "case_id"}
    with catalog.write() as session:
        record(session, action, subject=subject, case_id=case_id, details=noted)


def operator() -> str:
    """Who is at the command line: the account of this machine that the process runs as. Never from
    the environment, which whoever types the command can set as they like."""
    if sys.platform == "win32":
        return f"cli:{getpass.getuser()}"
    import pwd

    uid = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"cli:uid-{uid}"


def show_error(error: HomewardError) -> None:
    """Code, what happened and what to do, on standard error."""
    err.print(Text.assemble((f"Error [{error.code}]: ", "bold red"), error.detail))
    if error.remedy:
        err.print(Text(f"  What to do: {error.remedy}"))


def print_json(value: Any) -> None:
    """JSON on standard output, for programs."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def every_item(fetch: Callable[[str | None], Page[T]]) -> list[T]:
    """All items of a list that comes page by page; ``fetch`` gets the cursor of the next one."""
    found: list[T] = []
    cursor: str | None = None
    while True:
        page = fetch(cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, for pipes and narrow terminals."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


class Reporter:
    """Shows how far long work is: a bar with rate and time left, or plain lines in a log."""

    def __init__(self, console: Console = err) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._said: dict[str, float] = {}
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
            )

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` (None: not known yet) in ``stage``."""
        now = time.monotonic()
        started = self._started.setdefault(stage, now)
        rate = done / (now - started) if now > started else 0.0
        rate_text = f"{rate:.1f}/s" if rate else ""
        if self._bar is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=total, rate="")
            self._bar.update(self._tasks[stage], completed=done, total=total, rate=rate_text)
            return
        finished = total is not None and done >= total
        last = self._said.get(stage)
        if not finished and last is not None and now - last < PLAIN_EVERY_SECONDS:
            return
        self._said[stage] = now
        text = f"{stage}: {done}" + (f" of {total}" if total is not None else "")
        if rate and total is not None and not finished:
            text += f", {rate_text}, {(total - done) / rate:.0f} s left"
        self._console.print(Text(text))
