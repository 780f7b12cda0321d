"""Time stamps over heads, from a real authority (PRACTICE 25)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner

from indexer import jobs, queue
from indexer.audit import record, stamps
from indexer.audit.reading import head
from indexer.audit.verify import verify
from indexer.catalog.audit_tables import AuditStamp
from indexer.catalog.tables import Job
from indexer.errors import DeliveryFailed
from indexer.times import utc_now
from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from service.alerts.deliver import Deliverer
from service.cli.main import app
from service.config import Settings
from service.stamping import Stamper, stamp_now
from tests.indexer.small import SmallAnalyser
from tests.service.audit.authority import Authority, authority
from tests.service.conftest import make_settings
from tests.tables import lend_tables

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with authority(tmp_path_factory.mktemp("authority")) as made:
        yield made


@pytest.fixture
def settings(server: Authority, tmp_path: Path) -> Settings:
    server.away, server.replayed = False, None
    return make_settings(tmp_path / "data", stamp_url=server.url, stamp_ca_file=server.ca_file)


@pytest.fixture
def workspace(settings: Settings) -> Iterator[Workspace]:
    lend_tables(settings.data_dir)
    # Its own upkeep asks for none: each test says when.
    with open_workspace(settings.data_dir, SmallAnalyser(), options=WorkspaceOptions()) as opened:
        act(opened)
        yield opened


def act(ws: Workspace) -> None:
    with ws.catalog.write() as session:
        record(session, "job.retry", subject=("job", "1"))


def deliver(ws: Workspace, settings: Settings) -> None:
    """Do the stamp jobs that are queued, as the runner would."""
    with ws.catalog.read() as session:
        ids = session.scalars(select(Job.job_id).where(Job.kind == "stamp_head")).all()
    for job_id in ids:
        job = queue.claim_one(ws, job_id)
        if job is not None:
            Deliverer(ws, settings)(job)
            with ws.catalog.write() as session:
                queue.finish(session, ws.runner_id, job_id)


def test_a_head_is_stamped_and_the_stamp_checked(
    workspace: Workspace, settings: Settings, server: Authority
) -> None:
    seq, digest = head(workspace.catalog)
    done = stamp_now(workspace.catalog, Stamper.of(settings))
    assert done is not None
    assert (done.state, done.seq, done.hash) == ("done", seq, digest)
    assert done.stamped_at is not None
    checked = stamps.check_all(workspace.catalog, stamps.certificates(server.ca_file))
    assert (checked.bad, checked.pending, checked.signed) == ((), 0, True)
    assert [(one.seq, one.hash) for one in checked.heads] == [(seq, digest)]
    assert verify(workspace.catalog, checked.heads).problem is None
    # The stamp is over nothing but the digest of the head.
    assert digest.encode() not in server.asked[-1]


def test_a_stamp_that_is_not_of_the_authority_is_found(
    workspace: Workspace, settings: Settings, tmp_path: Path
) -> None:
    assert stamp_now(workspace.catalog, Stamper.of(settings)) is not None
    with authority(tmp_path) as another:
        checked = stamps.check_all(workspace.catalog, stamps.certificates(another.ca_file))
    assert not checked.heads
    assert "signature" in checked.bad[0]


def test_a_stamp_moved_to_another_head_is_found(workspace: Workspace, settings: Settings) -> None:
    assert stamp_now(workspace.catalog, Stamper.of(settings)) is not None
    with workspace.catalog.write() as session:
        session.execute(update(AuditStamp).values(hash="f" * 64))
    checked = stamps.check_all(workspace.catalog, [])
    assert not checked.heads and "over something else" in checked.bad[0]


def test_while_the_authority_is_away_the_stamp_is_pending(
    workspace: Workspace, settings: Settings, server: Authority
) -> None:
    server.away = True
    waiting = stamp_now(workspace.catalog, Stamper.of(settings))
    assert waiting is not None and waiting.state == "pending"
    with pytest.raises(DeliveryFailed) as failed:
        deliver(workspace, settings)
    assert failed.value.retry
    assert stamps.check_all(workspace.catalog, []).pending == 1
    server.away = False
    workspace.in_hand.clear()
    queue.recover(workspace)  # as upkeep does with a job that nobody has in hand
    deliver(workspace, settings)
    assert stamps.check_all(workspace.catalog, []).pending == 0


def test_an_answer_to_another_request_is_not_taken(
    workspace: Workspace, settings: Settings, server: Authority
) -> None:
    assert stamp_now(workspace.catalog, Stamper.of(settings)) is not None
    server.replayed = server.answers[-1]
    act(workspace)
    other = stamp_now(workspace.catalog, Stamper.of(settings))
    assert other is not None and other.state == "pending"
    with pytest.raises(DeliveryFailed, match="over something else"):
        Stamper.of(settings).stamp(workspace.catalog, other.stamp_id)
    # Over the right head, and with the number of an earlier request.
    server.replayed = server.stamp(stamps.request_for(other).as_bytes())
    with pytest.raises(DeliveryFailed, match="another request"):
        Stamper.of(settings).stamp(workspace.catalog, other.stamp_id)
    server.replayed = b"<html>Not found</html>"
    with pytest.raises(DeliveryFailed, match="no time stamp"):
        Stamper.of(settings).stamp(workspace.catalog, other.stamp_id)


def test_upkeep_asks_once_a_day_and_again_for_what_was_given_up(
    workspace: Workspace, settings: Settings
) -> None:
    workspace.options = WorkspaceOptions(stamps=True)
    stamps.keep_asking(workspace)
    stamps.keep_asking(workspace)
    assert len(stamps.stamps(workspace.catalog)) == 1
    with workspace.catalog.write() as session:
        session.execute(update(Job).where(Job.kind == "stamp_head").values(state="failed"))
        session.execute(
            update(AuditStamp).values(asked_at=utc_now() - timedelta(days=1, minutes=1))
        )
    act(workspace)
    stamps.keep_asking(workspace)
    deliver(workspace, settings)
    found = stamps.stamps(workspace.catalog)
    assert [one.state for one in found] == ["done", "done"]
    assert jobs.counts(workspace)["queued"] == 0


def test_the_command_verifies_with_stamps_and_heads(
    workspace: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEWARD_STAMP_URL", settings.stamp_url or "")
    monkeypatch.setenv("HOMEWARD_STAMP_CA_FILE", str(settings.stamp_ca_file))
    monkeypatch.setenv("HOMEWARD_DATA_DIR", str(settings.data_dir))
    runner = CliRunner()
    told = runner.invoke(app, ["audit", "head"])
    assert told.exit_code == 0
    kept = told.output.strip()
    assert "is stamped" in runner.invoke(app, ["audit", "stamp"]).output
    told = runner.invoke(app, ["audit", "verify", "--head", kept])
    assert told.exit_code == 0, told.output
    assert "1 stamps hold." in told.output
    number = int(kept.partition(":")[0])
    told = runner.invoke(app, ["audit", "verify", "--head", f"{number}:{'0' * 64}"])
    assert told.exit_code == 1
    assert f"Record {number} is not the one" in told.output
    told = runner.invoke(app, ["audit", "verify", "--head", f"{number + 500}:{'0' * 64}"])
    assert told.exit_code == 1
    assert "cut off" in told.output
