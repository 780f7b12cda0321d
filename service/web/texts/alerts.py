"""The texts of alerts in the pages, by key; they are part of ``pages.TEXTS``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ALERT_TEXTS: Final[Mapping[str, str]] = {
    "nav.alerts": "Alerts",
    "alerts.title": "Alerts",
    "alerts.title_case": "Alerts of case {number}",
    "alerts.lead": "An alert says that a new picture is worth a look: so few strangers are "
    "expected to score as high that it is within the limit of the case. Each is raised once. What "
    "raises none stays in the list of candidates of its case.",
    "alerts.show": "Cases",
    "alerts.show.open": "Open cases",
    "alerts.show.all": "Found and closed cases too",
    "alerts.filter": "Show",
    "alerts.every": "Alerts of all cases",
    "alerts.empty": "There is no alert",
    "alerts.empty_help": "New ads are compared with all open cases as they arrive, and new photos "
    "with all ads. What is telling enough appears here.",
    "alerts.none_found": "No alert fits this filter.",
    "alert.case": "Case {number}",
    "alert.alt": "Face from an ad, alert of {moment}",
    "alert.raised": "Raised {moment}",
    "alert.status": "Candidate",
    "alert.gone": "The candidate of this alert is gone: its ad or its photo was deleted, or the "
    "case was ended.",
    "alert.ended": "This case is {status}: nothing is to be done.",
    "alert.open": "Compare in the case",
    "alert.open_label": "Compare in case {number}, alert of {moment}",
    "alert.tightened": "Stricter limit",
    "alert.tightened_help": "The case had used up its alerts of the week, so the limit was lowered "
    "to {limit} strangers. This candidate is within it even so.",
    "alert.bound_one_in": "The cautious bound is 1 stranger in {searches} searches of this size.",
    "alert.bound_one": "The cautious bound is about 1 stranger in each search of this size.",
    "alert.bound_many": "The cautious bound is {strangers} strangers in each search of this size.",
    "standing.title": "Alerts",
    "standing.raised.one": "{n} alert in the last 7 days.",
    "standing.raised.other": "{n} alerts in the last 7 days.",
    "standing.silent": "No alerts are raised: the face pack is uncalibrated, so nothing is known "
    "of what a score is worth. New candidates appear only in the lists of the cases: read these "
    "often, and have the pack measured (homeward calibrate).",
    "standing.limit": "Strangers that may be expected where one is raised: {limit}. After {budget} "
    "alerts in 7 days that is lowered to a tenth.",
    "standing.tightened": "The limit is stricter now: {limit} strangers. The case has used up its "
    "{budget} alerts of the week. What is held back stays in the list of candidates and raises its "
    "alert when the week allows.",
    "standing.held.one": "{n} candidate is held back.",
    "standing.held.other": "{n} candidates are held back.",
    "standing.all": "All alerts of this case",
    "edit.group.alerts": "Alerts",
    "edit.alerts_hint": "Leave empty what this installation's own values should say.",
    "case.alert_expected_false": "Strangers to expect at most",
    "case.alert_expected_false_hint": "An alert is raised where at most so many strangers are "
    "expected to score as high. 1 is usual; 0.1 alerts less and may miss more.",
    "case.alert_budget": "Alerts a week",
    "case.alert_budget_hint": "After so many in 7 days the limit is lowered to a tenth.",
    "case.alert_emails": "E-mail addresses to tell",
    "case.alert_emails_hint": "One on each line. Mail says only that there is something to review.",
    "field.whole": "Give a whole number, such as 20.",
    "field.more_than": "Must be more than {limit}.",
    "field.emails": "Give one plain address on each line, such as team@agency.example.",
    "job.deliver_webhook": "Send an alert to a webhook",
    "job.deliver_email": "Mail an alert of a case",
    "job.stamp_head": "Have the audit log stamped",
}
