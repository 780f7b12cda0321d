"""Generations: which vectors are in use, what another model would change. For administrators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from indexer.generations import shown
from indexer.generations.comparison import Place
from indexer.generations.rows import Generation
from indexer.generations.shown import ShownCase
from indexer.ids import decode_cursor, encode_cursor
from service import generations
from service.accounts.principal import Principal
from service.api.common import Cursor, IdempotencyHeader, Limit, answer, problems, router
from service.api.schemas.generations import ComparisonOut, GenerationList, GenerationOut
from service.deps import ServiceDep, requires
from service.generations import Listed
from service.idempotency import Answer, once
from service.search.render import box_json

api = router("generations")

Administrator = Annotated[Principal, Depends(requires("generations:write"))]
CaseReader = Annotated[Principal, Depends(requires("cases:read"))]
ScoreReader = Annotated[Principal, Depends(requires("scores:read"))]
ContractId = Annotated[str, Path(min_length=1, max_length=120, pattern=r"^[ -.0-~]+$")]


@api.get("/generations", response_model=GenerationList)
def list_generations(service: ServiceDep, principal: Administrator) -> GenerationList:
    """All generations, the newest first, what each lacks, and which was in use when."""
    found = generations.overview(service.opened)
    return GenerationList.model_validate(
        {
            "items": [_generation(one) for one in found.items],
            "history": [asdict(change) for change in found.history],
        }
    )


@api.get(
    "/generations/{contract_id}/comparison",
    response_model=ComparisonOut,
    responses=problems(404, 422),
)
def get_comparison(
    service: ServiceDep,
    principal: Administrator,
    _cases: CaseReader,
    _scores: ScoreReader,
    contract_id: ContractId,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ComparisonOut:
    """The last comparison of a generation with the one in use, with its cases by id.

    `homeward generations compare` makes one. It shows scores, so it is not for reviewers.
    """
    ws = service.opened
    whole = shown.latest(ws, contract_id)
    after = None if cursor is None else decode_cursor(cursor)
    cases, more = shown.page(ws, whole, limit=limit, after=after, agency=principal.agency)
    values = asdict(whole)
    values["worst"] = [
        {**asdict(one.worst), "agency": one.agency, "case_number": one.case_number}
        for one in shown.worst(ws, whole, agency=principal.agency)
    ]
    values["items"] = [_case(one) for one in cases]
    values["next_cursor"] = encode_cursor(cases[-1].comparison.case_id) if more else None
    return ComparisonOut.model_validate(values)


@api.post(
    "/generations/{contract_id}/activate",
    response_model=GenerationOut,
    responses=problems(404, 409, 422),
)
async def activate_generation(
    request: Request,
    service: ServiceDep,
    principal: Administrator,
    contract_id: ContractId,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Bring a whole generation into use. The one before is kept, and receives what is new.

    Every open case is compared with the ads once more, in the background.
    """
    return await _change(
        request,
        service,
        principal,
        lambda: generations.activate(service, contract_id, actor=principal.actor_id),
    )


@api.post("/generations/rollback", response_model=GenerationOut, responses=problems(409, 422))
async def roll_back(
    request: Request,
    service: ServiceDep,
    principal: Administrator,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Bring back the generation that was in use before."""
    return await _change(
        request,
        service,
        principal,
        lambda: generations.roll_back(service, actor=principal.actor_id),
    )


async def _change(
    request: Request,
    service: ServiceDep,
    principal: Principal,
    change: Callable[[], Generation],
) -> Response:
    def changed() -> GenerationOut:
        found = generations.listed(service.opened, change().contract_id)
        return GenerationOut.model_validate(_generation(found))

    async def work() -> Answer:
        return answer(200, await run_in_threadpool(changed), None)

    return await once(service.workspace, service.idempotency, request, principal.actor_id, "", work)


def _generation(one: Listed) -> dict[str, Any]:
    generation = one.generation
    return {
        "contract_id": generation.contract_id,
        "pack": generation.pack,
        "dimension": generation.dimension,
        "state": generation.state,
        "missing": asdict(one.missing),
        "loaded": one.loaded,
        "created_at": generation.created_at,
        "activated_at": generation.activated_at,
        "keep_until": generation.keep_until,
        "compared_at": one.compared_at,
    }


def _case(one: ShownCase) -> dict[str, Any]:
    found = one.comparison

    def place(there: Place) -> dict[str, Any]:
        face = None if there.face_id is None else one.faces[there.face_id]
        return {
            "state": there.state,
            "rank": there.rank,
            "score": there.score,
            "face": None
            if face is None
            else {
                "face_id": face.face_id,
                "image_sha256": face.sha256,
                "box": box_json(face.box),
            },
        }

    return {
        "case_id": found.case_id,
        "agency": one.agency,
        "case_number": one.case_number,
        "photos": found.photos,
        "listed": found.listed,
        "overlap": found.overlap,
        "face_overlap": found.face_overlap,
        "order": found.order,
        "lost": [{"old": place(m.old), "new": place(m.new)} for m in found.lost],
        "gained": [{"old": place(m.old), "new": place(m.new)} for m in found.gained],
        "judged": [
            {
                "judgement_id": pair.judgement_id,
                "conclusion": pair.conclusion,
                "image_sha256": one.pictures[pair.judgement_id],
                "old": place(pair.old),
                "new": place(pair.new),
            }
            for pair in found.judged
        ],
    }
