"""What faces may be filtered by follows the ads that show them and the cases that look for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from indexer import ads, candidates, cases, forget, jobs
from indexer.catalog.tables import Ad, Face, GalleryLog, GalleryMember
from indexer.galleries.log import index_filter, tags_of
from indexer.probe import ad_conditions
from indexer.records import AdInput, CaseInput, SearchFilter, Upload
from indexer.vectors.tags import Filter, Tag
from indexer.workspace import Workspace
from tests.indexer.conftest import Reopen
from tests.indexer.gallery_rows import put_faces
from tests.indexer.small import CONTRACT, DIMENSION, colour, face_picture, vector_of

MAY = datetime(2026, 5, 1, 12, tzinfo=UTC)
EVERY = vector_of(colour(1))[None]


def receive(ws: Workspace, number: str, *people: int, **fields: object) -> str:
    """An ad with one picture for each person, read."""
    ad = AdInput(**{"site": "Alpha.example", "external_id": number, **fields})  # type: ignore[arg-type]
    receipt = ads.receive_ad(ws, ad, [Upload(face_picture(person)) for person in people])
    jobs.run_pending(ws)
    return receipt.ad_id


def found(ws: Workspace, **filters: object) -> set[str]:
    where = index_filter(SearchFilter(**filters))  # type: ignore[arg-type]
    return set(ws.ads.search(EVERY, 100, where=where)[0].ids)


def entries(ws: Workspace) -> int:
    with ws.catalog.read() as session:
        return len(session.scalars(select(GalleryLog.seq)).all())


def test_a_newer_capture_that_moves_the_ad_moves_all_it_ever_showed(opened: Reopen) -> None:
    ws, other = opened(), opened()
    receive(ws, "1", 1, 2, region="North", posted_at=MAY, captured_at=MAY)
    assert len(found(other, region="north")) == 2
    receive(ws, "1", 3, region="South", posted_at=MAY, captured_at=MAY + timedelta(days=1))
    assert found(other, region="north") == set()
    assert len(found(other, region="SOUTH")) == 3
    assert len(found(other, region="south", site="alpha.EXAMPLE", posted_after=MAY)) == 3
    assert found(other, posted_before=MAY) == set()
    assert len(found(other, posted_before=MAY + timedelta(milliseconds=1))) == 3


def test_what_changes_nothing_is_not_logged_anew(ws: Workspace) -> None:
    receive(ws, "1", 1, region="North", captured_at=MAY)
    before = entries(ws)
    receive(ws, "1", 1, region="North", title="new words", captured_at=MAY + timedelta(days=1))
    assert entries(ws) == before


def test_an_image_that_a_second_ad_shows_is_found_by_either(ws: Workspace) -> None:
    receive(ws, "1", 1, region="North", posted_at=MAY)
    second = receive(ws, "2", 1, site="beta.example", region="South")
    (face_id,) = found(ws)
    for filters in (
        {"region": "north"},
        {"region": "south"},
        {"site": "beta.example"},
        {"region": "north", "posted_after": MAY},
    ):
        assert found(ws, **filters) == {face_id}, filters
    assert found(ws, region="south", posted_after=MAY) == set(), "of no one ad do both hold"
    assert found(ws, region="north", site="beta.example") == set()
    forget.forget_ad(ws, second)
    assert found(ws, region="south") == set()
    assert found(ws, region="north") == {face_id}


def test_a_case_that_goes_to_another_agency(ws: Workspace) -> None:
    case_id = cases.create_case(ws, CaseInput(case_number="1", agency="First")).case_id
    cases.add_photo(ws, case_id, face_picture(1))
    assert len(ws.cases.search(EVERY, 9, where=Filter(agency="first", status="open"))[0]) == 1
    cases.update_case(ws, case_id, {"agency": "Second"})
    assert len(ws.cases.search(EVERY, 9, where=Filter(agency="first"))[0]) == 0
    assert len(ws.cases.search(EVERY, 9, where=Filter(agency="SECOND"))[0]) == 1


def test_members_of_before_there_were_tags_are_brought_up_to_date(opened: Reopen) -> None:
    ws = opened()
    receive(ws, "1", 1, region="North")
    with ws.catalog.write() as session:
        session.execute(update(GalleryMember).values(tags_digest=None))
    assert len(found(opened(), region="north")) == 1, "read from the catalog, whatever is noted"
    receive(ws, "1", 1, region="North", captured_at=MAY, title="again")
    assert len(found(ws, region="north")) == 1
    with ws.catalog.read() as session:
        assert None not in session.scalars(select(GalleryMember.tags_digest)).all()


def test_a_filtered_list_is_full_where_the_gallery_can_fill_it(ws: Workspace) -> None:
    """The nearest are all elsewhere: k leads come all the same."""
    rng = np.random.default_rng(1)
    base = vector_of(colour(1))
    rows = np.stack([base + 0.02 * i * rng.standard_normal(DIMENSION) for i in range(120)])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    order = np.argsort(-(rows @ base))
    shown = [
        AdInput(site="x", external_id=str(i), region="far" if rank < 90 else "near")
        for i, rank in enumerate(np.argsort(order).tolist())
    ]
    put_faces(ws, rows, shown)
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    cases.add_photo(ws, case_id, face_picture(1))
    result = candidates.ranked(ws, case_id, 20, SearchFilter(region="NEAR"))
    assert [item.ad.region for item in result.items] == ["near"] * 20
    scores = [item.score for item in result.items]
    assert scores == sorted(scores, reverse=True)
    assert len(candidates.ranked(ws, case_id, 50, SearchFilter(region="near")).items) == 30


WORDS = st.sampled_from([None, "", "North", "NORTH", "Île", "île", "日本", 'it\'s "odd"\\%_'])
TIMES = st.one_of(
    st.none(),
    st.integers(-3, 3).map(lambda step: MAY + timedelta(milliseconds=step)),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_the_index_filters_as_the_catalog_would(ws: Workspace, data: st.DataObject) -> None:
    shown = [
        AdInput(
            site=data.draw(st.sampled_from(["Alpha", "BETA", "Äther"])),
            external_id=f"{entries(ws)}-{i}",
            region=data.draw(WORDS),
            posted_at=data.draw(TIMES),
        )
        for i in range(data.draw(st.integers(1, 6)))
    ]
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((len(shown), DIMENSION)).astype(np.float32)
    put_faces(ws, rows / np.linalg.norm(rows, axis=1, keepdims=True), shown)
    filters = SearchFilter(
        site=data.draw(st.sampled_from([None, "alpha", "äTHER"])),
        region=data.draw(WORDS.filter(lambda word: word != "")),
        posted_after=data.draw(TIMES),
        posted_before=data.draw(TIMES),
    )
    with ws.catalog.read() as session:
        passing = set(session.scalars(select(Ad.ad_id).where(*ad_conditions(filters))))
        face_ids = session.scalars(select(Face.face_id).where(Face.contract_id == CONTRACT)).all()
        tags = tags_of(session, "ads", face_ids)
    where = index_filter(filters)
    expected = {face_id for face_id in face_ids if any(map(where.passes, tags.get(face_id, ())))}
    assert len(expected) == len(passing)
    assert set(ws.ads.search(EVERY, 10_000, where=where)[0].ids) == expected


def test_words_of_a_tag_are_compared_without_case() -> None:
    assert Filter(region="ÎLE").passes(Tag(region="île"))
    assert not Filter(region="").passes(Tag(region=""))
    assert not Filter(posted_before_ms=5).passes(Tag())
    with pytest.raises(TypeError):
        Filter("site")  # type: ignore[call-arg]
