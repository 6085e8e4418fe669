"""Who decides whether a free response is right: an exact or a numeric match, or a judge, which is any callable.

A judge that says neither yes nor no is no verdict: the item is left out and counted, never scored as right or wrong. A judge
that cannot be reached stops the exam, which goes on from there when it is back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from forescale.core.endpoint import JUDGE_KEY, JudgeFailed, JudgeUnreachable, endpoint_judge
from forescale.evals.task import Item, Scorer

__all__ = ["JUDGE_KEY", "JudgeFailed", "JudgeUnreachable", "endpoint_judge"]  # where judges of exams are looked for
__all__ += ["Judge", "by_kind", "exact", "judged", "numeric"]

# From a prompt to the judge's words.
Judge = Callable[[str], str]
JUDGE_PROMPT = """\
Question: {question}
Right answer: {accepted}
Answer to be judged: {completion}
Is the answer to be judged right? Reply with one word, yes or no.
"""
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?|-?\.\d+")
_WHOLE = re.compile(rf"-?\s*[$€£¥]?\s*(?:{_NUMBER.pattern})\s*[%€]?")  # nothing but a number
_SPACE = re.compile(r"\s+")


def exact(item: Item, completion: str) -> float:
    """1 if the completion's first line is an accepted answer, apart from case, outer punctuation, articles and spaces."""
    return float(_plain(completion.strip().split("\n")[0]) in {_plain(text) for text in item.accepted})


def _plain(text: str) -> str:
    words = _SPACE.sub(" ", text).strip().strip(".,;:!?\"'()").casefold()
    return re.sub(r"^(the|a|an) ", "", words)


def numeric(item: Item, completion: str) -> float:
    """1 if the last number of the completion equals an accepted one, as exact decimals; commas and units do not count."""
    found = _NUMBER.findall(completion)
    return float(bool(found) and _value(found[-1]) in {_value(number) for number in _numbers(item)})


def by_kind(item: Item, completion: str) -> float:
    """1 by a numeric or by an exact match where an accepted answer is a number, else by an exact match alone.

    An answer is a number if it is nothing else, apart from a sign for a currency or per cent: "7 Up" is a name. Where
    `facts["answer"]` is "number", the first number of each answer is meant ("7 apples"); where it is "text", none is.
    """
    return max(exact(item, completion), numeric(item, completion))


def _numbers(item: Item) -> list[str]:
    """The accepted answers that are numbers, without what stands around them."""
    kind = item.facts.get("answer")
    if kind == "text":
        return []
    numbers = [text for text in item.accepted if kind == "number" or _WHOLE.fullmatch(text.strip())]
    return [
        ("-" if re.match(r"-\s*[$€£¥]", text.strip()) else "") + n
        for text in numbers
        for n in _NUMBER.findall(text)[:1]
    ]


def _value(text: str) -> Decimal | str:
    over, _, under = text.replace(",", "").partition("/")
    try:
        value = Decimal(over) / Decimal(under) if under else Decimal(over)
    except (InvalidOperation, ZeroDivisionError):
        return text
    return value.normalize()


def judged(judge: Judge) -> Scorer:
    """1 where the judge says yes. The scorer raises JudgeFailed where it says neither yes nor no."""

    def score(item: Item, completion: str) -> float:
        said = judge(
            JUDGE_PROMPT.format(question=item.text, accepted=" / ".join(item.accepted), completion=completion.strip())
        )
        word = re.match(r"\W*(yes|no)\b", said.casefold())
        if word is None:
            raise JudgeFailed(f"the judge said {said.strip()[:60]!r}, neither yes nor no")
        return float(word.group(1) == "yes")

    return score
