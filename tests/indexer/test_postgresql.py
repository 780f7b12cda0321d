"""What only a server does: other machines, broken connections, locks, its own locale."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from indexer import ads, cases, forget, jobs
from indexer.catalog import Catalog, open_catalog, postgresql
from indexer.catalog.schema import Base
from indexer.catalog.tables import GalleryLog, Purge
from indexer.errors import CatalogAway, CatalogBusy, CatalogUnusable, StorageError, StorageFull
from indexer.records import CaseInput, Person, Upload
from indexer.workspace import Workspace, open_workspace
from tests.indexer.conftest import Reopen, url_of
from tests.indexer.small import SmallAnalyser, colour, face_picture, vector_of
from tests.indexer.test_ads import ad
from tests.postgres import TestServer, postgresql_only

REPOSITORY = Path(__file__).parents[2]
NAME = b"Zebulon Quillfeather"


@pytest.fixture
def url(postgresql: TestServer) -> Iterator[str]:
    with postgresql.database() as made:
        yield made


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    opened = open_catalog(url)
    yield opened
    opened.close()


def disconnect_all(server: TestServer, catalog: Catalog) -> None:
    name = catalog.engine.url.database
    server.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )


# --- several processes -----------------------------------------------------------------------

_WRITE = """
import sys
from sqlalchemy import insert
from indexer.catalog import open_catalog
from indexer.catalog.tables import GalleryLog
catalog = open_catalog(sys.argv[1])
row = {"gallery": "ads", "contract_id": "c", "op": "add"}
for i in range(60):
    with catalog.write() as session:
        session.execute(insert(GalleryLog), [{**row, "face_id": f"{sys.argv[2]}-{i}"}] * 3)
catalog.close()
"""


def test_the_log_is_seen_in_the_order_of_commits(catalog: Catalog, url: str) -> None:
    """A reader that goes on after the last number it saw misses nothing."""
    command = [sys.executable, "-c", _WRITE, url]
    writers = [subprocess.Popen([*command, name], cwd=REPOSITORY) for name in ("a", "b")]
    threads = [threading.Thread(target=_add, args=(catalog, name)) for name in ("c", "d")]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    busy = True
    while busy:
        # First this, so that one more look follows the last commit.
        busy = any(writer.poll() is None for writer in writers) or any(
            thread.is_alive() for thread in threads
        )
        with catalog.read() as session:
            query = select(GalleryLog.seq).where(GalleryLog.seq > (seen[-1] if seen else 0))
            seen += session.scalars(query.order_by(GalleryLog.seq)).all()
    assert [writer.returncode for writer in writers] == [0, 0]
    for thread in threads:
        thread.join()
    with catalog.read() as session:
        every = session.scalars(select(GalleryLog.seq).order_by(GalleryLog.seq)).all()
    assert len(every) == 4 * 60 * 3
    assert seen == every


def _add(catalog: Catalog, name: str) -> None:
    for i in range(60):
        with catalog.write() as session:
            row = {"gallery": "ads", "contract_id": "c", "op": "add", "face_id": f"{name}-{i}"}
            session.execute(insert(GalleryLog), [row] * 3)


def test_no_connection_keeps_numbers_for_later(catalog: Catalog) -> None:
    with catalog.read() as session:
        kept = session.execute(text("SELECT sequencename, cache_size FROM pg_sequences")).all()
    assert {name for name, _ in kept} >= {"gallery_log_seq_seq", "alerts_seq_seq"}
    assert {size for _, size in kept} == {1}


_OTHER = """
import sys
from pathlib import Path
from indexer import ads, forget, jobs
from indexer.records import Upload
from indexer.workspace import open_workspace
from tests.indexer.small import SmallAnalyser, face_picture
from tests.indexer.test_ads import ad
with open_workspace(Path(sys.argv[1]), SmallAnalyser(), catalog_url=sys.argv[2]) as ws:
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "add":
            ads.receive_ad(ws, ad(rest), [Upload(face_picture(int(rest)))])
            jobs.run_pending(ws)
        elif word == "forget":
            forget.forget_ad(ws, rest)
        print(ws.ads.count(), flush=True)
