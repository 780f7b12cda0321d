"""What can go wrong between the provider and us."""

from __future__ import annotations

from typing import Literal

from models.errors import HomewardError

Reason = Literal[
    "state_wrong",
    "provider_refused",
    "code_refused",
    "answer_unusable",
    "signature_wrong",
    "claims_wrong",
    "token_expired",
    "signed_in_long_ago",
]
"""For the log and the audit; the person is told one thing, whatever it was."""


class SignOnRefused(HomewardError):
    """What came back from the provider proves nothing."""

    code = "sign_on_refused"

    def __init__(self, reason: Reason) -> None:
        super().__init__(
            "The sign-in at the provider could not be used.",
            remedy="Begin again on the sign-in page; if it stays, tell whoever runs this service.",
        )
        self.reason = reason


class SignOnAway(HomewardError):
    """The provider does not answer, or not with what a provider answers."""

    code = "sign_on_away"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The provider that people sign in with cannot be reached now ({what}).",
            remedy="Try again in a few minutes; if it stays, tell whoever runs this service.",
        )
