"""Face packs of an installation: what is in use, with which rights. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from indexer.calibrations import newest_ids
from indexer.generations.rows import Generation, all_generations
from models.errors import HomewardError, PackError
from models.packs.known import DLIB
from models.packs.licences import Rights
from models.packs.record import RECORD
from models.packs.registry import record_of, rights_of
from service.config import Settings
from service.opening import NoDataFolder, open_catalog_only, pack_in_use


def name_in_use(settings: Settings) -> str:
    """The pack of the generation in use; the one of the settings where the catalog cannot say."""
    try:
        return pack_in_use(settings)
    except HomewardError:
        return settings.pack


def why_in_use(settings: Settings, name: str) -> str | None:
    """Why a pack may not be removed, in words; ``None``: nothing works with it.

    The one place for this question. Raises the StorageError tree: where the catalog cannot be
    asked, nothing may be removed.
    """
    generations = _generations(settings)
    if (held := _held(generations, name)) is not None:
        return held
    if name == settings.pack and (not generations or "pack" in settings.model_fields_set):
        return "the settings name it (HOMEWARD_PACK)"
    return None


def held_by(settings: Settings, name: str) -> str | None:
    """Which generation holds vectors of a pack, in words, so that its files may not change.

    Raises the StorageError tree.
    """
    return _held(_generations(settings), name)


def _held(generations: Sequence[Generation], name: str) -> str | None:
    for one in generations:
        if one.pack == name:
            return f"the generation {one.contract_id} ({one.state}) holds vectors that it made"
    return None


def _generations(settings: Settings) -> list[Generation]:
    try:
        with closing(open_catalog_only(settings)) as catalog, catalog.read() as session:
            return all_generations(session)
    except NoDataFolder:
        return []


def is_installed(settings: Settings, name: str) -> bool:
    """Whether the files of a pack are there. Raises :class:`PackError` for a damaged record."""
    if name == DLIB:
        folder = settings.packs_dir / name
        return folder.is_dir() and any(folder.iterdir())
    return record_of(name, settings.packs_dir) is not None


def measured_here(settings: Settings) -> set[str] | None:
    """The contracts with a calibration in the catalog; ``None`` where the catalog cannot say."""
    try:
        with closing(open_catalog_only(settings)) as catalog, catalog.read() as session:
            return set(newest_ids(session))
    except NoDataFolder:
        return set()
    except HomewardError:
        return None


def is_calibrated(settings: Settings, name: str, measured: set[str] | None) -> bool | None:
    """Whether it was measured how often strangers reach a score with this pack; ``None`` where
    nobody knows. ``measured``: what :func:`measured_here` gives.

    The default pack brings its calibration; for others it is the contract that they had when they
    were installed.
    """
    record = record_of(name, settings.packs_dir)
    if record is None:
        return name == DLIB
    return None if measured is None else record.contract_id in measured


def rights_to(settings: Settings, name: str) -> Rights:
    """The rights to a pack; where they cannot be read, they say so."""
    try:
        return rights_of(name, settings.packs_dir)
    except PackError as error:
        return Rights(name, unreadable=error.detail)


def page_warning(settings: Settings) -> Callable[[str], str | None]:
    """A function that gives what every page has to say, now, while the pack it is given is in use.

    It names nobody, since the sign-in page is open to everyone. The rights are read anew when the
    record of the pack was replaced, as by a licence that is renewed, and never kept where they
    could not be read.
    """
    read: dict[str, tuple[tuple[int, ...], Rights]] = {}

    def warning(name: str) -> str | None:
        name = name or settings.pack
        state = _state(settings, name)
        known = read.get(name)
        if known is None or known[0] != state or known[1].unreadable is not None:
            known = read[name] = state, rights_to(settings, name)
        return known[1].warning(named=False)

    return warning


def _state(settings: Settings, name: str) -> tuple[int, ...]:
    """What changes when the record of a pack is replaced; empty where there is none."""
    try:
        found = (settings.packs_dir / name / RECORD).stat()
    except (OSError, ValueError):
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
