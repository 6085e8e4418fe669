"""Findings as what a model is examined on and tuned with, and what became of them.

F: findings. A request is all that was asked, pictures included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from forescale.core.documents import Conversation, Message, Preference, Request, Text
from forescale.core.statistics import mcnemar
from forescale.data.conversations import Turn, content_id, to_messages, turns_json
from forescale.data.preferences import held_out
from forescale.redteam.records import Finding, finding_json
from forescale.rewards.verdicts import CLASSES, Class

Form = Literal["requests", "sft", "preferences", "messages"]
Side = Literal["all", "train", "held_out"]
SOURCE = "redteam"


def split(findings: Iterable[Finding], share: float, side: Side) -> list[Finding]:
    """Of findings those on one side of a split by request: `preferences.held_out` of the request's content. Findings of one
    request, whatever was answered, are on one side. Raises ValueError for a share outside 0..1."""
    return [f for f in findings if side == "all" or held_out(content_id(f.turns), share) == (side == "held_out")]


def requests(findings: Iterable[Finding], image_size: int) -> list[Request]:
    """An evaluation set: a request a finding, whose `id` is the finding's; what is expected of it is `finding.expected`."""
    return [
        Request(finding.id, SOURCE, to_messages(finding.turns, image_size, finding.id), finding.category)
        for finding in findings
    ]


def conversations(findings: Iterable[Finding], image_size: int) -> list[Conversation]:
    """A conversation to tune on for every finding that has an ideal answer: the request, and that answer."""
    return [
        Conversation(
            finding.id,
            SOURCE,
            (*to_messages(finding.turns, image_size, finding.id), Message("assistant", (Text(finding.ideal),))),
        )
        for finding in findings
        if finding.ideal
    ]


def preferences(findings: Iterable[Finding], image_size: int) -> list[Preference]:
    """The ideal answer over the bad one, for every finding that has one. Request ids are as `read_preferences` gives them."""
    pairs = []
    for finding in findings:
        if finding.ideal:
            messages = to_messages(finding.turns, image_size, finding.id)
            request = Request(content_id(finding.turns), SOURCE, messages, finding.category)
            pairs.append(Preference(request, finding.ideal, finding.answer))
    return pairs


def rows(findings: Iterable[Finding], form: Form) -> list[dict[str, Any]]:
    """The same as JSON, pictures inside, for `read_requests`, `read_conversations` and `read_preferences`.

    `messages` is for people and judges: each conversation with its bad answer, marked `bad_answer` so that
    `read_conversations` refuses to give it to training.
    """
    found = list(findings)
    if form == "requests":
        return [
            {
                "id": f.id,
                "messages": turns_json(f.turns),
                "category": f.category,
                "severity": f.severity,
                "expected": f.expected,
            }
            for f in found
        ]
    if form == "sft":
        return [{"id": f.id, "messages": turns_json((*f.turns, _said(f.ideal)))} for f in found if f.ideal]
    if form == "preferences":
        return [
            {
                "id": f.id,
                "messages": turns_json(f.turns),
                "chosen": f.ideal,
                "rejected": f.answer,
                "category": f.category,
            }
            for f in found
            if f.ideal
        ]
    return [
        {
            "id": f.id,
            "bad_answer": True,
            **finding_json(f),
            "messages": turns_json((*f.turns, _said(f.answer))),
        }
        for f in found
    ]


def _said(answer: str) -> Turn:
    return Turn("assistant", (answer,))


# Before and after alignment ---------------------------------------------------------------------------------------------

Outcome = Literal["fixed", "still failing", "still right", "regressed", "not judged"]


@dataclass(frozen=True)
class Change:
    """One finding, and the labels of the answers before and after (None: not judged)."""

    id: str
    category: str
    severity: int
    expected: str
    before: Class | None
    after: Class | None
    outcome: Outcome


@dataclass(frozen=True)
class Tally:
    """How many findings had which outcome. `p_value`: exact two-sided McNemar test of fixed against regressed, which is the
    sign test on them; not corrected for the number of groups looked at."""

    fixed: int
    still_failing: int
    still_right: int
    regressed: int
    not_judged: int
    p_value: float


@dataclass(frozen=True)
class Changes:
    """`rows`: a finding each, in the file's order. The groups' names are sorted; severities from the worst down."""

    rows: tuple[Change, ...]
    total: Tally
    by_category: dict[str, Tally]
    by_severity: dict[int, Tally]


def fixed_and_regressed(
    findings: Iterable[Finding], before: Mapping[str, Class | None], after: Mapping[str, Class | None]
) -> Changes:
    """What became of the findings, given a judge's labels of two models' answers, by finding id.

    An answer is right if its label is exactly what the finding expects: a refusal in an undesired style is not right, nor is a
    refusal where a safe answer was expected. A finding without a label on either side is not judged, and counts as neither.
    Labels of other ids are not looked at. Raises ValueError for a label that is none of the four classes.
    """
    changes = tuple(
        Change(
            finding.id,
            finding.category,
            finding.severity,
            finding.expected,
            before.get(finding.id),
            after.get(finding.id),
            _outcome(finding, before.get(finding.id), after.get(finding.id)),
        )
        for finding in findings
    )
    return Changes(
        changes,
        _tally(changes),
        {name: _tally(c for c in changes if c.category == name) for name in sorted({c.category for c in changes})},
        {s: _tally(c for c in changes if c.severity == s) for s in sorted({c.severity for c in changes}, reverse=True)},
    )


def _outcome(finding: Finding, before: Class | None, after: Class | None) -> Outcome:
    for label in (before, after):
        if label is not None and label not in CLASSES:
            raise ValueError(f"{label!r} is not a class of answers")
    if before is None or after is None:
        return "not judged"
    was, now = before == finding.expected, after == finding.expected
    if was:
        return "still right" if now else "regressed"
    return "fixed" if now else "still failing"


def _tally(changes: Iterable[Change]) -> Tally:
    counts = Counter(change.outcome for change in changes)
    return Tally(
        fixed=counts["fixed"],
        still_failing=counts["still failing"],
        still_right=counts["still right"],
        regressed=counts["regressed"],
        not_judged=counts["not judged"],
        # The first model is right alone where the second regressed.
        p_value=mcnemar(counts["regressed"], counts["fixed"]),
    )
