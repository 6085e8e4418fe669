"""Who decides whether a free response is right: an exact or a numeric match, or a judge, which is any callable.

A judge that says neither yes nor no is no verdict: the item is left out and counted, never scored as right or wrong. A judge
that cannot be reached stops the exam, which goes on from there when it is back.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal, DivisionByZero, InvalidOperation, Overflow

from forescale.core.answers import answer_of
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
# A run of digits with what may stand between them. A minus behind a digit, letter or bracket takes away or names a range.
_RUN = r"(?:\d+(?:[.,'\u00a0\u2009\u202f]\d+)*|(?<!\d)\.\d+)"
_NUMBER = re.compile(
    rf"(?:(?<![\w)\]])(?P<sign>-)\s?)?(?P<currency>[$€£¥]\s?)?(?P<run>{_RUN})(?P<power>e[+-]?\d{{1,4}}\b)?(?:/(?P<under>\d+))?",
    re.I,
)
_WHOLE = re.compile(rf"-?\s*[$€£¥]?\s*{_RUN}(?:e[+-]?\d{{1,4}})?(?:/\d+)?\s*[%€£$¥]?", re.I)  # nothing but a number
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:(?:,\d{3})+(?:\.\d+)?|(?:['\u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?)")
_THOUSANDS_BY_POINTS = re.compile(r"[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})")
_SPACE = re.compile(r"\s+")
_MINUS = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"))
# Emphasis, code and quotes around an answer, and its punctuation, are no part of it.
_AROUND = ".,;:!?\"'()*_`~“”„‟‘’‚‛«»‹›「」『』"

# A number, or a list of numbers that are written in a row.
Value = Decimal | tuple[Decimal, ...] | str


def exact(item: Item, completion: str) -> float:
    """1 if the first line of the answer is an accepted one, apart from case, emphasis, quotes, outer punctuation, articles, spaces,
    and how Unicode composes its letters."""
    return float(_plain(answer_of(completion).strip().split("\n")[0]) in {_plain(text) for text in item.accepted})


def _plain(text: str) -> str:
    words = unicodedata.normalize("NFC", _SPACE.sub(" ", text).strip()).translate(_MINUS)
    words = re.sub(r" ?, ?", ",", re.sub(r"^(?:#+|>) ", "", words))
    # An answer may be nothing but such marks.
    inner = unicodedata.normalize("NFC", words.strip(_AROUND + " ").casefold()) or words
    return re.sub(r"^(the|a|an) ", "", inner)


def numeric(item: Item, completion: str) -> float:
    """1 if the last number of the answer equals an accepted one, as exact decimals; separators of thousands and units do not count.

    A comma separates thousands only before groups of three digits; between two numbers it is a decimal comma ("3,5"), and among
    more of them, as in "1,2,3", it makes a list, which equals the same list alone.
    """
    found = list(_NUMBER.finditer(answer_of(completion).translate(_MINUS)))
    return float(bool(found) and _value(found[-1]) in {_value(number) for number in _numbers(item)})


def by_kind(item: Item, completion: str) -> float:
    """1 by a numeric or by an exact match where an accepted answer is a number, else by an exact match alone.

    An answer is a number if it is nothing else, apart from a sign for a currency or per cent: "7 Up" is a name. Where
    `facts["answer"]` is "number", the first number of each answer is meant ("7 apples"); where it is "text", none is.
    """
    return max(exact(item, completion), numeric(item, completion))


def _numbers(item: Item) -> list[re.Match[str]]:
    """The accepted answers that are numbers, without what stands around them."""
    kind = item.facts.get("answer")
    texts = [text.strip().translate(_MINUS) for text in item.accepted]
    found = [_NUMBER.search(text) for text in texts if kind == "number" or (kind != "text" and _WHOLE.fullmatch(text))]
    return [number for number in found if number is not None]


def _value(number: re.Match[str]) -> Value:
    run, sign = number["run"], -1 if number["sign"] else 1
    try:
        if _THOUSANDS.fullmatch(run):
            value = Decimal(re.sub(r"[,'\u00a0\u2009\u202f](?=\d{3})", "", run).replace(",", "."))
        elif _THOUSANDS_BY_POINTS.fullmatch(run):
            value = Decimal(run.replace(".", "").replace(",", "."))
        elif run.count(",") > 1:
            return tuple(Decimal(part).normalize() for part in run.split(","))
        else:
            value = Decimal(run.replace(",", "."))
        if number["power"]:
            value *= Decimal("1" + number["power"])
        if number["under"]:
            value /= Decimal(number["under"])
    except (InvalidOperation, DivisionByZero, Overflow):
        return number[0]
    return (sign * value).normalize()


def judged(judge: Judge) -> Scorer:
    """1 where the judge says yes. The scorer raises JudgeFailed where it says neither yes nor no."""

    def score(item: Item, completion: str) -> float:
        said = judge(
            JUDGE_PROMPT.format(
                question=item.text, accepted=" / ".join(item.accepted), completion=answer_of(completion).strip()
            )
        )
        word = re.match(r"\W*(yes|no)\b", said.casefold())
        if word is None:
            raise JudgeFailed(f"the judge said {said.strip()[:60]!r}, neither yes nor no")
        return float(word.group(1) == "yes")

    return score
