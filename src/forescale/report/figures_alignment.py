"""The figures about alignment: how tuning and the reward model went, PPO's curves, reward against KL, and behaviour by model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from forescale.report import style, words
from forescale.report.alignment import ALL, MOST_POINTS
from forescale.report.figures_exams import Row, dot_figure, reliability_panel, said_of
from forescale.report.style import INK, MUTED, PAPER, Drawing

Json = dict[str, Any]
Points = list[tuple[float, float]]


def points(curve: Sequence[Json], x: str, y: str) -> Points:
    return [(p[x], p[y]) for p in curve if p.get(x) is not None and p.get(y) is not None]


def _line(ax: Axes, found: Points, colour: str, label: str | None = None, width: float = 1.4) -> None:
    """A line, with a mark where there is but one point to see."""
    marker = "o" if len(found) == 1 else None
    ax.plot(*zip(*found), color=colour, lw=width, marker=marker, ms=4, label=label)


def _steps_axis(ax: Axes, curve: Sequence[Json], label: str = "step") -> None:
    ax.set_xlim(curve[0]["step"], max(curve[-1]["step"], curve[0]["step"] + 1))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel(label)
    ax.grid(axis="y")


def tuning(alignment: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Loss curves of SFT and of the reward model, and the reward model's reliability diagram: a panel each."""
    makers: list[Callable[[Axes], str]] = []
    sft, reward = alignment["sft"], alignment["reward_model"]
    if sft and points(sft["curve"], "step", "conversation_loss"):
        makers.append(lambda ax: _sft_panel(ax, sft["curve"]))
    if reward and points(reward["curve"], "step", "loss"):
        makers.append(lambda ax: _pairs_panel(ax, reward["curve"]))
    if reward and (reward["calibration"] or {}).get("bins"):
        makers.append(lambda ax: _reward_panel(ax, reward["calibration"]))
    if not makers:
        return None
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 3.3), layout="constrained")
        axes = figure.subplots(1, max(2, len(makers)), squeeze=False).ravel()
        said = [maker(ax) for maker, ax in zip(makers, axes)]
        for ax in axes[len(makers) :]:
            ax.set_axis_off()
        caption = (
            "Training loss by step; the dotted line is that of a reward model that knows nothing, ln 2. Right: how often a "
            "reward model that is so sure which answer people preferred is right, on held-out pairs, with 95% intervals. Its "
            "own choice has a probability of at least 50%."
        )
        return style.drawing(figure, "tuning", "SFT and the reward model", " ".join(said), caption, sources)


def _sft_panel(ax: Axes, curve: Sequence[Json]) -> str:
    lines = {
        name: points(curve, "step", f"{key}_loss")
        for name, key in (("conversations", "conversation"), ("rows of pretraining", "pretraining"))
    }
    found = {name: line for name, line in lines.items() if line}
    for index, (name, line) in enumerate(found.items()):
        _line(ax, line, style.cap_colour(2 * index), name)
    if len(found) > 1:
        ax.legend(loc="upper right", fontsize=8)
    _steps_axis(ax, curve)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("loss, nats a token")
    ax.set_title("SFT")
    return _from_to("SFT", found["conversations"])


def _pairs_panel(ax: Axes, curve: Sequence[Json]) -> str:
    found = points(curve, "step", "loss")
    _line(ax, found, style.cap_colour(1))
    ax.axhline(math.log(2), color=INK, lw=1.1, ls=(0, (1, 2)))
    _steps_axis(ax, curve)
    ax.set_ylabel("loss, nats a pair")
    ax.set_title("reward model")
    return _from_to("reward model", found)


def _from_to(name: str, found: Points) -> str:
    return f"{name}: loss {words.loss(found[0][1])} at first, {words.loss(found[-1][1])} at last."


def _reward_panel(ax: Axes, values: Json) -> str:
    # Its own choice has at least one half and is mostly right: the points stand at the upper right.
    reliability_panel(ax, values, 1, "reward model, held-out pairs", text_at=(0.97, 0.03))
    ax.set_ylabel("share ordered as people did")
    return f"Reward model: Brier score {words.loss(values.get('brier'))} on held-out pairs."


