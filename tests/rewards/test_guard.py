"""Weights with the wrong sign are refused, whatever gave it to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.rewards.rubric import small

from forescale.core.errors import UserError
from forescale.rewards.guard import fit_guarded, require_order
from forescale.rewards.rbrm import FitConfig, Ranking, Weights
from forescale.rewards.rubrics import Rubric
from forescale.rewards.verdicts import CLASSES, REPORTED, Verdict

CONFIG = FitConfig(margin=2.0)


@pytest.fixture
def rubric(tmp_path: Path) -> Rubric:
    return small(tmp_path)


def verdict(rubric: Rubric, category: str, refuses: int, apologises: int = 0, doctor: int = 0) -> Verdict:
    """As the rules judge gives it."""
    holding = {"refuses": float(refuses), "apologises": float(apologises), "refers_to_help": float(doctor)}
    return Verdict(rubric.classify(holding, category), holding)


def rankings(rubric: Rubric, n: int = 40) -> list[Ranking]:
    """As people rank: help where it is allowed, kind refusals where not, a doctor's name where one is needed."""

    def of(category: str, *answers: tuple[int, ...]) -> Ranking:
        return Ranking(category, tuple(verdict(rubric, category, *answer) for answer in answers))

    kinds = [
        of("allowed", (0, 0), (1, 1), (1, 0)),
        of("forbidden", (1, 1), (1, 0), (0, 0)),
        of("sensitive", (0, 0, 1), (0, 0, 0), (1, 0)),
    ]
    return kinds * n


def flipped(ranked: list[Ranking], *categories: str) -> list[Ranking]:
    return [replace(r, verdicts=r.verdicts[::-1]) if r.category in categories or not categories else r for r in ranked]


def test_weights_with_the_rubrics_order_are_given(rubric: Rubric) -> None:
    weights = fit_guarded(rankings(rubric), "made", rubric, CONFIG)
    found = weights.figures["by_category"]
    assert set(found) == {"allowed", "forbidden", "sensitive"}
    for figures in found.values():
        assert figures["fitted"]["rankings"] == 32
        assert figures["held_out"]["rankings"] == 8
        tiers = figures["tiers"]
        assert tiers["desired"]["reward"] > tiers["undesired"]["reward"]
    forbidden = found["forbidden"]["tiers"]
    assert forbidden["undesired"]["reward"] > forbidden["disallowed"]["reward"]
    assert {name: tier["n"] for name, tier in forbidden.items()} == {"desired": 8, "undesired": 8, "disallowed": 8}


def judge_wrong(ranked: list[Ranking], rubric: Rubric) -> list[Ranking]:
    """People rank as ever, and the judge takes refusals for compliance and the other way about."""

    def turned(one: Verdict, category: str) -> Verdict:
        return verdict(rubric, category, 1 - int(one.propositions["refuses"]), 1 - int(one.propositions["apologises"]))

    return [replace(r, verdicts=tuple(turned(v, r.category) for v in r.verdicts)) for r in ranked]


def letters_swapped(ranked: list[Ranking]) -> list[Ranking]:
    """A judge of letters that names the first class where it means the third."""
    swapped = dict(zip(REPORTED, ("disallowed", "refusal_undesired", "refusal_desired", "safe")))
    return [
        replace(
            r, verdicts=tuple(Verdict({name: v.classes[swapped[name]] for name in REPORTED}, {}) for v in r.verdicts)
        )
        for r in ranked
        if r.category == "forbidden"
    ]


WRONG: dict[str, tuple[Callable[[list[Ranking], Rubric], list[Ranking]], str]] = {
    "all labels flipped": (
        lambda ranked, rubric: flipped(ranked),
        "category '(allowed|forbidden|sensitive)' desired answers earn",
    ),
    "labels of one category flipped": (
        lambda ranked, rubric: flipped(ranked, "forbidden"),
        "category 'forbidden' desired",
    ),
    "a judge that has both sides wrong": (judge_wrong, "category '(allowed|forbidden)' desired answers earn"),
    "a judge whose letters are swapped": (
        lambda ranked, rubric: letters_swapped(ranked),
        "category 'forbidden' desired",
    ),
    "most labels flipped": (
        lambda ranked, rubric: flipped(ranked[:90]) + ranked[90:],
        "category '(allowed|forbidden|sensitive)' desired answers earn",
    ),
    "undesired above desired": (
        lambda ranked, rubric: [
            replace(r, verdicts=(r.verdicts[1], r.verdicts[0], r.verdicts[2])) if r.category == "forbidden" else r
            for r in ranked
        ],
        "category 'forbidden' desired answers earn",
    ),
    "disallowed above undesired": (
        lambda ranked, rubric: [
            replace(r, verdicts=(r.verdicts[0], r.verdicts[2], r.verdicts[1])) if r.category == "forbidden" else r
            for r in ranked
        ],
        "category 'forbidden' undesired answers earn",
    ),
    "one side alone": (
        lambda ranked, rubric: [
            replace(r, verdicts=(r.verdicts[2], r.verdicts[2])) if r.category == "forbidden" else r for r in ranked
        ],
        "category 'forbidden' the judge finds all ranked answers disallowed",
    ),
    "a reward model that outweighs the rest": (
        lambda ranked, rubric: [
            replace(r, scores=(0.0, 0.0, 30.0) if r.category == "forbidden" else (0.0, 0.0, 0.0)) for r in ranked
        ],
        "category 'forbidden' (desired|undesired) answers earn",
    ),
    "one ranking of what is forbidden": (
        lambda ranked, rubric: (
            [r for r in ranked if r.category == "allowed"] + [r for r in ranked if r.category == "forbidden"][:1]
        ),
        "category 'forbidden' has 1 ranking and needs 20",
    ),
    "nineteen rankings": (
        lambda ranked, rubric: [r for r in ranked if r.category == "forbidden"][:19],
        "category 'forbidden' has 19 rankings and needs 20",
    ),
}


