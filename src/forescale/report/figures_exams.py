"""The figures about exams: scores against chance, languages, sight, reliability diagrams, and facts by date."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from forescale.report import style, words
from forescale.report.exams import against
from forescale.report.style import FAINT, INK, MUTED, PAPER, Drawing

Json = dict[str, Any]
CONDITIONS = {"normal": "pictures shown", "blank": "blanked", "shuffled": "shuffled"}
KINDS = {"pooled": "letters pooled", "top1": "top choice"}


@dataclass(frozen=True)
class Row:
    """One line of a dot plot: figures with "accuracy" and "interval" by series; a heading if there are none."""

    title: str
    series: Mapping[str, Json]
    chance: float | None = None
    note: str = ""


def _best(series: Mapping[str, Json]) -> float:
    return max((s["accuracy"] for s in list(series.values())[:1] if s.get("accuracy") is not None), default=-1.0)


def _dots(ax: Axes, rows: Sequence[Row], names: Sequence[str], notes: str = "") -> None:
    """Accuracy with its interval, one line a row and one mark a series; filled where clear of chance, chance as a tick."""
    high = 0.0
    step = 0.52 / max(len(names), 2)
    for y, row in enumerate(rows):
        if row.series:
            ax.axhline(y, color=style.RULE, lw=0.6, zorder=0)
        if row.chance:
            ax.plot([row.chance, row.chance], [y - 0.36, y + 0.36], color=INK, lw=1.3, solid_capstyle="butt", zorder=3)
            high = max(high, row.chance)
        for i, name in enumerate(names):
            found = row.series.get(name) or {}
            value, interval = found.get("accuracy"), found.get("interval")
            if value is None:
                continue
            at, colour = y + (i - (len(names) - 1) / 2) * step, style.cap_colour(i)
            if interval and None not in interval:
                ax.plot(interval, [at, at], color=colour, lw=1.6, solid_capstyle="butt", zorder=4)
            clear = against(interval, row.chance) in ("above", "below") or not row.chance
            ax.plot(
                [value], [at], style.cap_marker(i), ms=5, mfc=colour if clear else PAPER, mec=colour, mew=1.1, zorder=5
            )
            high = max(high, value, *(interval or []))
        if row.note:
            ax.text(1.01, y, row.note, transform=ax.get_yaxis_transform(), va="center", fontsize=7.5, color=MUTED)
    if notes:
        ax.text(1.01, -0.75, notes, transform=ax.get_yaxis_transform(), va="center", fontsize=7.5, color=MUTED)
    ax.set_yticks(range(len(rows)), [style.plain(words.clip(row.title, 44)) for row in rows])
    for tick, row in zip(ax.get_yticklabels(), rows):
        tick.set_fontweight("normal" if row.series else "bold")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, min(1.0, high * 1.06) if high else 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _dots_legend(figure: Figure, ax: Axes, names: Sequence[str], chance: bool) -> None:
    handles = [
        ax.plot([], [], style.cap_marker(i), color=style.cap_colour(i), ms=5, label=style.plain(name))[0]
        for i, name in enumerate(names)
    ]
    if chance:
        handles.append(ax.plot([], [], "|", color=INK, ms=9, mew=1.3, label="chance")[0])
        handles.append(ax.plot([], [], "o", mfc=PAPER, mec=MUTED, ms=5, label="hollow: not clear of chance")[0])
    figure.legend(handles=handles, loc="outside upper left", ncols=6, handlelength=1.2, columnspacing=1.6)


def said_of(rows: Sequence[Row]) -> str:
    """A dot plot in words, for those who cannot see it."""
    parts = []
    for row in rows:
        values = ", ".join(f"{name} {words.percent(s.get('accuracy'), 1)}" for name, s in row.series.items())
        if values:
            parts.append(f"{row.title}: {values}" + (f", chance {words.percent(row.chance, 1)}" if row.chance else ""))
    return "; ".join(parts) + "."


def dot_figure(rows: Sequence[Row], names: Sequence[str], notes: str = "", measure: str = "accuracy") -> Figure:
    """A dot plot of `rows`, a mark for each of `names`. Must be called under `style.house_style()`."""
    thick = 0.235 + 0.05 * max(len(names) - 1, 0)
    figure = Figure(figsize=(style.WIDTH, thick * len(rows) + 0.95), layout="constrained")
    ax = figure.subplots()
    _dots(ax, rows, names, notes)
    _dots_legend(figure, ax, names, any(row.chance for row in rows))
    ax.set_xlabel(measure)
    return figure


def _percentiles(task: Json) -> str:
    found = [figures["scaled"] for figures in task["by_label"].values() if figures["scaled"]]
    return ", ".join(words.ordinal(s["percentile"]) for s in found if s.get("percentile") is not None)


def scores(exams: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Every exam with its interval, chance, and human percentile, best first (figure 4 of the GPT-4 report)."""
    groups: dict[str, list[Row]] = {}
    for task in exams["tasks"]:
        kind = "Exams with pictures" if task["modality"] == "vision" else "Exams in text"
        row = Row(str(task["title"]), task["by_label"], task["chance"], _percentiles(task))
        groups.setdefault(kind, []).append(row)
    if not groups:
        return None
    rows: list[Row] = []
    for kind in sorted(groups):
        rows += [Row(kind, {})] if len(groups) > 1 else []
        rows += sorted(groups[kind], key=lambda row: -_best(row.series))
    with style.house_style():
        figure = dot_figure(rows, exams["labels"], "human percentile" if any(row.note for row in rows) else "")
        caption = (
            "Accuracy with 95% intervals, best first; black ticks are blind guessing, and a mark is hollow where its "
            "interval reaches chance. Free responses have no chance level. Percentiles are those of human test takers, "
            "where a published conversion exists."
        )
        return style.drawing(figure, "exam-scores", "Exams, by score", said_of(rows), caption, sources)


