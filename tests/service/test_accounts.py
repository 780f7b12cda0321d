"""Accounts and keys over the interface and the command line, and what guards them."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyotp
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from typer.testing import CliRunner, Result

from indexer import cases
from indexer.catalog import Catalog, open_catalog
from indexer.catalog.account_tables import Agency, SignInFailure, User
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.engine import sqlite_url
from indexer.catalog.tables import ApiKey, IdempotentResponse
from indexer.persons import same_person
from indexer.records import CaseInput
from indexer.times import utc_now
from indexer.workspace import Workspace
from service.accounts import access, elsewhere, own, passwords, people, second_factor, signing_in
from service.accounts.access import Forbidden
from service.accounts.elsewhere import ElsewhereRefused, Vouched
from service.accounts.errors import (
    CurrentPasswordWrong,
    ExpiryInvalid,
    LastAdministrator,
    LoginInvalid,
    LoginTaken,
    PasswordRefused,
    SetUpRefused,
    SignInRefused,
    TrainingExpired,
)
from service.accounts.keys import KeyStore, expiry_in_days
from service.accounts.principal import Principal
from service.accounts.roles import scopes_of
from service.cli.console import operator
from service.cli.main import app
from service.errors import Unauthenticated
from service.web import sessions
from tests.postgres import TestServer
from tests.service.conftest import problem
from tests.service.people import LATER, PASSWORD, Person, code, make_person
from tests.tables import lend_tables


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An empty catalog on either database."""
    if request.param == "sqlite":
        lend_tables(tmp_path)
        made = open_catalog(sqlite_url(tmp_path / "catalog.sqlite3"))
        yield made
        made.close()
        return
    server: TestServer = request.getfixturevalue("postgresql")
    with server.database() as url:
        made = open_catalog(url)
        yield made
        made.close()


def sign_in(catalog: Catalog, person: Person, **changes: str) -> str:
    given = {"login": person.login, "password": person.password, "code": "", **changes}
    given["code"] = given["code"] or code(catalog, person)
    return signing_in.sign_in(catalog, given["login"], given["password"], given["code"])


# --- signing in ------------------------------------------------------------------------------


def test_a_code_serves_once_however_many_try_it_at_the_same_time(catalog: Catalog) -> None:
    person = make_person(catalog, "rita", ["investigator"])
    given = code(catalog, person)
    outcomes: list[str] = []

    def try_it() -> None:
        try:
            outcomes.append(signing_in.sign_in(catalog, "rita", PASSWORD, given))
        except SignInRefused:
            outcomes.append("refused")

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted([person.user_id, *["refused"] * 3])


def test_the_limit_holds_for_tries_at_the_same_time(catalog: Catalog) -> None:
    """PRACTICE 10: five failures lock a name, and a tenth guess at the same moment is no way
    around it: the right one among the later ones is not taken."""
    make_person(catalog, "rita", ["investigator"])
    tried: list[bool] = []

    def guess() -> None:
        made = signing_in.begin_try(catalog, signing_in.login_digest("rita"), "", utc_now())
        tried.append(made.locked)

    threads = [threading.Thread(target=guess) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tried) == [False] * 5 + [True] * 4


def test_a_lock_ends_with_its_time_and_outlives_the_process(catalog: Catalog) -> None:
    person = make_person(catalog, "rita", ["investigator"])
    with pytest.raises(SignInRefused):
        sign_in(catalog, person, password="wrong wrong wrong")
    for _ in range(signing_in.FAILURES - 1):
        signing_in.begin_try(catalog, signing_in.login_digest("rita"), "", utc_now())
    with pytest.raises(SignInRefused):
        sign_in(catalog, person)
    with catalog.write() as session:
        session.execute(
            update(SignInFailure).values(at=utc_now() - signing_in.WINDOW - timedelta(seconds=1))
        )
    assert sign_in(catalog, person) == person.user_id
    with catalog.read() as session:
        assert session.scalars(select(SignInFailure)).all() == []