def ppo_reward(alignment: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Reward by step, whole and in parts; KL of an answer, and its coefficient under it."""
    ppo = alignment["ppo"]
    if not ppo or not points(ppo["curve"], "step", "reward"):
        return None
    curve, limit = ppo["curve"], ppo["config"].get("kl_limit")
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 3.7), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
        left, right, under = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
        _line(left, points(curve, "step", "reward"), INK, "whole reward", 2.0)
        for i, name in enumerate(ppo["parts"]):
            found = points(curve, "step", f"part/{name}")
            if found:
                _line(left, found, style.cap_colour(i), style.plain(name.replace("_", " ")))
        left.set_ylabel("reward of an answer")
        left.set_title("reward")
        left.legend(loc="best")
        kl = points(curve, "step", "kl")
        if kl:
            _line(right, kl, INK)
            if limit and max(value for _, value in kl) > limit / 3:
                right.axhline(limit, color=style.ALARM, lw=1.1, ls=(0, (4, 3)))
                right.text(curve[0]["step"], limit, " limit", color=style.ALARM, fontsize=8, va="bottom")
        right.set_ylabel("nats an answer")
        right.set_title("KL to the model before PPO")
        beta = points(curve, "step", "beta")
        if beta:
            _line(under, beta, INK)
            under.set_ylim(0, max(value for _, value in beta) * 1.25 or 1)
        under.set_title("its coefficient β")
        for ax in (left, right, under):
            _steps_axis(ax, curve)
        right.set_xlabel("")
        ends = ppo["first_and_last"]
        said = (
            "; ".join(
                f"{name} {words.number(ends[key]['first'])} at first, {words.number(ends[key]['last'])} at last"
                for name, key in (("Reward", "reward"), ("KL", "kl"), ("coefficient", "beta"))
                if ends.get(key)
            )
            + "."
        )
        caption = (
            "The whole reward holds what is taken off for answers that do not end; the parts do not. KL is what the samples "
            f"of a step say of it. {_averaged(ppo)}"
        )
        return style.drawing(figure, "ppo-reward", "Reward and KL while PPO learned", said, caption, sources)


def _averaged(ppo: Json) -> str:
    return f"Each point is a mean over several steps, at most {MOST_POINTS} of them." if _is_averaged(ppo) else ""


def _is_averaged(ppo: Json) -> bool:
    return bool(ppo["steps"] and ppo["steps"] > len(ppo["curve"]))


def frontier(alignment: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Reward against KL (Gao et al. 2022, figure 1: what a reward costs in distance from the reference)."""
    ppo = alignment["ppo"]
    both = points(ppo["curve"], "kl", "reward") if ppo else []
    if len(both) < 2:
        return None
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 3.6), layout="constrained")
        ax = figure.subplots()
        ax.plot(*zip(*both), color=style.RULE, lw=0.8, zorder=2)
        for i, (kl, reward) in enumerate(both):
            age = i / (len(both) - 1)
            ax.plot([kl], [reward], "o", ms=4.5, color=style.cap_colour(0), alpha=0.15 + 0.85 * age, mew=0, zorder=3)
        ends = ((both[0], "first", PAPER, (0, -15)), (both[-1], "last", style.cap_colour(0), (0, 9)))
        for at, name, face, shift in ends:
            ax.plot(*at, "o", ms=8, mfc=face, mec=INK, mew=1.2, zorder=4)
            ax.annotate(name, at, xytext=shift, textcoords="offset points", ha="center", fontsize=8.5, zorder=5)
        ax.set_xlabel("KL to the model before PPO, nats an answer")
        ax.set_ylabel("reward of an answer")
        ax.grid()
        ax.margins(x=0.07, y=0.15)
        said = (
            f"From reward {words.number(both[0][1])} at a KL of {words.number(both[0][0])} nats to reward "
            f"{words.number(both[-1][1])} at {words.number(both[-1][0])} nats."
        )
        caption = (
            "A point a step, darker with time. The reward is that which PPO maximises: where it rises while behaviour on "
            f"held-out requests does not, it is the reward that is wrong. {_averaged(ppo)}"
        )
        return style.drawing(figure, "ppo-frontier", "Reward against KL", said, caption, sources)


