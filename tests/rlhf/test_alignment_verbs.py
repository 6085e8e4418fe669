"""`forescale sft`, `reward` and `ppo` on a small model of one's own, and what goes wrong said in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.checkpoints.small import checkpoint

from forescale.checkpoints.files import load_checkpoint, save_checkpoint
from forescale.cli import main
from forescale.core.artifacts import Manifest, read_json

SMALL = ["--sft.epochs", "1", "--sft.row-tokens", "256"]
PPO = ["--ppo.steps", "2", "--ppo.answers", "4", "--ppo.minibatch", "2", "--ppo.max-new-tokens", "6"]


def lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a manifest, as an imported one, and files to align it on."""
    root = tmp_path_factory.mktemp("align")
    small = checkpoint()
    save_checkpoint(small.model, small.tokenizer, root / "model")
    asked = [{"role": "user", "content": "say it"}]
    said = [{**m} for m in asked]
    lines(
        root / "talks.jsonl",
        [{"messages": [*said, {"role": "assistant", "content": f"the cat {i}"}]} for i in range(8)],
    )
    pairs = [
        {"messages": [{"role": "user", "content": f"say {i}"}], "chosen": f"the cat {i}", "rejected": f"a dog {i}"}
        for i in range(40)
    ]
    lines(root / "pairs.jsonl", pairs)
    lines(root / "prompts.jsonl", [{"prompt": f"say {i}", "category": "allowed"} for i in range(6)])
    return root


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Path:
    out = folder / "tuned"
    assert main(["sft", str(folder / "model"), "--data", str(folder / "talks.jsonl"), "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture(scope="module")
def reward(folder: Path, tuned: Path) -> Path:
    out = folder / "reward"
    assert main(["reward", str(tuned), "--data", str(folder / "pairs.jsonl"), "--out", str(out)]) == 0
    return out


def test_a_tuned_model_is_a_checkpoint_that_knows_its_parts(folder: Path, tuned: Path) -> None:
    assert load_checkpoint(tuned).tokenizer.vocab_size == load_checkpoint(folder / "model").tokenizer.vocab_size
    manifest = Manifest.load(tuned)
    assert manifest.stage == "sft"
    assert set(manifest.config["files"]) == {str(folder / "talks.jsonl"), "base"}
    assert read_json(tuned / "result.json")["conversations"] == 8


def test_the_same_command_again_does_nothing_and_other_data_does(
    folder: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Manifest.load(tuned).finished_at
    assert main(["sft", str(folder / "model"), "--data", str(folder / "talks.jsonl"), "--out", str(tuned), *SMALL]) == 0
    assert Manifest.load(tuned).finished_at == before


def test_a_reward_model_tells_its_accuracy_on_held_out_pairs(reward: Path) -> None:
    figures = read_json(reward / "reward_report.json")
    assert figures["pairs"] + figures["held_out"] == 40
    assert 0 < figures["held_out"] < 20
    assert figures["interval"][0] <= figures["accuracy"] <= figures["interval"][1]


def test_ppo_with_a_reward_model_and_an_rbrm(folder: Path, tuned: Path, reward: Path) -> None:
    out = folder / "aligned"
    words = ["ppo", str(tuned), "--requests", str(folder / "prompts.jsonl"), "--reward", str(reward), "--out", str(out)]
    words += ["--rankings", "world:90", "--labels", "world:60", "--rubric", "world", *PPO]
    words += ["--conversations", str(folder / "talks.jsonl")]
    assert main(words) == 0
    assert load_checkpoint(out / "ppo").model is not None
    record = json.loads((out / "ppo" / "metrics.jsonl").read_text().splitlines()[0])
    assert set(record["reward_parts"]) == {"reward_model", "rbrm"}
    assert record["kl"] == 0
    assert record["sft_loss"] > 0
    assert record["first_ratio_error"] <= 1e-6
    assert read_json(out / "rbrm" / "agreement.json")["passes"]
    assert read_json(out / "ppo" / "result.json")["status"] == "ok"


def test_ppo_with_either_alone(folder: Path, tuned: Path, reward: Path) -> None:
    prompts = str(folder / "prompts.jsonl")
    assert (
        main(["ppo", str(tuned), "--requests", prompts, "--reward", str(reward), "--out", str(folder / "rm"), *PPO])
        == 0
    )
    rbrm = ["--rankings", "world:90", "--labels", "world:60", "--rubric", "world"]
    assert main(["ppo", str(tuned), "--requests", prompts, *rbrm, "--out", str(folder / "rbrm"), *PPO]) == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["sft", "MODEL", "--data", "nowhere.jsonl"], "'nowhere.jsonl' is no data to align on"),
        (["sft", "nowhere", "--data", "world:4"], "nowhere does not exist"),
        (["sft", "MODEL", "--data", "world:4", "--pretraining", "nowhere"], "data is not there; --pretraining takes"),
        (["reward", "MODEL", "--data", "world:0"], "'world:0' is no data to align on"),
        (["ppo", "MODEL", "--requests", "world:4"], "PPO needs a reward"),
        (["ppo", "MODEL", "--requests", "world:4", "--rankings", "world:4"], "measured before it is used"),
        (["ppo", "MODEL", "--requests", "world:4", "--reward", "MODEL"], "holds no reward model"),
        (
            ["ppo", "MODEL", "--requests", "world:4", "--rankings", "world:4", "--labels", "world:8", "--rubric", "no"],
            "there is no rubric 'no'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(
    folder: Path, tmp_path: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder / "model") if word == "MODEL" else word for word in words]
    assert main([*given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert why in error[-1]
    assert error[-1].startswith("forescale: ")


def test_rows_laid_out_for_another_model_are_refused(
    folder: Path, tmp_path: Path, prepared: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sft", str(folder / "model"), "--data", str(folder / "talks.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*words, "--pretraining", str(prepared["data"].parent)]) == 2
    assert "was laid out for another model than model; give the run that it comes from" in capsys.readouterr().err


def test_a_judge_below_the_floor_is_refused_unless_forced(
    folder: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rubric = tmp_path / "blind.toml"
    shipped = Path(main.__code__.co_filename).parent / "rewards" / "policies" / "world.toml"
    # A rubric whose patterns find nothing calls no answer a refusal.
    rubric.write_text(shipped.read_text().replace("\\b", "zzz").replace("\\Ano", "zzz"))
    words = ["ppo", str(tuned), "--requests", str(folder / "prompts.jsonl"), "--rankings", "world:90"]
    words += ["--labels", "world:60", "--rubric", str(rubric), *PPO]
    assert main([*words, "--out", str(tmp_path / "refused")]) == 2
    assert "agrees with people on refusal or compliance" in capsys.readouterr().err
    # Forced, it is used; but from what it says no weights can be fitted whose sign is known.
    assert main([*words, "--force-judge", "--out", str(tmp_path / "forced")]) == 2
    assert "finds all ranked answers desired" in capsys.readouterr().err
