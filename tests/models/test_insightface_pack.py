"""InsightFace packs on our pipeline against insightface's own classes on the same models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import insightface
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from insightface.app import FaceAnalysis
from insightface.utils import face_align

from models import runtime
from models.batching import BatchOptions
from models.calibration import Calibration, Curve
from models.errors import InferenceFailed, PackDigestMismatch, PackError, ProviderUnavailable
from models.packs.base import PackInfo
from models.packs.insightface.detector import SIZES, input_sizes, tiles
from models.packs.insightface.embedder import aligned
from models.packs.insightface.onnx_file import ModelFile
from models.packs.insightface.pack import InsightFacePack, load
from models.pipeline import Analyser
from models.runtime import RuntimeOptions
from models.types import Detection, Face, FloatArray, Landmarks, RgbImage
from tests.models.insightface_models import (
    PLACES,
    Planted,
    make_detector,
    make_landmarks,
    make_recogniser,
    make_v1_folder,
    make_v2_folder,
    plant,
    scene,
)

INFO = PackInfo("made", "Made for tests", "CC0-1.0", "", "made by the tests", 0, True)
ONE = RuntimeOptions(threads=1)
CLOSE = 1e-5


def loaded(folder: Path) -> InsightFacePack:
    return load(folder, info=INFO, runtime=ONE)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> InsightFacePack:
    return loaded(make_v1_folder(tmp_path_factory.mktemp("v1")))


@pytest.fixture(scope="module")
def crowd() -> tuple[RgbImage, list[Planted]]:
    """Five people, 48 to 230 pixels wide."""
    image = scene(760, 1100)
    places = [(80, 60, 64), (330, 70, 110), (700, 80, 230), (90, 420, 150), (480, 480, 48)]
    return image, [plant(image, *where, person) for person, where in enumerate(places)]


@pytest.fixture(scope="module")
def group(group_photo: RgbImage) -> RgbImage:
    """insightface's group picture with planted faces beside its people."""
    image = group_photo.copy()
    for person, where in enumerate([(60, 60, 90), (560, 20, 130), (1040, 500, 70)]):
        plant(image, *where, person)
    return image


Found = TypeVar("Found", Detection, Face)


def nearest(found: Sequence[Found], planted: Planted) -> Found:
    x, y, width, height = planted.box
    middle = np.array([x + width / 2, y + height / 2])
    return min(found, key=lambda f: float(np.abs(np.array(f.box.centre) - middle).max()))


def off(found: Detection | Face, planted: Planted) -> float:
    """How far the worst landmark is from its place, as a share of the face."""
    assert found.landmarks is not None
    return float(np.abs(found.landmarks.points - planted.points).max()) / planted.box[2]


def insightface_alone(folder: Path) -> FaceAnalysis:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"], sess_options=options)


