"""Keys: random, shown once, kept as digests, refused once revoked."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from indexer.catalog.tables import ApiKey
from indexer.workspace import Workspace
from service.accounts.keys import KeyNotFound, KeyStore
from service.accounts.roles import ALL_SCOPES


def test_the_first_key_is_made_once_and_never_stored(workspace: Workspace) -> None:
    store = KeyStore(workspace.catalog)
    made = store.ensure_administrator()
    assert made is not None
    assert len(made.text) >= 43
    assert store.ensure_administrator() is None
    with workspace.catalog.read() as session:
        for row in session.scalars(select(ApiKey)):
            assert made.text not in str(row.__dict__)
    principal = store.authenticate(made.text)
    assert principal is not None
    assert principal.scopes == ALL_SCOPES


def test_other_texts_are_nobody(workspace: Workspace) -> None:
    store = KeyStore(workspace.catalog)
    made = store.create("one")
    for text in ("", made.text[:-1], made.text + "x", made.text.upper(), "\udcff", "ü" * 40):
        assert store.authenticate(text) is None


def test_two_keys_differ(workspace: Workspace) -> None:
    store = KeyStore(workspace.catalog)
    assert store.create("one").text != store.create("two").text


def test_a_revoked_key_is_refused_at_once(workspace: Workspace) -> None:
    store = KeyStore(workspace.catalog)
    made = store.create("one")
    store.revoke(made.record.key_id)
    assert store.authenticate(made.text) is None
    assert store.list()[0].revoked_at is not None
    with pytest.raises(KeyNotFound):
        store.revoke("no-such-key")


def test_the_configured_key_works_without_being_stored(workspace: Workspace) -> None:
    text = "sixteen-or-more-characters"
    store = KeyStore(workspace.catalog, text)
    principal = store.authenticate(text)
    assert principal is not None
    assert principal.scopes == ALL_SCOPES
    assert store.ensure_administrator() is None
    assert store.list() == ()
    # Without the setting it opens nothing, and an administrator is made after all.
    later = KeyStore(workspace.catalog)
    assert later.authenticate(text) is None
    assert later.ensure_administrator() is not None


def test_the_configured_key_keeps_its_id_between_starts(workspace: Workspace) -> None:
    first = KeyStore(workspace.catalog, "sixteen-or-more-characters").authenticate(
        "sixteen-or-more-characters"
    )
    second = KeyStore(workspace.catalog, "another-key-of-good-length").authenticate(
        "another-key-of-good-length"
    )
    assert first is not None
    assert second is not None
    assert first.actor_id == second.actor_id
