"""What decides whether PPO works, as invariants; and its rules for bad rewards, interruptions and runaway policies."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.checkpoints.small import checkpoint

from forescale.checkpoints.encoding import Lesson, encode_lesson
from forescale.checkpoints.files import Checkpoint
from forescale.core.documents import Answered, Image, Message, Request, Text
from forescale.core.errors import UserError
from forescale.model.scalar import ScalarModel
from forescale.rlhf.ppo import Ppo, PpoConfig, RewardFailed, run_ppo
from forescale.rlhf.rollout import logprobs
from forescale.train.sft import conversation_loss

Rows = Sequence[Mapping[str, float] | None]


def by_text(value: Callable[[str], float | None]) -> Callable[[Sequence[Answered]], Rows]:
    def reward(cases: Sequence[Answered]) -> Rows:
        found = [value(case.answer) for case in cases]
        return [None if v is None else {"test": v} for v in found]

    return reward


def requests(pictures: bool = True) -> list[Request]:
    generator = np.random.default_rng(0)
    found = []
    for i in range(6):
        parts: tuple = (Text(f"Say {'a lot of ' * (i % 3)}something {i}."),)
        if pictures and i % 2:
            parts = (Image(generator.integers(0, 255, (24, 24, 3)).astype(np.uint8)), *parts)
        found.append(Request(f"r{i}", "test", (Message("user", parts),)))
    return found


def make(
    config: PpoConfig,
    reward: Callable[[Sequence[Answered]], Rows] | None = None,
    given: Sequence[Request] | None = None,
    policy: Checkpoint | None = None,
    lessons: Sequence[Lesson] = (),
) -> Ppo:
    policy = policy or checkpoint()
    reward = reward or by_text(lambda answer: float(len(answer)) / 10)
    value = ScalarModel(copy.deepcopy(policy.model))
    return Ppo(policy, copy.deepcopy(policy.model), value, reward, given or requests(), config, lessons)


SMALL = PpoConfig(steps=4, answers=6, minibatch=3, epochs=2, max_new_tokens=6, learning_rate=1e-3, warmup=0)


def test_at_the_first_step_the_ratio_is_one_and_the_kl_zero() -> None:
    ppo = make(SMALL)
    experience, record = ppo.experience(0, 0.05)
    assert record["kl"] == 0
    assert record["left_out"] == 0
    learned = ppo.learn(experience, 0)
    assert learned["first_ratio_error"] <= 1e-6
    # And it does move then, so the zero above is no accident of a policy that cannot learn.
    _, later = ppo.experience(1, 0.05)
    assert later["kl"] != 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollout_and_training_give_the_same_logprobs(temperature: float) -> None:
    ppo = make(PpoConfig(answers=12, minibatch=5, max_new_tokens=20, temperature=temperature))
    experience, record = ppo.experience(0, 0.05)
    rollout = experience.rollout
    assert len(set(rollout.mask_BA.sum(1).tolist())) > 1 or bool(rollout.mask_BA.all())
    assert record["sampler_gap"] <= 1e-5
    # Against the plain model, an answer at a time, without batches, caches or padding.
    model = ppo.policy
    start = 0
    for b, case in enumerate(rollout.cases):
        count = int(rollout.pictures_B[b])
        pixels = rollout.pixels_NSSc[start : start + count]
        start += count
        actions = int(rollout.mask_BA[b].sum())
        first = int(rollout.actions_BA[b, 0])
        ids = rollout.tokens_BT[b, : first + 1 + actions]
        with torch.no_grad():
            logits = model(ids[None], pixels)[0, first : first + actions]
        logits[:, model.image_token] = -math.inf
        expected = (logits / temperature).log_softmax(-1).gather(1, ids[first + 1 :, None])[:, 0]
        assert torch.allclose(experience.old_BA[b, :actions], expected, atol=1e-5), case


def test_an_answer_sees_nothing_of_its_neighbours() -> None:
    ppo = make(PpoConfig(answers=6, minibatch=6, max_new_tokens=8))
    experience, _ = ppo.experience(0, 0.05)
    whole = logprobs(ppo.policy, experience.rollout, 1.0)[0]
    for b in range(6):
        alone = logprobs(ppo.policy, experience.rollout.rows(torch.tensor([b])), 1.0)[0]
        assert torch.allclose(whole[b], alone[0], atol=1e-5)


def test_a_bandit_ends_at_its_known_optimum() -> None:
    """One token an answer: with a KL penalty the best policy is pi_ref exp(r / beta) / Z (Korbak et al. 2022, eq. 5)."""
    beta = 0.5
    policy = checkpoint(sight=False)
    good = {i for i in range(policy.tokenizer.vocab_size) if "e" in policy.tokenizer.decode([i])}
    ask = [Request("bandit", "test", (Message("user", (Text("Go."),)),))]
    config = PpoConfig(
        steps=60, answers=128, minibatch=64, epochs=4, max_new_tokens=1, learning_rate=2e-3, value_learning_rate=5e-3, beta=beta,
        penalty=0.0, kl_limit=0.0,
    )  # fmt: skip
    ppo = make(config, by_text(lambda answer: float("e" in answer)), ask, policy)

    def chance() -> float:
        with torch.no_grad():
            ids = torch.tensor([ppo.prompts[0].ids])
            probabilities = policy.model(ids, None)[0, -1].softmax(-1)
        return float(probabilities[sorted(good)].sum())

    before = chance()
    assert 0.02 < before < 0.5
    for step in range(config.steps):
        ppo.learn(ppo.experience(step, beta)[0], step)
    odds = before / (1 - before) * math.exp(1 / beta)
    best = odds / (1 + odds)
    assert best - before > 0.1
    assert chance() == pytest.approx(best, abs=0.06)


def lessons(answer: str, policy: Checkpoint) -> list[Lesson]:
    said = [(*request.messages, Message("assistant", (Text(f"{answer} {i}"),))) for i, request in enumerate(requests())]
    return [encode_lesson(messages, policy.tokenizer, policy.model.config) for messages in said]


def test_conversations_beside_the_updates_are_kept_in_mind() -> None:
    losses = {}
    for weight in (0.0, 1.0):
        policy = checkpoint()
        config = PpoConfig(**{**vars(SMALL), "sft_weight": weight, "sft_conversations": 3})
        ppo = make(config, policy=policy, lessons=lessons("the cat", policy))
        records = [ppo.learn(ppo.experience(step, 0.05)[0], step) for step in range(config.steps)]
        assert all(("sft_loss" in record) == (weight > 0) for record in records)
        every = list(range(len(ppo.beside)))
        with torch.no_grad():
            losses[weight] = float(conversation_loss(policy, ppo.beside, [[i] for i in every], 200)[0])
    assert losses[1.0] < losses[0.0] - 0.1


def test_conversations_that_no_model_can_read_are_refused() -> None:
    policy = checkpoint()
    long = (Message("user", (Text("word " * 3000),)), Message("assistant", (Text("yes"),)))
    with pytest.raises(UserError, match="none of the 1 conversations fits"):
        make(SMALL, policy=policy, lessons=[encode_lesson(long, policy.tokenizer, policy.model.config)])


def states(ppo: Ppo) -> dict[str, torch.Tensor]:
    return {**ppo.policy.state_dict(), **{f"value.{k}": v for k, v in ppo.value.state_dict().items()}}


def test_a_killed_run_ends_where_an_uninterrupted_one_ends(tmp_path: Path) -> None:
    config = PpoConfig(**{**vars(SMALL), "kl_target": 0.5})

    def fresh() -> Ppo:
        policy = checkpoint()
        return make(config, policy=policy, lessons=lessons("the cat", policy))

    whole = fresh()
    run_ppo(whole, tmp_path / "whole", save_every_seconds=1e9)

    def stop(step: int, steps: int, record: Mapping[str, object]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ppo(fresh(), tmp_path / "cut", stop, save_every_seconds=0)
    cut = fresh()
    run_ppo(cut, tmp_path / "cut", save_every_seconds=1e9)
    for (name, a), b in zip(states(whole).items(), states(cut).values(), strict=True):
        assert torch.equal(a, b), name
    records = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (tmp_path / n / "metrics.jsonl").open()
        ]
        for n in ("whole", "cut")
    ]
    assert records[0] == records[1]
    assert (tmp_path / "whole" / "samples.jsonl").read_text() == (tmp_path / "cut" / "samples.jsonl").read_text()


def test_an_answer_without_a_reward_is_left_out_and_counted() -> None:
    calls = iter(range(1000))
    reward = by_text(lambda answer: None if next(calls) % 3 == 0 else 1.0)
    experience, record = make(SMALL, reward).experience(0, 0.05)
    assert record["left_out"] == 2
    assert len(experience.scores_B) == 4
    assert record["reward_parts"] == {"test": 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_stops_the_run(bad: float) -> None:
    with pytest.raises(RewardFailed, match=r"'test' gave .* no finite number"):
        make(SMALL, by_text(lambda answer: bad)).experience(0, 0.05)


def test_a_step_without_any_reward_stops_the_run() -> None:
    with pytest.raises(RewardFailed, match="none of a step's answers could be scored"):
        make(SMALL, by_text(lambda answer: None)).experience(0, 0.05)


def test_empty_and_unended_answers_lose_the_penalty() -> None:
    ppo = make(PpoConfig(**{**vars(SMALL), "penalty": 2.0}), by_text(lambda answer: 5.0))
    experience, _ = ppo.experience(0, 0.05)
    rollout = experience.rollout
    for score, ended in zip(experience.scores_B.tolist(), rollout.ended_B.tolist()):
        assert score == (5.0 if ended else 3.0)
    cases = tuple(Answered(case.request, " " if i == 0 else "x") for i, case in enumerate(rollout.cases))
    ended = torch.ones(len(cases), dtype=torch.bool)
    scores, parts = ppo.scores(type(rollout)(**{**vars(rollout), "cases": cases, "ended_B": ended}))
    assert scores == [3.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    assert parts == {"test": 5.0}


def test_a_policy_that_runs_away_is_stopped_and_the_last_good_one_kept(tmp_path: Path) -> None:
    config = PpoConfig(
        **{**vars(SMALL), "steps": 40, "beta": 0.0, "learning_rate": 3e-2, "kl_limit": 1.0, "answers": 12, "epochs": 4}
    )
    ppo = make(config)
    before = copy.deepcopy(ppo.policy.state_dict())
    progress = run_ppo(ppo, tmp_path, save_every_seconds=1e9)
    assert progress.status == "kl_runaway"
    assert progress.step < 40
    kl = [json.loads(line)["kl"] for line in (tmp_path / "metrics.jsonl").open()]
    assert all(value > 1.0 for value in kl[-3:])
    assert progress.good_step == 0
    assert all(torch.equal(a, b) for a, b in zip(before.values(), ppo.policy.state_dict().values()))


def test_every_request_is_asked_before_one_is_asked_again() -> None:
    ppo = make(PpoConfig(**{**vars(SMALL), "answers": 4}))
    drawn = [i for step in range(3) for i in ppo.draw(step)]
    assert sorted(drawn[:6]) == sorted(drawn[6:12]) == list(range(6))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"steps": 0}, "at least 1"),
        ({"temperature": 0.0}, "above 0"),
        ({"beta": -1.0}, "cannot be negative"),
        ({"beta": 0.0, "kl_target": 3.0}, "begins above 0"),
        ({"sft_weight": math.nan}, "not below 0"),
        ({"sft_conversations": -1}, "not below 0"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, float], why: str) -> None:
    with pytest.raises(UserError, match=why):
        PpoConfig(**changes)  # type: ignore[arg-type]


def test_a_request_that_leaves_no_room_is_named() -> None:
    long = Request("long one", "test", (Message("user", (Text("word " * 600),)),))
    with pytest.raises(UserError, match=r"'long one' .* leaves no room"):
        make(SMALL, given=[long])
