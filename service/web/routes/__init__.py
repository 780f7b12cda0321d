"""The addresses of the pages."""

from fastapi import APIRouter

from service.web.routes import (
    alerts,
    audit,
    candidates,
    cases,
    endings,
    generations,
    info,
    photos,
    pictures,
    searches,
    signin,
)

router = APIRouter(include_in_schema=False)
for _part in (
    signin,
    cases,
    photos,
    searches,
    candidates,
    alerts,
    endings,
    pictures,
    generations,
    audit,
    info,
):
    router.include_router(_part.router)
