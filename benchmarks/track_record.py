"""Every sealed forecast and what came of it: the record, its figure and the table of docs/track-record.md.

    python -m benchmarks.track_record --add runs/laptop "laptop, 2026-11-24, seed 0"

Adds the forecasts of a finished run folder to docs/track-record.json (its summary decides what may be called a forecast, not this
script), then draws docs/figures/track-record.svg and writes the table between its marks in docs/track-record.md. Nothing is ever
taken out: a run that is there is not added again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from forescale.core.artifacts import read_json
from forescale.core.errors import UserError
from forescale.report import style, words
from forescale.report.collect import summarise
from forescale.report.read import read

DOCS = Path(__file__).resolve().parents[1] / "docs"
RECORD, PAGE, FIGURE = DOCS / "track-record.json", DOCS / "track-record.md", DOCS / "figures" / "track-record.svg"
BEGIN, END = "<!-- table: written by benchmarks/track_record.py -->", "<!-- end of table -->"


def entries(folder: Path, label: str) -> list[dict[str, Any]]:
    """Raises UserError where a forecast of the folder may not be called one."""
    found = read(folder)
    summary = summarise(found, "")
    started = read_json(folder / "target" / "timing.json")["started_at"]
    rows = []
    for forecast, entry in zip(found.forecasts, summary["loss"]["forecasts"]):
        if not entry["is_forecast"]:
            raise UserError(f"{folder}: the forecast from 1/{entry['cap_ratio']:.0f} is none; see its report for why.")
        rows.append(
            {
                "run": label,
                "target_flops": entry["target_flops"],
                "cap_ratio": entry["cap_ratio"],
                "sealed_at": forecast.payload["seal"]["sealed_at"],
                "seal": forecast.payload["seal"]["sha256"],
                "target_began": started,
                "predicted": entry["predicted"],
                "interval": entry["interval"],
                "observed": entry["observed"],
                "baseline_loglog_line": entry["baseline_loglog_line"],
                "baseline_last_rung": entry["baseline_last_rung"],
            }
        )
    return rows


def error(row: dict[str, Any], key: str = "predicted") -> float:
    return row[key] / row["observed"] - 1


def draw(rows: list[dict[str, Any]]) -> None:
    """Errors with their intervals, grouped by run, oldest first; crosses are the straight log-log line."""
    with style.house_style():
        figure = Figure(figsize=(style.WIDTH, 0.7 + 0.24 * len(rows)), layout="constrained")
        ax = figure.subplots()
        for y, row in enumerate(rows):
            low, high = (100 * (value / row["observed"] - 1) for value in row["interval"])
            held = low <= 0 <= high
            colour = style.CAPS[0] if held else style.ALARM
            ax.plot([low, high], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
            ax.plot(100 * error(row), y, "o", ms=5.5, mfc=colour, mec=style.PAPER, mew=0.8)
            ax.plot(100 * error(row, "baseline_loglog_line"), y, "x", ms=4.5, color=style.MUTED, mew=1)
        ax.axvline(0, color=style.OBSERVED, lw=1.2, zorder=0)
        ax.set_yticks(range(len(rows)), [f"{row['run']}, 1/{words.ratio(row['cap_ratio'])}" for row in rows])
        ax.invert_yaxis()
        ax.set_xlim(-50, 65)
        ax.set_xlabel(
            "forecast against what came, %: dot with 90% interval; red where it did not hold; cross: log-log line"
        )
        ax.grid(axis="x")
        held = sum(row["interval"][0] <= row["observed"] <= row["interval"][1] for row in rows)
        title = f"Every sealed forecast of the loss: {held} of {len(rows)} intervals held"
        ax.set_title(title)
        style.save(
            figure, FIGURE, title, "; ".join(f"{r['run']} 1/{r['cap_ratio']:.0f}: {error(r):+.1%}" for r in rows)
        )


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| run | from | sealed, UTC | target began | forecast (90%) | came | error | log-log line | last rung |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["interval"]
        miss = "" if low <= row["observed"] <= high else ", **outside**"
        cells = (
            row["run"],
            f"1/{row['cap_ratio']:,.0f}",
            row["sealed_at"][:19].replace("T", " "),
            row["target_began"][11:19],
            f"{row['predicted']:.3f} ({low:.3f} to {high:.3f})",
            f"{row['observed']:.3f}",
            f"{error(row):+.1%}{miss}",
            f"{error(row, 'baseline_loglog_line'):+.1%}",
            f"{error(row, 'baseline_last_rung'):+.1%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    for low, high in ((1, 31), (31, 316), (316, 3163)):
        some = [row for row in rows if low <= row["cap_ratio"] < high]
        if some:
            mean = sum(abs(math.log(row["predicted"] / row["observed"])) for row in some) / len(some)
            lines += [
                "",
                f"From 1/{low:,} to 1/{high:,}: {len(some)} forecasts, mean absolute error of log loss {mean:.1%}.",
            ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs=2, metavar=("FOLDER", "LABEL"), action="append", default=[])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = read_json(RECORD)["forecasts"] if RECORD.is_file() else []
    for folder, label in options.add:
        new = entries(Path(folder), label)
        rows += [row for row in new if row["seal"] not in {r["seal"] for r in rows}]
    rows.sort(key=lambda row: (row["sealed_at"][:10], row["run"], row["cap_ratio"]))
    RECORD.write_text(json.dumps({"forecasts": rows}, indent=1) + "\n")
    draw(rows)
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
