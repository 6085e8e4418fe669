"""Hindcasts on published runs: how far off would the forecaster have been, and did its intervals hold?

    python benchmarks/forecast_public_runs.py [--data ../shared/data/open-lm-scaling] [--out forecast_public_runs.json]

Data: `exp_data/models/*.json` of https://github.com/mlfoundations/scaling (Gadre et al. 2024, 2403.08540): 104 runs,
11 M to 6.9 B parameters, three corpora. They log no FLOPs; compute is taken as 6 N D here and only here. For each
corpus, every run that is large enough is forecast from the runs with at most 1/10 and at most 1/100 of its compute,
twice:
  family   from the runs with its own tokens per parameter, as (compute, loss) alone, like a ladder of ours;
  all      from all runs, with params and tokens.
The ends of these forecasts overlap and share rungs: the counts are not of independent trials.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from forescale.core.errors import UserError
from forescale.forecast.laws import Points, fit_nd, make_cells
from forescale.forecast.loss import can_fit_nd, forecast_loss
from forescale.forecast.runs import Run

SMALLEST_TARGET = 5e18
CORPORA = ("c4_original", "rpj", "rw_original")
LOSSES = {"c4": "c4_val", "refinedweb": "falcon-refinedweb", "openlm": "/openlm/", "redpajama": "paloma_redpajama"}
DEFAULT_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "open-lm-scaling"
# Each corpus judged on held-out text of its own kind, the setting in which scaling laws are used.
OWN_LOSS = {"c4_original": "c4", "rpj": "redpajama", "rw_original": "refinedweb"}


def load(folder: Path, corpus: str, loss: str) -> list[Run]:
    """The runs of one corpus with the chosen validation loss."""
    runs = []
    for path in sorted(folder.glob(f"{corpus}-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        settings = record["hyperparameters"]
        value = next(r["loss"] for r in record["results"] if LOSSES[loss] in str(r["val_data"]))
        params, tokens = float(settings["params"]), float(settings["tokens"])
        runs.append(Run(record["name"], 6 * params * tokens, float(value), params, tokens))
    return sorted(runs, key=lambda run: run.compute)


def ratio(run: Run) -> float:
    assert run.params is not None
    assert run.tokens is not None
    return run.tokens / run.params


def hindcasts(folder: Path, losses: Iterable[str], smallest_target: float) -> list[dict[str, Any]]:
    rows = []
    for corpus in CORPORA:
        for loss in losses:
            runs = load(folder, corpus, OWN_LOSS[corpus] if loss == "own" else loss)
            for target in runs:
                for gap in (10, 100):
                    for mode in ("family", "all"):
                        if target.compute >= smallest_target:
                            row = hindcast(runs, target, gap, mode)
                            if row is not None:
                                rows.append({"corpus": corpus, "loss": loss, "largest": target in runs[-3:], **row})
    return rows


def seen_for(runs: list[Run], target: Run, gap: float, mode: str) -> tuple[list[Run], dict[str, float | None]]:
    """The runs that a forecast of `target` may see, and what it is told of the target's size."""
    seen = [run for run in runs if run.compute <= target.compute / gap]
    if mode == "family":
        return [Run(r.name, r.compute, r.loss) for r in seen if abs(np.log(ratio(r) / ratio(target))) < 0.1], {}
    return seen, {"target_params": target.params, "target_tokens": target.tokens}


