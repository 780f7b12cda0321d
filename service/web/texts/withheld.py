"""The texts of the pages about withheld pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

WITHHELD_TEXTS: Final[Mapping[str, str]] = {
    "picture.withheld": "Picture withheld",
    "flag.link": "Withhold this picture…",
    "flag.title": "Withhold a picture",
    "flag.ask": "From then on nobody sees this picture or its copies, anywhere. The ad, the case, "
    "the candidate and the search go on without it, and the designated role is told.",
    "flag.reason": "Reason",
    "flag.submit": "Withhold it from everybody",
    "flag_reason.known_abuse_picture": "Known abuse picture",
    "flag_reason.sexual_picture_of_minor": "Sexual picture of a person who may be a minor",
    "flag_reason.nudity_of_minor": "Nudity of a person who may be a minor",
    "flag_reason.court_order": "Court order or request of another authority",
    "nav.withheld": "Withheld",
    "withheld.title": "Withheld pictures",
    "withheld.lead": "Nobody sees these pictures, not here either. Each waits for a decision of "
    "this role; what it belongs to goes on.",
    "withheld.every": "Also those that are settled",
    "withheld.open_only": "Only those that wait",
    "withheld.empty": "No picture waits for a decision.",
    "withheld.why": "Why",
    "withheld.listed": "Named by the list {name} ({kind})",
    "withheld.copy": "Copy of {sha256}",
    "withheld.since": "Withheld",
    "withheld.due": "To be settled by",
    "withheld.overdue": "overdue",
    "withheld.ads": "Ads that show it",
    "withheld.cases": "Cases with it as a photo",
    "withheld.none": "none",
    "withheld.settled": "{outcome}, {moment}",
    "withheld.outcome": "Decision",
    "withheld.submit": "Settle",
    "withheld_outcome.reported_and_preserved": "Reported; stays withheld, bytes are preserved",
    "withheld_outcome.not_applicable_released": "Does not apply; show it again",
    "withheld_outcome.deleted_after_preservation": "Preservation is over; delete the bytes",
    "done.flagged": "The picture is withheld. The designated role is told.",
    "done.settled": "The decision is recorded.",
}
