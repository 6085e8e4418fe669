"""Stage `safety`: asks a checkpoint what it should and should not answer, and sums up what judge and scorer say of the answers.

safety.json         every figure with its n and interval; docs/safety.md describes it
items/NAME.jsonl    a row for each answer of a request set, of `jailbreaks`, for each prompt of RealToxicityPrompts, each pair
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forescale.checkpoints.encoding import Prompt
from forescale.checkpoints.files import Checkpoint, find_checkpoint, load_checkpoint
from forescale.core.artifacts import Stage, sha256_file, write_json
from forescale.core.config import to_json
from forescale.core.device import pick_device
from forescale.core.documents import Answered, Request
from forescale.core.errors import UserError
from forescale.core.progress import Meter, say
from forescale.core.statistics import spread, summary
from forescale.data.fetch import PackUnavailable
from forescale.evals.code import write_rows
from forescale.evals.examine import examine
from forescale.evals.exams.files import files_of
from forescale.evals.prompts import scored_prompt
from forescale.evals.safety import beliefs, figures, jailbreaks, packs, sets
from forescale.evals.safety.answers import (
    TURN,
    Report,
    file_name,
    is_chat,
    judge_answers,
    messages_json,
    request_prompt,
    room,
    verdict_json,
    write_answers,
)
from forescale.evals.safety.sets import Case, Policy, RequestSet
from forescale.evals.safety.toxicity import NEW_TOKENS, SAMPLES, TOP_P, Scorer, score_continuations
from forescale.evals.stage import CHECKPOINT_FILES
from forescale.evals.task import Task, by_group
from forescale.rewards.verdicts import Judge

Json = dict[str, Any]
Row = dict[str, Any]
XSTEST = "xstest="
JAILBREAKS = "jailbreaks"


@dataclass(frozen=True)
class SafetyConfig:
    """What a model is asked, and how."""

    sets: tuple[str, ...] = tuple(packs.PACK_SETS)
    """request sets: donotanswer, harmbench, advbench, xstest=PATH (its prompts CSV), or files of requests as JSON lines"""
    limit: int = 200
    """requests of each set, spread evenly over it; 0 asks all"""
    samples: int = 1
    """answers to each request"""
    temperature: float = 0.0
    """of answers; more than one to a request needs more than 0"""
    max_new_tokens: int = 256
    """longest answer"""
    jailbreaks: int = 0
    """so many of the disallowed requests are also put inside every jailbreak template"""
    toxicity: int = 0
    """so many prompts of each list of RealToxicityPrompts are gone on from"""
    toxicity_samples: int = SAMPLES
    """continuations of each; published figures are for 25"""
    facts: tuple[str, ...] = (beliefs.BELIEFS,)
    """false beliefs against truths: beliefs, or TruthfulQA's own mc_task.json or TruthfulQA.csv"""
    seed: int = 0
    """of samples"""

    def __post_init__(self) -> None:
        """Raises UserError for settings that make no sense."""
        if min(self.limit, self.temperature, self.jailbreaks, self.toxicity) < 0:
            raise UserError("limit, temperature, jailbreaks and toxicity cannot be negative.")
        if min(self.samples, self.toxicity_samples, self.max_new_tokens) < 1:
            raise UserError("samples, toxicity samples and max new tokens must be at least 1.")
        if self.samples > 1 and self.temperature == 0:
            raise UserError("more than one answer to a request needs a temperature above 0.")
        if not (self.sets or self.toxicity or self.facts):
            raise UserError("there is nothing to ask: name request sets, toxicity prompts or facts.")
        if self.jailbreaks and not self.sets:
            raise UserError("jailbreaks need disallowed requests to wrap; name request sets.")


@dataclass(frozen=True)
class StageConfig:
    """`model`: SHA-256 of each file of the checkpoint. `files`: of the user's own sets, the jailbreak templates and the beliefs.
    `judge` and `scorer` by name, `rubric` by hash. `labels`: sets that the judge's agreement was measured on."""

    safety: SafetyConfig
    model: dict[str, str]
    files: dict[str, str]
    judge: str
    rubric: str
    scorer: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """What the stage works with besides its configuration. `policy`: of the judge's rubric. `agreement`: what `rewards.agreement`
    measured of the judge. `name`: the model's. `strict`: a pack that cannot be had is an error, not a set that is not asked."""

    model: Path
    judge: Judge
    policy: Policy
    scorer: Scorer | None = None
    agreement: Mapping[str, Any] | None = None
    name: str = ""
    shown: Meter | None = None
    strict: bool = False


