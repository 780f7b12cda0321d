"""The errors of the models; the root of the project's one error tree."""

from __future__ import annotations

from typing import Literal


class HomewardError(Exception):
    """Root of every error that Homeward raises on purpose.

    ``code`` is stable snake_case for programs, ``detail`` says what happened,
    ``remedy`` what the reader can do about it.
    """

    code: str = "internal_error"

    def __init__(self, detail: str, *, remedy: str = "", code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}".strip()


ImageCode = Literal[
    "image_empty",
    "image_too_large",
    "too_many_pixels",
    "image_dimensions",
    "unsupported_format",
    "image_corrupt",
    "image_truncated",
]


class ImageRejected(HomewardError):
    """The bytes are no image that can be used; ``code`` says why."""

    def __init__(self, code: ImageCode, detail: str, *, remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy, code=code)


class PackError(HomewardError):
    """A face pack cannot be used."""

    code = "pack_unusable"


class PackMissing(PackError):
    """The files of a face pack are not there."""

    code = "pack_missing"


class PackDigestMismatch(PackError):
    """A file of a face pack is not the file that the pack names."""

    code = "pack_digest_mismatch"


class PackSourceInvalid(PackError):
    """What a pack was to be installed from is no package, or not a safe one."""

    code = "pack_source_invalid"


class PackDownloadFailed(PackError):
    """A package could not be fetched."""

    code = "pack_download_failed"


class PackDiffers(PackError):
    """Other files are installed under this name."""

    code = "pack_differs"


class PackInUse(PackError):
    """A pack cannot be removed while something works with it."""

    code = "pack_in_use"


class LicenceNotAccepted(PackError):
    """Nobody accepted the terms of a pack, so that it was not installed."""

    code = "licence_not_accepted"


class LicenceInvalid(PackError):
    """A signed model licence does not hold: its signature, its model or its time."""

    code = "licence_invalid"


class ProviderUnavailable(HomewardError):
    """The asked-for accelerator is not there; nothing falls back in silence."""

    code = "provider_unavailable"


class InferenceFailed(ProviderUnavailable):
    """A model could not be run on an accelerator that had started, or is being closed."""

    code = "inference_failed"


class GpuLost(InferenceFailed):
    """The GPU does not answer this process any more; only a new process can use it again.

    No fault of the picture that was in it: what was being done has to be done again.
    """

    code = "gpu_lost"


class ContractMismatch(HomewardError):
    """Two vectors of different embedding contracts met; they cannot be compared."""

    code = "contract_mismatch"
