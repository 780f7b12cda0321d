"""Whenever a serving process is killed under load, the chain is whole and every answer is in it.

A few rounds here; ``CRASH_ROUNDS`` asks for more.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import select

from indexer.audit.verify import verify
from indexer.catalog import open_catalog
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.engine import sqlite_url
from tests.service.conftest import AUTH
from tests.service.live import LiveServer
from tests.tables import lend_tables

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
SEED = int(os.environ.get("CRASH_SEED", "20261124"))
CLIENTS = 4


class Caller(threading.Thread):
    """Reads and writes until told to stop; ``answered``: ids of the requests that got an answer."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.url, self.draw = url, random.Random(seed)
        self.answered: list[str] = []
        self.halt = threading.Event()

    def run(self) -> None:
        case_id = ""
        with httpx2.Client(base_url=self.url, headers=AUTH, timeout=10) as client:
            while not self.halt.is_set():
                name = str(uuid4())
                headers = {"x-request-id": name}
                try:
                    if not case_id or self.draw.random() < 0.3:
                        body = {"case_number": name, "person": {}}
                        answer = client.post("/v1/cases", json=body, headers=headers)
                        case_id = answer.json().get("case_id", case_id)
                    elif self.draw.random() < 0.2:
                        answer = client.get(f"/v1/cases/{uuid4()}", headers=headers)
                    else:
                        answer = client.get(f"/v1/cases/{case_id}", headers=headers)
                except httpx2.TransportError:
                    return
                if answer.status_code < 500:
                    self.answered.append(name)


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * ROUNDS)
def test_a_killed_process_leaves_a_whole_chain_with_every_answer(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    data = tmp_path / "data"
    lend_tables(data)
    answered: set[str] = set()
    for number in range(ROUNDS):
        with LiveServer(data) as server:
            callers = [Caller(server.url, draw.randrange(1 << 30)) for _ in range(CLIENTS)]
            for caller in callers:
                caller.start()
            time.sleep(draw.uniform(0.3, 1.2))
            server.kill()
            for caller in callers:
                caller.halt.set()
                caller.join(30)
        before = len(answered)
        answered.update(name for caller in callers for name in caller.answered)
        assert len(answered) > before, f"round {number}: nothing was answered"
        catalog = open_catalog(sqlite_url(data / "catalog.sqlite3"))
        try:
            verdict = verify(catalog)
            assert verdict.problem is None, (number, verdict.problem)
            with catalog.read() as session:
                recorded = set(session.scalars(select(AuditRecord.request_id)))
        finally:
            catalog.close()
        assert answered <= recorded, f"round {number}: {len(answered - recorded)} answers are lost"
    print(f"{ROUNDS} rounds: {len(answered)} answers, all of {verdict.records} records whole")