def stage_for(config: SafetyConfig, setting: Setting) -> tuple[Stage, StageConfig]:
    """The stage and its configuration for this model, judge and scorer.

    Raises UserError for a file that is not there, or toxicity without a scorer.
    """
    if config.toxicity and setting.scorer is None:
        raise UserError("toxicity needs a scorer; there is none.")
    folder = find_checkpoint(setting.model)
    model = {file.name: sha256_file(file) for file in sorted(folder.iterdir()) if file.name in CHECKPOINT_FILES}
    scorer = setting.scorer.name if setting.scorer and config.toxicity else ""
    rubric = setting.policy.rubric.sha256
    labels = tuple(setting.agreement["sources"]) if setting.agreement else ()
    facts = StageConfig(config, model, _files(config), setting.judge.name, rubric, scorer, labels)
    return Stage("safety", functools.partial(_run, setting=setting)), facts


def _files(config: SafetyConfig) -> dict[str, str]:
    own = [Path(name.removeprefix(XSTEST)).expanduser() for name in config.sets if name not in packs.PACK_SETS]
    facts = [Path(name).expanduser() for name in config.facts if name != beliefs.BELIEFS]
    if missing := next((path for path in (*own, *facts) if not path.exists()), None):
        raise UserError(
            f"there is no request set or file {str(missing)!r}; the sets are {', '.join(packs.PACK_SETS)} and xstest=PATH."
        )
    found = [*own, *(file for path in facts for file in files_of(path))]
    found += [jailbreaks.TEMPLATES] if config.jailbreaks else []
    found += [beliefs.PAIRS] if beliefs.BELIEFS in config.facts else []
    if folder := next((path for path in found if path.is_dir()), None):
        raise UserError(f"{folder} is a folder; name its files of requests.")
    ours = jailbreaks.TEMPLATES.parent
    return {path.name if path.parent == ours else str(path): sha256_file(path) for path in found}


@dataclass(frozen=True)
class _Asked:
    """A set with the prompts of what fits the model; `too_long` do not. `labels`: what to add to the rows of each."""

    name: str
    cases: tuple[Case, ...]
    prompts: tuple[Prompt, ...]
    too_long: int
    labels: tuple[Row, ...]
    shown: tuple[Request, ...]


def _run(config: StageConfig, inputs: Mapping[str, Path], out_dir: Path, setting: Setting) -> None:
    wanted = config.safety
    checkpoint = load_checkpoint(setting.model, pick_device())
    if setting.name:
        checkpoint = replace(checkpoint, name=setting.name)
    left_out: list[dict[str, str]] = []

    def load(name: str) -> RequestSet:
        return load_set(name, setting.policy, checkpoint)

    found: list[RequestSet] = [s for name in wanted.sets for s in _or_left_out(name, load, left_out, setting)]
    ours = (JAILBREAKS, *packs.PACK_PROMPTS, beliefs.BELIEFS, beliefs.TRUTHFUL)
    names = [*ours, *(s.name for s in found)]
    if len(set(map(file_name, names))) < len(names):
        raise UserError(f"two sets have the same name, or one of ours, among {', '.join(names)}; rename the file.")
    chosen = [replace(s, cases=spread(sorted(s.cases, key=_place), wanted.limit)) for s in found]
    # Everything that a model cannot take shows here, before anything is written.
    asked = [_asked(s.name, [(case, case.request, {}) for case in s.cases], checkpoint, wanted) for s in chosen]
    attacks, techniques = _attacks(chosen, checkpoint, wanted, left_out)
    prompt_sets = [
        p
        for name in (packs.PACK_PROMPTS if wanted.toxicity else ())
        for p in _or_left_out(name, packs.load_prompts, left_out, setting)
    ]
    tasks = [(name, task) for name in wanted.facts for task in beliefs.tasks_of(name)]
    everything = [*asked, *([attacks] if attacks else [])]
    shares = _Shares(setting.shown)
    for each in everything:
        shares.expect(each.name, len(each.prompts) * wanted.samples * room(checkpoint, wanted.max_new_tokens))
    for prompts in prompt_sets:
        n = len(spread(prompts.prompts, wanted.toxicity))
        shares.expect(prompts.name, n * wanted.toxicity_samples * NEW_TOKENS)
    rows = {each.name: _ask(each, checkpoint, wanted, setting, out_dir, shares) for each in everything}
    result: Json = {
        "model": {"name": checkpoint.name, "params": checkpoint.model.config.params},
        "chat": is_chat(checkpoint),
        "settings": to_json(wanted),
        "judge": {
            "name": setting.judge.name,
            "rubric": setting.policy.rubric.name,
            "rubric_sha256": setting.policy.rubric.sha256,
            "agreement": to_json(setting.agreement),
        },
        "sets": [_set(s, each, rows[each.name]) for s, each in zip(chosen, asked)],
        "jailbreaks": None,
        "toxicity": [_toxicity(p, checkpoint, wanted, setting, out_dir, shares) for p in prompt_sets],
        "facts": [_facts(name, task, checkpoint, out_dir, shares) for name, task in tasks],
        "not_run": left_out,
    }
    if attacks:
        summed = figures.attacks(rows[JAILBREAKS])
        requests = len({row["id"] for row in rows[JAILBREAKS]})
        result[JAILBREAKS] = {"requests": requests, "too_long": attacks.too_long, **summed, "sources": techniques}
    if setting.shown:
        setting.shown.clear()
    for entry in left_out:
        say(f"  {entry['set']}: not asked: {entry['why']}")
    write_json(out_dir / "safety.json", result)


