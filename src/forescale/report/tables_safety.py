"""The tables of the safety evaluation and of the red team's findings. A share has its 95% interval under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forescale.report import words
from forescale.report.alignment import CLASSES, REFUSALS
from forescale.report.alignment_words import kind_words, redteam_groups
from forescale.report.tables import LEFT, RIGHT, Cell, Table
from forescale.report.tables_alignment import LABEL, Columns, change, count, heat_cells, share
from forescale.report.tables_exams import share_cell

Json = dict[str, Any]
FINDINGS = 60


def _entries(alignment: Json, part: str) -> dict[str, dict[str, Json]]:
    """name -> label -> entry, of a part of safety.json that is a list."""
    found: dict[str, dict[str, Json]] = {}
    for label, result in ((alignment["safety"] or {}).get("by_label") or {}).items():
        for entry in result.get(part) or []:
            found.setdefault(str(entry.get("name")), {})[label] = entry
    return found


def _title(entries: Mapping[str, Json]) -> Cell:
    first = next(iter(entries.values()))
    return Cell(str(first.get("title") or first.get("name")), title=str(first.get("name")))


SAFETY_RATES = (("incorrect", "Not the right behaviour"), ("refused", "Refused"), ("harmful", "Disallowed content"))
# Signs of what is better: of refusals only where the request is allowed.
BETTER = {"incorrect": -1, "harmful": -1}


def _by_kind(alignment: Json) -> Iterator[tuple[list[Cell], str, str, str, Json]]:
    """(first cells of the row, set, kind, label, figures) of every set and kind, label under label."""
    for name, entries in _entries(alignment, "sets").items():
        kinds = dict.fromkeys(kind for entry in entries.values() for kind in entry.get("kinds") or {})
        title = _title(entries)
        for kind in kinds:
            shown = kind
            for label, entry in entries.items():
                if figures := (entry.get("kinds") or {}).get(kind):
                    yield [title, Cell(shown), Cell(label)], name, kind, label, figures
                    title, shown = Cell(""), ""


def safety(alignment: Json) -> Table | None:
    against = (alignment["safety"] or {}).get("against") or {}
    rows = []
    for cells, name, kind, label, figures in _by_kind(alignment):
        differences = (((against.get(label) or {}).get("sets") or {}).get(name) or {}).get(kind) or {}
        unjudged = figures.get("unjudged") or 0
        note = f"{unjudged:,} not judged" if unjudged else ""
        row = [*cells, Cell(words.NONE if figures.get("requests") is None else f"{figures['requests']:,}", note=note)]
        for rate, _ in SAFETY_RATES:
            row.append(share(figures.get(rate)))
            row += [_safety_change(differences, rate, kind)] if against else []
        style = figures.get("style") or {}
        cell, refusals = share(style, ""), style.get("refusals") or 0
        row.append(Cell(cell.text, note=f"{cell.note} of {refusals:,}" if refusals else ""))
        rows.append(row)
    columns: Columns = [("Requests", LEFT), ("Kind", LEFT), (LABEL, LEFT), ("n", RIGHT)]
    for _, title in SAFETY_RATES:
        columns += [(title, RIGHT), ("change, points", RIGHT)] if against else [(title, RIGHT)]
    columns.append(("Style of refusals", RIGHT))
    caption = (
        "Rates over requests. Refusals of allowed requests are over-refusal. Style: refusals in the desired style."
    )
    firsts = dict.fromkeys(str(found.get("first")) for found in against.values())
    caption += f" Changes are from {' and from '.join(firsts)}, paired by request." if against else ""
    return Table("safety", caption, columns, rows) if rows else None


def _safety_change(differences: Json, rate: str, kind: str) -> Cell:
    """Of `against.json`, where what is incorrect is given as what is correct."""
    better = BETTER.get(rate, -1 if kind == "allowed" else 0)
    if rate != "incorrect":
        return change(differences.get(rate), better)
    found = differences.get("correct")
    if not found:
        return change(None)
    low, high = found["interval"]
    return change({"difference": -found["difference"], "interval": [-high, -low]}, better)


def safety_matrix(alignment: Json) -> Table | None:
    rows = []
    for cells, _, kind, _, figures in _by_kind(alignment):
        marked = {"disallowed": REFUSALS, "allowed": ("safe",)}.get(kind, ())
        rows.append([*cells, *heat_cells(figures.get("matrix") or {}, CLASSES, marked)])
    columns = [("Requests", LEFT), ("Kind", LEFT), (LABEL, LEFT), *[(kind_words(name), RIGHT) for name in CLASSES]]
    caption = (
        "The refusal matrix: answers of each class, and their share of the row. Bold: what is right, where "
        "the kind alone says it."
    )
    return Table("safety-matrix", caption, columns, rows) if rows else None


def toxicity(alignment: Json) -> Table | None:
    rows = []
    for entries in _entries(alignment, "toxicity").values():
        for i, (label, entry) in enumerate(entries.items()):
            highest = entry.get("expected_maximum") or {}
            cell = Cell(words.loss(highest.get("value")), "strong", note=_numbers(highest))
            rows.append([Cell("") if i else _title(entries), Cell(label), count(entry.get("prompts")), count(entry.get("unscored")),
                         count(entry.get("samples")), cell, share(entry.get("probability")), share(entry.get("fraction")),
                         Cell(str((entry.get("scorer") or {}).get("name") or "not named"))])  # fmt: skip
    columns = [("Prompts", LEFT), (LABEL, LEFT), ("n", RIGHT), ("Unscored", RIGHT), ("Samples each", RIGHT),
               ("Expected maximum", RIGHT), ("Probability", RIGHT), ("Fraction", RIGHT), ("Scorer", LEFT)]  # fmt: skip
    caption = (
        "Toxicity of continuations of RealToxicityPrompts (Gehman et al. 2020): the mean of the highest score of a "
        "prompt’s samples (0 to 1), the share of prompts with a sample of 0.5 or more, the share of samples of 0.5 "
        "or more. Scores of different scorers cannot be compared."
    )
    return Table("toxicity", caption, columns, rows) if rows else None


def _numbers(figures: Json) -> str:
    found = words.interval(figures.get("interval"))
    return "" if found == words.NONE else found


def jailbreaks(alignment: Json) -> Table | None:
    by_label = (alignment["safety"] or {}).get("by_label") or {}
    found = {label: result["jailbreaks"] for label, result in by_label.items() if result.get("jailbreaks")}
    if not found:
        return None
    labels, rows = list(found), []
    for name in dict.fromkeys(name for result in found.values() for name in result.get("techniques") or {}):
        parts = [(result.get("techniques") or {}).get(name) for result in found.values()]
        rows.append([Cell(name.replace("_", " ")), *_attack(parts)])
    plain = [[Cell("asked plainly", "strong"), *_attack([result.get("plain") for result in found.values()])]]
    some = [
        [Cell("any template gets through", "strong"), *_attack([{"success": r.get("any")} for r in found.values()])]
    ]
    columns: Columns = [("Technique", LEFT)]
    for label in labels:
        columns += [(label if len(labels) > 1 else "Success", RIGHT), ("to plainly, points", RIGHT)]
    caption = (
        "Jailbreak templates by technique: share of disallowed requests that are answered with disallowed content, "
        "and the difference to the same requests asked plainly, paired."
    )
    return Table("jailbreaks", caption, columns, plain + rows + some)


def _attack(parts: Sequence[Json | None]) -> list[Cell]:
    cells = []
    for part in parts:
        cells += [share((part or {}).get("success")), change((part or {}).get("difference"), -1, "value")]
    return cells


def safety_facts(alignment: Json) -> Table | None:
    rows = []
    for entries in _entries(alignment, "facts").values():
        for i, (label, entry) in enumerate(entries.items()):
            rows.append([Cell("") if i else _title(entries), Cell(label), count(entry.get("n")),
                         Cell(words.percent(entry.get("chance"), 1)), share_cell(entry),
                         share_cell(entry.get("by_whole_option"), look="")])  # fmt: skip
    columns = [("Pairs", LEFT), (LABEL, LEFT), ("n", RIGHT), ("Chance", RIGHT), ("True one chosen", RIGHT),
               ("without regard to length", RIGHT)]  # fmt: skip
    return Table("safety-facts", "A truth against a false belief that is often heard.", columns, rows) if rows else None


# Red team ---------------------------------------------------------------------------------------------------------------


def redteam(alignment: Json) -> Table | None:
    if not alignment["redteam"]:
        return None
    rows = []
    for i, (name, tally) in enumerate(redteam_groups(alignment["redteam"])):
        p_value = tally.get("p_value")
        fixed, regressed = tally.get("fixed"), tally.get("regressed")
        rows.append([Cell(name, "" if i else "strong"), Cell(f"{fixed or 0:,}", "hit" if fixed else "muted"),
                     count(tally.get("still_failing")), count(tally.get("still_right")),
                     Cell(f"{regressed or 0:,}", "miss" if regressed else "muted"), count(tally.get("not_judged")),
                     Cell(words.NONE if p_value is None else f"{p_value:.2g}")])  # fmt: skip
    columns = [("Findings", LEFT), ("Fixed", RIGHT), ("Still failing", RIGHT), ("Still right", RIGHT), ("Regressed", RIGHT),
               ("Not judged", RIGHT), ("p", RIGHT)]  # fmt: skip
    caption = (
        "What became of the red team’s findings from before alignment to after it. p: exact McNemar test of fixed "
        "against regressed, not corrected for the number of groups."
    )
    return Table("redteam", caption, columns, rows)


ORDER = ("regressed", "still failing", "fixed", "still right", "not judged")
OUTCOMES = {"fixed": "hit", "regressed": "miss"}


def redteam_findings(alignment: Json) -> Table | None:
    found = (alignment["redteam"] or {}).get("rows") or []
    place = {name: i for i, name in enumerate(ORDER)}
    worst = sorted(found, key=lambda row: (place.get(row.get("outcome"), len(ORDER)), -(row.get("severity") or 0)))
    rows = [
        [Cell(words.clip(row.get("id"), 40)), Cell(str(row.get("category") or "")), count(row.get("severity")),
         *[Cell(kind_words(str(row.get(key) or words.NONE))) for key in ("expected", "before", "after")],
         Cell(str(row.get("outcome")), OUTCOMES.get(str(row.get("outcome")), ""))]
        for row in worst[:FINDINGS]
    ]  # fmt: skip
    columns = [("Finding", LEFT), ("Category", LEFT), ("Severity", RIGHT), ("Expected", LEFT), ("Before", LEFT), ("After", LEFT),
               ("", LEFT)]  # fmt: skip
    left = f", {len(rows)} of {len(found):,}" if len(rows) < len(found) else ""
    return Table("redteam-findings", f"Findings, regressed ones first{left}.", columns, rows) if rows else None


MAKERS = (safety, safety_matrix, toxicity, jailbreaks, safety_facts, redteam, redteam_findings)
