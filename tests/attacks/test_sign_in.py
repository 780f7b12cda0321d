"""Guessing names, passwords, codes and set-up codes; telling names apart by the work done."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from indexer.catalog.account_tables import SignInFailure, User
from indexer.catalog.audit_tables import AuditRecord
from indexer.workspace import Workspace
from service.accounts import access, passwords, people, signing_in
from service.accounts.errors import SetUpRefused, SignInRefused
from service.accounts.keys import KeyStore
from service.config import Settings
from tests.attacks.servers import read_all, running
from tests.service.people import PASSWORD, code, enter, make_person
from tests.service.web.browser import HTML

OPERATOR = access.operator("tests")


def try_in(workspace: Workspace, login: str, password: str, number: str, address: str = "") -> str:
    return signing_in.sign_in(workspace.catalog, login, password, number, address=address)


def test_brute_force_against_a_password(workspace: Workspace) -> None:
    person = make_person(workspace.catalog, "anna", ["investigator"])
    for guess in range(signing_in.FAILURES):
        with pytest.raises(SignInRefused):
            try_in(workspace, "anna", f"guess number {guess}", "000000", f"192.0.2.{guess}")
    # Locked for everybody, from wherever: also the right password with the right code.
    with pytest.raises(SignInRefused):
        try_in(workspace, "ANNA ", PASSWORD, code(workspace.catalog, person), "192.0.2.99")


def test_brute_force_against_a_code(workspace: Workspace) -> None:
    person = make_person(workspace.catalog, "anna", ["investigator"])
    for guess in range(signing_in.FAILURES):
        with pytest.raises(SignInRefused):
            try_in(workspace, "anna", PASSWORD, f"{guess:06d}")
    with pytest.raises(SignInRefused):
        try_in(workspace, "anna", PASSWORD, code(workspace.catalog, person))


def test_a_code_that_was_seen_serves_nobody_again(workspace: Workspace) -> None:
    person = make_person(workspace.catalog, "anna", ["investigator"])
    seen = code(workspace.catalog, person)
    assert try_in(workspace, "anna", PASSWORD, seen) == person.user_id
    with pytest.raises(SignInRefused):
        try_in(workspace, "anna", PASSWORD, seen)


def test_brute_force_against_many_names_from_one_address(workspace: Workspace) -> None:
    """One password against every name (spraying) ends with the tries of the address."""
    person = make_person(workspace.catalog, "anna", ["investigator"])
    verified = 0
    real = passwords.verify

    def counted(stored: str | None, password: str) -> bool:
        nonlocal verified
        verified += 1
        return False

    passwords.verify = counted
    try:
        for number in range(signing_in.ADDRESS_FAILURES + 10):
            with pytest.raises(SignInRefused):
                try_in(workspace, f"name{number}", PASSWORD, "000000", "192.0.2.1")
    finally:
        passwords.verify = real
    assert verified == signing_in.ADDRESS_FAILURES
    with pytest.raises(SignInRefused):
        try_in(workspace, "anna", PASSWORD, code(workspace.catalog, person), "192.0.2.1")
    right = code(workspace.catalog, person)
    assert try_in(workspace, "anna", PASSWORD, right, "192.0.2.2") == person.user_id


def test_brute_force_against_a_set_up_code(workspace: Workspace) -> None:
    made = people.create(workspace.catalog, OPERATOR, "anna", ["investigator"], agency=None)
    for number in range(signing_in.ADDRESS_FAILURES):
        with pytest.raises((SetUpRefused, SignInRefused)):
            signing_in.user_of_setup_code(
                workspace.catalog, f"hws_{number:032d}", address="192.0.2.1"
            )
    with pytest.raises(signing_in.TooManyFailures):
        signing_in.user_of_setup_code(workspace.catalog, made.code, address="192.0.2.1")


def test_enumeration_by_timing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong, the same costly work is done the same number of times, as much is
    written, and one thing is answered."""
    make_person(workspace.catalog, "anna", ["investigator"])
    make_person(workspace.catalog, "closed", ["investigator"])
    closed = make_person(workspace.catalog, "gone", ["investigator"])
    people.change(workspace.catalog, OPERATOR, closed.user_id, disabled=True)
    linked = make_person(workspace.catalog, "linked", ["investigator"])
    with workspace.catalog.write() as session:
        session.execute(
            update(User)
            .where(User.user_id == linked.user_id)
            .values(issuer="https://login.example", subject="1", password=None)
        )
    for _ in range(signing_in.FAILURES):
        with pytest.raises(SignInRefused):
            try_in(workspace, "closed", "wrong wrong wrong", "000000")
    parameters: list[str] = []
    hasher = type(passwords._hasher)
    real = hasher.verify

    def verify(self: Any, stored: str, given: str) -> bool:
        parameters.append(stored.rpartition("$")[0].rpartition("$")[0])
        return bool(real(self, stored, given))

    monkeypatch.setattr(hasher, "verify", verify)
    seen = set()
    for login, password in (
        ("nobody", PASSWORD),
        ("anna", "wrong wrong wrong"),
        ("anna", PASSWORD),
        ("gone", PASSWORD),
        ("closed", PASSWORD),
        ("linked", PASSWORD),
        ("", ""),
        ("a" * 5_000, PASSWORD),
    ):
        parameters.clear()
        failures, records = _counts(workspace)
        with pytest.raises(SignInRefused) as refused:
            try_in(workspace, login, password, "000000")
        after = _counts(workspace)
        seen.add(
            (
                tuple(parameters),
                after[0] - failures,
                after[1] - records,
                refused.value.code,
                refused.value.detail,
            )
        )
    assert len(seen) == 1, seen
    ((work, _, _, code_of_all, _),) = seen
    assert len(work) == 1 and work[0].startswith("$argon2id$")
    assert code_of_all == SignInRefused.code


