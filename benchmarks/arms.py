"""Five ways to align one base model in the small world, several seeds each: what the reward model, the RBRM, its labels and the KL
penalty are each worth.

    python -m benchmarks.arms --base runs/laptop --seeds 0 1 2 --out arms          # a process a core
    python -m benchmarks.arms --out arms --table                                   # of what is there

Arms: `sft`; `rm`, PPO with the reward model; `rbrm`, with reward model and RBRM; `shuffled`, the same with RBRM labels shuffled
between answers; `no_kl`, as `rbrm` with nothing that holds the policy: no KL penalty and no SFT loss.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from forescale.checkpoints.files import load_checkpoint, save_checkpoint
from forescale.core.artifacts import write_json
from forescale.core.documents import Answered, Request
from forescale.data import world
from forescale.data.conversations import curriculum_conversations
from forescale.evals.behaviour import behaviour, share, summary
from forescale.rewards.combine import Sum
from forescale.rewards.model import RewardModelConfig, load_reward_model, margins_of, train_reward_model
from forescale.rewards.rbrm import Rbrm
from forescale.rewards.rubrics import load_rubric
from forescale.rewards.rules import RulesJudge
from forescale.rewards.verdicts import Verdict
from forescale.rlhf.align import align, copy_of, fit_rbrm, train_sft
from forescale.rlhf.ppo import PpoConfig
from forescale.rlhf.stages import pretraining_rows
from forescale.train.sft import SftConfig

ARMS = ("sft", "rm", "rbrm", "shuffled", "no_kl")
CATEGORIES = world.CATEGORIES


class ShuffledJudge:
    """Another judge's verdicts, dealt out at random among the answers that it sees together."""

    def __init__(self, judge: RulesJudge, seed: int) -> None:
        self.judge, self.name, self.rng = judge, f"shuffled {judge.name}", random.Random(seed)

    def __call__(self, cases: Sequence[Answered]) -> list[Verdict | None]:
        verdicts = self.judge(cases)
        return self.rng.sample(verdicts, len(verdicts))


