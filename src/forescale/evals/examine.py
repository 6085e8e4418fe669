"""Gives exams to a model, an item a line on disk as they are answered, and goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forescale.checkpoints.encoding import Prompt
from forescale.checkpoints.files import Checkpoint
from forescale.core.artifacts import resume_lines, write_text
from forescale.core.documents import Image
from forescale.data.images import encode_png
from forescale.evals.prompts import LETTER_ROOM, new_tokens, question, scored_prompt, shown, written_prompt
from forescale.evals.scorers import JudgeFailed
from forescale.evals.task import LETTERS, Dataset, Explain, Item, Letters, Options, Task
from forescale.generate.sample import sample
from forescale.generate.score import Query, Scored, score

Row = dict[str, Any]
# Called with (task's name, items answered, items there are).
Report = Callable[[str, int, int], None]
NORMAL = "normal"
PICTURED = 8  # items of each visual exam whose pictures are kept for the report
GENERATE_ROWS = 24


class _Log:
    """The rows of one exam, appended as they come; a line that was cut off by a kill is dropped and asked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], Row] = {(row["condition"], row["id"]): row for row in resume_lines(path)}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", encoding="utf-8")

    def add(self, row: Row) -> None:
        self.rows[row["condition"], row["id"]] = row
        self.file.write(_line(row))
        self.file.flush()

    def finish(self, order: Sequence[tuple[str, str]]) -> list[Row]:
        """All rows in the exam's order: the file does not tell in which order, or in how many goes, they were answered."""
        self.file.close()
        rows = [self.rows[key] for key in order]
        write_text(self.path, "".join(_line(row) for row in rows))
        return rows


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def examine(
    checkpoint: Checkpoint,
    task: Task,
    path: Path,
    *,
    conditions: Mapping[str, Dataset] | None = None,
    chat: bool = False,
    seed: int = 0,
    report: Report | None = None,
) -> list[Row]:
    """All rows of one exam, written to `path` as docs/artifacts.md describes them. Answers what is not there yet.

    `conditions`: the same items with other pictures (blank, shuffled), asked as well. `chat`: written answers are asked for
    in a conversation. Raises UserError if the model cannot take the exam (pictures, positions).
    """
    log = _Log(path)
    versions = {NORMAL: task.dataset, **(conditions or {})}
    everything = [
        (condition, item, place) for condition, dataset in versions.items() for place, item in enumerate(dataset.items)
    ]
    total = len(everything)

    def answered(one: tuple[str, Item, int]) -> bool:
        return (one[0], one[1].id) in log.rows

    def done(row: Row) -> None:
        log.add(row)
        if report:
            report(task.dataset.name, len(log.rows), total)

    if isinstance(task.solver, Letters | Options):
        _choose(checkpoint, task, [one for one in everything if not answered(one)], done)
    else:
        _write(checkpoint, task, everything, answered, chat, seed, done)
    return log.finish([(c, item.id) for c, dataset in versions.items() for item in dataset.items])


Todo = Sequence[tuple[str, Item, int]]


def _choose(checkpoint: Checkpoint, task: Task, todo: Todo, done: Callable[[Row], None]) -> None:
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    queries = []
    for _, item, _ in todo:
        prompt, follows = scored_prompt(item, task, tokenizer, model.config)
        queries.append(Query(prompt, tuple(map(tuple, follows))))

    def scored(i: int, values: list[Scored]) -> None:
        condition, item, place = todo[i]
        done(_chosen(condition, item, task, place, [v.logprob for v in values]))

    score(model, queries, scored)


def _chosen(condition: str, item: Item, task: Task, place: int, logs: Sequence[float], completion: str = "") -> Row:
    values = np.array(logs)
    if isinstance(task.solver, Options) and task.solver.per_character:
        values = values / np.array([len(option) for option in item.options])
    choice = int(values.argmax())
    return {
        **_base(condition, item, task, place),
        "choice": choice,
        "log_probabilities": [round(float(v), 6) for v in logs],
        "score": _score(item, values, choice),
        "completion": completion or None,
    }


def _score(item: Item, values: np.ndarray, choice: int) -> float:
    """Whether the choice is right; where several options are, their share of the probability (TruthfulQA's MC2)."""
    if len(item.correct) == 1:
        return float(choice in item.correct)
    share = np.logaddexp.reduce(values[list(item.correct)]) - np.logaddexp.reduce(values)
    return round(min(1.0, float(np.exp(share))), 6)