def test_success_clears_the_failures_of_the_name_only(catalog: Catalog) -> None:
    rita, carl = (
        make_person(catalog, "rita", ["auditor"]),
        make_person(catalog, "carl", ["auditor"]),
    )
    for name in ("rita", "carl"):
        for _ in range(4):
            signing_in.begin_try(catalog, signing_in.login_digest(name), "", utc_now())
    assert sign_in(catalog, rita)
    with pytest.raises(SignInRefused):
        sign_in(catalog, rita, password="wrong wrong wrong")
    assert sign_in(catalog, rita)
    with pytest.raises(SignInRefused):
        sign_in(catalog, carl, password="wrong wrong wrong")
    with pytest.raises(SignInRefused):
        sign_in(catalog, carl)


@pytest.mark.parametrize("login", ["rita", "nobody", "gone", "away", "locked"])
def test_whoever_is_tried_a_password_is_verified(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, login: str
) -> None:
    """PRACTICE 10: the time of an answer tells nobody whether there is an account, because the
    costly part is done in each case, and the same number of times."""
    catalog = workspace.catalog
    admin = make_person(catalog, "admin", ["administrator"], None)
    for name in ("rita", "gone", "locked"):
        make_person(catalog, name, ["investigator"])
    people.change(catalog, admin.principal, "gone", disabled=True)
    with catalog.write() as session:
        digest = signing_in.login_digest("locked")
        for number in range(5):
            session.add(
                SignInFailure(failure_id=str(number), name=digest, address="", at=utc_now())
            )
        people.add(session, "away", ["auditor"], None).issuer = "https://provider.example"
    verified: list[bool] = []
    real = passwords.verify

    def counted(stored: str | None, password: str) -> bool:
        verified.append(real(stored, password))
        return verified[-1]

    monkeypatch.setattr(passwords, "verify", counted)
    with pytest.raises(SignInRefused):
        signing_in.sign_in(catalog, login, PASSWORD if login != "rita" else "x", "")
    assert len(verified) == 1


def test_codes_of_the_steps_beside_are_taken_and_no_others() -> None:
    secret = pyotp.random_base32()
    totp = pyotp.TOTP(secret)
    now = utc_now()
    step = totp.timecode(now)
    for offset in (-1, 0, 1):
        given = totp.generate_otp(step + offset)
        assert second_factor.accepted_step(secret, given, None, now) == step + offset
        assert second_factor.accepted_step(secret, given, step + offset, now) is None
    for offset in (-2, 2):
        given = totp.generate_otp(step + offset)
        near = {totp.generate_otp(step + other) for other in (-1, 0, 1)}
        assert given in near or second_factor.accepted_step(secret, given, None, now) is None
    for given in ("", "12345", "1234567", "١٢٣٤٥٦", "12345a"):
        assert second_factor.accepted_step(secret, given, None, now) is None


def test_the_codes_are_those_of_the_standard() -> None:
    """RFC 6238, appendix B, the SHA-1 column, cut to six digits."""
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    from datetime import UTC, datetime

    for seconds, shown in ((59, "287082"), (1111111109, "081804"), (20000000000, "353130")):
        now = datetime.fromtimestamp(seconds, UTC)
        assert second_factor.accepted_step(secret, shown, None, now) == seconds // 30


def test_a_set_up_code_ends_with_its_time(catalog: Catalog) -> None:
    admin = make_person(catalog, "admin", ["administrator"], None)
    made = people.create(catalog, admin.principal, "new", ["auditor"], agency=None)
    with catalog.read() as session:
        assert made.code not in str([vars(row) for row in session.scalars(select(User))])
    late = made.expires_at
    assert signing_in.user_of_setup_code(catalog, made.code, now=late - timedelta(seconds=1))
    with pytest.raises(SetUpRefused):
        signing_in.user_of_setup_code(catalog, made.code, now=late)
    again = people.reset(catalog, admin.principal, made.record.user_id)
    with pytest.raises(SetUpRefused):
        signing_in.user_of_setup_code(catalog, made.code)
    assert signing_in.user_of_setup_code(catalog, again.code) == made.record.user_id


