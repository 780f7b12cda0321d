"""What goes wrong with accounts, for whoever asked."""

from __future__ import annotations

from models.errors import HomewardError


class SignInRefused(HomewardError):
    """One answer for every reason, so that it tells nobody which names exist."""

    code = "sign_in_refused"

    def __init__(self) -> None:
        super().__init__(
            "The name, the password or the code is not right, or there were too many tries.",
            remedy="Check all three and use a fresh code. After 5 failures a name is locked for "
            "15 minutes.",
        )


class SetUpRefused(HomewardError):
    """The set-up code is unknown, used or too old."""

    code = "set_up_refused"

    def __init__(self) -> None:
        super().__init__(
            "This set-up code is not valid, was used already or is too old.",
            remedy="Ask an administrator for a fresh one.",
        )


class PasswordRefused(HomewardError):
    """The new password is too short, too long or too easily guessed."""

    code = "password_refused"


class CodeRefused(HomewardError):
    """The code of the second factor is wrong, too old or was used already."""

    code = "code_refused"

    def __init__(self) -> None:
        super().__init__(
            "The code is not right, is too old, or was used already.",
            remedy="Wait for the next code of the authenticator and type that one. If it stays, "
            "check the clock of the device.",
        )


class CurrentPasswordWrong(HomewardError):
    """Whoever changes how they sign in has to know the password in force."""

    code = "current_password_wrong"

    def __init__(self) -> None:
        super().__init__("The current password is not right.", remedy="Type it again.")


class LoginTaken(HomewardError):
    """Another person has this login."""

    code = "login_taken"

    def __init__(self) -> None:
        super().__init__("Another person has this sign-in name.", remedy="Choose another one.")


class LoginInvalid(HomewardError):
    """The login cannot be used."""

    code = "login_invalid"

    def __init__(self) -> None:
        super().__init__(
            "A sign-in name has 1 to 100 letters, digits and . _ @ + -, and no spaces.",
            remedy="Choose another one.",
        )


class RoleUnknown(HomewardError):
    """A role or scope that is not in the policy table."""

    code = "role_unknown"


class UserNotFound(HomewardError):
    """No person of this id or login whom the caller manages."""

    code = "user_not_found"

    def __init__(self, user: str) -> None:
        super().__init__(f"There is no person {user!r}.", remedy="List the people.")


class SessionNotFound(HomewardError):
    """No such session of this person."""

    code = "session_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such session.", remedy="List the sessions; it may be over.")


class AgencyNotFound(HomewardError):
    """No agency of this name that is in use."""

    code = "agency_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no agency {name!r} in use.", remedy="List the agencies, or make it first."
        )


class AgencyTaken(HomewardError):
    """An agency has this name already."""

    code = "agency_taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is an agency {name!r} already.", remedy="Choose another name.")


class AgencyInvalid(HomewardError):
    """The name or title of an agency cannot be used."""

    code = "agency_invalid"


class LastAdministrator(HomewardError):
    """Nobody would be left to manage accounts."""

    code = "last_administrator"

    def __init__(self) -> None:
        super().__init__(
            "Nobody else could manage these accounts; nothing was changed.",
            remedy="Give another person the role administrator first and have them sign in, or use "
            "the command line.",
        )


class PersonChanged(HomewardError):
    """Somebody else changed the person since the form was shown."""

    code = "person_changed"

    def __init__(self) -> None:
        super().__init__(
            "Somebody changed the roles or the training of this person meanwhile; nothing was "
            "changed now.",
            remedy="Look at what is in force and change it again if that is still wanted.",
        )


class AccountsExist(HomewardError):
    """The first page is for an installation without people."""

    code = "accounts_exist"

    def __init__(self) -> None:
        super().__init__(
            "People have accounts here already.", remedy="Sign in with your own account."
        )


class TrainingExpired(HomewardError):
    """Reviewers judge only while their training is valid."""

    code = "training_expired"

    def __init__(self) -> None:
        super().__init__(
            "Your training as a reviewer has not been recorded or has expired.",
            remedy="Ask an administrator to record the training once it is done.",
        )


class SetUpUnfinished(HomewardError):
    """The person still has to choose a password or set up the second factor."""

    code = "set_up_unfinished"

    def __init__(self) -> None:
        super().__init__(
            "Your account is not set up yet.", remedy="Set up your second factor first."
        )


class ExpiryInvalid(HomewardError):
    """A key cannot end at this time."""

    code = "expiry_invalid"


class KeyNameInvalid(HomewardError):
    """The name of a key cannot be used."""

    code = "key_name_invalid"


class TrainingDateInvalid(HomewardError):
    """The day on which a training ends cannot be read."""

    code = "training_date_invalid"


class KeyNotFound(HomewardError):
    """No key of this id that the caller manages."""

    code = "key_not_found"

    def __init__(self, key: str) -> None:
        super().__init__(f"There is no key {key!r}.", remedy="List the keys.")
