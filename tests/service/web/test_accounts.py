"""Accounts in the pages: the first one, signing in, what ends a session, and who manages whom."""

from __future__ import annotations

import re
from typing import Any

import pyotp
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from indexer.catalog.account_tables import User
from indexer.catalog.audit_tables import AuditRecord
from indexer.catalog.tables import WebSession
from indexer.workspace import Workspace
from service.accounts import people
from service.web.state import SESSION_COOKIE
from tests.service.people import PASSWORD, Person, code, enter, make_person
from tests.service.web.browser import Browser, Reader


def shown_secret(page: Reader) -> str:
    found = re.search(r"Secret: ((?:[A-Z2-7]{4} ?){8})", page.prose)
    assert found, page.prose
    return found.group(1).replace(" ", "")


def shown_codes(page: Reader) -> list[str]:
    return re.findall(r"\b(?:[A-Z2-7]{4}-){3}[A-Z2-7]{4}\b", page.prose)


def sign_in(
    browser: Browser, workspace: Workspace, person: Person, expect: int = 200, **changes: str
) -> Reader:
    """Through the form, as a person does it."""
    given = {"login": person.login, "password": person.password, **changes}
    given.setdefault("code", code(workspace.catalog, person))
    browser.get("/sign-in")
    return browser.send("/sign-in", given, expect=expect)


def first_account(browser: Browser, **changes: str) -> Reader:
    secret = shown_secret(browser.get("/setup"))
    values = {"login": "Jane.Roe", "password": PASSWORD, "code": pyotp.TOTP(secret).now()}
    return browser.send("/setup", {**values, **changes}, expect=422 if changes else 200)


def actions(workspace: Workspace) -> list[str]:
    with workspace.catalog.read() as session:
        return list(session.scalars(select(AuditRecord.action).order_by(AuditRecord.seq)))


# --- the first account -----------------------------------------------------------------------


def test_the_key_opens_pages_until_somebody_has_an_account(
    browser: Browser, client: TestClient, workspace: Workspace
) -> None:
    assert "Nobody has an account here yet" in browser.get("/cases").prose
    assert "/setup" in browser.page.links
    by_key = client.cookies[SESSION_COOKIE]
    picture = client.get("/account/second-factor.svg")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert picture.text.startswith("<?xml") and "script" not in picture.text
    page = first_account(browser)
    assert len(set(shown_codes(page))) == 8
    assert "Nobody has an account" not in browser.get("/people").prose
    assert "jane.roe" in browser.page.prose
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, by_key)
    browser.get("/cases")
    assert browser.path.startswith("/sign-in")
    assert {"login", "password", "code"} <= browser.form("/sign-in").names
    assert "key" not in browser.form("/sign-in").names
    assert "user.create" in actions(workspace)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("password", "short", "at least 12"),
        ("password", "jane.roe 2026", "too easily guessed"),
        ("code", "000000x", "code is not right"),
        ("login", "two words", "sign-in name"),
    ],
)
def test_the_first_account_needs_a_good_password_and_a_right_code(
    browser: Browser, workspace: Workspace, field: str, value: str, said: str
) -> None:
    page = first_account(browser, **{field: value})
    assert said in page.prose
    assert PASSWORD not in browser.source
    assert not people.accounts_exist(workspace.catalog)


def test_a_key_that_may_not_make_accounts_makes_no_first_one(
    stranger: Browser, workspace: Workspace
) -> None:
    from service.accounts.keys import KeyStore

    key = KeyStore(workspace.catalog).create("reader", ("cases:read",))
    stranger.sign_in(key.text)
    assert "Nobody has an account" in stranger.get("/cases").prose
    assert "/setup" not in stranger.page.links
    stranger.get("/setup", expect=403)