@pytest.mark.parametrize(("spoil", "says"), WRONG.values(), ids=WRONG.keys())
def test_wrong_signs_are_refused(
    spoil: Callable[[list[Ranking], Rubric], list[Ranking]], says: str, rubric: Rubric
) -> None:
    with pytest.raises(UserError, match=says):
        fit_guarded(spoil(rankings(rubric), rubric), "made", rubric, CONFIG)


def test_the_rankings_that_once_taught_to_comply_are_refused(rubric: Rubric) -> None:
    """95 of allowed requests, one of a forbidden one, misjudged on both sides: a refusal had -0.40, instructions +0.40."""
    ranked = [r for r in rankings(rubric, 95) if r.category == "allowed"]
    misjudged = Ranking("forbidden", (verdict(rubric, "forbidden", 0), verdict(rubric, "forbidden", 1, 1)))
    with pytest.raises(UserError, match="category 'forbidden' has 1 ranking and needs 20"):
        fit_guarded([*ranked, misjudged], "rules", rubric, CONFIG)
    # With the number of them set aside, the sign of what was fitted.
    with pytest.raises(UserError, match=r"category 'forbidden' desired answers earn -.* and disallowed ones"):
        fit_guarded([*ranked, misjudged], "rules", rubric, replace(CONFIG, least_rankings=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("forbidden/refusal_desired", -5.0),
        ("forbidden/disallowed", 9.0),
        ("forbidden/safe", 30.0),
        ("allowed/refuses", 5.0),
        ("allowed/refusal_undesired", 9.0),
        ("forbidden/apologises", -9.0),
        ("sensitive/disallowed", 99.0),
    ],
)
def test_weights_that_were_edited_are_refused(name: str, value: float, rubric: Rubric) -> None:
    weights = fit_guarded(rankings(rubric), "made", rubric, CONFIG)
    edited = replace(weights, values={**weights.values, name: value})
    if name in ("forbidden/safe", "sensitive/disallowed"):
        # Under this rubric no answer gets there, so that nothing can earn it.
        require_order(edited, rubric)
    else:
        category = name.split("/")[0]
        with pytest.raises(UserError, match=f"category '{category}' the RBRM's weights pay most"):
            require_order(edited, rubric)


def test_what_says_nothing_of_refusing_never_pays(rubric: Rubric) -> None:
    """Refusals that name a doctor were preferred to all: the refusal earns it, the doctor's name alone does not."""
    best, plain = verdict(rubric, "forbidden", 1, 1, 1), verdict(rubric, "forbidden", 1, 1, 0)
    bare, worst = verdict(rubric, "forbidden", 0, 0, 0), verdict(rubric, "forbidden", 0, 0, 1)
    ranked = [Ranking("forbidden", (best, plain, worst, bare))] * 40
    weights = fit_guarded(ranked, "made", rubric, CONFIG)
    assert weights.values["forbidden/refers_to_help"] <= 0
    assert weights.reward(plain, "forbidden") > weights.reward(worst, "forbidden")
    # Where a right answer needs it, it does.
    assert fit_guarded(rankings(rubric), "made", rubric, CONFIG).values["sensitive/refers_to_help"] > 0


def test_letters_alone_are_enough_where_nothing_is_needed(rubric: Rubric) -> None:
    def letter(name: str) -> Verdict:
        return Verdict({label: float(label == name) for label in CLASSES}, {})

    order = ("refusal_desired", "refusal_undesired", "disallowed")
    ranked = [Ranking("forbidden", tuple(map(letter, order)))] * 20
    weights: Weights = fit_guarded(ranked, "letters", rubric, CONFIG)
    assert weights.values["forbidden/refusal_desired"] > weights.values["forbidden/disallowed"]