def test_a_reset_ends_everything_that_let_the_person_in(catalog: Catalog) -> None:
    admin = make_person(catalog, "admin", ["administrator"], None)
    person = make_person(catalog, "rita", ["investigator"])
    token = sessions.begin_for_user(catalog, person.user_id).token
    people.reset(catalog, admin.principal, person.user_id)
    assert sessions.find(catalog, token, configured=False) is None
    with pytest.raises(SignInRefused):
        signing_in.sign_in(catalog, "rita", PASSWORD, person.totp.now())


def test_a_reset_of_a_person_of_a_provider_leaves_one_way_in(catalog: Catalog) -> None:
    """The code is no second way in beside the provider, and serves until the account is set up."""
    admin = make_person(catalog, "admin", ["administrator"], None)
    person = make_person(catalog, "rita", ["investigator"])
    elsewhere.link(catalog, admin.principal, "rita", "https://idp.example", subject="s1")
    made = people.reset(catalog, admin.principal, person.user_id)
    assert not made.record.set_up and not made.record.elsewhere
    assert signing_in.user_of_setup_code(catalog, made.code) == person.user_id
    with pytest.raises(ElsewhereRefused):
        elsewhere.sign_in(catalog, Vouched("https://idp.example", "s1", second_factor=True))
    # However an account came to be set up, a code that is left over lets nobody in.
    with catalog.write() as session:
        session.get_one(User, person.user_id).issuer = "https://idp.example"
    with pytest.raises(SetUpRefused):
        signing_in.user_of_setup_code(catalog, made.code)


def test_a_slash_at_the_end_of_an_issuer_locks_nobody_out(catalog: Catalog) -> None:
    admin = make_person(catalog, "admin", ["administrator"], None)
    for login, linked, told in (("one", "/", ""), ("two", "", "/")):
        person = make_person(catalog, login, ["investigator"])
        issuer = "https://idp.example"
        elsewhere.link(catalog, admin.principal, login, issuer + linked, subject=login)
        vouched = Vouched(issuer + told, login, second_factor=True)
        assert elsewhere.sign_in(catalog, vouched).user_id == person.user_id


def test_what_ended_with_the_first_account_stays_ended(catalog: Catalog) -> None:
    admin = make_person(catalog, "admin", ["administrator"], None)
    with pytest.raises(LastAdministrator):
        people.reset(catalog, admin.principal, admin.user_id)
    operator = access.operator("cli:tests")
    people.reset(catalog, operator, admin.user_id)
    assert people.accounts_exist(catalog)
    elsewhere.link(catalog, operator, "admin", "https://idp.example", subject="s1")
    with pytest.raises(LastAdministrator):
        elsewhere.unlink(catalog, admin.principal, "admin")
    elsewhere.unlink(catalog, operator, "admin")
    assert people.accounts_exist(catalog)
    with pytest.raises(Unauthenticated):
        sessions.begin(catalog, holder("cases:read"))


def test_no_key_is_made_where_people_have_accounts(catalog: Catalog) -> None:
    store = KeyStore(catalog)
    first = store.ensure_administrator()
    assert first is not None
    make_person(catalog, "admin", ["administrator"], None)
    store.revoke(first.record.key_id)
    assert store.ensure_administrator() is None


def test_the_addresses_of_one_subscriber_are_one(catalog: Catalog) -> None:
    for number in range(signing_in.ADDRESS_FAILURES):
        signing_in.begin_try(catalog, "", f"2001:db8:0:1::{number:x}", utc_now())
    with pytest.raises(signing_in.TooManyFailures):
        signing_in.begin_try(catalog, "", "2001:db8:0:1:ffff::1", utc_now())
    signing_in.begin_try(catalog, "", "2001:db8:0:2::1", utc_now())


def test_guessing_in_an_open_session_locks_too(catalog: Catalog) -> None:
    person = make_person(catalog, "rita", ["investigator"])
    for _ in range(signing_in.FAILURES):
        with pytest.raises(CurrentPasswordWrong):
            own.change_password(catalog, person.user_id, "wrong wrong wrong", "nine patient herons")
    with pytest.raises(CurrentPasswordWrong):
        own.change_password(catalog, person.user_id, PASSWORD, "nine patient herons")


