"""The words of leads that two agencies have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LINK_TEXTS: Final[Mapping[str, str]] = {
    "nav.links": "Shared leads",
    "link.same_picture": "The same picture is a lead at {agency}, in common since {day}.",
    "link.same_ad": "Another picture in the same ad is a lead at {agency}, in common since {day}.",
    "link.same_face_cluster": "A face that may be of the same unknown person is a lead at "
    "{agency}, in common since {day}.",
    "link.nameless": "the agency without a name",
    "link.ask": "Ask them",
    "link.see": "See the question",
    "links.title": "Leads shared with other agencies",
    "links.lead": "What your agency asked others and was asked by them. Nothing of a case is "
    "disclosed before its owner shares it, and then its number and the answer only.",
    "links.none": "Nothing was asked so far.",
    "links.agency": "Agency",
    "links.side": "Direction",
    "links.side.asked": "you asked",
    "links.side.received": "they ask you",
    "links.case": "Your case",
    "links.asked": "Asked",
    "links.state": "State",
    "links.state.asked": "waits for an answer",
    "links.state.shared": "shared",
    "links.state.declined": "declined",
    "links.kind": "In common",
    "links.kind.same_picture": "the same picture",
    "links.kind.same_ad": "the same ad",
    "links.kind.same_face_cluster": "a face that may be of the same unknown person",
    "links.note": "What was asked",
    "links.answer": "Answer",
    "links.shared_number": "Their case number",
    "link_ask.title": "Ask another agency about a lead",
    "link_ask.lead": "They are told the name of your agency, what both have in common, and your "
    "question. Nothing of your case is told unless you write it here.",
    "link_ask.which": "Which agency?",
    "link_ask.note": "Question",
    "link_ask.submit": "Ask",
    "link_ask.none": "No other agency has this lead, or each was asked already.",
    "link_answer.title": "Question from {agency}",
    "link_answer.own_title": "Question to {agency}",
    "link_answer.legend": "Answer",
    "link_answer.share": "Share: they are told the number of your case and your answer, and get "
    "no access to it",
    "link_answer.decline": "Decline: they are told your answer only",
    "link_answer.text": "Answer",
    "link_answer.submit": "Send the answer",
    "done.link_asked": "The question was sent.",
    "done.link_answered": "The answer was sent.",
}
