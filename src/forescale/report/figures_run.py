"""The figures about what the runs did: capability, loss curves against their band, and what each stage cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from forescale.forecast.drift import LOSS_SIDES
from forescale.report import style, words
from forescale.report.marks import all_sources, error_bar, law_line, span
from forescale.report.read import RunFolder, TrainingRun
from forescale.report.style import ALARM, INK, MUTED, OBSERVED, PAPER, Drawing

Json = dict[str, Any]


def capability(folder: RunFolder, summary: Json) -> Drawing | None:
    """One panel a family and bucket: mean −log pass rate against compute, every cap's law, and the target."""
    entries = summary["capability"]["forecasts"]
    if not entries:
        return None
    cells = list(dict.fromkeys((e["family"], e["bucket"]) for e in entries))
    with style.house_style():
        columns = min(4, len(cells))
        rows = math.ceil(len(cells) / columns)
        figure = Figure(figsize=(style.WIDTH, 2.15 * rows + 0.35), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for ax, cell in zip(axes, cells):
            _capability_panel(ax, folder, [e for e in entries if (e["family"], e["bucket"]) == cell])
        for i, ax in enumerate(axes):
            if i >= len(cells):
                ax.set_axis_off()
            elif i + columns < len(cells):
                ax.set_xlabel("")
            else:
                ax.tick_params(labelbottom=True)
            if i % columns == 0:
                ax.set_ylabel("mean −log pass rate, nats")
        figure.legend(handles=_legend(axes[0], folder, entries), loc="outside upper left", ncols=5, handlelength=1.4)
        title = "Capability against compute, by family and bucket"
        hits = [e["inside_interval"] for e in entries if e["inside_interval"] is not None]
        description = f"{sum(hits)} of {len(hits)} intervals for capability held what was observed."
        caption = (
            "Mean −log pass rate over a bucket’s problems, so 0 is always right and e to the minus y is the "
            "geometric mean pass rate. Buckets were fixed from ladder runs alone. A family that the forecaster "
            "declined is labelled so."
        )
        paths = (*(r.path for r in folder.rungs), *(f.path for f in folder.forecasts))
        return style.drawing(
            figure, "capability", title, description, caption, (*paths, "target") if folder.target else paths
        )


def _legend(ax: Axes, folder: RunFolder, entries: list[Json]) -> list[Any]:
    handles = [ax.plot([], [], "o", ms=4, mfc=MUTED, mec=PAPER, label="ladder run")[0]]
    for i, forecast in enumerate(folder.forecasts):
        if any(e["cap_ratio"] == forecast.cap_ratio for e in entries):
            label = f"from 1/{words.ratio(forecast.cap_ratio)}"
            handles.append(
                ax.plot([], [], color=style.cap_colour(i), marker=style.cap_marker(i), ms=4.5, label=label)[0]
            )
    if folder.observed is not None:
        handles.append(ax.plot([], [], "o", ms=6.5, mfc=OBSERVED, mec=PAPER, label="target, observed")[0])
    return handles


def _capability_panel(ax: Axes, folder: RunFolder, cell: list[Json]) -> None:
    low, high = span(folder, 12)
    style.compute_axis(ax, low, high, label="FLOPs", every=2 if math.log10(high / low) > 3.5 else 1)
    caps = {f.cap_ratio: i for i, f in enumerate(folder.forecasts)}
    points: dict[tuple[str, Any], tuple[float, float]] = {}
    declined = []
    for entry in cell:
        i = caps[entry["cap_ratio"]]
        forecast = folder.forecasts[i]
        item = next(
            c
            for c in forecast.payload["capability"]
            if (c.get("family"), c.get("bucket")) == (entry["family"], entry["bucket"])
        )
        for p in item.get("points") or []:
            if p.get("compute") and p.get("value") is not None:
                points[p.get("name"), p.get("seed")] = (p["compute"], p["value"])
        if entry["status"] != "forecast":
            declined.append(f"1/{words.ratio(entry['cap_ratio'])}")
            continue
        top = max((p["compute"] for p in item.get("points") or [] if p.get("compute")), default=0.0)
        law_line(ax, item.get("curve") or [], style.cap_colour(i), alpha=0.1, from_compute=top, width=1.1)
        where = (forecast.payload.get("target") or {}).get("flops")
        if where:
            error_bar(ax, where * 10 ** (0.24 * (i + 1)), entry, i, 4.5)
    if points:
        ax.plot(*zip(*points.values()), "o", ms=3, mfc=MUTED, mec=PAPER, mew=0.3, zorder=4)
    observed = next((e["observed"] for e in cell if e["observed"] is not None), None)
    if observed is not None and folder.observed is not None and folder.observed.compute:
        ax.plot([folder.observed.compute], [observed], "o", ms=6.5, mfc=OBSERVED, mec=PAPER, mew=0.9, zorder=8)
    ax.set_title(f"{style.plain(cell[0]['family'])}, {style.plain(cell[0]['bucket'])}", fontsize=8.5, pad=14)
    n = f"n = {cell[0]['n_problems']}"
    note = (
        f"{n}; no forecast" + ("" if len(declined) == len(cell) else f" from {', '.join(declined)}") if declined else n
    )
    ax.text(0, 1.03, note, transform=ax.transAxes, fontsize=7.5, color=ALARM if declined else MUTED)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.grid(axis="y")


def _curve(run: TrainingRun) -> tuple[list[float], list[float]]:
    points = [p for p in run.result.get("curve") or [] if p.get("fraction") is not None and p.get("loss") is not None]
    return [p["fraction"] for p in points], [p["loss"] for p in points]


def collapse(folder: RunFolder, summary: Json) -> Drawing | None:
    """Left: every curve over its own final loss. Right: the target's deviation from each forecast's."""
    runs = [r for r in folder.ladder if r.result.get("curve")]
    target = folder.target if folder.target is not None and folder.target.result.get("curve") else None
    bands = summary["watch"]["bands"]
    if not runs and target is None:
        return None
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 3.5), layout="constrained")
        left: Any
        if bands:
            parts: Any = figure.subfigures(1, 2, width_ratios=(1, 1.25))
            left, right = parts
            axes = right.subplots(len(bands), 1, sharex=True, squeeze=False).ravel()
            for i, (ax, band) in enumerate(zip(axes, bands)):
                _deviation_panel(ax, folder, i, band, last=i == len(bands) - 1)
            _alarm(axes, summary["watch"]["alarm"])
        else:
            left = figure.subfigures(1, 1)
        _collapse_panel(left.subplots(), runs, target)
        title = "Loss curves collapse, and the target’s curve against its predicted band"
        caption = (
            "Left: validation loss over final loss, against the fraction of the run; darker grey for more compute, "
            "green for the target. Curves of one family fall onto each other. Right: how far the target’s live curve "
            "ran from the one that each forecast had predicted, with the band; red marks the point at which an alarm "
            "was raised, if any."
        )
        return style.drawing(figure, "watch", title, watch_words(summary["watch"]), caption, all_sources(folder))


