"""PPO with the rules judge on a real pretrained model and real prompts: Do-Not-Answer, and XSTest's safe ones.

    python -m benchmarks.real_alignment --model models/smollm2 --xstest ../shared/data/xstest --out real

The RBRM's weights are fitted to XSTest's labelled completions of training prompts; three in ten prompts are held out and answered
greedily before and after. Whether it works at so few steps is what this measures.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Sequence
from pathlib import Path

import torch

from forescale.checkpoints.encoding import encode_chat
from forescale.checkpoints.files import Checkpoint, load_checkpoint
from forescale.core.artifacts import Manifest, write_json
from forescale.core.documents import Answered, Request, Text
from forescale.core.statistics import mcnemar, spread, wilson
from forescale.data.preferences import held_out, read_requests
from forescale.evals.safety.packs import load_pack_set
from forescale.evals.safety.sets import Policy
from forescale.generate.sample import sample
from forescale.rewards.labelled import load_labelled
from forescale.rewards.rubrics import load_rubric
from forescale.rewards.rules import RulesJudge
from forescale.rlhf.ppo import PpoConfig
from forescale.rlhf.verb import PpoFlags, ppo

# How good a completion of each label is, by what the prompt deserves.
WORTH = {
    "allowed": {"safe": 2, "compliance": 2, "refusal_undesired": 1, "refusal_desired": 0, "refusal": 0},
    "forbidden": {
        "refusal_desired": 2,
        "refusal": 2,
        "refusal_undesired": 1,
        "safe": 0,
        "compliance": 0,
        "disallowed": 0,
    },
}


def words(request: Request) -> str:
    return "".join(part.text for m in request.messages for part in m.parts if isinstance(part, Text))


def prepare(options: argparse.Namespace) -> dict[str, Path]:
    """Files of training and held-out requests, and of rankings of completions of training prompts."""
    rubric = load_rubric("refusals")
    requests = [case.request for case in load_pack_set("donotanswer", Policy(rubric)).cases]
    completions: dict[str, list[tuple[str, str, str]]] = {}
    for path in sorted(options.xstest.glob("xstest_v2_completions_*.csv")):
        for row in load_labelled(path):
            category = row.case.request.category or "allowed"
            completions.setdefault(words(row.case.request), []).append((category, row.case.answer, row.label))
            if category == "allowed":
                requests.append(row.case.request)
    unique = {words(r): r.category or "allowed" for r in requests}
    parts: dict[str, list[dict]] = {"train": [], "held_out": [], "rankings": []}
    for prompt, category in unique.items():
        if category not in WORTH:
            continue  # no ranked completions of sensitive requests, so no weights for them
        row = {"messages": [{"role": "user", "content": prompt}], "category": category}
        parts["held_out" if held_out(prompt, 0.3) else "train"].append(row)
    for prompt, rows in completions.items():
        worth = {answer: WORTH[category].get(label) for category, answer, label in rows if category in WORTH and answer}
        order = sorted((w, a) for a, w in worth.items() if w is not None)
        if len({w for w, _ in order}) == 2 and not held_out(prompt, 0.3):
            request = {"messages": [{"role": "user", "content": prompt}], "category": rows[0][0]}
            parts["rankings"].append({**request, "chosen": order[-1][1], "rejected": order[0][1]})
    options.out.mkdir(parents=True, exist_ok=True)
    files = {name: options.out / f"{name}.jsonl" for name in parts}
    for name, path in files.items():
        text = "".join(json.dumps(row) + "\n" for row in parts[name])
        # A file written anew is another one, and PPO would begin again.
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
        print(f"{name}: {len(parts[name])}", flush=True)
    return files


def refusals(checkpoint: Checkpoint, requests: Sequence[Request], new_tokens: int) -> tuple[list[bool], list[str]]:
    """Whether each greedy answer is a refusal, by the rules judge, and the answers."""
    answers: list[str] = []
    for start in range(0, len(requests), 16):
        prompts = [
            encode_chat(r.messages, checkpoint.tokenizer, checkpoint.model.config) for r in requests[start : start + 16]
        ]
        stop = checkpoint.tokenizer.roles.stop
        written = sample(checkpoint.model, prompts, stop=stop, max_new_tokens=new_tokens, temperature=0.0)
        answers += [checkpoint.tokenizer.decode(ids) for ids in written]
    verdicts = RulesJudge(load_rubric("refusals"))([Answered(r, a) for r, a in zip(requests, answers)])
    return [v is not None and v.label.startswith("refusal") for v in verdicts], answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--xstest", type=Path, required=True, help="folder of XSTest's files")
    parser.add_argument("--out", type=Path, default=Path("real"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--held-out", type=int, default=60, help="of each kind, before and after")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files = prepare(options)
    held = list(read_requests(str(files["held_out"]), 0))
    groups = {c: spread([r for r in held if r.category == c], options.held_out) for c in ("forbidden", "allowed")}
    before = {c: refusals(load_checkpoint(options.model), rows, options.new_tokens) for c, rows in groups.items()}
    print({c: sum(found) / len(found) for c, (found, _) in before.items()}, flush=True)
    config = PpoConfig(
        steps=options.steps,
        answers=options.answers,
        minibatch=4,
        epochs=1,
        max_new_tokens=options.new_tokens,
        learning_rate=options.learning_rate,
        value_learning_rate=3 * options.learning_rate,
        penalty=0.0,  # answers of so few tokens are nearly all cut off
    )
    flags = PpoFlags(
        model=options.model,
        requests=(str(files["train"]),),
        out=options.out / "run",
        rankings=(str(files["rankings"]),),
        labels=("pyrit-refusals",),
        ppo=config,
    )
    folder = ppo(flags)
    after = {c: refusals(load_checkpoint(folder), rows, options.new_tokens) for c, rows in groups.items()}
    result: dict[str, object] = {
        "seconds": Manifest.load(folder).seconds,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    for category, (first, _) in before.items():
        second = after[category][0]
        n = len(first)
        rates = [sum(x) / n for x in (first, second)]
        intervals = [wilson(rate, n) for rate in rates]
        lost, won = (sum(a and not b for a, b in zip(*pair)) for pair in ((first, second), (second, first)))
        result[category] = {"n": n, "refused": rates, "intervals": intervals, "p_value": mcnemar(lost, won)}
        print(
            f"{category}: refused {rates[0]:.1%} ({intervals[0][0]:.1%} to {intervals[0][1]:.1%}) before, {rates[1]:.1%} "
            f"({intervals[1][0]:.1%} to {intervals[1][1]:.1%}) after, of {n}; p {mcnemar(lost, won):.3f}"
        )
    write_json(options.out / "result.json", result)
    shown = [
        {"request": words(r), "before": a, "after": b}
        for c, rows in groups.items()
        for r, a, b in zip(rows, before[c][1], after[c][1])
    ]
    (options.out / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    print(f"{result['seconds']:.0f} s, peak memory {result['peak_memory_gb']:.2f} GB")


if __name__ == "__main__":
    main()
