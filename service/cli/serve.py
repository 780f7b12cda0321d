"""``homeward serve`` and ``homeward demo``."""

from __future__ import annotations

import errno
import socket
from typing import Annotated

import typer
from rich.text import Text

from models.errors import HomewardError
from service import demo as demonstration
from service.cli.console import DataDir, err, expected_errors, out, settings_for, workspace_for
from service.config import Settings
from service.netconfig import is_loopback
from service.packs import rights_to
from service.search.explain import NO_ALERTS, UNCALIBRATED
from service.tls import context_of

Host = Annotated[
    str | None, typer.Option("--host", help="Address to listen on (127.0.0.1).", show_default=False)
]
Port = Annotated[
    int | None,
    typer.Option("--port", min=0, max=65535, help="Port to listen on (8000).", show_default=False),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        help="Administrator key of 16 or more characters. HOMEWARD_API_KEY is safer: "
        "other users of this machine can read command lines.",
        show_default=False,
    ),
]


class CannotListen(HomewardError):
    """The address or port cannot be listened on."""

    code = "cannot_listen"


@expected_errors
def serve(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    api_key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Serve the HTTP interface and the pages."""
    settings = settings_for(context, data_dir, host=host, port=port, api_key=api_key)
    _serve(settings)


@expected_errors
def demo(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    api_key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Load a small demonstration (first time only) and serve it."""
    settings = settings_for(context, data_dir, host=host, port=port, api_key=api_key)
    if settings.api_key is None:
        shown = demonstration.sample_key(settings.data_dir)
        settings = settings_for(context, data_dir, host=host, port=port, api_key=shown)
        _serve(settings, sample=True, shown_key=shown)
    else:
        _serve(settings, sample=True)


def _serve(settings: Settings, *, sample: bool = False, shown_key: str | None = None) -> None:
    # Here, because it brings the HTTP framework, which no other command needs.
    from service.cli.hosting import serve_until_told

    if settings.tls_cert is not None and settings.tls_key is not None:
        # Before anything is opened: a certificate that cannot be used is found out at once.
        context_of(settings.tls_cert, settings.tls_key)
    listener = listen(settings.host, settings.port)
    address = _address(settings, listener)
    with listener, workspace_for(settings) as workspace:
        notes: list[str] = []
        if sample:
            report = demonstration.prepare(workspace, say=lambda text: out.print(Text(text)))
            notes = [
                f"Look: open {address}/, sign in with the key and pick case {report.case_number}"
                f" ({report.ads} sample ads).",
                demonstration.NOTE,
            ]

        def ready() -> None:
            out.print(Text(f"Homeward listens on {address}"))
            if shown_key is not None:
                out.print(Text(f"Key to sign in with: {shown_key}"))
            for note in notes:
                out.print(Text(note))
            out.print(Text("Stop with Ctrl-C."))

        _warn_if_open(settings)
        rights = rights_to(settings, workspace.pack or settings.pack)
        if warning := rights.warning():
            err.print(Text(f"Warning: {warning}", "yellow"))
        if workspace.calibration is None:
            err.print(Text(f"Warning: {UNCALIBRATED} {NO_ALERTS}"))
        if not serve_until_told(settings, workspace, listener, ready):
            raise CannotListen(
                "The service could not start.", remedy="Read the messages above; then try again."
            )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises :class:`CannotListen` with the reason and what to do."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListen(
            f"The address {host!r} is not known here: {error}.",
            remedy="Give an address of this machine, such as 127.0.0.1, with --host.",
            code="host_unknown",
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotListen(
                f"Port {port} on {host} is in use by another program.",
                remedy="Stop that program, or choose another port with --port.",
                code="port_in_use",
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise CannotListen(
                f"Port {port} may not be used by this account.",
                remedy="Choose a port above 1023 with --port.",
                code="port_denied",
            ) from None
        raise CannotListen(
            f"{host} port {port} cannot be listened on: {error.strerror}.",
            remedy="Give an address of this machine with --host.",
        ) from None
    return listener


def _address(settings: Settings, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls_cert else 'http'}://{shown}:{port}"


def _warn_if_open(settings: Settings) -> None:
    if is_loopback(settings.host) or settings.tls_cert or settings.trusted_proxies:
        return
    err.print(
        Text(
            "Warning: this listens beyond this machine, without encryption. Set HOMEWARD_TLS_CERT "
            "and HOMEWARD_TLS_KEY, or put a proxy with TLS in front of it and name that in "
            "HOMEWARD_TRUSTED_PROXIES.",
            "yellow",
        )
    )
