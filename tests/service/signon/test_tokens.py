"""An ID token that is not exactly what was asked for proves nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from joserfc import jwk, jws

from service.signon.errors import SignOnRefused
from service.signon.tokens import Expected, KeyUnknown, checked

ISSUER, CLIENT, NONCE = "https://login.example", "homeward", "n-0001"
KEY = jwk.RSAKey.generate_key(2048, {"kid": "one"})
OTHER = jwk.RSAKey.generate_key(2048, {"kid": "one"})
KEYS = jwk.KeySet.import_key_set({"keys": [KEY.as_dict(private=False)]})
EXPECTED = Expected(ISSUER, CLIENT, NONCE, acr=("silver",), amr=("mfa", "hwk"))


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {
        "iss": ISSUER,
        "sub": "person-1",
        "aud": CLIENT,
        "exp": now + 300,
        "iat": now,
        "nonce": NONCE,
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def token(body: dict[str, Any], key: Any = KEY, alg: str = "RS256", **header: Any) -> str:
    protected = {"alg": alg, "kid": "one", **header}
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    return jws.serialize_compact(protected, json.dumps(body).encode(), key, registry=registry)


def unsigned(body: dict[str, Any], alg: str) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': alg, 'kid': 'one'})}.{part(body)}."


def test_a_token_as_asked_for_proves_a_person() -> None:
    found = checked(token(claims()), KEYS, EXPECTED)
    assert (found.issuer, found.subject) == (ISSUER, "person-1")
    assert found.email is None and not found.second_factor
    # Headers that nobody here knows are to be ignored (RFC 7515, section 4).
    assert checked(token(claims(), vendor="x"), KEYS, EXPECTED).subject == "person-1"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"auth_time": int(time.time()) - 3_600}, "signed_in_long_ago"),
        ({"auth_time": "just now"}, "claims_wrong"),
        ({"iss": "https://elsewhere.example"}, "claims_wrong"),
        ({"iss": ISSUER + "/"}, "claims_wrong"),
        ({"iss": None}, "claims_wrong"),
        ({"aud": "another-client"}, "claims_wrong"),
        ({"aud": ["another-client"]}, "claims_wrong"),
        ({"aud": [CLIENT, "another-client"]}, "claims_wrong"),
        ({"aud": [CLIENT, "another-client"], "azp": "another-client"}, "claims_wrong"),
        ({"aud": None}, "claims_wrong"),
        ({"nonce": "n-0002"}, "claims_wrong"),
        ({"nonce": None}, "claims_wrong"),
        ({"sub": None}, "claims_wrong"),
        ({"sub": ""}, "claims_wrong"),
        ({"sub": 7}, "claims_wrong"),
        ({"sub": "x" * 256}, "claims_wrong"),
        ({"exp": None}, "claims_wrong"),
        ({"exp": "never"}, "claims_wrong"),
        ({"exp": int(time.time()) - 3_600}, "token_expired"),
        ({"iat": int(time.time()) - 7_200}, "token_expired"),
        ({"iat": int(time.time()) + 7_200}, "claims_wrong"),
        ({"iat": None}, "claims_wrong"),
        ({"nbf": int(time.time()) + 7_200}, "claims_wrong"),
        ({"at_hash": "wrong"}, "claims_wrong"),
    ],
)
def test_wrong_claims_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SignOnRefused) as refused:
        checked(token(claims(**changes)), KEYS, EXPECTED, access_token="an-access-token")
    assert refused.value.reason == reason


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE"])
def test_an_unsigned_token_is_refused(alg: str) -> None:
    with pytest.raises(SignOnRefused) as refused:
        checked(unsigned(claims(), alg), KEYS, EXPECTED)
    assert refused.value.reason == "signature_wrong"


def test_a_token_signed_with_the_public_key_as_a_secret_is_refused() -> None:
    start = unsigned(claims(), "HS256").rstrip(".")
    digest = hmac.new(KEY.as_pem(private=False), start.encode(), hashlib.sha256).digest()
    signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    with pytest.raises(SignOnRefused) as refused:
        checked(f"{start}.{signature}", KEYS, EXPECTED)
    assert refused.value.reason == "signature_wrong"


def test_a_token_of_another_key_or_a_changed_one_is_refused() -> None:
    for bad in (
        token(claims(), OTHER),
        token(claims())[:-6] + "AAAAAA",
        _with_claims_of(token(claims()), claims(sub="person-2")),
        "",
        "a.b",
        "a.b.c",
        "." * 50,
        "x" * 300_000,
    ):
        with pytest.raises(SignOnRefused) as refused:
            checked(bad, KEYS, EXPECTED)
        assert refused.value.reason == "signature_wrong"


def _with_claims_of(signed: str, body: dict[str, Any]) -> str:
    head, _, signature = signed.split(".")
    other = base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()
    return f"{head}.{other}.{signature}"


def test_a_key_brought_along_in_the_token_is_not_used() -> None:
    brought = token(claims(), OTHER, jwk=OTHER.as_dict(private=False))
    with pytest.raises(SignOnRefused):
        checked(brought, KEYS, EXPECTED)


def test_a_key_that_is_not_known_is_told_apart() -> None:
    several = jwk.KeySet.import_key_set(
        {"keys": [{**KEY.as_dict(private=False), "kid": "two"}, KEY.as_dict(private=False)]}
    )
    with pytest.raises(KeyUnknown):
        checked(token(claims(), kid="three"), several, EXPECTED)


@pytest.mark.parametrize(
    ("changes", "proved"),
    [
        ({"acr": "silver"}, True),
        ({"acr": "bronze"}, False),
        ({"acr": ["silver"]}, False),
        ({"amr": ["pwd", "hwk"]}, True),
        ({"amr": ["pwd"]}, False),
        ({"amr": "mfa"}, False),
        ({}, False),
    ],
)
def test_a_second_factor_is_proved_only_as_the_settings_say(
    changes: dict[str, Any], proved: bool
) -> None:
    try:
        assert checked(token(claims(**changes)), KEYS, EXPECTED).second_factor is proved
    except SignOnRefused:
        assert not proved
    bare = Expected(ISSUER, CLIENT, NONCE)
    try:
        assert not checked(token(claims(**changes)), KEYS, bare).second_factor
    except SignOnRefused:
        assert not proved


@pytest.mark.parametrize("verified", [False, "true", 1, None])
def test_an_email_counts_only_where_the_provider_vouches_for_it(verified: object) -> None:
    body = claims(email="a@agency.example", email_verified=verified)
    assert checked(token(body), KEYS, EXPECTED).email is None
    body["email_verified"] = True
    assert checked(token(body), KEYS, EXPECTED).email == "a@agency.example"
