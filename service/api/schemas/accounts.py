"""People, agencies and keys, as administrators see them: never a password, never a digest."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from service.accounts.roles import Role
from service.api.schemas.common import DateIn, Id, In, Out, TimeIn, TimeOut, storable

AgencyName = Annotated[str, StringConstraints(max_length=100), AfterValidator(storable)]
NewAgencyName = Annotated[
    str, StringConstraints(min_length=1, max_length=100), AfterValidator(storable)
]
Title = Annotated[str, StringConstraints(max_length=200), AfterValidator(storable)]
KeyName = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(storable)]
Roles = Annotated[list[Role], Field(min_length=1, max_length=20)]
_AGENCY = (
    "Empty: the unnamed agency. Null: all agencies. Left out: the caller's own; from a caller of "
    "all agencies the unnamed one for roles that work on cases, else all agencies"
)


class UserIn(In):
    """A new person, who still has to choose a password."""

    login: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(
        description="Letters, digits and . _ @ + -; compared without regard to case"
    )
    display_name: Title = ""
    roles: Roles
    agency: AgencyName | None = Field(default=None, description=_AGENCY)


class UserPatch(In):
    """What is to be changed; what is left out stays."""

    display_name: Title | None = None
    roles: Roles | None = None
    trained_until: DateIn | None = Field(
        default=None, description="The last day on which they may judge; null: not trained"
    )
    disabled: bool | None = None


class UserOut(Out):
    user_id: Id
    login: str
    display_name: str
    agency: str | None = Field(description="Null: all agencies")
    roles: list[Role]
    trained_until: date | None
    set_up: bool = Field(description="Whether both factors are chosen, or proved elsewhere")
    elsewhere: bool = Field(description="Whether they sign in through another provider")
    recovery_codes_left: int
    created_at: TimeOut
    disabled_at: TimeOut | None


class NewUserOut(UserOut):
    setup_code: str | None = Field(
        description="Shown once: with it the person chooses password and second factor at "
        "/welcome; null in a repeated answer"
    )
    setup_expires_at: TimeOut


class UserList(Out):
    items: list[UserOut]
    next_cursor: str | None


class SessionOut(Out):
    """A browser in which the person is signed in."""

    session_id: Id
    address: str
    user_agent: str
    created_at: TimeOut
    last_used_at: TimeOut


class SessionList(Out):
    items: list[SessionOut]
    next_cursor: str | None


class AgencyIn(In):
    name: NewAgencyName
    title: Title = ""


class AgencyPatch(In):
    title: Title | None = None
    retired: bool | None = Field(default=None, description="Nobody of a retired agency is let in")


class AgencyOut(Out):
    name: str = Field(description="Empty for the unnamed agency")
    title: str
    created_at: TimeOut
    retired_at: TimeOut | None


class AgencyList(Out):
    items: list[AgencyOut]
    next_cursor: str | None


class KeyIn(In):
    """A new key; it gives no more than whoever makes it holds."""

    name: KeyName
    roles: Annotated[list[Role], Field(max_length=20)] = Field(default_factory=list)
    scopes: Annotated[
        list[Annotated[str, StringConstraints(max_length=60)]], Field(max_length=100)
    ] = Field(default_factory=list, description="Single permissions, such as ads:write")
    agency: AgencyName | None = Field(
        default=None,
        description="Null: all agencies. Left out: that of the caller",
    )
    expires_at: TimeIn | None = None


class KeyOut(Out):
    key_id: Id
    name: str
    prefix: str
    scopes: list[str] = Field(
        description="Single permissions, role:<name>, or administrator for every permission"
    )
    agency: str | None
    created_by: str | None
    created_at: TimeOut
    expires_at: TimeOut | None
    last_used_at: TimeOut | None = Field(description="Written at most once a minute")
    revoked_at: TimeOut | None


class NewKeyOut(KeyOut):
    key: str | None = Field(description="Shown once; null in a repeated answer")


class KeyList(Out):
    items: list[KeyOut]
    next_cursor: str | None
