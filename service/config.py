"""Settings of the service: read once from the environment, checked once, then only passed on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from indexer.galleries.opening import VectorOptions
from indexer.object_blobs import bucket_and_prefix
from indexer.records import is_email
from models.decode import DecodeLimits
from models.errors import HomewardError
from models.runtime import RuntimeOptions
from service.netconfig import NetworkSettings
from service.profiles import Profile, with_defaults

MIN_KEY_LENGTH = 16
"""Shortest API key that is taken from a setting, in characters."""


class SettingsInvalid(HomewardError):
    """A setting has a value that cannot be used."""

    code = "settings_invalid"


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


class Settings(NetworkSettings):
    """Everything that can be set, each as ``HOMEWARD_<NAME>``. No secret has a default."""

    model_config = SettingsConfigDict(
        env_prefix="HOMEWARD_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    data_dir: Path = Field(Path("homeward-data"), description="Folder of catalog, images and packs")
    catalog_url: str | None = Field(
        None, description="Database address; SQLite in data_dir if unset", repr=False
    )
    blobs_url: str | None = None
    """Object store of the originals, `s3://bucket/prefix`; a folder in data_dir if unset."""
    blobs_allow_http: bool = False
    """Whether the store may be spoken to without encryption."""
    blobs_endpoint: str | None = None
    """Address of a store that is not Amazon's; credentials come from the environment."""
    blobs_region: str | None = None
    api_key: SecretStr | None = Field(None, description="Administrator key, 16 or more characters")

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on")] = 8000

    pack: str = Field("dlib", description="Face pack")
    provider: Literal["cpu", "cuda", "tensorrt"] = Field("cpu", description="Where the models run")
    gpu_device: Annotated[int, Field(ge=0, le=255)] = 0
    """Number of the GPU that the models run on, among those that the process sees."""
    gpu_memory_gb: Annotated[float, Field(ge=0, le=1_000)] = 0.0
    """Most memory that each model may take of a GPU, in 10^9 bytes; 0 sets no bound."""
    model_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads inside one model run; 0 takes one per core."""

    max_image_bytes: Annotated[int, Field(ge=1_000, le=500_000_000)] = 25_000_000
    max_image_pixels: Annotated[int, Field(ge=10_000, le=500_000_000)] = 64_000_000
    allow_truncated_images: bool = False
    max_page_bytes: Annotated[int, Field(ge=1_000, le=500_000_000)] = 25_000_000
    max_json_bytes: Annotated[int, Field(ge=1_000, le=50_000_000)] = 1_000_000
    upload_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0

    rate_limit_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] = 600
    max_queued_jobs: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    max_uploads_in_flight: Annotated[int, Field(ge=1, le=1_000)] = 32

    upload_wait_seconds: Annotated[float, Field(ge=0, le=600)] = 30.0
    """How long an upload waits for its turn before it is refused."""

    compute_threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default_factory=lambda: max(2, _cores())
    )
    """Threads of the compute pool; one of them is always left to requests."""
    compute_backlog: Annotated[int, Field(ge=1, le=10_000)] = 64

    jobs_in_server: bool = True
    """Whether `serve` does queued jobs itself; off where only `homeward worker` does them."""
    min_free_bytes: Annotated[int, Field(ge=0, le=10**15)] = 500_000_000
    """Below this much free disk nothing new is taken in and jobs pause."""
    max_batch_lines: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    max_batch_bytes: Annotated[int, Field(ge=1_000, le=1_000_000_000)] = 20_000_000
    staged_hours: Annotated[float, Field(gt=0, le=10_000)] = 24.0
    """How long bytes sent ahead of their ad are kept."""
    max_event_streams: Annotated[int, Field(ge=0, le=10_000)] = 100

    alert_expected_false: Annotated[float, Field(gt=0, le=1_000)] = 1.0
    alert_budget_per_week: Annotated[int, Field(ge=1, le=100_000)] = 20
    webhook_allow_private: bool = False
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=120)] = 10.0
    smtp_host: str | None = None
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    smtp_from: str | None = None

    vectors: Literal["local", "gpu", "milvus"] = "local"
    """Where face vectors are searched: segments on this machine, its GPU, or a Milvus server."""
    search_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads of one search; 0 takes one per core, at most four."""
    milvus_allow_http: bool = False
    """Whether vectors may go to that server unencrypted."""
    milvus_uri: Annotated[SecretStr | None, Field(validate_default=True)] = None
    milvus_token: SecretStr | None = None

    encryption_key_file: Path | None = None
    """File of the keys that data at rest is encrypted under; for its owner alone."""
    encryption_keys: SecretStr | None = None
    """The same lines in the environment, instead of a file."""
    milvus_unencrypted: bool = False
    """Whether a Milvus server may keep vectors while data at rest is encrypted."""

    profile: Profile = "standard"
    """Which place and law the defaults are for."""
    ad_max_age_days: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Ads not seen for so many days are forgotten; 0 keeps them."""
    approval: Literal["off", "required"] = "off"
    """Whether a case waits for a second person's approval before it is searched."""
    approval_days: Annotated[int, Field(ge=1, le=366)] = 90
    """How long an approval holds where whoever gives it does not say."""
    ad_faces: Literal["standard", "transient"] = "standard"
    """Whether faces of ads that are no candidates of open cases are kept."""
    withheld_hours: Annotated[float, Field(gt=0, le=8_760)] = 24.0
    """How long the designated role has to settle a withheld picture."""
    withheld_emails: str = ""
    """Addresses of the designated role, separated by commas; told of withheld pictures."""
    purge_ledger: Path | None = None
    """File outside of every backup that lists deletions; `purges.jsonl` in data_dir if unset."""

    audit_heads: Path | None = None
    """File that heads of the audit log are noted in; `audit-heads.jsonl` in data_dir if unset."""
    stamp_url: str | None = None
    """Address of an RFC 3161 time-stamping authority; none is asked if unset."""
    stamp_ca_file: Path | None = None
    """Certificates that its stamps have to lead to, in PEM."""

    pg_dump: str | None = None
    """PostgreSQL's program for back-ups; `pg_restore` lies beside it."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_profile(cls, given: object) -> object:
        return with_defaults(given) if isinstance(given, dict) else given

    @field_validator("api_key", mode="before")
    @classmethod
    def _key_long_enough(cls, value: object) -> object:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is None or text == "":
            return None
        if not isinstance(text, str) or len(text) < MIN_KEY_LENGTH:
            raise ValueError(f"the key needs at least {MIN_KEY_LENGTH} characters")
        if not text.isascii() or not text.isprintable() or text != text.strip():
            raise ValueError("the key may hold only printable ASCII and no space at either end")
        return value

    @field_validator("blobs_url")
    @classmethod
    def _object_store(cls, value: str | None) -> str | None:
        if not value:
            return None
        bucket_and_prefix(value)
        return value

    @field_validator("blobs_endpoint")
    @classmethod
    def _endpoint(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("the address has to read https://host or http://host, with no user")
        if parts.scheme == "http" and not info.data.get("blobs_allow_http"):
            raise ValueError("without https it is used only where HOMEWARD_BLOBS_ALLOW_HTTP is on")
        return value

    @field_validator("milvus_uri")
    @classmethod
    def _milvus(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("vectors") != "milvus":
            return value
        parts = urlsplit(value.get_secret_value() if value else "")
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(
                "the address has to read https://host:port for HOMEWARD_VECTORS=milvus, with no "
                "user: that goes into HOMEWARD_MILVUS_TOKEN"
            )
        if parts.scheme == "http" and not info.data.get("milvus_allow_http"):
            raise ValueError("without https it is used only where HOMEWARD_MILVUS_ALLOW_HTTP is on")
        return value

    @field_validator("stamp_url")
    @classmethod
    def _stamps(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("the address has to read https://host or http://host, with no user")
        return value

    @field_validator("withheld_emails")
    @classmethod
    def _addresses(cls, value: str) -> str:
        if not all(is_email(one) for one in _listed(value)):
            raise ValueError("addresses read name@host.example, separated by commas")
        return value

    @field_validator(
        "data_dir", "purge_ledger", "audit_heads", "stamp_ca_file", "encryption_key_file"
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @property
    def withheld_addresses(self) -> tuple[str, ...]:
        """Who is told of withheld pictures by e-mail."""
        return _listed(self.withheld_emails)

    @property
    def decode_limits(self) -> DecodeLimits:
        """What an image may be before it is decoded."""
        return DecodeLimits(
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_image_pixels,
            allow_truncated=self.allow_truncated_images,
        )

    @property
    def runtime(self) -> RuntimeOptions:
        """Where and how models run."""
        return RuntimeOptions(
            provider=self.provider,
            threads=self.model_threads,
            device=self.gpu_device,
            memory_bytes=round(self.gpu_memory_gb * 1e9),
            engine_cache=self.data_dir / "engines",
        )

    @property
    def packs_dir(self) -> Path:
        """Where built face packs are kept."""
        return self.data_dir / "packs"

    @property
    def blobs_dir(self) -> Path:
        """Where originals lie, or where they are received if they lie in an object store."""
        return self.data_dir / "blobs"

    @property
    def purge_ledger_path(self) -> Path:
        """Where deletions are listed outside of the catalog."""
        return self.purge_ledger or self.data_dir / "purges.jsonl"

    @property
    def audit_heads_path(self) -> Path:
        """Where heads of the audit log are noted outside of the catalog."""
        return self.audit_heads or self.data_dir / "audit-heads.jsonl"

    @property
    def vector_options(self) -> VectorOptions:
        """Where and how vectors are searched."""
        return VectorOptions(
            kind=self.vectors,
            threads=self.search_threads or min(4, _cores()),
            milvus_uri=self.milvus_uri.get_secret_value() if self.milvus_uri else "",
            milvus_token=self.milvus_token.get_secret_value() if self.milvus_token else "",
        )

    @property
    def max_body_bytes(self) -> int:
        """The largest body of all: an ad with all the pictures and pages it may have."""
        return 20 * 2 * self.max_image_bytes + 3 * self.max_page_bytes + 2 * self.max_json_bytes

    @property
    def job_workers(self) -> int:
        """Jobs that run at the same time: every compute thread but one."""
        return max(1, self.compute_threads - 1)


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with ``overrides`` (None counts as not given) on top.

    Raises :class:`SettingsInvalid` that names every bad setting, and never its value.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"HOMEWARD_{'.'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            if item["loc"]
            else str(item["msg"]).removeprefix("Value error, ")
            for item in error.errors(include_input=False, include_url=False)
        )
        raise SettingsInvalid(
            f"Settings cannot be used: {problems}.",
            remedy="Correct or unset the named settings and start again.",
        ) from None
