"""How each kind of pack reads a folder of model files, and loads it.

The rooms of the kinds are opened only when a pack of the kind is met: what one of them needs
(insightface is large) is no burden to the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from models.errors import PackError
from models.packs.base import FacePack, PackInfo
from models.packs.known import KNOWN, YUNET_SFACE, Kind
from models.packs.licences import LICENCE_FILE, licence_place
from models.packs.record import MANIFEST, InstallRecord, models_among, sha256_of
from models.runtime import RuntimeOptions


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder holds, as its kind of pack reads it; ``files`` are those to be kept."""

    kind: Kind
    format: str
    model_id: str
    dimension: int
    files: dict[str, str]

    @property
    def models(self) -> dict[str, str]:
        """The files that the models are made of, weights beside them included."""
        return models_among(self.files)


def read_contents(name: str, folder: Path) -> Contents:
    """Read and check a folder as the pack ``name`` would; nothing in it is run.

    Raises the :class:`PackError` tree where it is no package, or not a sound one.
    """
    if name == YUNET_SFACE:
        from models.packs.yunet_sface.pack import DIMENSION, find_files

        files = {path.name: sha256_of(path) for path in find_files(folder)}
        return Contents("opencv", "onnx", name, DIMENSION, files)
    # Here, not above: it brings insightface, which packs of other kinds do without.
    from models.packs.insightface.package import read_package

    package = read_package(folder)
    files = dict(package.digests)
    if models_among(files) != files:
        raise PackError(
            f"A model keeps weights in a file named {MANIFEST} or {LICENCE_FILE}.",
            remedy="Use a package as it was published.",
        )
    place = licence_place(folder, name, form=package.format)
    # Where insightface cannot tell the place, any licence is kept, to be refused with the reason.
    licences = [f"*/{LICENCE_FILE}", LICENCE_FILE] if place is None else [place]
    for path in (
        path for pattern in (MANIFEST, *licences) for path in sorted(folder.glob(pattern))
    ):
        if path.is_file() and not path.is_symlink():
            files[path.relative_to(folder).as_posix()] = sha256_of(path)
    return Contents("insightface", package.format, package.model_id, package.dimension, files)


def info_of(record: InstallRecord) -> PackInfo:
    """What a person must know about an installed pack; licence and origin follow its bytes."""
    known = KNOWN.get(record.name)
    terms = record.bound_by
    if known is not None and terms in (None, known.terms):
        return replace(known.info, dimension=record.dimension, digests=dict(record.files))
    return PackInfo(
        name=record.name,
        title=f"{record.model_id} ({'OpenCV Zoo' if record.kind == 'opencv' else 'InsightFace'} "
        "format)",
        licence=terms.title if terms else "free by the SHA-256 of its files",
        licence_url=terms.url if terms else "",
        provenance=f"Given by the operator as a {record.source}.",
        dimension=record.dimension,
        free_for_police_use=terms is None,
        digests=dict(record.files),
    )


def load_files(folder: Path, record: InstallRecord, runtime: RuntimeOptions) -> FacePack:
    """Load a pack from files that were checked against its record.

    Raises the :class:`PackError` tree and :class:`ProviderUnavailable`.
    """
    info = info_of(record)
    if record.kind == "opencv":
        from models.packs.yunet_sface.pack import load as load_opencv

        return load_opencv(folder, info=info, runtime=runtime)
    from models.packs.insightface.pack import load as load_insightface

    return load_insightface(folder, info=info, runtime=runtime)
