"""The figures about the final loss: the forecast figure, and each forecast alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from forescale.core.errors import UserError
from forescale.report import style, words
from forescale.report.collect import summarise
from forescale.report.marks import (
    all_sources,
    columns_of,
    error_bar,
    ladder_points,
    law_at,
    law_line,
    law_of,
    span,
    used_runs,
)
from forescale.report.read import RunFolder, read
from forescale.report.style import FAINT, MUTED, OBSERVED, PAPER, Drawing

Json = dict[str, Any]


def _main_panel(ax: Axes, folder: RunFolder, entries: list[Json]) -> None:
    low, high = span(folder)
    style.compute_axis(ax, low, high)
    ax.tick_params(labelbottom=False)
    ax.set_xlabel("")
    for i, forecast in enumerate(folder.forecasts):
        top = max((c for c, _ in used_runs(forecast)), default=0.0)
        law_line(ax, forecast.payload["loss"].get("curve") or [], style.cap_colour(i), from_compute=top)
    ax.plot(*columns_of(ladder_points(folder)), "o", ms=4.2, mfc=MUTED, mec=PAPER, mew=0.5, zorder=4)
    at = folder.observed.compute if folder.observed else None
    for i, entry in enumerate(entries):
        where = entry["target_flops"] or at
        if where:
            error_bar(ax, where * 1.28 ** (i + 1), entry, i, 5.5)
    if folder.observed is not None and at:
        ax.plot([at], [folder.observed.result["loss"]], "o", ms=9, mfc=OBSERVED, mec=PAPER, mew=1.2, zorder=8)
    ax.set_ylabel("loss, nats per token")
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="y")
    _bits_axis(ax, folder)
    ax.set_title("Final loss against compute")
    handles = [ax.plot([], [], "o", ms=4.2, mfc=MUTED, mec=PAPER, label="ladder run (each seed)")[0]]
    for i, entry in enumerate(entries):
        sealed = entry["is_forecast"] or entry["pending"]
        text = ("forecast " if sealed else "not a forecast, ") + style.cap_label(entry["cap_ratio"])
        colour = style.cap_colour(i)
        handles.append(
            ax.plot(
                [], [], color=colour, marker=style.cap_marker(i), ms=5, mfc=colour if sealed else PAPER, label=text
            )[0]
        )
    if folder.observed is not None:
        handles.append(ax.plot([], [], "o", ms=8, mfc=OBSERVED, mec=PAPER, label="target, observed")[0])
    ax.legend(handles=handles, loc="upper right", handlelength=1.6, labelspacing=0.5)


def _bits_axis(ax: Axes, folder: RunFolder) -> None:
    """A second axis in bits per byte, where the runs agree on the factor (they share tokenizer and validation set)."""
    runs = [*folder.ladder, *([folder.observed] if folder.observed else [])]
    factors = [r.result["bits_per_byte"] / r.result["loss"] for r in runs if r.result.get("bits_per_byte")]
    if not factors or max(factors) / min(factors) > 1.01:
        return
    factor = float(np.median(factors))

    def to_bits(nats: Any) -> Any:
        return nats * factor

    def to_nats(bits: Any) -> Any:
        return bits / factor

    other = ax.secondary_yaxis("right", functions=(to_bits, to_nats))
    other.set_ylabel("bits per byte")
    other.yaxis.set_major_locator(MaxNLocator(6))
    other.spines["right"].set_visible(True)


def _residual_panel(ax: Axes, folder: RunFolder, entries: list[Json]) -> None:
    low, high = span(folder)
    style.compute_axis(ax, low, high)
    ax.axhline(0, color=MUTED, lw=0.8)
    for i, (forecast, entry) in enumerate(zip(folder.forecasts, entries)):
        curve, colour = forecast.payload["loss"].get("curve") or [], style.cap_colour(i)
        for compute, observed in used_runs(forecast):
            predicted = law_at(curve, compute)
            if predicted is not None:
                ax.plot(
                    [compute * 1.07 ** (i - 1)],
                    [100 * (predicted / observed - 1)],
                    style.cap_marker(i),
                    ms=3,
                    color=colour,
                    mew=0,
                    zorder=3,
                )
        if entry["relative_error"] is not None and folder.observed is not None and folder.observed.compute:
            x, scale = folder.observed.compute * 1.28**i, 100 / entry["observed"]
            if entry["interval"] and None not in entry["interval"]:
                ax.plot(
                    [x, x], [scale * v - 100 for v in entry["interval"]], color=colour, lw=2.2, solid_capstyle="butt"
                )
            sealed = entry["is_forecast"]
            ax.plot(
                [x],
                [100 * entry["relative_error"]],
                style.cap_marker(i),
                ms=5.5,
                mfc=colour if sealed else PAPER,
                mec=PAPER if sealed else colour,
                mew=0.8 if sealed else 1.2,
                zorder=5,
            )
    ax.set_ylabel("law − observed, %")
    ax.yaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    ax.grid(axis="y")


def _target_panel(ax: Axes, folder: RunFolder, entries: list[Json]) -> None:
    """The target's place enlarged: every forecast, its interval and its baselines beside what was observed."""
    ax.set_title("At the target, enlarged")
    made = [e for e in entries if e["predicted"] is not None]
    core = [
        v for e in made for v in [e["predicted"], *(e["interval"] or []), e["baseline_loglog_line"], e["observed"]] if v
    ]
    if not core:
        ax.set_axis_off()
        ax.text(0, 0.9, "no forecast in this run", transform=ax.transAxes, color=MUTED, va="top")
        return
    lo, hi = min(core), max(core)
    room = max((hi - lo) * 0.14, hi * 0.004)
    lo, hi = lo - room, hi + room * 1.6
    ax.set_ylim(lo, hi)
    ax.set_xlim(-0.5, len(entries) - 0.5)
    observed = folder.observed.result["loss"] if folder.observed else None
    if observed is not None:
        ax.axhline(observed, color=OBSERVED, lw=1.8, zorder=2)
    for i, entry in enumerate(entries):
        error_bar(ax, i, entry, i, 7.5)
        if entry["predicted"] is not None:
            below = observed is not None and entry["predicted"] < observed
            ax.annotate(words.loss(entry["predicted"]), (i, entry["predicted"]), (8, -9 if below else 4), fontsize=8,
                        textcoords="offset points", color=style.cap_colour(i))  # fmt: skip
        for key, marker in (("baseline_last_rung", "_"), ("baseline_loglog_line", "x")):
            value = entry[key]
            if value is None:
                continue
            if value > hi:
                ax.annotate(f"{value:.2f} ↑", (i, hi), (0, -2), textcoords="offset points", ha="center", va="top",
                            fontsize=7.5, color=MUTED)  # fmt: skip
                ax.plot([i - 0.2, i + 0.2], [hi, hi], color=MUTED, lw=1.4, clip_on=False)
            else:
                ax.plot([i], [value], marker, ms=15 if marker == "_" else 6, color=MUTED, mew=1.3, zorder=4)
    if observed is not None:
        ax.plot([], [], color=OBSERVED, lw=1.8, label=f"observed: {observed:.3f}")
    ax.plot([], [], "_", ms=12, color=MUTED, mew=1.3, label="baseline: the last rung’s loss")
    ax.plot([], [], "x", ms=6, color=MUTED, mew=1.3, label="baseline: straight log-log line")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), handlelength=1.2, labelspacing=0.4)
    ax.set_xticks(range(len(entries)), [f"1/{words.ratio(e['cap_ratio'])}" for e in entries])
    ax.set_xlabel("largest run’s share of the target’s compute")
    ax.set_ylabel("loss, nats per token")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.2f}"))
    ax.grid(axis="y")


