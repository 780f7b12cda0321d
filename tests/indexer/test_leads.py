"""What a lead gathers, and what it does not; how perceptual hashes are kept and forgotten."""

from __future__ import annotations

import io
from datetime import timedelta

import numpy as np
from PIL import Image
from sqlalchemy import delete, insert, select, update

from indexer import candidates, cases, forget, jobs
from indexer.blobs import sha256_hex
from indexer.catalog.tables import Candidate, FaceCluster, ImageHash
from indexer.catalog.tables import Face as FaceRow
from indexer.hashes import MAX_DISTANCE, MIN_QUALITY, NearHashes, fill_hashes, without_hash
from indexer.ids import new_id
from indexer.leads import sources
from indexer.workspace import Workspace
from models.decode import decode
from models.pdq import HASH_BYTES, distances, pdq
from tests.indexer.small import BACKGROUND, colour, face_picture, picture
from tests.indexer.test_ads import NOON
from tests.indexer.test_candidates import crowd, make_case, send


def touched(data: bytes, level: int) -> bytes:
    """The same picture with its background a little darker: other pixels, the same faces."""
    pixels = decode(data).pixels.copy()
    plain = pixels.max(axis=2) == pixels.min(axis=2)
    pixels[plain] = np.maximum(pixels[plain].astype(int) - level, BACKGROUND).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def face_of(ws: Workspace, data: bytes) -> str:
    """The one face of a picture."""
    with ws.catalog.read() as session:
        query = select(FaceRow.face_id).where(FaceRow.sha256 == sha256_hex(data))
        return session.scalars(query).one()


def cluster(ws: Workspace, *face_ids: str) -> None:
    cluster_id = new_id()
    with ws.catalog.write() as session:
        session.execute(
            insert(FaceCluster),
            [
                {"face_id": one, "contract_id": ws.contract_id, "cluster_id": cluster_id}
                for one in face_ids
            ],
        )


def hashes(ws: Workspace) -> dict[str, tuple[bytes, int]]:
    with ws.catalog.read() as session:
        return {row.sha256: (row.pdq, row.quality) for row in session.scalars(select(ImageHash))}


def lead_ids(ws: Workspace, case_id: str, k: int = 20) -> list[str]:
    return [item.lead.lead_id for item in candidates.ranked(ws, case_id, k).items]


