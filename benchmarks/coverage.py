"""Do intervals hold? Leave-future-out forecasts of recorded runs, own and public, at several levels.

    python -m benchmarks.coverage --runs runs/laptop runs/second --out coverage.json

Own: each size of a finished run folder or of a file of `benchmarks.recorded` (without --runs those of benchmarks/recorded), target
included, from the rungs with at most 1/10, 1/100 and 1/1,000 of its compute, for all tokens, text and pictures. Public:
`forecast_public_runs`' rows, along one tokens-per-parameter line and from all runs.
Forecasts from the same runs are made once. They overlap, share runs, and are no independent trials.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.forecast_public_runs import CORPORA, DEFAULT_DATA, OWN_LOSS, SMALLEST_TARGET, load, seen_for
from benchmarks.recorded import GAPS, RECORDED, read_runs
from forescale.core.artifacts import write_json
from forescale.core.errors import UserError
from forescale.forecast.loss import fit_loss
from forescale.forecast.runs import Run
from forescale.forecast.stage import as_run

LEVELS = (0.5, 0.8, 0.9, 0.95)


def judged(kind: str, target: Run, gap: float, seen: list[Run], size: Mapping[str, float | None]) -> dict[str, Any]:
    """One forecast of `target` from `seen`, at every level; `size`: its params and tokens, or nothing. Raises UserError where these
    cannot carry one."""
    model = fit_loss(seen, **size)
    at = model.at([target.compute], *size.values())
    bounds = {level: model.combination.interval(at, level) for level in LEVELS}
    held = [bool(low[0] <= target.loss <= high[0]) for _, low, high in bounds.values()]
    predicted, low, high = (float(values[0]) for values in bounds[0.9])
    half, error = 0.5 * math.log(high / low), math.log(predicted / target.loss)
    return {"kind": kind, "target": target.name, "gap": gap, "error": error, "held": held, "half": half}


def own(folder: Path) -> list[dict[str, Any]]:
    kinds, results = read_runs(folder)
    rows = []
    for what in (None, *sorted(results[0]["loss_by_modality"])):
        kind = f"own, {what} alone" if what else "own, all tokens"
        runs = [as_run(result, kinds, what) for result in results]
        for target in {run.compute: run for run in runs}.values():
            made = set()
            for gap in GAPS:
                seen = [run for run in runs if run.compute <= target.compute / gap]
                if len({run.compute for run in seen}) >= 3 and len(seen) not in made:
                    made.add(len(seen))
                    size = {"target_params": target.params, "target_tokens": target.tokens}
                    rows.append(judged(kind, target, gap, seen, size))
    return rows


def public(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for corpus in CORPORA:
        runs = load(folder, corpus, OWN_LOSS[corpus])
        for target, gap in itertools.product([run for run in runs if run.compute >= SMALLEST_TARGET], GAPS[:2]):
            for mode, kind in (("family", "one line"), ("all", "all runs")):
                with contextlib.suppress(UserError):
                    rows.append(judged(f"public, {kind}", target, gap, *seen_for(runs, target, gap, mode)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="*", default=sorted(RECORDED.glob("*.json")))
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coverage.json"))
    options = parser.parse_args()
    rows = [row for folder in options.runs for row in own(folder)]
    if options.data.is_dir():
        rows += public(options.data)
    kinds = sorted({row["kind"] for row in rows})
    print(f"{'':24}{'n':>5}{'error':>8}{'half':>8}" + "".join(f"{level:>7.0%}" for level in LEVELS))
    for kind in [*kinds, "everything"]:
        some = [row for row in rows if kind in (row["kind"], "everything")]
        held = np.mean([row["held"] for row in some], axis=0)
        error, half = np.mean([abs(row["error"]) for row in some]), np.median([row["half"] for row in some])
        print(f"{kind:24}{len(some):5}{error:8.1%}{half:8.1%}" + "".join(f"{share:7.0%}" for share in held))
    write_json(options.out, rows)


if __name__ == "__main__":
    main()
