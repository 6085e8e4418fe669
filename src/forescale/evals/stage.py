"""Stage `exams`: gives a checkpoint its exams and sums them up. docs/artifacts.md describes what it writes."""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forescale.checkpoints.encoding import Prompt, encode_chat, encode_parts
from forescale.checkpoints.files import Checkpoint, find_checkpoint, load_checkpoint
from forescale.core.artifacts import Stage, resume_lines, sha256_file, write_json
from forescale.core.device import pick_device
from forescale.core.documents import Text
from forescale.core.errors import UserError
from forescale.core.progress import Meter, say
from forescale.core.statistics import spread, summary
from forescale.data.fetch import PackUnavailable
from forescale.evals import code, contamination, knowledge, scales, suite
from forescale.evals.calibration import calibration
from forescale.evals.code import CodeProblem
from forescale.evals.examine import NORMAL, Report, Row, examine
from forescale.evals.exams.files import files_of
from forescale.evals.sandbox import Sandbox
from forescale.evals.suite import ExamsConfig, Planned
from forescale.evals.task import Explain, Respond, Task, by_group, describe
from forescale.generate.sample import sample

Json = dict[str, Any]
CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokens.json")
PROGRAM_TOKENS = 320
LEAST_ROOM = 8
CODE_ROWS = 16  # programs written side by side


@dataclass(frozen=True)
class StageConfig:
    """`model`: SHA-256 of each file of the checkpoint. `files`: of the user's own exams. `corpus`: what the model's training
    text is (empty: unknown)."""

    exams: ExamsConfig
    model: dict[str, str]
    files: dict[str, str]
    corpus: str = ""


@dataclass(frozen=True)
class Setting:
    """What the stage reads besides its configuration: places, which are no part of what is made. `name`: the model's. `strict`: a
    pack that cannot be had is an error, not an exam that is not given."""

    model: Path
    name: str = ""
    corpus: Path | None = None
    shown: Meter | None = None
    strict: bool = False


def stage_for(config: ExamsConfig, setting: Setting, corpus: str = "") -> tuple[Stage, StageConfig]:
    """The stage and its configuration for this model. `corpus`: identity of the training text that is checked for exam items."""
    folder = find_checkpoint(setting.model)
    model = {file.name: sha256_file(file) for file in sorted(folder.iterdir()) if file.name in CHECKPOINT_FILES}
    own = [Path(name).expanduser() for name in config.exams if suite.is_file(name)]
    files = {str(f): sha256_file(f) for path in own for f in files_of(path)}
    run = functools.partial(_run, setting=setting)
    return Stage("exams", run, version=1), StageConfig(config, model, files, corpus)


def _run(config: StageConfig, inputs: Mapping[str, Path], out_dir: Path, setting: Setting) -> None:
    wanted = config.exams
    checkpoint = load_checkpoint(setting.model, pick_device())
    if setting.name:
        checkpoint = replace(checkpoint, name=setting.name)
    planned, left_out = suite.plan(wanted, checkpoint, setting.strict)
    problems: dict[str, Sequence[CodeProblem]] = {}
    for name in dict.fromkeys(name for name in wanted.exams if name in suite.CODE):
        try:
            problems[name] = _problems(name, wanted)
        except PackUnavailable as error:
            if setting.strict:
                raise
            left_out.append({"task": name, "why": str(error)})
    for entry in left_out:
        say(f"  {entry['task']}: not given: {entry['why']}")
    if setting.strict and not planned and not problems:
        raise UserError(f"none of these exams can be given to this model ({left_out[0]['why']}).")
    if problems:
        # Whether programs can be contained shows now, not after everything else.
        Sandbox(unsafe=wanted.unsafe_code).close()
    report = _reporter(planned, problems, wanted, setting.shown)
    given: list[tuple[Planned, list[Row]]] = []
    for each in planned:
        path = out_dir / "items" / f"{each.task.dataset.name}.jsonl"
        rows = examine(
            checkpoint, each.task, path, conditions=each.conditions, chat=wanted.chat, seed=wanted.seed, report=report
        )
        given.append((each, rows))
        if setting.shown:
            setting.shown.clear()
        say(f"  {_line(each, rows)}")
    programs = []
    for name, found in problems.items():
        programs.append(_code(name, found, checkpoint, wanted, out_dir, report))
        if setting.shown:
            setting.shown.clear()
        say(f"  {_code_line(programs[-1])}")
    result = summed_up(checkpoint, given, wanted)
    result["code"] = programs or None
    result["not_run"] = left_out
    if setting.corpus is not None:
        _check_contamination(result, given, setting.corpus, config.corpus)
    write_json(out_dir / "exams.json", result)


