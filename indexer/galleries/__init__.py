"""The two galleries: *cases* (faces of missing persons) and *ads* (faces in ads).

The catalog says which faces a gallery holds (``gallery_members``) and in which order that changed
(``gallery_log``). A :class:`Gallery` catches up from the log before it answers, so that an
addition or a deletion made by any process counts in all.
"""

from indexer.galleries.base import Gallery
from indexer.galleries.members import (
    add_faces,
    drop_idle_vectors,
    refresh_ad,
    refresh_faces,
    remove_faces,
)

__all__ = [
    "Gallery",
    "add_faces",
    "drop_idle_vectors",
    "refresh_ad",
    "refresh_faces",
    "remove_faces",
]
