"""Whoever calls, as the rest of the service knows them."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.acting import ActorKind, acting
from service.accounts.roles import PERMISSIONS


@dataclass(frozen=True, slots=True)
class Principal:
    """A key, a person or an operator at the command line.

    ``actor_id`` goes into every record of what they do; ``agency`` is None where they work for all
    agencies, else the name of the one whose cases they see.
    """

    actor_id: str
    name: str
    scopes: frozenset[str]
    kind: ActorKind = "key"
    agency: str | None = None
    roles: tuple[str, ...] = ()

    def may(self, scope: str) -> bool:
        """Whether they hold the permission ``scope``, and it is worth anything in their agency."""
        rule = PERMISSIONS.get(scope)
        here = self.agency is None or rule is None or not rule.everywhere
        return here and scope in self.scopes

    def acts(self) -> None:
        """What is done from here on in this request or command is recorded as theirs."""
        now = acting()
        now.kind, now.actor, now.agency = self.kind, self.actor_id, self.agency