"""


@pytest.mark.parametrize("catalog_url", ["sqlite", "postgresql"], indirect=True)
def test_two_processes_see_each_others_additions_and_deletions(ws: Workspace) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(ws.data_dir), url_of(ws)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:

        def tell(words: str) -> int:
            assert other.stdin is not None and other.stdout is not None
            other.stdin.write(f"{words}\n")
            other.stdin.flush()
            return int(other.stdout.readline())

        assert tell("add 1") == 1
        assert ws.ads.count() == 1
        mine = ads.receive_ad(ws, ad("2"), [Upload(face_picture(2))])
        jobs.run_pending(ws)
        assert tell("count") == 2
        theirs = next(item.ad_id for item in ads.list_ads(ws).items if item.ad_id != mine.ad_id)
        forget.forget_ad(ws, theirs)
        assert tell("count") == 1
        assert tell(f"forget {mine.ad_id}") == 0
        assert ws.ads.search(vector_of(colour(2))[None], 5)[0].ids == ()
        assert ws.ads.health() is None


def test_machines_with_folders_of_their_own_make_one_new_catalog(
    postgresql: TestServer, tmp_path: Path
) -> None:
    """No file lock keeps them apart; the database's does."""
    script = (
        "import sys; from indexer.catalog import open_catalog\nopen_catalog(sys.argv[1]).close()\n"
    )
    with postgresql.empty_database() as url:
        running = [
            subprocess.Popen([sys.executable, "-c", script, url], cwd=REPOSITORY) for _ in range(3)
        ]
        assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
        with open_workspace(tmp_path / "data", SmallAnalyser(), catalog_url=url) as ws:
            assert cases.list_cases(ws).items == ()


# --- transactions ----------------------------------------------------------------------------


def _entries(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Purge)) or 0


def _insert(session: Session, purge_id: str) -> None:
    session.execute(
        text(
            "INSERT INTO purge_ledger (purge_id, at, actor, kind, subject_id, counts) "
            "VALUES (:id, now(), 'a', 'ad', 's', '{}')"
        ),
        {"id": purge_id},
    )


def test_a_reader_sees_one_state_and_writes_nothing(catalog: Catalog) -> None:
    with catalog.read() as session:
        assert _entries(session) == 0
        with catalog.write() as other:
            _insert(other, "1")
        assert _entries(session) == 0
    with catalog.read() as session:
        assert _entries(session) == 1
    with pytest.raises(CatalogUnusable, match="no writes"), catalog.read() as session:
        _insert(session, "2")


def test_a_writer_sees_what_was_committed_while_it_waited(postgresql: TestServer, url: str) -> None:
    """Whatever level of isolation the server has as its default."""
    name = url.partition("?")[0].rpartition("/")[2]
    postgresql.execute(
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    )
    catalog = open_catalog(url)
    seen: list[int] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with catalog.write() as session:
            seen.append(_entries(session))

    thread = threading.Thread(target=second)
    with catalog.write() as session:
        thread.start()
        entered.wait()
        while not _waits_for_the_lock(catalog) and thread.is_alive():
            pass
        _insert(session, "1")
    thread.join()
    catalog.close()
    assert seen == [1]


def _waits_for_the_lock(catalog: Catalog) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with catalog.read() as session:
        return bool(session.execute(text(query)).scalar_one())


def test_who_waits_too_long_is_told_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgresql._SESSION, "lock_timeout", "50")
    catalog = open_catalog(url)
    with catalog.write():
        with pytest.raises(CatalogBusy), catalog.write():
            pytest.fail("two writers at once")
        with catalog.read() as session:
            assert _entries(session) == 0, "readers wait for nobody"
    catalog.close()


def test_more_threads_than_connections_take_turns(postgresql: TestServer, catalog: Catalog) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with catalog.write() as session:
                _insert(session, str(number))
            with catalog.read() as session:
                _entries(session)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with catalog.read() as session:
        assert _entries(session) == 60


# --- a server in trouble ---------------------------------------------------------------------


def test_a_connection_that_broke_meanwhile_is_replaced(
    postgresql: TestServer, catalog: Catalog
) -> None:
    with catalog.read() as session:
        _entries(session)
    disconnect_all(postgresql, catalog)
    with catalog.write() as session:
        _insert(session, "1")


def test_a_connection_that_breaks_in_a_write_leaves_nothing(
    postgresql: TestServer, catalog: Catalog
) -> None:
    def broken() -> None:
        with catalog.write() as session:
            _insert(session, "1")
            disconnect_all(postgresql, catalog)
            _insert(session, "2")

    with pytest.raises(CatalogAway):
        broken()
    with catalog.read() as session:
        assert _entries(session) == 0


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", StorageFull),
        ("53300", CatalogBusy),
        ("55P03", CatalogBusy),
        ("40001", CatalogBusy),
        ("40P01", CatalogBusy),
        ("57014", CatalogBusy),
        ("57P01", CatalogAway),
        ("42501", CatalogUnusable),
        ("25006", CatalogUnusable),
        ("58030", StorageError),
        ("XX001", CatalogUnusable),
    ],
)
def test_what_the_server_says_in_our_words(
    catalog: Catalog, state: str, kind: type[StorageError]
) -> None:
    with pytest.raises(kind) as caught, catalog.write() as session:
        session.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
    assert caught.type is kind
    assert caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://role:s3cretword@127.0.0.1:1/homeward",
        "postgresql://role@127.0.0.1:1/homeward?password=s3cretword",
        "postgresql://role@127.0.0.1/homeward?password=s3cretword&colour=red",
        "postgresql://role:s3cretword@host:word/homeward",
        "postgresql+psycopg2://role:s3cretword@127.0.0.1/homeward",
        "oracle://role:s3cretword@127.0.0.1/homeward",
        "s3cretword",
    ],
)
def test_no_error_shows_a_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        open_workspace(tmp_path / "data", SmallAnalyser(), catalog_url=url)
    assert caught.type in (CatalogAway, CatalogUnusable)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cretword" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    assert caught.value.remedy


