"""People, agencies and keys. For administrators."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from service.accounts import agencies, authority, browsers, people
from service.accounts.keys import NewKey, checked_scopes
from service.accounts.principal import Principal
from service.api.common import (
    Cursor,
    IdempotencyHeader,
    KeyId,
    Limit,
    SessionId,
    UserId,
    problems,
    router,
)
from service.api.schemas.accounts import (
    AgencyIn,
    AgencyList,
    AgencyOut,
    AgencyPatch,
    KeyIn,
    KeyList,
    NewKeyOut,
    NewUserOut,
    SessionList,
    UserIn,
    UserList,
    UserOut,
    UserPatch,
)
from service.api.schemas.common import QueryText
from service.deps import ServiceDep, requires
from service.idempotency import Answer, once
from service.state import Service

api = router("accounts")

Manager = Annotated[Principal, Depends(requires("accounts:write"))]
AgencyName = Annotated[QueryText, Path(min_length=1, max_length=100)]


async def _once(
    request: Request,
    service: Service,
    principal: Principal,
    body: BaseModel,
    make: Callable[[], Answer],
) -> Response:
    """Do it once for an Idempotency-Key; what is stored of the answer holds no secret."""

    async def work() -> Answer:
        return await run_in_threadpool(make)

    content = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    return await once(
        service.workspace, service.idempotency, request, principal.actor_id, content, work
    )


def _secret_once(shown: BaseModel, name: str, subject_id: str) -> Answer:
    """An answer whose field ``name`` is in the first answer only."""
    kept = shown.model_copy(update={name: None})
    return Answer(
        201, shown.model_dump_json().encode(), subject_id, kept.model_dump_json().encode()
    )


# --- people ----------------------------------------------------------------------------------


def _new_user(made: people.NewUser) -> NewUserOut:
    return NewUserOut.model_validate(
        {
            **UserOut.model_validate(made.record).model_dump(),
            "setup_code": made.code,
            "setup_expires_at": made.expires_at,
        }
    )


@api.post(
    "/users", status_code=201, response_model=NewUserOut, responses=problems(404, 409, 413, 415)
)
async def add_user(
    request: Request,
    user: UserIn,
    service: ServiceDep,
    principal: Manager,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Make a person. The answer holds the code with which they set up their account, this once."""

    def make() -> Answer:
        named = "agency" in user.model_fields_set
        made = people.create(
            service.workspace.catalog,
            principal,
            user.login,
            user.roles,
            agency=user.agency if named else authority.chosen_agency(principal, user.roles),
            display_name=user.display_name,
        )
        return _secret_once(_new_user(made), "setup_code", made.record.user_id)

    return await _once(request, service, principal, user, make)


@api.get("/users", response_model=UserList)
def list_users(
    service: ServiceDep, principal: Manager, limit: Limit = 50, cursor: Cursor = None
) -> UserList:
    """The people whom the caller manages, oldest account first."""
    page = people.page(service.workspace.catalog, principal, limit=limit, cursor=cursor)
    return UserList.model_validate({"items": page.items, "next_cursor": page.next_cursor})


@api.get("/users/{user_id}", response_model=UserOut, responses=problems(404))
def get_user(service: ServiceDep, principal: Manager, user_id: UserId) -> UserOut:
    """One person."""
    return UserOut.model_validate(people.get(service.workspace.catalog, principal, user_id))


@api.patch("/users/{user_id}", response_model=UserOut, responses=problems(404, 409, 413, 415))
def change_user(
    change: UserPatch, service: ServiceDep, principal: Manager, user_id: UserId
) -> UserOut:
    """Change name, roles or training, disable or enable. It holds with the person's next request;
    whoever is disabled has no session left."""
    given: dict[str, Any] = {name: getattr(change, name) for name in change.model_fields_set}
    return UserOut.model_validate(
        people.change(service.workspace.catalog, principal, user_id, **given)
    )


@api.post(
    "/users/{user_id}/reset",
    response_model=NewUserOut,
    responses=problems(404),
)
def reset_user(service: ServiceDep, principal: Manager, user_id: UserId) -> NewUserOut:
    """Take back password, second factor and recovery codes, end all sessions, and answer with a
    fresh set-up code, this once."""
    return _new_user(people.reset(service.workspace.catalog, principal, user_id))