def _base(condition: str, item: Item, task: Task, place: int) -> Row:
    pictures = [part for part in item.question if isinstance(part, Image)] if place < PICTURED else []
    return {
        "id": item.id,
        "group": item.group,
        "condition": condition,
        "prompt": shown(question(item, task)),
        "options": list(item.options),
        "correct": list(item.correct),
        "accepted": list(item.accepted),
        "images": [encode_png(picture.pixels) for picture in pictures] if condition == NORMAL else [],
        "facts": dict(item.facts),
    }


def _write(
    checkpoint: Checkpoint,
    task: Task,
    todo: Todo,
    answered: Callable[[tuple[str, Item, int]], bool],
    chat: bool,
    seed: int,
    done: Callable[[Row], None],
) -> None:
    """Batches are those of the whole exam, so that an interrupted one samples what an uninterrupted one would have."""
    model, tokenizer, solver = checkpoint.model, checkpoint.tokenizer, task.solver
    prompts = [written_prompt(item, task, tokenizer, model.config, chat) for _, item, _ in todo]
    order = sorted(range(len(todo)), key=lambda i: len(prompts[i].ids))
    stops = getattr(solver, "stop", ("\n\n",))
    for start in range(0, len(order), GENERATE_ROWS):
        batch = order[start : start + GENERATE_ROWS]
        if all(answered(todo[i]) for i in batch):
            continue
        room = new_tokens(task, model.config) - (LETTER_ROOM if isinstance(solver, Explain) else 0)
        written = sample(
            model,
            [prompts[i] for i in batch],
            stop=tokenizer.roles.stop or (tokenizer.end,),
            max_new_tokens=room,
            temperature=solver.temperature if isinstance(solver, Explain) else 0.0,
            seed=seed + start,
            stop_when=None if chat else lambda ids: any(s in tokenizer.decode(ids[-12:]).lstrip() for s in stops),
        )
        texts = [tokenizer.decode(ids) if chat else _cut(tokenizer.decode(ids), stops) for ids in written]
        if isinstance(solver, Explain):
            letters = _letters_after(checkpoint, [prompts[i] for i in batch], texts, [todo[i][1] for i in batch])
            for i, text, logs in zip(batch, texts, letters):
                condition, item, place = todo[i]
                if not answered(todo[i]):
                    done(_chosen(condition, item, task, place, logs, text))
            continue
        for i, text in zip(batch, texts):
            condition, item, place = todo[i]
            if not answered(todo[i]):
                done({**_base(condition, item, task, place), **_judged(task, item, text), "completion": text})


def _judged(task: Task, item: Item, text: str) -> Row:
    """`score` None where the judge gave no verdict: such items are left out and counted."""
    assert task.scorer is not None
    try:
        value: float | None = task.scorer(item, text)
        note = {}
    except JudgeFailed as error:
        value, note = None, {"failure": str(error)}
    return {"choice": None, "log_probabilities": None, "score": value, **note}


def _cut(text: str, stops: Sequence[str]) -> str:
    """Up to the first stop string behind something written: a model that begins with an empty line has not ended."""
    begun = len(text) - len(text.lstrip())
    ends = [at for stop in stops if (at := text.find(stop, begun)) > 0]
    return text[: min(ends)] if ends else text


def _letters_after(
    checkpoint: Checkpoint, prompts: Sequence[Prompt], texts: Sequence[str], items: Sequence[Item]
) -> list[list[float]]:
    tokenizer = checkpoint.tokenizer
    queries = []
    for prompt, text, item in zip(prompts, texts, items):
        said = f"{text.rstrip()}\nAnswer:"
        alone = tokenizer.encode(said)
        follows = [tokenizer.encode(f"{said} {letter}")[len(alone) :] for letter in LETTERS[: len(item.options)]]
        # Text that a model wrote may take more tokens when it is encoded anew.
        fits = len(checkpoint.model.cos_TC) - len(prompt.ids) - max(map(len, follows))
        queries.append(Query(Prompt((*prompt.ids, *alone[-fits:]), prompt.pixels), tuple(map(tuple, follows))))
    return [[v.logprob for v in values] for values in score(checkpoint.model, queries)]
