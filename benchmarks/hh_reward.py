"""A reward model on real people's preferences: held-out accuracy on hh-rlhf's harmless-base pairs.

    python -m benchmarks.hh_reward --model models/smollm2 --pairs ../shared/data/hh-rlhf/harmless-base-test.jsonl.gz --out hh

Training and test pairs are parted by their request, so that no dialogue is on both sides; longer ones are left out.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import torch

from forescale.checkpoints.files import load_checkpoint
from forescale.core.artifacts import write_json
from forescale.data.preferences import held_out, read_preferences
from forescale.rewards.model import RewardModelConfig, pair_lessons, train_reward_model
from forescale.rlhf.stages import reward_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("hh"))
    parser.add_argument("--train", type=int, default=800, help="pairs to train on")
    parser.add_argument("--test", type=int, default=400, help="pairs to test on")
    parser.add_argument("--tokens", type=int, default=192, help="longest dialogue")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.model)
    counts: Counter[str] = Counter()
    pairs = list(read_preferences(str(options.pairs), 0, counts))
    short = [p for p in pairs if max(len(x.ids) for x in pair_lessons(p, checkpoint)) <= options.tokens]
    train = [p for p in short if not held_out(p.request.id, 0.3)][: options.train]
    test = [p for p in short if held_out(p.request.id, 0.3)][: options.test]
    print(
        f"{len(pairs)} pairs, {len(short)} of at most {options.tokens} tokens, {dict(counts)} dropped; "
        f"train {len(train)}, test {len(test)}"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    config = RewardModelConfig(learning_rate=options.learning_rate, batch_pairs=8)
    started = time.monotonic()

    def show(step: int, steps: int, loss: float) -> None:
        if step % 10 == 0:
            print(f"{step}/{steps} loss {loss:.3f}, {time.monotonic() - started:.0f} s", flush=True)

    model = train_reward_model(checkpoint, train, config, options.out, show)
    figures = {**reward_report(model, len(train), test), "seconds": time.monotonic() - started, "read": dict(counts)}
    write_json(options.out / "hh.json", figures)
    low, high = figures["interval"]
    print(f"{figures['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {len(test)} held-out pairs, chance 50%")


if __name__ == "__main__":
    main()
