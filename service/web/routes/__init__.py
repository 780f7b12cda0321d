"""The addresses of the pages."""

from fastapi import APIRouter

from service.web.routes import (
    account,
    alerts,
    audit,
    candidates,
    cases,
    casework,
    endings,
    generations,
    info,
    keys,
    links,
    people,
    photos,
    pictures,
    provider,
    reports,
    searches,
    signin,
    withheld,
)

router = APIRouter(include_in_schema=False)
for _part in (
    signin,
    provider,
    account,
    people,
    keys,
    cases,
    casework,
    photos,
    searches,
    candidates,
    alerts,
    links,
    endings,
    pictures,
    withheld,
    generations,
    audit,
    reports,
    info,
):
    router.include_router(_part.router)
