"""What human experts found when they attacked a model: an append-only file, a record a line.

    {"schema": 1, "kind": "finding",    "of": ID, "written": TIME, "finding": {...}, "previous": HASH, "hash": HASH}
    {"schema": 1, "kind": "amendment",  "of": ID, "written": TIME, "expert": ..., "reason": ..., "changes": {...}, ...}
    {"schema": 1, "kind": "retraction", "of": ID, "written": TIME, "expert": ..., "reason": ..., ...}

- `hash` is the SHA-256 of the record without it, as canonical JSON; `previous` is the hash of the record before, so that a
  record changed, moved or taken out shows. What a chain cannot show is that its last records were cut off, or all of it made
  anew: note the head's hash elsewhere and give it to `verify`.
- Nothing is ever changed: later records amend or retract earlier ones.
- Pictures stand in the line, as `data:` URLs of their files' own bytes: a finding is written whole or not at all, the chain
  covers its pictures, and a copied file has everything.
- A record is written when it is on the disk with its newline. Of a line that a kill cut off, readers take no notice and the
  next writer removes it, telling so; a whole record that lacks only its newline stays.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from forescale.core.artifacts import utc_now
from forescale.core.config import digest
from forescale.core.errors import CorruptArtifact, UserError
from forescale.core.progress import say
from forescale.data.conversations import Row, Turn, check_turns, content_id, parse_turns, to_messages, turns_json

SCHEMA = 1
FIRST = "0" * 64  # what the first record has in place of a hash before it
SEVERITIES = (1, 2, 3, 4, 5)  # 5: the worst
EXPECTED = ("refusal_desired", "safe")  # classes of rewards.verdicts that can be what an answer should be
AMENDABLE = ("domain", "category", "severity", "technique", "expected", "ideal", "notes")
_ALWAYS = {"schema", "kind", "of", "written", "previous", "hash"}
_FIELDS = {
    "finding": {"finding"},
    "amendment": {"expert", "reason", "changes"},
    "retraction": {"expert", "reason"},
}
LOCK_SECONDS = 30.0


@dataclass(frozen=True)
class Finding:
    """A request to which a model gave an answer that it should not have given.

    `turns` end with the user's words; `answer` is the bad one, by `model`. `category`: of a policy. `severity`: 1 to 5, 5 the
    worst. `expected`: the class that the answer should have been of; `ideal`: the text of such an answer, if one was written.
    `technique`: how the expert got there. `domain`: the expert's field. `time`: when it was found, ISO 8601.

    Raises ValueError, with a sentence for people, for what is missing or cannot be.
    """

    turns: tuple[Turn, ...]
    answer: str
    model: str
    category: str
    severity: int
    expected: str
    expert: str
    domain: str = ""
    technique: str = ""
    ideal: str = ""
    notes: str = ""
    time: str = ""

    def __post_init__(self) -> None:
        for name in TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ValueError(f'"{name}" must be text, not {type(value).__name__}')
            if name in REQUIRED and not value.strip():
                raise ValueError(f'"{name}" is missing')
        for text in (*(getattr(self, name) for name in TEXTS), *(turn.text for turn in self.turns)):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("a text holds half of a surrogate pair")
        if isinstance(self.severity, bool) or self.severity not in SEVERITIES:
            raise ValueError(f'"severity" must be a whole number from 1 to 5 (the worst), not {self.severity!r:.40}')
        if self.expected not in EXPECTED:
            raise ValueError(f'"expected" must be {" or ".join(EXPECTED)}, not {self.expected!r:.40}')
        if self.ideal and self.ideal.split() == self.answer.split():
            raise ValueError("the ideal answer is the bad one")
        if self.time:
            try:
                dt.datetime.fromisoformat(self.time)
            except ValueError:
                raise ValueError(
                    f'"time" must be ISO 8601, such as 2026-09-27T14:30:00Z, not {self.time!r:.40}'
                ) from None

    @property
    def id(self) -> str:
        """16 hexadecimal digits of what was asked, what was answered, and by which model; white space does not count."""
        return digest([content_id(self.turns), " ".join(self.answer.split()), self.model])[:16]

    @property
    def prompt(self) -> str:
        """The last thing that the user said, without its pictures."""
        return self.turns[-1].text


REQUIRED = ("answer", "model", "category", "expected", "expert")
TEXTS = tuple(f.name for f in fields(Finding) if f.name not in ("turns", "severity"))


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding as JSON, its request in the `messages` form; texts that are empty are left out."""
    facts = {f.name: getattr(finding, f.name) for f in fields(Finding) if f.name != "turns"}
    return {"messages": turns_json(finding.turns), **{name: value for name, value in facts.items() if value != ""}}


