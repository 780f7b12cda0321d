"""The addresses of the pages."""

from fastapi import APIRouter

from service.web.routes import (
    alerts,
    candidates,
    cases,
    casework,
    endings,
    generations,
    info,
    links,
    photos,
    pictures,
    searches,
    signin,
    withheld,
)

router = APIRouter(include_in_schema=False)
for _part in (
    signin,
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
    info,
):
    router.include_router(_part.router)