def _place(case: Case) -> tuple[int, str]:
    """Kinds and groups one after the other, so that what is spread over a file whose kinds take turns holds all of them."""
    return sets.KINDS.index(case.kind), case.group


class _Shares:
    """How far all parts together are; a part weighs as many tokens as it may write."""

    def __init__(self, shown: Meter | None) -> None:
        self.shown = shown
        self.weights: dict[str, float] = {}
        self.shares: dict[str, float] = {}

    def expect(self, name: str, tokens: int) -> None:
        self.weights[name] = tokens

    def of(self, name: str) -> Report:
        def report(share: float) -> None:
            self.shares[name] = share
            total = sum(self.weights.values())
            if self.shown and total:
                done = sum(self.weights.get(n, 0.0) * s for n, s in self.shares.items())
                self.shown.update(done / total, f"{name} {share:.0%}")

        return report


def _or_left_out(name: str, load: Callable[[str], Any], left_out: list[dict[str, str]], setting: Setting) -> list[Any]:
    try:
        return [load(name)]
    except PackUnavailable as error:
        if setting.strict:
            raise
        left_out.append({"set": name, "why": str(error)})
        return []


def load_set(name: str, policy: Policy, checkpoint: Checkpoint) -> RequestSet:
    """By the name of a pack's, `xstest=PATH`, or a file. Raises UserError as their readers do, PackUnavailable for a pack."""
    if name in packs.PACK_SETS:
        return packs.load_pack_set(name, policy)
    if name.startswith(XSTEST):
        return sets.read_xstest(Path(name.removeprefix(XSTEST)).expanduser(), policy)
    return sets.read_own(Path(name).expanduser(), policy, checkpoint.model.config.image_size or 1)


def _asked(
    name: str, asked: Sequence[tuple[Case, Request, Row]], checkpoint: Checkpoint, config: SafetyConfig
) -> _Asked:
    """Of (case as the judge sees it, request as the model does, more of its row) what fits the model's positions."""
    most = len(checkpoint.model.cos_TC) - room(checkpoint, config.max_new_tokens)
    prompts = [request_prompt(shown.messages, checkpoint) for _, shown, _ in asked]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt.ids) <= most]
    return _Asked(
        name=name,
        cases=tuple(asked[i][0] for i in fits),
        prompts=tuple(prompts[i] for i in fits),
        too_long=len(asked) - len(fits),
        labels=tuple(asked[i][2] for i in fits),
        shown=tuple(asked[i][1] for i in fits),
    )


def _attacks(
    chosen: Sequence[RequestSet], checkpoint: Checkpoint, config: SafetyConfig, left_out: list[dict[str, str]]
) -> tuple[_Asked | None, Mapping[str, str]]:
    """Disallowed requests, each plain and inside every template, and the techniques' sources. A template that the model's chat
    template cannot render (a system message, say) is left out."""
    disallowed = [(s.name, case) for s in chosen for case in s.cases if case.kind == "disallowed"]
    if not config.jailbreaks:
        return None, {}
    if not disallowed:
        raise UserError("none of the sets holds disallowed requests, which jailbreaks need; name one that does.")
    sources, templates = jailbreaks.load_templates()
    named = [
        replace(case, request=replace(case.request, id=f"{name}/{case.request.id.removeprefix(f'{name}/')}"))
        for name, case in spread(disallowed, config.jailbreaks)
    ]
    entries = [(case, case.request, {"technique": jailbreaks.PLAIN, "template": jailbreaks.PLAIN}) for case in named]
    for template in templates:
        labels = {"technique": template.technique, "template": template.name}
        wrapped = [(case, template.wrap(case.request), labels) for case in named]
        try:
            request_prompt(wrapped[0][1].messages, checkpoint)
        except UserError as error:
            left_out.append({"set": f"jailbreak '{template.name}'", "why": str(error)})
            continue
        entries += wrapped
    return _asked(JAILBREAKS, entries, checkpoint, config), sources


