"""`forescale plan`: what a run will train and need, before anything starts. Nothing is downloaded and nothing trained."""

from __future__ import annotations

from typing import Any

from forescale.core.device import cpus, matmul_peak, pick_device
from forescale.core.progress import duration
from forescale.ladder.rungs import LadderConfig, Rung, rungs_for, worker_count
from forescale.model.scaling import Family, RunPlan
from forescale.train.loop import in_bfloat16

# Shares of the float32 matrix-product peak that runs reached on two cores (docs/log.md): the target, and where it trains in
# bfloat16; a rung of each width up to the most, and the seconds that each is measured for beside its training.
TARGET_UTILISATION = 0.45
BFLOAT16_UTILISATION = 0.65
RUNG_UTILISATION_A_WIDTH = 0.0037
RUNG_UTILISATION = 0.35
RUNG_BFLOAT16_UTILISATION = 0.45
RUNG_SECONDS = 10.0
# Pictures a token in the shipped mixtures; the exact number is known once the shards are laid out.
IMAGES_PER_TOKEN = 0.006


def estimate(family: Family, ladder: LadderConfig, target_flops: float) -> dict[str, Any]:
    """Sizes, FLOPs, memory and time. Raises UserError for a budget or ladder that cannot be."""
    rungs = rungs_for(family, ladder, target_flops, IMAGES_PER_TOKEN)
    target = family.plan_for(target_flops, IMAGES_PER_TOKEN)
    device = pick_device()
    on_accelerator = device.type == "cuda"
    peak = matmul_peak(device, bfloat16=on_accelerator)
    # One core has its share of the machine's peak; one accelerator has all of its own.
    share = peak if on_accelerator else peak / cpus()

    def rung_utilisation(plan: RunPlan) -> float:
        if on_accelerator:
            return RUNG_UTILISATION
        if in_bfloat16(plan, device):
            return RUNG_BFLOAT16_UTILISATION
        return min(RUNG_UTILISATION, RUNG_UTILISATION_A_WIDTH * plan.model.width)

    seconds = [rung.plan.flops / (share * rung_utilisation(rung.plan)) + RUNG_SECONDS for rung in rungs]
    ladder_flops = sum(rung.plan.flops for rung in rungs)
    # Heaviest first on `workers` workers: never shorter than an even split or the heaviest rung.
    ladder_seconds = max(sum(seconds) / worker_count(ladder), max(seconds))
    faster = not on_accelerator and in_bfloat16(target, device)
    target_seconds = target.flops / ((BFLOAT16_UTILISATION if faster else TARGET_UTILISATION) * peak)
    return {
        "device": str(device),
        "matmul_peak_flops_per_second": peak,
        "rungs": [_row(rung) for rung in rungs],
        "target": {
            "width": target.model.width,
            "depth": target.model.depth,
            "params": target.model.params,
            "params_active": target.model.params_active,
            "tokens": target.tokens,
            "steps": target.steps,
            "flops": target.flops,
            "memory_bytes": target.model.training_memory_bytes(target.batch_tokens),
        },
        "ladder_flops": ladder_flops,
        "ladder_share": ladder_flops / target.flops,
        "ladder_seconds": ladder_seconds,
        "target_seconds": target_seconds,
    }


def _row(rung: Rung) -> dict[str, Any]:
    plan = rung.plan
    return {
        "name": rung.name,
        "width": plan.model.width,
        "params_active": plan.model.params_active,
        "tokens": plan.tokens,
        "steps": plan.steps,
        "flops": plan.flops,
    }


def render(plan: dict[str, Any]) -> str:
    target = plan["target"]
    lines = [
        f"machine   {plan['device']}, {plan['matmul_peak_flops_per_second'] / 1e9:,.0f} GFLOP/s in matrix products (measured now)",
        f"ladder    {len(plan['rungs'])} runs, {plan['ladder_flops']:.3g} FLOPs ({plan['ladder_share']:.0%} of the target), "
        f"about {duration(plan['ladder_seconds'])}",
        f"target    {target['flops']:.3g} FLOPs, about {duration(plan['target_seconds'])}, "
        f"about {target['memory_bytes'] / 1e6:,.0f} MB",
        "",
        f"{'run':12} {'width':>6} {'active params':>14} {'tokens':>14} {'steps':>7} {'FLOPs':>10}",
    ]
    for row in [*plan["rungs"], {"name": "target", **target}]:
        lines.append(
            f"{row['name']:12} {row['width']:6} {row['params_active']:14,} {row['tokens']:14,} "
            f"{row['steps']:7,} {row['flops']:10.3g}"
        )
    return "\n".join(lines)