def languages(exams: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Accuracy by language, best first."""
    rows: list[Row] = []
    found = [task for task in exams["tasks"] if any(f["languages"] for f in task["by_label"].values())]
    for task in found:
        own = {label: figures["languages"] for label, figures in task["by_label"].items() if figures["languages"]}
        lines = []
        for name in dict.fromkeys(name for groups in own.values() for name in groups):
            series = {label: groups[name] for label, groups in own.items() if name in groups}
            lines.append(Row(name, series, next(iter(series.values())).get("chance")))
        rows += [Row(str(task["title"]), {})] if len(found) > 1 else []
        rows += sorted(lines, key=lambda row: -_best(row.series))
    if not rows:
        return None
    with style.house_style():
        figure = dot_figure(rows, exams["labels"])
        caption = (
            "Accuracy by language with 95% intervals, best first; black ticks are blind guessing in each language."
        )
        return style.drawing(figure, "languages", "One exam, many languages", said_of(rows), caption, sources)


def sight(exams: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Visual exams with the pictures shown, blanked and shuffled: a panel a label."""
    panels: dict[str, list[Row]] = {}
    for task in exams["tasks"]:
        for label, figures in task["by_label"].items():
            if figures["conditions"]:
                series = {CONDITIONS[key]: v for key, v in figures["conditions"].items() if key in CONDITIONS and v}
                panels.setdefault(label, []).append(Row(str(task["title"]), series, task["chance"]))
    if not panels:
        return None
    names = list(CONDITIONS.values())
    with style.house_style():
        most = max(map(len, panels.values()))
        figure = Figure(figsize=(style.WIDTH, 0.36 * most + 1.0), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True).ravel()
        highs = []
        for ax, (label, rows) in zip(axes, panels.items()):
            _dots(ax, sorted(rows, key=lambda row: -_best(row.series)), names)
            highs.append(ax.get_xlim()[1])
            ax.set_xlabel("accuracy")
            if len(panels) > 1:
                ax.set_title(style.plain(label))
        axes[0].set_xlim(0, max(highs))
        _dots_legend(figure, axes[0], names, any(row.chance for rows in panels.values() for row in rows))
        caption = (
            "Accuracy with 95% intervals. A model that looks at its pictures is above chance only where they are shown; "
            "whatever it scores without them comes from the words alone."
        )
        said = " ".join(f"{label}: {said_of(rows)}" for label, rows in panels.items())
        return style.drawing(figure, "sight", "With and without the pictures", said, caption, sources)


def reliability(exams: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Reliability diagrams (figure 8 of the GPT-4 report): pooled over letters and of the top choice, label beside label."""
    found = exams["calibration"]
    panels = [(kind, label, c[kind]) for kind in KINDS for label, c in found.items() if (c.get(kind) or {}).get("bins")]
    if not panels:
        return None
    labels = list(found)
    columns = 2 if len(labels) == 1 else len(labels)
    rows = math.ceil(len(panels) / columns)
    with style.house_style():
        size = min(3.3, style.WIDTH / columns)
        figure = Figure(figsize=(style.WIDTH, (size + 0.25) * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        said = []
        for ax, (kind, label, values) in zip(axes, panels):
            reliability_panel(ax, values, labels.index(label), f"{label}, {KINDS[kind]}")
            said.append(f"{label}, {KINDS[kind]}: {'; '.join(_errors(values))}")
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        caption = (
            "How often answers given with a probability are right. Each point is a bin of equally many answers, its "
            "height with a 95% interval, its width the probabilities in the bin. On the dashed diagonal a model is as "
            "sure as it is right; below it, it is too sure. Pooled: the probability of every option counts as one "
            "prediction, as in the GPT-4 report; top choice: only that of the answer chosen."
        )
        return style.drawing(figure, "reliability", "Reliability diagrams", ". ".join(said) + ".", caption, sources)


def _errors(values: Json) -> list[str]:
    lines = []
    for key, name in (("ece", "ECE (bias-corrected)"), ("brier", "Brier")):
        if values.get(key) is not None:
            interval = words.interval(values.get(f"{key}_interval"))
            lines.append(f"{name} {words.loss(values[key])}" + (f" ({interval})" if interval != words.NONE else ""))
    return lines


def reliability_panel(
    ax: Axes, values: Json, index: int, title: str, text_at: tuple[float, float] = (0.03, 0.97)
) -> None:
    """One reliability diagram, of a View as docs/artifacts.md has it, in the colour and with the mark of `index`.

    `text_at`: the corner, in parts of the axes, where its errors are written.
    """
    colour = style.cap_colour(index)
    ax.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    bins = [b for b in values["bins"] if None not in (b.get("confidence"), b.get("accuracy"))]
    for b in bins:
        if None not in (b.get("low"), b.get("high")):
            ax.plot([b["low"], b["high"]], [b["accuracy"]] * 2, color=colour, lw=0.8, alpha=0.55, zorder=2)
        if b.get("interval") and None not in b["interval"]:
            ax.plot([b["confidence"]] * 2, b["interval"], color=colour, lw=1.6, solid_capstyle="butt", zorder=3)
    ax.plot(
        [b["confidence"] for b in bins], [b["accuracy"] for b in bins],
        style.cap_marker(index), ms=5, color=colour, mec=PAPER, mew=0.6, zorder=4,
    )  # fmt: skip
    text = "\n".join([*_errors(values), *([f"n = {values['n']:,}"] if values.get("n") else [])])
    across, up = ("left", "right")[text_at[0] > 0.5], ("bottom", "top")[text_at[1] > 0.5]
    ax.text(*text_at, text, transform=ax.transAxes, ha=across, va=up, fontsize=8, linespacing=1.5)
    ax.set_title(style.plain(title), fontsize=8.5)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("probability given")
    ax.set_ylabel("share that is right")
    ax.grid()


def stale(exams: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Accuracy by the date of the fact, with the training cut-off."""
    found = {label: part for label, part in exams["stale"].items() if part.get("by_date")}
    if not found:
        return None
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 3.1), layout="constrained")
        ax = figure.subplots()
        for i, part in enumerate(found.values()):
            shift = 0.16 * (i - (len(found) - 1) / 2)
            points = [p for p in part["by_date"] if p.get("accuracy") is not None]
            for p in points:
                if p.get("interval") and None not in p["interval"]:
                    ax.plot([p["date"] + shift] * 2, p["interval"], color=style.cap_colour(i), lw=1.6, zorder=3)
                face = style.cap_colour(i) if p.get("trained") else PAPER
                ax.plot([p["date"] + shift], [p["accuracy"]], style.cap_marker(i), ms=5.5, mfc=face,
                        mec=style.cap_colour(i), mew=1.1, zorder=4)  # fmt: skip
        handles = [
            ax.plot([], [], style.cap_marker(i), color=style.cap_colour(i), ms=5.5, label=style.plain(label))[0]
            for i, label in enumerate(found)
        ]
        handles.append(ax.plot([], [], "o", mfc=PAPER, mec=MUTED, ms=5.5, label="hollow: date was not trained on")[0])
        chances = {part["chance"] for part in found.values() if part.get("chance")}
        for chance in chances:
            handles.append(ax.axhline(chance, color=INK, lw=1.1, ls=(0, (1, 2)), label="chance"))
        for edge in dict.fromkeys(_cutoff(part) for part in found.values()):
            if edge is not None:
                ax.axvline(edge, color=FAINT, lw=1.2)
                ax.text(edge, 1.0, " cut-off", color=MUTED, fontsize=8, va="top", transform=ax.get_xaxis_transform())
        ax.set_ylim(0, 1.03)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        ax.set_xlabel("date of the fact")
        ax.set_ylabel("accuracy")
        ax.grid(axis="y")
        figure.legend(handles=handles, loc="outside upper left", ncols=5, handlelength=1.4)
        caption = "Accuracy by the year of the fact, five years together, with 95% intervals. Dotted: blind guessing."
        said = "; ".join(
            f"{label}: {words.percent((part.get('before') or {}).get('accuracy'), 1)} up to the cut-off, "
            f"{words.percent((part.get('after') or {}).get('accuracy'), 1)} after it"
            for label, part in found.items()
        )
        return style.drawing(figure, "stale", "Stale knowledge", said + ".", caption, sources)


def _cutoff(part: Json) -> float | None:
    """Where the line stands: between the last year that was trained on and the next."""
    year = part.get("cutoff")
    if year is None:
        return None
    left_out = any(p["date"] == year and not p.get("trained") for p in part["by_date"])
    return year - 0.5 if left_out else year + 0.5


MAKERS = (scores, languages, sight, reliability, stale)
