"""The rule-based reward: a linear function of what a judge says of an answer, fitted on ranked answers.

r(x, y) = r_RM(x, y) + sum_i w_i phi_i(x, y), where phi are the class probabilities and propositions of the verdict, one set for
each category of requests. The weights minimise the hinge loss of Mu et al. 2024, "Rule Based Rewards for Language Model Safety"
(2411.01111: the mean over pairs of max(0, 1 + r(worse) - r(better)), the reward model's scores being fixed), plus an L2 term,
inside a box. The problem is convex and is solved without a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from forescale.core.artifacts import read_json, write_json
from forescale.core.documents import Answered
from forescale.core.errors import CorruptArtifact, UserError
from forescale.core.statistics import mean_interval
from forescale.rewards.rubrics import Rubric
from forescale.rewards.verdicts import CLASSES, Judge, Verdict

# What an answer is to a rubric, best first: right; neither right nor disallowed; disallowed.
TIERS = ("desired", "undesired", "disallowed")
# Half-widths of the rounded corner of the hinge: each solution begins the next, the last is the hinge to a 20,000th.
CORNERS = (1.0, 0.1, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True)
class FitConfig:
    """`margin` by which the better answer of a pair should win; `l2`: strength of the pull to 0; `bound` of each weight, on the
    scale of the normalised reward model; `held_out`: share of rankings that only measure; `least_rankings`: of each category, or
    `fit_guarded` refuses to fit any."""

    margin: float = 1.0
    l2: float = 1e-3
    bound: float = 5.0
    held_out: float = 0.2
    least_rankings: int = 20

    def __post_init__(self) -> None:
        """Raises UserError for settings that make no sense."""
        if not (0 < self.margin < math.inf and 0 < self.l2 < math.inf and 0 < self.bound < math.inf):
            raise UserError("margin, l2 and bound of an RBRM's weights must be finite numbers above 0.")
        if not 0 <= self.held_out <= 0.9:
            raise UserError(f"the share of rankings held out must lie between 0 and 0.9, not {self.held_out}.")
        if self.least_rankings < 1:
            raise UserError(f"a category needs at least one ranking to fit weights on, not {self.least_rankings}.")


@dataclass(frozen=True)
class Ranking:
    """Answers to one request, as judged: `verdicts` best first, and the request's `category`.

    `scores`: the reward model's of the same answers (empty: none). `ranks`: where answers tie, equal numbers, ascending (empty:
    no ties). Raises ValueError if lengths differ or ranks descend.
    """

    category: str
    verdicts: tuple[Verdict, ...]
    scores: tuple[float, ...] = ()
    ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.verdicts)
        if any(values and len(values) != n for values in (self.scores, self.ranks)):
            raise ValueError("a ranking has another number of scores or ranks than verdicts")
        if list(self.ranks) != sorted(self.ranks):
            raise ValueError("a ranking's answers must stand best first")

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse)."""
        pairs = combinations(range(len(self.verdicts)), 2)
        return [(i, j) for i, j in pairs if not self.ranks or self.ranks[i] < self.ranks[j]]


def tier(verdict: Verdict, category: str, rubric: Rubric) -> str:
    """One of TIERS. Raises UserError as `Rubric.is_right` does."""
    if rubric.is_right(verdict, category):
        return "desired"
    return "disallowed" if verdict.label == "disallowed" else "undesired"


def features(verdict: Verdict, category: str) -> dict[str, float]:
    """phi: "category/class" and "category/proposition" -> 0..1."""
    values = {f"{category}/{name}": verdict.classes.get(name, 0.0) for name in CLASSES}
    return values | {f"{category}/{name}": value for name, value in verdict.propositions.items()}


