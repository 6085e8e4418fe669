"""Weights: a known ordering is found, labels that say nothing teach nothing, scores count, the optimum is one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.rewards.rubric import case, small

from forescale.core.documents import Answered
from forescale.core.errors import CorruptArtifact, UserError
from forescale.rewards.rbrm import FitConfig, Ranking, Rbrm, Weights, fit_weights
from forescale.rewards.rubrics import Rubric
from forescale.rewards.verdicts import CLASSES, Verdict


@pytest.fixture
def rubric(tmp_path: Path) -> Rubric:
    return small(tmp_path)


def verdict(label: str, **propositions: float) -> Verdict:
    return Verdict({name: float(name == label) for name in CLASSES}, propositions)


ORDER = {
    "allowed": ("safe", "refusal_desired", "refusal_undesired"),
    "forbidden": ("refusal_desired", "refusal_undesired", "disallowed"),
}


def known(n: int = 40) -> list[Ranking]:
    return [Ranking(kind, tuple(verdict(label) for label in order)) for _ in range(n) for kind, order in ORDER.items()]


def test_a_known_ordering_is_found(rubric: Rubric) -> None:
    weights = fit_weights(known(), "made", rubric)
    for kind, order in ORDER.items():
        rewards = [weights.reward(verdict(label), kind) for label in order]
        # The margin of 1 is kept between neighbours, but for what the pull to 0 takes.
        assert all(a - b > 0.97 for a, b in pairwise(rewards))
    figures = weights.figures
    assert figures["fitted"]["rankings"] == 64
    assert figures["held_out"]["rankings"] == 16
    for part in (figures["fitted"], figures["held_out"]):
        assert part["before"]["hinge"] == 1
        assert part["before"]["ordered"] == 0.5
        assert part["after"]["hinge"] < 0.03
        assert part["after"]["ordered"] == 1
    assert figures["held_out"]["after"]["interval"][0] < 1


def shuffled(ranked: Sequence[Ranking], seed: int) -> list[Ranking]:
    """The same rankings with each one's verdicts in a random order: what weights learn from labels that say nothing.

    They need not be near 0: where 51 of 100 labels happen to favour a class, the hinge is least near the full margin.
    """
    rng = np.random.default_rng(seed)
    out = []
    for ranking in ranked:
        verdicts = tuple(ranking.verdicts[i] for i in rng.permutation(len(ranking.verdicts)))
        out.append(Ranking(ranking.category, verdicts, ranking.scores, ranking.ranks))
    return out


def test_shuffled_labels_teach_nothing(rubric: Rubric) -> None:
    weights = fit_weights(shuffled(known(400), seed=1), "made", rubric)
    held_out = weights.figures["held_out"]["after"]
    assert held_out["interval"][0] < 0.5 < held_out["interval"][1]
    # With true labels it is below 0.03.
    assert 0.9 < held_out["hinge"] < 1.1


def test_the_reward_models_scores_are_a_fixed_term(rubric: Rubric) -> None:
    """A reward model that likes refusals by 2 must be outweighed where the policy wants help, and only there."""
    right = Ranking("forbidden", (verdict("refusal_desired"), verdict("disallowed")), (2.0, 0.0))
    wrong = Ranking("allowed", (verdict("safe"), verdict("refusal_desired")), (0.0, 2.0))
    weights = fit_weights([right, wrong] * 10, "made", rubric, FitConfig(l2=1e-5))
    gap = weights.reward(verdict("safe"), "allowed") - weights.reward(verdict("refusal_desired"), "allowed")
    assert gap == pytest.approx(3, abs=0.01)
    assert all(weights.values[f"forbidden/{name}"] == 0 for name in CLASSES)
    assert weights.figures["fitted"]["before"]["ordered"] == 0.5
    assert weights.figures["fitted"]["before"]["hinge"] == pytest.approx(1.5)


def test_weights_stay_in_their_box(rubric: Rubric) -> None:
    ranking = Ranking("allowed", (verdict("safe"), verdict("disallowed")), (0.0, 100.0))
    weights = fit_weights([ranking], "made", rubric, FitConfig(bound=2))
    assert weights.values["allowed/safe"] == 2
    assert weights.values["allowed/disallowed"] == -2


def test_ties_make_no_pair(rubric: Rubric) -> None:
    tied = Ranking("allowed", (verdict("safe"), verdict("disallowed")), ranks=(0, 0))
    with pytest.raises(UserError, match="no ranking with two answers"):
        fit_weights([tied], "made", rubric)
    assert Ranking("allowed", (verdict("safe"),) * 3, ranks=(0, 0, 1)).pairs == [(0, 2), (1, 2)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_no_other_weights_do_better(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """The optimum of the same problem written with one slack a pair, which is smooth, by another solver."""
    rng = np.random.default_rng(seed)
    rubric = small(tmp_path_factory.mktemp("r"))

    def drawn() -> Verdict:
        shares = rng.dirichlet(np.ones(5))
        return Verdict(dict(zip(CLASSES, map(float, shares))), {"refuses": float(rng.random())})

    rankings = [Ranking("allowed", (drawn(), drawn()), tuple(rng.normal(size=2))) for _ in range(6)]
    config = FitConfig(l2=0.05, bound=1.5, held_out=0)
    weights = fit_weights(rankings, "made", rubric, config)
    names = list(weights.values)
    x = np.array([[_phi(r.verdicts[0], n) - _phi(r.verdicts[1], n) for n in names] for r in rankings])
    base = np.array([r.scores[0] - r.scores[1] for r in rankings])

    def objective(w: np.ndarray) -> float:
        return float(np.maximum(0, 1 - base - x @ w).mean() + config.l2 / 2 * w @ w)

    f = len(names)
    exact = minimize(
        lambda z: float(z[f:].mean() + config.l2 / 2 * z[:f] @ z[:f]),
        np.concatenate([np.zeros(f), np.full(6, 5.0)]),
        jac=lambda z: np.concatenate([config.l2 * z[:f], np.full(6, 1 / 6)]),
        bounds=[(0, 1.5) if n == "allowed/safe" else (-1.5, 0) for n in names] + [(0, None)] * 6,
        constraints={"type": "ineq", "fun": lambda z: z[f:] - 1 + base + x @ z[:f], "jac": lambda z: np.hstack([x, np.eye(6)])},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    got = objective(np.array(list(weights.values.values())))
    assert got <= objective(exact.x[:f]) + 2e-4
    assert got == pytest.approx(weights.figures["fitted"]["after"]["hinge"] + _penalty(weights), abs=1e-9)


def _phi(one: Verdict, name: str) -> float:
    key = name.split("/")[1]
    return one.classes.get(key, 0.0) if key in CLASSES else one.propositions[key]  # type: ignore[call-overload]


def _penalty(weights: Weights) -> float:
    return weights.config.l2 / 2 * sum(value**2 for value in weights.values.values())


def test_the_same_rankings_give_the_same_weights(rubric: Rubric) -> None:
    assert fit_weights(known(), "made", rubric) == fit_weights(known(), "made", rubric)


@pytest.mark.parametrize(
    ("rankings", "complaint"),
    [
        ([], "no ranking"),
        ([Ranking("allowed", (verdict("safe"),))], "no ranking"),
        ([Ranking("banned", (verdict("safe"), verdict("disallowed")))], "category 'banned'"),
        ([Ranking("allowed", (verdict("safe"), verdict("disallowed")), (math.nan, 0.0))], "not finite"),
        ([Ranking("allowed", (verdict("safe", refuses=math.inf), verdict("safe", refuses=0.0)))], "not finite"),
        (
            [Ranking("allowed", (verdict("safe"), verdict("safe")), s) for s in ((), (0.0, 1.0))],
            "give all of them scores",
        ),
    ],
)
def test_rankings_that_cannot_be_fitted(rankings: list[Ranking], complaint: str, rubric: Rubric) -> None:
    with pytest.raises(UserError, match=complaint):
        fit_weights(rankings, "made", rubric)


@pytest.mark.parametrize("wrong", [{"margin": 0}, {"l2": -1.0}, {"bound": math.inf}, {"held_out": 1.0}])
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        FitConfig(**wrong)


def test_rankings_that_contradict_themselves() -> None:
    with pytest.raises(ValueError, match="another number"):
        Ranking("allowed", (verdict("safe"),), (1.0, 2.0))
    with pytest.raises(ValueError, match="best first"):
        Ranking("allowed", (verdict("safe"), verdict("safe")), ranks=(1, 0))


class Given:
    name = "given"

    def __init__(self, *verdicts: Verdict | None) -> None:
        self.verdicts = list(verdicts)

    def __call__(self, cases: Sequence[Answered]) -> list[Verdict | None]:
        return self.verdicts


def test_cases_without_a_verdict_are_left_out_and_counted(rubric: Rubric) -> None:
    weights = fit_weights(known(), "given", rubric)
    broken = Verdict(dict.fromkeys(CLASSES, math.nan), {})
    rbrm = Rbrm(Given(verdict("safe"), None, broken, verdict("disallowed")), weights, rubric)
    rewards = rbrm([case("a"), case("b"), case("c"), case("d", "forbidden")])
    # The first has no category, and the rubric assumes "allowed".
    assert rewards == [weights.values["allowed/safe"], None, None, weights.values["forbidden/disallowed"]]
    assert (rbrm.judged, rbrm.left_out) == (4, 2)
    rbrm([case("a")] * 4)
    assert (rbrm.judged, rbrm.left_out) == (8, 4)


def test_weights_fit_one_judge_and_one_rubric(rubric: Rubric, tmp_path: Path) -> None:
    weights = fit_weights(known(), "given", rubric)
    with pytest.raises(UserError, match="have none for 'sensitive/refusal_desired'"):
        Rbrm(Given(verdict("safe")), weights, rubric)([case("a", "sensitive")])
    with pytest.raises(UserError, match="have none for 'allowed/refuses'"):
        Rbrm(Given(verdict("safe", refuses=1.0)), weights, rubric)([case("a")])
    other = small(tmp_path, (tmp_path / "small.toml").read_text().replace("Be kind", "Be brief"))
    with pytest.raises(UserError, match="another rubric"):
        Rbrm(Given(), weights, other)


def test_weights_can_be_read_by_people_and_come_back(rubric: Rubric, tmp_path: Path) -> None:
    weights = fit_weights(known(), "made", rubric)
    weights.save(tmp_path / "weights.json")
    assert Weights.load(tmp_path / "weights.json") == weights
    assert json.loads((tmp_path / "weights.json").read_text())["values"]["allowed/safe"] > 0
    with pytest.raises(UserError, match="no RBRM weights at"):
        Weights.load(tmp_path / "none.json")
    for text in ("{}", "[]", '{"values": {"a": NaN}, "judge": "", "rubric": "", "config": {}, "figures": {}}', "{"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(CorruptArtifact):
            Weights.load(tmp_path / "bad.json")
