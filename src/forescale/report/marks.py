"""What the figures are drawn with: laws, intervals, runs, and the compute axis that they share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from forescale.report import style
from forescale.report.read import ForecastFile, RunFolder
from forescale.report.style import PAPER

Json = dict[str, Any]


def finite_curve(curve: list[Json]) -> list[Json]:
    return [p for p in curve if None not in (p.get("compute"), p.get("predicted"))]


def span(folder: RunFolder, room: float = 4.0) -> tuple[float, float]:
    """Limits of the compute axis, with room on the right for the target's markers."""
    values = [r.compute for r in folder.ladder if r.compute]
    values += [f.payload["target"]["flops"] for f in folder.forecasts if (f.payload.get("target") or {}).get("flops")]
    if folder.target is not None and folder.target.compute:
        values.append(folder.target.compute)
    return (min(values) / 2, max(values) * room) if values else (1.0, 10.0)


def law_line(
    ax: Axes, curve: list[Json], colour: str, alpha: float = 0.13, from_compute: float = 0.0, width: float = 1.4
) -> None:
    """Law line with its interval; dashed where it extrapolates."""
    points = finite_curve(curve)
    if not points:
        return
    x, y = np.array([p["compute"] for p in points]), np.array([p["predicted"] for p in points])
    fitted = x <= from_compute * 1.0001
    ax.plot(x[fitted], y[fitted], color=colour, lw=width, zorder=3)
    start = max(int(fitted.sum()) - 1, 0)
    ax.plot(x[start:], y[start:], color=colour, lw=width, ls=(0, (4, 2)), zorder=3)
    banded = [p for p in points if p.get("low") is not None and p.get("high") is not None]
    if banded:
        xs = [p["compute"] for p in banded]
        ax.fill_between(
            xs, [p["low"] for p in banded], [p["high"] for p in banded], color=colour, alpha=alpha, lw=0, zorder=1
        )


def error_bar(ax: Axes, x: float, entry: Json, index: int, size: float = 6.5) -> None:
    """Predicted value with its interval; hollow where it may not be called a forecast."""
    if entry["predicted"] is None:
        return
    colour = style.cap_colour(index)
    sealed = entry.get("is_forecast") or entry.get("pending")
    if entry["interval"] and None not in entry["interval"]:
        ax.plot([x, x], entry["interval"], color=colour, lw=2.2, solid_capstyle="butt", zorder=5)
    ax.plot(
        [x],
        [entry["predicted"]],
        marker=style.cap_marker(index),
        ms=size,
        mfc=colour if sealed else PAPER,
        mec=colour if not sealed else PAPER,
        mew=1.2 if not sealed else 0.8,
        ls="none",
        zorder=7,
    )


def law_of(forecast: ForecastFile, modality: str | None) -> Json:
    if modality is None:
        return forecast.payload["loss"]
    return (forecast.payload.get("loss_by_modality") or {}).get(modality) or {}


def used_runs(forecast: ForecastFile, modality: str | None = None) -> list[tuple[float, float]]:
    """(compute, loss) of the runs that a forecast was fitted to."""
    pairs = []
    for run in forecast.payload.get("runs") or []:
        value = run.get("loss") if modality is None else (run.get("loss_by_modality") or {}).get(modality)
        if run.get("compute") and value:
            pairs.append((run["compute"], value))
    return pairs


def law_at(curve: list[Json], compute: float) -> float | None:
    """The law at `compute`, interpolated in log-log; None outside the curve."""
    points = finite_curve(curve)
    if not points or not points[0]["compute"] * 0.999 <= compute <= points[-1]["compute"] * 1.001:
        return None
    x, y = np.log([p["compute"] for p in points]), np.log([p["predicted"] for p in points])
    return float(np.exp(np.interp(math.log(compute), x, y)))


def ladder_points(folder: RunFolder, modality: str | None = None) -> list[tuple[float, float]]:
    pairs = []
    for rung in folder.ladder:
        value = rung.result["loss"] if modality is None else (rung.result.get("loss_by_modality") or {}).get(modality)
        if value is not None and rung.compute:
            pairs.append((rung.compute, value))
    return pairs


def columns_of(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [p[0] for p in pairs], [p[1] for p in pairs]


def all_sources(folder: RunFolder) -> tuple[str, ...]:
    paths = [r.path for r in folder.rungs] + [f.path for f in folder.forecasts]
    return tuple(paths + ([folder.target.path] if folder.target else []))
