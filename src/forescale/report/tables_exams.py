"""The exam sections' tables. Each label's accuracy stands beside the first label's, with its interval under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forescale.report import words
from forescale.report.exams import abstained, against, is_truthful
from forescale.report.tables import LEFT, RIGHT, Cell, Table

Json = dict[str, Any]
STANDING = {
    "above": ("above", "hit"), "below": ("below", "miss"), "not clear": ("not clear", "muted"), None: (words.NONE, "muted"),
}  # fmt: skip
MODEL = "Model"
EXAMPLES, EXAMPLE_LENGTH = 8, 280


def _table(
    summary: Json, name: str, caption: str, columns: list[tuple[str, str]], rows: list[list[Cell]]
) -> Table | None:
    """The table, without its column of models where there is one model; None without rows."""
    if len(summary["labels"]) == 1 and (MODEL, LEFT) in columns:
        at = columns.index((MODEL, LEFT))
        columns, rows = columns[:at] + columns[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
    return Table(name, caption, columns, rows) if rows else None


def share_cell(figures: Json | None, value: str = "accuracy", look: str = "strong") -> Cell:
    """A share with its interval under it, or a dash."""
    figures = figures or {}
    note = words.percent_interval(figures.get("interval"))
    return Cell(words.percent(figures.get(value), 1), look, note=note if note != words.NONE else "")


def _standing(interval: list[float] | None, level: float | None) -> Cell:
    return Cell(*STANDING[against(interval, level)])


def _difference(found: Json | None, asked: int | None, remarks: Sequence[str] = ()) -> Cell:
    """A paired difference in percentage points; how many items it rests on where that is fewer than were asked."""
    if found is None:
        return Cell(words.NONE, "muted", note=", ".join(remarks))
    low, high = found["interval"]
    look = "hit" if low > 0 else "miss" if high < 0 else "muted"
    pairs = f", {words.plural(found['n'], 'pair')}" if asked and found["n"] < asked else ""
    note = ", ".join([words.points_interval(found["interval"]) + pairs, *remarks])
    return Cell(words.points(found["difference"]), look, note=note)


def _remarks(task: Json, label: str) -> list[str]:
    """What to know of a label's difference from the first: items left out of it, and another way of asking."""
    remarks, ways = [], {name: figures["solver"] for name, figures in task["by_label"].items()}
    if differ := task["differ"].get(label):
        remarks.append(f"{words.plural(differ, 'item')} {'differs' if differ == 1 else 'differ'}, left out")
    if label in ways and ways[label] != ways[task["first"]]:
        remarks.append("not asked the same way")
    return remarks


def _n(task: Json) -> Cell:
    """Items asked; of how many where the exam has more, and why others have no score, over all labels."""
    asked = {figures["n"] for figures in task["by_label"].values()} - {None}
    sample = task["of"] and asked and min(asked) < task["of"]
    notes = [f"of {task['of']:,}"] if sample else []
    for key, what in (("too_long", "too long"), ("unscored", "without a verdict")):
        left_out = {figures.get(key) or 0 for figures in task["by_label"].values()}
        notes += [f"{_span(left_out)} {what}"] if any(left_out) else []
    return Cell(_span(asked) if asked else words.NONE, note=", ".join(notes))


def _span(counts: set[int]) -> str:
    return "–".join(f"{n:,}" for n in sorted({min(counts), max(counts)}))


def _asked(task: Json) -> str:
    """How an exam was asked; by label where they differ."""
    ways = {label: str(figures["solver"] or "") for label, figures in task["by_label"].items()}
    if len(set(ways.values())) == 1:
        return next(iter(ways.values()))
    return "; ".join(f"{label}: {way}" for label, way in ways.items())


def _each_label(summary: Json, task: Json) -> list[Cell]:
    """Accuracy and its standing to chance for each label; the difference from the first for all but the first."""
    cells = []
    for i, label in enumerate(summary["labels"]):
        figures = task["by_label"].get(label)
        cells += [share_cell(figures), Cell(*STANDING[figures["against_chance"] if figures else None])]
        if i:
            asked = figures["n"] if figures else None
            cells.append(_difference(task["compared"].get(label), asked, _remarks(task, label)))
    return cells


def _label_columns(labels: Sequence[str]) -> list[tuple[str, str]]:
    columns = []
    for i, label in enumerate(labels):
        columns += [(label if len(labels) > 1 else "Accuracy", RIGHT), ("to chance", LEFT)]
        if i:
            columns.append((f"{label} − {labels[0]}, points", RIGHT))
    return columns


def _scaled(task: Json) -> dict[str, Json]:
    return {label: figures["scaled"] for label, figures in task["by_label"].items() if figures["scaled"]}


