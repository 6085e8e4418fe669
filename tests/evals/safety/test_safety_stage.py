"""The stage on a small random model with a judge whose verdicts are known: resuming, empty answers, no verdicts, no template."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints.small import checkpoint

from forescale.checkpoints.files import Checkpoint, save_checkpoint
from forescale.core.artifacts import MANIFEST, read_json
from forescale.core.documents import Answered, Message, Text
from forescale.core.errors import UserError
from forescale.evals.safety import jailbreaks, packs, toxicity
from forescale.evals.safety.answers import in_batches, request_prompt, write_answers
from forescale.evals.safety.compare import compare
from forescale.evals.safety.packs import PromptSet, ToxicPrompt
from forescale.evals.safety.sets import Policy
from forescale.evals.safety.stage import SafetyConfig, Setting, stage_for
from forescale.evals.safety.table import render, render_comparison
from forescale.evals.safety.toxicity import Scorer, valid
from forescale.evals.safety.verb import Safety, give
from forescale.rewards.rubrics import load_rubric
from forescale.rewards.verdicts import CLASSES, Class, Verdict

POLICY = Policy(load_rubric("refusals"))
SMALL = checkpoint(sight=False, sequence_length=512)
NEEDED = {"refers_to_help": 1.0}


class Killed(Exception):
    pass


class Judging:
    """A class for each answer by its hash, so that nothing depends on order; none for some. May be killed after some calls."""

    def __init__(self, calls: int = 10**9, always: Class | None = None, silent: int = 7) -> None:
        self.name = "double"
        self.left, self.always, self.silent = calls, always, silent
        self.seen: list[Answered] = []

    def __call__(self, cases: Sequence[Answered]) -> list[Verdict | None]:
        self.left -= 1
        if self.left < 0:
            raise Killed
        self.seen += cases
        return [self.one(case) for case in cases]

    def one(self, case: Answered) -> Verdict | None:
        number = hashlib.sha256(f"{case.request.id} {case.answer}".encode()).digest()[0]
        if not self.always and number % self.silent == 0:
            return None
        label = self.always or CLASSES[number % 4]
        return Verdict({name: 0.7 if name == label else 0.1 for name in CLASSES}, NEEDED)


def lengths(texts: Sequence[str]) -> list[float | None]:
    return [min(1.0, len(text) / 40) for text in texts]


PROMPTS = tuple(ToxicPrompt(f"p/{i}", f"number {i} of the cat" * (1 + i % 3), f"g{i % 2}") for i in range(8))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint, and one list of toxic prompts in place of the packs'."""
    save_checkpoint(SMALL.model, SMALL.tokenizer, tmp_path / "model")
    monkeypatch.setattr(packs, "PACK_PROMPTS", {"rtp-small": None})
    monkeypatch.setattr(packs, "load_prompts", lambda name: PromptSet(name, "Small", PROMPTS, "l", "s", len(PROMPTS)))
    sources = dict.fromkeys(("role_play", "encoding"), "someone")
    some = (
        jailbreaks.Template("one", "role_play", "Play: {request}"),
        jailbreaks.Template("two", "encoding", "{request}", encoding="rot13"),
    )
    monkeypatch.setattr(jailbreaks, "load_templates", lambda: (sources, some))
    return tmp_path / "model"


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    kinds = ("disallowed", "sensitive", "allowed")
    rows = [
        {"id": str(i), "prompt": "the cat sat " * (i % 5 + 1), "category": kinds[i % 3], "group": f"g{i % 2}"}
        for i in range(90)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(requests: Path, **more: Any) -> SafetyConfig:
    settings: dict[str, Any] = {
        "sets": (str(requests),),
        "limit": 30,
        "samples": 3,
        "temperature": 1.0,
        "max_new_tokens": 6,
        "jailbreaks": 5,
        "toxicity": 6,
        "toxicity_samples": 3,
        "seed": 5,
    }
    return SafetyConfig(**{**settings, **more})


def make(wanted: SafetyConfig, model: Path, out: Path, judge: Any = None, scorer: Any = lengths) -> dict[str, Any]:
    setting = Setting(model, judge or Judging(), POLICY, Scorer("lengths", "none", scorer))
    stage, facts = stage_for(wanted, setting)
    stage.make(facts, {}, out)
    found: dict[str, Any] = read_json(out / "safety.json")
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", MANIFEST)
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_everything_that_is_asked_is_counted(model: Path, requests: Path, tmp_path: Path) -> None:
    found = make(config(requests), model, tmp_path / "out")
    (mine,) = found["sets"]
    assert mine["of"] == 90
    rows = rows_of(tmp_path / "out" / mine["path"])
    assert len(rows) == 30 * 3
    for kind, figures in mine["kinds"].items():
        own = [row for row in rows if row["kind"] == kind]
        judged = [row for row in own if row["label"] is not None]
        assert figures["answers"] == len(own) == 30
        assert figures["unjudged"] == len(own) - len(judged) > 0
        assert sum(figures["matrix"].values()) == len(judged)
        right = {"disallowed": CLASSES[:2], "sensitive": ("safe", "refusal_desired"), "allowed": ("safe",)}[kind]
        assert all(row["correct"] == (row["label"] in right) for row in judged)
        assert list(figures["groups"]) == ["g0", "g1"]
    attacks = found["jailbreaks"]
    assert set(attacks["techniques"]) == {"role_play", "encoding"}
    assert attacks["plain"]["answers"] == 15
    assert attacks["sources"] == {"role_play": "someone", "encoding": "someone"}
    (toxic,) = found["toxicity"]
    assert (toxic["prompts"], toxic["scorer"]["name"], toxic["samples"]) == (6, "lengths", 3)
    (facts,) = found["facts"]
    assert facts["n"] == 66
    assert facts["chance"] == 0.5
    assert found["judge"]["name"] == "double"
    assert "agreement with people not measured" in render(found)


def test_the_judge_sees_the_plain_request(model: Path, requests: Path, tmp_path: Path) -> None:
    judge = Judging()
    make(config(requests, toxicity=0, facts=()), model, tmp_path / "out", judge)
    parts = [part for case in judge.seen for message in case.request.messages for part in message.parts]
    shown = {part.text for part in parts if isinstance(part, Text)}
    assert shown == {"the cat sat " * n for n in range(1, 6)}
    assert {case.request.category for case in judge.seen} == {"forbidden", "sensitive", "allowed"}
    wrapped = rows_of(tmp_path / "out/items/jailbreaks.jsonl")
    assert any(row["messages"][0]["content"].startswith("Play: the cat") for row in wrapped)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_killed_run_ends_as_an_undisturbed_one(model: Path, requests: Path, tmp_path: Path, calls: int) -> None:
    """Three calls to the judge are needed; every go gets one or two, and leaves a line cut off in its middle."""
    make(config(requests), model, tmp_path / "whole")
    out = tmp_path / "killed"
    kills = 0
    for _ in range(9):
        try:
            make(config(requests), model, out, Judging(calls=calls))
            break
        except Killed:
            kills += 1
            for log in out.glob(".*.verdicts.jsonl"):
                log.write_text(log.read_text() + '{"start": 64, "val')
    assert kills == 3 - calls
    assert files(out) == files(tmp_path / "whole")


def test_a_killed_batch_is_written_as_it_would_have_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forescale.evals.safety import answers

    prompts = [request_prompt((Message("user", (Text("cat " * (i % 4 + 1)),)),), SMALL) for i in range(30)]

    def write(log: Path) -> list[list[str]]:
        return write_answers(
            SMALL, prompts, log, samples=2, max_new_tokens=5, temperature=1.0, seed=3, report=lambda _: None
        )

    whole = write(tmp_path / "whole.jsonl")
    real, done = answers.sample, 0

    def killed(*args: Any, **more: Any) -> list[list[int]]:
        nonlocal done
        done += 1
        if done == 2:
            raise Killed
        return real(*args, **more)

    monkeypatch.setattr(answers, "sample", killed)
    log = tmp_path / "killed.jsonl"
    with pytest.raises(Killed):
        write(log)
    assert len(log.read_text().splitlines()) == 1
    # The next batch was cut off in its line.
    log.write_text(log.read_text() + '{"start": 24, "tex')
    assert write(log) == whole
    assert done == 4
    assert len({text for texts in whole for text in texts}) > 30


def test_no_verdicts_are_no_figures(model: Path, requests: Path, tmp_path: Path) -> None:
    class Silent(Judging):
        def one(self, case: Answered) -> Verdict | None:
            return None

    found = make(config(requests, toxicity=0, facts=()), model, tmp_path / "out", Silent())
    allowed = found["sets"][0]["kinds"]["allowed"]
    assert allowed["incorrect"] == {"n": 0, "value": None, "interval": None}
    assert allowed["unjudged"] == allowed["answers"] == 30
    assert found["jailbreaks"]["any"]["value"] is None
    assert " - " in render(found)


def test_a_judge_that_gives_too_few_verdicts(model: Path, requests: Path, tmp_path: Path) -> None:
    class Short(Judging):
        def __call__(self, cases: Sequence[Answered]) -> list[Verdict | None]:
            return super().__call__(cases)[1:]

    with pytest.raises(UserError, match="the judge double gave 63 values for 64 answers"):
        make(config(requests, toxicity=0), model, tmp_path / "out", Short())


def test_empty_answers_are_judged_and_counted(
    model: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forescale.evals.safety import answers

    monkeypatch.setattr(answers, "sample", lambda model, prompts, **_: [[] for _ in prompts])
    judge = Judging(always="refusal_undesired")
    found = make(config(requests, jailbreaks=0, facts=()), model, tmp_path / "out", judge)
    for figures in found["sets"][0]["kinds"].values():
        assert figures["empty"] == figures["answers"] == 30
        assert figures["unjudged"] == 0
    assert len(judge.seen) == 90
    # Nothing written is nothing toxic, but it is scored, not left out.
    assert found["toxicity"][0]["expected_maximum"]["value"] == 0


def test_a_scorer_that_fails_is_never_clean(model: Path, requests: Path, tmp_path: Path) -> None:
    calls: list[str] = []

    def failing(texts: Sequence[str]) -> list[float | None]:
        calls.extend(texts)
        return [None if i == 4 else float("nan") if i == 8 else 0.25 for i, _ in enumerate(texts)]

    found = make(config(requests, sets=(), jailbreaks=0, facts=()), model, tmp_path / "out", scorer=failing)
    (toxic,) = found["toxicity"]
    assert len(calls) == 18
    assert (toxic["prompts"], toxic["unscored"], toxic["expected_maximum"]["n"]) == (6, 2, 4)
    assert valid(1.5) is None
    assert valid(-0.1) is None
    assert valid(1.0) == 1.0


def without_template(found: Checkpoint) -> Checkpoint:
    tokenizer = type(found.tokenizer).train(["the cat sat on the mat\n\nUser: Assistant: "] * 20, 400)
    tokenizer.roles = dataclasses.replace(tokenizer.roles, chat_template="")
    return dataclasses.replace(found, tokenizer=tokenizer)


def test_a_model_without_a_chat_template_is_asked_in_plain_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without_template(SMALL)
    messages = (Message("system", (Text("Be kind."),)), Message("user", (Text("Who?"),)))
    prompt = request_prompt(messages, plain)
    assert plain.tokenizer.decode(list(prompt.ids)).endswith("System: Be kind.\n\nUser: Who?\n\nAssistant:")
    from forescale.evals.safety import answers

    said = plain.tokenizer.encode(" I am a cat.\n\nUser: And then?")

    def sample(model: Any, prompts: Any, *, stop_when: Any, **_: Any) -> list[list[int]]:
        so_far: list[int] = []
        for token in said:
            so_far.append(token)
            if stop_when(so_far):
                break
        assert len(so_far) < len(said)
        return [so_far for _ in prompts]

    monkeypatch.setattr(answers, "sample", sample)
    (texts,) = write_answers(
        plain,
        [prompt],
        tmp_path / "log",
        samples=1,
        max_new_tokens=20,
        temperature=0.0,
        seed=0,
        report=lambda _: None,
        stop_at=answers.TURN,
    )
    assert texts == [" I am a cat."]


def test_what_is_too_long_is_left_out_and_counted(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    rows = [{"id": str(n), "prompt": "z" * n, "category": "disallowed"} for n in (5, 2000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = make(config(path, samples=1, jailbreaks=2, toxicity=0, facts=()), model, tmp_path / "out")
    assert found["sets"][0]["too_long"] == 1
    assert found["sets"][0]["kinds"]["disallowed"]["requests"] == 1
    assert found["jailbreaks"]["too_long"] == 3
    assert found["jailbreaks"]["requests"] == 1


# --- nucleus sampling


def test_continuations_come_from_the_nucleus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly any probability to keep, sampling is greedy: all continuations of a prompt are one."""
    from forescale.evals.safety import answers

    asked: list[dict[str, Any]] = []
    real = answers.sample
    monkeypatch.setattr(answers, "sample", lambda *args, **more: asked.append(more) or real(*args, **more))  # type: ignore[func-returns-value]
    monkeypatch.setattr(toxicity, "TOP_P", 1e-6)
    logs = (tmp_path / "a", tmp_path / "s")
    scorer = Scorer("l", "", lengths)
    rows, too_long = toxicity.score_continuations(SMALL, PROMPTS[:3], scorer, logs, 4, 0, report=lambda _: None)
    assert too_long == 0
    assert all(len(set(row["continuations"])) == 1 and len(row["continuations"]) == 4 for row in rows)
    expected = [min(1, len(row["continuations"][0]) / 40) for row in rows]
    assert [row["scores"][0] for row in rows] == pytest.approx(expected, abs=1e-6)
    assert all((call["max_new_tokens"], call["temperature"]) == (20, 1.0) for call in asked)


def test_batches_resume_with_what_was_made(tmp_path: Path) -> None:
    seen: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        seen.extend(batch)
        if len(seen) > 130:
            raise Killed
        return [2 * n for n in batch]

    with pytest.raises(Killed):
        in_batches(range(200), tmp_path / "log", work, "it")
    for later in (2, 0):  # the second finds everything made
        made = in_batches(range(200), tmp_path / "log", lambda batch, by=later: [by * n for n in batch], "it")
        assert made == list(range(0, 400, 2))


# --- before and after


def test_before_and_after_are_paired_by_request(model: Path, requests: Path, tmp_path: Path) -> None:
    wanted = config(requests, samples=1, temperature=0.0)
    one = make(wanted, model, tmp_path / "one", Judging(always="disallowed"))
    make(wanted, model, tmp_path / "two", Judging(always="refusal_desired"))
    found = compare(tmp_path / "one", tmp_path / "two")
    kinds = found["sets"]["mine"]
    assert kinds["disallowed"]["correct"]["difference"] == 1
    assert kinds["disallowed"]["correct"]["n"] == len(kinds["disallowed"]["correct"]["risen"]) == 10
    # Ten won and none lost.
    assert kinds["disallowed"]["correct"]["p_value"] == pytest.approx(2 / 2**10)
    assert kinds["allowed"]["refused"]["difference"] == 1
    assert kinds["allowed"]["correct"]["difference"] == 0
    assert found["jailbreaks"]["difference"] == -1
    assert found["jailbreaks"]["n"] == 5 * 2
    assert found["toxicity"]["rtp-small"]["expected_maximum"]["difference"] == 0
    assert found["facts"]["beliefs"]["n"] == one["facts"][0]["n"]
    assert "mine, disallowed, correct" in render_comparison(found)
    same = compare(tmp_path / "one", tmp_path / "one")["sets"]["mine"]["allowed"]["correct"]
    assert (same["difference"], same["p_value"], same["risen"], same["fallen"]) == (0, 1.0, [], [])


def test_only_what_both_have_a_verdict_for_is_paired(model: Path, requests: Path, tmp_path: Path) -> None:
    wanted = config(requests, samples=1, temperature=0.0, jailbreaks=0, toxicity=0, facts=())
    make(wanted, model, tmp_path / "one", Judging(silent=2))
    make(wanted, model, tmp_path / "two", Judging(always="safe"))
    rows = rows_of(tmp_path / "one/items/mine.jsonl")
    judged = [row for row in rows if row["kind"] == "allowed" and row["label"] is not None]
    found = compare(tmp_path / "one", tmp_path / "two")["sets"]["mine"]["allowed"]["correct"]
    assert 0 < found["n"] == len(judged) < 10
    assert found["first"] == pytest.approx(sum(row["correct"] for row in judged) / len(judged))


def test_different_judges_are_not_compared(model: Path, requests: Path, tmp_path: Path) -> None:
    wanted = config(requests, jailbreaks=0, toxicity=0, facts=())
    make(wanted, model, tmp_path / "one")
    other = Judging()
    other.name = "other"
    make(wanted, model, tmp_path / "two", other)
    with pytest.raises(UserError, match="judge both alike"):
        compare(tmp_path / "one", tmp_path / "two")
    with pytest.raises(UserError, match=r"holds no safety\.json"):
        compare(tmp_path / "one", tmp_path)


# --- settings and the verb


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"samples": 2, "temperature": 0.0}, "temperature above 0"),
        ({"limit": -1}, "cannot be negative"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"sets": (), "jailbreaks": 1}, "jailbreaks need"),
        ({"sets": (), "jailbreaks": 0, "toxicity": 0, "facts": ()}, "nothing to ask"),
    ],
)
def test_settings_that_make_no_sense(requests: Path, more: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        config(requests, **more)


def test_sets_that_are_not_there(model: Path, requests: Path, tmp_path: Path) -> None:
    for sets, wrong in (
        (("xtest",), "no request set or file 'xtest'"),
        (("xstest=nowhere.csv",), "no request set or file 'nowhere.csv'"),
        ((str(tmp_path),), "is a folder"),
        ((str(requests), str(requests)), "two sets have the same name"),
    ):
        with pytest.raises(UserError, match=wrong):
            make(config(requests, sets=sets, facts=()), model, tmp_path / "out")
    harmless = tmp_path / "harmless.jsonl"
    harmless.write_text('{"prompt": "Who?", "category": "allowed"}\n')
    with pytest.raises(UserError, match="none of the sets holds disallowed requests"):
        make(config(harmless, facts=()), model, tmp_path / "out2")
    with pytest.raises(UserError, match="toxicity needs a scorer"):
        stage_for(config(requests), Setting(model, Judging(), POLICY))


def test_the_verb(model: Path, requests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Safety(
        model=model,
        sets=(str(requests),),
        limit=9,
        max_new_tokens=4,
        facts=(),
        labels=(),
        out=tmp_path / "first",
    )
    text = give(options)
    assert "judge: rules (refusals), agreement with people not measured" in text
    assert "disallowed: incorrect is no refusal" in text
    assert give(options) == text
    assert "holds these results already" in capsys.readouterr().err
    with pytest.raises(UserError, match="give these another --out"):
        give(dataclasses.replace(options, limit=6))
    second = dataclasses.replace(options, out=tmp_path / "second", against=tmp_path / "first", json=True)
    found = json.loads(give(second))
    assert found["against"]["sets"]["mine"]["allowed"]["correct"]["difference"] == 0
    assert read_json(tmp_path / "second/against.json") == found["against"]
    with pytest.raises(UserError, match="would replace"):
        give(dataclasses.replace(second, against=tmp_path / "second"))
    with pytest.raises(UserError, match="name a model"):
        give(dataclasses.replace(options, model=None))


def test_a_judge_below_the_floor_is_refused_unless_forced(model: Path, requests: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    rows = [{"prompt": "the cat", "answer": "I cannot help with that.", "label": "compliance"}] * 20
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = Safety(
        model=model,
        sets=(str(requests),),
        limit=3,
        max_new_tokens=4,
        facts=(),
        labels=(str(labels),),
        out=tmp_path / "out",
    )
    with pytest.raises(UserError, match=r"agrees with people on refusal or compliance in 0\.0% of 20"):
        give(options)
    assert not (tmp_path / "out").exists()
    text = give(dataclasses.replace(options, force=True))
    assert "agrees with people on refusal or compliance in 0.0%" in text
