"""The way to a real provider and back, with everything that may come back wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from service.netconfig import NetworkSettings
from service.signon import flow
from service.signon.errors import SignOnAway, SignOnRefused
from service.signon.provider import Provider
from service.signon.tokens import Proved
from tests.service.signon.provider import consent, fields_of, provider_running, refuse

PUBLIC = "https://homeward.example"
BACK = flow.redirect_uri(PUBLIC)
PERSON = {"sub": "person-1", "email": "a@agency.example", "email_verified": True, "amr": ["mfa"]}


def provider_at(issuer: str, **changes: Any) -> Provider:
    values = {
        "oidc_issuer": issuer,
        "oidc_client_id": "homeward",
        "oidc_client_secret": "a secret with / and :",
        "oidc_amr": "mfa",
        "public_url": PUBLIC,
        **changes,
    }
    return Provider(NetworkSettings(**values))


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider_running(PERSON) as found:
        yield found


def finish(provider: Provider, secret: str, **came: str) -> Proved:
    given = {"iss" if name == "issuer" else name: text for name, text in came.items()}
    return asyncio.run(
        flow.finish(
            provider,
            secret,
            BACK,
            code=given.get("code", ""),
            state=given.get("state", ""),
            issuer=given.get("iss", ""),
            error=given.get("error", ""),
        )
    )


def test_a_person_goes_to_the_provider_and_comes_back(issuer: str) -> None:
    provider, secret = provider_at(issuer), flow.new_secret()
    address = asyncio.run(flow.begin(provider, secret, BACK))
    asked = fields_of(address)
    assert asked["response_type"] == "code" and asked["redirect_uri"] == BACK
    assert asked["code_challenge_method"] == "S256" and len(asked["code_challenge"]) == 43
    assert asked["scope"].split()[0] == "openid" and asked["max_age"] == "1800"
    made = {asked["state"], asked["nonce"], asked["code_challenge"], secret}
    assert len(made) == 4, "none of them tells another"
    found = finish(provider, secret, **consent(address, "person-1"))
    assert (found.issuer, found.subject, found.email) == (issuer, "person-1", PERSON["email"])
    assert found.second_factor


def test_a_code_serves_once(issuer: str) -> None:
    provider, secret = provider_at(issuer), flow.new_secret()
    came = consent(asyncio.run(flow.begin(provider, secret, BACK)), "person-1")
    finish(provider, secret, **came)
    with pytest.raises(SignOnRefused) as refused:
        finish(provider, secret, **came)
    assert refused.value.reason == "code_refused"


def test_what_came_back_to_another_browser_is_refused_before_the_code_is_used(issuer: str) -> None:
    provider, secret = provider_at(issuer), flow.new_secret()
    came = consent(asyncio.run(flow.begin(provider, secret, BACK)), "person-1")
    for wrong in (flow.new_secret(), "", secret[:-1]):
        with pytest.raises(SignOnRefused) as refused:
            finish(provider, wrong, **came)
        assert refused.value.reason == "state_wrong"
    for state in ("", "x" * 43, came["state"][:-1], came["state"] + "x", "ä"):
        with pytest.raises(SignOnRefused):
            finish(provider, secret, **{**came, "state": state})
    assert finish(provider, secret, **came).subject == "person-1"


def test_a_token_for_another_sign_in_is_refused(issuer: str) -> None:
    """A code that was stolen and put into another sign-in: its nonce is the other one's."""
    provider, secret = provider_at(issuer), flow.new_secret()
    came = consent(asyncio.run(flow.begin(provider, secret, BACK)), "person-1")
    mine = flow.new_secret()
    own = fields_of(asyncio.run(flow.begin(provider, mine, BACK)))
    with pytest.raises(SignOnRefused) as refused:
        finish(provider, mine, code=came["code"], state=own["state"])
    assert refused.value.reason in ("claims_wrong", "code_refused")


def test_a_person_who_says_no_is_not_signed_in(issuer: str) -> None:
    provider, secret = provider_at(issuer), flow.new_secret()
    address = asyncio.run(flow.begin(provider, secret, BACK))
    came = {"state": fields_of(address)["state"], **refuse(address)}
    with pytest.raises(SignOnRefused) as refused:
        finish(provider, secret, **came)
    assert refused.value.reason == "provider_refused"


def test_an_answer_of_another_issuer_is_refused(issuer: str) -> None:
    provider, secret = provider_at(issuer), flow.new_secret()
    came = consent(asyncio.run(flow.begin(provider, secret, BACK)), "person-1")
    with pytest.raises(SignOnRefused):
        finish(provider, secret, **came, issuer="https://elsewhere.example")


def test_a_provider_that_calls_itself_otherwise_is_not_used(issuer: str) -> None:
    other = provider_at(issuer.replace("127.0.0.1", "localhost") + "/tenant")
    with pytest.raises(SignOnAway):
        asyncio.run(flow.begin(other, flow.new_secret(), BACK))


def test_a_provider_that_is_away_says_so(unused_port: int) -> None:
    away = provider_at(f"http://127.0.0.1:{unused_port}")
    with pytest.raises(SignOnAway):
        asyncio.run(flow.begin(away, flow.new_secret(), BACK))


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_an_expired_token_is_refused() -> None:
    with provider_running(PERSON, token_seconds=-600) as issuer:
        provider, secret = provider_at(issuer), flow.new_secret()
        came = consent(asyncio.run(flow.begin(provider, secret, BACK)), "person-1")
        with pytest.raises(SignOnRefused) as refused:
            finish(provider, secret, **came)
        assert refused.value.reason == "token_expired"
