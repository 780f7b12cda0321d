"""The views of one process on the generations: which one answers now, and the others beside it.

A view is a workspace of one contract: the same catalog and originals, with an analyser, a
calibration and galleries of its own. Whoever has begun with a view ends with it, so no answer
mixes two contracts, or the rates of two calibrations.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indexer import calibrations
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

_LONGEST_OPENING_S = 60.0
"""How long the end of a process waits for a generation that is just being opened."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The face pack of a generation, ready for work, with the calibration that it brings."""

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
        # Guards what is below; never held while anything is opened, loaded or closed.
        self._lock = threading.Lock()
        self._turns: dict[str, threading.RLock] = {}
        self._open: dict[str, Workspace] = {root.contract_id: root}
        # Which generation each of them shows: one that was dropped may be built anew.
        with root.catalog.read() as session:
            self._ids = {
                one.contract_id: one.generation_id
                for one in rows.all_generations(session)
                if one.contract_id == root.contract_id
            }
        able = not isinstance(root.analyser, Unloaded)
        self._loaded: set[str] = {root.contract_id} if able else set()
        self._failed: dict[str, tuple[float, str]] = {}
        self._said: dict[str, str] = {}
        self._preparing: dict[str, threading.Thread] = {}
        self._current = root
        self._behind: str | None = None
        self.over_since: dict[str, float] = {}
        """When each generation was first seen to be kept for long enough (``switching.tidy``)."""

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
        """The view of the generation that the catalog says is in use now, with the calibration
        that is in force for it. Takes a moment only, whatever happens.

        Where it is not open here yet, a thread of its own sees to that; until then, and where its
        pack cannot be had here, the one before goes on answering, and ``behind`` says why: its
        generation is kept, and still receives what is new. Raises CalibrationDamaged,
        ContractMismatch and the StorageError tree.
        """
        with self._root.catalog.read() as session:
            generation, calibration_id = rows.in_force(session)
        view = self._current
        if generation is not None and not self._shows(view, generation):
            if view.contract_id == generation.contract_id:
                # It was dropped and built anew: nothing of before may be in an answer.
                ready: Workspace | None = self.view(generation.contract_id)
            else:
                ready = self._ready(generation)
            if ready is None:
                self._behind = self._why_not(generation.contract_id)
                self._prepare(generation.contract_id)
                return view
            view = ready
            _log.info("the generation %s answers now", generation.contract_id)
        self._current, self._behind = view, None
        self._current = view = self._with_newest(view, calibration_id)
        return view

    def _ready(self, generation: Generation) -> Workspace | None:
        with self._lock:
            view = self._open.get(generation.contract_id)
            if view is None or generation.contract_id not in self._loaded:
                return None
        return view if self._shows(view, generation) else None

    def _why_not(self, contract_id: str) -> str:
        with self._lock:
            failed = self._failed.get(contract_id)
        return failed[1] if failed else f"the generation {contract_id} is being opened"

    def _prepare(self, contract_id: str) -> None:
        """Open and load a generation in a thread of its own, unless that is being done."""

        def work() -> None:
            try:
                self.loaded(contract_id)
            except Exception as error:  # noqa: BLE001 - said by whoever asks why it is behind
                self._say(contract_id, str(error))

        with self._lock:
            known = self._preparing.get(contract_id)
            if known is not None and known.is_alive():
                return
            failed = self._failed.get(contract_id)
            if failed is not None and time.monotonic() - failed[0] < _TRY_AGAIN_S:
                return
            thread = threading.Thread(target=work, name=f"open {contract_id}", daemon=True)
            self._preparing[contract_id] = thread
        thread.start()

    def _with_newest(self, view: Workspace, calibration_id: str | None) -> Workspace:
        """The view with the calibration of this id, which is the newest of its contract, or with
        one that came since."""
        if calibration_id is None or calibration_id == view.calibration_id:
            return view
        with self._root.catalog.read() as session:
            kept = calibrations.newest(session, view.contract_id)
        with self._lock:
            view = self._open.get(view.contract_id, view)
            if kept is None or kept.entry.calibration_id <= (view.calibration_id or ""):
                return view
            # A view of its own: work that goes on keeps the rates that it began with.
            view = view.calibrated(kept.calibration, kept.entry.calibration_id)
            self._open[view.contract_id] = view
        _log.warning(
            "the calibration %s of %s is in force now", view.calibration_id, view.contract_id
        )
        return view

    def of(self, contract_id: str | None) -> Workspace:
        """The view for work under a contract, its pack loaded; ``None``: the one in use.

        Raises GenerationNotFound, GenerationUnavailable (also where this process is behind: the
        work is for the one in use) and the errors of packs.
        """
        if contract_id is not None:
            return self.loaded(contract_id)
        view = self.refresh()
        if self._behind is not None:
            raise GenerationUnavailable(view.contract_id, self._behind)
        return view

    def opened(self) -> list[Workspace]:
        """All open views."""
        with self._lock:
            return list(self._open.values())

    def able(self) -> set[str]:
        """The contracts under which this process can analyse."""
        with self._lock:
            return set(self._loaded)

    def _turn(self, contract_id: str) -> threading.RLock:
        """One thread at a time opens or loads the view of a contract."""
        with self._lock:
            return self._turns.setdefault(contract_id, threading.RLock())

    def view(self, contract_id: str) -> Workspace:
        """The view of a generation, whose vectors can be searched; its pack need not be there.

        Raises GenerationNotFound and the StorageError tree.
        """
        with self._turn(contract_id):
            with self._root.catalog.read() as session:
                generation = rows.find(session, contract_id)
            with self._lock:
                found = self._open.get(contract_id)
            if found is None:
                analyser = Unloaded(contract_id, generation.dimension)
                found = self._root.beside(analyser, generation.pack)
            elif not self._shows(found, generation):
                found.reopen_galleries()
            with self._lock:
                self._open[contract_id] = found
                self._ids[contract_id] = generation.generation_id
            return found

    def _shows(self, view: Workspace, generation: Generation) -> bool:
        """Whether a view has the vectors of this very generation."""
        return self._ids.get(view.contract_id) == generation.generation_id

    def loaded(self, contract_id: str) -> Workspace:
        """As :meth:`view`, with its pack loaded. Raises as :meth:`of`."""
        with self._turn(contract_id):
            view = self.view(contract_id)
            if contract_id in self.able():
                return view
            since, reason = self._failed.get(contract_id, (0.0, ""))
            if reason and time.monotonic() - since < _TRY_AGAIN_S:
                raise GenerationUnavailable(contract_id, reason)
            with self._root.catalog.read() as session:
                generation = rows.find(session, contract_id)
                kept = calibrations.newest(session, contract_id)
            try:
                pack = self._load(generation)
                if pack.analyser.contract_id != contract_id:
                    raise GenerationUnavailable(
                        contract_id,
                        f"the pack {generation.pack} that is installed here is another one: it "
                        f"makes {pack.analyser.contract_id}",
                    )
            except HomewardError as error:
                with self._lock:
                    self._failed[contract_id] = time.monotonic(), error.detail
                raise
            view.analyser, view.calibration = pack.analyser, pack.calibration
            if kept is not None:
                view.calibration = kept.calibration
                view.calibration_id = kept.entry.calibration_id
            with self._lock:
                self._failed.pop(contract_id, None)
                self._loaded.add(contract_id)
            return view

    def keep(self) -> None:
        """What is to be done every few seconds: open what came, load what can be, let go of what
        went, so that nobody waits when another generation comes into use."""
        with self._root.catalog.read() as session:
            known = {one.contract_id: one for one in rows.all_generations(session)}
            newest = calibrations.newest_ids(session)
        for one in known.values():
            if one.state == "dropping":
                continue
            try:
                self.view(one.contract_id)
                loaded = self.loaded(one.contract_id)
                self._with_newest(loaded, newest.get(one.contract_id))
            except HomewardError as error:
                self._say(one.contract_id, str(error))
        self.refresh()
        self._let_go({one.contract_id for one in known.values() if one.state != "dropping"})

    def _say(self, contract_id: str, text: str) -> None:
        if self._said.get(contract_id) != text:
            _log.warning("generation %s: %s", contract_id, text)
            self._said[contract_id] = text

    def _let_go(self, wanted: Collection[str]) -> None:
        with self._lock:
            gone = self._open.keys() - wanted - {self._current.contract_id}
            views = [self._open.pop(contract_id) for contract_id in gone]
            for contract_id in gone:
                self._ids.pop(contract_id, None)
                self._loaded.discard(contract_id)
        for view in views:
            view.close_galleries()

    def close(self) -> None:
        """Let go of all views, the root's own among them."""
        for thread in list(self._preparing.values()):
            thread.join(_LONGEST_OPENING_S)
        with self._lock:
            views = list(self._open.values())
            self._open.clear()
        for view in views:
            view.close_galleries()