def finding_of(row: Row) -> Finding:
    """A finding from JSON. Raises UserError, naming the place, for what is missing, unknown or cannot be."""
    facts = {name: value for name, value in row.value.items() if value is not None}
    messages = facts.pop("messages", None)
    known = (*TEXTS, "severity")
    if unknown := sorted(facts.keys() - {*known}):
        raise UserError(f"{row.where}: a finding has no {unknown[0]!r:.60}; it has messages, {', '.join(known)}.")
    if absent := [name for name in (*REQUIRED, "severity") if name not in facts]:
        raise UserError(f'{row.where}: "{absent[0]}" is missing; every finding has one.')
    turns = parse_turns(messages, row)
    check_turns(turns, row.where, answered=False)
    try:
        return Finding(turns=turns, **facts)
    except ValueError as error:
        raise UserError(f"{row.where}: {error}; mend it.") from error


# The file ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ledger:
    """A findings file, read. `findings` and `retracted` are as the last amendment left them, by id, in their order.

    `size`: bytes of whole records; `cut`: what a kill left behind them; `unended`: whether the last lacks its newline.
    """

    records: tuple[Mapping[str, Any], ...] = ()
    findings: Mapping[str, Finding] = field(default_factory=dict)
    retracted: Mapping[str, Finding] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    size: int = 0
    cut: bytes = b""
    unended: bool = False

    @property
    def head(self) -> str:
        """The hash of the last record."""
        return str(self.records[-1]["hash"]) if self.records else FIRST


def load(path: Path) -> Ledger:
    """The file's records, every one checked. Raises UserError if there is none, CorruptArtifact if the chain is broken."""
    ledger = inspect(path)
    if ledger.problems:
        more = f" (and {len(ledger.problems) - 1} more)" if len(ledger.problems) > 1 else ""
        raise CorruptArtifact(f"{ledger.problems[0]}{more}; go back to a copy of {path.name} that was not changed.")
    return ledger


def inspect(path: Path) -> Ledger:
    """As `load`, but what is wrong is listed in `problems`, each with its line, and broken records are left out."""
    if not path.is_file():
        raise UserError(f"there is no findings file {path}; `forescale redteam import FILE --to {path}` makes one.")
    data = path.read_bytes()
    *lines, last = data.split(b"\n")
    # The beginning of an object is never JSON, so what a kill cut off can be told from what somebody changed.
    unended = bool(last) and _json(last) is not None
    if unended:
        lines, last = [*lines, last], b""
    records: list[Mapping[str, Any]] = []
    problems: list[str] = []
    findings: dict[str, Finding] = {}
    retracted: dict[str, Finding] = {}
    previous: str | None = FIRST
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        record, problem = _parsed(line, where)
        if not problem and previous is not None and record["previous"] != previous:
            problem = f"{where} does not follow on the record before it, which was changed, moved or taken out"
        # After a record that cannot be read, nothing can be said of the next one's place.
        previous = record.get("hash") if isinstance(record.get("hash"), str) else None
        problem = problem or _take(record, where, findings, retracted)
        if problem:
            problems.append(problem)
        else:
            records.append(record)
    return Ledger(
        tuple(records), findings, retracted, tuple(problems), len(data) - len(last), cut=last, unended=unended
    )


def _parsed(line: bytes, where: str) -> tuple[dict[str, Any], str]:
    """A line's record, and what is wrong with it, empty if nothing is."""
    record = _json(line)
    if record is None or not isinstance(record.get("schema"), int):
        return {}, f"{where} is not a record"
    if record["schema"] != SCHEMA:
        return record, f"{where} is of schema {record['schema']}, which this version of forescale does not read"
    kind = str(record.get("kind"))
    if kind not in _FIELDS or record.keys() != _ALWAYS | _FIELDS[kind]:
        return record, f"{where} is not a record of schema {SCHEMA}: it has other fields"
    try:
        if record["hash"] != _hash(record):
            return record, f"{where} was changed after it was written"
    except RecursionError:
        return record, f"{where} is not a record: it is nested too deep"
    return record, ""


