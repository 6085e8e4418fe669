"""The reward model: it learns an order, is normalised, is kept, and reads the answer alone where the answer ends."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from tests.checkpoints.small import checkpoint

from forescale.checkpoints.encoding import encode_lesson
from forescale.core.documents import Answered, Message, Preference, Request, Text
from forescale.core.errors import CorruptArtifact, UserError
from forescale.model.scalar import ScalarModel
from forescale.rewards.combine import Sum
from forescale.rewards.model import (
    RewardModel,
    RewardModelConfig,
    load_reward_model,
    margins_of,
    raw_rewards,
    train_reward_model,
)
from forescale.rlhf.stages import reward_report


def request(i: int) -> Request:
    return Request(f"r{i}", "test", (Message("user", (Text(f"say {i}"),)),))


def pairs(n: int, start: int = 0) -> list[Preference]:
    return [Preference(request(i), f"the cat {i}", f"a dog {i}") for i in range(start, start + n)]


CONFIG = RewardModelConfig(epochs=3, learning_rate=3e-3, batch_pairs=8)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    return train_reward_model(checkpoint(), pairs(48), CONFIG, tmp_path_factory.mktemp("reward"))


def test_it_orders_pairs_that_it_has_not_seen(fitted: RewardModel) -> None:
    margins = margins_of(fitted, pairs(30, 1000))
    assert sum(margin > 0 for margin in margins) >= 28
    figures = reward_report(fitted, 48, pairs(30, 1000))
    assert figures["accuracy"] == sum(margin > 0 for margin in margins) / 30
    assert figures["calibration"]["n"] == 30


def test_before_it_has_learned_all_answers_are_worth_nothing() -> None:
    new = RewardModel(ScalarModel(checkpoint().model), checkpoint())
    assert new([Answered(request(0), "anything")]) == [0.0]


def test_a_reward_does_not_depend_on_what_it_is_batched_with(fitted: RewardModel) -> None:
    cases = [Answered(request(i), "word " * (1 + i % 7)) for i in range(20)]
    together = fitted(cases)
    for case, value in zip(cases, together):
        (alone,) = fitted([case])
        assert alone == pytest.approx(value, abs=1e-4)


def test_the_reward_is_the_value_at_the_token_that_ends_the_answer(fitted: RewardModel) -> None:
    tuned = fitted.checkpoint
    lesson = encode_lesson(
        (*request(1).messages, Message("assistant", (Text("hello"),))), tuned.tokenizer, tuned.model.config
    )
    with torch.no_grad():
        values = fitted.scalar(torch.tensor([lesson.ids]), torch.from_numpy(lesson.pixels))
    assert raw_rewards(fitted.scalar, [lesson])[0] == pytest.approx(float(values[0, -1]), abs=1e-5)


def test_normalising_gives_the_reference_mean_zero_and_deviation_one(fitted: RewardModel) -> None:
    reference = [Answered(pair.request, text) for pair in pairs(20) for text in (pair.chosen, pair.rejected)]
    fitted.normalise(reference)
    values = torch.tensor([value for value in fitted(reference) if value is not None])
    assert float(values.mean()) == pytest.approx(0, abs=1e-4)
    assert float(values.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    with pytest.raises(UserError, match="at least two"):
        fitted.normalise(reference[:1])


def test_what_is_kept_scores_alike(fitted: RewardModel, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again = load_reward_model(tmp_path)
    cases = [Answered(request(i), f"the cat {i}") for i in range(5)]
    assert again(cases) == pytest.approx(fitted(cases), abs=1e-5)
    (tmp_path / "head.safetensors").write_bytes(b"no")
    with pytest.raises(CorruptArtifact, match="no readable reward model"):
        load_reward_model(tmp_path)


def test_a_folder_without_a_reward_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no reward model .* `forescale reward`"):
        load_reward_model(tmp_path)


def test_empty_and_overlong_answers_have_no_reward(fitted: RewardModel) -> None:
    values = fitted([Answered(request(0), " \n"), Answered(request(0), "fine"), Answered(request(0), "word " * 900)])
    assert values[0] is None
    assert values[1] is not None
    assert values[2] is None


def test_a_margin_asks_for_more_distance(tmp_path: Path) -> None:
    wide = [Preference(p.request, p.chosen, p.rejected, margin=4.0) for p in pairs(48)]
    longer = dataclasses.replace(CONFIG, epochs=12)
    plain = train_reward_model(checkpoint(), pairs(48), longer, tmp_path / "plain")
    apart = train_reward_model(checkpoint(), wide, longer, tmp_path / "wide")
    plain_mean, apart_mean = (sum(margins_of(m, pairs(20, 500))) / 20 for m in (plain, apart))
    assert apart_mean > plain_mean + 1.0


def test_labels_that_say_nothing_teach_nothing(tmp_path: Path) -> None:
    noisy = [
        Preference(p.request, *((p.chosen, p.rejected) if i % 2 else (p.rejected, p.chosen)))
        for i, p in enumerate(pairs(48))
    ]
    model = train_reward_model(checkpoint(), noisy, CONFIG, tmp_path)
    margins = margins_of(model, pairs(40, 1000))
    assert abs(sum(margins) / 40) < 1.0


def test_pairs_that_do_not_fit_are_left_out_of_the_figures(fitted: RewardModel) -> None:
    long = [Preference(request(0), "word " * 900, "no")]
    assert len(margins_of(fitted, [*pairs(3), *long])) == 3
    assert reward_report(fitted, 0, [*pairs(3), *long])["held_out"] == 3


def test_no_pairs_that_fit(tmp_path: Path) -> None:
    long = [Preference(request(0), "word " * 900, "no")]
    with pytest.raises(UserError, match="none of the 1 preferences fits"):
        train_reward_model(checkpoint(), long, CONFIG, tmp_path)


def test_a_sum_keeps_its_parts_and_leaves_out_what_one_cannot_score() -> None:
    cases = [Answered(request(i), str(i)) for i in range(3)]
    reward = Sum({"a": lambda cs: [1.0, None, 3.0], "b": lambda cs: [10.0, 20.0, math.pi]})
    assert reward(cases) == [{"a": 1.0, "b": 10.0}, None, {"a": 3.0, "b": math.pi}]
