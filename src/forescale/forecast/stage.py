"""Stage `forecast`: from the rungs of one nested ladder to a sealed forecast of the target, before the target has begun."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forescale.core.artifacts import Stage, read_json
from forescale.core.config import to_json
from forescale.core.errors import UserError
from forescale.forecast.capability import forecast_capability
from forescale.forecast.drift import predict_band
from forescale.forecast.in_context import InContext, judge
from forescale.forecast.in_context import copying as in_context_score
from forescale.forecast.laws import Points, make_cells
from forescale.forecast.loss import forecast_loss
from forescale.forecast.parts import split
from forescale.forecast.repetition import read_again, warning
from forescale.forecast.runs import Run
from forescale.forecast.seal import seal


@dataclass(frozen=True)
class ForecastConfig:
    """The target as planned (params: active parameters), runs that were given up before (name and why), and errors per decade of
    laws on recorded ladders of this family (law and error, for losses of all tokens)."""

    cap: float
    target_flops: float
    target_params: float
    target_tokens: float
    target_steps: int | None = None
    exclusions: tuple[tuple[str, str], ...] = ()
    level: float = 0.9
    believed: tuple[tuple[str, float], ...] = ()


def make_forecast(config: ForecastConfig, inputs: Mapping[str, Path], out_dir: Path) -> None:
    """Inputs: `data`, `shards`, and the rungs by name. Runs that diverged are excluded; so decided before any is seen."""
    kinds, shards = source_kinds(inputs["data"]), read_json(inputs["shards"] / "shards.json")
    exclusions = [{"name": name, "why": why} for name, why in config.exclusions]
    results, rows = [], []
    for name, folder in inputs.items():
        if name in ("data", "shards"):
            continue
        result = read_json(folder / "result.json")
        if result["status"] != "ok":
            exclusions.append({"name": name, "why": "; ".join(result["notes"]) or "the run failed"})
            continue
        results.append({**result, "loss_by_part": split(result, kinds)})
        rows += ability_rows(folder, result)
    if len({result["compute"] for result in results}) < 3:
        raise UserError(
            f"only {len(results)} runs of the ladder below 1/{config.cap:g} of the target ended well, and a law needs three sizes; "
            "look at their result.json, then run again or raise the target's compute."
        )
    at = Points.of([config.target_flops], config.target_params, config.target_tokens)
    whole = [as_run(result, kinds) for result in results]
    copying = judge(make_cells(whole)[0], at)
    ladder_flops = sum(result["compute"] for result in results)
    largest_tokens = max(result["tokens"] for result in results)

    def doubts(only: str | None = None) -> list[str]:
        again = read_again(shards, largest_tokens, config.target_tokens, only)
        formless = [copying.says] if copying.status == "forms beyond the ladder" else []
        return formless + ([warning(again, shards)] if again else [])

    modalities = sorted(set.intersection(*(set(result["loss_by_modality"]) for result in results)))
    keys = ("name", "seed", "compute", "params", "tokens", "loss", "loss_by_modality", "loss_by_part", "in_context")
    payload = {
        "kind": "forecast",
        "cap": config.cap,
        "cap_ratio": config.target_flops / max(result["compute"] for result in results),
        "ladder_share": ladder_flops / config.target_flops,
        "target": {"flops": config.target_flops, "params": config.target_params, "tokens": config.target_tokens},
        "runs": [{key: result[key] for key in keys} for result in results],
        "exclusions": exclusions,
        "in_context": to_json(copying),
        "read_again": read_again(shards, largest_tokens, config.target_tokens),
        "loss": _loss(whole, config, copying, doubts(), dict(config.believed)),
        "loss_by_modality": {
            m: _loss([as_run(r, kinds, m) for r in results], config, copying, doubts(m)) for m in modalities
        },
        "capability": forecast_capability(
            rows,
            config.target_flops,
            config.target_params,
            config.target_tokens,
            level=config.level,
            believed=dict(config.believed),
            sudden=copying.sudden,
        )
        if rows
        else [],
        "band": predict_band(
            results,
            config.target_flops,
            config.target_params,
            config.target_tokens,
            target_steps=config.target_steps,
        ),
    }
    seal(payload, out_dir / "forecast.json")


def source_kinds(data: Path) -> dict[str, tuple[str, str]]:
    """Modality and kind of every source of prepared data."""
    sources = read_json(data / "data.json")["sources"]
    return {source["name"]: (source["modality"], source["kind"]) for source in sources}


def as_run(result: Mapping[str, Any], kinds: Mapping[str, tuple[str, str]], modality: str | None = None) -> Run:
    """A rung's result.json as the forecaster sees it: its loss of all tokens, or of one modality, with its parts."""
    return Run(
        result["name"],
        result["compute"],
        result["loss"] if modality is None else result["loss_by_modality"][modality],
        result["params"],
        result["tokens"],
        result["seed"],
        parts=split(result, kinds, modality),
        copying=in_context_score(result["in_context"]),
    )


def ability_rows(folder: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a run's capability.jsonl with what identifies the run, as `forecast_capability` takes them."""
    identity = {key: result[key] for key in ("name", "seed", "compute", "params", "tokens", "loss")}
    with (folder / "capability.jsonl").open() as file:
        return [{**json.loads(line), **identity} for line in file]


def _loss(
    runs: list[Run],
    config: ForecastConfig,
    copying: InContext,
    doubts: Sequence[str],
    believed: Mapping[str, float] | None = None,
) -> Any:
    forecast = forecast_loss(
        runs,
        config.target_flops,
        target_params=config.target_params,
        target_tokens=config.target_tokens,
        level=config.level,
        widening=copying.widening,
        believed=believed,
    )
    return to_json(replace(forecast, warnings=(*doubts, *forecast.warnings)))


STAGE = Stage("forecast", make_forecast, version=9)
