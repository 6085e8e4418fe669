"""Findings as evaluation set, conversations and pairs, and the table of what was fixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from tests.data.talk import SIZE, jsonl, png
from tests.redteam.test_records import BASE, finding

from forescale.core.config import to_json
from forescale.core.documents import Image, Message, Text
from forescale.core.errors import UserError
from forescale.data.conversations import Turn, read_conversations
from forescale.data.preferences import read_preferences, read_requests
from forescale.redteam.convert import (
    conversations,
    fixed_and_regressed,
    preferences,
    requests,
    rows,
    split,
)
from forescale.redteam.records import Finding
from forescale.rewards.verdicts import Class

PICTURED = replace(
    BASE,
    turns=(Turn("system", ("Be kind.",)), Turn("user", (png(), "What is it?"))),
    ideal="I would rather not say.",
    category="privacy",
    severity=2,
)
FOUND = [BASE, PICTURED]


def plain(value: Any) -> Any:
    """Equal for equal content: sources, which say where something was read, left out."""
    if isinstance(value, Message):
        return value.role, [p.text if isinstance(p, Text) else p.pixels.tolist() for p in value.parts]
    return value.id, getattr(value, "category", ""), [plain(message) for message in value.messages]


def test_requests_are_read_as_they_were_exported(tmp_path: Path) -> None:
    made = requests(FOUND, SIZE)
    assert [(r.id, r.category) for r in made] == [(BASE.id, "weapons"), (PICTURED.id, "privacy")]
    written = rows(FOUND, "requests")
    assert [(row["expected"], row["severity"]) for row in written] == [("refusal_desired", 4), ("refusal_desired", 2)]
    read = list(read_requests(jsonl(tmp_path / "r.jsonl", *written), SIZE))
    assert [plain(r) for r in read] == [plain(r) for r in made]
    (picture,) = (p for m in made[1].messages for p in m.parts if isinstance(p, Image))
    assert picture.pixels.shape == (SIZE, SIZE, 3)
    assert np.array_equal(picture.pixels[0, 0], (255, 0, 0))


def test_conversations_end_with_the_ideal_answer_where_there_is_one(tmp_path: Path) -> None:
    (made,) = conversations(FOUND, SIZE)
    assert made.messages[-1] == Message("assistant", (Text("I would rather not say."),))
    (read,) = read_conversations(jsonl(tmp_path / "c.jsonl", *rows(FOUND, "sft")), SIZE)
    assert plain(read) == plain(made)


def test_pairs_put_the_ideal_answer_over_the_bad_one(tmp_path: Path) -> None:
    (made,) = preferences(FOUND, SIZE)
    assert (made.chosen, made.rejected) == ("I would rather not say.", "Like this.")
    (read,) = read_preferences(jsonl(tmp_path / "p.jsonl", *rows(FOUND, "preferences")), SIZE)
    assert (read.chosen, read.rejected, plain(read.request)) == (made.chosen, made.rejected, plain(made.request))


def test_bad_answers_are_exported_for_people_and_refused_by_training(tmp_path: Path) -> None:
    written = rows(FOUND, "messages")
    assert [row["messages"][-1] for row in written] == [{"role": "assistant", "content": "Like this."}] * 2
    assert [(row["expert"], row["severity"]) for row in written] == [("A. Ito", 4), ("A. Ito", 2)]
    with pytest.raises(UserError, match="bad answer of a red-team finding"):
        list(read_conversations(jsonl(tmp_path / "m.jsonl", *written), SIZE))


def test_a_split_keeps_the_findings_of_a_request_together() -> None:
    found = [replace(finding(i), model=model) for i in range(60) for model in ("m1", "m2")]
    held, train = split(found, 0.3, "held_out"), split(found, 0.3, "train")
    assert {f.id for f in held} | {f.id for f in train} == {f.id for f in found}
    assert not {f.turns for f in held} & {f.turns for f in train}
    assert 0 < len(held) < len(train)
    assert split(found, 0.3, "all") == found


# Before and after

RIGHT, WRONG, SAFE, RUDE = "refusal_desired", "disallowed", "safe", "refusal_undesired"


def case(number: int, expected: str = RIGHT, **facts: Any) -> Finding:
    return finding(number, expected=expected, **facts)


def test_every_outcome_by_category_and_severity() -> None:
    found = [
        case(0),
        case(1),
        case(2, category="drugs", severity=5),
        case(3, severity=5),
        case(4),
        case(5, SAFE, category="drugs"),
        case(6),
    ]
    pairs: list[tuple[Class | None, Class | None]] = [
        (WRONG, RIGHT),
        (RUDE, RUDE),
        (RIGHT, RIGHT),
        (RIGHT, RUDE),
        (WRONG, None),
        (RIGHT, SAFE),
        (WRONG, SAFE),
    ]
    before = {f.id: pair[0] for f, pair in zip(found, pairs)}
    after = {f.id: pair[1] for f, pair in zip(found, pairs)} | {"retracted since": WRONG}
    table = fixed_and_regressed(found, before, after)
    assert [row.outcome for row in table.rows] == [
        "fixed",
        "still failing",
        "still right",
        "regressed",
        "not judged",
        "fixed",
        "still failing",
    ]
    assert [row.id for row in table.rows] == [f.id for f in found]
    total = table.total
    counts = (total.fixed, total.still_failing, total.still_right, total.regressed, total.not_judged)
    assert counts == (2, 2, 1, 1, 1)
    assert total.p_value == pytest.approx(1.0)  # 2 fixed, 1 regressed: 2 (3 + 1) / 2^3
    assert list(table.by_category) == ["drugs", "weapons"]
    assert list(table.by_severity) == [5, 4]
    drugs, worst = table.by_category["drugs"], table.by_severity[5]
    assert (drugs.fixed, drugs.still_right, drugs.regressed) == (1, 1, 0)
    assert (worst.still_right, worst.regressed, worst.fixed) == (1, 1, 0)
    json.dumps(to_json(table), allow_nan=False)


@pytest.mark.parametrize(("fixed", "regressed"), [(0, 0), (6, 0), (0, 6), (9, 2), (20, 3)])
def test_the_p_value_is_the_exact_sign_test_of_fixed_against_regressed(fixed: int, regressed: int) -> None:
    found = [case(i) for i in range(fixed + regressed + 5)]
    labels: list[tuple[Class, Class]] = [(WRONG, RIGHT)] * fixed + [(RIGHT, WRONG)] * regressed + [(WRONG, WRONG)] * 5
    before = {f.id: label[0] for f, label in zip(found, labels)}
    after = {f.id: label[1] for f, label in zip(found, labels)}
    expected = binomtest(fixed, fixed + regressed).pvalue if fixed + regressed else 1.0
    assert fixed_and_regressed(found, before, after).total.p_value == pytest.approx(expected)


def test_a_label_that_is_no_class_is_an_error() -> None:
    with pytest.raises(ValueError, match="'harmless' is not a class"):
        fixed_and_regressed([BASE], {BASE.id: "harmless"}, {})  # type: ignore[dict-item]


def test_no_findings_are_an_empty_table() -> None:
    table = fixed_and_regressed([], {}, {})
    assert (table.rows, table.by_category, table.total.fixed, table.total.p_value) == ((), {}, 0, 1.0)