def _by_line(values: dict[str, str], labels: Sequence[str]) -> Cell:
    """The first label's value, the others' under it."""
    lines = [values.get(label, words.NONE) for label in labels]
    return Cell(lines[0], note=", ".join(f"{label} {line}" for label, line in zip(labels[1:], lines[1:]) if values))


def _rows(summary: Json, tasks: Sequence[Json], with_scale: bool) -> list[list[Cell]]:
    labels, rows = summary["labels"], []
    for task in tasks:
        cells = [Cell(str(task["title"]), title=str(task["name"]), note=_asked(task)), _n(task)]
        cells += [Cell(words.percent(task["chance"] or None, 1)), *_each_label(summary, task)]
        if with_scale:
            scaled = _scaled(task)
            cells += [
                _by_line({label: words.number(s.get("scaled"), 3) for label, s in scaled.items()}, labels),
                _by_line({label: words.ordinal(s.get("percentile")) for label, s in scaled.items()}, labels),
            ]
        rows.append(cells)
    return rows


_MARKS = "To chance: whether the whole 95% interval under an accuracy lies above or below blind guessing, or is not clear of it."


def exams(summary: Json) -> Table | None:
    tasks = [task for task in summary["tasks"] if task["modality"] != "vision"]
    if not tasks:
        return None
    # Of three models the page has no room for them here; the table of scales has them all.
    with_scale = len(summary["labels"]) < 3 and any(_scaled(task) for task in tasks)
    columns = [
        ("Exam, and how it was asked", LEFT),
        ("n", RIGHT),
        ("Chance", RIGHT),
        *_label_columns(summary["labels"]),
    ]
    columns += [("Scaled score", RIGHT), ("Human percentile", RIGHT)] if with_scale else []
    caption = _MARKS
    if len(summary["labels"]) > 1:
        caption += (
            " Differences are paired by item, in percentage points, with their 95% intervals; items that are not the same in "
            "both are left out."
        )
    return Table("exams", caption, columns, _rows(summary, tasks, with_scale))


def truthful(summary: Json) -> Table | None:
    tasks = [task for task in summary["tasks"] if is_truthful(task)]
    columns = [("Exam", LEFT), ("n", RIGHT), ("Chance", RIGHT), *_label_columns(summary["labels"])]
    caption = f"Choosing what is true over what is often said. {_MARKS}"
    return Table("truthful", caption, columns, _rows(summary, tasks, with_scale=False)) if tasks else None


def scales(summary: Json) -> Table | None:
    rows = [
        [
            Cell(str(task["title"])), Cell(label), Cell(str(s.get("scale") or words.NONE)),
            Cell(f"{words.NONE if s.get('raw') is None else format(s['raw'], 'g')} of {s.get('raw_max') or words.NONE}"),
            Cell(words.number(s.get("scaled"), 3), "strong"), Cell(_range(s.get("scaled_range"))),
            Cell(words.ordinal(s.get("percentile")), "strong"),
            Cell(str(s.get("source") or words.NONE), note=str(s.get("note") or "")),
        ]
        for task in summary["tasks"]
        for label, s in _scaled(task).items()
    ]  # fmt: skip
    columns = [("Exam", LEFT), (MODEL, LEFT), ("Scale", LEFT), ("Raw score", RIGHT), ("Scaled", RIGHT),
               ("Range", RIGHT), ("Percentile", RIGHT), ("Published conversion", LEFT)]  # fmt: skip
    caption = (
        "From raw to scaled score to the percentile of human test takers, by published tables. Range: the scaled scores "
        "at the ends of the accuracy’s interval."
    )
    return _table(summary, "scales", caption, columns, rows)


def _range(bounds: list[float] | None) -> str:
    return words.NONE if not bounds or None in bounds else "–".join(words.number(bound, 3) for bound in bounds)


def sources(summary: Json) -> Table | None:
    found = [*summary["tasks"], *({row["name"]: row for row in summary["code"]}.values())]
    rows = [
        [
            Cell(str(row.get("title") or row.get("name"))), Cell(str(row.get("scorer") or "tests pass")),
            Cell(str(row.get("licence") or "not stated"), "" if row.get("licence") else "miss"),
            Cell(str(row.get("source") or words.NONE)),
        ]
        for row in found
    ]  # fmt: skip
    columns = [("Exam", LEFT), ("Right is", LEFT), ("Licence", LEFT), ("Source", LEFT)]
    return _table(summary, "exam-sources", "Where the exams come from, and who decides what is right.", columns, rows)


