from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from forescale.core.errors import UserError
from forescale.model.config import ModelConfig
from forescale.model.multimodal import Model
from forescale.model.scaling import Family, parameter_group
from forescale.model.transformer import KVCache, attend
from forescale.train.validate import repeat_losses

CONFIG = ModelConfig(
    vocab_size=300, width=48, depth=3, heads=4, kv_heads=2, head_dim=32, mlp_width=128, sequence_length=64,
    image_size=48, patch_size=12, vision_width=48, vision_depth=2, vision_heads=2, vision_mlp_width=96,
)  # fmt: skip
IMAGE = 1


def filled(config: ModelConfig = CONFIG, seed: int = 0) -> Model:
    """A model without zero matrices, so that every path matters."""
    model = Model(config, IMAGE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, p.shape[-1] ** -0.5, generator=generator)
    return model.eval()


def inputs(pictures: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 300, (2, 64), generator=generator)
    pixels = torch.randint(0, 255, (pictures, 48, 48, 3), dtype=torch.uint8, generator=generator)
    if pictures:
        tokens[:, 5:21] = IMAGE
    return tokens, pixels


@pytest.mark.parametrize("pictures", [0, 2])
def test_flops_are_torchs_own_count(pictures: int) -> None:
    model = Model(CONFIG, IMAGE)
    tokens, pixels = inputs(pictures)
    # The math backend, since torch's counter has no formula for the CPU's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(tokens, tokens, pixels).backward()
    assert counter.get_total_flops() == CONFIG.run_flops(tokens.numel(), pictures)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_parameters_are_counted(qk_norm: bool) -> None:
    config = dataclasses.replace(CONFIG, qk_norm=qk_norm)
    assert config.params == sum(p.numel() for p in Model(config, IMAGE).parameters())


@pytest.mark.parametrize("width", [8, 64, 144])
def test_start_is_near_log_vocabulary_at_every_width(width: int) -> None:
    config = Family(vocab_size=300, sequence_length=64).shape(width)
    tokens, pixels = inputs()
    assert Model(config, IMAGE).loss(tokens, tokens.roll(7), pixels).item() == pytest.approx(math.log(300), rel=0.1)


@pytest.mark.parametrize("width", [32, 64, 144])
def test_a_model_copies_before_it_has_learned_anything(width: int) -> None:
    model = Model(Family(vocab_size=300).shape(width), IMAGE)
    first, second = repeat_losses(model, end_token=0, first_plain=2)
    assert second < first - 0.7


@pytest.mark.parametrize("change", [{"qk_norm": False}, {"depth": 1}, {"head_dim": 4}])
def test_what_cannot_hold_the_induction_circuit_starts_without_it(change: dict[str, object]) -> None:
    config = dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
    tokens, pixels = inputs()
    assert Model(config, IMAGE).loss(tokens, tokens, pixels).item() == pytest.approx(math.log(300))


def test_no_position_sees_the_future_and_pictures_are_seen_by_what_follows() -> None:
    model = filled()
    tokens, pixels = inputs()
    before = model(tokens, pixels)
    changed = tokens.clone()
    changed[:, 40:] = 7
    after = model(changed, pixels)
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5)
    repainted = model(tokens, 255 - pixels)
    assert torch.allclose(before[:, :5], repainted[:, :5], atol=1e-5)
    assert (before[:, 21:] - repainted[:, 21:]).abs().amax() > 1e-3


def test_each_picture_goes_to_its_own_place() -> None:
    model = filled()
    tokens, pixels = inputs()
    both = model(tokens, pixels)
    alone = model(tokens[1:], pixels[1:])
    assert torch.allclose(both[1:], alone, atol=1e-4)


def test_a_missing_picture_is_an_error() -> None:
    tokens, pixels = inputs()
    with pytest.raises(ValueError, match="32 image tokens for 1 pictures"):
        filled()(tokens, pixels[:1])