def _counts(workspace: Workspace) -> tuple[int, int]:
    with workspace.catalog.read() as session:
        return (
            session.scalar(select(func.count()).select_from(SignInFailure)) or 0,
            session.scalar(select(func.count()).select_from(AuditRecord)) or 0,
        )


def test_names_that_were_tried_are_kept_nowhere(workspace: Workspace) -> None:
    with pytest.raises(SignInRefused):
        try_in(workspace, "somebody.by.name", "a password typed here", "a-code-typed", "192.0.2.1")
    with workspace.catalog.read() as session:
        rows = [vars(row) for row in session.scalars(select(SignInFailure))]
        rows += [vars(row) for row in session.scalars(select(AuditRecord))]
    text = str(rows)
    assert "192.0.2.1" in text
    for typed in ("somebody", "typed here", "a-code-typed"):
        assert typed not in text, typed


def test_downgraded_role_mid_session(client: TestClient, workspace: Workspace) -> None:
    person = make_person(workspace.catalog, "anna", ["investigator"])
    make_person(workspace.catalog, "other", ["administrator"], None)
    browser = TestClient(client.app, follow_redirects=False)
    enter(browser, workspace.catalog, person)
    assert browser.get("/cases", headers=HTML).status_code == 200
    people.change(workspace.catalog, OPERATOR, person.user_id, roles=["scraper"])
    for path in ("/cases", "/cases/new", "/alerts"):
        assert browser.get(path, headers=HTML).status_code == 403, path
    people.change(workspace.catalog, OPERATOR, person.user_id, roles=["investigator"])
    assert browser.get("/cases", headers=HTML).status_code == 200


def test_disabled_person_mid_session(client: TestClient, workspace: Workspace) -> None:
    person = make_person(workspace.catalog, "anna", ["investigator"])
    browser = TestClient(client.app, follow_redirects=False)
    enter(browser, workspace.catalog, person)
    assert browser.get("/cases", headers=HTML).status_code == 200
    people.change(workspace.catalog, OPERATOR, person.user_id, disabled=True)
    assert browser.get("/cases", headers=HTML).status_code == 303
    people.change(workspace.catalog, OPERATOR, person.user_id, disabled=False)
    assert browser.get("/cases", headers=HTML).status_code == 303, "the session does not rise again"


def test_revoked_key_mid_event_stream(settings: Settings, workspace: Workspace) -> None:
    with running(settings, workspace) as server, server.connect() as connection:
        keys = KeyStore(workspace.catalog)
        made = keys.create("listener")
        connection.sendall(
            f"GET /v1/alerts/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {made.text}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        keys.revoke(made.record.key_id)
        connection.settimeout(60)
        # It returns once the server has ended the stream; else it times out.
        read_all(connection)
