"""Pass rates at temperature 1 of problems with one right answer: the quantity that the capability law forecasts.

Where the answer is unique, its pass rate is its teacher-forced probability (answer and end token): no sampling noise, never a
log of zero. Python functions have many right bodies, so bodies are sampled, executed against their tests, and the pass rate is
the total probability of all distinct bodies that were seen to pass, the canonical one among them: a lower bound that more
samples tighten, recorded beside the plain count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forescale.checkpoints.encoding import Prompt, encode_parts
from forescale.core.documents import Image, Problem, Text
from forescale.core.errors import UserError
from forescale.data import curriculum
from forescale.data.images import encode_png
from forescale.evals import sight
from forescale.evals.prompts import scored_prompt
from forescale.evals.sandbox import run_programs_patiently
from forescale.evals.task import Options, Task
from forescale.generate.sample import sample
from forescale.generate.score import Query, score
from forescale.model.multimodal import Model
from forescale.tokenizer.bpe import Tokenizer

CURRICULUM = "curriculum"


@dataclass(frozen=True)
class CapabilityConfig:
    """`problems` of each family from its held-out split, and items of each of the `exams` (generated ones alone, which
    are the same for every run); `samples` bodies of each function problem are executed."""

    problems: int = 120
    samples: int = 8
    max_new_tokens: int = 96
    seed: int = 1
    exams: tuple[str, ...] = (CURRICULUM, "counting")
    unsafe_code: bool = False
    """run programs that a model wrote even where this machine cannot isolate them"""

    def __post_init__(self) -> None:
        """Raises UserError for counts that cannot be, or exams that are not generated."""
        if min(self.problems, self.samples, self.max_new_tokens) < 1:
            raise UserError("capability.problems, samples and max_new_tokens must each be at least 1.")
        known = (CURRICULUM, *sight.GENERATED)
        unknown = next((name for name in self.exams if name not in known), None)
        if unknown is not None:
            raise UserError(f"capability.exams cannot hold {unknown!r}; choose from {', '.join(known)}.")


def log_probabilities(
    model: Model, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], end_token: int
) -> np.ndarray:
    """Natural log of the probability of each answer and the end token after it, given its prompt: shape (n,)."""
    queries = [Query(prompt, ((*answer, end_token),)) for prompt, answer in zip(prompts, answers)]
    return np.array([values[0].logprob for values in score(model, queries)])


def measure(
    model: Model, tokenizer: Tokenizer, families: Sequence[str], config: CapabilityConfig
) -> list[dict[str, Any]]:
    """A record for each problem, as docs/artifacts.md describes `capability.jsonl`."""
    model.eval()
    records = []
    for family in families:
        problems = _problems(family, config.problems, config.seed, model.config.image_size)
        prompts = [_encode(p, model, tokenizer) for p in problems]
        answers = [tokenizer.encode(p.answer) for p in problems]
        executed = any(p.tests for p in problems)
        if executed:
            values, passed = _executed(model, tokenizer, problems, prompts, answers, config)
        else:
            values, passed = log_probabilities(model, prompts, answers, tokenizer.end), [None] * len(problems)
        records += [
            {
                "family": family,
                "id": problem.id,
                "difficulty": problem.difficulty,
                "modality": curriculum.modality(family),
                "log_pass_rate": min(0.0, float(value)),
                "method": "executed" if executed else "teacher-forced",
                "samples": config.samples if executed else None,
                "passed": count,
            }
            for problem, value, count in zip(problems, values, passed)
        ]
    for name in config.exams:
        records += _exam(name, model, tokenizer, config)
    return records


def _exam(name: str, model: Model, tokenizer: Tokenizer, config: CapabilityConfig) -> list[dict[str, Any]]:
    """An exam's items as problems: the pass rate is the right options' share of the probability of all of them."""
    if name in sight.EXAMS:
        dataset = sight.visual_exam(name, model.config.image_size, config.problems, config.seed)
    else:
        (dataset,) = sight.procedural_exams(config.problems, config.seed)
    task = Task(dataset, Options(plain=True))
    asked = [scored_prompt(item, task, tokenizer, model.config) for item in dataset.items]
    scored = score(model, [Query(prompt, tuple(map(tuple, options))) for prompt, options in asked])
    records = []
    for item, values in zip(dataset.items, scored):
        logs = np.array([value.logprob for value in values])
        right = np.logaddexp.reduce(logs[list(item.correct)]) - np.logaddexp.reduce(logs)
        records.append(
            {
                "family": f"{name} exam",
                "id": f"exam/{name}/{item.id}",
                "difficulty": int(item.facts.get("difficulty", 1)),
                "modality": dataset.modality,
                "log_pass_rate": min(0.0, float(right)),
                "method": "share of the options",
                "samples": None,
                "passed": None,
            }
        )
    return records


def _problems(family: str, n: int, seed: int, image_size: int) -> list[Problem]:
    return list(curriculum.generate(family, "test", n, seed, image_size))


def _encode(problem: Problem, model: Model, tokenizer: Tokenizer) -> Prompt:
    return encode_parts(problem.prompt, tokenizer, model.config)


def _executed(
    model: Model,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    answers: Sequence[list[int]],
    config: CapabilityConfig,
) -> tuple[np.ndarray, list[int | None]]:
    """Log of the summed probability of every distinct body that passed, and how many of the samples passed."""
    bodies: list[list[int]] = []
    owners: list[int] = []
    for start in range(0, len(prompts), 32):
        batch = [i for i in range(start, min(start + 32, len(prompts))) for _ in range(config.samples)]
        bodies += sample(
            model,
            [prompts[i] for i in batch],
            stop=(tokenizer.end,),
            max_new_tokens=_room(model, prompts, config.max_new_tokens),
            seed=config.seed + start,
        )
        owners += batch
    candidates = sorted(
        {(owner, tuple(body)) for owner, body in zip(owners, bodies)} | {(i, tuple(a)) for i, a in enumerate(answers)}
    )
    programs = [
        (problems[i].as_document().text[: -len(problems[i].answer)] + tokenizer.decode(body)) for i, body in candidates
    ]
    tested = [(program, problems[i].tests) for program, (i, _) in zip(programs, candidates)]
    verdicts = run_programs_patiently(tested, unsafe=config.unsafe_code)
    right = [candidate for candidate, verdict in zip(candidates, verdicts) if verdict.passed]
    for i, answer in enumerate(answers):
        if (i, tuple(answer)) not in set(right):
            raise RuntimeError(f"the canonical answer of {problems[i].id} did not pass its own tests in the sandbox")
    logs = log_probabilities(model, [prompts[i] for i, _ in right], [body for _, body in right], tokenizer.end)
    totals = np.full(len(problems), -math.inf)
    for (i, _), value in zip(right, logs):
        totals[i] = np.logaddexp(totals[i], value)
    winners = set(right)
    counts = [sum((o, tuple(b)) in winners for o, b in zip(owners, bodies) if o == i) for i in range(len(problems))]
    return totals, list(counts)


TEXT_OPENINGS = ("The ", "In the beginning ", "def __init__(self", "Paris\n\n", "import ")


def show(
    model: Model, tokenizer: Tokenizer, families: Sequence[str], seed: int = 7, each: int = 3
) -> list[dict[str, Any]]:
    """Samples for the report: free continuations, and problems with their pictures, as `samples.jsonl` describes."""
    model.eval()
    size = model.config.image_size
    openings = [encode_parts((Text(text),), tokenizer, model.config) for text in TEXT_OPENINGS]
    texts = sample(
        model, openings, stop=(tokenizer.end,), max_new_tokens=_room(model, openings, 80), temperature=0.7, seed=seed
    )
    shown: list[dict[str, Any]] = [
        {
            "kind": "text",
            "family": "continuation",
            "prompt": o,
            "completion": tokenizer.decode(t),
            "answer": None,
            "images": [],
        }
        for o, t in zip(TEXT_OPENINGS, texts)
    ]
    for family in families:
        problems = _problems(family, each, seed, size)
        prompts = [_encode(p, model, tokenizer) for p in problems]
        completions = sample(
            model, prompts, stop=(tokenizer.end,), max_new_tokens=_room(model, prompts, 48), temperature=0.0
        )
        for problem, completion in zip(problems, completions):
            pictures = [part.pixels for part in problem.prompt if isinstance(part, Image)]
            shown.append(
                {
                    "kind": "image" if pictures else "text",
                    "family": family,
                    "prompt": "".join(part.text for part in problem.prompt if isinstance(part, Text)),
                    "completion": tokenizer.decode(completion),
                    "answer": problem.answer,
                    "images": [encode_png(pixels) for pixels in pictures],
                }
            )
    return shown


def _room(model: Model, prompts: Sequence[Prompt], wanted: int) -> int:
    """`wanted` new tokens, or as many as the model's positions leave after the longest prompt."""
    return max(1, min(wanted, len(model.cos_TC) - max(len(prompt.ids) for prompt in prompts)))
