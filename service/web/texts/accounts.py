"""The texts of accounts in the pages, by key; they are part of ``pages.TEXTS``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ACCOUNT_TEXTS: Final[Mapping[str, str]] = {
    "nav.people": "People",
    "nav.keys": "Keys",
    # --- signing in --------------------------------------------------------------------------
    "signin.login": "Name",
    "signin.password": "Password",
    "signin.code": "Code",
    "signin.code_hint": "The six digits that your authenticator shows, or one of your recovery "
    "codes.",
    "signin.refused": "Signing in failed. Check name, password and code, and use a fresh code. "
    "After 5 failures a name is locked for 15 minutes.",
    "signin.welcome": "I have a set-up code",
    "welcome.title": "Begin with a set-up code",
    "welcome.lead": "An administrator gave you a code with which you set up your account. It works "
    "once, for 72 hours.",
    "welcome.code": "Set-up code",
    "welcome.submit": "Begin",
    "welcome.refused": "This set-up code is not valid, was used already or is too old. Ask an "
    "administrator for a fresh one.",
    # --- setting up --------------------------------------------------------------------------
    "setup.title": "Set up your account",
    "setup.lead": "Choose a password and connect an authenticator. Both are asked for each time "
    "you sign in.",
    "setup.lead_factor": "Connect an authenticator. A code of it is asked for each time you sign "
    "in.",
    "setup.first_title": "Make the first account",
    "setup.first_lead": "It becomes an administrator of the whole installation, who makes the "
    "other accounts. From then on people sign in with their own accounts; keys are for programs.",
    "setup.login_hint": "Letters, digits and . _ @ + -, such as j.doe.",
    "setup.display_name": "Full name",
    "setup.password_hint": "At least 12 characters; several words in a row are good. It needs no "
    "special characters.",
    "setup.scan": "Connect an authenticator",
    "setup.scan_help": "Scan this picture with an authenticator app, or type the secret into it. "
    "Then type the code that it shows.",
    "setup.qr": "The secret as a picture for an authenticator to scan",
    "setup.secret": "Secret",
    "setup.code": "Code of the authenticator",
    "setup.submit": "Set up",
    "codes.title": "Your recovery codes",
    "codes.lead": "Each of them signs you in once, in place of the code of your authenticator. "
    "Write them down and keep them in a safe place: they are shown only now.",
    "codes.next": "I have kept them",
    # --- one's own account -------------------------------------------------------------------
    "account.title": "Your account",
    "account.agency": "Agency",
    "account.roles": "Roles",
    "account.trained": "Trained as reviewer until",
    "account.untrained": "no training recorded",
    "account.elsewhere": "You sign in through your agency, so password and second factor are "
    "changed there.",
    "account.password": "Password",
    "account.current": "Current password",
    "account.new": "New password",
    "account.change_password": "Change password",
    "account.factor": "Second factor",
    "account.codes_left.one": "{n} recovery code is left.",
    "account.codes_left.other": "{n} recovery codes are left.",
    "account.change_factor": "Connect another authenticator",
    "account.renew_codes": "Make new recovery codes",
    "account.renew_help": "The old ones are worth nothing from then on.",
    "account.sessions": "Where you are signed in",
    "account.this": "this browser",
    "account.end": "End",
    "account.end_label": "End the session begun {moment}",
    "account.end_others": "End all others",
    "factor.title": "Connect another authenticator",
    "factor.lead": "The one before and your recovery codes are worth nothing from then on, and all "
    "your other sessions end.",
    "session.browser": "Browser",
    "session.address": "Address",
    "session.since": "Since",
    "session.last": "Last used",
    "session.none": "There is no session.",
    # --- people ------------------------------------------------------------------------------
    "people.title": "People",
    "people.lead": "Each person signs in with an account of their own, and may do what their roles "
    "allow. Nobody but them knows their password.",
    "people.login": "Name",
    "people.full_name": "Full name",
    "people.state": "Account",
    "people.empty": "Nobody has an account yet.",
    "people.active": "in use",
    "people.waiting": "not set up yet",
    "people.disabled": "disabled",
    "people.all_agencies": "All agencies",
    "people.unnamed": "The unnamed agency",
    "people.new": "New person",
    "people.make": "Make the account",
    "people.agencies": "Agencies",
    "people.agency_name": "Short name",
    "people.agency_title": "Title",
    "people.agency_new": "New agency",
    "people.agency_make": "Make the agency",
    "people.retired": "retired",
    "people.retire": "Retire",
    "people.retire_label": "Retire {name}",
    "people.unretire": "Take back into use",
    "people.unretire_label": "Take {name} back into use",
    "people.retire_help": "Nobody of a retired agency is let in, people and keys alike; its cases "
    "stay.",
    "person.since": "Account made",
    "person.save": "Save",
    "person.trained_hint": "The last day on which this person may judge candidates. Empty: not "
    "trained.",
    "person.change": "Name, roles and training",
    "person.sessions": "Where they are signed in",
    "person.end_all": "End all sessions",
    "person.ending": "Ending the account",
    "person.disable": "Disable the account",
    "person.disable_help": "They are let in no more and their sessions end at once. Keys that "
    "they made are revoked for good. What they did stays recorded.",
    "person.enable": "Let them in again",
    "person.reset": "Reset password and second factor",
    "person.reset_help": "For whoever lost them: both are worth nothing at once, a link to a "
    "provider is taken back, and you get a set-up code to hand over.",
    "code.title": "Set-up code for {name}",
    "code.lead": "Hand it over in person or through a channel that you trust. It works once, until "
    "{moment}, and is shown only now.",
    "code.address": "Address to open",
    "code.code": "Or the code alone",
    "code.next": "To the list of people",
    # --- keys --------------------------------------------------------------------------------
    "keys.title": "Keys",
    "keys.lead": "Keys are for programs, such as a scraper that sends ads. People sign in with "
    "accounts.",
    "keys.name": "Name",
    "keys.prefix": "Begins with",
    "keys.may": "May",
    "keys.everything": "everything",
    "keys.expires": "Ends",
    "keys.used": "Last used",
    "keys.state": "State",
    "keys.active": "in use",
    "keys.revoked": "revoked",
    "keys.expired": "expired",
    "keys.revoke": "Revoke",
    "keys.revoke_label": "Revoke the key {name}",
    "keys.empty": "There is no key.",
    "keys.new": "New key",
    "keys.name_hint": "What or whom it is for.",
    "keys.expires_days": "Ends after days",
    "keys.expires_hint": "Empty: never.",
    "keys.roles": "Roles",
    "keys.scopes": "Single permissions",
    "keys.make": "Make the key",
    "key.title": "The key {name}",
    "key.lead": "Keep it now: it is shown only this once.",
    "key.text": "Key",
    "key.next": "To the list of keys",
    # --- after an action ---------------------------------------------------------------------
    "done.password_changed": "The password is changed, and your other sessions have ended.",
    "done.sessions_ended": "The sessions have ended.",
    "done.agency_made": "The agency is made.",
    "done.changed": "The changes are saved.",
    "done.key_revoked": "The key is revoked.",
    "role.scraper": "Scraper",
    "role.investigator": "Investigator",
    "role.supervisor": "Supervisor",
    "role.auditor": "Auditor",
    "role.administrator": "Administrator",
}
