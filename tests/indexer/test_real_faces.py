"""The whole way with the real pack: real photos in, the person at the top of the list."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from indexer import ads, candidates, cases, health, images, jobs
from indexer.errors import NoFaceFound, SeveralFacesFound
from indexer.records import CaseInput, Upload
from indexer.workspace import Workspace, open_workspace
from models.pipeline import Analyser
from models.types import RgbImage
from tests.indexer.test_ads import ad


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, analyser: Analyser) -> Iterator[Workspace]:
    with open_workspace(tmp_path_factory.mktemp("real"), analyser) as ws:
        yield ws


def edited(pixels: RgbImage) -> bytes:
    """As a repost would be: cropped, mirrored, recompressed small, with a watermark."""
    image = Image.fromarray(pixels[:360, 60:400, ::1]).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.resize((270, 286))
    ImageDraw.Draw(image).text((150, 260), "sample.example", fill=(255, 255, 255))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=45)
    return out.getvalue()


def test_from_a_photo_to_the_ad(
    real: Workspace,
    astronaut: RgbImage,
    astronaut_bytes: bytes,
    group_photo_bytes: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    strangers = ads.receive_ad(real, ad("strangers"), [Upload(group_photo_bytes, "t1.jpg")])
    hers = ads.receive_ad(real, ad("hers"), [Upload(edited(astronaut), "repost.webp")])
    jobs.run_pending(real)
    assert jobs.get_job(real, strangers.job_id).failures == ()
    assert real.ads.count() == 7
    case_id = cases.create_case(real, CaseInput(case_number="sample")).case_id
    receipt = cases.add_photo(real, case_id, astronaut_bytes)
    jobs.run_pending(real)
    result = candidates.ranked(real, case_id, 20)
    first, second = result.items
    assert first.ad.ad_id == hers.ad_id
    assert first.score > 0.9
    assert second.score < first.score - 0.05
    assert second.lead.images == 1, "the six strangers of one picture are one lead"
    assert result.search_state.state == "searched"
    crop = images.crop(real, first.face.face_id, 150)
    assert crop.shape == (150, 150, 3)
    assert crop.std() > 10
    with pytest.raises(SeveralFacesFound) as caught:
        cases.add_photo(real, case_id, group_photo_bytes)
    areas = [face.box.area for face in caught.value.faces]
    assert len(areas) == 6
    assert [round(area) for area in areas] == sorted((round(a) for a in areas), reverse=True)
    grey = io.BytesIO()
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(grey, "JPEG")
    with pytest.raises(NoFaceFound):
        cases.add_photo(real, case_id, grey.getvalue())
    assert len(cases.get_case(real, case_id).photos) == 1
    assert receipt.faces[0].quality.components
    assert health.check(real, verify_blobs=True).ok
    # Opened again from the index file: the same answer.
    real.ads.save()
    with (
        caplog.at_level(logging.WARNING),
        open_workspace(real.data_dir, real.analyser) as again,
    ):
        assert [i.score for i in candidates.ranked(again, case_id).items] == [
            i.score for i in result.items
        ]
    assert "rebuilt" not in caplog.text


@pytest.mark.shared_data
def test_photos_of_one_person_find_each_other(
    shared_data: Path, tmp_path: Path, analyser: Analyser
) -> None:
    """Forty people with two photos each: one is the case, the other is in an ad."""
    people = sorted(
        folder for folder in (shared_data / "lfw").iterdir() if len(list(folder.iterdir())) >= 2
    )[:40]
    with open_workspace(tmp_path / "data", analyser) as ws:
        for person in people:
            photo = sorted(person.iterdir())[1]
            ads.receive_ad(ws, ad(person.name), [Upload(photo.read_bytes())])
        jobs.run_pending(ws)
        first = 0
        for person in people:
            case_id = cases.create_case(ws, CaseInput(case_number=person.name)).case_id
            photo = sorted(person.iterdir())[0]
            _, faces = images.examine(ws, photo.read_bytes())
            middle = min(
                range(len(faces)),
                key=lambda i: abs(faces[i].box.centre[0] - 125) + abs(faces[i].box.centre[1] - 125),
            )
            cases.add_photo(ws, case_id, photo.read_bytes(), face_index=middle)
            best = candidates.ranked(ws, case_id, 1).items[0]
            first += best.ad.external_id == person.name
    assert first >= 36
