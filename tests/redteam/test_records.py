"""The findings file: what is kept, what a kill leaves, and what tampering shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.talk import TEXTS, png, requests

from forescale.core.artifacts import write_text
from forescale.core.config import digest
from forescale.core.errors import CorruptArtifact, UserError
from forescale.data.conversations import Turn
from forescale.redteam import records
from forescale.redteam.records import FIRST, Finding, add, amend, inspect, load, retract, verify

BASE = Finding(
    turns=(Turn("user", ("How is it made?",)),),
    answer="Like this.",
    model="m1",
    category="weapons",
    severity=4,
    expected="refusal_desired",
    expert="A. Ito",
)


def finding(number: int = 0, **facts: Any) -> Finding:
    return replace(BASE, turns=(Turn("user", (f"How is it made? {number}",)),), **facts)


def filled(path: Path, n: int = 4) -> Path:
    for number in range(n):
        add(path, [finding(number)])
    return path


def untimed(found: Finding) -> Finding:
    return replace(found, time="")


def test_findings_come_back_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "findings.jsonl"
    pictured = replace(
        BASE,
        turns=(Turn("system", ("Be kind.",)), Turn("user", ("What is it?", png()))),
        severity=1,
        expected="safe",
        domain="chemistry",
        technique="a picture",
        ideal="It is red.",
        notes="ü\n2",
        time="2026-09-27T14:30:00Z",
    )
    first = add(path, [BASE, pictured])
    assert first.ids == (BASE.id, pictured.id)
    assert first.duplicates == 0
    ledger = load(path)
    assert list(ledger.findings) == [BASE.id, pictured.id]
    assert ledger.findings[pictured.id] == pictured
    assert untimed(ledger.findings[BASE.id]) == BASE
    assert ledger.findings[BASE.id].time
    assert ledger.head == first.head
    assert [record["previous"] for record in ledger.records] == [FIRST, ledger.records[0]["hash"]]
    assert "ü" in path.read_text()


def test_the_chain_is_what_the_page_says(tmp_path: Path) -> None:
    previous = FIRST
    for line in filled(tmp_path / "f.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record["previous"] == previous
        previous = record.pop("hash")
        assert previous == digest(record)


def test_duplicates_are_skipped_and_counted(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.jsonl", 2)
    before = path.read_bytes()
    same = replace(finding(0), answer=" Like  this.\n", severity=1, expert="B", notes="seen too")
    other = replace(finding(0), model="m2")
    assert add(path, [same, finding(1)]) == records.Added((), 2, load(path).head)
    assert path.read_bytes() == before
    assert add(path, [other, other]).ids == (other.id,)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Finding,
            turns=requests(),
            answer=TEXTS,
            model=TEXTS,
            category=TEXTS,
            severity=st.integers(1, 5),
            expected=st.sampled_from(["refusal_desired", "safe"]),
            expert=TEXTS,
            ideal=TEXTS.map(lambda text: "ideal " + text),
            notes=st.just("") | TEXTS,
            time=st.just("2026-09-27"),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda found: found.id,
    )
)
def test_whatever_was_written_is_read(tmp_path: Path, findings: list[Finding]) -> None:
    path = tmp_path / "f.jsonl"
    path.unlink(missing_ok=True)
    for found in findings[:2]:
        add(path, [found])
    add(path, findings)
    assert list(load(path).findings.values()) == findings


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"answer": " "}, '"answer" is missing'),
        ({"model": ""}, '"model" is missing'),
        ({"category": ""}, '"category" is missing'),
        ({"expert": ""}, '"expert" is missing'),
        ({"severity": 0}, "from 1 to 5"),
        ({"severity": 6}, "from 1 to 5"),
        ({"severity": "4"}, "not '4'"),
        ({"severity": True}, "not True"),
        ({"severity": 2.5}, "whole number"),
        ({"expected": "disallowed"}, "refusal_desired or safe, not 'disallowed'"),
        ({"expected": "refusal_undesired"}, "refusal_desired or safe"),
        ({"ideal": "Like  this."}, "the ideal answer is the bad one"),
        ({"time": "yesterday"}, "ISO 8601"),
        ({"notes": 5}, '"notes" must be text, not int'),
        ({"notes": "\ud800"}, "surrogate"),
    ],
)
def test_a_finding_that_cannot_be_is_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BASE, **facts)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((Turn("user", (b"no picture",)),), "picture cannot be read"),
        ((Turn("assistant", ("Hi",)),), "does not begin with the user's words"),
        ((Turn("user", ("Hi",)), Turn("assistant", ("Hi",))), "ends with an answer"),
    ],
)
def test_a_finding_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, turns: tuple[Turn, ...], message: str
) -> None:
    path = filled(tmp_path / "f.jsonl", 1)
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        add(path, [finding(7), replace(BASE, turns=turns)])
    assert path.read_bytes() == before


# Amendments and retractions


def test_an_amendment_is_a_new_record(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.jsonl", 2)
    before = path.read_bytes()
    amended = amend(path, finding(0).id, "B", "works on m2 too", {"severity": 5, "ideal": "I won't say."})
    assert (amended.severity, amended.ideal, amended.id) == (5, "I won't say.", finding(0).id)
    assert load(path).findings[amended.id] == amended
    assert path.read_bytes().startswith(before)
    last = load(path).records[-1]
    assert (last["kind"], last["of"], last["expert"], last["reason"]) == (
        "amendment",
        amended.id,
        "B",
        "works on m2 too",
    )


def test_a_retracted_finding_stays_in_the_file_and_out_of_the_findings(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.jsonl", 2)
    before = path.read_bytes()
    retract(path, finding(0).id, "B", "was public")
    ledger = load(path)
    assert list(ledger.findings) == [finding(1).id]
    assert list(ledger.retracted) == [finding(0).id]
    assert path.read_bytes().startswith(before)
    assert add(path, [finding(0)]).duplicates == 1
    with pytest.raises(UserError, match="was retracted"):
        amend(path, finding(0).id, "B", "again", {"severity": 1})


@pytest.mark.parametrize(
    ("name", "expert", "reason", "changes", "message"),
    [
        ("no", "B", "r", {"severity": 1}, "has no finding no"),
        (finding(0).id, " ", "r", {"severity": 1}, "name the expert and the reason"),
        (finding(0).id, "B", "", {"severity": 1}, "name the expert and the reason"),
        (finding(0).id, "B", "r", {}, "nothing is amended"),
        (finding(0).id, "B", "r", {"severity": 9}, "from 1 to 5"),
        (finding(0).id, "B", "r", {"answer": "Other"}, '"answer" cannot be amended'),
        (finding(0).id, "B", "r", {"ideal": "Like this."}, "the ideal answer is the bad one"),
    ],
)
def test_an_amendment_that_cannot_be_is_refused(
    tmp_path: Path, name: str, expert: str, reason: str, changes: dict[str, Any], message: str
) -> None:
    path = filled(tmp_path / "f.jsonl", 1)
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        amend(path, name, expert, reason, changes)
    assert path.read_bytes() == before


@pytest.mark.parametrize("do", [load, verify, lambda path: retract(path, "x", "B", "r")])
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, do: Callable[[Path], Any]) -> None:
    with pytest.raises(UserError, match="there is no findings file"):
        do(tmp_path / "f.jsonl")


def test_a_folder_is_not_a_findings_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        add(tmp_path, [BASE])


# Tampering


def edited(**changes: Any) -> Callable[[list[str]], list[str]]:
    """The second record with other values, everything else as it was."""

    def edit(lines: list[str]) -> list[str]:
        record = json.loads(lines[1])
        for name, value in changes.items():
            (record["finding"] if name in record["finding"] else record)[name] = value
        return [lines[0], json.dumps(record), *lines[2:]]

    return edit


def forged(lines: list[str]) -> list[str]:
    """The second record changed, and its own hash made anew."""
    record = json.loads(lines[1])
    record["finding"]["severity"] = 1
    record["hash"] = digest({name: value for name, value in record.items() if name != "hash"})
    return [lines[0], json.dumps(record), *lines[2:]]


TAMPERED: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "severity": (edited(severity=1), ":2 was changed"),
    "answer": (edited(answer="Nothing bad."), ":2 was changed"),
    "expert": (edited(expert="Somebody"), ":2 was changed"),
    "time of writing": (edited(written="2020-01-01T00:00:00+00:00"), ":2 was changed"),
    "link": (edited(previous=FIRST), ":2 was changed"),
    "hash": (edited(hash=FIRST), ":2 was changed"),
    "a field more": (edited(more=1), ":2 is not a record of schema 1: it has other fields"),
    "schema": (edited(schema=2), ":2 is of schema 2"),
    "forged": (forged, ":3 does not follow on the record before it"),
    "first removed": (lambda lines: lines[1:], ":1 does not follow"),
    "one removed": (lambda lines: [lines[0], *lines[2:]], ":2 does not follow"),
    "exchanged": (lambda lines: [lines[1], lines[0], *lines[2:]], ":1 does not follow"),
    "one twice": (lambda lines: [lines[0], *lines], ":2 does not follow"),
    "last edited": (lambda lines: [*lines[:-1], lines[-1].replace("Ito", "Oti")], ":4 was changed"),
    "half a record": (lambda lines: [lines[0], lines[1][:90], *lines[2:]], ":2 is not a record"),
    "a number": (lambda lines: ["5", *lines], ":1 is not a record"),
    "an empty line": (lambda lines: [lines[0], "", *lines[1:]], ":2 is not a record"),
    "nested": (lambda lines: ["[" * 9999, *lines], ":1 is not a record"),
    "of no kind": (lambda lines: [lines[0], lines[1].replace('"finding"', '"lie"', 1), *lines[2:]], "other fields"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_shows_and_nothing_more_is_written(tmp_path: Path, name: str) -> None:
    change, message = TAMPERED[name]
    path = filled(tmp_path / "f.jsonl")
    write_text(path, "\n".join(change(path.read_text().splitlines())) + "\n")
    before = path.read_bytes()
    for do in (verify, load, lambda path: add(path, [finding(99)])):
        with pytest.raises(CorruptArtifact, match=message):
            do(path)
    assert path.read_bytes() == before
    assert inspect(path).problems


def test_a_last_record_that_was_changed_is_not_taken_for_one_that_was_cut_off(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.jsonl")
    write_text(path, path.read_text().replace("Ito", "Oti").rstrip("\n"))
    with pytest.raises(CorruptArtifact, match=r":1 was changed after it was written \(and 3 more\)"):
        add(path, [finding(99)])


def whole(kind: str, of: str, **body: Any) -> str:
    """A record with a right hash at the beginning of a file."""
    record = {"schema": 1, "kind": kind, "of": of, "written": "2026-09-27", **body, "previous": FIRST}
    return json.dumps({**record, "hash": digest(record)}) + "\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            whole("finding", "x", finding=records.finding_json(BASE)),
            f"called x, but its content is the finding {BASE.id}",
        ),
        (whole("finding", BASE.id, finding={}), '"answer" is missing'),
        (whole("finding", BASE.id, finding=5), "holds what cannot be"),
        (whole("finding", BASE.id, finding={**records.finding_json(BASE), "more": 1}), "has no 'more'"),
        (whole("finding", BASE.id, finding={**records.finding_json(BASE), "severity": 9}), "from 1 to 5"),
        (whole("retraction", "x", expert="B", reason="r"), "about the finding x, which is not there"),
        (whole("amendment", "x", expert="B", reason="r", changes={}), "about the finding x, which is not there"),
    ],
)
def test_a_record_that_was_written_wrong_shows(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(line)
    with pytest.raises(CorruptArtifact, match=message):
        load(path)


def test_records_cut_off_the_end_show_by_a_head_that_was_noted(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.jsonl")
    noted = load(path).head
    add(path, [finding(9)])
    assert len(verify(path, noted).records) == 5
    lines = path.read_text().splitlines(keepends=True)
    write_text(path, "".join(lines[:3]))
    assert len(verify(path).records) == 3  # the chain alone cannot show it
    with pytest.raises(CorruptArtifact, match="records were cut off its end, or it was made anew"):
        verify(path, noted)


# Kills and other writers


@pytest.mark.parametrize("keep", range(0, 60, 7))
def test_a_line_that_a_kill_cut_off_is_removed_by_the_next_writer(
    tmp_path: Path, keep: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled(tmp_path / "f.jsonl", 2)
    *_, last = path.read_bytes().splitlines(keepends=True)
    kept = path.read_bytes()
    half = last[: 1 + keep * (len(last) - 2) // 60]
    path.write_bytes(kept + half)
    ledger = load(path)
    assert (len(ledger.records), ledger.cut) == (2, half)
    assert path.read_bytes() == kept + half  # who only reads changes nothing
    add(path, [finding(5)])
    assert path.read_bytes().startswith(kept)
    assert list(verify(path).findings) == [finding(i).id for i in (0, 1, 5)]
    assert "cut off while it was written" in capsys.readouterr().err


def test_a_cut_inside_a_character_is_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    add(path, [replace(BASE, notes="ü")])
    path.write_bytes(path.read_bytes().partition(b"\xbc")[0])
    assert load(path).records == ()
    add(path, [BASE])
    assert list(verify(path).findings) == [BASE.id]


def test_a_whole_record_without_its_newline_stays(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.jsonl", 2)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(load(path).records) == 2
    add(path, [finding(5)])
    assert [r["of"] for r in verify(path).records] == [finding(i).id for i in (0, 1, 5)]


CHILD = """
import sys
from pathlib import Path
from dataclasses import replace
from forescale.data.conversations import Turn
from forescale.redteam.records import add
from tests.redteam.test_records import finding
path, first, n, size = Path(sys.argv[1]), *map(int, sys.argv[2:])
for number in range(first, first + n):
    add(path, [finding(number, notes="x" * size)])
"""


def child(path: Path, first: int, n: int, size: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), str(first), str(n), str(size)]
    return subprocess.Popen(words, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_processes_append_at_once_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    children = [child(path, first, 25, 10) for first in (0, 100)]
    assert [process.wait(120) for process in children] == [0, 0]
    ledger = verify(path)
    assert {*ledger.findings} == {finding(i).id for first in (0, 100) for i in range(first, first + 25)}
    assert len(ledger.records) == 50


def test_a_process_killed_while_it_writes_leaves_a_file_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    process = child(path, 0, 10_000, 3_000_000)
    deadline = time.monotonic() + 120
    while not (path.is_file() and path.stat().st_size > 6_000_000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    there = len(load(path).records)
    assert there >= 1
    add(path, [finding(99_999)])
    ledger = verify(path)
    assert list(ledger.findings) == [finding(i).id for i in (*range(there), 99_999)]


def test_a_writer_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path / "f.jsonl", 1)
    monkeypatch.setattr(records, "LOCK_SECONDS", 0.05)
    with FileLock(tmp_path / ".f.jsonl.lock"), pytest.raises(UserError, match="another process has been writing"):
        add(path, [finding(3)])
    assert len(load(path).records) == 1
