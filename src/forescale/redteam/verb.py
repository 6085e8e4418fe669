"""`forescale redteam`: its flags, and what they do."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from forescale.core.artifacts import write_text
from forescale.core.errors import UserError
from forescale.data.conversations import Row, json_rows, to_messages
from forescale.data.sources import RemoteFile, find_files
from forescale.redteam.records import AMENDABLE, SCHEMA, Finding, add, amend, finding_of, load, retract, verify

SHOWN = 60  # characters of a prompt in the list


@dataclass(frozen=True)
class Import:
    """Append findings from CSV or JSON lines to a findings file; those that it has already are skipped.

    A wrong row stops the import, named by file and line, before anything is written. docs/redteam.md has the columns.
    Example: forescale redteam import session.csv --to findings.jsonl
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE")]
    """CSV (.csv) or JSON lines of findings; another findings file gives those that it has now"""
    to: Path
    """the findings file to append to"""


@dataclass(frozen=True)
class List:
    """List findings as they stand after amendments and retractions.

    Example: forescale redteam list findings.jsonl --severity 4
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """the findings file"""
    category: str | None = None
    """only of this category"""
    severity: int | None = None
    """only as severe as this (1 to 5) or worse"""
    json: bool = False
    """print JSON instead of a table"""


@dataclass(frozen=True)
class Export:
    """Write findings as data: an evaluation set, or conversations and preference pairs for tuning.

    Example: forescale redteam export findings.jsonl --as preferences --out pairs.jsonl
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """the findings file"""
    as_: Annotated[Literal["requests", "sft", "preferences", "messages"], arg(name="as")]
    """requests: what was asked and what is expected; sft: with the ideal answer; preferences: the ideal over the bad answer;
    messages: with the bad answer, for people and judges"""
    out: Path
    """the JSON-lines file to write"""
    hold_out: float = 0.0
    """share of requests to examine on: `sft` and `preferences` leave them out, the others hold them alone (0: no split)"""


@dataclass(frozen=True)
class Verify:
    """Check that no record was changed, moved or taken out.  Example: forescale redteam verify findings.jsonl"""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """the findings file"""
    head: str = ""
    """a hash that an earlier check printed: shows also whether records up to it were cut off since"""


@dataclass(frozen=True)
class Amend:
    """Correct a finding: the old record stays, a new one says how to read it.

    Example: forescale redteam amend findings.jsonl 1f0c... --severity 4 --expert "A. Ito" --reason "works on the new model too"
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """the findings file"""
    id: Annotated[Positional[str], arg(metavar="ID")]
    """the finding's id, as `list` shows it"""
    expert: str
    """who amends it"""
    reason: str
    """why"""
    domain: str | None = None
    category: str | None = None
    severity: int | None = None
    """1 to 5, 5 the worst"""
    technique: str | None = None
    expected: Literal["refusal_desired", "safe"] | None = None
    """what the answer should have been"""
    ideal: str | None = None
    """the text of an ideal answer"""
    notes: str | None = None


@dataclass(frozen=True)
class Retract:
    """Say that a finding is none; its record stays.

    Example: forescale redteam retract findings.jsonl 1f0c... --expert "A. Ito" --reason "the source was public"
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """the findings file"""
    id: Annotated[Positional[str], arg(metavar="ID")]
    """the finding's id, as `list` shows it"""
    expert: str
    """who retracts it"""
    reason: str
    """why"""


Redteam = (
    Annotated[Import, subcommand("import")]
    | Annotated[List, subcommand("list")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Amend, subcommand("amend")]
    | Annotated[Retract, subcommand("retract")]
)


def redteam(options: Redteam) -> str:
    """Does what the sub-command says; returns what to print. Raises UserError for bad input or a broken chain."""
    if isinstance(options, Import):
        return _import(options)
    if isinstance(options, List):
        return _list(options)
    if isinstance(options, Export):
        return _export(options)
    if isinstance(options, Amend):
        changes = {name: value for name in AMENDABLE if (value := getattr(options, name)) is not None}
        if not changes:
            raise UserError(f"nothing to amend; give one of {', '.join('--' + name for name in AMENDABLE)}.")
        amend(options.file, options.id, options.expert, options.reason, changes)
        return f"{options.file}: finding {options.id} amended ({', '.join(changes)})"
    if isinstance(options, Retract):
        retract(options.file, options.id, options.expert, options.reason)
        return f"{options.file}: finding {options.id} retracted"
    ledger = verify(options.file, options.head)
    kinds = Counter(record["kind"] for record in ledger.records)
    cut = f"\na record at the end was cut off while it was written ({len(ledger.cut)} bytes; not counted)"
    return (
        f"{options.file}: {len(ledger.records)} records as they were written ({kinds['finding']} findings, "
        f"{kinds['amendment']} amendments, {kinds['retraction']} retractions)\nhead {ledger.head}{cut if ledger.cut else ''}"
    )


# Import -----------------------------------------------------------------------------------------------------------------


def _import(options: Import) -> str:
    if not options.files:
        raise UserError("name the files to import: forescale redteam import FILE ... --to findings.jsonl.")
    # All rows of all files are looked at before the first is written.
    findings = [finding for path in options.files for finding in read_findings(path)]
    added = add(options.to, findings)
    return (
        f"{options.to}: {len(added.ids)} findings added, {added.duplicates} skipped that it had already or came twice\n"
        f"head {added.head}"
    )


