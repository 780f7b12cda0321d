"""The packs that Homeward knows by name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from models.errors import PackMissing
from models.packs.base import FacePack, PackInfo
from models.packs.dlib.pack import INFO as DLIB_INFO
from models.packs.dlib.pack import load as load_dlib
from models.runtime import ON_CPU, RuntimeOptions

DEFAULT_PACK: Final = "dlib"


def list_packs() -> list[PackInfo]:
    """Every pack that can be loaded, the default first."""
    return [DLIB_INFO]


def load_pack(
    name: str = DEFAULT_PACK, *, packs_dir: Path, runtime: RuntimeOptions = ON_CPU
) -> FacePack:
    """Load a pack from its folder under ``packs_dir``; the default is built there the first time.

    Raises:
        PackMissing: there is no such pack, or its files are not installed.
        PackDigestMismatch: a file is not the one that the pack names.
        ProviderUnavailable: the asked-for accelerator is not there.
    """
    known = [info.name for info in list_packs()]
    if name not in known:
        raise PackMissing(
            f"There is no face pack named {name!r}.", remedy=f"Known packs: {', '.join(known)}."
        )
    return load_dlib(packs_dir / name, runtime)
