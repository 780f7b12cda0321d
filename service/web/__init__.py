"""The pages: server-rendered, each action a form, nothing that needs a script."""

from __future__ import annotations

from fastapi import FastAPI

from service.config import Settings
from service.packs import page_warning
from service.signon.provider import Provider
from service.web.origins import OwnForms
from service.web.problems import ProblemPages
from service.web.render import Pages
from service.web.routes import router
from service.web.state import Web

__all__ = ["OwnForms", "install", "router"]


def install(app: FastAPI, settings: Settings) -> None:
    """Add the pages to ``app``: their routes, and problems as pages for browsers.

    Call it after the other middleware is added, so that every problem passes through here.
    """
    said = page_warning(settings)

    def warning() -> str | None:
        """Of the pack of the generation in use, which may change while the service runs."""
        service = getattr(app.state, "service", None)
        return said(service.workspace.pack if service is not None else "")

    provider = Provider(settings) if settings.oidc_issuer else None
    pages = Pages(warning, provider_name=settings.oidc_name if provider else "")
    web = Web(pages, provider=provider)
    app.state.web = web
    app.include_router(router)
    app.add_middleware(ProblemPages, pages=web.pages)