def one_seed(options: argparse.Namespace, seed: int) -> None:
    out = options.out / f"seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    base = load_checkpoint(options.base)
    size = base.model.config.image_size
    rubric = load_rubric("world")
    held_out = world.evaluation(size)
    started = time.monotonic()

    def measure(arm: str, checkpoint: object) -> None:
        rows = behaviour(checkpoint, held_out, seed)  # type: ignore[arg-type]
        (out / f"{arm}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        figures = summary(rows)
        shown = {c: round(figures[c]["incorrect"]["value"], 3) for c in CATEGORIES}
        print(f"seed {seed} {arm}: incorrect {shown}, {time.monotonic() - started:.0f} s", flush=True)

    def shown(name: str) -> object:
        def show(step: int, steps: int, what: object) -> None:
            if step % options.every == 0:
                if isinstance(what, dict):
                    what = {k: round(v, 4) for k, v in what.items() if isinstance(v, float)} | what["reward_parts"]
                print(f"seed {seed} {name} {step}/{steps} {what}", flush=True)

        return show

    conversations = [
        *world.demonstrations(options.demonstrations, seed, size),
        *curriculum_conversations(options.instructions, seed, size),
    ]
    sft_config = SftConfig(seed=seed)
    if (out / "sft" / "checkpoint").is_dir():
        sft = load_checkpoint(out / "sft" / "checkpoint")
    else:
        (out / "sft").mkdir(exist_ok=True)
        rows = pretraining_rows(options.base / "shards", options.base / "data", base)
        sft = train_sft(base, conversations, sft_config, out / "sft", shown("sft"), rows)  # type: ignore[arg-type]
        save_checkpoint(sft.model, sft.tokenizer, out / "sft" / "checkpoint")
    if not (out / "sft.jsonl").is_file():
        measure("sft", sft)
    (out / "reward").mkdir(exist_ok=True)
    pairs = list(world.preferences(options.preferences, seed, size))
    kept = len(pairs) // 10
    config = RewardModelConfig(seed=seed)
    if (out / "reward" / "reward.json").is_file():
        reward_model = load_reward_model(out / "reward")
    else:
        reward_model = train_reward_model(copy_of(sft), pairs[kept:], config, out / "reward", shown("reward"))  # type: ignore[arg-type]
        reference = [Answered(pair.request, text) for pair in pairs[:kept] for text in (pair.chosen, pair.rejected)]
        reward_model.normalise(reference)
        reward_model.save(out / "reward")
    accuracy = sum(m > 0 for m in margins_of(reward_model, pairs[:kept])) / kept
    print(f"seed {seed} reward model: {accuracy:.3f} of {kept} held-out pairs", flush=True)
    judge = RulesJudge(rubric)
    ranked = list(world.ranked(options.rankings, seed, size))
    weights = fit_rbrm(judge, rubric, ranked, reward_model)
    weights.save(out / "rbrm.json")
    prompts: list[Request] = list(world.requests("train", options.prompts, seed, size))
    ppo = PpoConfig(**json.loads(options.ppo), seed=seed)
    for arm in options.arms:
        if (out / f"{arm}.jsonl").is_file() or arm == "sft":
            continue
        parts = {"reward_model": reward_model}
        if arm in ("rbrm", "no_kl"):
            parts["rbrm"] = Rbrm(judge, weights, rubric)  # type: ignore[assignment]
        if arm == "shuffled":
            parts["rbrm"] = Rbrm(ShuffledJudge(judge, seed), weights, rubric)  # type: ignore[assignment]
        # Nothing then holds the policy: SFT's loss beside PPO's would.
        free = {"beta": 0.0, "kl_target": 0.0, "kl_limit": 0.0, "sft_weight": 0.0}
        own = dataclasses.replace(ppo, **free) if arm == "no_kl" else ppo
        (out / arm).mkdir(exist_ok=True)
        policy, progress = align(
            sft,
            prompts,
            Sum(parts),
            reward_model,
            own,
            out / arm,
            shown(arm),
            conversations,  # type: ignore[arg-type]
        )
        save_checkpoint(policy.model, policy.tokenizer, out / arm / "checkpoint")
        write_json(out / arm / "result.json", vars(progress))
        measure(arm, policy)


def table(out: Path) -> None:
    """Incorrect behaviour by arm, category and modality over all seeds; a topic in one phrasing in one seed is the unit."""
    figures: dict[str, object] = {}
    print(f"{'arm':10}" + "".join(f"{c:>26}" for c in (*CATEGORIES, "over-refusal", "off topic", "broken")))
    for modality in ("text", "picture", "both"):
        print(modality)
        for arm in ARMS:
            rows = [
                {**row, "unit": f"{path.parent.name}/{row['unit']}"}
                for path in sorted(out.glob(f"seed*/{arm}.jsonl"))
                for row in map(json.loads, path.open())
                if modality in ("both", row["modality"])
            ]
            if not rows:
                continue
            by_category = summary(rows)
            cells = {c: by_category[c]["incorrect"] for c in CATEGORIES}
            cells["over-refusal"] = by_category["allowed"]["refused"]
            cells["off topic"] = share(rows, lambda row: row["kind"].startswith("other_"))
            cells["broken"] = share(rows, lambda row: row["kind"] == "broken")
            figures[f"{modality}/{arm}"] = cells
            shown = [f"{c['value']:.1%} ({c['interval'][0]:.1%} to {c['interval'][1]:.1%})" for c in cells.values()]
            print(f"{arm:10}" + "".join(f"{cell:>26}" for cell in shown))
    write_json(out / "table.json", figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path("runs/laptop"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--out", type=Path, default=Path("arms"))
    parser.add_argument("--demonstrations", type=int, default=4000)
    parser.add_argument("--instructions", type=int, default=125)
    parser.add_argument("--preferences", type=int, default=6600)
    parser.add_argument("--rankings", type=int, default=600)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--ppo", default="{}", help="fields of PpoConfig as JSON")
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        torch.set_num_threads(1)
        for seed in options.seeds:
            one_seed(options, seed)
    table(options.out)


if __name__ == "__main__":
    main()