def theirs(folder: Path, image: RgbImage) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Boxes with scores (n, 5), key points (n, 5, 2) and vectors by insightface alone."""
    app = insightface_alone(folder)
    app.prepare(ctx_id=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        faces = app.get(np.ascontiguousarray(image[..., ::-1]))
    boxes = np.array([[*face.bbox, face.det_score] for face in faces], dtype=np.float32)
    points = np.array([face.kps for face in faces], dtype=np.float32)
    return boxes, points, np.array([face.embedding for face in faces], dtype=np.float32)


def ours(
    pack: InsightFacePack, image: RgbImage, finest: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    found = pack.detect(image, finest, 0.5)
    marks = pack.landmarks([image] * len(found), found)
    chips = [pack.align(image, mark, 1.0) for mark in marks]
    boxes = [(f.box.x, f.box.y, f.box.right, f.box.bottom, f.score) for f in found]
    points = [mark.points for mark in marks]
    return np.array(boxes, np.float32), np.array(points, np.float32), pack.embed(chips)


# --- the same answers ------------------------------------------------------------------------


KINDS: dict[str, dict[str, Any]] = {
    "9 outputs": {"outputs": 9},
    "15 outputs": {"outputs": 15},
    "rank 3": {"outputs": 9, "batched": True},
    "15 of rank 3": {"outputs": 15, "batched": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_points_and_vectors_are_insightfaces(
    tmp_path: Path, kind: str, crowd: tuple[RgbImage, list[Planted]], group: RgbImage
) -> None:
    folder = make_v1_folder(tmp_path, detector=make_detector(**KINDS[kind]))
    pack = loaded(folder)
    for image, count in ((crowd[0], 5), (group, 3)):
        # The scale at which our sizes come out as insightface's own, 128 and 640.
        finest = 640 / (max(image.shape) * 0.5)
        expected = theirs(folder, image)
        got = ours(pack, image, finest)
        assert len(expected[0]) == count
        for mine, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("raw_pixels", [False, True])
@pytest.mark.parametrize(("size", "dimension"), [(112, 512), (128, 256), (224, 128)])
def test_packages_with_a_manifest_are_insightfaces(
    tmp_path: Path,
    raw_pixels: bool,
    size: int,
    dimension: int,
    crowd: tuple[RgbImage, list[Planted]],
) -> None:
    folder = make_v2_folder(tmp_path, size=size, dimension=dimension, raw_pixels=raw_pixels)
    image, planted = crowd
    expected = theirs(folder, image)
    got = ours(loaded(folder), image, 640 / 550)
    assert got[2].shape == (len(planted), dimension)
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize(
    "options", [{"mxnet": True}, {"batch": 1}, {"one_inside": True}, {"batch": 4}]
)
def test_recognisers_of_every_kind_give_insightfaces_vectors(
    tmp_path: Path, options: dict[str, Any], crowd: tuple[RgbImage, list[Planted]]
) -> None:
    recogniser = make_recogniser(**options)
    folder = make_v1_folder(tmp_path, recogniser=recogniser)
    got = ours(loaded(folder), crowd[0], 640 / 550)[2]
    if options.get("batch") == 4:
        # insightface embeds one face at a time and so cannot run it: the same weights, any batch.
        folder = make_v1_folder(tmp_path / "any")
    expected = theirs(folder, crowd[0])[2]
    assert len(got) == 5
    np.testing.assert_allclose(got, expected, rtol=CLOSE, atol=CLOSE)


def test_many_crops_go_through_in_batches(pack: InsightFacePack) -> None:
    rng = np.random.default_rng(3)
    chips = list(rng.integers(0, 256, (75, 112, 112, 3), dtype=np.uint8))
    together = pack.embed(chips)
    alone = np.concatenate([pack.embed([chip]) for chip in chips])
    assert together.shape == (75, 512)
    np.testing.assert_allclose(together, alone, rtol=0, atol=CLOSE)
    assert pack.embed([]).shape == (0, 512)


@pytest.mark.parametrize("size", [112, 128, 224, 256])
def test_crops_are_insightfaces_to_the_bit(size: int, group_photo: RgbImage) -> None:
    rng = np.random.default_rng(size)
    bgr = np.ascontiguousarray(group_photo[..., ::-1])
    for _ in range(150):
        side = rng.uniform(20, 400)
        points = PLACES * side + rng.uniform(-60, 900, 2) + rng.normal(0, side / 15, (5, 2))
        landmarks = points.astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            expected = face_align.norm_crop(bgr, landmarks, size)
        crop = aligned(group_photo, Landmarks(landmarks, "insightface5"), size, 1.0)
        assert np.array_equal(crop[..., ::-1], expected)


def test_points_that_fall_into_one_give_a_black_crop(pack: InsightFacePack) -> None:
    one = Landmarks(np.full((5, 2), 40, np.float32), "insightface5")
    crop = pack.align(scene(90, 90), one, 1.0)
    assert crop.shape == (112, 112, 3) and not crop.any()


def test_a_wider_view_shows_more_around_the_face(pack: InsightFacePack) -> None:
    image = scene(300, 300)
    image[:] = (9, 9, 9)
    marks = Landmarks(plant(image, 100, 100, 100, 1).points.astype(np.float32), "insightface5")
    near, wide = (pack.align(image, marks, scale) for scale in (1.0, 1.5))
    assert not np.all(near[2, 2] == 9)
    assert np.all(wide[2, 2] == 9)


# --- planted faces on the whole pipeline -----------------------------------------------------


def test_planted_faces_are_found_with_their_landmarks(
    pack: InsightFacePack, crowd: tuple[RgbImage, list[Planted]]
) -> None:
    image, planted = crowd
    faces = Analyser(pack).analyse([image])[0]
    assert len(faces) == len(planted)
    for each in planted:
        face = nearest(faces, each)
        assert face.turn == 0
        assert off(face, each) < 0.05
        assert np.linalg.norm(face.embedding.vector) == pytest.approx(1)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_planted_faces_are_found_in_turned_pictures(
    pack: InsightFacePack, crowd: tuple[RgbImage, list[Planted]], turn: int
) -> None:
    upright, planted = crowd
    faces = Analyser(pack).analyse([upright])[0]
    # Turned clockwise, so that `turn` quarter turns counter-clockwise bring it back.
    turned = Analyser(pack).analyse([np.ascontiguousarray(np.rot90(upright, -turn))])[0]
    assert [face.turn for face in turned] == [turn] * len(planted)
    height, width = upright.shape[:2]
    for face in turned:
        x, y = face.landmarks.points.T
        points = {
            0: (x, y),
            1: (y, height - 1 - x),
            2: (width - 1 - x, height - 1 - y),
            3: (width - 1 - y, x),
        }[turn]
        back = replace(face, landmarks=Landmarks(np.stack(points, 1), "insightface5"))
        errors = [off(back, each) for each in planted]
        assert min(errors) < 0.05
        twin = faces[int(np.argmax([f.embedding.vector @ face.embedding.vector for f in faces]))]
        assert off(twin, planted[int(np.argmin(errors))]) < 0.05


def test_the_same_person_is_nearest_in_another_picture(pack: InsightFacePack) -> None:
    first, second = scene(400, 1000, 1), scene(600, 700, 2)
    here = [plant(first, 30 + 240 * person, 120, 120, person) for person in range(4)]
    corners = [(40, 40, 150), (450, 60, 90), (60, 350, 70), (450, 350, 180)]
    there = [plant(second, *where, person) for person, where in enumerate(corners)]
    analysed = Analyser(pack).analyse([first, second])
    assert [len(faces) for faces in analysed] == [4, 4]
    probes, gallery = (
        np.stack([nearest(faces, each).embedding.vector for each in planted])
        for faces, planted in zip(analysed, (here, there), strict=True)
    )
    assert (probes @ gallery.T).argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("fixed", [None, (640, 640), (640, 480)])
@pytest.mark.parametrize("width", [420, 800])
def test_faces_that_fill_the_frame_are_found(
    tmp_path: Path, fixed: tuple[int, int] | None, width: int
) -> None:
    folder = make_v1_folder(tmp_path, detector=make_detector(size=fixed))
    image = scene(int(width * 1.15), int(width * 1.1))
    planted = plant(image, width // 20, width // 20, width, 7)
    pack = loaded(folder)
    if fixed is None:
        # One look at 640 does not see it: it is larger than the detector's largest anchors.
        app = insightface_alone(folder)
        app.prepare(ctx_id=-1, det_size=(640, 640))
        assert app.get(np.ascontiguousarray(image[..., ::-1])) == []
    (found,) = pack.detect(image, 640 / max(image.shape) * 2, 0.5)
    assert off(found, planted) < 0.05
    (face,) = Analyser(pack).analyse([image])[0]
    assert off(face, planted) < 0.05


# As `models.find` looks at a picture of 1080 x 30000 for the second time.
FINE = (16_000_000 / (1080 * 30_000)) ** 0.5


@pytest.mark.parametrize("wide", [False, True])
def test_faces_of_every_size_are_found_once_in_a_very_long_picture(
    pack: InsightFacePack, wide: bool
) -> None:
    """One square of at most 2560 pixels would hold its short side in 92."""
    shape = (1080, 30_000) if wide else (30_000, 1080)
    image = np.full((*shape, 3), 120, dtype=np.uint8)
    planted: list[Planted] = []
    along = 200
    rng = np.random.default_rng(5)
    # Some of them lie across the edges of tiles, whichever those are.
    while along < 28_800:
        width = int(rng.choice([70, 110, 160, 260, 420, 640, 900]))
        across = int(rng.integers(20, 1060 - width))
        x, y = (along, across) if wide else (across, along)
        planted.append(plant(image, x, y, width, len(planted)))
        along += 2 * width + int(rng.integers(40, 240))
    plan = tiles(*shape, FINE)
    assert plan is not None and plan.starts[-1] + plan.length == 30_000
    edges = np.array([*plan.starts[1:], *(s + plan.length for s in plan.starts[:-1])])
    begins = np.array([p.box[0] if wide else p.box[1] for p in planted])
    ends = begins + [p.box[2] for p in planted]
    cut = ((begins[:, None] < edges) & (edges < ends[:, None])).any(axis=1)
    assert cut.sum() > 10
    found = pack.detect(image, FINE, 0.5)
    assert len(found) == len(planted)
    assert all(off(nearest(found, each), each) < 0.08 for each in planted)


def test_a_part_of_a_face_at_the_edge_of_a_tile_is_left_to_the_next_tile() -> None:
    """The small detector sees no half faces, real ones do; so the rule is tried on boxes."""
    plan = tiles(30_000, 1080, FINE)
    assert plan is not None
    low = np.array([-3.0, 2.0, 300.0, plan.length - 200.0, plan.length - 200.0])
    high = np.array([150.0, 150.0, 500.0, plan.length - 1.0, plan.length + 40.0])
    inside = [False, False, True, False, False]
    assert plan.holds(plan.starts[3], low, high).tolist() == inside
    assert plan.holds(0, low, high).tolist() == [True, True, True, False, False]
    assert plan.holds(plan.starts[-1], low, high).tolist() == [False, False, True, True, True]


def test_a_small_face_in_a_very_long_picture_is_found_and_embedded(pack: InsightFacePack) -> None:
    image = np.full((30_000, 1080, 3), 120, dtype=np.uint8)
    planted = plant(image, 300, 17_000, 120, 3)
    alone = np.full((600, 1080, 3), 120, dtype=np.uint8)
    plant(alone, 300, 200, 120, 3)
    (face,), (same,) = Analyser(pack).analyse([image, alone])
    assert off(face, planted) < 0.05
    assert float(face.embedding.vector @ same.embedding.vector) > 0.95


@given(
    short=st.integers(1, 4000),
    aspect=st.floats(1.0, 70.0),
    finest=st.floats(0.01, 4.0),
    flip=st.booleans(),
)
def test_tiles_cover_a_long_picture_and_hold_what_the_whole_does_not_show(
    short: int, aspect: float, finest: float, flip: bool
) -> None:
    long = int(short * aspect)
    plan = tiles(*((long, short) if flip else (short, long)), finest)
    if plan is None:
        enough = long * finest * 0.5 * 0.9 <= 2560
        assert enough or long <= short * 2.5
        return
    ends = [start + plan.length for start in plan.starts]
    assert plan.starts[0] == 0 and ends[-1] == long
    assert set(plan.whole) | set(plan.sides) <= set(SIZES)
    overlaps = [end - start for end, start in zip(ends, plan.starts[1:], strict=False)]
    seen = 32 * long / plan.whole[-1]
    least = min(seen, 1.4 * short) + 2 * plan.edge
    assert all(overlap >= least - 1 for overlap in overlaps)
    # As fine as was asked for, unless the largest input is too small for that.
    assert plan.sides[-1] == 2560 or plan.sides[-1] / plan.length >= finest * 0.5 * 0.9


def test_a_finer_look_finds_smaller_faces(pack: InsightFacePack) -> None:
    image = scene(900, 1800)
    planted = plant(image, 1500, 300, 30, 2)
    assert pack.detect(image, 0.6, 0.5) == []
    (found,) = pack.detect(image, 2.0, 0.5)
    assert off(found, planted) < 0.05


@pytest.mark.parametrize("outputs", [6, 10])
def test_without_key_points_the_landmark_model_finds_them(
    tmp_path: Path, outputs: int, crowd: tuple[RgbImage, list[Planted]]
) -> None:
    image, planted = crowd
    pack = loaded(make_v1_folder(tmp_path, detector=make_detector(outputs=outputs), landmarks=True))
    assert all(found.landmarks is None for found in pack.detect(image, 1.0, 0.5))
    turned = np.ascontiguousarray(np.rot90(image, -1))
    upright, sideways = Analyser(pack).analyse([image, turned])
    assert len(upright) == len(sideways) == len(planted)
    assert [face.turn for face in sideways] == [1] * len(planted)
    assert all(off(nearest(upright, each), each) < 0.02 for each in planted)


def test_a_picture_without_a_face(pack: InsightFacePack, group_photo: RgbImage) -> None:
    assert Analyser(pack).analyse([scene(120, 200)]) == [[]]
    assert pack.detect(group_photo, 1.0, 0.3) == []


@pytest.mark.parametrize("shape", [(1, 1), (3, 1500), (1500, 3), (130, 100)])
def test_pictures_of_any_shape(
    tmp_path: Path, pack: InsightFacePack, shape: tuple[int, int]
) -> None:
    fixed = loaded(make_v1_folder(tmp_path, detector=make_detector(size=(256, 128))))
    for each in (pack, fixed):
        for finest in (0.05, 1.0):
            assert each.detect(scene(*shape), finest, 0.3) == []


# --- bounded, shared, sure -------------------------------------------------------------------


def test_sizes_are_few_whatever_the_picture() -> None:
    rng = np.random.default_rng(0)
    used = set()
    for _ in range(3000):
        height, width = rng.integers(1, 20_000, 2)
        sides = input_sizes(int(height), int(width), float(rng.uniform(0.01, 4)))
        assert sides[0] == 128 and sides == sorted(set(sides)) and len(sides) <= 3
        used |= set(sides)
    assert used <= set(SIZES)
    assert all(side % 128 == 0 for side in SIZES)
    # An ordinary picture at its first look: what insightface takes by default.
    assert input_sizes(886, 1280, 1.03) == [128, 640]


def test_no_session_is_added_for_new_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[ort.InferenceSession] = []
    start = ort.InferenceSession.__init__

    def counted(self: ort.InferenceSession, *args: object, **more: object) -> None:
        opened.append(self)
        start(self, *args, **more)

    monkeypatch.setattr(ort.InferenceSession, "__init__", counted)
    pack = loaded(make_v1_folder(tmp_path))
    assert len(opened) == 2
    for size in range(100, 900, 130):
        for finest in (0.3, 1.0):
            pack.detect(scene(size, size + 37), finest, 0.5)
    Analyser(pack).analyse([scene(200, 311)])
    assert len(opened) == 2
    # The counting works: insightface by itself opens one for each size.
    app = insightface_alone(tmp_path)
    app.prepare(ctx_id=-1, det_size=[(128, 128), (640, 640)])
    app.get(scene(300, 300))
    assert len(opened) > 4


def test_eight_threads_share_a_pack(tmp_path: Path) -> None:
    pictures = []
    for number in range(8):
        image = scene(200 + 20 * number, 420 - 10 * number, number)
        plant(image, 30 + 5 * number, 40, 90 + 6 * number, number)
        pictures.append(image)
    alone = [Analyser(loaded(make_v1_folder(tmp_path))).analyse([image])[0] for image in pictures]
    # A fresh pack, so that its caches are filled by all threads at once.
    shared = Analyser(loaded(tmp_path))
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda image: shared.analyse([image])[0], pictures * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert len(one) == len(other) == 1
        assert one[0].box == other[0].box
        assert np.array_equal(one[0].landmarks.points, other[0].landmarks.points)
        assert np.array_equal(one[0].embedding.vector, other[0].embedding.vector)


def test_crops_of_many_callers_that_run_together_are_told_apart(tmp_path: Path) -> None:
    """What a GPU does, forced here: batches of callers gathered, padded to a few sizes."""
    pack = load(make_v1_folder(tmp_path / "pack"), info=INFO)
    crops = [
        np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        for seed in range(24)
    ]
    alone = pack.embed(crops)
    pack._embedder.gather(BatchOptions(max_batch=8, gather=True))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda at: pack.embed(crops[3 * at : 3 * at + 3]), range(8)))
    np.testing.assert_allclose(np.concatenate(together), alone, rtol=1e-5, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_threads_share_a_pack_with_a_landmark_model(tmp_path: Path) -> None:
    pack = loaded(make_v1_folder(tmp_path, detector=make_detector(outputs=6), landmarks=True))
    image = scene(400, 700)
    planted = [plant(image, 40 + 220 * n, 100, 90 + 10 * n, n) for n in range(3)]
    found = pack.detect(image, 1.0, 0.5)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: pack.landmarks([image] * 3, found), range(24)))
    for marks in answers:
        for mark, one in zip(marks, found, strict=True):
            at = min(planted, key=lambda p: abs(p.box[0] - one.box.x))
            assert float(np.abs(mark.points - at.points).max()) < 2


# --- the contract ----------------------------------------------------------------------------


def test_the_contract_names_all_that_shapes_a_vector(tmp_path: Path) -> None:
    base = make_v1_folder(tmp_path / "base")
    contract = loaded(base).contract
    assert contract.id.startswith("made-") and contract.dimension == 512
    # The same files under other names, elsewhere: the same contract.
    same = tmp_path / "same"
    same.mkdir()
    (same / "a.onnx").write_bytes((base / "det_10g.onnx").read_bytes())
    (same / "b.onnx").write_bytes((base / "w600k_r50.onnx").read_bytes())
    assert loaded(same).contract.id == contract.id
    # So does a manifest that says what insightface takes where there is none.
    plain = make_v2_folder(tmp_path / "plain", size=112, dimension=512)
    assert loaded(plain).contract.id == contract.id
    others = [
        make_v1_folder(tmp_path / "1", recogniser=make_recogniser(seed=1)),
        make_v1_folder(tmp_path / "2", detector=make_detector(outputs=15)),
        make_v1_folder(tmp_path / "3", detector=make_detector(size=(640, 640))),
        make_v1_folder(tmp_path / "4", recogniser=make_recogniser(mxnet=True)),
        make_v1_folder(tmp_path / "5", detector=make_detector(outputs=6), landmarks=True),
        make_v2_folder(tmp_path / "6", size=112, dimension=512, raw_pixels=True),
        make_v2_folder(tmp_path / "7", size=128),
    ]
    ids = {loaded(folder).contract.id for folder in others}
    assert len(ids | {contract.id}) == len(others) + 1
    assert load(base, info=replace(INFO, name="other"), runtime=ONE).contract.id != contract.id


def test_preprocessing_alone_makes_another_contract(tmp_path: Path) -> None:
    plain = make_v2_folder(tmp_path / "plain")
    other = make_v2_folder(tmp_path / "other")
    text = (other / "manifest.json").read_text(encoding="utf-8")
    changed = text.replace('"input_size"', '"preprocessing": {"mean": 0, "std": 255}, "input_size"')
    assert changed != text
    (other / "manifest.json").write_text(changed, encoding="utf-8")
    assert loaded(plain).contract.id != loaded(other).contract.id


def test_a_new_major_version_of_insightface_makes_another_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_v1_folder(tmp_path)
    before = loaded(folder).contract.id
    monkeypatch.setattr(insightface, "__version__", "99.0")
    assert loaded(folder).contract.id != before


def test_info_tells_what_the_folder_holds(tmp_path: Path) -> None:
    folder = make_v2_folder(tmp_path)
    pack = loaded(folder)
    assert pack.info.dimension == 256
    assert set(pack.info.digests) == {"detector.onnx", "recogniser.onnx", "manifest.json"}
    assert load(folder, info=pack.info, runtime=ONE).contract.id == pack.contract.id
    wrong = {**pack.info.digests, "detector.onnx": "0" * 64}
    with pytest.raises(PackDigestMismatch, match=r"detector\.onnx"):
        load(folder, info=replace(INFO, digests=wrong), runtime=ONE)


def test_a_manifest_that_was_not_pinned_is_refused_and_one_that_was_has_to_be_there(
    tmp_path: Path,
) -> None:
    folder = make_v2_folder(tmp_path, size=112, dimension=512)
    pinned = loaded(folder).info
    bare = {name: digest for name, digest in pinned.digests.items() if name != "manifest.json"}
    with pytest.raises(PackDigestMismatch, match=r"manifest\.json"):
        load(folder, info=replace(INFO, digests=bare), runtime=ONE)
    manifest = folder / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(PackDigestMismatch, match=r"manifest\.json"):
        load(folder, info=pinned, runtime=ONE)
    manifest.unlink()
    with pytest.raises(PackDigestMismatch, match=r"manifest\.json"):
        load(folder, info=pinned, runtime=ONE)


def test_nothing_is_read_from_the_folder_again_once_it_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are changed between the check and insightface's classes change nothing."""
    folder = make_v2_folder(tmp_path / "pack", detector_size=(640, 640))
    plain = make_v1_folder(tmp_path / "plain", recogniser=make_recogniser(mxnet=True))
    for each in (folder, plain):
        pinned = loaded(each)
        opened: dict[str, bytes] = {}
        read = ModelFile.read_twofold

        def read_and_spoil(
            self: ModelFile,
            read: Any = read,
            opened: dict[str, bytes] = opened,
        ) -> tuple[bytes, bytes]:
            if self.name in opened:
                (self.folder / self.name).write_bytes(opened[self.name])
            found: tuple[bytes, bytes] = read(self)
            opened[self.name] = (self.folder / self.name).read_bytes()
            other = make_recogniser() if "w600k" in self.name else make_detector()
            (self.folder / self.name).write_bytes(other.SerializeToString())
            return found

        monkeypatch.setattr(ModelFile, "read_twofold", read_and_spoil)
        again = load(each, info=pinned.info, runtime=ONE)
        monkeypatch.setattr(ModelFile, "read_twofold", read)
        assert len(opened) == 2
        assert again.contract.id == pinned.contract.id
        assert again._detector._fixed == pinned._detector._fixed