def hindcast(runs: list[Run], target: Run, gap: float, mode: str) -> dict[str, Any] | None:
    """One row, or None where fewer than three sizes are small enough."""
    seen, size = seen_for(runs, target, gap, mode)
    started = time.perf_counter()
    try:
        forecast = forecast_loss(seen, target.compute, **size)
    except UserError:
        return None
    seconds = time.perf_counter() - started
    cells, _ = make_cells(seen)
    plain_nd = None
    if mode == "all" and can_fit_nd(cells):
        law = fit_nd(cells, delta=0.001, prior=False)
        at = Points.of([target.compute], target.params, target.tokens)
        plain_nd = float(np.exp(law.log_predict(at)[0])) / target.loss - 1
    return {
        "mode": mode,
        "target": target.name,
        "gap": gap,
        "real_gap": target.compute / max(r.compute for r in seen),
        "runs": len(seen),
        "observed": target.loss,
        "predicted": forecast.predicted,
        "interval": list(forecast.interval),
        "inside": forecast.interval[0] <= target.loss <= forecast.interval[1],
        "error": forecast.predicted / target.loss - 1,
        "error_line": forecast.baseline_loglog_line / target.loss - 1,
        "error_last_rung": forecast.baseline_last_rung / target.loss - 1,
        "error_nd": plain_nd,
        "width": forecast.interval[1] / forecast.interval[0] - 1,
        "members": {m["name"]: (m["predicted"] / target.loss - 1, m["weight"]) for m in forecast.ensemble},
        "seconds": seconds,
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(name: str) -> float | None:
        values = [abs(row[name]) for row in rows if row[name] is not None]
        return float(np.median(values)) if values else None

    def worst(name: str) -> float | None:
        values = [abs(row[name]) for row in rows if row[name] is not None]
        return max(values) if values else None

    return {
        "n": len(rows),
        "median_error": middle("error"),
        "median_error_line": middle("error_line"),
        "median_error_nd": middle("error_nd"),
        "median_error_last_rung": middle("error_last_rung"),
        "worst_error": worst("error"),
        "worst_error_line": worst("error_line"),
        "worst_error_nd": worst("error_nd"),
        "coverage": float(np.mean([row["inside"] for row in rows])) if rows else None,
        "median_width": middle("width"),
    }


def largest_of_each_corpus(rows: list[dict[str, Any]], losses: Iterable[str]) -> dict[str, Any]:
    """Mean absolute errors over the three largest runs of each corpus where N,D can be fitted; printed too."""
    print(
        "the three largest runs of each corpus, from all runs with at most 1/gap of their compute: mean absolute errors"
    )
    found: dict[str, Any] = {}
    for loss in losses:
        for gap in (10, 100):
            chosen = [r for r in rows if (r["mode"], r["gap"], r["loss"], r["largest"]) == ("all", gap, loss, True)]
            chosen = [r for r in chosen if r["error_nd"] is not None]
            if not chosen:
                continue
            means = {k: float(np.mean([abs(r[k]) for r in chosen])) for k in ("error", "error_nd", "error_line")}
            inside = sum(r["inside"] for r in chosen)
            found[f"{loss}, 1/{gap}"] = {"n": len(chosen), **means, "inside": inside}
            shown = "".join(f"{name} {value:7.2%}  " for name, value in means.items())
            print(f"{loss:10} 1/{gap:<4} {shown} inside {inside} of {len(chosen)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--losses", nargs="*", default=["own", "openlm", "c4"])
    parser.add_argument("--smallest-target", type=float, default=SMALLEST_TARGET)
    parser.add_argument("--out", type=Path, default=Path("forecast_public_runs.json"))
    options = parser.parse_args()
    rows = hindcasts(options.data, options.losses, options.smallest_target)
    summary = {}
    of_largest = largest_of_each_corpus(rows, options.losses)
    for mode in ("family", "all"):
        for gap in (10, 100):
            for corpus in ("every corpus", *CORPORA):
                chosen = [
                    r for r in rows if r["mode"] == mode and r["gap"] == gap and corpus in ("every corpus", r["corpus"])
                ]
                if chosen:
                    summary[f"{mode}, 1/{gap}, {corpus}"] = summarise(chosen)
    print(
        f"{'':32} {'n':>4} {'ours':>7} {'line':>7} {'N,D':>7} {'last':>7} {'worst':>7} {'line':>7} {'cover':>6} "
        f"{'width':>6}"
    )
    for name, row in summary.items():
        cells = [row[k] for k in ("median_error", "median_error_line", "median_error_nd", "median_error_last_rung")]
        cells += [row[k] for k in ("worst_error", "worst_error_line", "coverage", "median_width")]
        print(f"{name:32} {row['n']:4} " + " ".join("      -" if c is None else f"{c:7.2%}" for c in cells))
    largest = [row for row in rows if "7b" in row["target"] and row["loss"] == "own"]
    for row in largest:
        nd = "" if row["error_nd"] is None else f"  N,D {row['error_nd']:+.2%}"
        print(
            f"{row['target']:28} {row['mode']:6} 1/{row['gap']:<4} {row['runs']:3} runs, {row['real_gap']:6.0f}x: ours "
            f"{row['error']:+.2%} [{'in' if row['inside'] else 'OUT'}, width {row['width']:.1%}]  line "
            f"{row['error_line']:+.2%}{nd}"
        )
    options.out.write_text(
        json.dumps({"largest": of_largest, "summary": summary, "rows": rows}, indent=1), encoding="utf-8"
    )
    print(f"{len(rows)} hindcasts in {options.out}; slowest forecast {max(row['seconds'] for row in rows):.2f} s")


if __name__ == "__main__":
    main()