# --- passwords -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "password",
    ["eleven char", "x" * 257, "passwordpassword", "password123456", "123456789012",
     "aaaaaaaaaaaaaa", "abcabcabcabcabc", "homeward-2026", "Homeward Homeward", "rita.stone-1",
     "qwertyuiop123", "RitaStone2026"],
)  # fmt: skip
def test_passwords_that_are_guessed_first_are_refused(password: str) -> None:
    with pytest.raises(PasswordRefused):
        passwords.check(password, "rita.stone", "Rita Stone")


@pytest.mark.parametrize(
    "password", [PASSWORD, "correct horse battery", "äöü ßéñ 漢字かな交じり", "x7$kQ" * 2 + "pL9!w"]
)
def test_long_passwords_of_any_characters_are_taken(password: str) -> None:
    passwords.check(password, "rita.stone", "Rita Stone")


def test_a_hash_is_argon2id_and_is_made_anew_when_parameters_change(catalog: Catalog) -> None:
    from argon2 import PasswordHasher

    person = make_person(catalog, "rita", ["investigator"])
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    with catalog.write() as session:
        session.execute(update(User).values(password=weak))
    assert passwords.outdated(weak)
    sign_in(catalog, person)
    with catalog.read() as session:
        stored = session.scalar(select(User.password))
    assert stored is not None and stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert not passwords.outdated(stored)
    assert passwords.verify(stored, PASSWORD) and not passwords.verify(stored, PASSWORD + "x")
    # The same text from another keyboard: a composed letter and its two parts.
    assert passwords.verify(
        passwords.hashed("caf\u00e9 caf\u00e9 six"), "cafe\u0301 cafe\u0301 six"
    )


# --- people ----------------------------------------------------------------------------------


def test_logins_are_one_however_they_are_written(catalog: Catalog) -> None:
    admin = make_person(catalog, "admin", ["administrator"], None)
    people.create(catalog, admin.principal, "Rita.Stone", ["auditor"], agency=None)
    for same in ("rita.stone", " RITA.STONE ", "\uff32ita.stone"):
        with pytest.raises(LoginTaken):
            people.create(catalog, admin.principal, same, ["auditor"], agency=None)
    for bad in ("", "two words", "-x", "a/b", "x" * 101, "a\nb", admin.user_id):
        with pytest.raises(LoginInvalid):
            people.create(catalog, admin.principal, bad, ["auditor"], agency=None)


def test_only_the_trained_judge(catalog: Catalog) -> None:
    today = date(2026, 5, 1)
    for until, fine in ((None, False), (date(2026, 4, 30), False), (today, True), (LATER, True)):
        name = f"r{until}"
        person = make_person(catalog, name, ["investigator"], trained_until=until)
        if fine:
            people.require_trained(catalog, person.principal, today)
        else:
            with pytest.raises(TrainingExpired):
                people.require_trained(catalog, person.principal, today)
    people.require_trained(catalog, Principal("k", "a key", frozenset()), today)


def test_a_case_may_be_the_first_to_name_an_agency(workspace: Workspace) -> None:
    cases.create_case(workspace, CaseInput(agency="north", case_number="1"))
    made = cases.create_case(workspace, CaseInput(case_number="2"))
    cases.update_case(workspace, made.case_id, {"agency": "south"})
    with workspace.catalog.read() as session:
        assert set(session.scalars(select(Agency.name))) == {"", "north", "south"}


# --- keys ------------------------------------------------------------------------------------


def holder(*scopes: str, agency: str | None = None) -> Principal:
    return Principal("k", "a key", frozenset(scopes), agency=agency)