def _hero(folder: RunFolder, summary: Json) -> Figure:
    entries = summary["loss"]["forecasts"]
    figure = Figure(figsize=(style.WIDTH, 5.1))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.75, 1), height_ratios=(3.1, 1), hspace=0.1, wspace=0.36,
                               left=0.06, right=0.985, top=0.94, bottom=0.09)  # fmt: skip
    _main_panel(figure.add_subplot(grid[0, 0]), folder, entries)
    _residual_panel(figure.add_subplot(grid[1, 0]), folder, entries)
    whole = grid[:, 1].subgridspec(2, 1, height_ratios=(6, 1), hspace=0)
    _target_panel(figure.add_subplot(whole[0]), folder, entries)
    return figure


def _hero_words(summary: Json) -> tuple[str, str]:
    title = "Final loss against training compute: ladder runs, forecasts and the target"
    return title, " ".join(entry["sentence"] for entry in summary["loss"]["forecasts"]) or "No forecast in this run."


def loss_scaling(folder: RunFolder, summary: Json) -> Drawing | None:
    if not folder.ladder and folder.observed is None:
        return None
    with style.house_style():
        title, description = _hero_words(summary)
        caption = (
            "Every ladder run that ended well is a grey dot, every seed its own. Lines are the laws, solid where "
            "fitted and dashed where they extrapolate, shaded with their intervals; a hollow marker is not a "
            "forecast. Markers stand a little to the right of the target so that they can be told apart. Below: law "
            "minus observation, for the runs that each law was fitted to (small) and for the target (large, with the "
            "interval)."
        )
        return style.drawing(_hero(folder, summary), "loss-scaling", title, description, caption, all_sources(folder))


