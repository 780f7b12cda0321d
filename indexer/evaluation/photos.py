"""A folder of labelled photos, and its faces: reading, decoding and analysing at full speed."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from indexer.evaluation.cache import FaceCache
from indexer.evaluation.protocol import IntArray, Sample
from models.decode import DecodeLimits, decode
from models.errors import HomewardError, ImageRejected
from models.types import Face, RgbImage

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``, from the calling thread."""

PHOTO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "heic", "heif"),
        *("gif", "bmp", "tif", "tiff"),
    )
)

_BATCH_PHOTOS = 16
_BATCH_PIXELS = 24_000_000
_DECODE_THREADS = 2


class FaceAnalyser(Protocol):
    """What the evaluation needs of ``models.pipeline.Analyser``."""

    @property
    def contract_id(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def analyse(self, images: Sequence[RgbImage]) -> list[list[Face]]: ...


class EvaluationImpossible(HomewardError):
    """The folder does not hold what the protocol needs."""

    code = "evaluation_impossible"


@dataclass(frozen=True, slots=True)
class Photo:
    """One file: ``name`` is "identity/file" for people, ``identity`` ascends with the name."""

    path: Path
    name: str
    identity: int


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Photos sorted by identity name, then file name; ``ignored`` are names of other files."""

    photos: tuple[Photo, ...]
    identity_names: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def identities(self) -> IntArray:
        return np.array([photo.identity for photo in self.photos], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A photo that could not be decoded, with the code and the reason."""

    name: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFaces:
    """One face, or none, per photo of ``photos``, in the same order."""

    photos: PhotoSet
    faces: tuple[Face | None, ...]
    unreadable: tuple[Unreadable, ...]
    contract_id: str
    dimension: int

    @property
    def sample(self) -> Sample:
        vectors = np.zeros((len(self.faces), self.dimension), dtype=np.float32)
        for row, face in enumerate(self.faces):
            if face is not None:
                vectors[row] = face.embedding.vector
        found = np.array([face is not None for face in self.faces], dtype=np.bool_)
        quality = [math.nan if face is None else face.quality.score for face in self.faces]
        return Sample(vectors, found, self.photos.identities, np.array(quality, np.float64))


def find_photos(directory: Path) -> PhotoSet:
    """List a folder that holds one folder per identity.

    Files with the name of an image format count as photos, whatever their content turns out to
    be; other files, hidden ones excepted, are returned as ignored.

    Raises ``EvaluationImpossible`` where the folder is missing, cannot be read or holds no photo.
    """
    if not directory.is_dir():
        raise EvaluationImpossible(
            f"{directory} is not a folder.",
            remedy="Name a folder that holds one folder of photos per person.",
        )
    photos: list[Photo] = []
    names: list[str] = []
    ignored: list[str] = []
    try:
        for entry in sorted(directory.iterdir(), key=lambda path: path.name):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                ignored.append(entry.name)
                continue
            before = len(photos)
            for path in sorted(entry.iterdir(), key=lambda path: path.name):
                if path.name.startswith("."):
                    continue
                name = f"{entry.name}/{path.name}"
                if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file():
                    photos.append(Photo(path, name, len(names)))
                else:
                    ignored.append(name)
            if len(photos) > before:
                names.append(entry.name)
    except PermissionError as error:
        raise EvaluationImpossible(
            f"{error.filename} cannot be read: permission denied.",
            remedy="Give the account that runs this command the right to read it.",
        ) from error
    if not photos:
        raise EvaluationImpossible(
            f"{directory} holds no photos in folders of their own.",
            remedy="Put the photos of each person into one folder below it.",
        )
    return PhotoSet(tuple(photos), tuple(names), tuple(ignored))


def centre_face(faces: Sequence[Face], width: int, height: int) -> Face | None:
    """The face whose box centre is nearest the centre of the picture; the larger one on a tie."""
    if not faces:
        return None

    def distance(face: Face) -> tuple[float, float]:
        x, y = face.box.centre
        return ((x - width / 2) ** 2 + (y - height / 2) ** 2, -face.box.area)

    return min(faces, key=distance)


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """One photo read from disk: its pixels, what a cache knew of it, or why neither is there.

    ``row`` is its place in the sequence that was asked for; ``digest`` the SHA-256 of its bytes.
    """

    row: int
    digest: str
    pixels: RgbImage | None
    known: tuple[Face | None] | None
    problem: Unreadable | None


def _load(row: int, photo: Photo, limits: DecodeLimits, cache: FaceCache | None) -> Loaded:
    try:
        with photo.path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
        digest = hashlib.sha256(data).hexdigest()
        if cache is not None and (known := cache.get(digest)) is not None:
            return Loaded(row, digest, None, known, None)
        return Loaded(row, digest, decode(data, limits).pixels, None, None)
    except ImageRejected as error:
        problem = Unreadable(photo.name, error.code, error.detail)
    except OSError as error:
        problem = Unreadable(photo.name, "file_unreadable", error.strerror or str(error))
    return Loaded(row, "", None, None, problem)


def load_batches(
    photos: Sequence[Photo], limits: DecodeLimits, cache: FaceCache | None = None
) -> Iterator[list[Loaded]]:
    """Photos in order, in batches of at most 16 photos and about 24 megapixels.

    Decoding runs in two threads ahead of the caller, never more than two batches, so memory
    stays bounded.
    """
    with ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix="evaluate-decode") as pool:
        batch: list[Loaded] = []
        pixels = 0
        for item in _ahead(pool, photos, limits, cache):
            batch.append(item)
            if item.pixels is not None:
                pixels += item.pixels.shape[0] * item.pixels.shape[1]
            if len(batch) >= _BATCH_PHOTOS or pixels >= _BATCH_PIXELS:
                yield batch
                batch, pixels = [], 0
        if batch:
            yield batch


def _ahead(
    pool: ThreadPoolExecutor, photos: Sequence[Photo], limits: DecodeLimits, cache: FaceCache | None
) -> Iterator[Loaded]:
    waiting: deque[Future[Loaded]] = deque()
    try:
        for row, photo in enumerate(photos):
            waiting.append(pool.submit(_load, row, photo, limits, cache))
            # A few ahead keep the threads busy; every one of them is a decoded picture in memory.
            if len(waiting) > 2 * _DECODE_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def analyse_photos(
    analyser: FaceAnalyser,
    photos: PhotoSet,
    *,
    limits: DecodeLimits | None = None,
    cache: FaceCache | None = None,
    progress: Progress | None = None,
) -> LabelledFaces:
    """Decode and analyse every photo; of several faces the one nearest the centre is taken.

    A photo that cannot be decoded has no face and is listed with its reason.
    """
    faces: list[Face | None] = [None] * len(photos.photos)
    unreadable: list[Unreadable] = []
    done = 0
    for batch in load_batches(photos.photos, limits or DecodeLimits(), cache):
        fresh = [(item, item.pixels) for item in batch if item.pixels is not None]
        found = analyser.analyse([pixels for _, pixels in fresh]) if fresh else []
        for (item, pixels), candidates in zip(fresh, found, strict=True):
            face = centre_face(candidates, pixels.shape[1], pixels.shape[0])
            faces[item.row] = face
            if cache is not None:
                cache.put(item.digest, face)
        for item in batch:
            if item.problem is not None:
                unreadable.append(item.problem)
            elif item.known is not None:
                faces[item.row] = item.known[0]
        done += len(batch)
        if progress is not None:
            progress("photos", done, len(faces))
    return LabelledFaces(
        photos, tuple(faces), tuple(unreadable), analyser.contract_id, analyser.dimension
    )