def test_a_calibration_of_another_contract_is_left_out(pack: InsightFacePack) -> None:
    curve = Curve(np.array([0.2, 0.4]), np.array([1e-2, 1e-3]), np.array([2e-2, 2e-3]))
    made = {name: Calibration(name, {1: curve}) for name in (pack.contract.id, "made-0")}
    folder = pack.package.folder
    for name, calibration in made.items():
        again = load(folder, info=INFO, calibration=calibration, runtime=ONE)
        assert (again.calibration is calibration) == (name == pack.contract.id)


# --- refusals at load ------------------------------------------------------------------------


def test_a_missing_accelerator_is_never_passed_over(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this machine's runtime has CUDA")
    with pytest.raises(ProviderUnavailable):
        load(make_v1_folder(tmp_path), info=INFO, runtime=RuntimeOptions(provider="cuda"))


def unknown_operator(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[0].op_type = "NoSuchThing"
    return model


def wrong_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """The boxes of the first stride say that they are those of the second."""
    model.graph.output[3].name, model.graph.output[4].name = (
        model.graph.output[4].name,
        model.graph.output[3].name,
    )
    return model


@pytest.mark.parametrize("change", [unknown_operator, wrong_rows])
def test_a_detector_that_does_not_run_is_refused(
    tmp_path: Path,
    change: type[onnx.ModelProto],
) -> None:
    folder = make_v1_folder(tmp_path, detector=change(make_detector()))
    with pytest.raises(PackError, match=r"det_10g\.onnx"):
        loaded(folder)


def test_a_recogniser_that_does_not_run_is_refused(tmp_path: Path) -> None:
    recogniser = make_recogniser()
    recogniser.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 500
    folder = make_v1_folder(tmp_path, recogniser=recogniser)
    with pytest.raises(PackError, match=r"w600k_r50\.onnx"):
        loaded(folder)
    with pytest.raises(PackError, match=r"w600k_r50\.onnx"):
        loaded(make_v1_folder(tmp_path, recogniser=unknown_operator(make_recogniser())))


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> RuntimeOptions:
    """The processor under CUDA's name, as a GPU that is well."""
    monkeypatch.setitem(runtime._PROVIDERS, "cuda", runtime.CPU_NAME)
    monkeypatch.setattr(runtime, "gpu_of", lambda _session: 0)
    return RuntimeOptions(provider="cuda", threads=1)


def test_a_recogniser_that_takes_one_crop_loads_on_a_gpu_as_well(
    tmp_path: Path, on_a_gpu: RuntimeOptions
) -> None:
    folder = make_v1_folder(tmp_path, recogniser=make_recogniser(one_inside=True))
    pack = load(folder, info=INFO, runtime=on_a_gpu)
    assert pack._embedder.batch == 1
    crops = list(np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8))
    np.testing.assert_allclose(pack.embed(crops), loaded(folder).embed(crops), rtol=CLOSE)
    # Once it runs, a failure is told as the GPU's.
    pack._embedder._fixed = 3
    with pytest.raises(InferenceFailed):
        pack.embed(crops)


def test_a_model_that_does_not_run_is_not_blamed_on_the_gpu(
    tmp_path: Path, on_a_gpu: RuntimeOptions
) -> None:
    for number, models in enumerate(
        (
            {"detector": unknown_operator(make_detector())},
            {"recogniser": unknown_operator(make_recogniser())},
            {"detector": wrong_rows(make_detector())},
        )
    ):
        folder = make_v1_folder(tmp_path / str(number), **models)
        with pytest.raises(PackError, match=r"det_10g\.onnx|w600k_r50\.onnx"):
            load(folder, info=INFO, runtime=on_a_gpu)


def test_a_landmark_model_that_does_not_run_is_refused(tmp_path: Path) -> None:
    folder = make_v1_folder(tmp_path, detector=make_detector(outputs=6), landmarks=True)
    (folder / "2d106det.onnx").write_bytes(unknown_operator(make_landmarks()).SerializeToString())
    with pytest.raises(PackError, match=r"2d106det\.onnx"):
        loaded(folder)


def test_numbers_that_are_none_are_no_faces(
    tmp_path: Path, crowd: tuple[RgbImage, list[Planted]]
) -> None:
    """A damaged model that gives boxes of NaN and infinity adds no face and raises nothing."""
    detector = make_detector()
    for tensor in detector.graph.initializer:
        if tensor.name == "w0":
            weights = onnx.numpy_helper.to_array(tensor).copy()
            weights[:] = np.inf
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, "w0"))
    pack = loaded(make_v1_folder(tmp_path, detector=detector))
    with np.errstate(all="ignore"):
        assert pack.detect(crowd[0], 1.0, 0.3) == []
