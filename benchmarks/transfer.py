"""Do the best learning rates and the best batch stay where they are? Sweeps over width, horizon and depth, with their figure.

    python -m benchmarks.transfer --run runs/laptop --out transfer.jsonl --figure docs/figures/transfer.svg

Each sweep moves one thing (a group's learning rate, or the batch) by factors around the shipped family's value, on models that
differ in one other thing (width, tokens per parameter, depth). The optimum is the vertex of the parabola through log loss against
the logarithm of the factor, averaged over seeds; its exponent is the slope of its logarithm against that of what differs. Where a
curve is so flat that one seed does not tell its lowest point there are several, and what is printed beside the vertex is its
standard error (the jackknife over seeds). The coordinate check of `coordinate_check` is drawn beside them. A line per run; runs
that are there are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.coordinate_check import coordinate_sizes
from benchmarks.learning_rates import GROUPS, IDENTITY, one
from benchmarks.pool import run_all
from forescale.data.shards import Shards
from forescale.model.scaling import Family, LearningRates
from forescale.report import style

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
BASE_WIDTH = 20


@dataclass(frozen=True)
class Sweep:
    """`moved`: a group of learning rates, or "batch". `across`: what differs between the curves, and its values."""

    moved: str
    across: str
    values: tuple[float, ...]
    seeds: int = 1

    def job(self, run: str, value: float, factor: float, seed: int) -> dict[str, Any]:
        rates = dataclasses.asdict(LearningRates())
        family: dict[str, Any] = {}
        if self.moved == "batch":
            family["batch_tokens_base"] = round(Family().batch_tokens_base * factor)
        else:
            rates[self.moved] *= factor
        width = int(value) if self.across == "width" else BASE_WIDTH
        # Values of the family itself are left out, so that curves share those runs.
        if self.across == "tokens per parameter" and value != Family().tokens_per_param:
            family["tokens_per_param"] = value
        if self.across == "depth" and value != Family().min_depth:
            family["min_depth"] = int(value)
        return {"run": run, "width": width, "seed": seed, "rates": rates, "family": family}


# What one seed does to a loss moves the lowest point of these curves by more than two times.
SEEDS = {"embedding": 6, "head": 3, "vector": 4}
SWEEPS = (
    *(
        Sweep(moved, across, values, seeds=SEEDS.get(moved, 1))
        for across, values in (("width", (10, 20, 40)), ("tokens per parameter", (4, 8, 16, 32)))
        for moved in (*GROUPS, "batch")
    ),
    Sweep("muon", "depth", (2, 3, 6)),
)


def vertex(losses: list[float]) -> tuple[float, float]:
    """The factor at which the parabola through log loss is lowest, kept within the range that was swept, and by how much log loss
    is lower there than at 1. NaN where it has no lowest point, or a run diverged."""
    if not np.isfinite(losses).all():
        return math.nan, math.nan
    x = np.log2(FACTORS)
    curvature, slope, _ = np.polyfit(x, np.log(losses), 2)
    if curvature <= 0:
        return math.nan, math.nan
    best = float(np.clip(-slope / (2 * curvature), x[0], x[-1]))
    return 2**best, float(-(curvature * best**2 + slope * best))


def evaluate(sweep: Sweep, run: str, done: list[dict[str, Any]]) -> dict[str, Any]:
    """Losses (value, factor) over seeds, the optima, their standard errors as factors and what they gain over the shipped value, by
    how much the optimum moves, and its exponent."""

    def loss(value: float, factor: float, seed: int) -> float:
        wanted = sweep.job(run, value, factor, seed)
        return next(r["loss"] or math.nan for r in done if {key: r[key] for key in wanted} == wanted)

    seeds = range(sweep.seeds)
    logs = np.log([[[loss(v, f, seed) for f in FACTORS] for v in sweep.values] for seed in seeds])
    losses = np.exp(logs.mean(axis=0))
    optima, gains = zip(*(vertex(list(row)) for row in losses))
    exponent = float(np.polyfit(np.log(sweep.values), np.log(optima), 1)[0])
    # Not Python's max and min: where an optimum is not known, how far it moves is not either.
    moves = float(np.max(optima) / np.min(optima))
    errors = np.full(len(sweep.values), math.nan)
    if sweep.seeds > 1:
        without = [np.exp(np.delete(logs, seed, axis=0).mean(axis=0)) for seed in seeds]
        left_out = np.log([[vertex(list(row))[0] for row in rows] for rows in without])
        errors = np.exp(np.sqrt((sweep.seeds - 1) * left_out.var(axis=0)))
    return {
        **dataclasses.asdict(sweep),
        "losses": losses.tolist(),
        "optima": optima,
        "standard_errors": errors.tolist(),
        "gains": gains,
        "moves": moves,
        "exponent": exponent,
    }


def draw(results: list[dict[str, Any]], coordinates: dict[str, Any], path: Path) -> None:
    with style.house_style():
        figure = Figure(figsize=(1.2 * style.WIDTH, 1.45 * style.WIDTH), layout="constrained")
        panels = figure.subplots(4, 3)
        for axes, result in zip(panels.flat, results):
            for index, (value, losses, best) in enumerate(zip(result["values"], result["losses"], result["optima"])):
                logs = np.log(losses)
                colour = style.cap_colour(index)
                axes.plot(
                    FACTORS, 100 * (logs - logs.min()), marker=style.cap_marker(index), color=colour, label=f"{value:g}"
                )
                axes.axvline(best, color=colour, lw=1, ls=":")
            axes.set_xscale("log", base=2)
            axes.set_xticks(FACTORS, [f"{factor:g}" for factor in FACTORS])
            axes.set_title(f"{result['moved']} over {result['across']}")
            axes.set_xlabel(f"factor on the {'batch' if result['moved'] == 'batch' else 'rate'}")
            axes.set_ylabel("loss above the best, %")
            axes.legend(title=result["across"])
        last = panels.flat[-1]
        for index, (name, sizes) in enumerate(coordinates["sizes"].items()):
            last.plot(
                coordinates["widths"], sizes, color=style.cap_colour(index), marker=style.cap_marker(index), label=name
            )
        last.set_xscale("log", base=2)
        last.set_yscale("log")
        last.set_xticks(coordinates["widths"], coordinates["widths"])
        last.set_title("coordinate check after ten steps")
        last.set_xlabel("width")
        last.set_ylabel("root mean square added")
        last.legend()
        says = "; ".join(f"{r['moved']} over {r['across']} moves {r['moves']:.2f} times" for r in results)
        style.save(figure, path, "Where the best learning rates and the best batch lie", says)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/laptop")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transfer.jsonl"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/transfer.svg"))
    options = parser.parse_args()
    jobs: list[dict[str, Any]] = []
    for sweep in SWEEPS:
        for value in sweep.values:
            for factor in FACTORS:
                for seed in range(sweep.seeds):
                    job = sweep.job(options.run, value, factor, seed)
                    if job not in jobs:
                        jobs.append(job)
    done = run_all(one, jobs, IDENTITY, options.out, lambda r: f"width {r['width']}, {r['family']}: {r['loss']}")
    results = [evaluate(sweep, options.run, done) for sweep in SWEEPS]
    for result in results:
        optima = ", ".join(
            f"{value:g}: {best:.2f}{'' if math.isnan(error) else f' x/ {error:.2f}'} (gains {gain:.2%})"
            for value, best, error, gain in zip(
                result["values"], result["optima"], result["standard_errors"], result["gains"]
            )
        )
        print(
            f"{result['moved']:10} over {result['across']:20} optimum {optima}; moves {result['moves']:.2f}x, "
            f"exponent {result['exponent']:+.2f}"
        )
    run = Path(options.run)
    coordinates = coordinate_sizes(Shards(run / "shards", run / "data"), (16, 32, 64, 128), seeds=3)
    print("coordinate check, slopes of size over width:", coordinates["slopes"])
    draw(results, coordinates, options.figure)


if __name__ == "__main__":
    main()