def test_five_hundred_reposts_are_one_lead(ws: Workspace) -> None:
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    original = face_picture(1, 9)
    again = [touched(original, level) for level in range(1, 26)]
    for number in range(500):
        data = original if number % 2 else again[number // 2 % len(again)]
        send(ws, f"repost-{number}", data, captured_at=NOON + timedelta(hours=number))
        if number % 100 == 99:
            jobs.run_pending(ws)
    crowd(ws, 5)
    jobs.run_pending(ws)
    result = candidates.ranked(ws, case_id, 3)
    lead = result.items[0].lead
    assert (lead.ads, lead.images) == (500, 26)
    assert lead.first_seen == NOON
    assert lead.last_seen == NOON + timedelta(hours=499)
    assert [item.lead.ads for item in result.items[1:]] == [1, 1]


def test_a_near_duplicate_joins_and_another_picture_does_not(ws: Workspace) -> None:
    case_id = make_case(ws, face_picture(1))
    send(ws, "first", face_picture(1, 9))
    jobs.run_pending(ws)
    before = lead_ids(ws, case_id)
    send(ws, "copy", touched(face_picture(1, 9), 8))
    send(ws, "other", face_picture(1, 8))
    jobs.run_pending(ws)
    result = candidates.ranked(ws, case_id, 20)
    assert len(result.items) == 2
    assert {item.lead.lead_id: item.lead.images for item in result.items}[before[0]] == 2


def test_poor_hashes_are_not_compared(ws: Workspace) -> None:
    case_id = make_case(ws, face_picture(1))
    send(ws, "first", face_picture(1, 9))
    send(ws, "copy", touched(face_picture(1, 9), 8))
    jobs.run_pending(ws)
    with ws.catalog.write() as session:
        session.execute(update(ImageHash).values(quality=MIN_QUALITY - 1))
        session.execute(delete(FaceCluster))
        session.execute(delete(Candidate))
    assert len(set(lead_ids(ws, case_id))) == 2
    with ws.catalog.read() as session:
        seen = sources(session, [face_of(ws, face_picture(1, 9))])
        assert [source.pdq for source in seen.values()] == [None]


def test_one_cluster_is_one_lead(ws: Workspace) -> None:
    for photo in (5, 6, 7):
        send(ws, f"a-{photo}", face_picture(1, photo))
    jobs.run_pending(ws)
    cluster(ws, face_of(ws, face_picture(1, 5)), face_of(ws, face_picture(1, 7)))
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    result = candidates.ranked(ws, case_id, 20)
    assert sorted(item.lead.images for item in result.items) == [1, 2]


def test_leads_are_never_merged(ws: Workspace) -> None:
    case_id = make_case(ws, face_picture(1))
    send(ws, "a", face_picture(1, 5))
    send(ws, "b", face_picture(1, 6))
    jobs.run_pending(ws)
    known = lead_ids(ws, case_id)
    assert len(known) == 2
    # An ad shows both pictures, both are one cluster: two leads all the same. What is new in the
    # ad goes to the older of them.
    cluster(ws, face_of(ws, face_picture(1, 5)), face_of(ws, face_picture(1, 6)))
    send(ws, "both", face_picture(1, 5), face_picture(1, 6), face_picture(1, 7))
    jobs.run_pending(ws)
    result = candidates.ranked(ws, case_id, 20)
    assert {item.lead.lead_id for item in result.items} == set(known)
    images = {item.lead.lead_id: item.lead.images for item in result.items}
    assert images == {min(known): 2, max(known): 1}


def test_a_lead_joins_what_a_lead_of_another_case_does_not(ws: Workspace) -> None:
    send(ws, "a", face_picture(1, 5))
    send(ws, "copy", touched(face_picture(1, 5), 8))
    jobs.run_pending(ws)
    one = make_case(ws, face_picture(1), number="one")
    other = make_case(ws, face_picture(1), number="other")
    jobs.run_pending(ws)
    assert len(lead_ids(ws, one)) == len(lead_ids(ws, other)) == 1
    assert lead_ids(ws, one) != lead_ids(ws, other)


def test_near_hashes_by_key() -> None:
    rng = np.random.default_rng(1)
    held = NearHashes()
    assert held.near(bytes(HASH_BYTES)) == set()
    rows = rng.integers(0, 256, (300, HASH_BYTES), np.uint8)
    for number, row in enumerate(rows):
        held.add(row.tobytes(), f"key-{number % 7}")
        held.add(row.tobytes(), f"key-{number % 7}")
    probe = rows[40].copy()
    probe[:3] ^= 0xFF
    probe[3] ^= 0b1111111
    assert int(distances(probe.tobytes(), rows[40:41])[0]) == MAX_DISTANCE
    assert held.near(probe.tobytes()) == {"key-5"}
    probe[3] ^= 0b10000000
    assert held.near(probe.tobytes()) == set()
    held.add(rows[40].tobytes(), "another")
    assert held.near(rows[40].tobytes()) == {"key-5", "another"}


def test_only_images_of_ads_have_a_hash(ws: Workspace) -> None:
    photo, shown = face_picture(1), face_picture(1, 9)
    case_id = make_case(ws, photo)
    ad_id = send(ws, "a", shown)
    jobs.run_pending(ws)
    assert list(hashes(ws).values()) == [pdq(decode(shown).pixels)]
    assert fill_hashes(ws) == 0, "the photo of the case is not hashed"
    # An ad shows the photo: then it is, and only as long as the ad is there.
    both = send(ws, "b", photo)
    jobs.run_pending(ws)
    fill_hashes(ws)
    assert len(hashes(ws)) == 2
    forget.forget_ad(ws, both)
    assert list(hashes(ws).values()) == [pdq(decode(shown).pixels)]
    forget.forget_ad(ws, ad_id)
    assert hashes(ws) == {}
    assert cases.get_case(ws, case_id).photos


def test_missing_hashes_are_filled_in(ws: Workspace) -> None:
    crowd(ws, 3)
    jobs.run_pending(ws)
    expected = hashes(ws)
    assert len(expected) == 3
    with ws.catalog.write() as session:
        session.execute(delete(ImageHash))
    one, lost, _ = sorted(expected)
    ws.blobs.delete(lost)
    assert fill_hashes(ws, [one]) == 1
    assert hashes(ws) == {one: expected[one]}
    assert fill_hashes(ws) == 1, "what has no bytes any more stays without, and stops nothing"
    with ws.catalog.read() as session:
        assert without_hash(session) == [lost]


def test_an_analysis_keeps_the_hash(ws: Workspace) -> None:
    data = picture((40, 30, 80, colour(3)), (130, 20, 50, colour(4)))
    send(ws, "two", data)
    jobs.run_pending(ws)
    (kept,) = hashes(ws).values()
    assert kept == pdq(decode(data).pixels)
    assert kept[1] >= MIN_QUALITY


def test_who_happens_to_be_in_the_picture_gathers_nothing(ws: Workspace) -> None:
    """A bystander's other ads are not sightings of the person who is looked for."""
    both = picture((10, 20, 60, colour(1)), (110, 20, 60, colour(2)))
    send(ws, "both", both)
    send(ws, "alone", face_picture(2, 4))
    jobs.run_pending(ws)
    with ws.catalog.read() as session:
        rows = session.scalars(
            select(FaceRow).where(FaceRow.sha256 == sha256_hex(both)).order_by(FaceRow.x)
        ).all()
    cluster(ws, rows[1].face_id, face_of(ws, face_picture(2, 4)))
    case_id = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    for _ in range(2):  # ranked afresh, and from what is stored
        first, second = candidates.ranked(ws, case_id, 20).items
        assert (first.ad.external_id, first.lead.ads, first.lead.images) == ("both", 1, 1)
        assert (second.ad.external_id, second.lead.ads) == ("alone", 1)
    # And the other way round: looked for herself, she gathers both.
    other_id = make_case(ws, face_picture(2, 9), number="2")
    jobs.run_pending(ws)
    (only,) = candidates.ranked(ws, other_id, 20).items
    assert (only.lead.ads, only.lead.images) == (2, 2)