def test_nobody_gives_what_they_do_not_hold(catalog: Catalog) -> None:
    """PRACTICE 10: no way up through a key that may make keys and people."""
    store = KeyStore(catalog)
    narrow = holder("accounts:write", "cases:read")
    store.create("fine", ("cases:read",), by=narrow)
    for scopes in (("administrator",), ("ads:delete",), ("role:investigator",)):
        with pytest.raises(Forbidden):
            store.create("no", scopes, by=narrow)
    with pytest.raises(Forbidden):
        people.create(catalog, narrow, "x", ["investigator"], agency=None)
    person = make_person(catalog, "rita", ["investigator"], None)
    with pytest.raises(Forbidden):
        people.reset(catalog, narrow, person.user_id)
    with pytest.raises(Forbidden):
        people.change(catalog, narrow, person.user_id, roles=["investigator", "auditor"])
    # An administrator gives any role, and no single permission that they lack.
    admin = make_person(catalog, "admin", ["administrator"], None).principal
    assert "search" not in admin.scopes
    store.create("for a scraper", ("role:scraper",), by=admin)
    for scopes in (("administrator",), ("search",)):
        with pytest.raises(Forbidden):
            store.create("no", scopes, by=admin)
    everything = holder(*scopes_of(["scraper", "investigator", "supervisor", "auditor"]))
    with pytest.raises(Forbidden):
        store.create("no", ("administrator",), by=everything)


def test_what_a_person_made_is_theirs_however_many_keys_lie_between(catalog: Catalog) -> None:
    """PRACTICE 10: nobody is their own second person, nobody judges untrained through a key, and
    nothing of a disabled person goes on working."""
    admin = make_person(catalog, "admin", ["administrator"], None)
    eve = make_person(catalog, "eve", ["administrator", "supervisor"], "", trained_until=None)
    store = KeyStore(catalog)
    both = ("role:administrator", "role:supervisor")
    one = store.create("one", both, agency="", by=eve.principal)
    first = store.authenticate(one.text)
    assert first is not None
    two = store.create("two", ("role:supervisor",), agency="", by=first)
    operators = store.create("operator's", both, agency="", by=access.operator("cli:tests"))
    other = store.create("other", both, agency="", by=access.operator("cli:tests"))
    ids = [eve.user_id, one.record.key_id, two.record.key_id]
    with catalog.read() as session:
        assert all(same_person(session, a, b) for a in ids for b in ids)
        assert not same_person(session, ids[2], admin.user_id)
        assert not same_person(session, operators.record.key_id, other.record.key_id)
    second = store.authenticate(two.text)
    theirs = store.authenticate(operators.text)
    assert second is not None and theirs is not None
    with pytest.raises(TrainingExpired):
        people.require_trained(catalog, second)
    people.require_trained(catalog, theirs)
    people.change(catalog, admin.principal, eve.user_id, trained_until=LATER)
    people.require_trained(catalog, second)
    people.change(catalog, admin.principal, eve.user_id, disabled=True)
    assert store.authenticate(one.text) is store.authenticate(two.text) is None
    assert store.authenticate(operators.text) is not None
    people.change(catalog, admin.principal, eve.user_id, disabled=False)
    assert store.authenticate(two.text) is None
    with catalog.read() as session:
        query = select(AuditRecord.subject_id).where(AuditRecord.action == "key.revoke")
        assert set(session.scalars(query)) == set(ids[1:])


def test_makers_that_made_each_other_end_the_walk(catalog: Catalog) -> None:
    store = KeyStore(catalog)
    one, two = (store.create(name).record.key_id for name in ("one", "two"))
    with catalog.write() as session:
        for key, maker in ((one, two), (two, one)):
            session.execute(update(ApiKey).where(ApiKey.key_id == key).values(created_by=maker))
    with catalog.read() as session:
        assert same_person(session, one, two)


def test_what_all_agencies_rely_on_is_for_who_works_for_all() -> None:
    for permission in ("ads:delete", "generations:write", "hashes:write"):
        access.require(holder(permission), permission)
        with pytest.raises(Forbidden) as refused:
            access.require(holder(permission, agency="north"), permission)
        assert "all agencies" in refused.value.detail


