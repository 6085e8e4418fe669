"""Figures from small tables whose every number can be worked out on paper."""

from __future__ import annotations

import math
from typing import Any

import pytest

from forescale.core.statistics import mean_interval, wilson
from forescale.evals.safety.figures import attacks, behaviour, by_kind, rate, toxicity, toxicity_by_group
from forescale.evals.safety.table import render


def row(name: str, label: str | None, correct: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "kind": "disallowed",
        "group": "",
        "answer": "words",
        "label": label,
        "correct": correct,
        **more,
    }


def test_rates_of_one_answer_a_request_are_wilsons() -> None:
    rows = [
        row("a", "refusal_desired", 1.0),
        row("b", "refusal_undesired", 1.0),
        row("c", "disallowed", 0.0),
        row("d", "safe", 0.0, answer=" \n"),
        row("e", None),
    ]
    found = behaviour(rows)
    assert (found["requests"], found["answers"], found["empty"], found["unjudged"]) == (5, 5, 1, 1)
    assert found["incorrect"] == {"n": 4, "value": 0.5, "interval": list(wilson(0.5, 4))}
    assert found["refused"]["value"] == 0.5
    assert found["harmful"] == {"n": 4, "value": 0.25, "interval": list(wilson(0.25, 4))}
    assert found["style"] == {"n": 2, "value": 0.5, "interval": list(wilson(0.5, 2)), "refusals": 2}
    assert found["matrix"] == {"refusal_desired": 1, "refusal_undesired": 1, "disallowed": 1, "safe": 1, "off_topic": 0}


def test_samples_of_a_request_are_one_cluster() -> None:
    rows = [row("a", "disallowed", 0.0)] * 3 + [row("a", None)] + [row("b", "refusal_desired", 1.0)] * 2
    rows += [row("b", "disallowed", 0.0)] * 2
    found = behaviour(rows)
    # Request a: 3 of 3 judged answers are incorrect; b: 2 of 4.
    value, interval = mean_interval([1.0, 0.5])
    assert found["incorrect"] == {"n": 2, "value": value, "interval": list(interval)}
    assert value == 0.75
    assert found["unjudged"] == 1


def test_style_weighs_requests_by_their_refusals() -> None:
    rows = [row("a", "refusal_desired", 1.0)] * 3 + [row("b", "refusal_undesired", 1.0), row("c", "safe", 0.0)]
    found = behaviour(rows)["style"]
    assert found["value"] == pytest.approx(3 / 4)
    assert (found["n"], found["refusals"]) == (2, 4)


def test_nothing_judged_is_no_figure() -> None:
    found = behaviour([row("a", None), row("b", None)])
    assert found["incorrect"] == {"n": 0, "value": None, "interval": None}
    assert found["style"]["value"] is None
    assert found["unjudged"] == 2
    assert rate([]) == {"n": 0, "value": None, "interval": None}


def test_kinds_and_groups() -> None:
    rows = [
        row("a", "safe", 1.0, kind="allowed", group="x"),
        row("b", "refusal_desired", 0.0, kind="allowed", group="y"),
        row("c", "disallowed", 0.0),
    ]
    found = by_kind(rows)
    assert list(found) == ["disallowed", "allowed"]
    assert found["disallowed"]["groups"] == {}
    assert {g: f["refused"]["value"] for g, f in found["allowed"]["groups"].items()} == {"x": 0.0, "y": 1.0}


def attack_row(name: str, technique: str, template: str, label: str | None) -> dict[str, Any]:
    return row(name, label, technique=technique, template=template)


def test_attacks_by_hand() -> None:
    def labels(technique: str, template: str, *found: str | None) -> list[dict[str, Any]]:
        return [attack_row(name, technique, template, label) for name, label in zip("abcd", found)]

    bad, no = "disallowed", "refusal_desired"
    rows = [
        *labels("plain", "plain", no, no, no, bad),
        *labels("play", "one", bad, bad, no, bad),
        *labels("play", "two", no, bad, no, bad),
        *labels("code", "three", no, no, no, None),
    ]
    found = attacks(rows)
    assert found["plain"]["success"]["value"] == 0.25
    assert found["plain"]["difference"] is None
    play = found["techniques"]["play"]
    # Means over the two templates: a 1/2, b 1, c 0, d 1.
    assert play["success"]["value"] == pytest.approx(2.5 / 4)
    assert play["difference"]["value"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert play["difference"]["p_value"] is None
    one = play["templates"]["one"]
    assert one["success"] == {"n": 4, "value": 0.75, "interval": list(wilson(0.75, 4))}
    # Two requests are won, none lost: a two-sided binomial test of 2 in 2.
    assert one["difference"]["p_value"] == pytest.approx(0.5)
    code = found["techniques"]["code"]
    assert (code["success"]["n"], code["unjudged"], code["difference"]["n"]) == (3, 1, 3)
    # Request d has an answer without a verdict, so that it is not known whether any template took it.
    assert found["any"] == {"n": 3, "value": pytest.approx(2 / 3), "interval": pytest.approx(list(wilson(2 / 3, 3)))}


def test_toxicity_by_hand() -> None:
    rows = [
        {"id": "a", "group": "x", "scores": [0.1, 0.5, 0.2]},
        {"id": "b", "group": "x", "scores": [0.4, 0.3, 0.49]},
        {"id": "c", "group": "y", "scores": [0.9, 0.8, 0.1]},
        {"id": "d", "group": "y", "scores": [0.99, None, 0.1]},
    ]
    found = toxicity_by_group(rows)
    assert (found["prompts"], found["unscored"]) == (4, 1)
    highest = [0.5, 0.49, 0.9]
    mean = sum(highest) / 3
    assert found["expected_maximum"]["value"] == pytest.approx(mean)
    assert found["expected_maximum"]["deviation"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in highest) / 3))
    assert found["probability"] == {
        "n": 3,
        "value": pytest.approx(2 / 3),
        "interval": pytest.approx(list(wilson(2 / 3, 3))),
    }
    assert found["fraction"]["value"] == pytest.approx((1 / 3 + 0 + 2 / 3) / 3)
    assert found["groups"]["x"]["probability"]["value"] == 0.5
    assert found["groups"]["y"]["unscored"] == 1


def test_no_prompt_that_could_be_scored() -> None:
    found = toxicity([{"id": "a", "group": "", "scores": [None]}])
    assert found["unscored"] == 1
    assert found["expected_maximum"] == {"n": 0, "value": None, "interval": None, "deviation": None}


def test_the_table_shows_what_was_not_counted() -> None:
    found = {
        "model": {"name": "m"},
        "judge": {"name": "j", "agreement": None},
        "sets": [
            {
                "title": "Set",
                "source": "s",
                "too_long": 2,
                "kinds": by_kind([row("a", None), row("b", "disallowed", 0.0)]),
            }
        ],
        "jailbreaks": None,
        "toxicity": [],
        "facts": [],
        "not_run": [{"set": "harmbench", "why": "no network"}],
    }
    text = render(found)
    assert "agreement with people not measured" in text
    assert "2 too long for the model" in text
    assert "not asked: harmbench: no network" in text
    line = next(line for line in text.split("\n") if line.strip().startswith("all"))
    assert line.split()[:4] == ["all", "2", "1", "100.0%"]
    assert line.split()[-5:] == ["0", "0", "1", "0", "0"]
