"""The report's tables: from the summary to rows of text. The template decides nothing but how a cell looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forescale.report import words

Json = dict[str, Any]
LEFT, RIGHT = "text", "number"


@dataclass(frozen=True)
class Cell:
    text: str
    look: str = ""  # a CSS class: hit, miss, muted, mono, cap0 ...
    title: str = ""
    note: str = ""  # a second, smaller line


@dataclass(frozen=True)
class Table:
    """`columns` are (heading, LEFT or RIGHT); the first cell of a row is its heading."""

    name: str
    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]


def _cells(*values: str | Cell) -> list[Cell]:
    return [value if isinstance(value, Cell) else Cell(value) for value in values]


def verdict_cell(entry: Json) -> Cell:
    inside = entry["inside_interval"]
    if inside is None:
        return Cell(words.NONE, "muted")
    return Cell("inside", "hit") if inside else Cell("outside", "miss")


def _named(entry: Json) -> str:
    return "forecast" if entry["is_forecast"] else ("sealed" if entry.get("pending") else "not a forecast")


def _standing(entry: Json) -> Cell:
    if entry["is_forecast"]:
        return Cell(
            entry["standing"].removesuffix(" the target’s first step").removeprefix("sealed "), "", entry["standing"]
        )
    return Cell(
        "before; target not run yet" if entry["pending"] else entry["standing"], "" if entry["pending"] else "miss"
    )


def _relative(value: float | None, observed: float | None) -> str:
    if value is None:
        return words.NONE
    return words.loss(value) + ("" if not observed else f" ({words.signed_percent(value / observed - 1, 1)})")


def forecasts(summary: Json) -> Table | None:
    entries = summary["loss"]["forecasts"]
    if not entries:
        return None
    rows = []
    for i, e in enumerate(entries):
        rows.append(
            _cells(
                Cell(f"1/{words.ratio(e['cap_ratio'])}", f"cap{i % 4}"),
                words.percent(e["ladder_share"], 1)
                if (e["ladder_share"] or 0) >= 0.01
                else words.percent(e["ladder_share"], 3),
                f"{e['n_runs']}",
                Cell(words.loss(e["predicted"]), "strong"),
                words.interval(e["interval"]),
                Cell(words.loss(e["observed"]), "strong"),
                Cell(words.signed_percent(e["relative_error"]), "strong"),
                verdict_cell(e),
                _relative(e["baseline_last_rung"], e["observed"]),
                _relative(e["baseline_loglog_line"], e["observed"]),
                _standing(e),
            )
        )
    levels = " and ".join(dict.fromkeys(words.level(e["interval_level"]) for e in entries if e["interval_level"]))
    caption = (
        "Final loss in nats per token, forecast from a largest run and a whole ladder with these shares of the "
        "target’s compute. Errors are (predicted − observed) / observed. Baselines: the largest run’s loss carried "
        "on, and a straight line in log-log, with their errors in brackets. Sealed: how long before the target’s "
        "first step."
    )
    columns = [
        ("Largest run", LEFT),
        ("Whole ladder", RIGHT),
        ("Runs", RIGHT),
        ("Predicted", RIGHT),
        (f"{levels} interval".strip(), RIGHT),
        ("Observed", RIGHT),
        ("Error", RIGHT),
        ("Interval", LEFT),
        ("Last rung", RIGHT),
        ("Log-log line", RIGHT),
        ("Sealed", LEFT),
    ]
    return Table("forecasts", caption, columns, rows)


def laws(summary: Json) -> Table | None:
    rows = []
    for i, e in enumerate(summary["loss"]["forecasts"]):
        members = e["ensemble"] or ([{**e["law"], "predicted": e["predicted"], "weight": None}] if e["law"] else [])
        for member in members:
            parameters = ", ".join(
                f"{k} = {words.number(v, 4).replace('-', '−')}"
                for k, v in (member.get("parameters") or {}).items()
                if _real(v)
            )
            error = member["predicted"] / e["observed"] - 1 if e["observed"] and member.get("predicted") else None
            rows.append(
                _cells(
                    Cell(f"1/{words.ratio(e['cap_ratio'])}", f"cap{i % 4}"),
                    str(member.get("name") or ""),
                    Cell(str(member.get("formula") or ""), "mono"),
                    parameters,
                    words.percent(member.get("weight"), 0),
                    words.loss(member.get("predicted")),
                    words.signed_percent(error),
                )
            )
    columns = [
        ("From", LEFT),
        ("Law", LEFT),
        ("Form", LEFT),
        ("Parameters", LEFT),
        ("Weight", RIGHT),
        ("Predicts", RIGHT),
        ("Error", RIGHT),
    ]
    caption = (
        "The forms that each forecast weighed. Where they disagree, the extrapolation is decided by the choice of form."
    )
    return Table("laws", caption, columns, rows) if rows else None


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def floors(summary: Json) -> Table | None:
    rows = []
    for i, e in enumerate(summary["loss"]["forecasts"]):
        for point in e["floor_sensitivity"]:
            error = point["predicted"] / e["observed"] - 1 if e["observed"] and point.get("predicted") else None
            cap = Cell(f"1/{words.ratio(e['cap_ratio'])}", f"cap{i % 4}")
            rows.append(
                _cells(
                    cap,
                    words.loss(point.get("floor")),
                    words.loss(point.get("predicted")),
                    words.signed_percent(error),
                    words.percent(point.get("fit_error"), 2),
                )
            )
    columns = [
        ("From", LEFT),
        ("Irreducible loss", RIGHT),
        ("Predicts", RIGHT),
        ("Error", RIGHT),
        ("Error of the fit", RIGHT),
    ]
    caption = (
        "How the forecast moves with the irreducible loss, which small runs identify least. Where rows fit alike but "
        "predict differently, the ladder could not tell them apart."
    )
    return Table("floors", caption, columns, rows) if rows else None


ROUTES = ("compute", "loss")


def _route(entry: Json, name: str) -> Cell:
    return Cell(words.loss(entry["routes"].get(name)), "strong" if entry["route"] == name else "")


def capability(summary: Json) -> Table | None:
    rows = []
    caps = [e["cap_ratio"] for e in summary["loss"]["forecasts"]]
    for e in summary["capability"]["forecasts"]:
        made = e["status"] == "forecast"
        standing = _named({**e, "pending": e["observed"] is None}) if made else "no forecast"
        rows.append(
            _cells(
                str(e["family"]), str(e["bucket"]), f"{e['n_problems']}",
                Cell(f"1/{words.ratio(e['cap_ratio'])}", f"cap{caps.index(e['cap_ratio']) % 4}"),
                Cell(words.loss(e["predicted"]), "strong"), words.interval(e["interval"]),
                Cell(words.loss(e["observed"]), "strong", e["not_observed_because"] or ""),
                words.signed_percent(e["relative_error"], 1), verdict_cell(e), words.loss(e["baseline_last_rung"]),
                *(_route(e, name) for name in ROUTES),
                Cell(standing, "" if standing in ("forecast", "sealed") else "miss", "; ".join(e["warnings"])),
            )
        )  # fmt: skip
    columns = [
        ("Family", LEFT),
        ("Bucket", LEFT),
        ("n", RIGHT),
        ("From", LEFT),
        ("Predicted", RIGHT),
        ("Interval", RIGHT),
        ("Observed", RIGHT),
        ("Error", RIGHT),
        ("Interval held", LEFT),
        ("Last rung", RIGHT),
        ("By compute", RIGHT),
        ("By loss", RIGHT),
        ("Standing", LEFT),
    ]
    caption = (
        "Mean −log pass rate in nats over a bucket’s problems; lower is better. n is the number of problems. By compute, by loss: "
        "what the law in compute and the one through the forecast loss say; the one in bold was the better in hindsight."
    )
    return Table("capability", caption, columns, rows) if rows else None


def modality(summary: Json) -> Table | None:
    rows = []
    caps = [e["cap_ratio"] for e in summary["loss"]["forecasts"]]
    for name, group in summary["loss"]["by_modality"].items():
        for e in group["forecasts"]:
            cap = Cell(f"1/{words.ratio(e['cap_ratio'])}", f"cap{caps.index(e['cap_ratio']) % 4}")
            named = _named(e)
            rows.append(
                _cells(
                    name,
                    cap,
                    Cell(words.loss(e["predicted"]), "strong"),
                    words.interval(e["interval"]),
                    Cell(words.loss(e["observed"]), "strong"),
                    words.signed_percent(e["relative_error"]),
                    verdict_cell(e),
                    _relative(e["baseline_last_rung"], e["observed"]),
                    _relative(e["baseline_loglog_line"], e["observed"]),
                    Cell(named, "miss" if named == "not a forecast" else ""),
                )
            )
    columns = [
        ("Modality", LEFT),
        ("From", LEFT),
        ("Predicted", RIGHT),
        ("Interval", RIGHT),
        ("Observed", RIGHT),
        ("Error", RIGHT),
        ("Interval held", LEFT),
        ("Last rung", RIGHT),
        ("Log-log line", RIGHT),
        ("Standing", LEFT),
    ]
    return Table("modality", "Loss in nats per token on the tokens of each modality.", columns, rows) if rows else None


def exponents(summary: Json) -> Table | None:
    series = {"all": summary["loss"]["local_exponents"]}
    series |= {name: group["local_exponents"] for name, group in summary["loss"]["by_modality"].items()}
    rows = []
    for name, values in series.items():
        for e in values:
            steady = Cell("steady", "") if e["steady"] else Cell("not steady", "miss")
            rows.append(
                _cells(name, words.scientific(e.get("from")), words.scientific(e.get("to")),
                       words.number(e.get("exponent"), 3).replace("-", "−"), steady)
            )  # fmt: skip
    columns = [("Loss", LEFT), ("From, FLOPs", RIGHT), ("To, FLOPs", RIGHT), ("Exponent", RIGHT), ("", LEFT)]
    caption = "Slope of log loss against log 6 N D between rungs 2.5 times apart or more; steady: within a quarter of the median."
    return Table("exponents", caption, columns, rows) if rows else None


def ladder(summary: Json) -> Table | None:
    rows = []
    for r in summary["ladder"]:
        used = ", ".join(f"1/{words.ratio(c)}" for c in r["used_by_caps"])
        shape = f"{r['width']} × {r['depth']}" if r["width"] and r["depth"] else words.NONE
        rows.append(
            _cells(
                Cell(r["name"], "strong" if r["role"] == "target" else ""),
                words.NONE if r["seed"] is None else str(r["seed"]),
                words.scientific(r["compute"]),
                shape,
                words.count(r["params"]),
                words.count(r["tokens"]),
                words.loss(r["loss"]),
                words.loss(r["bits_per_byte"]),
                words.duration(r["seconds"]),
                Cell(r["status"], "" if r["status"] == "ok" else "miss", "; ".join(r["notes"])),
                "the target" if r["role"] == "target" else used or "none",
            )
        )
    columns = [
        ("Run", LEFT),
        ("Seed", RIGHT),
        ("FLOPs", RIGHT),
        ("Width × depth", RIGHT),
        ("Parameters", RIGHT),
        ("Tokens", RIGHT),
        ("Loss", RIGHT),
        ("Bits per byte", RIGHT),
        ("Time", RIGHT),
        ("Status", LEFT),
        ("Used by forecasts", LEFT),
    ]
    return Table("ladder", "Every run, those that failed included.", columns, rows) if rows else None


def data(summary: Json) -> Table | None:
    rows = []
    for s in summary["data"]["sources"]:
        digest = str(s.get("sha256") or "")
        rows.append(
            _cells(
                str(s.get("name")),
                str(s.get("modality") or words.NONE),
                words.percent(s.get("weight"), 1),
                words.count(s.get("documents")),
                words.count(s.get("validation_documents")),
                words.count(s.get("characters")),
                words.count(s.get("images")) if s.get("images") else words.NONE,
                Cell(str(s.get("license") or "not stated"), "" if s.get("license") else "miss"),
                str(s.get("origin") or words.NONE),
                str(s.get("version") or words.NONE),
                Cell(digest[:12] or words.NONE, "mono", digest),
            )
        )
    columns = [("Source", LEFT), ("Modality", LEFT), ("Weight", RIGHT), ("Documents", RIGHT), ("Validation", RIGHT),
               ("Characters", RIGHT), ("Pictures", RIGHT), ("Licence", LEFT), ("Origin", LEFT), ("Version", LEFT),
               ("SHA-256", LEFT)]  # fmt: skip
    return (
        Table("data", "What the models were trained and validated on, and by whose leave.", columns, rows)
        if rows
        else None
    )


def throughput(summary: Json) -> Table | None:
    t = summary["throughput"]
    flops = [
        ("Training speed", t["flops_per_second"]),
        ("Peak of a matrix product on this machine", t["matmul_peak_flops_per_second"]),
    ]
    rows = [_cells("Tokens per second", words.count(t["tokens_per_second"]))] if t["tokens_per_second"] else []
    rows += [_cells(name, f"{words.scientific(value)} FLOP/s") for name, value in flops if value]
    rows += (
        [_cells("Utilisation, of that peak", words.percent(t["utilisation"], 1))]
        if t["utilisation"] is not None
        else []
    )
    memory = summary["peak_memory_bytes"]
    rows += [_cells("Peak memory of any run", f"{memory / 2**30:.2f} GiB")] if memory else []
    plain = [
        ("Threads", t["threads"]),
        ("Compiled", None if t["compiled"] is None else ("yes" if t["compiled"] else "no")),
        ("Attempts (1: never interrupted)", t["attempts"]),
    ]
    rows += [_cells(name, str(value)) for name, value in plain if value is not None]
    return Table("throughput", "The target run.", [("Measure", LEFT), ("Value", RIGHT)], rows) if rows else None


def provenance(summary: Json) -> Table | None:
    rows = []
    for r in summary["provenance"]:
        if r["content"] is None:
            rows.append(_cells(Cell(r["path"], "mono"), *[words.NONE] * 5, Cell("no manifest", "miss")))
            continue
        rows.append(
            _cells(
                Cell(r["path"], "mono"), str(r["stage"]), Cell(str(r["content"])[:12], "mono", str(r["content"])),
                Cell(str(r["code"])[:12], "mono", str(r["code"])), words.NONE if r["seed"] is None else str(r["seed"]),
                words.duration(r["seconds"]), f"{words.clock(r['finished_at'])} (forescale {r['version']})",
            )
        )  # fmt: skip
    columns = [("Artifact", LEFT), ("Stage", LEFT), ("Content", LEFT), ("Code", LEFT), ("Seed", RIGHT), ("Time", RIGHT),
               ("Finished", LEFT)]  # fmt: skip
    caption = "Beginnings of SHA-256 hashes from each artifact’s manifest; summary.json has them in full."
    return Table("provenance", caption, columns, rows) if rows else None