def test_a_key_is_refused_when_it_has_expired_or_its_agency_is_retired(catalog: Catalog) -> None:
    store = KeyStore(catalog)
    with catalog.write() as session:
        session.add(Agency(name="north", title="", created_at=utc_now()))
    key = store.create("one", ("cases:read",), agency="north", expires_at=expiry_in_days("1"))
    found = store.authenticate(key.text)
    assert found is not None and found.agency == "north"
    with catalog.write() as session:
        session.execute(update(ApiKey).values(expires_at=utc_now() - timedelta(seconds=1)))
    assert store.authenticate(key.text) is None and not store.in_force(key.record.key_id)
    with catalog.write() as session:
        session.execute(update(ApiKey).values(expires_at=None))
        session.execute(update(Agency).where(Agency.name == "north").values(retired_at=utc_now()))
    assert store.authenticate(key.text) is None
    for days in ("0", "-1", "1.5", "99999", "soon"):
        with pytest.raises(ExpiryInvalid):
            expiry_in_days(days)


def test_the_use_of_a_key_is_written_down_once_a_minute(catalog: Catalog) -> None:
    from service.accounts.key_uses import KeyUses

    uses = KeyUses(catalog)
    store = KeyStore(catalog, uses=uses)
    key = store.create("one")
    for _ in range(5):
        assert store.authenticate(key.text)
    uses.close()
    [record] = store.list()
    assert record.last_used_at is not None
    before = record.last_used_at
    uses = KeyUses(catalog)
    assert KeyStore(catalog, uses=uses).authenticate(key.text)
    uses.close()
    assert store.list()[0].last_used_at == before


# --- the interface ---------------------------------------------------------------------------


def test_people_over_the_interface(client: TestClient, workspace: Workspace) -> None:
    assert client.post("/v1/agencies", json={"name": "north"}).status_code == 201
    problem(client.post("/v1/agencies", json={"name": "north"}), 409, "agency_taken")
    body = {"login": "Rita", "roles": ["investigator"], "agency": "north"}
    header = {"idempotency-key": "one"}
    made = client.post("/v1/users", json=body, headers=header).json()
    assert made["login"] == "rita" and made["setup_code"].startswith("hws_")
    again = client.post("/v1/users", json=body, headers=header)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {**made, "setup_code": None}
    with workspace.catalog.read() as session:
        for row in session.scalars(select(IdempotentResponse)):
            assert made["setup_code"].encode() not in row.body
        kept = str([row.details for row in session.scalars(select(AuditRecord))])
    assert "rita" not in kept and made["setup_code"] not in kept
    path = f"/v1/users/{made['user_id']}"
    changed = client.patch(path, json={"roles": ["supervisor"], "trained_until": "2199-01-01"})
    assert changed.json()["roles"] == ["supervisor"]
    assert changed.json()["trained_until"] == "2199-01-01"
    assert client.patch(path, json={"trained_until": None}).json()["trained_until"] is None
    problem(client.patch(path, json={"roles": []}), 422, "validation_failed")
    problem(client.patch(path, json={"roles": ["king"]}), 422, "validation_failed")
    for field in ("password", "totp_secret", "issuer", "agency", "user_id", "login"):
        problem(client.patch(path, json={field: "x"}), 422, "validation_failed")
    assert client.post(f"{path}/reset").json()["setup_code"] != made["setup_code"]
    assert client.patch(path, json={"disabled": True}).json()["disabled_at"]
    assert [item["login"] for item in client.get("/v1/users").json()["items"]] == ["rita"]
    problem(client.post("/v1/users", json={**body, "agency": "west"}), 404, "agency_not_found")
    problem(client.get(f"/v1/users/{'0' * 36}"), 404, "user_not_found")


def test_sessions_over_the_interface(client: TestClient, workspace: Workspace) -> None:
    catalog = workspace.catalog
    person = make_person(catalog, "rita", ["investigator"])
    tokens = [sessions.begin_for_user(catalog, person.user_id).token for _ in range(2)]
    path = f"/v1/users/{person.user_id}/sessions"
    listed = client.get(path).json()["items"]
    assert len(listed) == 2 and not [token for token in tokens if token in str(listed)]
    assert client.delete(f"{path}/{listed[0]['session_id']}").status_code == 204
    problem(client.delete(f"{path}/{listed[0]['session_id']}"), 404, "session_not_found")
    assert len(client.get(path).json()["items"]) == 1
    assert client.delete(path).status_code == 204
    assert not [token for token in tokens if sessions.find(catalog, token, configured=False)]