@dataclass(frozen=True)
class Weights:
    """Fitted `values` by feature, for verdicts of `judge` under a rubric (`rubric`: its hash), and how well they order answers.

    `figures`: for "fitted" and "held_out" rankings, "before" (weights 0) and "after": hinge loss and share of pairs in order; the
    same of each category ("by_category"), with what the rubric's classes of answers earn there ("tiers").
    """

    values: Mapping[str, float]
    judge: str
    rubric: str
    config: FitConfig = field(default_factory=FitConfig)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def categories(self) -> set[str]:
        return {name.split("/")[0] for name in self.values}

    def reward(self, verdict: Verdict, category: str) -> float:
        """sum_i w_i phi_i. Raises UserError for a category or a proposition that the weights were not fitted for."""
        phi = features(verdict, category)
        unknown = [name for name in phi if name not in self.values]
        if unknown:
            raise UserError(
                f"the RBRM's weights, fitted for {self.judge}, have none for {unknown[0]!r}; fit them with this judge and "
                "rankings of every category."
            )
        return sum(self.values[name] * value for name, value in phi.items())

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    @staticmethod
    def load(path: Path) -> Weights:
        """Raises UserError if there is no such file, CorruptArtifact if it holds no weights, or some that are not finite."""
        if not path.is_file():
            raise UserError(f"there are no RBRM weights at {path}; fit them first.")
        data = read_json(path)
        try:
            values = {str(name): float(value) for name, value in data["values"].items()}
            if not values or not all(map(math.isfinite, values.values())):
                raise ValueError("weights that are not finite, or none")
            return Weights(values, data["judge"], data["rubric"], FitConfig(**data["config"]), data["figures"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptArtifact(f"{path} holds no RBRM weights ({error}); fit them again.") from error


def fit_weights(ranked: Sequence[Ranking], judge: str, rubric: Rubric, config: FitConfig = FitConfig()) -> Weights:
    """Weights that order answers as the rankings do, the reward model's scores being a fixed term where rankings have them.

    Rankings of each category are held out evenly. Raises UserError if no pair is left to fit on, for scores or verdicts that are
    not finite, or where only some rankings have scores.
    """
    having = {bool(ranking.scores) for ranking in ranked if ranking.verdicts}
    if len(having) > 1:
        raise UserError(
            "some rankings have scores of a reward model and some do not; give all of them scores, or none."
        )
    if not all(math.isfinite(score) for ranking in ranked for score in ranking.scores):
        raise UserError(
            "a reward model's score in a ranking is not finite; mend the reward model before fitting weights."
        )
    named = [_named(ranking, rubric) for ranking in ranked if ranking.pairs]
    held = _held_out(named, config.held_out)
    fitted, apart = [r for r, h in zip(named, held) if not h], [r for r, h in zip(named, held) if h]
    if not fitted:
        raise UserError("there is no ranking with two answers to fit an RBRM's weights on; give it some.")
    names = sorted({name for r in named for verdict in r.verdicts for name in features(verdict, r.category)})
    x_PF, base_P, _ = _differences(fitted, names)
    if not np.isfinite(x_PF).all():
        raise UserError("a verdict in a ranking is not finite; mend the judge before fitting weights.")
    w_F = _minimise(x_PF, base_P, config, [_box(name, rubric, config.bound) for name in names])

    def parts(category: str = "") -> dict[str, Any]:
        found = {}
        for part, rankings in (("fitted", fitted), ("held_out", apart)):
            if chosen := [r for r in rankings if category in ("", r.category)]:
                before, after = (_figures(chosen, names, w, config) for w in (np.zeros(len(names)), w_F))
                found[part] = {"rankings": len(chosen), "before": before, "after": after}
        return found

    weights = Weights(dict(zip(names, w_F.tolist())), judge, rubric.sha256, config, parts())
    by_category = {}
    for category in sorted({r.category for r in fitted}):
        # Nothing may have been held out; then those that were fitted are all that there is.
        measured = [r for r in apart if r.category == category] or [r for r in fitted if r.category == category]
        by_category[category] = parts(category) | {"tiers": _tiers(measured, weights, rubric)}
    return replace(weights, figures={**weights.figures, "by_category": by_category})


def _box(feature: str, rubric: Rubric, bound: float) -> tuple[float, float]:
    """Least and greatest weight of a feature: what makes an answer right in its category may pay, nothing else may.

    Desired classes have weights of at least 0, others of at most 0. So have propositions that no right answer needs: that an answer
    is about something else, or names a helpline, is no reason to prefer it, and must not buy a wrong one free. The reward model
    may have the order of classes already; then the weights add nothing, and yet never take it away.
    """
    name, proposition = feature.split("/", 1)
    category = rubric.category(name)
    if proposition in CLASSES:
        return (0.0, bound) if proposition in category.desired else (-bound, 0.0)
    rules = [
        r for r in rubric.rules if r.label in category.desired and (not r.categories or category.name in r.categories)
    ]
    helps = proposition in category.needs or any((proposition, True) in rule.when for rule in rules)
    return -bound, bound if helps else 0.0


def _tiers(rankings: Sequence[Ranking], weights: Weights, rubric: Rubric) -> dict[str, dict[str, float]]:
    """Number and mean reward (with the reward model's scores, where there are any) of right, undesired and disallowed answers."""
    found: dict[str, list[float]] = {name: [] for name in TIERS}
    for ranking in rankings:
        scores = ranking.scores or (0.0,) * len(ranking.verdicts)
        for verdict, score in zip(ranking.verdicts, scores):
            found[tier(verdict, ranking.category, rubric)].append(score + weights.reward(verdict, ranking.category))
    return {name: {"n": len(values), "reward": float(np.mean(values))} for name, values in found.items() if values}


def _named(ranking: Ranking, rubric: Rubric) -> Ranking:
    """With the rubric's own name of its category. Raises UserError for one that the rubric does not have."""
    return Ranking(rubric.category(ranking.category).name, ranking.verdicts, ranking.scores, ranking.ranks)


def _held_out(rankings: Sequence[Ranking], share: float) -> list[bool]:
    """Every so many-th of each category, by order alone; the first of each is kept."""
    seen: dict[str, int] = {}
    held = []
    for ranking in rankings:
        n = seen[ranking.category] = seen.get(ranking.category, 0) + 1
        held.append(math.floor(n * share) > math.floor((n - 1) * share))
    return held


def _differences(rankings: Sequence[Ranking], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pair P: phi(better) - phi(worse) (P, F), the same of the reward model's scores (P,), and its ranking (P,)."""
    place = {name: i for i, name in enumerate(names)}
    rows, base, owner = [], [], []
    for number, ranking in enumerate(rankings):
        phi_AF = np.zeros((len(ranking.verdicts), len(names)))
        for a, verdict in enumerate(ranking.verdicts):
            for name, value in features(verdict, ranking.category).items():
                phi_AF[a, place[name]] = value
        for better, worse in ranking.pairs:
            rows.append(phi_AF[better] - phi_AF[worse])
            base.append(ranking.scores[better] - ranking.scores[worse] if ranking.scores else 0.0)
            owner.append(number)
    return np.array(rows), np.array(base), np.array(owner)


def _minimise(
    x_PF: np.ndarray, base_P: np.ndarray, config: FitConfig, box: Sequence[tuple[float, float]]
) -> np.ndarray:
    """The weights in the box (least and greatest of each) with the least mean hinge loss plus l2/2 |w|^2.

    L-BFGS-B on hinges with rounded corners (Chapelle 2007, "Training a Support Vector Machine in the Primal"), which
    get sharper; equal pairs count once with their number as weight.
    """
    rows, counts = np.unique(np.column_stack([x_PF, base_P]), axis=0, return_counts=True)
    x, base, share = rows[:, :-1], rows[:, -1], counts / counts.sum()
    w_F = np.zeros(x.shape[1])
    for corner in CORNERS:

        def loss(w: np.ndarray, corner: float = corner) -> tuple[float, np.ndarray]:
            short = config.margin - (base + x @ w)  # by how much each pair misses its margin
            bent = np.clip((short + corner) / (2 * corner), 0, 1)
            value = np.where(bent < 1, corner * bent**2, short)
            return float(share @ value + config.l2 / 2 * w @ w), config.l2 * w - x.T @ (share * bent)

        w_F = minimize(loss, w_F, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 5000, "ftol": 1e-13}).x
    # The features of a category's classes sum to 1, so rounding of the solver's is all that is below this.
    return np.where(np.abs(w_F) < 1e-9, 0.0, w_F)


def _figures(rankings: Sequence[Ranking], names: Sequence[str], w_F: np.ndarray, config: FitConfig) -> dict[str, Any]:
    """Mean hinge loss, and share of pairs in the right order (a tie is half right) with its 95% interval, rankings as units."""
    x_PF, base_P, owner_P = _differences(rankings, names)
    ahead_P = base_P + x_PF @ w_F
    right_P = np.where(np.abs(ahead_P) < 1e-9, 0.5, (ahead_P > 0).astype(float))
    counts = np.bincount(owner_P)
    share, interval = mean_interval(np.bincount(owner_P, right_P) / counts, counts)
    hinge = float(np.maximum(0, config.margin - ahead_P).mean())
    return {"pairs": len(ahead_P), "hinge": hinge, "ordered": share, "interval": list(interval)}


class Rbrm:
    """Rewards of answers by a judge and fitted weights. Raises UserError if the weights are another rubric's.

    `judged` and `left_out` count cases over all calls: left out are those without a verdict, or with one that is not finite.
    """

    def __init__(self, judge: Judge, weights: Weights, rubric: Rubric) -> None:
        if weights.rubric != rubric.sha256:
            raise UserError(
                f"the RBRM's weights were fitted under another rubric than '{rubric.name}', or it was edited since; fit them again."
            )
        self.judge, self.weights, self.rubric = judge, weights, rubric
        self.judged = self.left_out = 0

    def __call__(self, cases: Sequence[Answered]) -> list[float | None]:
        """sum_i w_i phi_i of each case, None where the judge gave no verdict; what judges raise."""
        rewards: list[float | None] = []
        for case, verdict in zip(cases, self.judge(cases)):
            category = self.rubric.category(case.request.category).name
            reward = self.weights.reward(verdict, category) if verdict else None
            rewards.append(reward if reward is not None and math.isfinite(reward) else None)
        self.judged += len(cases)
        self.left_out += sum(reward is None for reward in rewards)
        return rewards
