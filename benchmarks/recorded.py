"""The runs of a ladder and its target in one small file, so that laws can be tried without training anything.

    python -m benchmarks.recorded --run runs/overnight --out benchmarks/recorded/overnight-2.json
    python -m benchmarks.recorded --forecast benchmarks/recorded/overnight-2.json

The first keeps what the forecaster of losses sees of each run that ended well. The second prints what each law says of each part of
the target's loss from each nested ladder (problems added up), and what came: hindsight, since a law that is chosen so has seen its
answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from forescale.core.artifacts import read_json, write_json
from forescale.forecast.in_context import FORMED, has_formed
from forescale.forecast.intervals import IN_COMPUTE, fit_each
from forescale.forecast.laws import Cells, make_cells
from forescale.forecast.loss import fit_loss
from forescale.forecast.parts import laws_by_part
from forescale.forecast.runs import Run
from forescale.forecast.stage import as_run, source_kinds

RECORDED = Path(__file__).parent / "recorded"
KEPT = (
    *("name", "seed", "compute", "params", "tokens", "loss"),
    *("loss_by_modality", "loss_by_source", "repeated_by_source", "in_context"),
)
GAPS = (10, 100, 1000)


def read_runs(path: Path) -> tuple[dict[str, tuple[str, str]], list[dict[str, Any]]]:
    """(modality and kind of every source, results smallest first) of a run folder or a recorded file."""
    if path.is_file():
        found = read_json(path)
        kinds = {name: (modality, kind) for name, (modality, kind) in found["kinds"].items()}
        return kinds, [{**result, "weights": found["weights"]} for result in found["results"]]
    paths = [*path.glob("rungs/*/result.json"), *path.glob("target/result.json")]
    results = [result for result in map(read_json, paths) if result["status"] == "ok"]
    return source_kinds(path / "data"), sorted(results, key=lambda result: (result["compute"], result["seed"]))


def rounded(value: Any) -> Any:
    """Numbers to six digits: a hundredth of what a seed does."""
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def record(run: Path, out: Path) -> None:
    kinds, results = read_runs(run)
    kept = [{key: rounded(result[key]) for key in KEPT} for result in results]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {"kinds": kinds, "weights": results[0]["weights"], "results": kept})


def by_kind(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts with the sources of problems added up."""
    found: dict[str, Any] = {}
    for name, value in parts.items():
        kind = name.partition(":")[0]
        found[kind] = found[kind] + value if kind in found else value
    return found


def tell(seen: Sequence[Run], target: Run) -> None:
    """Prints what the laws of each part, fitted to `seen`, say of the target, if they can."""
    if len({run.compute for run in seen}) < 3:
        return
    cells, _ = make_cells(seen)
    at, _ = make_cells([target])
    came = by_kind(target.parts)
    joined = by_kind({name: np.exp(law.log_predict(at.points)[0]) for name, law in laws_by_part(cells).items()})
    model = fit_loss(seen, target_params=target.params, target_tokens=target.tokens)
    whole = model.predict([target.compute], target.params, target.tokens)[0]
    formed = has_formed(cells)
    print(
        f"from 1/{target.compute / cells.compute[-1]:,.0f}, {len(cells)} sizes, copying {'formed' if formed else 'not formed'}"
    )
    print(
        f"  forecast {whole:.4f}, came {target.loss:.4f}: {whole / target.loss - 1:+.2%}; sum of parts {sum(joined.values()):.4f}"
    )
    for name, values in by_kind(cells.parts).items():
        part = replace(cells, loss=values, parts={})
        says = f"all sizes: {laws(part, at)}"
        if formed:
            says += f"; sizes that copy: {laws(part.take(cells.copying >= FORMED), at)}"
        print(f"  {name:9} {joined[name]:.4f}, came {came[name]:.4f}; {says}")


def laws(cells: Cells, at: Cells) -> str:
    return ", ".join(f"{law.name} {np.exp(law.log_predict(at.points)[0]):.4f}" for law in fit_each(IN_COMPUTE, cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run folder to record")
    parser.add_argument("--out", type=Path, help="where to")
    parser.add_argument("--forecast", type=Path, nargs="*", default=[], help="recorded files or run folders")
    options = parser.parse_args()
    if (options.run is None) != (options.out is None):
        parser.error("--run and --out go together")
    if options.run:
        record(options.run, options.out)
    for path in options.forecast:
        kinds, results = read_runs(path)
        print(path)
        runs = [as_run(result, kinds) for result in results]
        ladders = [[run for run in runs if run.compute <= runs[-1].compute / gap] for gap in GAPS]
        for seen in (seen for i, seen in enumerate(ladders) if seen not in ladders[:i]):
            tell(seen, runs[-1])


if __name__ == "__main__":
    main()
