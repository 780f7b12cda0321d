"""The packs that Homeward knows by name, those that are installed, and how each is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from models.packs import store
from models.packs.base import FacePack, PackInfo
from models.packs.dlib.pack import load as load_dlib
from models.packs.kinds import info_of
from models.packs.known import DLIB, KNOWN
from models.packs.licences import Rights
from models.packs.record import InstallRecord, read_record
from models.runtime import ON_CPU, RuntimeOptions

DEFAULT_PACK: Final = DLIB


def list_packs(packs_dir: Path | None = None) -> list[PackInfo]:
    """Every pack that is known, the default first; then those installed under other names.

    Raises :class:`PackError` where the record of an installed pack cannot be read.
    """
    names = list(KNOWN)
    if packs_dir is not None:
        names += [name for name in store.installed(packs_dir) if name not in KNOWN]
    return [find_pack(name, packs_dir) for name in names]


def find_pack(name: str, packs_dir: Path | None = None) -> PackInfo:
    """What a person must know about a pack: as installed under ``packs_dir``, else as published.

    Raises:
        PackMissing: it is neither known by name nor installed.
        PackError: its record cannot be read.
    """
    record = record_of(name, packs_dir) if packs_dir is not None else None
    if record is not None:
        return info_of(record)
    if name not in KNOWN:
        raise store.not_installed(name)
    return KNOWN[name].info


def record_of(name: str, packs_dir: Path) -> InstallRecord | None:
    """What was written down when the pack was installed; ``None`` for the default and others.

    Raises :class:`PackError` where it cannot be read.
    """
    store.check_name(name)
    return None if name == DLIB else read_record(packs_dir / name)


def rights_of(name: str, packs_dir: Path, *, public_keys: Iterable[Any] | None = None) -> Rights:
    """What may be said about the right to use a pack; a signed licence is judged now.

    ``public_keys``: see ``licences.inspect_licence``. Raises what :func:`find_pack` raises.
    """
    record = record_of(name, packs_dir)
    if record is not None:
        licence = store.current_licence(packs_dir, record, public_keys=public_keys)
        return record.rights(licence)
    find_pack(name, packs_dir)
    terms = KNOWN[name].terms
    return Rights(name, terms.key if terms else None)


def load_pack(
    name: str = DEFAULT_PACK, *, packs_dir: Path, runtime: RuntimeOptions = ON_CPU
) -> FacePack:
    """Load a pack from its folder under ``packs_dir``; the default is built there the first time.

    Raises:
        PackMissing: there is no such pack, or its files are not installed.
        PackDigestMismatch: a file is not the one that was pinned, or that the pack names.
        PackError: its files cannot be used.
        ProviderUnavailable: the asked-for accelerator is not there.
    """
    if name == DLIB:
        return load_dlib(packs_dir / name, runtime)
    return store.load(name, packs_dir, runtime=runtime)
