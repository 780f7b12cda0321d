"""Generations as administrators see and change them, the same in the interface and the pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from indexer.errors import ComparisonNotFound, GenerationStateInvalid
from indexer.generations import missing, rows, shown, switching
from indexer.generations.missing import Missing
from indexer.generations.rows import Change, Generation
from indexer.workspace import Workspace
from service.state import Service


@dataclass(frozen=True, slots=True)
class Listed:
    """A generation, what it lacks, whether its face pack is loaded in this process, and when it
    was compared last (``None``: not with one that is still there)."""

    generation: Generation
    missing: Missing
    loaded: bool
    compared_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All generations, the newest first; what happened to them, oldest first; and the one that
    going back would bring into use."""

    items: tuple[Listed, ...]
    history: tuple[Change, ...]
    previous: str | None


def overview(ws: Workspace) -> Overview:
    """All generations and their history."""
    with ws.catalog.read() as session:
        known = [
            (one, missing.look(session, one.contract_id)) for one in rows.all_generations(session)
        ]
        history = tuple(rows.changes(session))
        previous = rows.previous(session)
    return Overview(
        items=tuple(_listed(ws, one, left) for one, left in known),
        history=history,
        previous=None if previous is None else previous.contract_id,
    )


def listed(ws: Workspace, contract_id: str) -> Listed:
    """One generation. Raises GenerationNotFound."""
    with ws.catalog.read() as session:
        one = rows.find(session, contract_id)
        left = missing.look(session, contract_id)
    return _listed(ws, one, left)


def _listed(ws: Workspace, one: Generation, left: Missing) -> Listed:
    try:
        compared_at = shown.latest(ws, one.contract_id).at
    except ComparisonNotFound:
        compared_at = None
    return Listed(one, left, one.contract_id in ws.views.able(), compared_at)


def previous(ws: Workspace) -> Listed:
    """The generation that going back brings into use. Raises GenerationStateInvalid."""
    with ws.catalog.read() as session:
        found = rows.previous(session)
    if found is None:
        raise GenerationStateInvalid(
            "No earlier generation is kept.",
            remedy="Build it anew: `homeward reindex --pack NAME`.",
        )
    return listed(ws, found.contract_id)


def activate(service: Service, contract_id: str, *, actor: str) -> Generation:
    """Bring a generation into use.

    Refused where this process has not its face pack: it could answer from the one before only.
    Raises GenerationNotFound, GenerationUnavailable, the errors of packs, GenerationStateInvalid
    and GenerationIncomplete.
    """
    service.opened.views.loaded(contract_id)
    found = switching.activate(service.opened, contract_id, actor=actor)
    service.runner.wake()
    return found


def roll_back(service: Service, *, actor: str) -> Generation:
    """Bring back the generation that was in use before. Raises as :func:`activate`."""
    service.opened.views.loaded(previous(service.opened).generation.contract_id)
    found = switching.roll_back(service.opened, actor=actor)
    service.runner.wake()
    return found
