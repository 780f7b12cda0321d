"""The application factory."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from indexer import jobs
from indexer.audit import AuditWriter
from indexer.reindex import outdated
from indexer.runner import Runner
from indexer.transient import settle_mode
from indexer.workspace import Workspace
from models.errors import HomewardError
from service import __version__, errors, web
from service.accounts.key_uses import KeyUses
from service.accounts.keys import KeyStore, NewKey
from service.accounts.principal import Principal
from service.alerts.deliver import Deliverer
from service.api import (
    accounts,
    ads,
    alerts,
    audit,
    batch,
    candidates,
    cases,
    casework,
    events,
    generations,
    images,
    links,
    openapi,
    operations,
    reports,
    webhooks,
    withheld,
)
from service.audit.layer import Audited
from service.audit.recorder import Recorder
from service.compute import ComputePool
from service.config import Settings
from service.headers import SecurityHeaders
from service.metrics import Metrics
from service.middleware import BodyLimit, Gate, RequestContext
from service.opening import open_for
from service.peers import Peers
from service.ratelimit import AddressLimits, RateLimiter
from service.state import Service

_log = logging.getLogger(__name__)

SIGN_INS_AT_ONCE = 2
"""Each hashes a password: 64 MiB and some tenths of a second of a core."""
SIGN_INS_WAITING = 64


def create_app(
    settings: Settings,
    workspace: Workspace | None = None,
    *,
    announce: Callable[[NewKey], None] | None = None,
) -> FastAPI:
    """Build the application.

    Without a ``workspace`` one is opened at start and closed at the end; a given one stays the
    caller's. ``announce`` is told the first administrator key when one is made.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = await run_in_threadpool(open_for, settings) if workspace is None else workspace
        try:
            service = await run_in_threadpool(_start, settings, opened, metrics, announce)
            app.state.service = service
            try:
                yield
            finally:
                app.state.service = None
                await run_in_threadpool(_stop, service)
        finally:
            if workspace is None:
                await run_in_threadpool(opened.close)

    async def authenticate(text: str) -> Principal | None:
        service = getattr(app.state, "service", None)
        if service is None:
            raise errors.NotReady("The service is still starting.")
        return await run_in_threadpool(_let_in, service, text)

    def recorder() -> Recorder | None:
        service = getattr(app.state, "service", None)
        return None if service is None else service.recorder

    app = FastAPI(
        title="Homeward",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    limiter = app.state.limiter = RateLimiter(settings.rate_limit_per_minute)
    addresses = app.state.addresses = AddressLimits(
        settings.failures_per_minute, settings.rate_limit_per_minute
    )
    errors.install(app)
    # Each is put around those before it: the last one added sees a request first.
    app.add_middleware(web.OwnForms, public_url=settings.public_url)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        timeout_seconds=settings.upload_timeout_seconds,
    )
    app.add_middleware(
        Gate,
        authenticate=authenticate,
        limiter=limiter,
        addresses=addresses,
    )
    app.add_middleware(Audited, recorder=recorder)
    app.add_middleware(Peers, trusted=settings.trusted_networks, hosts=settings.host_names)
    app.add_middleware(RequestContext, metrics=metrics)
    for part in (
        cases,
        batch,
        ads,
        candidates,
        casework,
        events,
        alerts,
        webhooks,
        links,
        images,
        withheld,
        generations,
        accounts,
        audit,
        operations,
        reports,
    ):
        app.include_router(part.api)
    openapi.install(app)
    web.install(app, settings)
    app.add_middleware(SecurityHeaders)
    return app


def _let_in(service: Service, text: str) -> Principal | None:
    """Whose key it is; the request is answered from the generation that is in use now."""
    service.opened.views.refresh()
    return service.keys.authenticate(text)


def _start(
    settings: Settings,
    workspace: Workspace,
    metrics: Metrics,
    announce: Callable[[NewKey], None] | None,
) -> Service:
    configured = settings.api_key.get_secret_value() if settings.api_key else None
    key_uses = KeyUses(workspace.catalog)
    keys = KeyStore(workspace.catalog, configured, key_uses)
    first = keys.ensure_administrator()
    if first is not None and announce is not None:
        announce(first)
    spool = settings.data_dir / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    pool = ComputePool(settings.compute_threads, settings.compute_backlog)
    # It looks at every stored picture, which nobody has to wait for.
    looking = threading.Thread(target=_say_outdated, args=(workspace,), name="outdated")
    looking.start()
    settle_mode(workspace)
    runner = Runner(
        workspace,
        threads=settings.job_workers if settings.jobs_in_server else 0,
        deliver=Deliverer(workspace, settings) if settings.jobs_in_server else None,
    )
    runner.start()
    metrics.gauge("homeward_compute_pending", "Work in the compute pool", lambda: pool.pending)
    metrics.gauge("homeward_jobs_waiting", "Queued jobs", lambda: jobs.waiting(workspace))
    metrics.gauge(
        "homeward_ad_faces", "Faces in the gallery of ads", lambda: service.workspace.ads.count()
    )
    metrics.gauge(
        "homeward_disk_free_bytes",
        "Free disk where the originals are, or where they are received",
        lambda: float(workspace.room.free(workspace)),
    )
    metrics.gauge(
        "homeward_case_faces",
        "Faces in the gallery of cases",
        lambda: service.workspace.cases.count(),
    )
    writer = AuditWriter(workspace.catalog)
    service = Service(
        settings=settings,
        opened=workspace,
        looking=looking,
        pool=pool,
        keys=keys,
        runner=runner,
        metrics=metrics,
        spool_dir=spool,
        sign_ins=ComputePool(SIGN_INS_AT_ONCE, SIGN_INS_WAITING),
        key_uses=key_uses,
        audit=writer,
        recorder=Recorder(writer),
    )
    metrics.gauge("homeward_event_streams", "Open event streams", lambda: service.streams.open)
    return service


def _say_outdated(workspace: Workspace) -> None:
    try:
        left = outdated(workspace)
    except HomewardError as error:
        _log.warning("how much is to be read again is not known: %s", error)
        return
    if left:
        _log.warning(
            "%d images of ads and %d photos are not searched under %s; run `homeward reindex`",
            left.ad_images,
            left.photos,
            workspace.contract_id,
        )


def _stop(service: Service) -> None:
    service.runner.close()
    service.pool.close()
    service.sign_ins.close()
    service.key_uses.close()
    # A thread that still logs while the program ends would end it with an error.
    service.looking.join()
    service.recorder.close()
    service.audit.close()
