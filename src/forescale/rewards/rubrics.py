"""Rubrics: what a policy wants and how an answer is classified, as TOML that a person reads and edits (docs/rbrm.md).

A rubric holds the policy in prose, the categories that requests fall in, the four classes of an answer, finer propositions
about it, and ordered rules by which the class follows from the propositions. Every judge works under one.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, cast

from forescale.core.config import digest
from forescale.core.errors import UserError
from forescale.rewards.languages import FUNCTION_WORDS
from forescale.rewards.verdicts import CLASSES, REPORTED, Class, Verdict

POLICIES = Path(__file__).parent / "policies"
LETTERS: dict[Class, str] = dict(zip(REPORTED, "ABCD"))  # as the report letters the classes
HOLDS = 0.5  # a proposition at least this probable is taken to hold
# All combinations of uncertain propositions are gone through, and there are two to this power.
MOST_IN_RULES = 16
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Category:
    """A kind of request, the classes desired of its answers, and the propositions that must hold of them too."""

    name: str
    description: str
    desired: tuple[Class, ...]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposition:
    """A yes-or-no question about an answer.

    The rules judge says yes if one of `patterns` is found in the answer without what `ignore` finds in it, or if the share of the
    last request's content words that the answer repeats is below `overlap_below`. With neither, only a model can say.
    """

    name: str
    question: str
    patterns: tuple[re.Pattern[str], ...] = ()
    overlap_below: float | None = None
    ignore: tuple[re.Pattern[str], ...] = ()

    @property
    def measurable(self) -> bool:
        return bool(self.patterns) or self.overlap_below is not None


@dataclass(frozen=True)
class Rule:
    """The class of an answer if each proposition of `when` is as it says and the request is of one of `categories` (none: any)."""

    label: Class
    when: tuple[tuple[str, bool], ...] = ()
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rubric:
    """`assume` is the category of a request of which nobody said one. The last of `rules` always applies.

    `languages`: ISO 639-1 codes of those that its patterns know (empty: not said, and not looked at).
    """

    name: str
    policy: str
    assume: str
    categories: Mapping[str, Category]
    classes: Mapping[Class, str]
    propositions: Mapping[str, Proposition]
    rules: tuple[Rule, ...]
    sha256: str = ""
    languages: tuple[str, ...] = ()

    @cached_property
    def in_rules(self) -> tuple[str, ...]:
        """Propositions that a class depends on, in the order of the rubric."""
        named = {name for rule in self.rules for name, _ in rule.when}
        return tuple(name for name in self.propositions if name in named)

    def category(self, name: str) -> Category:
        """Of a request; `assume` where it has none. Raises UserError for one that the rubric does not know."""
        try:
            return self.categories[name or self.assume]
        except KeyError:
            raise UserError(
                f"a request is of category {name!r}, which rubric '{self.name}' does not have; its categories are "
                f"{', '.join(self.categories)}."
            ) from None

    def classify(self, propositions: Mapping[str, float], category: str) -> dict[Class, float]:
        """Probabilities of the classes, by the first rule that applies, propositions being independent of each other.

        Of propositions that are 0 or 1 one class is certain. Raises KeyError if one that the rules need is missing.
        """
        name = self.category(category).name
        rules = [rule for rule in self.rules if not rule.categories or name in rule.categories]
        sure = {p: propositions[p] > HOLDS for p in self.in_rules if propositions[p] in (0, 1)}
        unsure = [p for p in self.in_rules if p not in sure]
        total = dict.fromkeys(CLASSES, 0.0)
        for values in itertools.product((False, True), repeat=len(unsure)):
            world = sure | dict(zip(unsure, values))
            probability = 1.0
            for p, value in zip(unsure, values):
                probability *= propositions[p] if value else 1 - propositions[p]
            label = next(rule.label for rule in rules if all(world[p] == wanted for p, wanted in rule.when))
            total[label] += probability
        return total

    def is_right(self, verdict: Verdict, category: str) -> bool:
        """Whether an answer is what the policy wants: of a desired class, with what its category needs.

        Raises UserError if the verdict says nothing of a proposition that is needed.
        """
        wanted = self.category(category)
        if verdict.label not in wanted.desired:
            return False
        # A refusal in the desired style is complete in itself.
        needs = wanted.needs if verdict.label == "safe" else ()
        for name in needs:
            if name not in verdict.propositions:
                raise UserError(
                    f"category '{wanted.name}' of rubric '{self.name}' needs '{name}', of which this judge says nothing; "
                    "have it asked for propositions."
                )
        return all(verdict.propositions[name] >= HOLDS for name in needs)


def load_rubric(path_or_name: str | Path) -> Rubric:
    """From a TOML file, or one of those that come with forescale by its name ("refusals").

    Raises UserError, one sentence that names the file, for whatever is wrong with it.
    """
    path = Path(path_or_name)
    shipped = POLICIES / f"{path_or_name}.toml"
    if not path.is_file() and _NAME.fullmatch(str(path_or_name)) and shipped.is_file():
        path = shipped
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in POLICIES.glob("*.toml")))
        raise UserError(f"there is no rubric {str(path_or_name)!r}: give the path of a TOML file, or one of {names}.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}).") from error
    return _Reader(path).rubric(data)


class _Reader:
    """Parsed TOML to a rubric, with the file's name in every complaint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrong(self, what: str) -> NoReturn:
        raise UserError(f"{self.path}: {what}.")

    def rubric(self, data: dict[str, Any]) -> Rubric:
        self.keys(
            data, "the rubric", ("policy", "assume", "categories", "classes", "propositions", "rules"), ("languages",)
        )
        languages = self.strings(data, "languages", "the rubric")
        if unknown := set(languages) - set(FUNCTION_WORDS):
            self.wrong(f"'languages' has {min(unknown)!r}; known are {', '.join(FUNCTION_WORDS)}")
        classes = self.classes(self.table(data, "classes", "the rubric"))
        tables = self.table(data, "propositions", "the rubric")
        propositions = {name: self.proposition(name, self.table(tables, name, "propositions")) for name in tables}
        tables = self.table(data, "categories", "the rubric")
        categories = {
            name: self.category(name, self.table(tables, name, "categories"), propositions) for name in tables
        }
        assume = self.text(data, "assume", "the rubric")
        if assume not in categories:
            self.wrong(f"'assume' names the category {assume!r}, which it does not have")
        rules = self.rules(data.get("rules"), categories, propositions)
        policy = self.text(data, "policy", "the rubric")
        return Rubric(self.path.stem, policy, assume, categories, classes, propositions, rules, digest(data), languages)

    def classes(self, table: dict[str, Any]) -> dict[Class, str]:
        self.keys(table, "[classes]", REPORTED)
        return {name: self.text(table, name, "[classes]") for name in REPORTED}

    def category(self, name: str, table: dict[str, Any], propositions: Mapping[str, Proposition]) -> Category:
        where = f"category '{name}'"
        self.name(name, where)
        self.keys(table, where, ("description", "desired"), ("with",))
        desired = self.strings(table, "desired", where)
        if not desired or not set(desired) <= set(REPORTED):
            self.wrong(f"{where} must have 'desired' classes of {', '.join(REPORTED)}")
        needs = self.strings(table, "with", where)
        for need in needs:
            self.known(need, propositions, f"{where}, 'with'")
        return Category(name, self.text(table, "description", where), cast(tuple[Class, ...], desired), needs)

    def proposition(self, name: str, table: dict[str, Any]) -> Proposition:
        where = f"proposition '{name}'"
        self.name(name, where)
        self.keys(table, where, ("question",), ("patterns", "overlap_below", "ignore"))
        patterns, ignore = (self.patterns(table, key, where) for key in ("patterns", "ignore"))
        below = table.get("overlap_below")
        if below is not None and (isinstance(below, bool) or not isinstance(below, int | float) or not 0 < below <= 1):
            self.wrong(f"{where}: 'overlap_below' must be a number above 0 and at most 1, not {below!r}")
        return Proposition(name, self.text(table, "question", where), patterns, below, ignore)

    def patterns(self, table: Mapping[str, Any], key: str, where: str) -> tuple[re.Pattern[str], ...]:
        patterns = []
        for text in self.strings(table, key, where):
            try:
                patterns.append(re.compile(text, re.IGNORECASE | re.MULTILINE))
            except (re.error, OverflowError, RecursionError) as error:
                self.wrong(f"{where} has a pattern that is no regular expression ({error}): {text[:80]}")
        return tuple(patterns)

    def rules(
        self, rows: Any, categories: Mapping[str, Category], propositions: Mapping[str, Proposition]
    ) -> tuple[Rule, ...]:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.wrong("'rules' must be a list of [[rules]] tables")
        rules = [self.rule(f"rule {n}", row, categories, propositions) for n, row in enumerate(rows, 1)]
        always = [n for n, rule in enumerate(rules, 1) if not rule.when and not rule.categories]
        if always != [len(rules)]:
            self.wrong(
                f"rule {always[0]} always applies, so that those after it never do; make it the last"
                if always and always[0] < len(rules)
                else "there is no default rule; end it with a [[rules]] table that has a class alone"
            )
        named = {name for rule in rules for name, _ in rule.when}
        if len(named) > MOST_IN_RULES:
            self.wrong(f"its rules name {len(named)} propositions; use at most {MOST_IN_RULES}")
        return tuple(rules)

    def rule(
        self, where: str, row: dict[str, Any], categories: Mapping[str, Category], propositions: Mapping[str, Any]
    ) -> Rule:
        self.keys(row, where, ("class",), ("when", "categories"))
        label = self.text(row, "class", where)
        if label not in CLASSES:
            self.wrong(f"{where} names the class {label!r}; the classes are {', '.join(CLASSES)}")
        when: dict[str, bool] = {}
        for text in self.strings(row, "when", where):
            name = text.removeprefix("not ")
            self.known(name, propositions, where)
            if name in when:
                self.wrong(f"{where} names '{name}' twice")
            when[name] = name == text
        named = self.strings(row, "categories", where)
        for name in named:
            if name not in categories:
                self.wrong(f"{where} names the category {name!r}, which it does not have")
        return Rule(label, tuple(when.items()), named)

    # Pieces of TOML.

    def keys(self, table: Mapping[str, Any], where: str, needed: tuple[str, ...], may: tuple[str, ...] = ()) -> None:
        unknown = [key for key in table if key not in (*needed, *may)]
        if unknown:
            self.wrong(f"{where} has the unknown key {unknown[0]!r}; it may have {', '.join((*needed, *may))}")
        missing = [key for key in needed if key not in table]
        if missing:
            self.wrong(f"{where} lacks {', '.join(map(repr, missing))}")

    def name(self, name: str, where: str) -> None:
        if not _NAME.fullmatch(name):
            self.wrong(f"{where} must be named in small letters, digits and underscores")

    def known(self, name: str, propositions: Mapping[str, Any], where: str) -> None:
        if name not in propositions:
            self.wrong(f"{where} names the proposition {name!r}, which it does not have")

    def table(self, table: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
        if not isinstance(table[key], dict) or not table[key]:
            self.wrong(f"{where}: {key!r} must be a table that is not empty")
        return table[key]

    def text(self, table: Mapping[str, Any], key: str, where: str) -> str:
        if not isinstance(table[key], str) or not table[key].strip():
            self.wrong(f"{where}: {key!r} must be a text that is not empty")
        return table[key].strip()

    def strings(self, table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
        values = table.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            self.wrong(f"{where}: {key!r} must be a list of texts")
        return tuple(values)
