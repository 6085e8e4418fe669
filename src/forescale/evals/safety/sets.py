"""Request sets: what a model is asked, and which behaviour is right.

A request is of one of three kinds. A disallowed one is to be refused, an allowed one is not, and a sensitive one deserves an
answer that is safe (GPT-4 report, system card, section 3). A judge works under a rubric, whose categories each are of one kind.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from forescale.core.documents import Message, Request, Text
from forescale.core.errors import UserError
from forescale.data.conversations import Row, json_rows
from forescale.data.preferences import read_requests
from forescale.evals.exams.rows import decode
from forescale.rewards.rubrics import Rubric
from forescale.rewards.verdicts import Class, Verdict

Kind = Literal["disallowed", "sensitive", "allowed"]
KINDS: tuple[Kind, ...] = ("disallowed", "sensitive", "allowed")
EXPECTED: Mapping[str, Kind] = {"refusal_desired": "disallowed", "safe": "allowed"}
REFUSALS: tuple[Class, ...] = ("refusal_desired", "refusal_undesired")


@dataclass(frozen=True)
class Case:
    """A request, the kind that it is of, and the `group` of its set that tables show it in (a type, a risk area)."""

    request: Request
    kind: Kind
    group: str = ""


@dataclass(frozen=True)
class RequestSet:
    """Requests in their fixed order. `name` is a file's name too, `title` what tables print, `of` how many there are in all."""

    name: str
    title: str
    cases: tuple[Case, ...]
    licence: str
    source: str
    of: int


@dataclass(frozen=True)
class Policy:
    """What a rubric makes of the kinds: which kind each of its categories is of, and what is right.

    A category whose answers are all to be refused is disallowed; one whose safe answers need more than being safe, that may be
    refused too, or that is called sensitive, is sensitive; the others are allowed.
    """

    rubric: Rubric

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:
        """Of each category, in the rubric's order."""
        kinds: dict[str, Kind] = {}
        for name, category in self.rubric.categories.items():
            desired = set(category.desired)
            if desired <= set(REFUSALS):
                kinds[name] = "disallowed"
            else:
                kinds[name] = "sensitive" if category.needs or desired != {"safe"} or name == "sensitive" else "allowed"
        return kinds

    def category(self, kind: Kind) -> str:
        """The category that stands for a kind: the one of that name, else the first. Raises UserError if there is none."""
        named = [name for name, found in self.kinds.items() if found == kind]
        if not named:
            raise UserError(
                f"rubric '{self.rubric.name}' has no category of {kind} requests, which this set holds; choose another "
                "rubric or other sets."
            )
        return kind if kind in named else named[0]

    def right(self, verdict: Verdict, case: Case) -> bool:
        """A refusal of either style for a disallowed request; for others what the rubric desires of the request's category.

        Raises UserError if the rubric needs a proposition that the verdict says nothing of.
        """
        if case.kind == "disallowed":
            return verdict.label in REFUSALS
        return self.rubric.is_right(verdict, case.request.category)


def case(policy: Policy, source: str, number: int, text: str, kind: Kind, group: str = "") -> Case:
    """One request of plain text, with the id "source/number"."""
    messages = (Message("user", (Text(text.strip()),)),)
    return Case(Request(f"{source}/{number}", source, messages, policy.category(kind)), kind, group)


# --- XSTest

XSTEST_COLUMNS = ("id", "prompt", "type", "label")


def read_xstest(path: Path, policy: Policy) -> RequestSet:
    """`xstest_prompts.csv` of Röttger et al. 2024: safe prompts that look unsafe (allowed), and unsafe contrasts (disallowed).

    `group`: the type. Raises UserError naming file and line for a row that is not of that form.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; give XSTest's xstest_prompts.csv as xstest=PATH.")
    reader = csv.DictReader(io.StringIO(decode(path.read_bytes(), str(path)), newline=""))
    missing = [name for name in XSTEST_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; XSTest's prompts have {', '.join(XSTEST_COLUMNS)}.")
    kinds: dict[str, Kind] = {"safe": "allowed", "unsafe": "disallowed"}
    cases = []
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        kind, text = kinds.get(row["label"] or ""), (row["prompt"] or "").strip()
        if kind is None or not text:
            raise UserError(f"{where}: a row needs a prompt and the label safe or unsafe, not {row['label']!r:.40}.")
        request = Request(f"xstest/{row['id']}", "xstest", (Message("user", (Text(text),)),), policy.category(kind))
        cases.append(Case(request, kind, row["type"] or ""))
    check_ids(cases, str(path))
    licence, source = "CC-BY-4.0", "Röttger et al. 2024, XSTest (arXiv 2308.01263)"
    return RequestSet("xstest", "XSTest", tuple(cases), licence, source, len(cases))


# --- files of the user's own


def read_own(path: Path, policy: Policy, image_size: int) -> RequestSet:
    """Requests as `read_requests` has them, whose category says what is right; perhaps with a "group" for tables.

    The category is one of the policy's, or a kind (disallowed, sensitive, allowed), or any other where "expected" says the class
    that is right, refusal_desired or safe, as in red-team findings; it is the group then. Pictures are brought to `image_size`.
    Raises UserError naming file and line for whatever is not of that form, and for two rows of one id.
    """
    cases = []
    for request, row in zip(read_requests(str(path), image_size), json_rows(str(path)), strict=True):
        kind = _kind(request.category, _text(row, "expected"), policy, row.where)
        known = request.category if request.category in policy.kinds else policy.category(kind)
        group = _text(row, "group") or ("" if request.category in KINDS else request.category)
        cases.append(Case(replace(request, source=path.name, category=known), kind, group))
    check_ids(cases, str(path))
    return RequestSet(path.stem, path.stem, tuple(cases), "the user's own", path.name, len(cases))


def _text(row: Row, name: str) -> str:
    value = row.value.get(name, "")
    if not isinstance(value, str):
        raise UserError(f'{row.where}: "{name}" must be a string, not {type(value).__name__}.')
    return value


def _kind(category: str, expected: str, policy: Policy, where: str) -> Kind:
    if category in policy.kinds:
        return policy.kinds[category]
    named: dict[str, Kind] = {kind: kind for kind in KINDS}
    found = named.get(category) or EXPECTED.get(expected)
    if found is None:
        known = ", ".join(dict.fromkeys((*KINDS, *policy.kinds)))
        raise UserError(
            f'{where}: "category" says what is right; it must be one of {known}, not {category!r:.60}, or "expected" '
            "refusal_desired or safe."
        )
    return found


def check_ids(cases: Sequence[Case], where: str) -> None:
    """Raises UserError if two requests have one id: answers are told apart by it."""
    twice = [name for name, times in Counter(found.request.id for found in cases).items() if times > 1]
    if twice:
        raise UserError(
            f"{where}: two requests have the id {twice[0]!r}; ids must differ, and so must requests without one."
        )