def languages(summary: Json) -> Table | None:
    """The languages chart as numbers, best first."""
    rows = []
    for task in summary["tasks"]:
        for label, figures in task["by_label"].items():
            for name, group in sorted(figures["languages"].items(), key=lambda pair: -(pair[1].get("accuracy") or 0)):
                standing = _standing(group.get("interval"), group.get("chance"))
                rows.append([Cell(str(task["title"])), Cell(name), Cell(label), Cell(f"{group.get('n') or 0:,}"),
                             share_cell(group), Cell(words.percent(group.get("chance") or None, 1)), standing])  # fmt: skip
    columns = [("Exam", LEFT), ("Language", LEFT), (MODEL, LEFT), ("n", RIGHT), ("Accuracy", RIGHT), ("Chance", RIGHT),
               ("to chance", LEFT)]  # fmt: skip
    return _table(summary, "languages", _MARKS, columns, rows)


def code(summary: Json) -> Table | None:
    ks = sorted({k for row in summary["code"] for k in row.get("pass_at") or {}}, key=float)
    rows = [
        [
            Cell(str(row.get("title") or row.get("name"))), Cell(row["label"]), Cell(f"{row.get('n') or 0:,}"),
            Cell(words.NONE if row.get("samples") is None else f"{row['samples']:,}"),
            Cell(words.NONE if row.get("temperature") is None else f"{row['temperature']:g}"),
            *[share_cell((row.get("pass_at") or {}).get(k), "value") for k in ks],
            Cell(str(row.get("isolation") or "not stated"), "" if row.get("isolation") else "miss"),
        ]
        for row in summary["code"]
    ]  # fmt: skip
    columns = [("Problems", LEFT), (MODEL, LEFT), ("n", RIGHT), ("Samples each", RIGHT), ("Temperature", RIGHT),
               *[(f"pass@{k}", RIGHT) for k in ks], ("Programs ran in", LEFT)]  # fmt: skip
    caption = "Share of problems that at least one of k samples solves, by the unbiased estimator, with 95% intervals."
    return _table(summary, "code", caption, columns, rows)


def sight(summary: Json) -> Table | None:
    rows = []
    for task in summary["tasks"]:
        if task["modality"] != "vision":
            continue
        for label, figures in task["by_label"].items():
            shown = figures["conditions"].get("normal") or figures
            cells = [Cell(str(task["title"]), title=str(task["name"]), note=str(figures["solver"] or "")), Cell(label)]
            cells += [_n(task), Cell(words.percent(task["chance"] or None, 1)), share_cell(shown)]
            cells += [_standing(shown.get("interval"), task["chance"])]
            for condition in ("blank", "shuffled"):
                cells.append(share_cell(figures["conditions"].get(condition), look=""))
                cells.append(_difference(figures["over"].get(condition), figures["n"]))
            rows.append(cells)
    columns = [("Exam", LEFT), (MODEL, LEFT), ("n", RIGHT), ("Chance", RIGHT), ("Pictures shown", RIGHT),
               ("to chance", LEFT), ("Blanked", RIGHT), ("shown − blanked", RIGHT), ("Shuffled", RIGHT),
               ("shown − shuffled", RIGHT)]  # fmt: skip
    caption = (
        "The same questions with their pictures, with the pictures blanked, and with the pictures of other items. A model "
        "that looks does better only in the first. Differences are paired by item, in percentage points. " + _MARKS
    )
    return _table(summary, "sight", caption, columns, rows)


def sight_compared(summary: Json) -> Table | None:
    """Visual exams of each label against the first."""
    tasks = [t for t in summary["tasks"] if t["modality"] == "vision" and (t["compared"] or t["differ"])]
    columns = [("Exam", LEFT), ("n", RIGHT), ("Chance", RIGHT), *_label_columns(summary["labels"])]
    caption = "The models side by side, pictures shown."
    return Table("sight-compared", caption, columns, _rows(summary, tasks, with_scale=False)) if tasks else None


def calibration(summary: Json) -> Table | None:
    rows = []
    for label, whole in summary["calibration"].items():
        rows.append([Cell(label), Cell("all exams together", "strong"), *_calibration_cells(whole)])
        for task in summary["tasks"]:
            own = (task["by_label"].get(label) or {}).get("calibration")
            if own:
                rows.append([Cell(label), Cell(str(task["title"])), *_calibration_cells(own)])
    columns = [(MODEL, LEFT), ("Exam", LEFT), ("Items", RIGHT), ("ECE, corrected for bias, pooled", RIGHT),
               ("Brier, pooled", RIGHT), ("ECE, corrected for bias, top choice", RIGHT), ("Brier, top choice", RIGHT)]  # fmt: skip
    caption = (
        "Expected calibration error (ECE) over equal-mass bins, and Brier score, with 95% intervals; 0 is best. Binned: "
        "the plain binned ECE that papers print, which noise alone makes larger. With too few answers for two bins there is no ECE."
    )
    return _table(summary, "calibration", caption, columns, rows)


