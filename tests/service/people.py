"""People for the tests: made in the catalog as if they had set up their account, and signed in."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import pyotp
from fastapi.testclient import TestClient
from sqlalchemy import update

from indexer.agencies import add_agency
from indexer.catalog import Catalog
from indexer.catalog.account_tables import Agency, User
from service.accounts import passwords, people
from service.accounts.authority import known_roles
from service.accounts.principal import Principal
from service.web import sessions
from service.web.state import SESSION_COOKIE

PASSWORD = "seven quiet lanterns"
LATER = date(2199, 1, 1)


@functools.cache
def _stored() -> str:
    return passwords.hashed(PASSWORD)


@dataclass(frozen=True)
class Person:
    """A person and what they know and own."""

    user_id: str
    login: str
    password: str
    totp: pyotp.TOTP
    principal: Principal


def make_person(
    catalog: Catalog,
    login: str,
    roles: Iterable[str],
    agency: str | None = "",
    *,
    trained_until: date | None = LATER,
) -> Person:
    """A person who can sign in; the agency is made where there is none. None: all agencies."""
    secret = pyotp.random_base32()
    with catalog.write() as session:
        if agency is not None and session.get(Agency, agency) is None:
            add_agency(session, agency)
        user = people.add(session, people.normal_login(login), known_roles(roles), agency)
        user.password, user.totp_secret, user.trained_until = _stored(), secret, trained_until
        people.mark_set_up(user)
        session.flush()
        return Person(
            user.user_id, user.login, PASSWORD, pyotp.TOTP(secret), people.principal_of(user)
        )


def code(catalog: Catalog, person: Person) -> str:
    """The code that the person's authenticator shows. It is made good again where it was used, so
    that a test need not wait for the next one."""
    with catalog.write() as session:
        session.execute(update(User).where(User.user_id == person.user_id).values(totp_step=None))
    return person.totp.now()


def enter(client: TestClient, catalog: Catalog, person: Person) -> str:
    """Sign the client in to the pages at once, past the form; the text of the cookie."""
    token = sessions.begin_for_user(catalog, person.user_id, address="testclient").token
    client.cookies.clear()
    client.cookies.set(SESSION_COOKIE, token)
    return token