def _reporter(
    planned: Sequence[Planned], problems: Mapping[str, Sequence[CodeProblem]], config: ExamsConfig, shown: Meter | None
) -> Report:
    """Shows how far all exams together are. A written answer counts as many times as a chosen one as it takes longer."""
    weights = {
        p.task.dataset.name: (1 + len(p.conditions)) * len(p.task.dataset.items) * (1 + _written(p.task) / 8)
        for p in planned
    }
    weights |= {name: len(found) * config.samples * PROGRAM_TOKENS / 8 for name, found in problems.items()}
    shares = dict.fromkeys(weights, 0.0)

    def report(name: str, done: int, of: int) -> None:
        shares[name] = done / of
        if shown:
            total = sum(weights[n] * share for n, share in shares.items()) / sum(weights.values())
            shown.update(total, f"{name} {done}/{of}")

    return report


def _written(task: Task) -> int:
    return task.solver.max_new_tokens if isinstance(task.solver, Explain | Respond) else 0


def _line(each: Planned, rows: Sequence[Row]) -> str:
    counted = [row["score"] for row in rows if row["condition"] == NORMAL and row["score"] is not None]
    if not counted:
        return f"{each.task.dataset.title}: no item could be scored"
    figures = summary(counted)
    low, high = figures["interval"]
    chance = _chance(each)
    against = f", chance {chance:.1%}" if chance else ""
    long = f", {each.too_long} too long for the model left out" if each.too_long else ""
    score = f"{figures['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {figures['n']}{against}"
    return f"{each.task.dataset.title}: {score}; {describe(each.task.solver)}{long}"


def _code_line(entry: Json) -> str:
    scores = ", ".join(
        f"pass@{k} {found['value']:.1%} ({found['interval'][0]:.1%} to {found['interval'][1]:.1%})"
        for k, found in entry["pass_at"].items()
    )
    return f"{entry['title']}: {scores} of {entry['n']}"


def _chance(each: Planned) -> float:
    items = each.task.dataset.items
    return sum(item.chance for item in items) / len(items)


def summed_up(checkpoint: Checkpoint, given: Sequence[tuple[Planned, list[Row]]], config: ExamsConfig) -> Json:
    """`exams.json` without code, contamination and what was not run."""
    tasks = [_task(each, rows) for each, rows in given]
    _scale_sections(given, tasks)
    chosen = [row for each, rows in given for row in rows if each.task.dataset.name == "mmlu"]
    pooled = chosen or [row for _, rows in given for row in rows if row["condition"] == NORMAL]
    by_name = {each.task.dataset.name: rows for each, rows in given}
    return {
        "model": {"name": checkpoint.name, "params": checkpoint.model.config.params},
        "chat": config.chat,
        "tasks": tasks,
        "calibration": calibration(pooled),
        "calibration_of": "MMLU" if chosen else "all multiple-choice items",
        "stale": knowledge.stale_summary(by_name["almanac"], config.cutoff) if "almanac" in by_name else None,
        "invented": knowledge.invented_summary(by_name["invented"]) if "invented" in by_name else None,
        "contamination": None,
    }


def _task(each: Planned, rows: Sequence[Row]) -> Json:
    task, dataset = each.task, each.task.dataset
    plain = [row for row in rows if row["condition"] == NORMAL]
    scored = [row for row in plain if row["score"] is not None]
    figures: Json = (
        summary([row["score"] for row in scored]) if scored else {"n": 0, "accuracy": None, "interval": None}
    )
    chances = {item.id: item.chance for item in dataset.items}
    groups = by_group(dataset.items)
    result: Json = {
        "name": dataset.name,
        "title": dataset.title,
        "modality": dataset.modality,
        "kind": "multiple choice" if dataset.items[0].options else "free response",
        "solver": describe(task.solver),
        "scorer": task.scorer_name,
        **figures,
        "of": each.of,
        "too_long": each.too_long,
        "unscored": len(plain) - len(scored),
        "chance": _chance(each),
        "groups": {},
        "conditions": None,
        "scaled": None,
        "contamination": None,
        "calibration": calibration(plain) if dataset.items[0].options else None,
        "licence": dataset.licence,
        "source": dataset.source,
        "path": f"items/{dataset.name}.jsonl",
    }
    for group in groups if len(groups) > 1 else ():
        mine = [row for row in scored if row["group"] == group]
        if mine:
            chance = sum(chances[row["id"]] for row in mine) / len(mine)
            result["groups"][group] = {**summary([row["score"] for row in mine]), "chance": chance}
    if each.conditions:
        shown = {
            condition: [row["score"] for row in rows if row["condition"] == condition and row["score"] is not None]
            for condition in (NORMAL, *each.conditions)
        }
        result["conditions"] = {condition: summary(scores) for condition, scores in shown.items() if scores}
    if dataset.scale and scored:
        result["scaled"] = scales.scaled(dataset.scale, figures["accuracy"], tuple(figures["interval"]))
    return result


