from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.coordinate_check import coordinate_sizes

from forescale.core.errors import CorruptArtifact
from forescale.data.shards import Shards
from forescale.model.multimodal import Model
from forescale.model.scaling import Family, RunPlan
from forescale.train import loop
from forescale.train.loop import Hooks, TrainingDiverged, curve_steps, train
from forescale.train.optim import Optimizer, orthogonalise
from forescale.train.state import STATE
from forescale.train.validate import repeat_losses, repeats, validate

CPU = torch.device("cpu")


def small_plan(shards: Shards, steps: int = 12) -> RunPlan:
    family = Family(vocab_size=shards.facts["vocab_size"], sequence_length=64)
    return dataclasses.replace(family.plan(16, shards.facts["images_per_token"]), steps=steps, batch_rows=4)


def run(shards: Shards, plan: RunPlan, folder: Path, hooks: Hooks | None = None, seed: int = 0, **options):
    folder.mkdir(exist_ok=True)
    return train(plan, shards.train, folder, seed=seed, image_token=1, device=CPU, hooks=hooks, **options)


@pytest.fixture
def shards(prepared: dict[str, Path]) -> Shards:
    return Shards(prepared["shards"], prepared["data"])


def test_loss_falls_on_text_and_pictures(shards: Shards, tmp_path: Path) -> None:
    model, progress = run(shards, small_plan(shards, 60), tmp_path)
    before, after = validate(Model(model.config, 1), shards), validate(model, shards)
    assert before.loss == pytest.approx(math.log(model.config.vocab_size), rel=0.1)
    assert after.loss_by_modality["text"] < 0.85 * before.loss_by_modality["text"]
    assert after.loss_by_modality["vision"] < 0.5 * before.loss_by_modality["vision"]
    assert progress.step == 60
    assert min(repeat_losses(model, 0, 6)) > 1


def test_the_curve_tells_of_gradients_and_of_a_block_that_died(shards: Shards, tmp_path: Path) -> None:
    def evaluate(model: Model) -> float:
        seen.append(1)
        if len(seen) == 10:
            block = model.layers[1]
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight.requires_grad_(False).zero_()
        return 1.0

    seen: list[int] = []
    _, progress = run(shards, small_plan(shards, 40), tmp_path, Hooks(evaluate=evaluate))
    norms = [json.loads(line)["gradient_norm"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [point["gradient_norm"] for point in progress.curve] == pytest.approx(norms)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "loss_noise" not in progress.curve[0]
    steps = [abs(after - before) / math.sqrt(2) for before, after in itertools.pairwise(losses)]
    assert [point["loss_noise"] for point in progress.curve[1:]] == pytest.approx(steps)
    # The head and the blocks' outputs begin at zero, so nothing flows through the blocks at the very first steps.
    alive, dead = progress.curve[4:10], progress.curve[10:]
    assert all(point["least_block_share"] > 0.05 for point in alive)
    assert all((point["least_block"], point["least_block_share"]) == (1.0, 0.0) for point in dead)


@pytest.mark.parametrize(("stop_at", "bfloat16"), [(1, False), (5, False), (11, False), (5, True)])
def test_a_run_that_is_cut_ends_bit_for_bit_where_the_whole_one_ends(
    shards: Shards, tmp_path: Path, stop_at: int, bfloat16: bool
) -> None:
    plan = small_plan(shards)

    def stop(progress, loss):
        if progress.step == stop_at:
            raise KeyboardInterrupt

    def evaluate(model):
        return validate(model, shards, 1).loss

    whole, whole_progress = run(
        shards, plan, tmp_path / "whole", Hooks(evaluate=evaluate), checkpoint_seconds=1e9, bfloat16=bfloat16
    )
    # A checkpoint after every step; the step that is cut has not been saved.
    with pytest.raises(KeyboardInterrupt):
        run(
            shards,
            plan,
            tmp_path / "cut",
            Hooks(evaluate=evaluate, on_step=stop),
            checkpoint_seconds=0,
            bfloat16=bfloat16,
        )
    cut, cut_progress = run(
        shards, plan, tmp_path / "cut", Hooks(evaluate=evaluate), checkpoint_seconds=1e9, bfloat16=bfloat16
    )
    for (name, a), b in zip(whole.state_dict().items(), cut.state_dict().values()):
        assert torch.equal(a, b), name
    assert cut_progress.curve == whole_progress.curve
    records = [[json.loads(line) for line in (tmp_path / n / "metrics.jsonl").open()] for n in ("whole", "cut")]
    assert [[r["step"], r["loss"], r["gradient_norm"]] for r in records[0]] == [
        [r["step"], r["loss"], r["gradient_norm"]] for r in records[1]
    ]
    assert [r["step"] for r in records[1]] == list(range(1, 13))


def test_a_damaged_checkpoint_is_named(shards: Shards, tmp_path: Path) -> None:
    plan = small_plan(shards, 3)
    run(shards, plan, tmp_path)
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptArtifact, match="delete it to train this run from the start"):
        run(shards, plan, tmp_path)


def test_steps_without_a_finite_loss_are_skipped_and_too_many_stop_the_run(shards: Shards, tmp_path: Path) -> None:
    plan = small_plan(shards, 30)
    broken, limit = {4, 9}, 10_000
    original = Model.embed
    calls = {"n": 0}

    def embed(self, tokens, pixels):
        calls["n"] += 1
        x = original(self, tokens, pixels)
        return x * math.nan if calls["n"] in broken or calls["n"] > limit else x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "embed", embed)
        model, progress = run(shards, plan, tmp_path / "some")
        assert progress.skipped == 2
        assert all(torch.isfinite(p).all() for p in model.parameters())
        calls["n"], limit = 0, 12
        with pytest.raises(TrainingDiverged, match="no finite loss"):
            run(shards, plan, tmp_path / "many")


