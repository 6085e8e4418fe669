"""Ladder runs as the forecaster sees them, and the reading of a stranger's CSV.

Columns `compute` (FLOPs) and `loss` are needed; `params`, `tokens`, `seed`, `name` are used if there. Nothing is
guessed: a file without `compute` is refused, even if params and tokens are there, since 6ND is off by tens of per
cent for small models.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forescale.core.artifacts import atomic_path
from forescale.core.errors import UserError

COLUMNS = ("name", "compute", "loss", "params", "tokens", "seed")
MINIMUM_COMPUTES = 3
# Looser than any real run: they only catch columns that were swapped or logged in other units.
LOSS_LIMIT = 1e4
COMPUTE_LIMIT = 1e40


@dataclass(frozen=True)
class Run:
    """A finished run: `compute` in FLOPs, `loss` in nats per token (or any unit, the same for all runs). `parts`: what its loss
    is the sum of, by name (see `parts.py`), and `copying` its in-context score, where they are known."""

    name: str
    compute: float
    loss: float
    params: float | None = None
    tokens: float | None = None
    seed: int | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    copying: float | None = None


def check_runs(runs: Sequence[Run]) -> None:
    """Raises UserError where no forecast can be made from `runs`."""
    for run in runs:
        for what, value, limit in (("compute", run.compute, COMPUTE_LIMIT), ("loss", run.loss, LOSS_LIMIT)):
            if not math.isfinite(value) or value <= 0:
                raise UserError(f"run {run.name} has {what} {value}; it must be a finite number above 0.")
            if value > limit:
                raise UserError(
                    f"run {run.name} has {what} {value:g}, above {limit:g}; check the units and the column."
                )
        for what, extra in (("params", run.params), ("tokens", run.tokens)):
            if extra is not None and (not math.isfinite(extra) or extra <= 0):
                raise UserError(
                    f"run {run.name} has {what} {extra}; it must be a finite number above 0, or be left empty."
                )
    distinct = len(group_by_compute([run.compute for run in runs]))
    if distinct < MINIMUM_COMPUTES:
        raise UserError(
            f"a forecast needs runs at {MINIMUM_COMPUTES} or more different computes, and here are {distinct} "
            f"(from {len(runs)} runs); add runs of other sizes."
        )


def group_by_compute(computes: Sequence[float], tolerance: float = 0.01) -> list[list[int]]:
    """Indices of runs whose computes are the same to within `tolerance`, smallest first."""
    order = sorted(range(len(computes)), key=lambda index: computes[index])
    groups: list[list[int]] = []
    for index in order:
        if groups and computes[index] <= computes[groups[-1][0]] * (1 + tolerance):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def read_csv(path: Path | str) -> list[Run]:
    """Runs from a CSV file. Header in any case, spaces stripped, other columns ignored. Raises UserError, one
    sentence."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give a CSV file with the columns compute and loss.") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give a CSV file with the columns compute and loss."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; save it as CSV with the columns compute and loss.") from None
    if "\0" in text:
        raise UserError(f"{path} is not a text file; save it as CSV with the columns compute and loss.")
    if not text.strip():
        raise UserError(f"{path} is empty; it needs a header line with compute and loss, and a line for each run.")
    runs = _parse(path, text)
    check_runs(runs)
    return runs


def _parse(path: Path, text: str) -> list[Run]:
    first = next(line for line in text.splitlines() if line.strip())
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error}, near line {reader.line_num}).") from None
    header = [cell.strip().lower() for cell in rows[0][1]]
    _check_header(path, header)
    runs = []
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(row)} values for {len(header)} columns; mend or remove that line."
            )
        values = dict(zip(header, (cell.strip() for cell in row)))
        seed = _number(path, line, "seed", values.get("seed", ""), positive=False)
        if seed is not None and seed != int(seed):
            raise UserError(f"{path}, line {line}: seed is {values['seed']!r}, not a whole number.")
        compute = _number(path, line, "compute", values["compute"])
        loss = _number(path, line, "loss", values["loss"])
        if compute is None or loss is None:
            raise UserError(
                f"{path}, line {line}: {'compute' if compute is None else 'loss'} is empty; fill it or remove the line."
            )
        runs.append(
            Run(
                name=values.get("name") or f"line {line}",
                compute=compute,
                loss=loss,
                params=_number(path, line, "params", values.get("params", "")),
                tokens=_number(path, line, "tokens", values.get("tokens", "")),
                seed=None if seed is None else int(seed),
            )
        )
    if not runs:
        raise UserError(f"{path} has a header and no runs; add a line for each run.")
    return runs


def _check_header(path: Path, header: list[str]) -> None:
    there = ", ".join(cell if cell.isprintable() else repr(cell) for cell in header)[:200]
    for name in COLUMNS:
        if header.count(name) > 1:
            raise UserError(f"{path} has the column {name} {header.count(name)} times; keep one.")
    if "compute" not in header and {"params", "tokens"} <= set(header):
        raise UserError(
            f"{path} has params and tokens but no compute column; add the FLOPs that each run took, for forescale "
            f"does not "
            f"guess them as 6ND (its columns: {there})."
        )
    missing = [name for name in ("compute", "loss") if name not in header]
    if missing:
        raise UserError(f"{path} has no column {' or '.join(missing)}; its first line has: {there}.")


def _number(path: Path, line: int, column: str, text: str, positive: bool = True) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{path}, line {line}: {column} is {text[:40]!r}, not a number.") from None
    if not math.isfinite(value) or (positive and value <= 0):
        raise UserError(
            f"{path}, line {line}: {column} is {text[:40]}; it must be a finite number{' above 0' if positive else ''}."
        )
    return value


def write_csv(path: Path | str, runs: Sequence[Run]) -> None:
    """The file that `read_csv` reads back to the same runs."""
    with atomic_path(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in runs:
            writer.writerow(["" if getattr(run, column) is None else _text(getattr(run, column)) for column in COLUMNS])


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else repr(value)
