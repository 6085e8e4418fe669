"""The figures that ask whether the law can be trusted: irreducible loss, modalities, local exponents."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forescale.report import style, words
from forescale.report.marks import (
    all_sources,
    columns_of,
    error_bar,
    ladder_points,
    law_line,
    law_of,
    span,
    used_runs,
)
from forescale.report.read import RunFolder
from forescale.report.style import INK, MUTED, OBSERVED, PAPER, RULE, Drawing

Json = dict[str, Any]


def floors(folder: RunFolder, summary: Json) -> Drawing | None:
    """How each forecast moves with the irreducible loss, and how well each value of it fits the ladder."""
    series = []
    for i, entry in enumerate(summary["loss"]["forecasts"]):
        points = [
            p
            for p in entry["floor_sensitivity"]
            if None not in (p.get("floor"), p.get("predicted"), p.get("fit_error"))
        ]
        if points:
            series.append((i, entry, sorted(points, key=lambda p: p["floor"])))
    if not series:
        return None
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i, entry, points in series:
            looks: Json = {"color": style.cap_colour(i), "marker": style.cap_marker(i), "ms": 3.5, "lw": 1.2}
            x = [p["floor"] for p in points]
            left.plot(x, [p["predicted"] for p in points], label=f"from 1/{words.ratio(entry['cap_ratio'])}", **looks)
            right.plot(x, [100 * p["fit_error"] for p in points], **looks)
        observed = folder.observed.result["loss"] if folder.observed else None
        if observed is not None:
            left.axhline(observed, color=OBSERVED, lw=1.8, label=f"observed: {observed:.3f}")
        left.set_title("Forecast, by assumed irreducible loss")
        left.set_ylabel("predicted loss, nats per token")
        left.legend(loc="best")
        right.set_title("How well each fits the ladder")
        right.set_ylabel("error of the fit, %")
        right.set_ylim(bottom=0)
        for ax in (left, right):
            ax.set_xlabel("irreducible loss, nats per token")
            ax.grid(axis="y")
        spans = []
        for _, entry, points in series:
            values = [p["predicted"] for p in points]
            spans.append(f"from 1/{words.ratio(entry['cap_ratio'])}: {min(values):.3f} to {max(values):.3f}")
        caption = (
            "The irreducible loss is what small runs identify least. Where values of it fit the ladder alike (right) "
            "but predict differently (left), the ladder could not have told them apart."
        )
        title = "How the forecast moves with the irreducible loss"
        return style.drawing(
            figure, "floors", title, "; ".join(spans) + ".", caption, tuple(f.path for f in folder.forecasts)
        )


def by_modality(folder: RunFolder, summary: Json) -> Drawing | None:
    """Loss by modality; on the right the local exponents, hollow where not steady."""
    groups: Json = summary["loss"]["by_modality"]
    exponents = summary["loss"]["local_exponents"]
    series = {"all": exponents, **{name: group["local_exponents"] for name, group in groups.items()}}
    series = {name: values for name, values in series.items() if values}
    panels = len(groups) + bool(series)
    if not panels or not folder.ladder:
        return None
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 3.1), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False).ravel()
        for ax, (name, group) in zip(axes, groups.items()):
            _modality_panel(ax, folder, name, group)
        if series:
            _exponent_panel(axes[-1], folder, series)
        title = "Loss by modality, and local exponents of the loss"
        caption = (
            "Left: the loss on tokens of each modality, with the same forecasts (colours as above). Right: the slope "
            "against 6 N D between rungs 2.5 times apart or more, each over its stretch of compute. A law assumes that slopes "
            "drift slowly; one that is more than a quarter off the median of its line has a hollow marker."
        )
        parts = [f"{name}: observed {words.loss(group['observed'])}" for name, group in groups.items()]
        unsteady = sum(not e["steady"] for values in series.values() for e in values)
        description = f"{'; '.join(parts)}. {words.plural(unsteady, 'local exponent')} not steady."
        return style.drawing(figure, "loss-by-modality", title, description, caption, all_sources(folder))


def _modality_panel(ax: Axes, folder: RunFolder, name: str, group: Json) -> None:
    low, high = span(folder, 12)
    style.compute_axis(ax, low, high, every=2 if math.log10(high / low) > 4.5 else 1)
    ax.plot(*columns_of(ladder_points(folder, name)), "o", ms=3.6, mfc=MUTED, mec=PAPER, mew=0.4, zorder=3)
    caps = {f.cap_ratio: i for i, f in enumerate(folder.forecasts)}
    for entry in group["forecasts"]:
        i = caps[entry["cap_ratio"]]
        law = law_of(folder.forecasts[i], name)
        top = max((c for c, _ in used_runs(folder.forecasts[i], name)), default=0.0)
        law_line(ax, law.get("curve") or [], style.cap_colour(i), alpha=0.1, from_compute=top, width=1.1)
        where = (folder.forecasts[i].payload.get("target") or {}).get("flops")
        if where:
            error_bar(ax, where * 10 ** (0.22 * (i + 1)), entry, i, 4.5)
    if folder.observed is not None and folder.observed.compute and group["observed"] is not None:
        ax.plot([folder.observed.compute], [group["observed"]], "o", ms=7.5, mfc=OBSERVED, mec=PAPER, mew=1, zorder=8)
    ax.set_title(name)
    ax.set_ylabel("loss, nats per token")
    ax.grid(axis="y")


def _exponent_panel(ax: Axes, folder: RunFolder, series: dict[str, list[Json]]) -> None:
    low, high = span(folder)
    looks = {"all": (INK, "-"), "text": (style.CAPS[0], "--"), "vision": (style.CAPS[1], ":")}
    for name, values in series.items():
        colour, line = looks.get(name, (RULE, "-."))
        known = [e for e in values if None not in (e.get("exponent"), e.get("from"), e.get("to"))]
        middle = [math.sqrt(e["from"] * e["to"]) for e in known]
        slopes = [e["exponent"] for e in known]
        ax.plot(middle, slopes, color=colour, ls=line, lw=1.2, label=name, zorder=2)
        for x, e in zip(middle, known):
            ax.plot([e["from"], e["to"]], [e["exponent"]] * 2, color=colour, lw=0.6, alpha=0.5)
            ax.plot(
                [x], [e["exponent"]], "o", ms=5.5, mfc=colour if e["steady"] else PAPER, mec=colour, mew=1.1, zorder=4
            )
    style.compute_axis(ax, low, high, every=2 if math.log10(high / low) > 4.5 else 1)
    ax.set_title("local exponents")
    ax.set_ylabel("d log loss / d log compute")
    ax.grid(axis="y")
    ax.legend(loc="best", handlelength=2.2)