def test_an_error_shows_nothing_of_what_was_to_be_stored(catalog: Catalog) -> None:
    with pytest.raises(IntegrityError) as caught, catalog.write() as session:
        session.execute(
            text("INSERT INTO purge_ledger (purge_id, actor) VALUES (:id, :actor)"),
            {"id": "1", "actor": NAME.decode()},
        )
    error: BaseException | None = caught.value
    while error is not None:
        assert NAME.decode() not in f"{error} {error!r}"
        error = error.__cause__


@pytest.mark.parametrize("how", ["ENCODING 'UTF8' LOCALE 'C'", "ENCODING 'SQL_ASCII' LOCALE 'C'"])
def test_a_database_that_knows_no_letters_is_refused(postgresql: TestServer, how: str) -> None:
    with postgresql.empty_database(how) as url:
        with pytest.raises(CatalogUnusable) as caught:
            open_catalog(url)
        assert "LOCALE" in caught.value.remedy


def test_a_newer_catalog_is_refused(url: str) -> None:
    with ExitStack() as stack:
        catalog = open_catalog(url)
        stack.callback(catalog.close)
        with catalog.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(CatalogUnusable, match="another version"):
            open_catalog(url)


def test_the_check_up_finds_an_index_that_is_not_valid(catalog: Catalog) -> None:
    assert catalog.problems() == []
    with catalog.write() as session:
        _insert(session, "1")
        _insert(session, "2")
    engine = catalog.engine.execution_options(isolation_level="AUTOCOMMIT")
    statement = "CREATE UNIQUE INDEX CONCURRENTLY bad ON purge_ledger (kind)"
    with engine.connect() as connection, pytest.raises(IntegrityError):
        connection.exec_driver_sql(statement)
    assert catalog.problems() == ["the index bad is not valid"]


# --- deletion --------------------------------------------------------------------------------


def test_a_deletion_is_vacuumed_once_nobody_sees_the_rows(catalog: Catalog) -> None:
    with catalog.write() as session:
        _insert(session, "1")
    with catalog.read() as session:
        assert _entries(session) == 1
        with catalog.write() as other:
            other.execute(text("DELETE FROM purge_ledger"))
        assert not catalog.scrub(), "this reader still sees the row"
    assert catalog.scrub()


@postgresql_only
def test_a_forgotten_case_is_in_no_table_file(opened: Reopen, postgresql: TestServer) -> None:
    """As far as is promised: other rows stay, and the server moves them over the gap."""
    if postgresql.data is None:
        pytest.skip("the files of a server of one's own are not looked into")
    ws = opened()
    made = []
    for number in range(12):
        name = NAME.decode() if number == 5 else f"Someone {number}"
        case = cases.create_case(ws, CaseInput(case_number=str(number), person=Person(name=name)))
        cases.add_photo(ws, case.case_id, face_picture(number))
        made.append(case.case_id)
    needles = (NAME, vector_of(colour(5)).tobytes())
    for needle in needles:
        assert _tables_with(postgresql, needle)
    forget.forget_case(ws, made[5])
    for needle in needles:
        assert _tables_with(postgresql, needle) == []


def _tables_with(server: TestServer, needle: bytes) -> list[Path]:
    assert server.data is not None
    server.execute("CHECKPOINT")
    files = (path for path in (server.data / "base").rglob("*") if path.is_file())
    return [path for path in files if needle in path.read_bytes()]


def test_a_role_that_may_not_vacuum_is_told_in_the_log(
    postgresql: TestServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = open_catalog(url)
    guest = f"guest_{catalog.engine.url.database}"
    with catalog.write() as session:
        session.execute(text(f"CREATE ROLE {guest}"))
        tables = ", ".join(Base.metadata.tables)
        session.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {guest}"))
    try:
        with catalog.engine.connect() as connection:
            connection.exec_driver_sql(f"SET ROLE {guest}")
            connection.commit()
        with caplog.at_level("WARNING"):
            assert not catalog.scrub()
        assert "permission denied" in caplog.text
    finally:
        catalog.close()
        other = open_catalog(url)
        with other.write() as session:
            session.execute(text(f"DROP OWNED BY {guest}"))
            session.execute(text(f"DROP ROLE {guest}"))
        other.close()
