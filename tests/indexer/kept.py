"""Keeps a gallery up to date and is killed at a step of it.

``python -m tests.indexer.kept WHAT FOLDER...``: each folder is opened as it was left; in the first
the process is killed before its first call that changes something on the disk, in the second
before its second, and so on. One line is printed for each: ``killed`` or ``done``. WHAT is
``plain``, or ``rotated``: then the segments are encrypted, and brought under another key.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from sqlalchemy import event

from indexer.catalog import Catalog, open_catalog
from indexer.catalog.engine import sqlite_url
from indexer.catalog.sealed import bind_rows
from indexer.galleries.local import LocalGallery
from indexer.galleries.merging import Sizes
from indexer.galleries.opening import scanner
from indexer.sealing.keyring import Keyring
from tests.indexer.small import CONTRACT, DIMENSION
from tests.indexer.vectors.killed import die_before
from tests.indexer.vectors.segments import keyring

ROTATED = keyring(2, [1, 2])
SIZES = Sizes(seal=4, merge=3, largest=60, block=16)


def gallery_in(folder: Path, keys: Keyring | None = None) -> LocalGallery:
    """The ads gallery of a data folder, which writes files after every few faces."""
    catalog = open_catalog(sqlite_url(folder / "catalog.sqlite3"))
    use_keys(catalog, keys)
    scan = scanner("local", 1)
    return LocalGallery(catalog, "ads", CONTRACT, DIMENSION, folder / "index", scan, sizes=SIZES)


def use_keys(catalog: Catalog, keys: Keyring | None) -> None:
    """Have what this catalog and its galleries write encrypted with ``keys`` from now on."""
    if not event.contains(catalog.engine, "before_execute", bind_rows):
        event.listen(catalog.engine, "before_execute", bind_rows, retval=True)
    catalog.engine.clear_compiled_cache()  # a statement reads sealed columns in another way
    vars(catalog.engine.dialect)["homeward_keyring"] = keys


def copy_of(data: Path, folder: Path) -> None:
    """A copy of a data folder whose index is not taken for another one, which would only be made
    anew: it names the file that says whose it is."""
    shutil.copytree(data, folder)
    store = folder / "index" / "store"
    named, _ = store.read_text(encoding="ascii").split()
    store.write_text(f"{named} {store.stat().st_ino}", encoding="ascii")


def main(what: str, folders: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as name:
        # What the first gallery of a process has to load, its children have then.
        copy_of(folders[0], Path(name, "warm"))
        gallery_in(Path(name, "warm"), ROTATED).close()
    for step, folder in enumerate(folders):
        child = os.fork()
        if child == 0:
            die_before(step)
            gallery = gallery_in(folder, ROTATED if what == "rotated" else None)
            gallery.scrub()
            gallery.keep()
            gallery.reseal()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            print("killed")
        elif status == 0:
            print("done")
        else:
            sys.exit(f"step {step}: status {status}")


if __name__ == "__main__":
    main(sys.argv[1], [Path(folder) for folder in sys.argv[2:]])
