"""The words of approvals, holds and transparency reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CASEWORK_TEXTS: Final[Mapping[str, str]] = {
    "nav.approvals": "Approvals",
    "nav.holds": "Holds",
    "approvals.title": "Searches that wait for approval",
    "approvals.lead": "A second person decides whether a case may be searched. Whoever asked "
    "cannot decide.",
    "approvals.none": "Nothing waits for a decision.",
    "approvals.of_case": "Approval of searches for case {number}",
    "approvals.suspended": "This case is not searched now: no approval is in force. Photos can be "
    "enrolled meanwhile.",
    "approvals.until": "This case may be searched until {moment}.",
    "approvals.soon": "This case may be searched now. Searches need an approval here; ask for it "
    "in time.",
    "approvals.not_needed": "This case is searched without an approval.",
    "approvals.ended": "This case is not open; what was approved for it is over.",
    "approvals.note": "Note",
    "approvals.note_hint": "For whoever decides.",
    "approvals.emergency": "Emergency: begin at once. The search ends after 48 hours unless it is "
    "approved by then.",
    "approvals.ask": "Ask for approval",
    "approvals.back": "Back to the case",
    "approvals.history": "History",
    "approvals.asked": "Asked",
    "approvals.by": "Asked by",
    "approvals.state": "State",
    "approvals.decided_by": "Decided by",
    "approvals.valid_until": "Holds until",
    "approvals.ratify_by": "Ends unless approved by",
    "approvals.was_emergency": "emergency",
    "approval.title": "Decide about searches for case {number}",
    "approval.legend": "Decision",
    "approval.approve": "Approve: the case is searched",
    "approval.refuse": "Refuse: the case is not searched on this ground",
    "approval.days": "Days for which it holds",
    "approval.days_hint": "Leave empty for the usual {days} days; 366 at most.",
    "approval.days_wrong": "Give a whole number of days from 1 to 366.",
    "approval.submit": "Write down the decision",
    "approval.state.asked": "waits",
    "approval.state.approved": "approved",
    "approval.state.refused": "refused",
    "approval.state.lapsed": "over",
    "case.waits": "Not searched: no approval is in force",
    "case.waits_help": "Photos can be enrolled. The search begins when a second person has "
    "approved it.",
    "case.waits_link": "Approval of searches",
    "case.searched_until": "May be searched until {moment}.",
    "case.hold_link": "Legal hold",
    "holds.title": "Legal holds",
    "holds.lead": "What is held cannot be deleted and does not age. It is still taken out of every "
    "search when its case ends.",
    "holds.none": "Nothing is under legal hold.",
    "holds.what": "Held",
    "holds.reason": "Reason",
    "holds.set_by": "Set by",
    "holds.set_at": "Since",
    "holds.lifted": "Lifted",
    "hold.title_case": "Legal hold on case {name}",
    "hold.title_ad": "Legal hold on ad {name}",
    "hold.lead": "A hold keeps evidence from being deleted. Who set and lifted it, when and why "
    "stays on record.",
    "hold.held": "A hold is in force.",
    "hold.set": "Set the hold",
    "hold.lift": "Lift the hold",
    "hold.kind.case": "Case",
    "hold.kind.ad": "Ad",
    "hold.reason.exported_evidence": "Exported as evidence",
    "hold.reason.litigation": "Litigation",
    "hold.reason.court_order": "Order of a court",
    "hold.reason.internal_inquiry": "Internal inquiry",
    "hold.reason.other": "Another reason, see the note",
    "done.approval_asked": "The approval is asked for.",
    "done.approval_decided": "The decision is written down.",
    "done.hold_set": "The hold is set.",
    "done.hold_lifted": "The hold is lifted.",
}
