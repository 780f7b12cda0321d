"""Settings are checked once, say which one is wrong, and never show its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config import Settings, SettingsInvalid, load_settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEWARD_PORT", "9001")
    monkeypatch.setenv("HOMEWARD_DATA_DIR", "/somewhere/else")
    settings = load_settings()
    assert settings.port == 9001
    assert settings.data_dir == Path("/somewhere/else")


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEWARD_PORT", "9001")
    assert load_settings(port=9002).port == 9002
    assert load_settings(port=None).port == 9001


def test_no_secret_has_a_default() -> None:
    assert load_settings().api_key is None


@pytest.mark.parametrize("key", ["short", "fifteen-letters", " leading-space-and-long", "x" * 15])
def test_a_weak_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(api_key=key)
    assert caught.value.code == "settings_invalid"
    assert caught.value.remedy
    assert key not in str(caught.value)
    assert "HOMEWARD_API_KEY" in caught.value.detail


def test_sixteen_characters_are_enough() -> None:
    settings = load_settings(api_key="x" * 16)
    assert settings.api_key is not None
    assert "x" * 16 not in repr(settings)


def test_every_bad_setting_is_named() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(port=99_999, rate_limit_per_minute=0)
    assert "HOMEWARD_PORT" in caught.value.detail
    assert "HOMEWARD_RATE_LIMIT_PER_MINUTE" in caught.value.detail


def test_settings_do_not_change_later() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "url",
    [
        "bucket",
        "https://store.example/bucket",
        "s3://",
        "s3://a",
        "s3://key:secret@bucket/x",
        "s3://bucket/../other",
        "s3://bucket//x",
        "s3://bucket/x?versionId=1",
    ],
)
def test_an_object_store_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(blobs_url=url)
    assert "HOMEWARD_BLOBS_URL" in caught.value.detail
    assert "secret" not in str(caught.value)


def test_milvus_is_spoken_to_encrypted_and_its_address_holds_no_user() -> None:
    for uri in (
        "http://127.0.0.1:19530",
        "https://root:secret@milvus.example:19530",
        "https://secret@milvus.example:19530",
        "milvus.example",
        None,
    ):
        with pytest.raises(SettingsInvalid) as caught:
            load_settings(vectors="milvus", milvus_uri=uri)
        assert "HOMEWARD_MILVUS_URI" in caught.value.detail
        assert "secret" not in str(caught.value)
    load_settings(vectors="milvus", milvus_uri="https://milvus.example:19530")
    load_settings(vectors="milvus", milvus_uri="http://127.0.0.1:19530", milvus_allow_http=True)


def test_an_object_store_is_spoken_to_encrypted_unless_said_otherwise() -> None:
    assert load_settings(blobs_url="s3://homeward-originals/a/b").blobs_endpoint is None
    for endpoint in ("http://127.0.0.1:9000", "https://key:secret@store.example", "store.example"):
        with pytest.raises(SettingsInvalid) as caught:
            load_settings(blobs_endpoint=endpoint)
        assert "HOMEWARD_BLOBS_ENDPOINT" in caught.value.detail
        assert "secret" not in str(caught.value)
    load_settings(blobs_endpoint="https://store.example")
    load_settings(blobs_endpoint="http://127.0.0.1:9000", blobs_allow_http=True)
