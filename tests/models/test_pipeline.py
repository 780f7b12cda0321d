"""Pictures in, faces out: order, turns, edges, batches and threads, on real faces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from models.find import SearchOptions
from models.pipeline import Analyser, AnalysisOptions
from models.types import Face, RgbImage


def only(faces: list[Face]) -> Face:
    assert len(faces) == 1
    return faces[0]


def cosine(one: Face, other: Face) -> float:
    return float(one.embedding.vector @ other.embedding.vector)


@pytest.fixture(scope="module")
def portrait(analyser: Analyser, astronaut: RgbImage) -> Face:
    return only(analyser.analyse([astronaut])[0])


@pytest.fixture(scope="module")
def group(analyser: Analyser, group_photo: RgbImage) -> list[Face]:
    return analyser.analyse([group_photo])[0]


def test_faces_are_complete(portrait: Face, analyser: Analyser) -> None:
    vector = portrait.embedding.vector
    assert vector.shape == (128,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert portrait.embedding.contract_id == analyser.contract_id
    assert portrait.turn == 0
    assert 0 <= portrait.quality.score <= 1
    assert portrait.box.x < portrait.landmarks.points[:, 0].mean() < portrait.box.right
    assert portrait.box.y < portrait.landmarks.points[:, 1].mean() < portrait.box.bottom


def test_faces_are_in_order_of_area_then_from_the_left(group: list[Face]) -> None:
    assert len(group) == 6
    keys = [(-round(f.box.area), f.box.x) for f in group]
    assert keys == sorted(keys)


def test_different_people_are_apart(group: list[Face]) -> None:
    vectors = np.array([f.embedding.vector for f in group])
    others = (vectors @ vectors.T)[~np.eye(6, dtype=bool)]
    assert others.max() < 0.93


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_turned_photos(
    analyser: Analyser, group_photo: RgbImage, group: list[Face], turn: int
) -> None:
    """Every face of a photo turned without EXIF is found, righted, and compares as before."""
    turned = analyser.analyse([np.ascontiguousarray(np.rot90(group_photo, turn))])[0]
    assert len(turned) == 6
    assert {f.turn for f in turned} == {4 - turn}
    scores = np.array([[cosine(a, b) for b in turned] for a in group])
    assert (scores.max(axis=1) > 0.99).all()
    assert len(set(scores.argmax(axis=1))) == 6


@pytest.mark.parametrize("degrees", [-45, -30, -15, 15, 30, 45])
def test_tilted_photos(
    analyser: Analyser, astronaut: RgbImage, portrait: Face, degrees: int
) -> None:
    matrix = cv2.getRotationMatrix2D((256, 256), degrees, 1)
    tilted = np.asarray(cv2.warpAffine(astronaut, matrix, (512, 512)), np.uint8)
    faces = analyser.analyse([tilted])[0]
    assert max(cosine(f, portrait) for f in faces) > 0.99


@pytest.mark.parametrize("share", [1.1, 1.0, 0.9])
@pytest.mark.parametrize("enlarged", [1, 6])
def test_faces_that_fill_the_frame(
    analyser: Analyser, astronaut: RgbImage, portrait: Face, share: float, enlarged: int
) -> None:
    x, y = portrait.box.centre
    half = portrait.box.width * share / 2
    crop = astronaut[int(y - half) : int(y + half), int(x - half) : int(x + half)]
    large = cv2.resize(crop, None, fx=enlarged, fy=enlarged, interpolation=cv2.INTER_CUBIC)
    face = only(analyser.analyse([np.asarray(large, np.uint8)])[0])
    assert cosine(face, portrait) > 0.97


def test_faces_cut_by_the_edge(analyser: Analyser, astronaut: RgbImage, portrait: Face) -> None:
    left = int(portrait.box.x + 0.3 * portrait.box.width)
    face = only(analyser.analyse([np.ascontiguousarray(astronaut[:, left:])])[0])
    assert cosine(face, portrait) > 0.96
    completeness = next(c for c in face.quality.components if c.name == "completeness")
    assert completeness.value < 100


def test_small_faces(analyser: Analyser, group_photo: RgbImage) -> None:
    small = np.asarray(
        cv2.resize(group_photo, None, fx=0.35, fy=0.35, interpolation=cv2.INTER_AREA), np.uint8
    )
    faces = analyser.analyse([small])[0]
    assert len(faces) == 6
    assert max(f.box.width for f in faces) < 60


def test_no_face(analyser: Analyser) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    flat = np.full((200, 300, 3), 128, dtype=np.uint8)
    assert analyser.analyse([noise, flat]) == [[], []]
    assert analyser.analyse([]) == []


def test_odd_shapes(analyser: Analyser) -> None:
    """Slivers and single pixels are searched without a crash."""
    for shape in ((1, 1, 3), (8, 2000, 3), (2000, 8, 3), (31, 33, 3)):
        assert analyser.analyse([np.zeros(shape, dtype=np.uint8)]) == [[]]


def test_batches_change_nothing(
    analyser: Analyser,
    astronaut: RgbImage,
    group_photo: RgbImage,
    portrait: Face,
    group: list[Face],
) -> None:
    first, empty, second = analyser.analyse(
        [group_photo, np.zeros((64, 64, 3), dtype=np.uint8), astronaut]
    )
    assert empty == []
    assert [f.box for f in first] == [f.box for f in group]
    for one, other in zip([*first, *second], [*group, portrait], strict=True):
        assert np.abs(one.embedding.vector - other.embedding.vector).max() < 1e-5


def test_threads_share_one_analyser(
    analyser: Analyser, astronaut: RgbImage, portrait: Face
) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: analyser.analyse([astronaut]), range(8)))
    for faces in results:
        assert cosine(only(faces[0]), portrait) == pytest.approx(1.0, abs=1e-5)


def test_the_number_of_faces_is_bounded(analyser: Analyser, group_photo: RgbImage) -> None:
    bounded = Analyser(analyser.pack, AnalysisOptions(max_faces=2))
    assert len(bounded.analyse([group_photo])[0]) == 2


def test_without_turns_a_turned_photo_is_not_righted(
    analyser: Analyser, astronaut: RgbImage
) -> None:
    upright_only = Analyser(
        analyser.pack, AnalysisOptions(SearchOptions(upsample=1.0, turns=False))
    )
    upside_down = np.ascontiguousarray(np.rot90(astronaut, 2))
    assert all(f.turn == 0 for f in upright_only.analyse([upside_down])[0])


def test_crops_for_people(analyser: Analyser, astronaut: RgbImage, portrait: Face) -> None:
    crop = analyser.crop(astronaut, portrait.landmarks, 224)
    assert crop.shape == (224, 224, 3)
    turned = np.ascontiguousarray(np.rot90(astronaut))
    face = only(analyser.analyse([turned])[0])
    again = analyser.crop(turned, face.landmarks, 224)
    assert np.abs(again.astype(int) - crop.astype(int)).mean() < 12


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_small_faces_in_turned_photos(
    analyser: Analyser, astronaut: RgbImage, portrait: Face, turn: int
) -> None:
    """A face of about 60 pixels in a megapixel, lying on its side, is righted like a large one."""
    scale = 60 / portrait.box.width
    small = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((1000, 1000, 3), 128, dtype=np.uint8)
    canvas[300 : 300 + small.shape[0], 400 : 400 + small.shape[1]] = small
    face = only(analyser.analyse([np.ascontiguousarray(np.rot90(canvas, turn))])[0])
    assert face.turn == (4 - turn) % 4
    assert cosine(face, portrait) > 0.97


def test_faces_cheek_to_cheek_are_two(
    analyser: Analyser, astronaut: RgbImage, portrait: Face
) -> None:
    x, y, width = portrait.box.x, portrait.box.y, portrait.box.width
    head = astronaut[int(y - width / 2) : int(y + 1.8 * width), int(x) : int(x + 0.55 * width)]
    canvas = np.full((400, 500, 3), 128, dtype=np.uint8)
    for at in (150, 150 + head.shape[1]):
        canvas[60 : 60 + head.shape[0], at : at + head.shape[1]] = head
    detected = [d for d in analyser.pack.detect(canvas, 1.0, 0.0) if d.score > 0]
    assert len(analyser.analyse([canvas])[0]) >= len(detected)


def test_small_faces_in_large_photos(
    analyser: Analyser, astronaut: RgbImage, portrait: Face
) -> None:
    """A clear large face does not keep the search from the smaller ones of a large photo."""
    canvas = np.full((2400, 3200, 3), 128, dtype=np.uint8)
    for size, (top, left) in {600: (100, 100), 90: (1500, 2300)}.items():
        scale = size / portrait.box.width
        pasted = cv2.resize(
            astronaut[: int(512 * min(1.0, 3 / scale))],
            None,
            fx=scale,
            fy=scale,
            interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA,
        )[: 2400 - top, : 3200 - left]
        canvas[top : top + pasted.shape[0], left : left + pasted.shape[1]] = pasted
    faces = analyser.analyse([canvas])[0]
    widths = sorted(f.box.width for f in faces)
    assert len(faces) == 2
    assert widths[0] < 130 < 450 < widths[1]
