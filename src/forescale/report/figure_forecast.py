"""The figure of `forescale forecast --runs`: a stranger's runs, the law through them, its interval and both baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from forescale.report import style, words
from forescale.report.marks import law_line
from forescale.report.style import MUTED, PAPER


def draw_forecast(table: Mapping[str, Any], path: Path) -> None:
    """Writes SVG or PNG, by `path`'s suffix. `table` is forecast.verb.forecast_table's."""
    runs, target, level = table["runs"], table["target"]["flops"], f"{table['interval_level']:.0%}"
    largest, colour = table["largest_run"], style.cap_colour(0)
    low, high = table["interval"]
    with style.house_style():
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        ax = figure.subplots()
        bottom, top = min(run["compute"] for run in runs) / 2, target * 3
        style.compute_axis(ax, bottom, top, every=2 if math.log10(top / bottom) > 9 else 1)
        law_line(ax, table["curve"], colour, from_compute=largest)
        ax.plot(
            [run["compute"] for run in runs],
            [run["loss"] for run in runs],
            "o",
            ms=4.5,
            mfc=MUTED,
            mec=PAPER,
            mew=0.5,
            zorder=4,
            label=f"{words.plural(len(runs), 'run')}",
        )
        ax.plot([target, target], [low, high], color=colour, lw=2.2, solid_capstyle="butt", zorder=5)
        said = f"forecast {table['predicted']:.4g} ({level}: {low:.4g} to {high:.4g})"
        ax.plot([target], [table["predicted"]], "o", ms=6.5, mfc=colour, mec=PAPER, mew=0.8, zorder=7, label=said)
        line, last = table["baseline_loglog_line"], table["baseline_last_rung"]
        ax.plot([target], [line], "x", ms=6, color=MUTED, mew=1.2, zorder=6, label=f"log-log line {line:.4g}")
        ax.plot([target], [last], "_", ms=9, color=MUTED, mew=1.4, zorder=6, label=f"last rung {last:.4g}")
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(MaxNLocator(6))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylabel("loss")
        ax.grid(axis="y")
        ax.legend(loc="upper right")
        title = f"Loss at {words.scientific(target)} FLOPs, {table['cap_ratio']:.3g} times the largest run"
        ax.set_title(title)
        style.save(figure, path, title, f"{said}; log-log line {line:.4g}; last rung {last:.4g}.")
