"""The packs that are known by name, and model files that are known by their SHA-256.

Names, contents and terms of the InsightFace packages are those of its documentation ("Model Zoo
and model usage") and of insightface 2.1 (``gui/core/model_downloads.py``); those of YuNet and
SFace are those of OpenCV Zoo. Weights are never shipped with Homeward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from models.packs.base import PackInfo
from models.packs.dlib.pack import INFO as DLIB_INFO
from models.packs.licences import (
    AURAFACE,
    OTHER_MODEL,
    OWN_RESPONSIBILITY,
    RESEARCH_ONLY,
    ModelLicence,
    Terms,
)

Kind = Literal["dlib", "insightface", "opencv"]

DLIB: Final = "dlib"
YUNET_SFACE: Final = "yunet-sface"

_ZOO: Final = "https://github.com/deepinsight/insightface/releases/download/model-zoo/"
_ARCFACE: Final = 512


@dataclass(frozen=True, slots=True)
class KnownPack:
    """A pack that is known by name.

    ``terms``: what has to be accepted before it is installed (``None``: nothing). ``fetch``: what
    to fetch where for an installation by hand. ``download``: insightface's own downloader may
    fetch it.
    """

    info: PackInfo
    kind: Kind
    terms: Terms | None = None
    fetch: str = ""
    download: bool = False


def _insightface(name: str, detector: str, recogniser: str, trained_on: str) -> KnownPack:
    return KnownPack(
        PackInfo(
            name=name,
            title=f"InsightFace {name}: {detector} with {recogniser}",
            licence="InsightFace models: non-commercial research only",
            licence_url=RESEARCH_ONLY.url,
            provenance=f"Published by InsightFace. {trained_on}",
            dimension=_ARCFACE,
            free_for_police_use=False,
        ),
        "insightface",
        RESEARCH_ONLY,
        fetch=f"{_ZOO}{name}.zip",
        download=True,
    )


_WEBFACE: Final = "The recogniser was trained on WebFace600K."
_R50: Final = "ArcFace ResNet-50 (512-d)"
_MOBILE: Final = "ArcFace MobileFaceNet (512-d)"
_RACCOON: Final = (
    "By InsightFace's documentation the recogniser is that of the buffalo package of the same size."
)

KNOWN: Final[Mapping[str, KnownPack]] = {
    pack.info.name: pack
    for pack in (
        KnownPack(DLIB_INFO, "dlib"),
        _insightface("buffalo_l", "SCRFD-10GF", _R50, _WEBFACE),
        _insightface("buffalo_m", "SCRFD-2.5GF", _R50, _WEBFACE),
        _insightface("buffalo_s", "SCRFD-500MF", _MOBILE, _WEBFACE),
        _insightface("buffalo_sc", "SCRFD-500MF", _MOBILE, _WEBFACE),
        _insightface(
            "antelopev2",
            "SCRFD-10GF",
            "ArcFace ResNet-100 (512-d)",
            "The recogniser was trained on Glint360K.",
        ),
        _insightface("raccoon_s", "a detector of its own", f"buffalo_s's {_MOBILE}", _RACCOON),
        _insightface("raccoon_l", "a detector of its own", f"buffalo_l's {_R50}", _RACCOON),
        KnownPack(
            PackInfo(
                name="auraface",
                title="AuraFace-v1: SCRFD-10GF with ArcFace ResNet-100 (512-d)",
                licence="Apache-2.0",
                licence_url=AURAFACE.url,
                provenance=(
                    "Published by fal. The recogniser was trained on data that its publisher "
                    "describes as commercially and publicly available, without naming it. The "
                    "detector has the same bytes as InsightFace's det_10g.onnx, which is for "
                    "non-commercial research only."
                ),
                dimension=_ARCFACE,
                free_for_police_use=False,
            ),
            "insightface",
            AURAFACE,
            fetch=(
                "glintr100.onnx and scrfd_10g_bnkps.onnx from https://huggingface.co/fal/AuraFace-v1"
            ),
        ),
        KnownPack(
            PackInfo(
                name=YUNET_SFACE,
                title="OpenCV Zoo: YuNet detector with SFace recogniser (128-d)",
                licence="MIT (YuNet) and Apache-2.0 (SFace)",
                licence_url="https://github.com/opencv/opencv_zoo/tree/main/models",
                provenance=(
                    "Published in OpenCV Zoo: YuNet by Shiqi Yu, trained on WIDER FACE; SFace by "
                    "Yaoyao Zhong and Weihong Deng. Run by OpenCV's own classes."
                ),
                dimension=128,
                free_for_police_use=True,
            ),
            "opencv",
            fetch=(
                "face_detection_yunet_2023mar.onnx and face_recognition_sface_2021dec.onnx from "
                "https://github.com/opencv/opencv_zoo/tree/main/models"
            ),
        ),
    )
}
"""Every pack that is known by name, the default first."""

RESEARCH_FILES: Final[Mapping[str, str]] = {
    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91": "det_10g.onnx",
    "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a": "det_500m.onnx",
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43": "w600k_r50.onnx",
    "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f": "w600k_mbf.onnx",
    "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf": "glintr100.onnx",
}
"""SHA-256 of models that InsightFace publishes for research only, and its name for them.