def test_keys_over_the_interface(client: TestClient, workspace: Workspace) -> None:
    client.post("/v1/agencies", json={"name": "north"})
    body = {"name": "desk", "roles": ["investigator"], "agency": "north"}
    header = {"idempotency-key": "one"}
    made = client.post("/v1/keys", json=body, headers=header).json()
    again = client.post("/v1/keys", json=body, headers=header).json()
    assert again == {**made, "key": None} and made["scopes"] == ["role:investigator"]
    auth = {"authorization": f"Bearer {made['key']}"}
    assert client.get("/v1/cases", headers=auth).status_code == 200
    for method, path in (("GET", "/v1/keys"), ("GET", "/v1/users"), ("POST", "/v1/keys")):
        answer = client.request(method, path, headers=auth, json={"name": "x", "roles": []})
        problem(answer, 403, "forbidden")
    unnamed = client.post("/v1/keys", json={"name": "desk", "roles": ["investigator"]})
    assert unnamed.json()["agency"] == ""
    problem(client.post("/v1/keys", json={"name": "x"}), 422, "role_unknown")
    problem(client.post("/v1/keys", json={"name": "x", "scopes": ["all"]}), 422, "role_unknown")
    past = {"name": "x", "scopes": ["search"], "expires_at": "2001-01-01T00:00:00Z"}
    problem(client.post("/v1/keys", json=past), 422, "expiry_invalid")
    assert made["key"] not in client.get("/v1/keys").text
    assert client.delete(f"/v1/keys/{made['key_id']}").status_code == 204
    problem(client.get("/v1/cases", headers=auth), 401, "unauthenticated")


def test_a_key_of_an_agency_manages_that_agency_only(
    client: TestClient, workspace: Workspace
) -> None:
    for name in ("north", "south"):
        client.post("/v1/agencies", json={"name": name})
    store = KeyStore(workspace.catalog)
    key = store.create("north", ("role:administrator",), agency="north")
    other = store.create("south", ("cases:read",), agency="south")
    person = make_person(workspace.catalog, "sue", ["administrator"], "south")
    auth = {"authorization": f"Bearer {key.text}"}
    assert [k["name"] for k in client.get("/v1/keys", headers=auth).json()["items"]] == ["north"]
    assert client.get("/v1/users", headers=auth).json()["items"] == []
    answer = client.delete(f"/v1/keys/{other.record.key_id}", headers=auth)
    problem(answer, 404, "key_not_found")
    for method, path, body in (
        ("GET", f"/v1/users/{person.user_id}", None),
        ("PATCH", f"/v1/users/{person.user_id}", {"disabled": True}),
        ("POST", f"/v1/users/{person.user_id}/reset", None),
        ("GET", f"/v1/users/{person.user_id}/sessions", None),
        ("DELETE", f"/v1/users/{person.user_id}/sessions", None),
    ):
        problem(client.request(method, path, json=body, headers=auth), 404, "user_not_found")
    for agency in ("south", None, ""):
        asked: dict[str, Any] = {"name": "x", "roles": ["administrator"], "agency": agency}
        problem(client.post("/v1/keys", json=asked, headers=auth), 404, "agency_not_found")
        asked = {"login": "x", "roles": ["administrator"], "agency": agency}
        problem(client.post("/v1/users", json=asked, headers=auth), 404, "agency_not_found")
    asked = {"login": "x", "roles": ["administrator"]}
    assert client.post("/v1/users", json=asked, headers=auth).json()["agency"] == "north"
    problem(client.post("/v1/agencies", json={"name": "x"}, headers=auth), 403, "forbidden")
    answer = client.patch("/v1/agencies/south", json={"retired": True}, headers=auth)
    problem(answer, 403, "forbidden")


def test_the_last_administrator_stays_over_the_interface_too(
    client: TestClient, workspace: Workspace
) -> None:
    person = make_person(workspace.catalog, "admin", ["administrator"], None)
    path = f"/v1/users/{person.user_id}"
    # One who never set up the account can take nobody's place.
    client.post("/v1/users", json={"login": "later", "roles": ["administrator"]})
    for body in ({"disabled": True}, {"roles": ["auditor"]}):
        problem(client.patch(path, json=body), 409, "last_administrator")
    make_person(workspace.catalog, "second", ["administrator"], None)
    assert client.patch(path, json={"disabled": True}).status_code == 200


