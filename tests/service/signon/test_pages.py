"""A person comes to the sign-in page, goes to a real provider and comes back signed in, or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from typer.testing import CliRunner

from indexer.catalog.account_tables import User
from indexer.catalog.audit_tables import AuditRecord
from indexer.workspace import Workspace
from service.accounts import access, elsewhere, signing_in
from service.app import create_app
from service.cli.main import app as command_line
from service.config import Settings
from service.signon import flow
from service.web.cookies import CODE_COOKIE, PROVIDER_COOKIE, SESSION_COOKIE
from tests.attacks.conftest import open_small
from tests.service.conftest import make_settings
from tests.service.people import code, make_person
from tests.service.signon.provider import consent, fields_of, provider_running
from tests.service.web.browser import HTML, Browser

PUBLIC = "http://testserver"
OPERATOR = access.operator("tests")
STRONG = {"sub": "person-1", "email": "A@agency.example", "email_verified": True, "amr": ["mfa"]}
WEAK = {"sub": "person-2", "email": "b@agency.example", "email_verified": True}
UNVERIFIED = {"sub": "person-3", "email": "a@agency.example", "amr": ["mfa"]}
NAMED = {"sub": "person-4", "preferred_username": "dora", "amr": ["mfa"]}
IMPOSTOR = {"sub": "person-5", "preferred_username": "anna", "amr": ["mfa"]}
SLY = {"sub": elsewhere.by_email("a@agency.example"), "amr": ["mfa"]}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider_running(STRONG, WEAK, UNVERIFIED, NAMED, IMPOSTOR, SLY) as found:
        yield found


@pytest.fixture
def settings(tmp_path: Any, issuer: str) -> Settings:
    return make_settings(
        tmp_path / "data",
        oidc_issuer=issuer,
        oidc_client_id="homeward",
        oidc_client_secret="a secret",
        oidc_name="Agency login",
        oidc_amr="mfa",
        public_url=PUBLIC,
    )


@pytest.fixture
def workspace(settings: Settings) -> Iterator[Workspace]:
    with open_small(settings) as opened:
        yield opened


@pytest.fixture
def client(settings: Settings, workspace: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(settings, workspace), follow_redirects=False) as made:
        yield made


def leave(client: TestClient, there: str = "/cases") -> str:
    """Go to the provider; the address there."""
    answer = client.get("/sign-in/provider", params={"next": there}, headers=HTML)
    assert answer.status_code == 303, answer.text[:300]
    line = answer.headers["set-cookie"].lower()
    assert line.startswith(PROVIDER_COOKIE) and "samesite=lax" in line and "httponly" in line
    return str(answer.headers["location"])


def come_back(client: TestClient, came: dict[str, str]) -> Any:
    return client.get(flow.CALLBACK, params=came, headers=HTML)


def acts(workspace: Workspace, action: str) -> list[AuditRecord]:
    with workspace.catalog.read() as session:
        return list(session.scalars(select(AuditRecord).where(AuditRecord.action == action)))


def test_the_sign_in_page_names_the_provider(client: TestClient) -> None:
    browser = Browser(client)
    browser.get("/sign-in?next=/alerts")
    assert "Sign in with Agency login" in browser.page.prose
    assert "/sign-in/provider?next=/alerts" in browser.page.links


def test_without_a_provider_there_is_no_such_way(tmp_path: Any) -> None:
    bare = make_settings(tmp_path / "bare")
    with open_small(bare) as workspace, TestClient(create_app(bare, workspace)) as client:
        browser = Browser(client)
        browser.get("/sign-in")
        assert not [link for link in browser.page.links if "provider" in link]
        for path in ("/sign-in/provider", flow.CALLBACK):
            assert client.get(path).status_code == 404


def test_a_linked_person_is_signed_in(
    client: TestClient, workspace: Workspace, issuer: str
) -> None:
    person = make_person(workspace.catalog, "anna", ["investigator"])
    elsewhere.link(workspace.catalog, OPERATOR, "anna", issuer, subject="person-1")
    client.cookies.set(SESSION_COOKIE, "p" * 43, domain="testserver.local", path="/")
    answer = come_back(client, consent(leave(client, "/cases?status=open"), "person-1"))
    assert answer.status_code == 200
    assert answer.headers["refresh"] == "0; url=/cases?status=open"
    made = [v for v in answer.headers.get_list("set-cookie") if v.startswith(SESSION_COOKIE)]
    assert len(made) == 1 and "p" * 43 not in made[0] and "samesite=strict" in made[0].lower()
    token = made[0].partition("=")[2].partition(";")[0]
    fresh = TestClient(client.app, follow_redirects=False)
    page = fresh.get("/cases", headers={**HTML, "cookie": f"{SESSION_COOKIE}={token}"})
    assert page.status_code == 200 and "anna" in page.text
    (done,) = acts(workspace, "sign_in.done")
    assert done.subject_id == person.user_id and done.details["means"] == "provider"
    # The password is no way in any more.
    with workspace.catalog.read() as session:
        assert session.get_one(User, person.user_id).password is None


def test_an_unknown_subject_is_refused_and_nobody_is_made(
    client: TestClient, workspace: Workspace
) -> None:
    for _ in range(2):
        answer = come_back(client, consent(leave(client), "person-1"))
        assert answer.status_code == 403
        assert SESSION_COOKIE not in client.cookies
    with workspace.catalog.read() as session:
        assert session.scalars(select(User)).all() == []
    reasons = [row.details["reason"] for row in acts(workspace, "sign_in.failed")]
    assert reasons == ["person_unknown"] * 2


def test_a_person_of_another_issuer_with_that_subject_is_not_meant(
    client: TestClient, workspace: Workspace
) -> None:
    make_person(workspace.catalog, "anna", ["investigator"])
    elsewhere.link(workspace.catalog, OPERATOR, "anna", "https://other.example", subject="person-1")
    assert come_back(client, consent(leave(client), "person-1")).status_code == 403


def test_an_address_serves_once_to_learn_the_subject(
    client: TestClient, workspace: Workspace, issuer: str
) -> None:
    person = make_person(workspace.catalog, "anna", ["investigator"])
    elsewhere.link(workspace.catalog, OPERATOR, "anna", issuer, email="a@AGENCY.example")
    # Not vouched for by the provider; and a subject that is made to look like the address.
    for sub in ("person-3", SLY["sub"]):
        assert come_back(client, consent(leave(client), str(sub))).status_code == 403
    assert come_back(client, consent(leave(client), "person-1")).status_code == 200
    with workspace.catalog.read() as session:
        assert session.get_one(User, person.user_id).subject == "person-1"
    assert come_back(client, consent(leave(client), "person-1")).status_code == 200


def test_a_person_who_is_disabled_is_refused(
    client: TestClient, workspace: Workspace, issuer: str
) -> None:
    from service.accounts import people

    person = make_person(workspace.catalog, "anna", ["investigator"])
    elsewhere.link(workspace.catalog, OPERATOR, "anna", issuer, subject="person-1")
    people.change(workspace.catalog, OPERATOR, person.user_id, disabled=True)
    answer = come_back(client, consent(leave(client), "person-1"))
    assert answer.status_code == 403 and SESSION_COOKIE not in client.cookies


def test_our_second_factor_follows_where_the_provider_proved_none(
    client: TestClient, workspace: Workspace, issuer: str
) -> None:
    person = make_person(workspace.catalog, "berta", ["investigator"])
    elsewhere.link(workspace.catalog, OPERATOR, "berta", issuer, subject="person-2")
    browser = Browser(client)
    came = consent(leave(client), "person-2")
    answer = come_back(client, came)
    assert answer.status_code == 200 and SESSION_COOKIE not in client.cookies
    waiting = client.cookies[CODE_COOKIE]
    # What waits for a code opens nothing.
    opened = client.get("/cases", headers={**HTML, "cookie": f"{SESSION_COOKIE}={waiting}"})
    assert opened.status_code == 303
    browser._arrive("/", answer, 200)
    browser.send("/sign-in/provider/code", {"code": "000000"}, expect=401)
    assert SESSION_COOKIE not in client.cookies
    used = code(workspace.catalog, person)
    browser.send("/sign-in/provider/code", {"code": used})
    assert browser.path == "/cases" and client.cookies[SESSION_COOKIE] != waiting
    # Neither the code nor what waited for it serves twice.
    client.cookies.set(CODE_COOKIE, waiting, domain="testserver.local", path="/")
    from service.web.sessions import form_token

    fields = {"csrf": (None, form_token(waiting)), "code": (None, used), "next": (None, "/")}
    again = client.post("/sign-in/provider/code", files=fields, headers=HTML)
    assert again.status_code == 403


def test_guessing_the_second_factor_locks_the_account(
    client: TestClient, workspace: Workspace, issuer: str
) -> None:
    person = make_person(workspace.catalog, "berta", ["investigator"])
    elsewhere.link(workspace.catalog, OPERATOR, "berta", issuer, subject="person-2")
    browser = Browser(client)
    browser._arrive("/", come_back(client, consent(leave(client), "person-2")), 200)
    for guess in range(5):
        browser.send("/sign-in/provider/code", {"code": f"{guess:06d}"}, expect=401)
    right = code(workspace.catalog, person)
    browser.send("/sign-in/provider/code", {"code": right}, expect=401)
    assert SESSION_COOKIE not in client.cookies
    assert acts(workspace, "sign_in.failed")[-1].details["locked"] is True


def test_without_any_second_factor_nobody_comes_in(
    client: TestClient, workspace: Workspace, issuer: str
) -> None:
    person = make_person(workspace.catalog, "berta", ["investigator"])
    elsewhere.link(workspace.catalog, OPERATOR, "berta", issuer, subject="person-2")
    with workspace.catalog.write() as session:
        session.get_one(User, person.user_id).totp_secret = None
    answer = come_back(client, consent(leave(client), "person-2"))
    assert answer.status_code == 403 and "second factor" in answer.text
    assert SESSION_COOKIE not in client.cookies


def test_what_was_begun_elsewhere_signs_nobody_in(
    client: TestClient, workspace: Workspace, issuer: str
) -> None:
    """Sign-in by cross-site request: an attacker sends a victim the end of their own sign-in."""
    make_person(workspace.catalog, "anna", ["investigator"])
    elsewhere.link(workspace.catalog, OPERATOR, "anna", issuer, subject="person-1")
    attacker = TestClient(client.app, follow_redirects=False)
    came = consent(leave(attacker), "person-1")
    assert come_back(client, came).status_code == 401, "a browser that began nothing"
    leave(client)
    assert come_back(client, came).status_code == 401, "one that began another"
    assert come_back(client, {**came, "state": "x" * 43}).status_code == 401
    assert SESSION_COOKIE not in client.cookies
    assert come_back(attacker, came).status_code == 200, "the code was not used up by it"
    assert come_back(attacker, came).status_code == 401, "and serves once"
    reasons = {row.details["reason"] for row in acts(workspace, "sign_in.failed")}
    assert "state_wrong" in reasons


def test_the_way_back_leads_nowhere_else(client: TestClient) -> None:
    for there in ("https://evil.example", "//evil.example", "/x; url=https://evil.example"):
        address = leave(client, there)
        assert "evil.example" not in address
        assert fields_of(address)["redirect_uri"] == flow.redirect_uri(PUBLIC)


def test_newcomers_get_fixed_roles_and_take_over_nobody(tmp_path: Any, issuer: str) -> None:
    made = make_settings(
        tmp_path / "new",
        oidc_issuer=issuer,
        oidc_client_id="homeward",
        oidc_client_secret="a secret",
        oidc_amr="mfa",
        public_url=PUBLIC,
        oidc_create_roles="investigator",
    )
    with open_small(made) as workspace:
        make_person(workspace.catalog, "anna", ["administrator"], None)
        with TestClient(create_app(made, workspace), follow_redirects=False) as client:
            assert come_back(client, consent(leave(client), "person-4")).status_code == 200
            for sub in ("person-5", "person-2"):
                answer = come_back(client, consent(leave(client), sub))
                assert answer.status_code == 403, "a name that is taken; no second factor"
        with workspace.catalog.read() as session:
            found = {user.login: user for user in session.scalars(select(User))}
        assert set(found) == {"anna", "dora"}
        assert found["dora"].roles == ["investigator"] and found["dora"].agency == ""
        assert found["anna"].issuer is None


def test_links_are_refused_where_they_cannot_be(workspace: Workspace, issuer: str) -> None:
    for login in ("anna", "berta"):
        make_person(workspace.catalog, login, ["investigator"])
    link = elsewhere.link
    catalog = workspace.catalog
    link(catalog, OPERATOR, "anna", issuer, subject="person-1")
    for words in (
        {"subject": "person-1"},
        {"subject": elsewhere.by_email("a@agency.example")},
        {"subject": ""},
        {"subject": "x", "email": "y"},
        {},
    ):
        with pytest.raises(elsewhere.LinkRefused):
            link(catalog, OPERATOR, "berta", issuer, **words)
    assert not elsewhere.unlink(catalog, OPERATOR, "anna").elsewhere
    assert link(catalog, OPERATOR, "berta", issuer, subject="person-1").elsewhere


def test_the_command_line_links_and_unlinks(tmp_path: Any) -> None:
    made = make_settings(tmp_path / "data")
    with open_small(made) as workspace:
        person = make_person(workspace.catalog, "anna", ["investigator"])
        where = ("--data-dir", str(made.data_dir))
        words = ("users", "link", "anna", "--issuer", "https://login.example", "--subject", "1")
        done = CliRunner().invoke(command_line, [*where, *words])
        assert done.exit_code == 0, done.output
        with workspace.catalog.read() as session:
            user = session.get_one(User, person.user_id)
            assert (user.issuer, user.subject) == ("https://login.example", "1")
        assert CliRunner().invoke(command_line, [*where, *words[:-2]]).exit_code == 1
        assert CliRunner().invoke(command_line, [*where, "users", "unlink", "anna"]).exit_code == 0
        with workspace.catalog.read() as session:
            assert session.get_one(User, person.user_id).issuer is None


def test_a_call_back_that_nothing_was_begun_for_is_not_on_record(
    client: TestClient, workspace: Workspace
) -> None:
    for _ in range(3):
        assert come_back(client, {"state": "x", "code": "x"}).status_code == 401
    assert acts(workspace, "sign_in.failed") == []


def test_call_backs_that_fail_are_counted_for_their_address(
    client: TestClient, workspace: Workspace
) -> None:
    leave(client)
    for _ in range(signing_in.ADDRESS_FAILURES):
        assert come_back(client, {"state": "x", "code": "x"}).status_code == 401
    assert come_back(client, {"state": "x", "code": "x"}).status_code == 429
    assert len(acts(workspace, "sign_in.failed")) == signing_in.ADDRESS_FAILURES
