"""Face packs of an installation: what is in use, with which rights. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable

from models.errors import PackError
from models.packs.known import DLIB
from models.packs.licences import Rights
from models.packs.registry import find_pack, record_of, rights_of
from service.config import Settings


def why_in_use(settings: Settings, name: str) -> str | None:
    """Why a pack may not be removed, in words; ``None``: nothing works with it.

    The one place for this question: generations of a gallery that hold vectors of a pack belong
    here too.
    """
    if name == settings.pack:
        return "the settings name it (HOMEWARD_PACK)"
    return None


def is_installed(settings: Settings, name: str) -> bool:
    """Whether the files of a pack are there. Raises :class:`PackError` for a damaged record."""
    if name == DLIB:
        folder = settings.packs_dir / name
        return folder.is_dir() and any(folder.iterdir())
    return record_of(name, settings.packs_dir) is not None


def is_calibrated(settings: Settings, name: str) -> bool:
    """Whether it was measured how often strangers reach a score with this pack."""
    record = record_of(name, settings.packs_dir)
    if record is None:
        return name == DLIB
    return (settings.data_dir / "calibrations" / f"{record.contract_id}.json").is_file()


def rights_in_use(settings: Settings) -> Rights | None:
    """The rights to the pack that the settings name; ``None`` where nothing can be said."""
    try:
        find_pack(settings.pack, settings.packs_dir)
        return rights_of(settings.pack, settings.packs_dir)
    except PackError:
        return None


def page_warning(settings: Settings) -> Callable[[], str | None]:
    """A function that gives what every page has to say, now, about the pack in use.

    It names nobody, since the sign-in page is open to everyone. The signed licence is read once;
    only the time is looked at again.
    """
    rights = rights_in_use(settings)
    return lambda: rights.warning(named=False) if rights is not None else None
