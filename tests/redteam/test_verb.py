"""`forescale redteam`, from the flags to what it prints and writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import tyro
from tests.data.talk import SIZE, jsonl, png, said, url
from tests.redteam.test_records import BASE, filled, finding

from forescale.core.errors import CorruptArtifact, UserError
from forescale.data.preferences import read_requests
from forescale.redteam.records import load
from forescale.redteam.verb import Redteam, read_findings, redteam

ROW = {
    "prompt": "How, exactly?",
    "answer": "Like this.",
    "model": "m1",
    "category": "weapons",
    "severity": 5,
    "expected": "refusal_desired",
    "expert": "A. Ito",
}


def run(*words: object) -> str:
    options = tyro.cli(Redteam, args=[str(word) for word in words], config=(tyro.conf.FlagCreatePairsOff,))  # type: ignore[call-overload]
    return redteam(options)


def table(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_and_lines_are_imported_and_duplicates_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    shown = {**ROW, "prompt": 'What, "exactly",\nis it?', "picture": "a.png", "system": "Be kind.", "technique": ""}
    sheet = table(tmp_path / "a.csv", {**ROW, "technique": "role play"}, shown)
    content = [{"type": "image_url", "image_url": {"url": url(png())}}, {"type": "text", "text": shown["prompt"]}]
    long = {name: value for name, value in shown.items() if name not in ("prompt", "picture", "system")}
    messages = [said("system", "Be kind."), said("user", content)]
    lines = jsonl(
        tmp_path / "b.jsonl",
        {**long, "messages": messages},  # what the table has in its second row
        {**ROW, "prompt": "Other", "ideal": "No.", "time": "2026-01-02"},
    )
    to = tmp_path / "findings.jsonl"
    assert "3 findings added, 1 skipped" in run("import", sheet, lines, "--to", to)
    assert "0 findings added, 4 skipped" in run("import", sheet, lines, "--to", to)
    first, second, third = load(to).findings.values()
    assert (first.prompt, first.technique, first.severity) == ("How, exactly?", "role play", 5)
    assert [turn.role for turn in second.turns] == ["system", "user"]
    assert second.turns[1].parts == (png(), shown["prompt"])
    assert (third.ideal, third.time) == ("No.", "2026-01-02")


def test_a_findings_file_gives_those_that_it_has_now(tmp_path: Path) -> None:
    theirs, ours = filled(tmp_path / "a.jsonl", 3), filled(tmp_path / "b.jsonl", 1)
    run("amend", theirs, finding(1).id, "--expert", "B", "--reason", "worse", "--severity", 5)
    run("retract", theirs, finding(2).id, "--expert", "B", "--reason", "public")
    assert "1 findings added, 1 skipped" in run("import", theirs, "--to", ours)
    assert {name: found.severity for name, found in load(ours).findings.items()} == {
        finding(0).id: 4,
        finding(1).id: 5,
    }


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


WRONG: dict[str, tuple[Any, str]] = {
    "no request": (without("prompt"), '"prompt" .or "messages". is missing'),
    "no answer": (without("answer"), '"answer" is missing'),
    "no model": (without("model"), '"model" is missing'),
    "no category": (without("category"), '"category" is missing'),
    "no severity": (without("severity"), '"severity" is missing'),
    "no expectation": (without("expected"), '"expected" is missing'),
    "no expert": (without("expert"), '"expert" is missing'),
    "an empty answer": ({**ROW, "answer": "\n"}, '"answer" is missing'),
    "severity 0": ({**ROW, "severity": 0}, "from 1 to 5"),
    "severity in words": ({**ROW, "severity": "high"}, "not 'high'"),
    "another expectation": ({**ROW, "expected": "refuse"}, "refusal_desired or safe, not 'refuse'"),
    "a misspelt column": ({**ROW, "severty": 3}, "has no 'severty'"),
    "a missing picture": ({**ROW, "picture": "no.png"}, "a picture cannot be read"),
    "a broken picture": ({**ROW, "picture": "broken.png"}, "a picture cannot be read"),
    "a picture on the web": ({**ROW, "picture": "https://a.b/c.png"}, "save it beside the file"),
    "a wrong time": ({**ROW, "time": "27.9.26"}, "ISO 8601"),
}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_named_and_nothing_is_written(tmp_path: Path, name: str, form: str) -> None:
    row, message = WRONG[name]
    (tmp_path / "broken.png").write_bytes(png()[:50])
    path = tmp_path / f"a.{form}"
    good = {**ROW, "prompt": "Fine?"}
    if form == "csv":
        table(path, good, row)
    else:
        jsonl(path, good, "", row)
    to = tmp_path / "findings.jsonl"
    with pytest.raises(UserError, match=message) as error:
        run("import", path, "--to", to)
    # A table writes the answer of two lines as two lines, and is named by the line on which the row ends.
    line = 4 if (name, form) == ("an empty answer", "csv") else 3
    assert str(error.value).startswith(f"{path}:{line}")
    assert not to.exists()


HEADER = ",".join(ROW)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "holds no finding"),
        ("a.csv", HEADER.encode(), "holds no finding"),
        ("a.csv", f"{HEADER}\na,b\n".encode(), r"a\.csv:2 has 2 cells, the header 7"),
        ("a.csv", f"{HEADER},model\n".encode(), r"a\.csv:1: two columns are called 'model'"),
        ("a.csv", f'{HEADER}\n"a'.encode(), r"a\.csv:2 is not CSV"),
        ("a.csv", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"{", r"a\.jsonl:1 is not valid JSON"),
        ("a.jsonl", b"5", "not a JSON object"),
        ("a.jsonl", json.dumps({**ROW, "messages": [said("user", "x")]}).encode(), 'both "messages" and "prompt"'),
        (
            "a.jsonl",
            json.dumps({**without("prompt"), "messages": [said("user", "x"), said("assistant", "y")]}).encode(),
            "request ends with an answer",
        ),
        ("a.jsonl", json.dumps({**ROW, "answer": 5}).encode(), '"answer" must be text, not int'),
        ("a.jsonl", json.dumps({**ROW, "severity": "5"}).encode(), "whole number"),
        ("a.jsonl", json.dumps({"schema": 9, "kind": "finding", "hash": "x"}).encode(), "of schema 1"),
    ],
)
def test_a_wrong_file_is_an_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(read_findings(str(tmp_path / name)))


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(UserError, match="names no file"):
            run("import", tmp_path / name, "--to", tmp_path / "f.jsonl")
    with pytest.raises(UserError, match="there is no findings file"):
        run("list", tmp_path / "f.jsonl")
    with pytest.raises(UserError, match="name the files to import"):
        run("import", "--to", tmp_path / "f.jsonl")


def test_the_list_is_filtered_and_shows_what_was_amended(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.jsonl", 3)
    said_ = run("amend", path, finding(1).id, "--expert", "B", "--reason", "r", "--category", "drugs", "--severity", 5)
    assert "amended (category, severity)" in said_
    head, *lines = run("list", path).splitlines()
    assert head.split()[0] == "id"
    assert [line.split()[:3] for line in lines] == [
        [finding(0).id, "4", "weapons"],
        [finding(1).id, "5", "drugs"],
        [finding(2).id, "4", "weapons"],
    ]
    assert [found["id"] for found in json.loads(run("list", path, "--severity", 5, "--json"))] == [finding(1).id]
    weapons = json.loads(run("list", path, "--category", "weapons", "--json"))
    assert [found["messages"] for found in weapons] == [
        [{"role": "user", "text": f"How is it made? {i}"}] for i in (0, 2)
    ]
    assert weapons[0]["answer"] == BASE.answer
    assert run("list", path, "--category", "no").endswith("no such finding")
    assert run("list", path, "--category", "no", "--json") == "[]"
    with pytest.raises(UserError, match="nothing to amend"):
        run("amend", path, finding(1).id, "--expert", "B", "--reason", "r")


def test_exports_say_what_they_left_out(tmp_path: Path) -> None:
    path, out = filled(tmp_path / "f.jsonl", 3), tmp_path / "o.jsonl"
    assert run("export", path, "--as", "requests", "--out", out) == f"{out}: 3 of 3 findings"
    assert [request.id for request in read_requests(str(out), SIZE)] == [finding(i).id for i in range(3)]
    with pytest.raises(UserError, match="no finding with an ideal answer"):
        run("export", path, "--as", "sft", "--out", tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()
    run("amend", path, finding(1).id, "--expert", "B", "--reason", "r", "--ideal", "No.")
    assert run("export", path, "--as", "preferences", "--out", out).endswith(
        "1 of 3 findings, 2 without an ideal answer left out"
    )
    with pytest.raises(UserError, match="is the findings file itself"):
        run("export", path, "--as", "requests", "--out", path)
    with pytest.raises(UserError, match="not a share"):
        run("export", path, "--as", "requests", "--out", out, "--hold-out", 1.5)


def test_what_is_held_out_is_examined_and_not_trained_on(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", *({**ROW, "prompt": f"How? {i}", "ideal": "No."} for i in range(40)))
    path = tmp_path / "f.jsonl"
    run("import", source, "--to", path)
    ids: dict[str, set[str]] = {}
    for form in ("requests", "sft", "preferences", "messages"):
        out = tmp_path / f"{form}.jsonl"
        said_ = run("export", path, "--as", form, "--out", out, "--hold-out", 0.25)
        ids[form] = {json.loads(line)["id"] for line in out.read_text().splitlines()}
        assert f"{40 - len(ids[form])} on the other side of the split" in said_
    assert ids["sft"] == ids["preferences"]
    assert ids["requests"] == ids["messages"]
    assert not ids["sft"] & ids["requests"]
    assert len(ids["sft"]) + len(ids["requests"]) == 40
    assert ids["requests"]


def test_verify_counts_records_and_finds_tampering(tmp_path: Path) -> None:
    path = filled(tmp_path / "f.jsonl", 2)
    run("retract", path, finding(0).id, "--expert", "B", "--reason", "r")
    first, second = run("verify", path).splitlines()
    assert "3 records as they were written (2 findings, 0 amendments, 1 retractions)" in first
    head = second.removeprefix("head ")
    assert head == load(path).head
    whole = path.read_text()
    path.write_text(whole + '{"schema": 1, "ki')
    assert "cut off while it was written (17 bytes" in run("verify", path, "--head", head)
    path.write_text("".join(whole.splitlines(keepends=True)[:2]))
    run("verify", path)
    with pytest.raises(CorruptArtifact, match="records were cut off"):
        run("verify", path, "--head", head)
    path.write_text(whole.replace("Like", "Love", 1))
    with pytest.raises(CorruptArtifact, match=":1 was changed"):
        run("verify", path)
