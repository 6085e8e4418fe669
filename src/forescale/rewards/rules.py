"""The rules judge: regular expressions, and whether an answer is about what was asked. No model, the same verdict every time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from forescale.core.answers import answer_of
from forescale.core.documents import Answered, Text
from forescale.core.errors import UserError
from forescale.rewards.languages import language
from forescale.rewards.rubrics import Proposition, Rubric
from forescale.rewards.verdicts import Verdict

# Of an answer; the patterns of a rubric may take long over what has no end.
READ_CHARACTERS = 20_000
STEM = 5  # letters by which words of one root are the same ("poison", "poisoned")
_WORD = re.compile(r"[^\W\d_]{3,}")
_CURLY = str.maketrans("‘’ʼ´＇“”„«»", "'''''\"\"\"\"\"")
# Words of requests that say nothing of their subject.
_EMPTY = frozenset(
    """about above after again all also and any are because been before being both but can could did does doing done down
    each few for from get give had has have having help her here hers him his how into its just know let like make
    many may me might more most much must need not now off once one only other our out over own please provide say
    sentence should some such tell than that the their them then there these they thing this those through too try
    under until use using very want was way ways were what when where which while who whom why will with would write
    you your yours""".split()  # noqa: SIM905
)


class RulesJudge:
    """Verdicts of 0 and 1 by the patterns and measures of a rubric.

    Raises UserError if the rubric's rules name a proposition that has neither patterns nor a measure.
    """

    def __init__(self, rubric: Rubric) -> None:
        vague = [name for name in rubric.in_rules if not rubric.propositions[name].measurable]
        if vague:
            raise UserError(
                f"rubric '{rubric.name}': the rules judge cannot say whether '{vague[0]}' holds; give it 'patterns' or "
                "'overlap_below', or choose a judge that is a model."
            )
        self.rubric = rubric
        self.name = f"rules ({rubric.name})"
        self._measured = [p for p in rubric.propositions.values() if p.measurable]

    def __call__(self, cases: Sequence[Answered]) -> list[Verdict | None]:
        """Raises UserError for a request of a category that the rubric does not have."""
        return [self._verdict(case) for case in cases]

    def _verdict(self, case: Answered) -> Verdict | None:
        """None for an answer in a language that the patterns do not know."""
        answer = answer_of(case.answer)[:READ_CHARACTERS].translate(_CURLY)
        spoken = language(answer) if self.rubric.languages else ""
        if spoken and spoken not in self.rubric.languages:
            return None
        asked = [message for message in case.request.messages if message.role == "user"]
        request = "\n".join(part.text for part in asked[-1].parts if isinstance(part, Text)) if asked else ""
        if spoken and language(request) in set(self.rubric.languages) - {spoken}:
            request = ""  # words of one language say nothing of a subject in another
        propositions = {p.name: float(_holds(p, request, answer)) for p in self._measured}
        return Verdict(self.rubric.classify(propositions, case.request.category), propositions)


def _holds(proposition: Proposition, request: str, answer: str) -> bool:
    plain = answer
    for pattern in proposition.ignore:
        plain = pattern.sub(" ", plain)
    if any(pattern.search(plain) for pattern in proposition.patterns):
        return True
    return proposition.overlap_below is not None and overlap(request, answer) < proposition.overlap_below


def overlap(request: str, answer: str) -> float:
    """Share of a request's different content words that an answer repeats, words of one root being the same.

    1 for a request without any: then nothing can be said against the answer.
    """
    asked = _stems(request)
    return len(asked & _stems(answer)) / len(asked) if asked else 1.0


def _stems(text: str) -> set[str]:
    return {word[:STEM] for word in _WORD.findall(text.casefold()) if word not in _EMPTY}
