"""What answers would earn, before a policy is taught by it: a reward with the wrong sign is seen here and not in what it made.

Of each category's requests the model answers some as it does, and some behind the beginning of a compliance; a refusal stands for
itself, and a partial answer is a refusal with such a compliance behind it. What each earns, by the whole reward, is the table; that
the rubric's better answers earn more is the condition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from forescale.checkpoints.files import Checkpoint
from forescale.core.documents import Answered, Request
from forescale.core.statistics import spread
from forescale.generate.sample import sample
from forescale.rewards.combine import Reward
from forescale.rewards.guard import out_of_order
from forescale.rewards.rbrm import TIERS, Rbrm, tier
from forescale.rewards.verdicts import CLASSES
from forescale.rlhf.ppo import PpoConfig
from forescale.rlhf.rollout import encode_requests

REFUSAL = "I'm sorry, but I can't help with that."
COMPLIANCE = "Sure, here is how:"
KINDS = ("refusal", "partial", "compliance", "own")
REQUESTS = 16  # of each category
LEAST = 3  # answers of a tier, or nothing is said of it


@dataclass(frozen=True)
class Earned:
    """What `kind` of answers to requests of `category` earn: number with a reward, its mean, that of its parts, the judge's classes
    and one of the answers."""

    category: str
    kind: str
    n: int
    reward: float | None
    parts: dict[str, float]
    classes: dict[str, int]
    example: str


@dataclass(frozen=True)
class Preview:
    """`tiers`: by category, number and mean reward of the answers that the rubric finds right, undesired and disallowed.

    `wrong`: a sentence for each category whose order is not the rubric's.
    """

    rows: tuple[Earned, ...]
    tiers: dict[str, dict[str, dict[str, float]]]
    wrong: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def preview(
    tuned: Checkpoint, requests: Sequence[Request], reward: Reward, rbrm: Rbrm | None, config: PpoConfig
) -> Preview:
    """Samples `tuned` and scores what it writes. Without an RBRM nothing says what is right, and nothing is found wrong.

    Raises UserError as `encode_requests` and the reward's parts do.
    """
    by_category: dict[str, list[Request]] = {}
    for request in requests:
        name = rbrm.rubric.category(request.category).name if rbrm else request.category
        by_category.setdefault(name, []).append(request)
    rows: list[Earned] = []
    tiers: dict[str, dict[str, dict[str, float]]] = {}
    wrong: list[str] = []
    for category, theirs in sorted(by_category.items()):
        answers = _answers(tuned, spread(theirs, REQUESTS), config)
        found: dict[str, list[float]] = {name: [] for name in TIERS}
        for kind in KINDS:
            cases = answers[kind]
            earned = reward(cases)
            verdicts = rbrm.judge(cases) if rbrm else [None] * len(cases)
            values = [(sum(parts.values()), parts) for parts in earned if parts is not None]
            means = {
                name: float(np.mean([parts[name] for _, parts in values])) for name in (values[0][1] if values else {})
            }
            counts = Counter(verdict.label for verdict in verdicts if verdict)
            classes = {str(name): counts[name] for name in CLASSES if counts[name]}
            mean = float(np.mean([total for total, _ in values])) if values else None
            rows.append(Earned(category, kind, len(values), mean, means, classes, cases[0].answer))
            for verdict, parts in zip(verdicts, earned):
                if rbrm and verdict and parts is not None:
                    found[tier(verdict, category, rbrm.rubric)].append(sum(parts.values()))
        tiers[category] = {name: {"n": len(v), "reward": float(np.mean(v))} for name, v in found.items() if v}
        if rbrm:
            wrong += _wrong(category, rows[-len(KINDS) :], tiers[category], rbrm)
    return Preview(tuple(rows), tiers, tuple(wrong))


def _answers(tuned: Checkpoint, requests: Sequence[Request], config: PpoConfig) -> dict[str, list[Answered]]:
    """By kind, one of each request."""
    opening = tuned.tokenizer.encode(COMPLIANCE)
    prompts = encode_requests(requests, tuned, config.max_new_tokens + len(opening))
    begun = [replace(prompt, ids=(*prompt.ids, *opening)) for prompt in prompts]

    def written(which: Sequence[Any], before: str) -> list[Answered]:
        ids = sample(
            tuned.model,
            which,
            stop=tuned.tokenizer.roles.stop,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=config.seed,
        )
        return [Answered(request, before + tuned.tokenizer.decode(one)) for request, one in zip(requests, ids)]

    complying = written(begun, COMPLIANCE)
    return {
        "refusal": [Answered(request, REFUSAL) for request in requests],
        "partial": [Answered(case.request, f"{REFUSAL} {case.answer}") for case in complying],
        "compliance": complying,
        "own": written(prompts, ""),
    }


def _wrong(category: str, rows: Sequence[Earned], tiers: dict[str, dict[str, float]], rbrm: Rbrm) -> list[str]:
    """What is out of order in a category, if anything: a sentence."""
    if pair := out_of_order({name: found["reward"] for name, found in tiers.items() if found["n"] >= LEAST}):
        better, worse = pair
        return [
            f"in category '{category}' {better} answers would earn {tiers[better]['reward']:.2f} and {worse} ones "
            f"{tiers[worse]['reward']:.2f}"
        ]
    reward = {row.kind: row.reward for row in rows}
    refusing = "refusal_desired" in (desired := rbrm.rubric.category(category).desired) and "safe" not in desired
    refusal, compliance = reward["refusal"], reward["compliance"]
    if refusing and refusal is not None and compliance is not None and refusal <= compliance:
        return [f"in category '{category}' a refusal would earn {refusal:.2f} and a compliance {compliance:.2f}"]
    return []


def render(found: Preview) -> str:
    """A table for people: a line for each category."""
    lines = ["  what answers would earn before the first step (mean reward):"]
    categories = dict.fromkeys(row.category for row in found.rows)
    width = max((len(name or "all requests") for name in categories), default=0)
    for category in categories:
        rows = {row.kind: row for row in found.rows if row.category == category}
        cells = [
            f"a {kind} {rows[kind].reward:.2f}" if rows[kind].reward is not None else f"a {kind}: no reward"
            for kind in KINDS[:3]
        ]
        own = rows["own"]
        classes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in own.classes.items())
        said = "none" if own.reward is None else f"{own.reward:.2f}"
        lines.append(
            f"    {category or 'all requests':{width}}  {'  '.join(cells)}  its own answers {said}"
            + (f" ({classes})" if classes else "")
        )
    return "\n".join(lines)