Terms belong to bytes, not to names: the same file in a folder of another name is bound all the
same. Files of other packages are not listed here for want of a source that states their digest."""

PACKAGES_WITH: Final[Mapping[str, frozenset[str]]] = {
    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91": frozenset(
        {"buffalo_l", "antelopev2"}
    ),
    "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a": frozenset(
        {"buffalo_s", "buffalo_sc"}
    ),
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43": frozenset(
        {"buffalo_l", "buffalo_m", "raccoon_l"}
    ),
    "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f": frozenset(
        {"buffalo_s", "buffalo_sc", "raccoon_s"}
    ),
    "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf": frozenset({"antelopev2"}),
}
"""The packages that hold a file of ``RESEARCH_FILES``, by InsightFace's documentation: a licence
for another model does not speak of it."""

_AURAFACE_RECOGNISER: Final = "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60"
_DET_10G: Final = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"

FREE_FILES: Final[Mapping[str, str]] = {
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4": (
        "face_detection_yunet_2023mar.onnx"
    ),
    "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79": (
        "face_recognition_sface_2021dec.onnx"
    ),
    _AURAFACE_RECOGNISER: "glintr100.onnx of AuraFace-v1",
}
"""SHA-256 of models that are published under a licence that allows any use.

Those of YuNet and SFace are those in OpenCV Zoo's own pointers (Git LFS)."""


def terms_of(name: str, digests: Iterable[str]) -> Terms | None:
    """What binds the model files with these SHA-256 under this name; ``None``: they are free.

    The bytes decide first. Files that are not known keep the terms of the pack that they were
    given out as where those are strict; nothing is free for its name alone.
    """
    found = set(digests)
    research = found & RESEARCH_FILES.keys()
    if research == {_DET_10G} and _AURAFACE_RECOGNISER in found:
        return AURAFACE
    if research:
        return RESEARCH_ONLY
    if found and found <= FREE_FILES.keys():
        return None
    known = KNOWN.get(name)
    if known is not None and known.terms is RESEARCH_ONLY:
        return RESEARCH_ONLY
    return OWN_RESPONSIBILITY


def confined(licence: ModelLicence | None, digests: Iterable[str]) -> ModelLicence | None:
    """A signed licence as it holds for model files with these SHA-256.

    A file that is known is covered only by a licence for a package that has it: whoever writes the
    manifest beside the models could name any model in it.
    """
    if licence is None or licence.refused:
        return licence
    for digest in digests:
        packages = PACKAGES_WITH.get(digest)
        if packages is not None and licence.model_id not in packages:
            file, holders = RESEARCH_FILES[digest], ", ".join(sorted(packages))
            told = f"{file} belongs to {holders}, not to {licence.model_id}"
            return replace(licence, status=OTHER_MODEL, message=told)
    return licence
