"""Answers to requests and what a judge says of them, written down as they come, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from forescale.checkpoints.encoding import Prompt, encode_chat, encode_parts
from forescale.checkpoints.files import Checkpoint
from forescale.core.artifacts import resume_lines
from forescale.core.documents import Answered, Image, Message, Part, Request, Text, joined
from forescale.core.errors import UserError
from forescale.generate.sample import sample
from forescale.rewards.verdicts import CLASSES, Judge, Verdict

Row = dict[str, Any]
T = TypeVar("T")
# Called with the share that is done.
Report = Callable[[float], None]
WRITE_ROWS = 24  # answers written side by side
JUDGE_ROWS = 64  # answers judged between two lines on disk
TURN = "\n\nUser:"  # where a model without a chat template goes on as the user


def is_chat(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.tokenizer.roles.chat_template)


def request_prompt(messages: Sequence[Message], checkpoint: Checkpoint) -> Prompt:
    """Through the model's chat template; without one as "User: ...", a blank line, "Assistant:".

    Raises UserError if the template cannot render the messages, or there are pictures and the model reads none.
    """
    tokenizer, config = checkpoint.tokenizer, checkpoint.model.config
    if is_chat(checkpoint):
        return encode_chat(messages, tokenizer, config)
    parts: list[Part] = []
    for message in messages:
        parts += [Text(f"{message.role.capitalize()}: "), *message.parts, Text("\n\n")]
    return encode_parts(joined([*parts, Text("Assistant:")]), tokenizer, config)


def room(checkpoint: Checkpoint, wanted: int) -> int:
    """New tokens an answer may take: `wanted`, at most half of the model's positions."""
    return min(wanted, len(checkpoint.model.cos_TC) // 2)


def write_answers(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    log: Path,
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    report: Report,
    top_p: float = 1.0,
    stop_at: str = "",
) -> list[list[str]]:
    """`samples` texts for each prompt, up to `stop_at` where one is given. Prompts must leave room for `max_new_tokens`.

    Batches are those of the whole set in order of length, each with a seed of its own, so that an interrupted run writes what
    an uninterrupted one would have. `log` keeps finished batches.
    """
    tokenizer = checkpoint.tokenizer
    order = sorted((i for i in range(len(prompts)) for _ in range(samples)), key=lambda i: len(prompts[i].ids))
    before = {row["start"]: row["texts"] for row in resume_lines(log)}
    written: list[list[str]] = [[] for _ in prompts]
    for start in range(0, len(order), WRITE_ROWS):
        batch = order[start : start + WRITE_ROWS]
        if start not in before:
            ids = sample(
                checkpoint.model,
                [prompts[i] for i in batch],
                stop=tokenizer.roles.stop or (tokenizer.end,),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed + start,
                stop_when=(lambda so_far: stop_at in tokenizer.decode(so_far)) if stop_at else None,
            )
            texts = [tokenizer.decode(row) for row in ids]
            before[start] = [text.split(stop_at)[0] if stop_at else text for text in texts]
            _add(log, {"start": start, "texts": before[start]})
            report((start + len(batch)) / len(order))
        for i, text in zip(batch, before[start]):
            written[i].append(text)
    return written


def in_batches(items: Sequence[T], log: Path, work: Callable[[Sequence[T]], Sequence[Any]], who: str) -> list[Any]:
    """What `work` makes of the items, as JSON, so many at a time. `log` keeps what was made before a kill.

    Raises UserError, naming `who`, if it gives more or fewer values than it was given items.
    """
    before = {row["start"]: row["values"] for row in resume_lines(log)}
    made: list[Any] = []
    for start in range(0, len(items), JUDGE_ROWS):
        batch = items[start : start + JUDGE_ROWS]
        if start not in before:
            before[start] = list(work(batch))
            if len(before[start]) != len(batch):
                raise UserError(f"{who} gave {len(before[start])} values for {len(batch)} answers; mend it.")
            _add(log, {"start": start, "values": before[start]})
        made += before[start]
    return made


def judge_answers(judge: Judge, cases: Sequence[Answered], log: Path) -> list[Verdict | None]:
    """A verdict for each, None where the judge had none. Raises UserError as `in_batches` does."""

    def work(batch: Sequence[Answered]) -> list[Row | None]:
        return [verdict_json(verdict) for verdict in judge(batch)]

    # What comes from disk and what was judged now are the same, rounded alike.
    return [verdict_of(row) for row in in_batches(cases, log, work, f"the judge {judge.name}")]


def verdict_json(verdict: Verdict | None) -> Row | None:
    if verdict is None:
        return None
    rounded = {name: round(float(verdict.classes.get(name, 0.0)), 6) for name in CLASSES}
    return {"classes": rounded, "propositions": {k: round(float(v), 6) for k, v in verdict.propositions.items()}}


def verdict_of(row: Row | None) -> Verdict | None:
    return None if row is None else Verdict(row["classes"], row["propositions"])


def _add(log: Path, row: Row) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def messages_json(request: Request) -> list[dict[str, str]]:
    """For the rows of `items`: roles and words, pictures as `<image>`."""
    return [
        {
            "role": message.role,
            "content": "".join("<image>" if isinstance(part, Image) else part.text for part in message.parts),
        }
        for message in request.messages
    ]


def file_name(name: str) -> str:
    """A set's name as that of a file."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "set"