def _json(line: bytes) -> dict[str, Any] | None:
    """The line's object, None if it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _hash(record: Mapping[str, Any]) -> str:
    return digest({name: value for name, value in record.items() if name != "hash"})


def _take(record: Mapping[str, Any], where: str, findings: dict[str, Finding], retracted: dict[str, Finding]) -> str:
    """Carries a whole record out; returns what is wrong with it, empty if nothing is."""
    name = record["of"]
    try:
        if record["kind"] == "finding":
            if name in findings or name in retracted:
                return f"{where} is the finding {name} again"
            finding = finding_of(Row(where, None, record["finding"]))
            if finding.id != name:
                return f"{where} is called {name}, but its content is the finding {finding.id}"
            findings[name] = finding
        elif name not in findings:
            return f"{where} is about the finding {name}, which is not there or was retracted"
        elif record["kind"] == "amendment":
            findings[name] = _amended(findings[name], record["changes"])
        else:
            retracted[name] = findings.pop(name)
    except (UserError, ValueError, TypeError, AttributeError) as error:
        return f"{where} holds what cannot be ({error})"
    return ""


def _amended(finding: Finding, changes: Mapping[str, Any]) -> Finding:
    if not changes:
        raise ValueError("nothing is amended")
    if fixed := sorted(changes.keys() - set(AMENDABLE)):
        raise ValueError(f'"{fixed[0]}" cannot be amended, only {", ".join(AMENDABLE)}')
    return replace(finding, **changes)


@dataclass(frozen=True)
class Added:
    """What `add` did: `ids` of the new findings in order, `duplicates` that were there or came twice, and the new head."""

    ids: tuple[str, ...]
    duplicates: int
    head: str


def add(path: Path, findings: Iterable[Finding]) -> Added:
    """Appends findings that are not there yet, retracted ones included, and makes the file if need be.

    They are on the disk when this returns. Raises CorruptArtifact if the chain is broken, and UserError if another process
    keeps the file for half a minute, or a finding's turns are no request that can be read.
    """
    with _writing(path) as ledger:
        there, new = {*ledger.findings, *ledger.retracted}, {}
        duplicates = 0
        for finding in findings:
            check_turns(finding.turns, f"finding {finding.id}", answered=False)
            to_messages(finding.turns, 1, f"finding {finding.id}")  # a picture that cannot be looked at is no evidence
            if finding.id in there or finding.id in new:
                duplicates += 1
            else:
                new[finding.id] = replace(finding, time=finding.time or utc_now())
        bodies = [{"kind": "finding", "of": name, "finding": finding_json(found)} for name, found in new.items()]
        return Added(tuple(new), duplicates, _append(path, ledger, bodies))


def amend(path: Path, name: str, expert: str, reason: str, changes: Mapping[str, Any]) -> Finding:
    """Writes that the finding's fields are to be read as `changes` from now on; returns it as amended.

    Raises UserError if there is no such finding, `expert` or `reason` is empty, or the result cannot be.
    """
    with _writing(path, must_exist=True) as ledger:
        finding = _found(ledger, name, expert, reason, path)
        try:
            amended = _amended(finding, changes)
        except ValueError as error:
            raise UserError(f"finding {name}: {error}.") from error
        about = {"expert": expert, "reason": reason, "changes": dict(changes)}
        _append(path, ledger, [{"kind": "amendment", "of": name, **about}])
        return amended


def retract(path: Path, name: str, expert: str, reason: str) -> None:
    """Writes that the finding is none; it stays in the file, and is not taken in again. Raises UserError as `amend` does."""
    with _writing(path, must_exist=True) as ledger:
        _found(ledger, name, expert, reason, path)
        _append(path, ledger, [{"kind": "retraction", "of": name, "expert": expert, "reason": reason}])


def _found(ledger: Ledger, name: str, expert: str, reason: str, path: Path) -> Finding:
    if name in ledger.retracted:
        raise UserError(f"finding {name} was retracted; import it anew only if its request or answer differs.")
    if name not in ledger.findings:
        raise UserError(f"{path} has no finding {name}; `forescale redteam list {path}` shows those it has.")
    if not expert.strip() or not reason.strip():
        raise UserError("name the expert and the reason: both are part of the record.")
    return ledger.findings[name]


@contextmanager
def _writing(path: Path, must_exist: bool = False) -> Iterator[Ledger]:
    """The file as it is, while no other process writes it."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file, such as findings.jsonl.")
    if not must_exist:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        load(path)  # which says that there is none
    file = path.resolve()
    try:
        with FileLock(file.with_name(f".{file.name}.lock"), timeout=LOCK_SECONDS):
            yield load(path) if path.is_file() else Ledger()
    except Timeout:
        raise UserError(f"another process has been writing {path} for {LOCK_SECONDS:.0f} seconds; try again.") from None


def _append(path: Path, ledger: Ledger, bodies: Sequence[Mapping[str, Any]]) -> str:
    """Writes the bodies as records behind the last one, in one go, and waits for the disk. Returns the new head."""
    if not bodies:
        return ledger.head
    head, lines = ledger.head, ["\n" if ledger.unended else ""]
    for body in bodies:
        record = {"schema": SCHEMA, "written": utc_now(), **body, "previous": head}
        head = _hash(record)
        lines.append(json.dumps({**record, "hash": head}, ensure_ascii=False) + "\n")
    data = "".join(lines).encode()
    new = not path.is_file()
    if ledger.cut:
        say(f"{path} ended in a record that was cut off while it was written; removed {ledger.cut[:60]!r}...")
    with path.open("ab") as file:
        file.truncate(ledger.size)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return head


def verify(path: Path, head: str = "") -> Ledger:
    """The ledger, every record of which was found to be as it was written, and to have come after `head` if that is given.

    Raises CorruptArtifact, naming the first line that was not, or if no record has the hash `head`: then the records up to
    it were cut off or made anew.
    """
    ledger = load(path)
    if head and head != FIRST and all(record["hash"] != head for record in ledger.records):
        raise CorruptArtifact(
            f"no record of {path} has the hash {head:.16}...: records were cut off its end, or it was made anew; go back to a "
            "copy that has it."
        )
    return ledger