def test_the_cache_gives_the_same_logits_with_padding_and_pictures() -> None:
    model = filled()
    tokens, pixels = inputs()
    short, long = tokens[0, :30], tokens[1, :40]
    full = [model(short[None], pixels[:1])[0], model(long[None], pixels[1:])[0]]
    cache = KVCache(CONFIG, 2, 40, torch.device("cpu"), torch.float32)
    cache.start_B = torch.tensor([8, 0])
    padded = torch.stack([torch.cat([torch.zeros(8, dtype=torch.long), short[:28]]), long[:36]])
    logits = model(padded, pixels, cache)
    assert torch.allclose(logits[0, 8:], full[0][:28], atol=1e-4)
    assert torch.allclose(logits[1], full[1][:36], atol=1e-4)
    for step in range(2):
        following = torch.stack([short[28 + step : 29 + step], long[36 + step : 37 + step]])
        logits = model(following, None, cache)
        assert torch.allclose(logits[0, 0], full[0][28 + step], atol=1e-4)
        assert torch.allclose(logits[1, 0], full[1][36 + step], atol=1e-4)


def test_every_parameter_has_a_group_and_a_gradient() -> None:
    model = filled().train()
    tokens, pixels = inputs()
    model.loss(tokens, tokens, pixels).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert parameter_group(name, p.ndim) in ("muon", "embedding", "head", "vector")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, "cannot share"),
        ({"patch_size": 13}, "no multiple"),
        ({"head_dim": 31}, "odd"),
        ({"vision_heads": 5}, "no multiple"),
    ],
)
def test_impossible_shapes_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_plans_meet_their_budget_and_grow_with_it() -> None:
    family, last = Family(), 0
    for flops in (1e12, 1e13, 1e14, 1e15, 1e18):
        plan = family.plan_for(flops, 0.006)
        assert plan.flops == pytest.approx(flops, rel=0.05)
        assert plan.model.width > last
        last = plan.model.width
    with pytest.raises(UserError, match="below the smallest"):
        family.plan_for(1e6, 0.0)


def test_muons_rate_grows_as_the_root_of_the_batch() -> None:
    family = Family()
    small, large = (family.plan(64, 0.0, tokens=tokens) for tokens in (1e6, 6.4e7))
    assert large.batch_tokens / small.batch_tokens == pytest.approx(8, rel=0.05)
    assert large.peak_rates()["muon"] / small.peak_rates()["muon"] == pytest.approx(math.sqrt(8), rel=0.02)
    assert family.plan(64, 0.0, tokens=1e5).peak_rates()["muon"] == pytest.approx(family.learning_rates.muon, rel=0.02)


def test_widths_grow_and_depth_stays_until_they_are_large() -> None:
    family = Family()
    widths = family.widths()
    assert widths == sorted(set(widths))
    assert all(width % 2 == 0 for width in widths)
    assert max(after / before for before, after in itertools.pairwise(widths) if before >= 12) < 1.2
    assert [family.shape(width).depth for width in (4, 280, 376, 384, 512)] == [3, 3, 3, 4, 5]


def test_attention_on_a_cpu_stays_in_float32_under_autocast() -> None:
    q, k, v = (torch.randn(2, 3, 8, 16) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), is_causal=True)
        assert torch.equal(attend(q, k, v, is_causal=True), attend(q.float(), k.float(), v.float(), is_causal=True))
    assert mixed.dtype == torch.float32
    assert attend(q, k, v).dtype == torch.float32


def test_schedule_rises_then_falls_to_nearly_zero() -> None:
    plan = Family().plan(16, 0.0)
    factors = [plan.schedule(step) for step in range(plan.steps)]
    peak = factors.index(max(factors))
    assert max(factors) == 1.0
    assert all(a < b for a, b in itertools.pairwise(factors[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(factors[peak:]))
    assert 0 < factors[-1] < 0.02