# --- the command line ------------------------------------------------------------------------


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--data-dir", str(folder)])


def test_accounts_from_the_command_line(tmp_path: Path) -> None:
    lend_tables(tmp_path)
    made = run(tmp_path, "users", "create", "jane", "--role", "administrator")
    assert made.exit_code == 0, made.output
    found = re.search(r"hws_[\w-]{32}", made.output)
    assert found and "/welcome?code=" in made.output and "all agencies" in made.output
    assert run(tmp_path, "users", "create", "x", "--role", "king").exit_code == 1
    assert run(tmp_path, "agencies", "create", "north", "--title", "The North").exit_code == 0
    words = ("users", "create", "rita", "--role", "investigator", "--agency", "north", "--json")
    rita = json.loads(run(tmp_path, *words).stdout)
    assert rita["agency"] == "north" and rita["setup_code"]
    run(tmp_path, "users", "train", "rita", "--until", "2199-01-31")
    run(tmp_path, "users", "roles", "rita", "--role", "supervisor", "--role", "investigator")
    shown = json.loads(run(tmp_path, "users", "show", "rita", "--json").stdout)
    assert shown["roles"] == ["investigator", "supervisor"]
    assert shown["trained_until"] == "2199-01-31" and "setup_code" not in shown
    assert "disabled_at" in run(tmp_path, "users", "disable", "rita").output
    listed = run(tmp_path, "users", "list").output
    assert "disabled" in listed and "not set up yet" in listed
    run(tmp_path, "users", "enable", "rita")
    again = json.loads(run(tmp_path, "users", "reset", "rita", "--json").stdout)
    assert again["setup_code"] != rita["setup_code"]
    assert "0 sessions" in run(tmp_path, "users", "sessions", "rita", "--end").output
    assert "retired" in run(tmp_path, "agencies", "retire", "north").output
    assert "The North" in run(tmp_path, "agencies", "list").output
    catalog = open_catalog(sqlite_url(tmp_path / "catalog.sqlite3"))
    try:
        with catalog.read() as session:
            kinds = set(session.scalars(select(AuditRecord.actor_kind)))
        assert kinds == {"cli"}
        assert signing_in.user_of_setup_code(catalog, found.group()) is not None
    finally:
        catalog.close()


@pytest.mark.skipif(sys.platform == "win32", reason="accounts are asked otherwise there")
def test_who_is_at_the_command_line_is_not_theirs_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "jane.roe")
    assert operator() == f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    assert operator() == f"cli:uid-{2**31 - 7}"


def test_keys_from_the_command_line(tmp_path: Path) -> None:
    lend_tables(tmp_path)
    assert "Administrator key" in run(tmp_path, "keys", "create", "all").output
    words = ("keys", "create", "scraper", "--role", "scraper", "--expires-days", "30", "--json")
    made = json.loads(run(tmp_path, *words).stdout)
    assert made["scopes"] == ["role:scraper"] and made["expires_at"] and made["agency"] is None
    scoped = ("keys", "create", "k", "--scope", "search", "--scope", "cases:read", "--json")
    found = json.loads(run(tmp_path, *scoped).stdout)
    assert found["scopes"] == ["cases:read", "search"] and found["agency"] is None
    # What works on cases is of one agency, as people are, unless it is said.
    desk = ("keys", "create", "desk", "--role", "investigator", "--json")
    assert json.loads(run(tmp_path, *desk).stdout)["agency"] == ""
    assert json.loads(run(tmp_path, *desk, "--all-agencies").stdout)["agency"] is None
    for bad in (("--scope", "everything"), ("--role", "king"), ("--expires-days", "0")):
        assert run(tmp_path, "keys", "create", "k", *bad).exit_code == 1
    assert run(tmp_path, "keys", "create", "k", "--agency", "nowhere").exit_code == 1
    assert "role:scraper" in run(tmp_path, "keys", "list").output
