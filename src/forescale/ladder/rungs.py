"""From a target's compute to the ladder below it, by one rule.

The largest rung of a cap r is the widest member of the family whose compute, at the family's tokens per parameter, is at most
target / r. Between the caps and below, budgets fall by about `spacing` until the smallest member or `rungs` is reached. Each
budget takes the widest member that it can pay for, at exactly the family's tokens per parameter: rungs lie on the frontier, not
on round numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from forescale.core.device import accelerators, cpus
from forescale.core.errors import UserError
from forescale.model.scaling import Family, RunPlan, check_budget


@dataclass(frozen=True)
class LadderConfig:
    """`caps`: forecasts are sealed from nested ladders whose largest rung has at most 1/cap of the target's compute.

    `seeds` of each rung, `seeds_large` of the rungs above 1/200 of the target. `workers` 0: one a core, or one an accelerator.
    """

    caps: tuple[float, ...] = (10.0, 100.0, 1000.0)
    spacing: float = 2.0
    rungs: int = 11
    min_width: int = 4
    seeds: int = 3
    seeds_large: int = 1
    workers: int = 0


@dataclass(frozen=True)
class Rung:
    name: str
    plan: RunPlan
    seed: int


def rungs_for(
    family: Family, config: LadderConfig, target_flops: float, images_per_token: float, seed: int = 0
) -> list[Rung]:
    """All runs of the ladder, smallest first, seeds from `seed` on. Raises UserError where a cap leaves fewer than three."""
    check_budget(target_flops)
    if config.workers < 0 or config.rungs < 3:
        raise UserError("a ladder needs at least 3 rungs, and 0 workers (one a core) or more.")
    if not config.caps or min(config.caps) <= 1:
        raise UserError(f"ladder caps must be above 1 (a rung is smaller than its target), got {config.caps}.")
    if config.spacing <= 1:
        raise UserError(f"ladder spacing must be above 1, got {config.spacing}.")
    if config.seeds < 1 or config.seeds_large < 1:
        raise UserError("every rung needs at least one seed.")
    plans = [family.plan(w, images_per_token) for w in family.widths() if w >= config.min_width]
    chosen: dict[int, RunPlan] = {}
    cap_budgets = sorted((target_flops / cap for cap in config.caps), reverse=True)
    budget = cap_budgets[0]
    while len(chosen) < config.rungs:
        affordable = [plan for plan in plans if plan.flops <= budget]
        if not affordable:
            break
        chosen[affordable[-1].model.width] = affordable[-1]
        # Down by one spacing, or to the next cap's own budget where that is nearly as far.
        following = [b for b in cap_budgets if budget / config.spacing**1.5 < b < budget]
        budget = following[0] if following else budget / config.spacing
    for cap in config.caps:
        below = [plan for plan in chosen.values() if plan.flops <= target_flops / cap]
        if len(below) < 3:
            raise UserError(
                f"a target of {target_flops:.3g} FLOPs leaves {len(below)} rungs at or below 1/{cap:g} of it, and a law needs "
                "three; raise the target's compute or lower the cap."
            )
    runs = []
    for plan in sorted(chosen.values(), key=lambda p: p.flops):
        seeds = config.seeds if plan.flops <= target_flops / 200 else config.seeds_large
        runs += [Rung(f"w{plan.model.width}-s{number}", plan, number) for number in range(seed, seed + seeds)]
    return runs


def worker_count(config: LadderConfig) -> int:
    """How many runs train side by side: as asked, else one an accelerator, else one a core."""
    return config.workers or accelerators() or cpus()


def within_cap(compute: float, target_flops: float, cap: float) -> bool:
    """Whether a run of this compute belongs to the nested ladder of this cap."""
    return compute <= target_flops / cap
