"""What an exam is: a dataset, a solver that gets answers out of a model, and a scorer that decides what is right.

An item is multiple choice if it has options, free response otherwise. Question and shots may hold pictures anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from forescale.core.documents import LETTERS, Part, Text
from forescale.core.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One question.

    `options` and the indices of those that are `correct` (one, or several where an exam has several right ones); free
    responses have neither, but the `accepted` answers, the first of them the canonical one. `passage` stands before the
    question and is shared by neighbouring items. `group`: subject, language or family; shots come from the same group.
    `facts`: anything a later table needs (a date, a difficulty).
    """

    id: str
    question: tuple[Part, ...]
    options: tuple[str, ...] = ()
    correct: tuple[int, ...] = ()
    accepted: tuple[str, ...] = ()
    passage: str = ""
    group: str = ""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError for an item that has no right answer, or nothing to choose from.

        Options may have the same text, as some of published exams have; which of them is right is then still known.
        """
        if bool(self.options) == bool(self.accepted):
            raise UserError(f"exam item {self.id!r} needs either options or accepted answers.")
        if self.options and not (self.correct and all(0 <= i < len(self.options) for i in self.correct)):
            raise UserError(f"exam item {self.id!r} names no right option among its {len(self.options)}.")
        if len(set(self.correct)) != len(self.correct):
            raise UserError(f"exam item {self.id!r} names the same option twice as right: {self.correct}.")
        if len(self.options) == 1:
            raise UserError(f"exam item {self.id!r} has one option; there must be two or more to choose from.")
        if not all(option.strip() for option in self.options):
            raise UserError(f"exam item {self.id!r} has an empty option.")
        if len(self.options) > len(LETTERS):
            raise UserError(
                f"exam item {self.id!r} has {len(self.options)} options; at most {len(LETTERS)} are lettered."
            )

    @property
    def text(self) -> str:
        """All text of passage and question, pictures left out: what the contamination check looks for."""
        return " ".join([self.passage, *(part.text for part in self.question if isinstance(part, Text))]).strip()

    @property
    def chance(self) -> float:
        """Probability that a blind guess is right; 0 for free responses."""
        return len(self.correct) / len(self.options) if self.options else 0.0


@dataclass(frozen=True)
class Dataset:
    """Items of one exam in their fixed order, and examples with answers by group for few-shot prompts (key "": for all).

    `name` is what the command line calls it, `title` what tables print. `scale` names a published conversion of raw scores
    (see `evals.scales`). `modality`: "text" or "vision".
    """

    name: str
    title: str
    items: tuple[Item, ...]
    shots: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    licence: str = ""
    source: str = ""
    scale: str = ""
    modality: Literal["text", "vision"] = "text"

    def examples(self, group: str, count: int) -> tuple[Item, ...]:
        """The first `count` examples of the group, or of all. Raises UserError if there are fewer."""
        if not count:
            return ()
        found = self.shots.get(group) or self.shots.get("", ())
        if len(found) < count:
            raise UserError(
                f"exam {self.name!r} has {len(found)} worked examples for {group or 'its items'!r}, not {count}; "
                f"ask for at most {len(found)} shots."
            )
        return tuple(found[:count])


@dataclass(frozen=True)
class Letters:
    """Options are listed with letters; the choice is the letter with the highest probability (the report's base prompt)."""

    shots: int = 0


@dataclass(frozen=True)
class Options:
    """The choice is the option whose text is likeliest after the question; with `per_character`, per character of it
    (lm-eval's `acc_norm`). `plain`: question and options are put as they are, as in training, without "Question:"."""

    shots: int = 0
    per_character: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Explain:
    """An explanation is sampled, then the letter that is likeliest after it is the choice (GPT-4 report, appendix A.2)."""

    shots: int = 0
    temperature: float = 0.3
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Respond:
    """The answer is written freely, greedily, up to one of the `stop` strings."""

    shots: int = 0
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ("\n\n", "\nQuestion:")


Solver = Letters | Options | Explain | Respond


def describe(solver: Solver) -> str:
    """For tables: how an exam was asked."""
    if isinstance(solver, Options):
        words = "option text per character" if solver.per_character else "option text"
    else:
        words = {Letters: "letters", Explain: "explanation, then letter", Respond: "written answer"}[type(solver)]
    return f"{words}, {solver.shots} shot{'' if solver.shots == 1 else 's'}"


# From (item, completion) to a score between 0 and 1. Multiple choice needs none: the choice is right or not.
Scorer = Callable[[Item, str], float]


@dataclass(frozen=True)
class Task:
    """An exam as it is given: what is asked, how, and who decides. `scorer_name` is printed with every figure."""

    dataset: Dataset
    solver: Solver
    scorer: Scorer | None = None
    scorer_name: str = "the right option"


def by_group(items: Iterable[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    return groups
