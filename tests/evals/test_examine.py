"""The exam runner on a small random model: prompts to the letter, choices against a plain forward pass, resuming, judging."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from tests.checkpoints.small import checkpoint

from forescale.core.documents import Image, Text
from forescale.core.errors import UserError
from forescale.evals import scorers
from forescale.evals.examine import examine
from forescale.evals.prompts import parts_of, scored_prompt, shown
from forescale.evals.task import Dataset, Explain, Item, Letters, Options, Respond, Task, describe

CHECKPOINT = checkpoint(sequence_length=512)


def item(i: int, **more: object) -> Item:
    options = ("one", "two", "three", f"number {i}")
    return Item(f"q{i}", (Text(f"What is {i}?"),), options, (i % 4,), **more)  # type: ignore[arg-type]


ITEMS = tuple(item(i) for i in range(11))
SHOTS = {"": (item(90), item(91))}
DATASET = Dataset("small", "Small", ITEMS, SHOTS)


def picture(value: int) -> Image:
    return Image(np.full((24, 24, 3), value, np.uint8))


@torch.inference_mode()
def plain_logs(task: Task, one: Item) -> list[float]:
    prompt, follows = scored_prompt(one, task, CHECKPOINT.tokenizer, CHECKPOINT.model.config)
    pixels = torch.from_numpy(prompt.pixels)
    logs = []
    for ids in follows:
        logits = CHECKPOINT.model(torch.tensor([[*prompt.ids, *ids[:-1]]]), pixels)[0, -len(ids) :].log_softmax(-1)
        logs.append(sum(logits[k, token].item() for k, token in enumerate(ids)))
    return logs


def test_letters_are_asked_as_lm_eval_asks_mmlu() -> None:
    dataset = dataclasses.replace(DATASET, items=(item(0, facts={"subject": "abstract_algebra"}),))
    assert shown(parts_of(dataset.items[0], Task(dataset, Letters(1)))) == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "What is 90?\nA. one\nB. two\nC. three\nD. number 90\nAnswer: C\n\n"
        "What is 0?\nA. one\nB. two\nC. three\nD. number 0\nAnswer:"
    )


def test_options_follow_a_question_or_what_training_showed() -> None:
    passage = dataclasses.replace(ITEMS[0], passage="A text. ")
    assert shown(parts_of(passage, Task(DATASET, Options(0)))) == "A text.\nQuestion: What is 0?\nAnswer:"
    plain = Task(DATASET, Options(plain=True))
    assert shown(parts_of(ITEMS[0], plain)) == "What is 0?"
    _, follows = scored_prompt(ITEMS[0], plain, CHECKPOINT.tokenizer, CHECKPOINT.model.config)
    assert follows == [CHECKPOINT.tokenizer.encode(option) for option in ITEMS[0].options]


@pytest.mark.parametrize("solver", [Letters(2), Options(1), Options(0, per_character=True), Options(plain=True)])
def test_choices_are_those_of_a_plain_forward_pass(solver: Letters | Options, tmp_path: Path) -> None:
    task = Task(DATASET, solver)
    rows = examine(CHECKPOINT, task, tmp_path / "rows.jsonl")
    assert [row["id"] for row in rows] == [one.id for one in ITEMS]
    for row, one in zip(rows, ITEMS):
        logs = np.array(plain_logs(task, one))
        np.testing.assert_allclose(row["log_probabilities"], logs, atol=2e-4)
        if isinstance(solver, Options) and solver.per_character:
            logs = logs / np.array([len(option) for option in one.options])
        assert row["choice"] == int(logs.argmax())
        assert row["score"] == float(row["choice"] in one.correct)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows


def test_an_interrupted_exam_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = examine(CHECKPOINT, Task(DATASET, Letters(1)), tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    # Killed in the middle of writing the seventh row, which another order of work had put first.
    (tmp_path / "cut.jsonl").write_text("".join([*lines[5:6], *lines[:5]]) + lines[6][: len(lines[6]) // 2])
    asked: list[int] = []
    again = examine(
        CHECKPOINT, Task(DATASET, Letters(1)), tmp_path / "cut.jsonl", report=lambda _, done, of: asked.append(done)
    )
    assert asked == [7, 8, 9, 10, 11]
    assert [{**row, "log_probabilities": None} for row in again] == [
        {**row, "log_probabilities": None} for row in whole
    ]
    for a, b in zip(again, whole):
        np.testing.assert_allclose(a["log_probabilities"], b["log_probabilities"], atol=1e-4)


def test_pictures_are_asked_in_every_condition_and_kept_for_the_first_items(tmp_path: Path) -> None:
    items = tuple(
        Item(f"p{i}", (picture(20 * i), Text("and"), picture(7 * i), Text("?")), ("a", "b"), (0,)) for i in range(10)
    )
    dataset = Dataset("sight", "Sight", items, modality="vision")
    other = dataclasses.replace(
        dataset, items=tuple(dataclasses.replace(i, question=(picture(0), *i.question[1:])) for i in items)
    )
    rows = examine(CHECKPOINT, Task(dataset, Options(plain=True)), tmp_path / "rows.jsonl", conditions={"blank": other})
    assert [row["condition"] for row in rows] == ["normal"] * 10 + ["blank"] * 10
    assert [len(row["images"]) for row in rows[:10]] == [2] * 8 + [0, 0]
    assert not any(row["images"] for row in rows[10:])
    assert rows[3]["prompt"] == "<image>and<image>?"
    # The first item of the other condition has the picture of the normal one; the rest do not.
    np.testing.assert_allclose(rows[0]["log_probabilities"], rows[10]["log_probabilities"], atol=1e-4)
    assert abs(rows[9]["log_probabilities"][0] - rows[19]["log_probabilities"][0]) > 1e-3


def test_explanations_are_written_before_the_letter(tmp_path: Path) -> None:
    task = Task(DATASET, Explain(0, max_new_tokens=6))
    rows = examine(CHECKPOINT, task, tmp_path / "a.jsonl", seed=3)
    assert all(row["completion"] and len(row["log_probabilities"]) == 4 for row in rows)
    # Interrupted after a few, it samples what it would have sampled.
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(lines[2:6]))
    again = examine(CHECKPOINT, task, tmp_path / "b.jsonl", seed=3)
    assert [row["completion"] for row in again] == [row["completion"] for row in rows]


def test_written_answers_stop_and_are_scored(tmp_path: Path) -> None:
    items = tuple(Item(f"f{i}", (Text(f"Say {i}"),), accepted=("x",)) for i in range(5))
    task = Task(
        Dataset("free", "Free", items), Respond(0, 12, stop=("e",)), lambda _, text: float(len(text) % 2), "parity"
    )
    for chat in (False, True):
        rows = examine(CHECKPOINT, task, tmp_path / f"{chat}.jsonl", chat=chat)
        assert [row["score"] for row in rows] == [float(len(row["completion"]) % 2) for row in rows]
        if not chat:
            assert not any("e" in row["completion"][1:] for row in rows)


def test_a_model_without_sight_refuses_pictures(tmp_path: Path) -> None:
    dataset = Dataset("sight", "Sight", (Item("p", (picture(1), Text("?")), ("a", "b"), (0,)),), modality="vision")
    with pytest.raises(UserError, match="reads text alone"):
        examine(checkpoint(sight=False), Task(dataset, Options(plain=True)), tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [
        (" Paris.\nIt is", ("paris",), True),
        ("The Nile", ("nile",), True),
        ("in Paris", ("paris",), False),
        ("", ("x",), False),
    ],
)
def test_exact(text: str, accepted: tuple[str, ...], right: bool) -> None:
    assert scorers.exact(Item("i", (Text("?"),), accepted=accepted), text) == right


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [
        ("3 + 4 = 7 apples", ("7",), True),
        ("1,200.50", ("1200.5",), True),
        ("The answer is 12.", ("12",), True),
        ("about 7.01", ("7",), False),
        ("-3", ("3",), False),
        ("1/2", ("0.5",), True),
        ("no number", ("7",), False),
        ("1/0", ("7",), False),
    ],
)
def test_numeric(text: str, accepted: tuple[str, ...], right: bool) -> None:
    item = Item("i", (Text("?"),), accepted=accepted, facts={"answer": "number"})
    assert scorers.numeric(item, text) == right


class _Endpoint(BaseHTTPRequestHandler):
    replies: ClassVar[list[tuple[int, str]]] = []
    prompts: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.prompts.append(body["messages"][0]["content"])
        status, text = self.replies.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    _Endpoint.prompts.clear()
    _Endpoint.replies.clear()
    server = HTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_a_judge_decides_and_an_outage_loses_nothing(endpoint: str, tmp_path: Path) -> None:
    _Endpoint.replies[:] = [(200, "Yes."), (500, ""), (200, "no, it is not"), (200, "perhaps"), *[(503, "")] * 3]
    items = tuple(Item(f"f{i}", (Text(f"Say {i}"),), accepted=("x",)) for i in range(4))
    path = tmp_path / "rows.jsonl"
    scorer = scorers.judged(scorers.endpoint_judge(endpoint, "judge"))
    task = Task(Dataset("f", "F", items), Respond(0, 4), scorer, "judge")
    with pytest.raises(UserError, match=r"gave no answer .* run again"):
        examine(CHECKPOINT, task, path)
    # Back again, it is asked for what is missing and for nothing else.
    _Endpoint.replies[:] = [(200, "yes")]
    rows = examine(CHECKPOINT, task, path)
    assert sorted((row["score"] is None, row["score"]) for row in rows if row["score"] is not None) == [
        (False, 0.0), (False, 1.0), (False, 1.0)
    ]  # fmt: skip
    (unclear,) = (row for row in rows if row["score"] is None)
    assert "neither yes nor no" in unclear["failure"]
    assert "Question: Say " in _Endpoint.prompts[0]


def test_a_judge_without_an_address_is_refused() -> None:
    with pytest.raises(UserError, match="http"):
        scorers.endpoint_judge("localhost:8000", "judge")


def test_solvers_describe_themselves() -> None:
    assert describe(Letters(5)) == "letters, 5 shots"
    assert describe(Options(1, per_character=True)) == "option text per character, 1 shot"
    assert describe(Respond(0)) == "written answer, 0 shots"
