"""Fetching a package with insightface's own downloader; nothing else here opens an address."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from models.errors import PackDownloadFailed
from models.packs.known import KNOWN


def download(name: str, folder: Path) -> Path:
    """Fetch the archive of a known InsightFace package into ``folder``; the file.

    Raises :class:`PackDownloadFailed` where the pack has no such archive, where there is no
    network, or where the address does not answer with a file.
    """
    known = KNOWN.get(name)
    if known is None or not known.download:
        raise PackDownloadFailed(
            f"The face pack {name} cannot be fetched by Homeward.",
            remedy=(
                f"Fetch {known.fetch} into one folder, then: `homeward packs install {name} "
                "--from FOLDER`."
                if known is not None
                else "Name the folder or zip archive that holds its files with --from PATH."
            ),
        )
    # Here, not above: it brings all of insightface.
    from insightface.utils.download import download_file
    from insightface.utils.storage import model_zoo_download_url

    archive = folder / f"{name}.zip"
    try:
        # It prints what it does; standard output is for results.
        with contextlib.redirect_stdout(sys.stderr):
            download_file(model_zoo_download_url(archive.name), path=str(archive), overwrite=True)
    except (OSError, RuntimeError) as error:  # every error of its HTTP library is an OSError
        raise PackDownloadFailed(
            f"{archive.name} could not be fetched: {_short(error)}.",
            remedy=f"Fetch {known.fetch} on a machine with a network, bring the file here, then: "
            f"`homeward packs install {name} --from {archive.name}`.",
        ) from error
    return archive


def _short(error: Exception) -> str:
    return f"{type(error).__name__}, {error}"[:300].rstrip(".")