def watch_words(watch: Json) -> str:
    """What the watch found, in sentences."""
    if watch["target_status"] == "none":
        return "The target has not been run yet, so no curve was watched."
    found = [] if watch["alarm"] else ["No alarm was raised while the target trained."]
    for band in watch["bands"]:
        if band["n_points"]:
            at = band["sustained_exit_at"]
            left = "it was never left for long" if at is None else f"it was left lastingly at {at:.0%} of the run"
            share = f"{band['inside_share']:.0%} of {band['n_points']} points"
            found.append(f"The band from 1/{words.ratio(band['cap_ratio'])} held {share}; {left}.")
    return " ".join(found)


def alarm_words(alarm: Json | None) -> str:
    """The alarm that the run itself raised, or nothing."""
    if not alarm:
        return ""
    at, since = alarm.get("fraction"), alarm.get("since")
    text = "Alarm" + ("" if at is None else f" at {at:.0%} of the run")
    text += f": {alarm['direction']}" if alarm.get("direction") else ""
    text += f", since {since:.0%}" if since is not None else ""
    if alarm.get("direction") not in LOSS_SIDES:
        return text + "."
    bounds = [alarm.get("low"), alarm.get("high")]
    text += f"; loss {words.loss(alarm.get('loss'))}" if alarm.get("loss") is not None else ""
    return text + (f", band {words.loss(bounds[0])}–{words.loss(bounds[1])}." if None not in bounds else ".")


