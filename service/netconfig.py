"""Settings of what lies between people and the service: names, proxies, TLS, sign-in elsewhere."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from service.accounts.roles import ROLES

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]", re.ASCII)


def words(text: str) -> tuple[str, ...]:
    """The parts of a list in a setting, separated by commas or spaces."""
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def is_loopback(host: str) -> bool:
    """Whether a host in an address or a setting is this machine itself."""
    bare = host.strip("[]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


class NetworkSettings(BaseSettings):
    """Lists are texts separated by commas, so that a shell needs no quotes around quotes."""

    public_url: str | None = None
    """Where people reach the pages; links in e-mails begin with it."""
    allowed_hosts: str = ""
    """Names that requests may be for, such as `homeward.example`; any if unset."""
    trusted_proxies: str = ""
    """Addresses or networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."""
    tls_cert: Path | None = None
    """PEM file of the certificate and those between it and the root."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    failures_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Requests with a wrong key that one address may make in a minute."""
    header_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 15.0
    """How long a connection may take to send the head of a request."""

    oidc_issuer: str | None = None
    """Issuer of an OpenID Connect provider that people sign in with."""
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    oidc_name: str = Field("your organisation", max_length=60)
    """What the sign-in page calls the provider."""
    oidc_acr: str = ""
    """Values of `acr` that prove a second factor; the first is asked for."""
    oidc_amr: str = ""
    """Values of `amr` one of which proves a second factor."""
    oidc_create_roles: str = ""
    """Roles of people whom the provider knows and Homeward does not yet; none are let in if
    unset."""
    oidc_create_agency: str = ""
    """Their agency."""

    @field_validator("tls_cert", "tls_key")
    @classmethod
    def _absolute_file(cls, value: Path | None) -> Path | None:
        return None if value is None or str(value) == "." else value.expanduser().absolute()

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for part in words(value):
            try:
                ipaddress.ip_network(part)
            except ValueError:
                raise ValueError(
                    "addresses or networks are needed, such as 10.0.0.5 or 10.0.0.0/24"
                ) from None
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: str) -> str:
        if not all(_HOST.fullmatch(part.lower()) for part in words(value)):
            raise ValueError("names without scheme and port are needed, such as homeward.example")
        return value

    @field_validator("oidc_issuer")
    @classmethod
    def _issuer(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("the issuer has to read https://host or https://host/path")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
            raise ValueError("the issuer is spoken to encrypted: it has to begin with https")
        return value

    @field_validator("oidc_create_roles")
    @classmethod
    def _roles(cls, value: str) -> str:
        named = words(value)
        if "administrator" in named:
            raise ValueError("no administrator is ever made by a provider")
        if not set(named) <= set(ROLES):
            raise ValueError(f"roles are {', '.join(r for r in ROLES if r != 'administrator')}")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("HOMEWARD_TLS_CERT and HOMEWARD_TLS_KEY are set both or not at all")
        if self.oidc_issuer is not None:
            if not self.oidc_client_id or self.oidc_client_secret is None:
                raise ValueError(
                    "HOMEWARD_OIDC_ISSUER needs HOMEWARD_OIDC_CLIENT_ID and "
                    "HOMEWARD_OIDC_CLIENT_SECRET"
                )
            if not self.public_url:
                raise ValueError(
                    "HOMEWARD_OIDC_ISSUER needs HOMEWARD_PUBLIC_URL: the provider sends people "
                    "back there"
                )
        return self

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        """Where proxies that are believed have their addresses."""
        return tuple(ipaddress.ip_network(part) for part in words(self.trusted_proxies))

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names that requests may be for, in lower case; empty where any will do."""
        return tuple(part.lower() for part in words(self.allowed_hosts))