def read_findings(path: str) -> Iterator[Finding]:
    """The findings of a CSV or JSON-lines file, or those that stand in a findings file, in the file's order.

    A row has a finding's fields; in place of `messages` it may have `prompt`, and with it `system` and `picture` (a path beside
    the file). Raises UserError naming file and line for a row that is not a finding.
    """
    if path.lower().endswith(".csv"):
        for file in find_files(path, (".csv",)):
            for row in _csv_rows(file):
                yield _row_finding(row)
        return
    for number, row in enumerate(json_rows(path)):
        if number == 0 and {"schema", "kind", "hash"} <= row.value.keys():
            if row.value["schema"] != SCHEMA or not Path(path).is_file():
                raise UserError(
                    f"{path} is a findings file that cannot be read here; give a local one of schema {SCHEMA}."
                )
            yield from load(Path(path)).findings.values()
            return
        yield _row_finding(row)


def _csv_rows(file: RemoteFile) -> Iterator[Row]:
    """Rows of a table with a header, empty cells left out. `where` names the line that a row ends on."""
    try:
        text = file.system.cat_file(file.path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.path} is not UTF-8 text (byte {error.start}); save it as CSV UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file.path} cannot be read ({error}).") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    found = False
    try:
        for cells in reader:
            where = f"{file.path}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if twice := next((name for name in header if header.count(name) > 1), None):
                    raise UserError(f"{where}: two columns are called {twice!r:.60}; rename or remove one.")
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where} has {len(cells)} cells, the header {len(header)}; quote cells that hold commas."
                )
            value: dict[str, Any] = {name: cell for name, cell in zip(header, cells) if cell.strip()}
            severity = value.get("severity", "").strip()
            found = True
            yield Row(where, file, {**value, "severity": int(severity)} if severity in tuple("12345") else value)
    except csv.Error as error:
        raise UserError(f"{file.path}:{reader.line_num} is not CSV ({error}).") from error
    if not found:
        raise UserError(f"{file.path} holds no finding: a header of column names and a row a finding are needed.")


def _row_finding(row: Row) -> Finding:
    """The finding of a row that may have `prompt`, `system` and `picture` in place of `messages`."""
    value = dict(row.value)
    short = {name: value.pop(name, None) for name in ("prompt", "system", "picture")}
    if value.get("messages") is None:
        if short["prompt"] is None and short["picture"] is None:
            raise UserError(f'{row.where}: "prompt" (or "messages") is missing; every finding has one.')
        content = [{"type": "image", "image": short["picture"]}] if short["picture"] is not None else []
        content += [{"type": "text", "text": short["prompt"]}] if short["prompt"] is not None else []
        system = [{"role": "system", "content": short["system"]}] if short["system"] is not None else []
        value["messages"] = [*system, {"role": "user", "content": content}]
    elif given := next((name for name, what in short.items() if what is not None), None):
        raise UserError(f'{row.where} has both "messages" and "{given}"; leave one out.')
    finding = finding_of(Row(row.where, row.file, value))
    to_messages(finding.turns, 1, row.where)
    return finding


# List and export --------------------------------------------------------------------------------------------------------


def _list(options: List) -> str:
    found = {
        name: finding
        for name, finding in load(options.file).findings.items()
        if options.category in (None, finding.category) and finding.severity >= (options.severity or 1)
    }
    if options.json:
        return json.dumps([_facts(name, finding) for name, finding in found.items()], indent=1, ensure_ascii=False)
    if not found:
        return f"{options.file}: no such finding"
    wide = max(8, *(len(finding.category) for finding in found.values()))
    lines = [f"{'id':16} sev {'category':{wide}} {'expected':15} {'expert':14} {'model':16} prompt"]
    for name, f in found.items():
        pictures = "[picture] " if any(turn.has_picture for turn in f.turns) else ""
        prompt = " ".join((pictures + f.prompt).split())
        lines.append(
            f"{name} {f.severity:3} {f.category:{wide}} {f.expected:15} {f.expert[:14]:14} {f.model[:16]:16} "
            f"{prompt if len(prompt) <= SHOWN else prompt[: SHOWN - 3] + '...'}"
        )
    return "\n".join(lines)


def _facts(name: str, finding: Finding) -> dict[str, Any]:
    """A finding without the bytes of its pictures."""
    texts = {
        key: getattr(finding, key) for key in ("category", "severity", "expected", "expert", "domain", "technique")
    }
    rest = {key: getattr(finding, key) for key in ("answer", "ideal", "model", "notes", "time")}
    pictures = sum(isinstance(part, bytes) for turn in finding.turns for part in turn.parts)
    turns = [{"role": turn.role, "text": turn.text} for turn in finding.turns]
    return {"id": name, **texts, "messages": turns, "pictures": pictures, **rest}


def _export(options: Export) -> str:
    from forescale.redteam.convert import Side, rows, split

    if not 0 <= options.hold_out < 1:
        raise UserError(f"--hold-out {options.hold_out} is not a share from 0 up to 1.")
    if options.out.exists() and options.out.resolve() == options.file.resolve():
        raise UserError(f"{options.out} is the findings file itself; give another --out.")
    findings = list(load(options.file).findings.values())
    trains = options.as_ in ("sft", "preferences")
    side: Side = "all" if options.hold_out == 0 else "train" if trains else "held_out"
    chosen = split(findings, options.hold_out, side)
    written = rows(chosen, options.as_)
    if not written:
        lack = " with an ideal answer" if trains else ""
        raise UserError(f"{options.file} has no finding{lack} to export; nothing was written.")
    write_text(options.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written))
    left = f", {len(chosen) - len(written)} without an ideal answer left out" if trains else ""
    kept = f", {len(findings) - len(chosen)} on the other side of the split" if side != "all" else ""
    return f"{options.out}: {len(written)} of {len(findings)} findings{left}{kept}"