def readme_figure(run_dir: Path, path: Path, recipe: str = "") -> None:
    """Writes the loss figure on its own, SVG or PNG by `path`'s suffix. UserError for another suffix or no runs."""
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"{path} should end in .svg or .png.")
    folder = read(run_dir)
    if not folder.ladder and folder.observed is None:
        raise UserError(f"{run_dir} holds no run that ended well, so there is nothing to draw.")
    summary = summarise(folder, recipe)
    with style.house_style():
        style.save(_hero(folder, summary), path, *_hero_words(summary))


def _one_forecast(ax: Axes, folder: RunFolder, index: int, entry: Json, modality: str | None = None) -> None:
    forecast, colour = folder.forecasts[index], style.cap_colour(index)
    law, used = law_of(forecast, modality), used_runs(forecast, modality)
    low, high = span(folder)
    style.compute_axis(ax, low, high, every=2 if math.log10(high / low) > 4.5 else 1)
    ax.plot(*columns_of(ladder_points(folder, modality)), "o", ms=3.6, mfc="none", mec=FAINT, mew=0.8, zorder=2)
    ax.plot(*columns_of(used), style.cap_marker(index), ms=4.2, mfc=colour, mec=PAPER, mew=0.4, zorder=4)
    top = max((c for c, _ in used), default=0.0)
    law_line(ax, law.get("curve") or [], colour, from_compute=top)
    where = entry.get("target_flops") or (forecast.payload.get("target") or {}).get("flops")
    if where and top and entry["baseline_last_rung"] is not None:
        ax.plot([top, where], [entry["baseline_last_rung"]] * 2, color=MUTED, lw=0.9, ls=(0, (1, 1.5)), zorder=2)
    _loglog_line(ax, used, where, entry["baseline_loglog_line"])
    if where:
        error_bar(ax, where, entry, index, 6)
    if folder.observed is not None and folder.observed.compute and entry["observed"] is not None:
        ax.plot([folder.observed.compute], [entry["observed"]], "o", ms=7, mfc=OBSERVED, mec=PAPER, mew=1, zorder=8)
    ax.grid(axis="y")


def _loglog_line(ax: Axes, used: list[tuple[float, float]], where: float | None, value: float | None) -> None:
    """The baseline's line, fitted again, and drawn only if that gives the value that the forecast recorded."""
    if not where or value is None or len({c for c, _ in used}) < 2:
        return
    x, y = np.log([c for c, _ in used]), np.log([v for _, v in used])
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([np.exp(x.min()), where])
    line = np.exp(intercept + slope * np.log(ends))
    if abs(line[1] / value - 1) < 0.005:
        ax.plot(ends, line, color=MUTED, lw=0.9, ls=(0, (5, 3)), zorder=2)
    ax.plot([where], [value], "x", ms=5, color=MUTED, mew=1.1, zorder=6)


def _headings(ax: Axes, entry: Json, index: int) -> None:
    ax.set_title(f"From 1/{words.ratio(entry['cap_ratio'])} of the compute", color=style.cap_colour(index), pad=18)
    if entry["relative_error"] is not None:
        held = {True: "inside the interval", False: "outside the interval", None: "no interval"}[
            entry["inside_interval"]
        ]
        line = f"{words.error_words(entry['relative_error'])}, {held}"
        line = line if entry["is_forecast"] else f"not a forecast; {line}"
    else:
        line = "no outcome yet" if entry["predicted"] is not None else "no forecast"
    ax.text(0, 1.03, line, transform=ax.transAxes, fontsize=8, color=MUTED)


def each_forecast(folder: RunFolder, summary: Json) -> Drawing | None:
    entries = summary["loss"]["forecasts"]
    if not entries:
        return None
    with style.house_style():
        columns = min(len(entries), 3)
        rows = math.ceil(len(entries) / columns)
        figure = Figure(figsize=(style.WIDTH, 3.0 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for i, entry in enumerate(entries):
            _one_forecast(axes[i], folder, i, entry)
            _headings(axes[i], entry, i)
        for ax in axes[len(entries) :]:
            ax.set_axis_off()
        for ax in axes[::columns]:
            ax.set_ylabel("loss, nats per token")
        caption = (
            "What each forecast was allowed to see: filled runs were used, hollow ones were held back. Baselines in "
            "grey: the last rung’s loss carried on (dotted) and the straight line in log-log (dashed, cross at the "
            "target). Green: observed."
        )
        title = "Each loss forecast with only the runs that it was fitted to"
        description = " ".join(e["sentence"] for e in entries)
        return style.drawing(figure, "loss-each-forecast", title, description, caption, all_sources(folder))
