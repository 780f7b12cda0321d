"""The views of one process on the generations: which one answers now, and the others beside it.

A view is a workspace of one contract: the same catalog and originals, with an analyser, a
calibration and galleries of its own. Whoever has begun with a view ends with it, so no answer
mixes two contracts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indexer.errors import GenerationUnavailable
from indexer.generations import rows
from indexer.generations.rows import Generation
from models.calibration import Calibration
from models.errors import HomewardError
from models.types import Face, Landmarks, RgbImage

if TYPE_CHECKING:
    from indexer.workspace import FaceAnalyser, Workspace

_log = logging.getLogger(__name__)

_TRY_AGAIN_S = 60.0
"""How long a pack that could not be loaded is left alone."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The face pack of a generation, ready for work."""

    analyser: FaceAnalyser
    calibration: Calibration | None


Load = Callable[[Generation], Loaded]
"""Loads the pack of a generation; raises the errors of packs, or GenerationUnavailable."""


def load_nothing(generation: Generation) -> Loaded:
    """For whoever works with one pack only."""
    raise GenerationUnavailable(generation.contract_id, "this process works with one face pack")


class Unloaded:
    """In place of the analyser of a generation whose pack is not loaded (yet)."""

    def __init__(self, contract_id: str, dimension: int) -> None:
        self.contract_id = contract_id
        self.dimension = dimension

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        raise GenerationUnavailable(self.contract_id, "its face pack is not loaded")

    def crop(self, image: RgbImage, landmarks: Landmarks, size: int = 224) -> RgbImage:
        raise GenerationUnavailable(self.contract_id, "its face pack is not loaded")


class Views:
    """The open views of a process; safe to use from several threads."""

    def __init__(self, root: Workspace, load: Load) -> None:
        self._root = root
        self._load = load
        self._lock = threading.RLock()
        self._open: dict[str, Workspace] = {root.contract_id: root}
        # Which generation each of them shows: one that was dropped may be built anew.
        with root.catalog.read() as session:
            self._ids = {
                one.contract_id: one.generation_id
                for one in rows.all_generations(session)
                if one.contract_id == root.contract_id
            }
        self._loaded: set[str] = {root.contract_id}
        self._failed: dict[str, tuple[float, str]] = {}
        self._said: dict[str, str] = {}
        self._current = root
        self._behind: str | None = None

    @property
    def current(self) -> Workspace:
        """The view that answers, as of the last :meth:`refresh`."""
        return self._current

    @property
    def behind(self) -> str | None:
        """Why this process answers from a generation that is not the one in use; ``None``: it
        does not."""
        return self._behind

    def refresh(self) -> Workspace:
        """The view of the generation that the catalog says is in use now.

        Where its pack cannot be had here, the one before goes on answering, and ``behind`` says
        why: its generation is kept, and still receives what is new.
        """
        with self._root.catalog.read() as session:
            generation = rows.active(session)
        if generation is None or self._shows(self._current, generation):
            self._behind = None
            return self._current
        try:
            self._current = self.loaded(generation.contract_id)
            self._behind = None
            _log.warning("the generation %s answers now", generation.contract_id)
        except HomewardError as error:
            self._behind = str(error)
        return self._current

    def of(self, contract_id: str | None) -> Workspace:
        """The view for work under a contract, its pack loaded; ``None``: the one in use.

        Raises GenerationNotFound, GenerationUnavailable and the errors of packs.
        """
        return self.refresh() if contract_id is None else self.loaded(contract_id)

    def opened(self) -> list[Workspace]:
        """All open views."""
        with self._lock:
            return list(self._open.values())

    def able(self) -> set[str]:
        """The contracts under which this process can analyse."""
        with self._lock:
            return set(self._loaded)

    def view(self, contract_id: str) -> Workspace:
        """The view of a generation, whose vectors can be searched; its pack need not be there.

        Raises GenerationNotFound and the StorageError tree.
        """
        with self._lock:
            with self._root.catalog.read() as session:
                generation = rows.find(session, contract_id)
            found = self._open.get(contract_id)
            if found is None:
                found = self._root.beside(
                    Unloaded(contract_id, generation.dimension), generation.pack
                )
                self._open[contract_id] = found
            elif not self._shows(found, generation):
                found.reopen_galleries()
            self._ids[contract_id] = generation.generation_id
            return found

    def _shows(self, view: Workspace, generation: Generation) -> bool:
        """Whether a view has the vectors of this very generation."""
        return self._ids.get(view.contract_id) == generation.generation_id

    def loaded(self, contract_id: str) -> Workspace:
        """As :meth:`view`, with its pack loaded. Raises as :meth:`of`."""
        with self._lock:
            view = self.view(contract_id)
            if contract_id in self._loaded:
                return view
            since, reason = self._failed.get(contract_id, (0.0, ""))
            if reason and time.monotonic() - since < _TRY_AGAIN_S:
                raise GenerationUnavailable(contract_id, reason)
            with self._root.catalog.read() as session:
                generation = rows.find(session, contract_id)
            try:
                pack = self._load(generation)
                if pack.analyser.contract_id != contract_id:
                    raise GenerationUnavailable(
                        contract_id,
                        f"the pack {generation.pack} that is installed here is another one: it "
                        f"makes {pack.analyser.contract_id}",
                    )
            except HomewardError as error:
                self._failed[contract_id] = time.monotonic(), error.detail
                raise
            view.analyser, view.calibration = pack.analyser, pack.calibration
            self._loaded.add(contract_id)
            return view

    def keep(self) -> None:
        """What is to be done every few seconds: open what came, load what can be, let go of what
        went, so that nobody waits when another generation comes into use."""
        with self._root.catalog.read() as session:
            known = {one.contract_id: one for one in rows.all_generations(session)}
        self._let_go({one.contract_id for one in known.values() if one.state != "dropping"})
        for one in known.values():
            if one.state == "dropping":
                continue
            try:
                self.view(one.contract_id)
                self.loaded(one.contract_id)
            except HomewardError as error:
                if self._said.get(one.contract_id) != error.detail:
                    _log.warning("generation %s: %s", one.contract_id, error)
                    self._said[one.contract_id] = error.detail
        self.refresh()

    def _let_go(self, wanted: Collection[str]) -> None:
        with self._lock:
            for contract_id in self._open.keys() - wanted:
                view = self._open[contract_id]
                if view is self._root or view is self._current:
                    continue
                del self._open[contract_id]
                self._ids.pop(contract_id, None)
                self._loaded.discard(contract_id)
                view.close_galleries()

    def close(self) -> None:
        """Let go of all views but the root's own. Raises the StorageError tree."""
        with self._lock:
            for contract_id, view in list(self._open.items()):
                if view is not self._root:
                    del self._open[contract_id]
                    view.close_galleries()