HEALTH = (
    ("entropy", "entropy, nats a token", False),
    ("clip_fraction", "share of ratios clipped", True),
    ("explained_variance", "explained variance of the value", False),
    ("length", "tokens an answer", False),
    ("ended", "share of answers that end", True),
    ("left_out", "answers left out, a step", False),
)


def health(alignment: Json, sources: tuple[str, ...]) -> Drawing | None:
    """Small multiples of what says whether PPO is well."""
    ppo = alignment["ppo"]
    shown = [row for row in HEALTH if ppo and points(ppo["curve"], "step", row[0])]
    if not shown:
        return None
    curve = ppo["curve"]
    with style.house_style():
        rows = math.ceil(len(shown) / 3)
        figure = Figure(figsize=(style.WIDTH, 1.9 * rows), layout="constrained")
        axes = figure.subplots(rows, 3, squeeze=False).ravel()
        said = []
        for ax, (key, title, is_share) in zip(axes, shown):
            found = points(curve, "step", key)
            _line(ax, found, style.cap_colour(0))
            _steps_axis(ax, curve, "")
            ax.set_title(title, fontsize=8.5)
            if is_share:
                ax.set_ylim(0, max(0.1, min(1.02, max(value for _, value in found) * 1.15)))
                ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            elif min(value for _, value in found) >= 0:
                ax.set_ylim(0, max(value for _, value in found) * 1.15 or 1)
            else:
                ax.axhline(0, color=MUTED, lw=0.8)
            said.append(f"{title}: {words.number(found[0][1])} at first, {words.number(found[-1][1])} at last")
        for ax in axes[len(shown) :]:
            ax.set_axis_off()
        for ax in axes[max(0, len(shown) - 3) : len(shown)]:
            ax.set_xlabel("step")
        caption = (
            "Explained variance is 1 where the value function knows what an answer will earn, 0 where it knows no more than the "
            f"mean. {_averaged(ppo)}"
        )
        return style.drawing(figure, "ppo-health", "How PPO fared", "; ".join(said) + ".", caption, sources)


def behaviour(alignment: Json, sources: tuple[str, ...]) -> Drawing | None:
    """What is not as the policy wants, and over-refusal, by category and modality: a mark a model."""
    found = alignment["behaviour"]
    if not found:
        return None
    rows = [Row("Not what the policy wants", {})]
    for category in found["categories"]:
        rows += _behaviour_rows(found, category, "incorrect")
    if over := _behaviour_rows(found, "allowed", "refused"):
        rows += [Row("Refused though allowed", {}), *over]
    with style.house_style():
        figure = dot_figure(rows, found["labels"], measure="share of held-out requests")
        figure.axes[0].set_xlim(0, 1.02)
        caption = (
            "Answers sampled at temperature 1, told apart by the exact grammar of the small world, with 95% intervals; a topic in "
            "one phrasing is the unit. Less is better."
        )
        return style.drawing(figure, "behaviour", "Behaviour on held-out requests", said_of(rows), caption, sources)


def _behaviour_rows(found: Json, category: str, measure: str) -> list[Row]:
    by_label = {label: figures[category] for label, figures in found["by_label"].items() if category in figures}
    rows = []
    for modality in dict.fromkeys(name for figures in by_label.values() for name in figures):
        series = {}
        for label, figures in by_label.items():
            share = (figures.get(modality) or {}).get(measure) or {}
            series[label] = {"accuracy": share.get("value"), "interval": share.get("interval")}
        rows.append(Row(category if modality == ALL else f"{category}, {modality}", series))
    return rows


MAKERS = (tuning, ppo_reward, frontier, health, behaviour)
