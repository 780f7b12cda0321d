"""Generated requests with the key of each role of one agency: nothing fails, and nothing of another
agency comes back, whatever is asked for.

``HOMEWARD_ATTACK_EXAMPLES`` is how many requests are made of each call (6 unless set).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from service.accounts.keys import ROLE_PREFIX, KeyStore
from service.accounts.roles import ROLES
from tests.attacks.conftest import open_small
from tests.attacks.servers import running
from tests.indexer.small import face_picture
from tests.service.conftest import AUTH, make_settings, post_ad, post_case
from tests.service.test_openapi import one_line as one_line

EXAMPLES = int(os.environ.pop("HOMEWARD_ATTACK_EXAMPLES", "6"))
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
ENDLESS = "/events$"
MARK = "zzmarkzz"
OURS, THEIRS = "ours", "theirs"
INSTALLATION = frozenset({"auditor"})
"""Roles that see ids of all agencies by their office (``roles.PERMISSIONS``), and no more."""


@dataclass
class Other:
    """What belongs to the other agency: nobody of ours may see these."""

    ids: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    schema: Any
    url: str
    keys: dict[str, str]
    other: Other


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = make_settings(tmp_path_factory.mktemp("generated"))
    with (
        open_small(made) as workspace,
        running(made, workspace) as server,
        httpx2.Client(base_url=server.url, headers=AUTH, timeout=60) as client,
    ):
        other = _seed(client)
        keys = KeyStore(workspace.catalog)
        made_keys: dict[str, str] = {}
        for role in ROLES:
            made_keys[role] = keys.create(role, (ROLE_PREFIX + role,), agency=OURS).text
        document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        yield World(document.exclude(path_regex=ENDLESS), server.url, made_keys, other)
        # Nothing of theirs was changed by anybody of ours.
        found = client.get(f"/v1/cases/{other.ids['case_id']}").json()
        assert found["case_number"] == f"{MARK}-1" and found["status"] == "open"
        assert found["notes"] == f"{MARK} notes" and len(found["photos"]) == 1


def _seed(client: httpx2.Client) -> Other:
    other = Other()
    post_case(client, "ours-1", agency=OURS)
    case_id = post_case(
        client,
        f"{MARK}-1",
        agency=THEIRS,
        person={"name": f"{MARK} Name", "aliases": [f"{MARK} Alias"], "marks": [f"{MARK} scar"]},
        last_seen={"place": f"{MARK} Place"},
        notes=f"{MARK} notes",
    )
    answer = client.post(
        f"/v1/cases/{case_id}/photos", files={"file": (f"{MARK}.png", face_picture(1))}
    )
    assert answer.status_code == 201, answer.text
    photo = answer.json()
    other.ids = {
        "case_id": case_id,
        "photo_id": photo["photo_id"],
        "job_id": photo["job_id"],
        "sha256": photo["sha256"],
    }
    ad = post_ad(client, "1", pictures=[("a.png", face_picture(2))]).json()
    other.shared = {"ad_id": ad["ad_id"]}
    return other


def operations(world: World) -> Iterator[Any]:
    for found in world.schema.get_all_operations():
        assert isinstance(found, Ok), str(found)[:300]
        yield found.ok()


def _aim(case: schemathesis.Case[Any], known: dict[str, str]) -> set[str]:
    """Have a request ask for what belongs to the other agency; the ids it then asks for."""
    asked = set()
    values: Any
    for values in (case.path_parameters, case.query):
        for name in known if isinstance(values, dict) else ():
            if name in values:
                values[name] = known[name]
                asked.add(known[name])
    return asked


@pytest.mark.parametrize("role", ROLES)
def test_generated_requests_with_the_key_of_a_role(world: World, role: str) -> None:
    headers = {"Authorization": f"Bearer {world.keys[role]}"}
    secret = set() if role in INSTALLATION else set(world.other.ids.values())
    known = {**world.other.ids, **world.other.shared}
    statuses: set[int] = set()
    for operation in operations(world):

        @BOUNDED
        @given(case=operation.as_strategy(), aimed=st.booleans())
        def check(case: schemathesis.Case[Any], aimed: bool) -> None:
            asked = _aim(case, known) if aimed else set()
            named = set(case.path_parameters.values()) & secret
            answer = case.call(headers=headers)
            where = f"{role}: {case.method} {case.path}"
            statuses.add(answer.status_code)
            assert answer.status_code < 500 or answer.status_code in (503, 507), (
                where,
                answer.text[:300],
            )
            shown = answer.text + str(answer.headers)
            assert MARK not in shown, where
            # An id that was asked for may stand in the refusal.
            told = [text for text in secret - asked if text in shown]
            assert not told, (where, told)
            assert not named or answer.status_code >= 400, (where, answer.status_code)

        check()
    assert 401 not in statuses and 403 in statuses, statuses


def test_the_scan_finds_what_it_looks_for(world: World) -> None:
    """With the key of an administrator of all agencies, all of it comes back."""
    answer = httpx2.get(f"{world.url}/v1/cases/{world.other.ids['case_id']}", headers=AUTH)
    assert MARK in answer.text and world.other.ids["photo_id"] in answer.text
