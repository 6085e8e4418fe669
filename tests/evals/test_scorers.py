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
