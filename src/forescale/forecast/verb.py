"""Behind `forescale forecast --runs my_runs.csv --target 1e21`: a stranger's runs in, a forecast out, as JSON or as
text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forescale.core.config import to_json
from forescale.forecast.loss import DEFAULT_LEVEL, forecast_loss
from forescale.forecast.runs import read_csv


def forecast_table(
    csv_path: Path | str,
    target_compute: float,
    target_params: float | None = None,
    target_tokens: float | None = None,
    level: float = DEFAULT_LEVEL,
) -> dict[str, Any]:
    """LossForecast (docs/artifacts.md) as plain JSON, with `target`, `runs`, `runs_file` and `largest_run`. Raises
    UserError."""
    runs = read_csv(csv_path)
    forecast = forecast_loss(
        runs, target_compute, target_params=target_params, target_tokens=target_tokens, level=level
    )
    largest = max(run.compute for run in runs)
    return {
        "runs_file": str(csv_path),
        "target": {"flops": float(target_compute), "params": target_params, "tokens": target_tokens},
        "runs": [{"name": run.name, "compute": run.compute, "loss": run.loss} for run in runs],
        "largest_run": largest,
        "cap_ratio": target_compute / largest,
        "ladder_share": sum(run.compute for run in runs) / target_compute,
        **to_json(forecast),
    }


def render_text(table: Mapping[str, Any]) -> str:
    """The forecast for people: what is said, how sure, what the baselines say, what to doubt."""
    low, high = table["interval"]
    level = f"{table['interval_level']:.0%}"
    lines = [
        f"target           {table['target']['flops']:.4g} FLOPs, {table['cap_ratio']:.3g} times the largest of "
        f"{table['n_runs']} runs",
        f"forecast loss    {table['predicted']:.4f}   {level} interval {low:.4f} to {high:.4f}",
        f"log-log line     {table['baseline_loglog_line']:.4f}   (baseline)",
        f"last rung        {table['baseline_last_rung']:.4f}   (baseline: the largest run's loss)",
        "",
        "law              weight  forecast",
    ]
    for member in table["ensemble"]:
        parameters = ", ".join(f"{name} = {value:.4g}" for name, value in member["parameters"].items())
        lines.append(
            f"{member['name']:16} {member['weight']:6.2f}  {member['predicted']:.4f}    {member['formula']}: "
            f"{parameters}"
        )
    lines += ["", "if the floor were"]
    lines += [
        f"  {row['floor']:8.4f}   the forecast would be {row['predicted']:.4f}, misfit {row['fit_error']:.2%}"
        for row in table["floor_sensitivity"]
    ]
    exponents = ", ".join(f"{row['exponent']:.3f}" for row in table["local_exponents"])
    lines += ["", f"local exponents  {exponents}"]
    if table["warnings"]:
        lines += ["", *(f"warning: {warning}" for warning in table["warnings"])]
    return "\n".join(lines) + "\n"
