"""Reads the part of the Dockerfile language that this repository's images are written in."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field

KEYWORDS = frozenset(
    {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN"}
    | {"USER", "VOLUME", "WORKDIR"}
)


class Unreadable(ValueError):
    """The file uses something that is not understood here."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its keyword, and the rest of it on one line."""

    keyword: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The words, those of a JSON list as they are."""
        if self.rest.startswith("["):
            loaded: list[str] = json.loads(self.rest)
            return loaded
        return shlex.split(self.rest)


@dataclass(slots=True)
class Stage:
    """``base``: the image or the earlier stage that it begins with."""

    base: str
    name: str
    steps: list[Instruction] = field(default_factory=list)

    def last(self, keyword: str) -> Instruction | None:
        """The instruction of this kind that holds in the end."""
        return next((s for s in reversed(self.steps) if s.keyword == keyword), None)

    def environment(self) -> dict[str, str]:
        pairs = [word for step in self.steps if step.keyword == "ENV" for word in step.words]
        return dict(pair.split("=", 1) for pair in pairs)


def instructions(text: str) -> list[Instruction]:
    """Every instruction in its order. Raises :class:`Unreadable`."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, rest = line.partition(" ")
        if keyword.upper() not in KEYWORDS:
            raise Unreadable(f"unknown instruction: {line}")
        found.append(Instruction(keyword.upper(), rest.strip()))
    return found


def stages(text: str) -> list[Stage]:
    """The stages in their order, with the defaults of the arguments before the first put in."""
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for step in instructions(text):
        if step.keyword == "ARG" and not found:
            name, _, value = step.rest.partition("=")
            arguments[name] = value
        elif step.keyword == "FROM":
            base, *named = step.words
            for name, value in arguments.items():
                base = base.replace(f"${{{name}}}", value)
            found.append(Stage(base, named[1] if named else ""))
        elif not found:
            raise Unreadable(f"{step.keyword} before FROM")
        else:
            found[-1].steps.append(step)
    return found