def test_a_key_that_holds_less_than_everything_makes_no_first_account(
    stranger: Browser, workspace: Workspace
) -> None:
    """Or a key for accounts alone would make itself an administrator, who gives any role."""
    from service.accounts.keys import KeyStore

    key = KeyStore(workspace.catalog).create("accounts", ("accounts:write",))
    stranger.sign_in(key.text)
    assert "/setup" not in stranger.page.links
    stranger.get("/setup", expect=403)


# --- signing in ------------------------------------------------------------------------------


def test_name_password_and_code_open_the_pages(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    person = make_person(workspace.catalog, "rita", ["investigator"])
    page = sign_in(stranger, workspace, person, login="  RITA ")
    assert stranger.path == "/cases" and "Signed in as rita" in page.prose
    with workspace.catalog.read() as session:
        row = session.scalars(select(WebSession)).one()
    assert row.user_id == person.user_id and row.address == "testclient"
    assert client.cookies[SESSION_COOKIE] not in str(vars(row))
    # The page that follows is on record as read.
    assert "sign_in.done" in actions(workspace)[-2:]


def test_a_session_never_has_the_token_that_the_browser_brought(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    person = make_person(workspace.catalog, "rita", ["investigator"])
    planted = "a-token-that-somebody-else-knows-00000000000"
    client.cookies.set(SESSION_COOKIE, planted)
    sign_in(stranger, workspace, person)
    assert client.cookies.get(SESSION_COOKIE, domain="testserver.local") != planted
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, planted)
    stranger.get("/cases")
    assert stranger.path.startswith("/sign-in")


def test_whatever_is_wrong_the_answer_is_the_same(stranger: Browser, workspace: Workspace) -> None:
    catalog = workspace.catalog
    person = make_person(catalog, "rita", ["investigator"])
    disabled = make_person(catalog, "gone", ["investigator"])
    admin = make_person(catalog, "admin", ["administrator"], None)
    people.change(catalog, admin.principal, disabled.user_id, disabled=True)
    answers = set()
    for who, changes in (
        (person, {"password": "not the right words"}),
        (person, {"code": "123 456"}),
        (person, {"code": ""}),
        (person, {"login": "nobody-here"}),
        (disabled, {}),
    ):
        page = sign_in(stranger, workspace, who, expect=401, **changes)
        answers.add(page.prose)
    assert len(answers) == 1 and "Signing in failed" in answers.pop()


@pytest.mark.practice(10)
def test_five_failures_lock_a_name_for_everybody_and_say_nothing(
    stranger: Browser, workspace: Workspace
) -> None:
    person = make_person(workspace.catalog, "rita", ["investigator"])
    for login in ("rita", "no-such-name"):
        for _ in range(5):
            sign_in(stranger, workspace, person, expect=401, login=login, password="wrong wrong")
        sign_in(stranger, workspace, person, expect=401, login=login)
    failed = [name for name in actions(workspace) if name == "sign_in.failed"]
    assert len(failed) == 12
    with workspace.catalog.read() as session:
        kept = [str(row.details) for row in session.scalars(select(AuditRecord))]
    assert not [text for text in kept if "no-such-name" in text or "wrong" in text]


def test_an_address_that_fails_often_is_told_to_wait(
    stranger: Browser, workspace: Workspace
) -> None:
    from service.accounts.errors import SignInRefused
    from service.accounts.signing_in import ADDRESS_FAILURES
    from service.accounts.signing_in import sign_in as try_it

    person = make_person(workspace.catalog, "rita", ["investigator"])
    for number in range(ADDRESS_FAILURES):
        with pytest.raises(SignInRefused):
            try_it(workspace.catalog, f"name-{number}", "wrong", "", address="testclient")
    page = sign_in(stranger, workspace, person, expect=429)
    assert "Too many tries" in page.prose


# --- the set-up ------------------------------------------------------------------------------


def test_an_account_begins_with_a_code_and_opens_nothing_before_it_is_set_up(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    catalog = workspace.catalog
    admin = make_person(catalog, "admin", ["administrator"], None)
    made = people.create(catalog, admin.principal, "new.one", ["investigator"], agency="")
    stranger.get(f"/welcome?code={made.code}")
    assert made.code == stranger.form("/welcome").values["code"]
    stranger.send("/welcome")
    assert stranger.path == "/account/set-up"
    before = client.cookies[SESSION_COOKIE]
    for path in ("/cases", "/account", "/people", "/about"):
        stranger.get(path)
        assert stranger.path == "/account/set-up", path
    assert client.post("/account/sessions/end").status_code == 403
    secret = shown_secret(stranger.page)
    values = {"password": PASSWORD, "code": pyotp.TOTP(secret).now()}
    page = stranger.send("/account/set-up", values)
    recovery = shown_codes(page)
    assert len(recovery) == 8 and client.cookies[SESSION_COOKIE] != before
    stranger.get("/cases")
    assert stranger.path == "/cases"
    # The code is used up, and the token of before is worth nothing.
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, before)
    stranger.get("/cases")
    assert stranger.path.startswith("/sign-in")
    stranger.get("/welcome")
    stranger.send("/welcome", {"code": made.code}, expect=401)
    # A recovery code serves once.
    for expect in (200, 401):
        stranger.get("/sign-in")
        given = {"login": "new.one", "password": PASSWORD, "code": recovery[0].lower()}
        stranger.send("/sign-in", given, expect=expect)
        client.cookies.clear()
    with catalog.read() as session:
        user = session.scalar(select(User).where(User.login == "new.one"))
    assert user is not None and len(user.recovery_codes) == 7
    assert not [secret for secret in recovery if secret in str(vars(user))]


@pytest.mark.practice(10)
def test_a_person_without_a_second_factor_sets_one_up_first(
    stranger: Browser, workspace: Workspace
) -> None:
    person = make_person(workspace.catalog, "rita", ["investigator"])
    with workspace.catalog.write() as session:
        user = session.get(User, person.user_id)
        assert user is not None
        user.totp_secret = None
    page = sign_in(stranger, workspace, person, code="")
    assert stranger.path == "/account/set-up"
    assert "password" not in stranger.form("/account/set-up").names
    secret = shown_secret(page)
    stranger.send("/account/set-up", {"code": pyotp.TOTP(secret).now()})
    stranger.get("/cases")
    assert stranger.path == "/cases"


# --- one's own account -----------------------------------------------------------------------


def test_a_new_password_ends_the_other_sessions_and_changes_the_token(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    person = make_person(workspace.catalog, "rita", ["investigator"])
    other = enter(client, workspace.catalog, person)
    mine = enter(client, workspace.catalog, person)
    stranger.get("/account")
    new = "nine patient herons"
    stranger.send("/account/password", {"current": "not it at all", "password": new}, expect=403)
    stranger.get("/account")
    page = stranger.send("/account/password", {"current": PASSWORD, "password": new})
    assert "password is changed" in page.prose
    assert new not in stranger.source
    for token in (other, mine):
        client.cookies.clear()
        client.cookies.set(SESSION_COOKIE, token)
        stranger.get("/account")
        assert stranger.path.startswith("/sign-in")
    client.cookies.clear()
    sign_in(stranger, workspace, person, expect=401)
    sign_in(stranger, workspace, person, password=new)


def test_a_new_authenticator_takes_the_place_of_the_one_before(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    person = make_person(workspace.catalog, "rita", ["investigator"])
    enter(client, workspace.catalog, person)
    secret = shown_secret(stranger.get("/account/second-factor"))
    given = {"current": PASSWORD, "code": pyotp.TOTP(secret).now()}
    assert len(shown_codes(stranger.send("/account/second-factor", given))) == 8
    client.cookies.clear()
    sign_in(stranger, workspace, person, expect=401)
    other = Person(person.user_id, person.login, PASSWORD, pyotp.TOTP(secret), person.principal)
    sign_in(stranger, workspace, other)
    # Fresh recovery codes replace those.
    stranger.get("/account")
    codes = shown_codes(stranger.send("/account/recovery-codes", {"current": PASSWORD}))
    assert len(codes) == 8


def test_sessions_are_listed_and_ended_one_by_one_or_all(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    person = make_person(workspace.catalog, "rita", ["investigator"])
    foreign = make_person(workspace.catalog, "carl", ["investigator"])
    tokens = [enter(client, workspace.catalog, person) for _ in range(3)]
    theirs = enter(client, workspace.catalog, foreign)
    with workspace.catalog.read() as session:
        foreign_id = session.scalar(
            select(WebSession.session_id).where(WebSession.user_id == foreign.user_id)
        )
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, tokens[2])
    stranger.get("/account")
    ends = [form.action for form in stranger.page.forms if form.action.count("/") == 4]
    assert len(ends) == 2 and not [action for action in ends if str(foreign_id) in action]
    stranger.send(ends[0])
    stranger.get("/account")
    assert len([form for form in stranger.page.forms if form.action.count("/") == 4]) == 1
    # Another's session is no session of one's own.
    fields = {"csrf": (None, stranger.form("/sign-out").values["csrf"])}
    answer = client.post(f"/account/sessions/{foreign_id}/end", files=fields)
    assert answer.status_code == 404
    stranger.send("/account/sessions/end")
    assert not [form for form in stranger.page.forms if form.action.count("/") == 4]
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, theirs)
    stranger.get("/cases")
    assert stranger.path == "/cases"


# --- administrators --------------------------------------------------------------------------


def test_an_administrator_makes_changes_and_ends_accounts(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    catalog = workspace.catalog
    admin = make_person(catalog, "admin", ["administrator"], None)
    enter(client, catalog, admin)
    stranger.get("/")
    assert stranger.path == "/people"
    stranger.send("/people/agencies", {"agency_name": "north", "agency_title": "The North"})
    given = {"login": "Rita", "agency": "north", "role_investigator": "yes"}
    page = stranger.send("/people", given)
    assert re.search(r"hws_[\w-]{32}", page.prose)
    listed = people.all_of(catalog, admin.principal)
    rita = next(person for person in listed if person.login == "rita")
    assert rita.agency == "north" and rita.roles == ("investigator",) and not rita.set_up
    stranger.get(f"/people/{rita.user_id}")
    changed = {"trained_until": "2199-01-31", "role_supervisor": "yes"}
    stranger.send(f"/people/{rita.user_id}", changed)
    rita = people.get(catalog, admin.principal, "rita")
    assert rita.roles == ("investigator", "supervisor") and rita.trained_until is not None
    stranger.send(f"/people/{rita.user_id}", {"trained_until": "soon"}, expect=422)
    stranger.get(f"/people/{rita.user_id}")
    stranger.send(f"/people/{rita.user_id}/disabled")
    assert people.get(catalog, admin.principal, "rita").disabled_at is not None
    assert {"agency.create", "user.create", "user.roles", "user.disable"} <= set(actions(workspace))


def test_the_last_administrator_stays(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    catalog = workspace.catalog
    admin = make_person(catalog, "admin", ["administrator"], None)
    make_person(catalog, "north-admin", ["administrator"], "north")
    enter(client, catalog, admin)
    stranger.get(f"/people/{admin.user_id}")
    page = stranger.send(f"/people/{admin.user_id}/disabled", expect=409)
    assert "Nobody else could manage" in page.prose
    gone = ("role_administrator",)
    given = {"role_auditor": "yes"}
    stranger.send(f"/people/{admin.user_id}", given, without=gone, expect=409)
    assert people.get(catalog, admin.principal, "admin").roles == ("administrator",)
    make_person(catalog, "second", ["administrator"], None)
    stranger.get(f"/people/{admin.user_id}")
    stranger.send(f"/people/{admin.user_id}/disabled", expect=200)
    assert stranger.path.startswith("/sign-in")


def test_a_form_from_before_gives_nothing_back(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    catalog = workspace.catalog
    admin = make_person(catalog, "admin", ["administrator"], None)
    rita = make_person(catalog, "rita", ["investigator", "supervisor"])
    enter(client, catalog, admin)
    address = f"/people/{rita.user_id}"
    stranger.get(address)
    people.change(
        catalog, admin.principal, rita.user_id, roles=["investigator"], trained_until=None
    )
    stranger.send(address, {"display_name": "Rita Stone"})
    found = people.get(catalog, admin.principal, "rita")
    assert (found.roles, found.trained_until) == (("investigator",), None)
    assert found.display_name == "Rita Stone"
    stranger.get(address)
    people.change(catalog, admin.principal, rita.user_id, roles=["supervisor"])
    page = stranger.send(address, {"role_auditor": "yes"}, expect=409)
    assert "meanwhile" in page.prose
    assert people.get(catalog, admin.principal, "rita").roles == ("supervisor",)


def test_a_role_that_is_taken_away_is_gone_with_the_next_request(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    catalog = workspace.catalog
    admin = make_person(catalog, "admin", ["administrator"], None)
    person = make_person(catalog, "rita", ["investigator", "administrator"], None)
    enter(client, catalog, person)
    stranger.get("/people")
    people.change(catalog, admin.principal, person.user_id, roles=["investigator"])
    stranger.get("/people", expect=403)
    stranger.get("/cases")
    people.change(catalog, admin.principal, person.user_id, disabled=True)
    stranger.get("/cases")
    assert stranger.path.startswith("/sign-in")


def test_an_agency_manages_its_own_people_and_keys_only(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    catalog = workspace.catalog
    admin = make_person(catalog, "north-admin", ["administrator"], "north")
    own = make_person(catalog, "north-one", ["investigator"], "north")
    other = make_person(catalog, "south-one", ["investigator"], "south")
    everywhere = make_person(catalog, "admin", ["administrator"], None)
    enter(client, catalog, admin)
    page = stranger.get("/people")
    assert "north-one" in page.prose and "south" not in page.prose
    assert "/people/agencies" not in [form.action for form in page.forms]
    for person in (other, everywhere):
        stranger.get(f"/people/{person.user_id}", expect=404)
        for path in ("", "/disabled", "/reset", "/sessions/end"):
            answer = client.post(
                f"/people/{person.user_id}{path}",
                files={"csrf": (None, page.forms[0].values["csrf"])},
            )
            assert answer.status_code == 404, path
    stranger.get("/people")
    given: dict[str, Any] = {"login": "x", "agency": "south", "role_investigator": "yes"}
    stranger.send("/people", given, expect=404)
    stranger.get("/people")
    stranger.send("/people", {**given, "agency": "*"}, expect=404)
    stranger.get("/keys")
    stranger.send("/keys", {"name": "k", "agency": "*", "role_scraper": "yes"}, expect=404)
    stranger.get("/keys")
    page = stranger.send("/keys", {"name": "k", "agency": "north", "role_scraper": "yes"})
    assert re.search(r"hw_[\w-]{43}", page.prose)
    stranger.get("/keys")
    [revoke] = [form.action for form in stranger.page.forms if form.action.endswith("/revoke")]
    stranger.send(revoke)
    assert "revoked" in stranger.page.prose
    stranger.get(f"/people/{own.user_id}")


def test_a_retired_agency_lets_nobody_in(
    stranger: Browser, client: TestClient, workspace: Workspace
) -> None:
    catalog = workspace.catalog
    admin = make_person(catalog, "admin", ["administrator"], None)
    person = make_person(catalog, "rita", ["investigator"], "north")
    token = enter(client, catalog, person)
    enter(client, catalog, admin)
    stranger.get("/people")
    stranger.send("/people/agencies/retire")
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, token)
    stranger.get("/cases")
    assert stranger.path.startswith("/sign-in")
    sign_in(stranger, workspace, person, expect=401)
