"""What stands between a fitted reward and a policy that would follow it: whether it wants what its rubric wants.

A policy ends at what pays most. So weights are refused where a category has too few rankings to be fitted, where held-out answers
that the rubric finds better are paid less, and where the best that could be paid in a category is not right there.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from forescale.core.errors import UserError
from forescale.rewards.rbrm import TIERS, FitConfig, Ranking, Weights, fit_weights, tier
from forescale.rewards.rubrics import Rubric
from forescale.rewards.verdicts import CLASSES, Verdict


def fit_guarded(ranked: Sequence[Ranking], judge: str, rubric: Rubric, config: FitConfig) -> Weights:
    """`fit_weights`, and UserError for weights that must not teach anything."""
    counts = Counter(rubric.category(ranking.category).name for ranking in ranked if ranking.pairs)
    for category, count in sorted(counts.items(), key=lambda item: item[1]):
        if count < config.least_rankings:
            raise UserError(
                f"category '{category}' has {count} {'ranking' if count == 1 else 'rankings'} and needs {config.least_rankings} "
                "before an RBRM's weights are fitted: too few tell nothing of the sign; rank more of its answers, leave the "
                "category out, or set --least-rankings."
            )
    weights = fit_weights(ranked, judge, rubric, config)
    require_order(weights, rubric)
    return weights


def require_order(weights: Weights, rubric: Rubric) -> None:
    """Raises UserError, naming the category, if these weights pay for what the rubric does not want."""
    for category, figures in weights.figures.get("by_category", {}).items():
        tiers = figures["tiers"]
        if len(tiers) < 2:
            raise UserError(
                f"in category '{category}' the judge finds all ranked answers {next(iter(tiers))}, so that nothing tells whether "
                "the RBRM's weights have the right sign; rank answers that differ, or mend the rubric."
            )
        if wrong := out_of_order({name: found["reward"] for name, found in tiers.items()}):
            better, worse = wrong
            raise UserError(
                f"in category '{category}' {better} answers earn {tiers[better]['reward']:.2f} and {worse} ones "
                f"{tiers[worse]['reward']:.2f} on held-out rankings: the RBRM's weights have the wrong sign there; look at the "
                "rankings and at what the judge says of them."
            )
    for category in sorted(weights.categories):
        best, right = _best_paid(weights, category, rubric)
        if right < best - 1e-6:
            raise UserError(
                f"in category '{category}' the RBRM's weights pay most ({best:.2f}, a right answer at most {right:.2f}) for an "
                "answer that the rubric does not want; look at the rankings and at what the judge says of them."
            )


def out_of_order(rewards: Mapping[str, float]) -> tuple[str, str] | None:
    """The first pair of TIERS of which the worse earns as much as the better; `rewards` may lack some."""
    there = [name for name in TIERS if name in rewards]
    return next(((a, b) for a, b in itertools.pairwise(there) if not rewards[a] > rewards[b]), None)


def _best_paid(weights: Weights, category: str, rubric: Rubric) -> tuple[float, float]:
    """The most that any verdict of the judge's form earns, and the most that one which is right does.

    Where right answers need a proposition, it may pay an undesired answer too that holds it beside what nobody ranked together (a
    refusal that names a doctor): there the second is the most of what is not disallowed.
    """
    wanted = TIERS[:2] if rubric.category(category).needs else TIERS[:1]
    names = [name.split("/", 1)[1] for name in weights.values if name.startswith(f"{category}/")]
    propositions = [name for name in names if name not in CLASSES]
    verdicts: list[Verdict] = []
    if propositions:
        for values in itertools.product((0.0, 1.0), repeat=len(propositions)):
            holding = dict(zip(propositions, values))
            verdicts.append(Verdict(rubric.classify(dict.fromkeys(rubric.in_rules, 0.0) | holding, category), holding))
    else:
        verdicts = [Verdict({name: float(name == label) for name in CLASSES}, {}) for label in CLASSES]
    paid = [(weights.reward(verdict, category), tier(verdict, category, rubric) in wanted) for verdict in verdicts]
    return max(reward for reward, _ in paid), max((reward for reward, right in paid if right), default=float("-inf"))