@pytest.mark.parametrize("units", [True, False])
def test_bfloat16_only_for_long_runs_on_a_cpu_that_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, units: bool
) -> None:
    monkeypatch.setattr(loop, "has_bfloat16_units", lambda: units)
    monkeypatch.setattr(loop, "has_compiler", lambda: True)
    assert loop.in_bfloat16(Family().plan(176, 0.0), CPU) is units
    assert not loop.in_bfloat16(Family().plan(16, 0.0), CPU)


def test_bfloat16_ends_where_float32_ends(shards: Shards, tmp_path: Path) -> None:
    """On average over seeds: rounding alone moves the end of one so short a run by half a per cent either way."""
    plan = small_plan(shards, 60)
    losses = []
    for seed in range(4):
        exact, _ = run(shards, plan, tmp_path / f"float32-{seed}", seed=seed)
        mixed, _ = run(shards, plan, tmp_path / f"bfloat16-{seed}", seed=seed, bfloat16=True)
        assert all(p.dtype == torch.float32 for p in mixed.parameters())
        assert not torch.equal(mixed.lm_head.weight, exact.lm_head.weight)
        losses.append((validate(mixed, shards).loss, validate(exact, shards).loss))
    mixed_loss, exact_loss = np.mean(losses, axis=0)
    assert mixed_loss == pytest.approx(exact_loss, rel=0.01)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_orthogonalised_matrices_have_singular_values_near_one(bfloat16: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 32, 80), (2, 80, 32), (1, 64, 64)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=generator), bfloat16))
        assert values.quantile(0.1) > 0.5
        assert values.max() < 1.3


def test_a_muon_update_has_the_size_that_the_rule_gives(shards: Shards) -> None:
    plan = small_plan(shards)
    model = Model(plan.model, 1)
    optimizer = Optimizer(model, plan)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = shards.train.batch(0, 4)
    model.loss(*(torch.from_numpy(a) for a in (batch.tokens, batch.targets, batch.pixels))).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step(0.5)
    moved = model.layers[1].self_attn.o_proj.weight - before["layers.1.self_attn.o_proj.weight"]
    assert (gradients["layers.1.self_attn.o_proj.weight"] != 0).any()
    rows, columns = moved.shape
    largest = torch.linalg.svdvals(moved)[0].item()
    assert largest == pytest.approx(0.5 * plan.peak_rates()["muon"] * math.sqrt(max(1, rows / columns)), rel=0.3)
    head = model.lm_head.weight - before["lm_head.weight"]
    # Adam's first step is its rate, whatever the gradient's size.
    assert head.abs().max().item() == pytest.approx(0.5 * plan.peak_rates()["head"], rel=1e-3)
    assert all(p.grad is None for p in model.parameters())


def test_repeats_are_what_an_induction_head_knows() -> None:
    tokens = np.array([[5, 6, 5, 6, 7, 5, 8], [1, 2, 3, 4, 5, 6, 7]])
    targets = np.array([[6, 5, 6, 7, 5, 8, 9], [2, 3, 4, 5, 6, 7, 8]])
    # 5 6 comes back; 6 is then followed by 7 instead of 5; 5 by 8 instead of 6.
    assert repeats(tokens, targets).nonzero()[1].tolist() == [2]


def test_repeated_tokens_are_a_part_of_each_sources_loss(shards: Shards) -> None:
    result = validate(Model(small_plan(shards).model, 1), shards)
    assert result.repeated_by_source.keys() == result.loss_by_source.keys() == result.weights.keys()
    for source, loss in result.loss_by_source.items():
        assert 0 <= result.repeated_by_source[source] < 0.7 * loss
    assert any(result.repeated_by_source.values())


def test_curve_has_forty_points_and_ends_at_the_end() -> None:
    assert len(curve_steps(1000)) == 40
    assert curve_steps(1000)[1000] == 1.0
    assert max(curve_steps(25)) == 25


def test_coordinate_check(shards: Shards) -> None:
    result = coordinate_sizes(shards, (16, 32, 64), seeds=3)
    assert max(abs(slope) for slope in result["slopes"].values()) < 0.3, result