@api.get("/users/{user_id}/sessions", response_model=SessionList, responses=problems(404))
def list_sessions(service: ServiceDep, principal: Manager, user_id: UserId) -> SessionList:
    """The browsers in which a person is signed in, newest first."""
    catalog = service.workspace.catalog
    people.get(catalog, principal, user_id)
    found = browsers.sessions_of(catalog, user_id)
    return SessionList.model_validate({"items": found, "next_cursor": None})


@api.delete("/users/{user_id}/sessions", status_code=204, responses=problems(404))
def end_sessions(service: ServiceDep, principal: Manager, user_id: UserId) -> None:
    """End every session of a person."""
    catalog = service.workspace.catalog
    people.get(catalog, principal, user_id)
    browsers.end_all(catalog, user_id)


@api.delete("/users/{user_id}/sessions/{session_id}", status_code=204, responses=problems(404))
def end_session(
    service: ServiceDep, principal: Manager, user_id: UserId, session_id: SessionId
) -> None:
    """End one session of a person."""
    catalog = service.workspace.catalog
    people.get(catalog, principal, user_id)
    browsers.end(catalog, user_id, session_id)


# --- agencies --------------------------------------------------------------------------------


@api.post("/agencies", status_code=201, response_model=AgencyOut, responses=problems(409, 413, 415))
async def add_agency(
    request: Request,
    agency: AgencyIn,
    service: ServiceDep,
    principal: Manager,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Make an agency."""

    def make() -> Answer:
        made = agencies.create(service.workspace.catalog, principal, agency.name, agency.title)
        return Answer(201, AgencyOut.model_validate(made).model_dump_json().encode(), None)

    return await _once(request, service, principal, agency, make)


@api.get("/agencies", response_model=AgencyList)
def list_agencies(service: ServiceDep, principal: Manager) -> AgencyList:
    """The agencies whose people the caller manages, by name."""
    found = agencies.all_of(service.workspace.catalog, principal)
    return AgencyList.model_validate({"items": found, "next_cursor": None})


@api.patch("/agencies/{name}", response_model=AgencyOut, responses=problems(404, 409, 413, 415))
def change_agency(
    change: AgencyPatch, service: ServiceDep, principal: Manager, name: AgencyName
) -> AgencyOut:
    """Change the title of an agency, retire it or take it back into use."""
    return AgencyOut.model_validate(
        agencies.change(
            service.workspace.catalog, principal, name, title=change.title, retired=change.retired
        )
    )


# --- keys ------------------------------------------------------------------------------------


@api.post(
    "/keys", status_code=201, response_model=NewKeyOut, responses=problems(404, 409, 413, 415)
)
async def add_key(
    request: Request,
    key: KeyIn,
    service: ServiceDep,
    principal: Manager,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Make a key with roles or single permissions. The answer holds its text, this once."""

    def make() -> Answer:
        scopes = checked_scopes(key.roles, key.scopes, all_where_none=False)
        agency = key.agency
        if "agency" not in key.model_fields_set:
            agency = authority.chosen_agency(principal, key.roles)
        made = service.keys.create(
            key.name, scopes, agency=agency, expires_at=key.expires_at, by=principal
        )
        return _secret_once(_new_key(made), "key", made.record.key_id)

    return await _once(request, service, principal, key, make)


def _new_key(made: NewKey) -> NewKeyOut:
    record = made.record
    shown = {name: getattr(record, name) for name in NewKeyOut.model_fields if name != "key"}
    return NewKeyOut.model_validate({**shown, "key": made.text})


@api.get("/keys", response_model=KeyList)
def list_keys(
    service: ServiceDep, principal: Manager, limit: Limit = 50, cursor: Cursor = None
) -> KeyList:
    """The keys that the caller manages, oldest first; never their text."""
    page = service.keys.page(principal, limit=limit, cursor=cursor)
    return KeyList.model_validate({"items": page.items, "next_cursor": page.next_cursor})


@api.delete("/keys/{key_id}", status_code=204, responses=problems(404))
def revoke_key(service: ServiceDep, principal: Manager, key_id: KeyId) -> None:
    """Take a key back; whoever uses it is refused from now on."""
    service.keys.revoke(key_id, principal)