def _collapse_panel(ax: Axes, runs: list[TrainingRun], target: TrainingRun | None) -> None:
    top = 1.0
    for i, run in enumerate(runs):
        x, y = _curve(run)
        if not y:
            continue
        shade = 0.25 + 0.6 * (i + 1) / len(runs)
        ax.plot(x, np.array(y) / y[-1], color=MUTED, alpha=shade, lw=0.9, zorder=2)
        top = max(top, float(np.quantile(np.array(y) / y[-1], 0.97)))
    if target is not None:
        x, y = _curve(target)
        final = target.result.get("loss") if target.status == "ok" and not runs else (y[-1] if y else None)
        if y and final:
            ax.plot(x, np.array(y) / final, color=OBSERVED, lw=2, zorder=5)
            top = max(top, float(np.quantile(np.array(y) / final, 0.97)))
    ax.set_ylim(0.98, 1 + (top - 1) * 1.1 + 0.02)
    ax.set_xlim(0, 1.01)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("fraction of the run")
    ax.set_ylabel("loss ÷ the run’s final loss")
    ax.set_title("Collapse")
    ax.grid(axis="y")
    handles = [ax.plot([], [], color=MUTED, lw=1, label="ladder runs")[0]]
    if target is not None:
        handles.append(ax.plot([], [], color=OBSERVED, lw=2, label="target")[0])
    ax.legend(handles=handles, loc="upper right")


def _deviation_panel(ax: Axes, folder: RunFolder, index: int, band: Json, last: bool) -> None:
    colour = style.cap_colour(index)
    points = [
        p
        for p in (folder.forecasts[index].payload["band"] or {}).get("points") or []
        if None not in (p.get("fraction"), p.get("predicted"), p.get("low"), p.get("high"))
    ]
    x = [p["fraction"] for p in points]
    low, high = ([100 * (p[k] / p["predicted"] - 1) for p in points] for k in ("low", "high"))
    ax.fill_between(x, list(low), list(high), color=colour, alpha=0.15, lw=0)
    ax.axhline(0, color=colour, lw=1)
    seen = band["points"]
    ax.plot([p["fraction"] for p in seen], [100 * p["deviation"] for p in seen], color=OBSERVED, lw=1.6, zorder=4)
    out = [p for p in seen if not p["inside"]]
    ax.plot([p["fraction"] for p in out], [100 * p["deviation"] for p in out], "o", ms=3.5, color=ALARM, zorder=5)
    name = f"band from 1/{words.ratio(band['cap_ratio'])}" + (
        f", {words.level(band['level'])}" if band["level"] else ""
    )
    ax.text(0.005, 1.0, name, transform=ax.transAxes, fontsize=8, color=colour, va="bottom", weight="bold")
    if not seen:
        ax.text(0.5, 0.12, "target not run yet", transform=ax.transAxes, ha="center", color=MUTED)
    ax.set_xlim(0, 1.01)
    ax.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    ax.set_ylabel("target −\npredicted, %", fontsize=8)
    ax.grid(axis="y")
    if last:
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.set_xlabel("fraction of the run")


def _alarm(axes: Any, alarm: Json | None) -> None:
    fraction = alarm.get("fraction") if alarm else None
    if fraction is None:
        return
    for ax in axes:
        ax.axvline(fraction, color=ALARM, lw=1.2, ls=(0, (4, 2)))
    axes[0].text(fraction, 1.0, "alarm ", color=ALARM, weight="bold", ha="right", va="bottom",
                 transform=axes[0].get_xaxis_transform(), fontsize=8)  # fmt: skip


def cost(folder: RunFolder, summary: Json) -> Drawing | None:
    seconds = {stage: value for stage, value in summary["seconds"].items() if value > 0}
    if not seconds:
        return None
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 0.3 * len(seconds) + 0.75), layout="constrained")
        ax = figure.subplots()
        names = list(seconds)[::-1]
        values = [seconds[name] for name in names]
        ax.barh(names, values, color=[OBSERVED if n == "target" else MUTED for n in names], height=0.6)
        for i, value in enumerate(values):
            ax.annotate(
                words.duration(value),
                (value, i),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=INK,
            )
        ax.set_xlim(0, max(values) * 1.15)
        ax.set_xlabel("seconds of work (all ladder runs together)")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        text = "; ".join(f"{style.plain(n)}: {words.duration(v)}" for n, v in seconds.items())
        caption = "Seconds of work by stage, summed over ladder runs, which may have run side by side."
        return style.drawing(
            figure, "cost", "Time by stage", text, caption, tuple(row["path"] for row in summary["provenance"])
        )