def _ask(
    each: _Asked, checkpoint: Checkpoint, config: SafetyConfig, setting: Setting, out_dir: Path, shares: _Shares
) -> list[Row]:
    """Answers and verdicts, a row each, written to `items`."""
    stem = file_name(each.name)
    written = write_answers(
        checkpoint,
        each.prompts,
        out_dir / f".{stem}.answers.jsonl",
        samples=config.samples,
        max_new_tokens=room(checkpoint, config.max_new_tokens),
        temperature=config.temperature,
        seed=config.seed,
        report=shares.of(each.name),
        stop_at="" if is_chat(checkpoint) else TURN,
    )
    flat = [(i, number, text) for i, texts in enumerate(written) for number, text in enumerate(texts)]
    answered = [Answered(each.cases[i].request, text) for i, _, text in flat]
    verdicts = judge_answers(setting.judge, answered, out_dir / f".{stem}.verdicts.jsonl")
    rows = []
    for (i, number, text), verdict in zip(flat, verdicts):
        case = each.cases[i]
        rows.append(
            {
                "id": case.request.id,
                "kind": case.kind,
                "group": case.group,
                "category": case.request.category,
                **each.labels[i],
                "sample": number,
                "messages": messages_json(each.shown[i]),
                "answer": text,
                "label": verdict.label if verdict else None,
                "correct": float(setting.policy.right(verdict, case)) if verdict else None,
                "verdict": verdict_json(verdict),
            }
        )
    write_rows(out_dir / "items" / f"{stem}.jsonl", rows)
    return rows


def _set(whole: RequestSet, each: _Asked, rows: Sequence[Row]) -> Json:
    return {
        "name": whole.name,
        "title": whole.title,
        "of": whole.of,
        "too_long": each.too_long,
        "kinds": figures.by_kind(rows),
        "licence": whole.licence,
        "source": whole.source,
        "path": f"items/{file_name(whole.name)}.jsonl",
    }


def _toxicity(
    found: packs.PromptSet,
    checkpoint: Checkpoint,
    config: SafetyConfig,
    setting: Setting,
    out_dir: Path,
    shares: _Shares,
) -> Json:
    assert setting.scorer is not None
    logs = (out_dir / f".{found.name}.answers.jsonl", out_dir / f".{found.name}.scores.jsonl")
    prompts = spread(found.prompts, config.toxicity)
    rows, too_long = score_continuations(
        checkpoint, prompts, setting.scorer, logs, config.toxicity_samples, config.seed, shares.of(found.name)
    )
    write_rows(out_dir / "items" / f"{found.name}.jsonl", rows)
    return {
        "name": found.name,
        "title": found.title,
        "of": found.of,
        "too_long": too_long,
        "scorer": {"name": setting.scorer.name, "licence": setting.scorer.licence},
        "samples": config.toxicity_samples,
        "new_tokens": NEW_TOKENS,
        "top_p": TOP_P,
        **figures.toxicity_by_group(rows),
        "licence": found.licence,
        "source": found.source,
        "path": f"items/{found.name}.jsonl",
    }


def _facts(name: str, task: Task, checkpoint: Checkpoint, out_dir: Path, shares: _Shares) -> Json:
    dataset = task.dataset
    kept = []
    for item in dataset.items:
        prompt, options = scored_prompt(item, task, checkpoint.tokenizer, checkpoint.model.config)
        if len(prompt.ids) + max(map(len, options)) <= len(checkpoint.model.cos_TC) + 1:
            kept.append(item)
    if not kept:
        raise UserError(f"no item of {dataset.title} fits the model's {len(checkpoint.model.cos_TC)} positions.")
    task = replace(task, dataset=replace(dataset, items=tuple(kept)))
    report = shares.of(dataset.name)
    path = f"items/{file_name(dataset.name)}.jsonl"
    rows = examine(checkpoint, task, out_dir / path, report=lambda _, done, of: report(done / of))
    groups = by_group(kept)
    return {
        "name": dataset.name,
        "title": dataset.title,
        **summary([row["score"] for row in rows]),
        "chance": sum(item.chance for item in kept) / len(kept),
        "by_whole_option": summary(beliefs.by_length(rows)) if name == beliefs.BELIEFS else None,
        "groups": {
            group: summary([row["score"] for row in rows if row["group"] == group])
            for group in (groups if len(groups) > 1 else ())
        },
        "of": len(dataset.items),
        "too_long": len(dataset.items) - len(kept),
        "licence": dataset.licence,
        "source": dataset.source,
        "path": path,
    }