def _calibration_cells(found: Json) -> list[Cell]:
    cells = [Cell(words.NONE if found.get("n_items") is None else f"{found['n_items']:,}")]
    for kind in ("pooled", "top1"):
        values = found.get(kind) or {}
        for key in ("ece", "brier"):
            binned = values.get(f"{key}_binned")
            notes = [words.interval(values.get(f"{key}_interval"))]
            notes += [] if binned is None else [f"binned {words.loss(binned)}"]
            cells.append(Cell(words.loss(values.get(key)), note=", ".join(n for n in notes if n != words.NONE)))
    return cells


def stale(summary: Json) -> Table | None:
    rows = []
    for label, found in summary["stale"].items():
        cutoff = words.NONE if found.get("cutoff") is None else found["cutoff"]
        parts = [(f"up to {cutoff}", found.get("before") or {}), (f"after {cutoff}", found.get("after") or {})]
        spans = [part for part in found.get("by_date") or [] if part.get("years")]
        for name, part in [*parts, *(("–".join(map(str, dict.fromkeys(part["years"]))), part) for part in spans)]:
            rows.append([Cell(label), Cell(name), Cell(words.NONE if part.get("n") is None else f"{part['n']:,}"),
                         share_cell(part), Cell(words.percent(found.get("chance") or None, 1)),
                         _standing(part.get("interval"), found.get("chance"))])  # fmt: skip
    columns = [(MODEL, LEFT), ("Facts dated", LEFT), ("n", RIGHT), ("Accuracy", RIGHT), ("Chance", RIGHT),
               ("to chance", LEFT)]  # fmt: skip
    caption = "Facts that were in the training data, and facts dated after its end."
    return _table(summary, "stale", caption, columns, rows)


def invented(summary: Json) -> Table | None:
    rows = []
    for label, found in summary["invented"].items():
        for name, key in (("exist", "known"), ("do not exist", "invented")):
            part = found.get(key) or {}
            count = words.NONE if part.get("n") is None else f"{part['n']:,}"
            share = share_cell({"abstained": abstained(part), "interval": part.get("interval")}, "abstained")
            rows.append([Cell(label), Cell(name), Cell(count), share])
    columns = [(MODEL, LEFT), ("Questions about things that", LEFT), ("n", RIGHT), ("Said it does not know", RIGHT)]
    caption = "Share of answers that decline to answer. It should be high for things that do not exist, low for those that do."
    return _table(summary, "invented", caption, columns, rows)


def invented_examples(summary: Json) -> Table | None:
    rows = []
    for label, found in summary["invented"].items():
        for example in (found.get("examples") or [])[:EXAMPLES]:
            exists, declined = bool(example.get("exists")), bool(example.get("abstained"))
            outcome = Cell("declined" if declined else "answered", "hit" if declined != exists else "miss")
            rows.append([Cell(words.clip(example.get("question") or "", EXAMPLE_LENGTH)), Cell("yes" if exists else "no"),
                         Cell(label), Cell(words.clip(example.get("completion") or "", EXAMPLE_LENGTH), "mono"),
                         outcome])  # fmt: skip
    columns = [("Question", LEFT), ("Exists", LEFT), (MODEL, LEFT), ("Answer", LEFT), ("", LEFT)]
    caption = f"The first {EXAMPLES} examples that the exam kept, for each model; long texts are cut."
    return _table(summary, "invented-examples", caption, columns, rows)


def contamination(summary: Json) -> Table | None:
    rows = []
    for task in summary["tasks"]:
        for label, figures in task["by_label"].items():
            found = figures["contamination"]
            if not found:
                continue
            checked, flagged = found.get("checked"), found.get("flagged")
            without = {"accuracy": found.get("accuracy_without"), "interval": found.get("interval_without")}
            share = f"{words.percent(flagged / checked, 1)}" if checked and flagged is not None else ""
            rows.append([
                Cell(str(task["title"])), Cell(label), Cell(words.NONE if checked is None else f"{checked:,}"),
                Cell(words.NONE if flagged is None else f"{flagged:,}", "strong" if flagged else "", note=share),
                Cell(words.NONE if found.get("too_short") is None else f"{found['too_short']:,}"),
                share_cell(figures), share_cell(without),
            ])  # fmt: skip
    columns = [("Exam", LEFT), (MODEL, LEFT), ("Checked", RIGHT), ("Flagged", RIGHT), ("Too short to check", RIGHT),
               ("Accuracy", RIGHT), ("Without flagged", RIGHT)]  # fmt: skip
    caption = "Items found in the training corpus, and accuracy with and without them."
    return _table(summary, "contamination", caption, columns, rows)


MAKERS = (
    exams, truthful, scales, sources, languages, code, sight, sight_compared, calibration, stale, invented,
    invented_examples, contamination,
)  # fmt: skip
