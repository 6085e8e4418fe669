"""Who is right: numbers that are numbers, names that hold one, and a judge with a key."""

from __future__ import annotations

import io
import json
import urllib.request
from typing import Any

import pytest

from forescale.core.documents import Text
from forescale.evals import scorers
from forescale.evals.task import Item


def by_kind(completion: str, *accepted: str, **facts: str) -> float:
    return scorers.by_kind(Item("i", (Text("?"),), accepted=accepted, facts=facts), completion)


@pytest.mark.parametrize(
    ("completion", "accepted", "right"),
    [
        ("7 Up", ("7 Up",), 1),
        ("They sold 7", ("7 Up",), 0),
        ("7", ("7 Up",), 0),
        ("2nd Street", ("2nd Street",), 1),
        ("on street number 2", ("2nd Street",), 0),
        ("3 apples", ("7", "3 Doors Down"), 0),
        ("It costs 5 dollars, so 20", ("$20.00",), 1),
        ("about 5%", ("5 %",), 1),
        ("so -5", ("-$5",), 1),
        ("so 5", ("-$5",), 0),
        ("1200.5 people", ("1,200.50",), 1),
        ("forty-two", ("42", "forty-two"), 1),
        ("6 times 7 is 42", ("42", "forty-two"), 1),
    ],
)
def test_an_answer_is_a_number_only_if_it_is_nothing_else(
    completion: str, accepted: tuple[str, ...], right: int
) -> None:
    assert by_kind(completion, *accepted) == right


WRITTEN = {
    "unicode minus": ("\u22123", "-3", 1),
    "unicode minus of three": ("\u22123", "3", 0),
    "en dash as minus": ("so \u20133", "-3", 1),
    "a range is no minus": ("pages 2-3", "3", 1),
    "taken away": ("10-3", "-3", 0),
    "decimal comma": ("3,5", "3.5", 1),
    "decimal comma is no 35": ("3,5", "35", 0),
    "thousands": ("1,234", "1234", 1),
    "more thousands": ("1,234,567.5", "1234567.5", 1),
    "thousands by points": ("1.234.567", "1234567", 1),
    "points and a comma": ("1.234,5", "1234.5", 1),
    "thin spaces": ("1\u202f234", "1234", 1),
    "apostrophes": ("1'234", "1234", 1),
    "a list": ("1,2,3", "1,2,3", 1),
    "a list is no 123": ("1,2,3", "123", 0),
    "a list is not its last": ("1,2,3", "3", 0),
    "another list": ("1,2,3", "1,2,4", 0),
    "exponent": ("3e8", "300000000", 1),
    "exponent with a sign": ("1.5E-3", "0.0015", 1),
    "a fraction": ("1/4", "0.25", 1),
    "a fraction over zero": ("1/0", "0", 0),
    "currency": ("-$5", "-5", 1),
    "euro behind": ("5 €", "5", 1),
    "zeros behind": ("2.50", "2.5", 1),
    "a point behind": ("It is 42.", "42", 1),
    "a thought before": ("<think>7 or 8</think>8", "8", 1),
    "a thought only": ("<think>8", "8", 0),
    "huge exponent": ("1e9999", "1", 0),
    "other digits": ("\u0663", "3", 1),
    "letter before a minus": ("x-3", "3", 1),
}


@pytest.mark.parametrize(("completion", "accepted", "right"), WRITTEN.values(), ids=WRITTEN.keys())
def test_numbers_are_read_as_they_are_written(completion: str, accepted: str, right: int) -> None:
    item = Item("i", (Text("?"),), accepted=(accepted,), facts={"answer": "number"})
    assert scorers.numeric(item, completion) == right


AROUND = {
    "bold": ("**Paris**", "Paris", 1),
    "italic and a point": ("*Paris*.", "Paris", 1),
    "curly quotes": ("“Paris”", "Paris", 1),
    "guillemets": ("« Paris »", "Paris", 1),
    "low quotes": ("„Paris“", "Paris", 1),
    "code": ("`Paris`", "Paris", 1),
    "a heading": ("## Paris", "Paris", 1),
    "a quote mark": ("> Paris", "Paris", 1),
    "composed otherwise": ("Zu\u0308rich", "Z\u00fcrich", 1),
    "a list's spaces": ("1, 2, 3", "1,2,3", 1),
    "a thought before": ("<think>Lyon?</think>\nParis", "Paris", 1),
    "a blank line before": ("\n\nParis\nmore", "Paris", 1),
    "inner marks count": ("C++", "C", 0),
    "inner apostrophes count": ("its", "it's", 0),
    "a minus in words": ("\u22123 degrees", "-3 degrees", 1),
    "nothing but marks": ("*", "*", 1),
    "nothing": ("", "Paris", 0),
    "another": ("**Lyon**", "Paris", 0),
}


@pytest.mark.parametrize(("completion", "accepted", "right"), AROUND.values(), ids=AROUND.keys())
def test_marks_around_an_answer_are_no_part_of_it(completion: str, accepted: str, right: int) -> None:
    assert scorers.exact(Item("i", (Text("?"),), accepted=(accepted,)), completion) == right


def test_facts_say_what_kind_an_answer_is() -> None:
    assert by_kind("He has 7", "7 apples", answer="number") == 1
    assert by_kind("He has 7", "7 apples") == 0
    assert by_kind("He has 7", "7", answer="text") == 0
    assert by_kind("7", "7", answer="text") == 1


@pytest.mark.parametrize(
    ("given", "environment", "sent"),
    [("", " from-outside\n", "Bearer from-outside"), ("own", "from-outside", "Bearer own"), ("", "", None)],
)
def test_the_judges_key(given: str, environment: str, sent: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[urllib.request.Request] = []

    def answer(request: urllib.request.Request, **_: Any) -> io.BytesIO:
        asked.append(request)
        return io.BytesIO(json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setenv("FORESCALE_JUDGE_KEY", environment)
    assert scorers.endpoint_judge("https://example.org/v1", "judge", given)("prompt") == "yes"
    # Not among the headers that urllib repeats to wherever it is redirected.
    assert asked[0].unredirected_hdrs.get("Authorization") == sent
    assert "Authorization" not in asked[0].headers
