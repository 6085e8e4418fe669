"""The tables about alignment. A share has its 95% interval under it; a difference is green where all of its interval is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forescale.report import words
from forescale.report.alignment import ALL, CLASSES
from forescale.report.alignment_words import kind_words
from forescale.report.tables import LEFT, RIGHT, Cell, Table
from forescale.report.tables_exams import share_cell

Json = dict[str, Any]
Columns = list[tuple[str, str]]
Rows = list[list[Cell]]
ANSWER_LENGTH = 280
HEATS = 5  # shades of a cell's ground, by its share of a row
LABEL = "Model"


def share(figures: Json | None, look: str = "strong") -> Cell:
    return share_cell(figures, "value", look)


def change(found: Json | None, better: int = 0, key: str = "difference", note: str = "") -> Cell:
    """A difference in percentage points; `better`: 1 where more is, -1 where less is, 0 where neither."""
    if not found or found.get(key) is None:
        return Cell(words.NONE, "muted")
    low, high = found["interval"]
    risen = 1 if low > 0 else -1 if high < 0 else 0
    look = "muted" if not risen * better else "hit" if risen == better else "miss"
    notes = [words.points_interval(found["interval"]), note]
    return Cell(words.points(found[key]), look, note=", ".join(n for n in notes if n))


def count(value: Any) -> Cell:
    return Cell(words.NONE if value is None else f"{value:,}")


def heat_cells(counts: Mapping[str, int], names: Sequence[str], marked: Sequence[str | None] = ()) -> list[Cell]:
    """A row of a matrix: counts with their share of the row, shaded by it. `marked` columns are in bold."""
    total = sum(counts.get(name) or 0 for name in names)
    cells = []
    for name in names:
        n = counts.get(name) or 0
        part = n / total if total else 0.0
        look = f"heat{min(HEATS, round(HEATS * part + 0.45))}" if n else "muted"
        look += " strong" if name in marked else ""
        cells.append(Cell(f"{n:,}", look, note=words.percent(part, 0) if total else ""))
    return cells


# SFT, reward model, judge, RBRM --------------------------------------------------------------------------------------------


def agreement(alignment: Json) -> Table | None:
    judge = alignment["judge"]
    if not judge:
        return None
    parts = {**judge["sources"], "all together": judge} if len(judge["sources"]) > 1 else judge["sources"]
    rows = []
    for name, part in parts.items():
        binary, classes = part.get("binary") or {}, part.get("classes")
        kappas = [_kappa(binary), _kappa(classes)]
        passes = Cell("met", "hit") if part.get("passes") else Cell("missed", "miss")
        rows.append([Cell(str(name)), count(part.get("n")), count(part.get("left_out")), share_cell(binary), kappas[0],
                     share_cell(classes), kappas[1], passes])  # fmt: skip
    columns = [("Labelled answers", LEFT), ("n", RIGHT), ("No verdict", RIGHT), ("Refusal or not", RIGHT), ("κ", RIGHT),
               ("Of the four classes", RIGHT), ("κ of them", RIGHT), ("Floor", LEFT)]  # fmt: skip
    caption = (
        f"How often {judge['judge']} says what people say, with Cohen’s κ. A judge is used where the lower end of "
        f"its agreement on refusal or not reaches {words.percent(judge['floor'], 0)} and its κ lies above 0."
    )
    return Table("agreement", caption, columns, rows)


def _kappa(found: Json | None) -> Cell:
    if not found or found.get("kappa") is None:
        return Cell(words.NONE, "muted")
    low, high = found["kappa_interval"]
    return Cell(f"{found['kappa']:.2f}", note=f"{low:.2f}–{high:.2f}")


def confusion(alignment: Json) -> Table | None:
    judge = alignment["judge"]
    found = judge and (judge.get("classes") or judge.get("binary"))
    if not found or not found.get("confusion"):
        return None
    table = found["confusion"]
    names = list(table)
    rows = [[Cell(kind_words(name)), *heat_cells(row, names, [name])] for name, row in table.items()]
    columns = [("People say", LEFT), *[(kind_words(name), RIGHT) for name in names]]
    return Table(
        "confusion", "Rows: what people say of answers; columns: what the judge says. Bold: they agree.", columns, rows
    )


def said(alignment: Json) -> Table | None:
    found = (alignment["judge"] or {}).get("said") or {}
    rows = [[Cell(kind_words(name)), count(part.get("n")), share_cell(part)] for name, part in found.items()]
    columns = [("People’s own label", LEFT), ("n", RIGHT), ("Agreement on refusal or not", RIGHT)]
    return Table("said", "The judge’s agreement with people, by their own labels.", columns, rows) if rows else None


def rbrm_fit(alignment: Json) -> Table | None:
    rows = []
    for name, part in ((alignment["rbrm"] or {}).get("figures") or {}).items():
        before, after = part.get("before") or {}, part.get("after") or {}
        rows.append([Cell(name.replace("_", " ")), count(part.get("rankings")), count(after.get("pairs")),
                     Cell(words.loss(before.get("hinge"))), Cell(words.loss(after.get("hinge")), "strong"),
                     share_cell(before, "ordered", ""), share_cell(after, "ordered")])  # fmt: skip
    columns = [("Rankings", LEFT), ("n", RIGHT), ("Pairs", RIGHT), ("Hinge loss before", RIGHT), ("after", RIGHT),
               ("Pairs in order before", RIGHT), ("after", RIGHT)]  # fmt: skip
    caption = (
        "How well reward model and RBRM together order ranked answers: before, with all weights of the RBRM 0, and "
        "after fitting. Held-out rankings were not fitted to."
    )
    return Table("rbrm-fit", caption, columns, rows) if rows else None


def rbrm_weights(alignment: Json) -> Table | None:
    """A row a feature, a column a category."""
    rbrm = alignment["rbrm"]
    if not rbrm:
        return None
    bound = (rbrm["config"] or {}).get("bound")
    place = {name: i for i, name in enumerate(CLASSES)}
    by_feature: dict[str, dict[str, float | None]] = {}
    for name, value in rbrm["values"].items():
        category, _, feature = name.partition("/")
        by_feature.setdefault(feature, {})[category] = value
    categories = list(dict.fromkeys(category for values in by_feature.values() for category in values))
    rows = []
    for feature, values in sorted(by_feature.items(), key=lambda pair: place.get(pair[0], len(place))):
        row = [Cell(kind_words(feature))]
        for category in categories:
            value = values.get(category)
            look = "muted" if value is None or abs(value) < 0.005 else "hit" if value > 0 else "miss"
            at_bound = value is not None and bound is not None and abs(abs(value) - bound) < 1e-9
            text = words.NONE if value is None else "0.00" if look == "muted" else f"{value:+.2f}".replace("-", "−")
            row.append(Cell(text, look, note="at the bound" if at_bound else ""))
        rows.append(row)
    columns = [("Class or proposition", LEFT), *[(category, RIGHT) for category in categories]]
    caption = (
        "The RBRM’s weights by category of the request, on the scale of the normalised reward model, fitted for "
        f"{rbrm['judge']}: what an answer earns if the judge is sure of the class or proposition. They add up."
    )
    return Table("rbrm-weights", caption, columns, rows)


# PPO --------------------------------------------------------------------------------------------------------------------


PPO_ROWS = (
    ("reward", "Reward of an answer"), ("kl", "KL of an answer, nats"), ("beta", "KL coefficient β"),
    ("entropy", "Entropy, nats a token"), ("clip_fraction", "Share of ratios clipped"),
    ("explained_variance", "Explained variance of the value"), ("length", "Tokens an answer"),
    ("sft_loss", "Loss of SFT’s conversations, nats a token"), ("ended", "Share of answers that end"),
    ("left_out", "Answers left out, a step"),
)  # fmt: skip


def ppo(alignment: Json) -> Table | None:
    found = alignment["ppo"]
    if not found:
        return None
    names = dict(PPO_ROWS)
    keys = ["reward", *(f"part/{name}" for name in found["parts"]), *list(names)[1:]]
    rows, tenth = [], 1
    for key in keys:
        both = found["first_and_last"].get(key)
        if both:
            tenth = max(tenth, both["n"])
            title = names.get(key) or f"of it, {key.removeprefix('part/').replace('_', ' ')}"
            form = (lambda v: words.percent(v, 1)) if key in ("clip_fraction", "ended") else _signed
            rows.append([Cell(title), Cell(form(both["first"])), Cell(form(both["last"]), "strong")])
    for key, title in (
        ("first_ratio_error", "Ratio at a step’s first update: largest distance from 1"),
        ("sampler_gap", "Log-probability while sampling and while learning: largest gap, nats"),
    ):
        if found["worst"].get(key) is not None:
            rows.append([Cell(title), Cell(""), Cell(f"{found['worst'][key]:.1e}" if found["worst"][key] else "0")])
    over = "step" if tenth == 1 else f"{tenth} steps"
    columns = [("", LEFT), (f"First {over}", RIGHT), (f"Last {over}", RIGHT)]
    caption = "PPO at its beginning and at its end, and its largest numerical errors over all steps."
    return Table("ppo", caption, columns, rows) if rows else None


def _signed(value: float) -> str:
    return words.number(value).replace("-", "−")


def ppo_samples(alignment: Json) -> Table | None:
    rows = [
        [count(row.get("step")), Cell(str(row.get("category") or "")),
         Cell(words.clip(row.get("prompt") or "", ANSWER_LENGTH)), Cell(words.clip(row.get("answer") or "", ANSWER_LENGTH), "mono"),
         Cell(words.NONE if row.get("reward") is None else _signed(row["reward"]))]
        for row in (alignment["ppo"] or {}).get("samples") or []
    ]  # fmt: skip
    columns = [("Step", RIGHT), ("Category", LEFT), ("Request", LEFT), ("Answer", LEFT), ("Reward", RIGHT)]
    caption = (
        "The first answers of some steps, at equal distances from the first to the last, with their whole reward; "
        "long texts are cut."
    )
    return Table("ppo-samples", caption, columns, rows) if rows else None


# Behaviour --------------------------------------------------------------------------------------------------------------


def _label_columns(labels: Sequence[str]) -> Columns:
    return [*[(label, RIGHT) for label in labels], *[(f"{label} − {labels[0]}, points", RIGHT) for label in labels[1:]]]


def _behaviour_rows(found: Json, category: str, measure: str, title: str) -> Rows:
    labels, rows = found["labels"], []
    figures = {label: found["by_label"][label].get(category) or {} for label in labels}
    for modality in dict.fromkeys(name for own in figures.values() for name in own):
        asked = [own[modality]["n"] or 0 for own in figures.values() if modality in own]
        row = [Cell(title if modality == ALL else "", "strong" if modality == ALL else ""), Cell(modality)]
        row.append(Cell("–".join(f"{n:,}" for n in sorted(set(asked)))))
        row += [share((figures[label].get(modality) or {}).get(measure)) for label in labels]
        for label in labels[1:]:
            compared = ((found["compared"][label].get(category) or {}).get(modality) or {}).get(measure)
            pairs = compared["n"] if compared else 0
            better = 0 if measure == "refused" and category != "allowed" else -1
            row.append(change(compared, better, note=words.plural(pairs, "pair") if pairs < max(asked) else ""))
        rows.append(row)
    return rows


def behaviour(alignment: Json) -> Table | None:
    found = alignment["behaviour"]
    if not found:
        return None
    rows = []
    for category in found["categories"]:
        wanted = found["wanted"].get(category)
        title = f"{category}: no {kind_words(wanted[0])}" if wanted else f"{category}: not as wanted"
        rows += _behaviour_rows(found, category, "incorrect", title)
    rows += _behaviour_rows(found, "allowed", "refused", "allowed: refused (over-refusal)")
    columns = [
        ("Requests, and what is counted", LEFT),
        ("Modality", LEFT),
        ("n", RIGHT),
        *_label_columns(found["labels"]),
    ]
    caption = (
        "Share of held-out requests that are not answered as the policy wants, and over-refusal, with 95% "
        "intervals; less is better. Differences are paired by request, in percentage points; a topic in one "
        "phrasing, asked several times, is the unit of all intervals. Picture: the words are alike and only the "
        "picture decides."
    )
    return Table("behaviour", caption, columns, rows)


def behaviour_more(alignment: Json) -> Table | None:
    found = alignment["behaviour"]
    if not found:
        return None
    rows = []
    for category in found["categories"]:
        if category != "allowed":
            rows += _behaviour_rows(found, category, "refused", f"{category}: refused")
    for category in found["categories"]:
        rows += _behaviour_rows(found, category, "off_topic", f"{category}: about another topic")
    for category in found["categories"]:
        rows += _behaviour_rows(found, category, "broken", f"{category}: no answer of this world")
    columns = [
        ("Requests, and what is counted", LEFT),
        ("Modality", LEFT),
        ("n", RIGHT),
        *_label_columns(found["labels"]),
    ]
    caption = (
        "Refusals of either style, answers that are about another topic than was asked about, and answers that are none of the "
        "small world’s (broken)."
    )
    return Table("behaviour-more", caption, columns, rows)


def refusal_style(alignment: Json) -> Table | None:
    found = alignment["behaviour"]
    rows = []
    for category in found["categories"] if found else []:
        for modality in dict.fromkeys(m for f in found["by_label"].values() for m in f.get(category) or {}):
            own = [(found["by_label"][label].get(category) or {}).get(modality) or {} for label in found["labels"]]
            cells = []
            for part in own:
                figures = part.get("style") or {}
                cell = share(figures)
                refusals = words.plural(figures.get("n") or 0, "refusal")
                cells.append(Cell(cell.text, cell.look, note=f"{cell.note} of {refusals}" if cell.note else refusals))
            rows.append([Cell(category if modality == ALL else ""), Cell(modality), *cells])
    columns = [("Requests", LEFT), ("Modality", LEFT), *[(label, RIGHT) for label in found["labels"]]] if found else []
    caption = (
        "Of the refusals, those in the desired style: an apology, no judging. They are refusals of different "
        "requests for each model, so no paired difference is given."
    )
    return Table("refusal-style", caption, columns, rows) if rows else None


def kinds(alignment: Json) -> Table | None:
    """The refusal matrix: category and model by kind of answer."""
    found = alignment["behaviour"]
    rows, names = [], found["kinds"] if found else []
    for category in found["categories"] if found else []:
        for i, label in enumerate(found["labels"]):
            figures = (found["by_label"][label].get(category) or {}).get(ALL)
            if figures:
                cells = heat_cells(figures["kinds"], names, found["wanted"].get(category) or ())
                rows.append([Cell("" if i else category, "strong"), Cell(label), *cells])
    columns = [("Requests", LEFT), (LABEL, LEFT), *[(kind_words(kind), RIGHT) for kind in names]]
    caption = "The refusal matrix: answers of each kind, and their share of the row. Bold: as the policy wants."
    return Table("kinds", caption, columns, rows) if rows else None


def aligned_exams(alignment: Json) -> Table | None:
    found = alignment["exams"]
    if not found:
        return None
    rows = [
        [Cell(str(task["title"])), count(task["n"]), Cell(words.percent(task["chance"] or None, 1)),
         Cell(words.percent(task["first"], 1)), Cell(words.percent(task["second"], 1), "strong"),
         change(task, 1, note=_exam_note(task))]
        for task in found["tasks"]
    ]  # fmt: skip
    together, mean = found["together"], found["mean_of_exams"]
    rows.append(
        [Cell("all items together", "strong"), count(together["n"]), Cell(words.NONE),
         Cell(words.percent(together["first"], 1)), Cell(words.percent(together["second"], 1), "strong"), change(together, 1)]
    )  # fmt: skip
    rows.append(
        [Cell("mean over exams", "strong"), Cell(words.NONE), Cell(words.NONE), Cell(words.percent(mean["first"], 1)),
         Cell(words.percent(mean["second"], 1), "strong"), Cell(words.points(mean["difference"]), "muted")]
    )  # fmt: skip
    columns = [("Exam", LEFT), ("n", RIGHT), ("Chance", RIGHT), (found["before"], RIGHT), (found["after"], RIGHT),
               (f"{found['after']} − {found['before']}, points", RIGHT)]  # fmt: skip
    caption = (
        "Accuracy before and after PPO on the items that both were asked, and the difference paired by item, with "
        "its 95% interval. Exams of code are under Code."
    )
    return Table("aligned-exams", caption, columns, rows)


def _exam_note(task: Json) -> str:
    notes = [] if task["same_way"] else ["not asked the same way"]
    if task["left_out"]:
        notes.append(f"{words.plural(task['left_out'], 'item')} left out, not the same in both")
    return ", ".join(notes)


MAKERS = (
    agreement, confusion, said, rbrm_fit, rbrm_weights, ppo, ppo_samples, behaviour, behaviour_more, refusal_style, kinds,
    aligned_exams,
)  # fmt: skip
