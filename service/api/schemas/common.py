"""Building blocks of the schemas: bounded text, times, ids, boxes and the problem document."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    StringConstraints,
    WithJsonSchema,
)

from indexer.times import (
    date_in_range,
    date_or_text,
    moment_in_range,
    moment_text,
    rfc3339,
    time_in_range,
)

SHA256_PATTERN = "^[0-9a-f]{64}$"


class In(BaseModel):
    """A body that comes in: unknown fields are refused, infinite numbers too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)


class Out(BaseModel):
    """A body that goes out."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


def storable(text: str) -> str:
    """No NUL (databases refuse it) and no lone surrogate (UTF-8 cannot hold it)."""
    if "\0" in text:
        raise ValueError("a NUL character is not allowed")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text holds half a surrogate pair") from None
    return text


Number = Annotated[float, Strict()]
"""A JSON number: neither text nor true."""

QueryText = Annotated[str, AfterValidator(storable)]


_TIME_SCHEMA = {"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.000Z"]}

TimeIn = Annotated[
    datetime,
    BeforeValidator(date_or_text),
    AfterValidator(time_in_range),
    WithJsonSchema(_TIME_SCHEMA),
]
"""RFC 3339 with a zone; kept in UTC, cut to milliseconds."""

DateIn = Annotated[
    date,
    BeforeValidator(date_or_text),
    AfterValidator(date_in_range),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["2026-01-31"]}),
]


MomentIn = Annotated[
    date | datetime,
    BeforeValidator(moment_in_range),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date"},
                {"type": "string", "format": "date-time"},
            ],
            "description": "A date, or a time with its zone; nothing is guessed from a date.",
        }
    ),
]

TimeOut = Annotated[
    datetime,
    PlainSerializer(lambda value: rfc3339(value.astimezone(UTC)), return_type=str),
    WithJsonSchema(_TIME_SCHEMA, mode="serialization"),
]

MomentOut = Annotated[
    date | datetime,
    PlainSerializer(moment_text, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date"},
                {"type": "string", "format": "date-time"},
            ]
        },
        mode="serialization",
    ),
]

Id = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]
Sha256 = Annotated[str, WithJsonSchema({"type": "string", "pattern": SHA256_PATTERN})]
Sha256In = Annotated[
    str,
    StringConstraints(pattern="^[0-9a-fA-F]{64}$", to_lower=True),
    WithJsonSchema({"type": "string", "pattern": SHA256_PATTERN}),
]

Purpose = Literal["locate_missing_person", "identify_victim", "verify_sighting", "training"]


class BoxOut(Out):
    """Pixels of the upright image."""

    x: float
    y: float
    width: float
    height: float


class QualityComponentOut(Out):
    name: str
    value: float
    unit: str
    score: float = Field(ge=0, le=1)
    reason: str | None = None


class QualityOut(Out):
    """How well a face can be compared."""

    score: float = Field(ge=0, le=1, description="1: nothing limits the comparison")
    components: list[QualityComponentOut] = Field(
        default_factory=list, description="Each measured property with its unit"
    )
    reasons: list[str] = Field(
        default_factory=list, description="What limits the comparison, in words"
    )


class FieldError(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457 problem document."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable snake_case name of the error, for programs")
    request_id: str
    remedy: str | None = Field(None, description="What can be done about it")
    errors: list[FieldError] | None = Field(None, description="Every field that is wrong")
