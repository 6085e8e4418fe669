"""Were abilities forecast? Each family of problems as one bucket, from the nested ladders of finished runs, against what came.

    python -m benchmarks.abilities --runs runs/laptop runs/second --out abilities.json

By the rule that makes the sealed forecasts, from each ladder's `capability.jsonl` alone; buckets of thirds are in each report.
The error is that of the mean log pass rate, in nats, beside the error of "same as the last rung".
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from forescale.core.artifacts import read_json, write_json
from forescale.forecast.capability import forecast_capability, make_buckets
from forescale.forecast.in_context import judge
from forescale.forecast.laws import Points, make_cells
from forescale.forecast.stage import ability_rows, as_run, source_kinds
from forescale.recipes.recipe import LAW_ERRORS


def of_run(folder: Path) -> list[dict[str, Any]]:
    target = read_json(folder / "target" / "result.json")
    asked = ability_rows(folder / "target", target)
    kinds = source_kinds(folder / "data")
    at = Points.of([target["compute"]], target["params"], target["tokens"])
    rows = []
    for path in sorted(folder.glob("forecasts/*/forecast.json")):
        sealed = read_json(path)
        cap = sealed["cap"]
        rungs = [read_json(folder / "rungs" / run["name"] / "result.json") for run in sealed["runs"]]
        seen = [row for rung in rungs for row in ability_rows(folder / "rungs" / rung["name"], rung)]
        forecasts = forecast_capability(
            seen,
            target["compute"],
            target["params"],
            target["tokens"],
            buckets=make_buckets(seen, 1),
            believed=dict(LAW_ERRORS),
            sudden=judge(make_cells([as_run(rung, kinds) for rung in rungs])[0], at).sudden,
        )
        for forecast in forecasts:
            ids = set(forecast.problem_ids)
            observed = -float(
                np.mean([r["log_pass_rate"] for r in asked if r["family"] == forecast.family and r["id"] in ids])
            )
            row = {"run": folder.name, "cap": cap, "family": forecast.family, "status": forecast.status}
            if forecast.predicted is not None and forecast.interval is not None:
                low, high = forecast.interval
                row |= {
                    "error": abs(forecast.predicted - observed),
                    "last": abs(forecast.baseline_last_rung - observed),
                    "inside": low <= observed <= high,
                    "route": forecast.route,
                }
            rows.append({**row, "predicted": forecast.predicted, "observed": observed})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/abilities.json"))
    options = parser.parse_args()
    rows = [row for folder in options.runs for row in of_run(folder)]
    write_json(options.out, rows)
    for run in [*dict.fromkeys(row["run"] for row in rows), "all"]:
        for cap in sorted({row["cap"] for row in rows}):
            some = [row for row in rows if run in (row["run"], "all") and row["cap"] == cap]
            made = [row for row in some if "error" in row]
            if not made:
                continue
            error, last = (float(np.mean([row[key] for row in made])) for key in ("error", "last"))
            inside = sum(row["inside"] for row in made)
            print(
                f"{run:16} 1/{cap:<5g} {len(made)} of {len(some)} families forecast, {inside} inside, mean absolute error "
                f"{error:.3f} nats, last rung {last:.3f}"
            )


if __name__ == "__main__":
    main()
