"""Face packs of an installation: what is in use, with which rights. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from indexer.calibrations import path_of
from indexer.generations.rows import Generation, all_generations
from models.errors import HomewardError, PackError
from models.packs.known import DLIB
from models.packs.licences import Rights
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


def is_calibrated(settings: Settings, name: str) -> bool:
    """Whether it was measured how often strangers reach a score with this pack.

    The default pack brings its calibration; for others it is the contract that they had when they
    were installed.
    """
    record = record_of(name, settings.packs_dir)
    if record is None:
        return name == DLIB
    return path_of(settings.calibrations_dir, record.contract_id).is_file()


def rights_to(settings: Settings, name: str) -> Rights | None:
    """The rights to a pack; ``None`` where nothing can be said, since it is not there."""
    try:
        return rights_of(name, settings.packs_dir)
    except PackError:
        return None


def page_warning(settings: Settings) -> Callable[[str], str | None]:
    """A function that gives what every page has to say, now, while the pack it is given is in use.

    It names nobody, since the sign-in page is open to everyone. The signed licence of a pack is
    read once; only the time is looked at again.
    """
    read: dict[str, Rights | None] = {}

    def warning(name: str) -> str | None:
        name = name or settings.pack
        if name not in read:
            read[name] = rights_to(settings, name)
        rights = read[name]
        return rights.warning(named=False) if rights is not None else None

    return warning