def _scale_sections(given: Sequence[tuple[Planned, list[Row]]], tasks: Sequence[Json]) -> None:
    """Sections that have no score of their own (the LSAT's) have one together: it stands with the first of them."""
    sections = {
        each.task.dataset.scale: task
        for (each, _), task in zip(given, tasks)
        if each.task.dataset.scale and task["n"] and task["scaled"] is None
    }
    score = scales.combine({scale: (round(t["accuracy"] * t["n"]), t["n"]) for scale, t in sections.items()})
    if score:
        next(iter(sections.values()))["scaled"] = score


def _problems(name: str, config: ExamsConfig) -> tuple[CodeProblem, ...]:
    if name == "humaneval":
        return spread(code.load_humaneval(), config.limit)
    return code.function_problems(config.limit or 200, config.seed)


def _code(
    name: str,
    problems: Sequence[CodeProblem],
    checkpoint: Checkpoint,
    config: ExamsConfig,
    out_dir: Path,
    report: Report,
) -> Json:
    """Writes programs, runs them in the sandbox, and gives the entry of `code`."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    prompts: list[Prompt] = []
    for problem in problems:
        if config.chat:
            prompts.append(encode_chat([code.chat_message(problem)], tokenizer, model.config))
        else:
            # A line break that ends HumanEval's prompts is the first token of what these tokenizers write after them.
            text = problem.prompt.rstrip() if name == "humaneval" else problem.prompt
            prompts.append(encode_parts((Text(text),), tokenizer, model.config))
    # A problem that leaves the model no room to write is one that it fails.
    fits = [i for i, prompt in enumerate(prompts) if len(prompt.ids) + LEAST_ROOM <= len(model.cos_TC)]
    order = sorted((i for i in fits for _ in range(config.samples)), key=lambda i: len(prompts[i].ids))
    written: list[list[str]] = [[] for _ in problems]
    # Batches that an interrupted run has written already.
    log = out_dir / f".{name}.jsonl"
    before = {row["start"]: row["texts"] for row in resume_lines(log)}
    for start in range(0, len(order), CODE_ROWS):
        batch = order[start : start + CODE_ROWS]
        if start in before:
            for i, text in zip(batch, before[start]):
                written[i].append(text)
            continue
        room = len(model.cos_TC) - max(len(prompts[i].ids) for i in batch)
        ids = sample(
            model,
            [prompts[i] for i in batch],
            stop=tokenizer.roles.stop or (tokenizer.end,),
            max_new_tokens=min(PROGRAM_TOKENS, room),
            temperature=config.temperature,
            seed=config.seed + start,
            stop_when=None if config.chat else lambda so_far: code.is_complete(tokenizer.decode(so_far)),
        )
        texts = [tokenizer.decode(row) for row in ids]
        for i, text in zip(batch, texts):
            written[i].append(text)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"start": start, "texts": texts}) + "\n")
        report(name, start + len(batch), len(order))
    written = [found or [""] * config.samples for found in written]
    entry, rows = code.score_code(
        name, problems, written, config.ks, chat=config.chat, unsafe=config.unsafe_code, temperature=config.temperature
    )
    code.write_rows(out_dir / "items" / f"{name}.jsonl", rows)
    return entry


def _check_contamination(result: Json, given: Sequence[tuple[Planned, list[Row]]], corpus: Path, identity: str) -> None:
    texts = [(each, rows) for each, rows in given if each.task.dataset.modality == "text"]
    # Two files may use the same ids.
    items = [
        replace(item, id=f"{each.task.dataset.name}/{item.id}") for each, _ in texts for item in each.task.dataset.items
    ]
    if not items:
        return
    found = contamination.check(items, contamination.corpus_texts(corpus))
    result["contamination"] = found.describe(identity or corpus.name)
    tasks = {task["name"]: task for task in result["tasks"]}
    for each, rows in texts:
        name = each.task.dataset.name
        named = [{**row, "id": f"{name}/{row['id']}"} for row in rows]
        tasks[name]["contamination"] = contamination.without(named, found)


def corpus_identity(path: Path) -> str:
    """What the training text is, for the stage's key and the report: its name, number of files, size and last change."""
    if not path.exists():
        raise UserError(f"{path} is not there; give the file or folder of the training text.")
    found = [file.stat() for file in _files(path)]
    total, latest = sum(stat.st_size for stat in found), max((stat.st_mtime_ns for stat in found), default=0)
    when = dt.datetime.fromtimestamp(latest / 1e9, dt.UTC).isoformat(timespec="seconds")
    return f"{path.name} ({len(found)} files, {total:,} bytes, last changed {when})"


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
