"""Preferences, rankings and requests, and every way in which they can be wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.talk import SIZE, TEXTS, jsonl, png, requests, said, url

from forescale.core.documents import Image, Preference, Request, Text
from forescale.core.errors import UserError
from forescale.data.conversations import turns_json
from forescale.data.preferences import held_out, read_preferences, read_requests

HH = Path(__file__).parents[3] / "shared/data/hh-rlhf/harmless-base-test.jsonl.gz"
ASKED = [said("user", "Hi")]
TALK = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: "


def read(tmp_path: Path, *rows: Any) -> tuple[list[Preference], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(read_preferences(jsonl(tmp_path / "p.jsonl", *rows), SIZE, counts)), counts


def texts(request: Request) -> list[tuple[str, str]]:
    return [(m.role, "".join(p.text for p in m.parts if isinstance(p, Text))) for m in request.messages]


def test_our_own_form(tmp_path: Path) -> None:
    row = {"messages": ASKED, "chosen": "a", "rejected": "b", "margin": 2, "category": "greeting"}
    (pair,), counts = read(tmp_path, row)
    assert (pair.chosen, pair.rejected, pair.margin) == ("a", "b", 2.0)
    assert (pair.request.category, pair.request.source) == ("greeting", "p.jsonl")
    assert texts(pair.request) == [("user", "Hi")]
    assert counts == {"rows": 1, "pairs": 1}


ANSWER = [said("assistant", "a")], [said("assistant", "b")]
FULL = [[*ASKED, *answer] for answer in ANSWER]
LATER = [[said("assistant", "What?"), said("user", "Hi"), *answer] for answer in ANSWER]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, ["Hi"]),
        ({"prompt": ASKED, "chosen": "a", "rejected": "b"}, ["Hi"]),
        ({"prompt": ASKED, "chosen": ANSWER[0], "rejected": ANSWER[1]}, ["Hi"]),
        ({"prompt": "Hi", "chosen": ANSWER[0][0], "rejected": ANSWER[1][0]}, ["Hi"]),
        ({"chosen": FULL[0], "rejected": FULL[1]}, ["Hi"]),
        ({"prompt": "Hi", "chosen": FULL[0], "rejected": FULL[1]}, ["Hi"]),
        ({"prompt": "Hi", "chosen": LATER[0], "rejected": LATER[1]}, ["Hi", "What?", "Hi"]),
        ({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "a", "rejected": "b"}, ["Hi"]),
        ({"chosen": TALK + "a", "rejected": TALK + "b"}, ["Hi", "Hello", "Bye"]),
    ],
    ids=["strings", "list", "lists", "objects", "implicit", "both", "more turns", "transcript", "transcripts"],
)
def test_forms_of_others(tmp_path: Path, row: Any, asked: list[str]) -> None:
    (pair,), _ = read(tmp_path, row)
    assert (pair.chosen, pair.rejected) == ("a", "b")
    assert [text for _, text in texts(pair.request)] == asked
    assert texts(pair.request)[0][0] == texts(pair.request)[-1][0] == "user"


def test_a_ranking_gives_every_pair_of_its_answers_together(tmp_path: Path) -> None:
    rows = [
        {"messages": ASKED, "ranked": ["a", "b", "c", "d"]},
        {"prompt": "Bye", "chosen": "x", "rejected": "y"},
        {"prompt": "  Hi", "chosen": "x", "rejected": "y"},
    ]
    pairs, counts = read(tmp_path, *rows)
    assert [p.chosen + p.rejected for p in pairs] == ["ab", "ac", "ad", "bc", "bd", "cd", "xy", "xy"]
    ids = [pair.request.id for pair in pairs]
    assert ids[:6] == [ids[0]] * 6
    assert ids[6] != ids[0] == ids[7]
    assert counts == {"rows": 3, "pairs": 8}


def test_a_request_has_one_id_whatever_its_rows_are_called_and_at_whatever_size_its_pictures(tmp_path: Path) -> None:
    content = [{"type": "image", "image": url(png())}, {"type": "text", "text": "What is it?"}]
    rows = [{"id": i, "messages": [said("user", content)], "chosen": "a", "rejected": "b"} for i in range(2)]
    path = jsonl(tmp_path / "p.jsonl", *rows)
    pairs = [pair for size in (8, 16) for pair in read_preferences(path, size)]
    assert len({pair.request.id for pair in pairs}) == 1
    shapes = [p.pixels.shape for pair in pairs for p in pair.request.messages[0].parts if isinstance(p, Image)]
    assert shapes == [(8, 8, 3)] * 2 + [(16, 16, 3)] * 2


def test_identical_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"messages": ASKED, "chosen": "a", "rejected": " a\n"},
        {"messages": ASKED, "ranked": ["a", "b", "a"]},
    ]
    pairs, counts = read(tmp_path, *rows)
    assert [pair.chosen + pair.rejected for pair in pairs] == ["ab", "ba"]
    assert counts == {"rows": 2, "pairs": 2, "left out: identical answers": 2}
    with pytest.raises(UserError, match="holds no pair of answers that differ"):
        read(tmp_path, rows[0])


LEFT_OUT = {
    "two turns of one speaker in a row": ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", TALK + "a"),
    "does not run from a human's words to an assistant's answer": (TALK + "a", "Hello"),
    "chosen and rejected answer different requests": (TALK + "a", "\n\nHuman: Oh\n\nAssistant: a"),
    "an empty turn or answer": (TALK + "a", TALK + " \n"),
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_a_transcript_that_is_no_pair_is_left_out_and_counted(tmp_path: Path, reason: str) -> None:
    chosen, rejected = LEFT_OUT[reason]
    rows = [{"chosen": chosen, "rejected": rejected}, {"chosen": TALK + "a", "rejected": TALK + "b"}]
    _, counts = read(tmp_path, *rows)
    assert counts == {"rows": 2, "pairs": 1, f"left out: {reason}": 1}


def test_a_transcript_that_ends_with_the_human_is_left_out(tmp_path: Path) -> None:
    good = {"chosen": TALK + "a", "rejected": TALK + "b"}
    _, counts = read(tmp_path, good, {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"})
    assert counts["left out: does not run from a human's words to an assistant's answer"] == 1


PAIR = {"chosen": "a", "rejected": "b"}
WRONG: dict[str, tuple[Any, str]] = {
    "bad JSON": ("{", "not valid JSON"),
    "no answers": ({"messages": ASKED}, 'has no "chosen"'),
    "one answer": ({"messages": ASKED, "chosen": "a", "rejected": None}, 'has no "rejected"'),
    "no request": (PAIR, 'has no "messages"'),
    "an answered request": ({"messages": [*ASKED, *ANSWER[0]], **PAIR}, "request ends with an answer"),
    "an empty request": ({"prompt": " ", **PAIR}, "an empty message of the user's"),
    "a prompt that is a number": ({"prompt": 5, **PAIR}, '"text" must be a string'),
    "an empty chosen answer": ({"messages": ASKED, "chosen": "", "rejected": "b"}, "chosen is empty"),
    "an empty rejected answer": ({"messages": ASKED, "chosen": "a", "rejected": "\n"}, "rejected is empty"),
    "an answer that is a number": ({"messages": ASKED, "chosen": "a", "rejected": 5}, "must be a list of one or more"),
    "different requests": (
        {"chosen": FULL[0], "rejected": [said("user", "Oh"), *ANSWER[1]]},
        "differ before their last message",
    ),
    "no answer at the end": ({"chosen": FULL[0], "rejected": ASKED}, '"rejected" does not end with an answer'),
    "a drawn answer": (
        {"chosen": FULL[0], "rejected": [*ASKED, said("assistant", [{"type": "image", "image": url(png())}])]},
        "holds a picture",
    ),
    "lists without a request": ({"chosen": ANSWER[0], "rejected": ANSWER[1]}, 'has no "messages"'),
    "a ranking of one": ({"messages": ASKED, "ranked": ["a"]}, "list of two or more"),
    "a ranking that is text": ({"messages": ASKED, "ranked": "ab"}, "list of two or more"),
    "an empty answer in a ranking": ({"messages": ASKED, "ranked": ["a", "b", ""]}, "answer 3 of the ranking is empty"),
    "a ranking of numbers": ({"messages": ASKED, "ranked": [1, 2]}, "must be a string"),
    "a ranking with a margin": ({"messages": ASKED, "ranked": ["a", "b"], "margin": 1}, 'a ranking has no "margin"'),
    "a negative margin": ({"messages": ASKED, **PAIR, "margin": -1}, "number of at least 0, not -1"),
    "a margin without end": ('{"prompt": "a", "chosen": "a", "rejected": "b", "margin": Infinity}', "not inf"),
    "a margin that is no number": ('{"prompt": "a", "chosen": "a", "rejected": "b", "margin": NaN}', "not nan"),
    "a margin in words": ({"messages": ASKED, **PAIR, "margin": "much"}, "not 'much'"),
    "a margin that is true": ({"messages": ASKED, **PAIR, "margin": True}, "not True"),
    "a category that is a number": ({"messages": ASKED, **PAIR, "category": 5}, "must be a string"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, name: str) -> None:
    row, message = WRONG[name]
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, {"messages": ASKED, **PAIR}, row)
    assert str(error.value).startswith(f"{tmp_path}/p.jsonl:2")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(requests(), TEXTS, TEXTS, st.floats(0, 1e6))
def test_preferences_are_read_as_they_were_written(
    tmp_path: Path, turns: Any, chosen: str, rejected: str, margin: float
) -> None:
    row = {"messages": turns_json(turns), "chosen": chosen, "rejected": rejected, "margin": margin}
    if chosen.split() == rejected.split():
        with pytest.raises(UserError, match="no pair"):
            read(tmp_path, row)
        return
    (pair,), _ = read(tmp_path, row)
    assert (pair.chosen, pair.rejected, pair.margin) == (chosen, rejected, margin)
    assert texts(pair.request) == [(turn.role, turn.text) for turn in turns]


def test_hh_rlhf_is_read_and_every_row_accounted_for() -> None:
    if not HH.is_file():
        pytest.skip(f"{HH} is not here: hh-rlhf's harmless-base test pairs")
    counts: Counter[str] = Counter()
    pairs = list(read_preferences(str(HH), SIZE, counts))
    assert counts == {
        "rows": 2312,
        "pairs": 2299,
        "left out: two turns of one speaker in a row": 9,
        "left out: an empty turn or answer": 4,
    }
    assert len(pairs) == 2299
    assert texts(pairs[0].request)[0] == ("user", "what are some pranks with a pen i can do?")
    assert pairs[0].chosen.startswith("No, sorry!")
    assert pairs[0].rejected.startswith("There are lots of funny things")
    share = sum(held_out(pair.request.id, 0.2) for pair in pairs) / len(pairs)
    assert 0.17 < share < 0.23  # four standard deviations of a fair split


# Requests


def test_requests_have_their_ids_and_categories(tmp_path: Path) -> None:
    rows = [
        {"id": "one", "prompt": "Hi", "category": "greeting"},
        {"messages": [said("system", "Be kind."), *ASKED]},
        {"prompt": ASKED},
    ]
    one, two, three = read_requests(jsonl(tmp_path / "r.jsonl", *rows), SIZE)
    assert (one.id, one.category, texts(one)) == ("one", "greeting", [("user", "Hi")])
    assert texts(two) == [("system", "Be kind."), ("user", "Hi")]
    assert len({two.id, three.id}) == 2
    assert texts(three) == texts(one)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [*ASKED, *ANSWER[0]]}, "request ends with an answer"),
        ({"text": "Hi"}, 'has no "messages"'),
        ({"prompt": ""}, "an empty message"),
        ({"id": "x", "prompt": "Other"}, "'x' is that of another request"),
    ],
)
def test_a_wrong_request_is_named_by_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        list(read_requests(jsonl(tmp_path / "r.jsonl", {"id": "x", "prompt": "Hi"}, row), SIZE))
    assert str(error.value).startswith(f"{tmp_path}/r.jsonl:2")


# The split


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_share_is_part_of_a_larger_one(name: str, a: float, b: float) -> None:
    small, large = sorted((a, b))
    assert not held_out(name, 0)
    assert held_out(name, 1)
    assert held_out(name, large) or not held_out(name, small)


def test_the_split_is_fixed_and_of_the_right_size() -> None:
    names = [json.dumps(i) for i in range(4000)]
    assert [name for name in names[:30] if held_out(name, 0.2)] == ["6", "8", "15", "16", "20", "21", "22"]
    # Within four standard deviations of a binomial count.
    assert abs(sum(held_out(name, 0.2) for name in names) - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5
    with pytest.raises(ValueError, match=r"share of 1\.5"):
        held_out("x", 1.5)
