"""Coordinate check (Yang et al. 2022, appendix D.1): what each layer adds, after a few steps, does not drift with width.

    python -m benchmarks.coordinate_check --run runs/quick --widths 16 32 64 128 --out benchmarks/results/coordinate_check.json

Prints the root-mean-square coordinate of what each block adds to the residual stream, and of the logits, for each width, and the
slope of its logarithm against the logarithm of the width (0 is flat, 0.5 and 1 are the usual ways to be wrong).
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forescale.core.artifacts import write_json
from forescale.data.shards import Shards
from forescale.model.scaling import Family
from forescale.train.loop import to_tensors, train


def coordinate_sizes(
    shards: Shards, widths: Sequence[int], steps: int = 10, rows: int = 8, seeds: int = 1
) -> dict[str, Any]:
    """`sizes[layer][width]`: root mean square over tokens and coordinates, averaged over seeds, and `slopes[layer]`."""
    facts, device = shards.facts, torch.device("cpu")
    family = Family(vocab_size=facts["vocab_size"], sequence_length=facts["sequence_length"])
    table = []
    for width in widths:
        found = []
        for seed in range(seeds):
            plan = dataclasses.replace(family.plan(width, facts["images_per_token"]), steps=steps, batch_rows=rows)
            with tempfile.TemporaryDirectory() as folder:
                model, _ = train(
                    plan, shards.train, Path(folder), seed=seed, image_token=facts["image_token"], device=device
                )
            tokens, _, pixels = to_tensors(shards.train.batch(0, 4), device)
            length = tokens.shape[1]
            with torch.no_grad():
                x, sizes = model.embed(tokens, pixels), []
                for block in model.layers:
                    y = block(x, model.cos_TC[:length], model.sin_TC[:length])
                    sizes.append((y - x).square().mean().sqrt().item())
                    x = y
                sizes.append(model.lm_head(model.norm(x)).square().mean().sqrt().item())
            found.append(sizes)
        table.append(np.mean(found, axis=0))
    names = [f"block {i}" for i in range(len(table[0]) - 1)] + ["logits"]
    slopes = np.polyfit(np.log(widths), np.log(np.array(table)), 1)[0]
    return {
        "widths": list(widths),
        "sizes": {name: [round(float(row[i]), 4) for row in table] for i, name in enumerate(names)},
        "slopes": {name: round(float(slope), 3) for name, slope in zip(names, slopes)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quick"))
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coordinate_check.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = coordinate_sizes(Shards(options.run / "shards", options.run / "data"), options.widths, seeds=options.seeds)
    write_json(options.out, result)
    print(f"{'':10}", *(f"{width:>9}" for width in options.widths), "    slope")
    for name, sizes in result["sizes"].items():
        print(f"{name:10}", *(f"{size:9.4f}" for size in sizes), f"{result['slopes'][name]:9.3f}")


if __name__ == "__main__":
    main()
