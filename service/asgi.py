"""For ASGI servers: ``uvicorn service.asgi:app``. Settings come from the environment."""

from __future__ import annotations

import sys

from service.accounts.keys import NewKey
from service.app import create_app
from service.config import load_settings


def _show_key(key: NewKey) -> None:
    """Shown once, to whoever starts the service; never to the log."""
    sys.stderr.write(f"Administrator key (shown once, keep it): {key.text}\n")
    sys.stderr.flush()


app = create_app(load_settings(), announce=_show_key)
