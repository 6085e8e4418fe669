from __future__ import annotations

import copy
import json
import logging
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from forescale.checkpoints.encoding import encode_chat
from forescale.checkpoints.files import load_checkpoint
from forescale.core.documents import Image, Message, Text
from forescale.core.errors import UserError
from forescale.evals.examine import examine
from forescale.evals.task import Dataset, Item, Letters, Options, Solver, Task
from forescale.model.multimodal import Model

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")

from benchmarks.lm_eval_tasks import requests_of, write_task  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from tests.adapters.small_task import CONTEXT, SIZE, WORDS, questions  # noqa: E402

from forescale.adapters.lm_eval import ForescaleLM  # noqa: E402


@pytest.fixture(scope="module")
def lm(folder: Path) -> ForescaleLM:
    return ForescaleLM(str(folder), device="cpu", batch_size=3)


@torch.inference_mode()
def plainly(lm: ForescaleLM, given: list[int], follows: list[int], pixels: np.ndarray | None = None) -> float:
    """Log-probability by one full forward pass."""
    pictures = None if pixels is None else torch.tensor(pixels)
    logs = lm.model(torch.tensor([given + follows])[:, :-1], pictures)[0, -len(follows) :].double().log_softmax(-1)
    return float(logs[range(len(follows)), follows].sum())


@torch.inference_mode()
def greedy(lm: ForescaleLM, given: list[int], count: int, pixels: np.ndarray | None = None) -> list[int]:
    ids = list(given)
    for _ in range(count):
        logits = lm.model(torch.tensor([ids]), None if pixels is None else torch.tensor(pixels))[0, -1]
        logits[lm.text_tokenizer.image] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] in lm.text_tokenizer.roles.stop:
            return ids[len(given) : -1]
    return ids[len(given) :]


def begin(lm: ForescaleLM) -> list[int]:
    return list(lm.text_tokenizer.roles.begin)


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=a, idx=0, metadata=("t", i, 1)) for i, a in enumerate(arguments)
    ]


@cache
def no_other_tasks() -> TaskManager:
    """Reading all of lm_eval's own tasks takes seconds."""
    return TaskManager(include_defaults=False)


def evaluate(lm: ForescaleLM, tmp_path: Path, rows: list[dict], chat: bool = False, **task: Any) -> dict[str, Any]:
    """lm_eval's results for a task whose items are `rows`."""
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        **task,
    }
    return lm_eval.simple_evaluate(
        model=lm,
        tasks=[config],
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat,
        task_manager=no_other_tasks(),
    )


def mean(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def test_multiple_choice_is_what_forward_passes_say(lm: ForescaleLM, tmp_path: Path) -> None:
    rows = questions(12)
    results = evaluate(
        lm,
        tmp_path,
        rows,
        output_type="multiple_choice",
        doc_to_text="Question: {{question}}\nAnswer:",
        doc_to_choice="{{choices}}",
        doc_to_target="answer",
        metric_list=[mean("acc"), mean("acc_norm")],
    )
    right = right_norm = 0
    encode = lm.text_tokenizer.encode
    samples = sorted(results["samples"]["local"], key=lambda s: s["doc_id"])
    for row, got in zip(rows, samples, strict=True):
        context = f"Question: {row['question']}\nAnswer:"
        given = encode(context)
        logs = [
            plainly(lm, begin(lm) + given, encode(f"{context} {choice}")[len(given) :]) for choice in row["choices"]
        ]
        assert [float(r[0]) for r in got["filtered_resps"]] == pytest.approx(logs, abs=1e-3)
        right += int(np.argmax(logs)) == row["answer"]
        lengths = [len(choice) for choice in row["choices"]]
        right_norm += int(np.argmax(np.array(logs) / lengths)) == row["answer"]
    assert results["results"]["local"]["acc,none"] == right / len(rows)
    assert results["results"]["local"]["acc_norm,none"] == right_norm / len(rows)


def test_one_context_runs_once_with_all_its_continuations(lm: ForescaleLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    hidden = Model.hidden
    monkeypatch.setattr(Model, "hidden", lambda self, x, *rest: (seen.append(x.shape[0]), hidden(self, x, *rest))[1])
    asked = [("the cat sat on a mat", f" {letter}") for letter in "ABCD"]
    answers = lm.loglikelihood(requests("loglikelihood", *asked, asked[0]), disable_tqdm=True)
    assert seen == [1]
    assert answers[4] == answers[0]
    assert len({logprob for logprob, _ in answers}) == 4


def test_greedy_means_that_decoding_would_write_it(lm: ForescaleLM, tmp_path: Path) -> None:
    text = "the cat sat"
    # What ends in the middle of a character or would be encoded otherwise is no continuation that a text can ask for.
    written = greedy(lm, begin(lm) + lm.text_tokenizer.encode(text), 6)
    encode, decode = lm.text_tokenizer.encode, lm.text_tokenizer.decode
    n = max(n for n in range(1, 7) if encode(text + decode(written[:n])) == encode(text) + written[:n])
    rows = [{"context": text, "target": decode(written[:n])}, {"context": text, "target": " dogs"}]
    results = evaluate(
        lm,
        tmp_path,
        rows,
        output_type="loglikelihood",
        doc_to_text="{{context}}",
        doc_to_target="{{target}}",
        target_delimiter="",
        metric_list=[mean("acc")],
    )
    samples = sorted(results["samples"]["local"], key=lambda s: s["doc_id"])
    assert [s["acc"] for s in samples] == [1, int(greedy(lm, begin(lm) + encode(text), 1) == encode(" dogs"))]


@pytest.mark.parametrize("context", ["", "the cat ", "   "])
def test_spaces_belong_to_the_continuation_and_no_context_is_the_beginning(lm: ForescaleLM, context: str) -> None:
    encode = lm.text_tokenizer.encode
    ((logprob, _),) = lm.loglikelihood(requests("loglikelihood", (context, "dogs run")), disable_tqdm=True)
    given = encode(context.rstrip())
    assert logprob == pytest.approx(
        plainly(lm, begin(lm) + given, encode(context + "dogs run")[len(given) :]), abs=1e-3
    )


def test_rolling_log_probability_is_that_of_lm_evals_windows(folder: Path) -> None:
    lm = ForescaleLM(str(folder), device="cpu", max_length=16)
    texts = ["the cat sat on a mat . " * 12, "two dogs", ""]
    got = lm.loglikelihood_rolling(requests("loglikelihood_rolling", *[(text,) for text in texts]), disable_tqdm=True)
    for text, total in zip(texts, got):
        ids = lm.text_tokenizer.encode(text)
        # The first window predicts up to 16 tokens from the beginning; each later one 16 more, the last with all 16 before.
        expected = plainly(lm, begin(lm), ids[:16]) if ids else 0.0
        for start in range(16, len(ids), 16):
            end = min(start + 16, len(ids))
            expected += plainly(lm, ids[end - 17 : start], ids[start:end])
        assert total == pytest.approx(expected, abs=2e-3)


def test_what_is_written_ends_before_a_stop_string(lm: ForescaleLM, tmp_path: Path) -> None:
    rows = [{"question": " ".join(WORDS[i : i + 4 + i])} for i in range(7)]
    encode, decode = lm.text_tokenizer.encode, lm.text_tokenizer.decode
    full = [decode(greedy(lm, begin(lm) + encode(row["question"]), 20)) for row in rows]
    # Two characters that stand in the middle of what the model writes of itself, so that stopping shows.
    stop = next(text[k : k + 2] for text in full for k in range(4, len(text) - 6) if text[k : k + 2].isascii())
    results = evaluate(
        lm,
        tmp_path,
        rows,
        output_type="generate_until",
        doc_to_text="{{question}}",
        doc_to_target="{{question}}",
        generation_kwargs={"until": [stop, "never written"], "max_gen_toks": 20, "do_sample": False},
        metric_list=[mean("exact_match")],
    )
    samples = sorted(results["samples"]["local"], key=lambda s: s["doc_id"])
    got = [s["filtered_resps"][0] for s in samples]
    assert got == [text.split(stop)[0] for text in full]
    assert got != full


def test_nothing_is_written_after_a_stop_string(lm: ForescaleLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    hidden = Model.hidden
    monkeypatch.setattr(Model, "hidden", lambda self, x, *rest: (seen.append(x.shape[1]), hidden(self, x, *rest))[1])
    ids = greedy(lm, begin(lm) + lm.text_tokenizer.encode("the cat"), 12)
    stop = lm.text_tokenizer.decode(ids[3:5])
    seen.clear()
    options = {"until": stop, "max_gen_toks": 40}
    (text,) = lm.generate_until(requests("generate_until", ("the cat", options)), disable_tqdm=True)
    assert len(seen) <= 5
    assert text == lm.text_tokenizer.decode(ids[:12]).split(stop)[0]


def test_sampling_follows_the_temperature_and_torchs_seed(lm: ForescaleLM) -> None:
    def write(seed: int, **options: Any) -> str:
        torch.manual_seed(seed)
        asked = ("the cat", {"max_gen_toks": 30, "until": [], **options})
        return lm.generate_until(requests("generate_until", asked), disable_tqdm=True)[0]

    hot = {"do_sample": True, "temperature": 2.0}
    assert write(0, **hot) == write(0, **hot)
    assert write(0, **hot) != write(1, **hot)
    assert write(0) == write(1)
    assert write(0, do_sample=False, top_p=0.9) == write(0)
    with pytest.raises(UserError, match=r"does not write with top_p=0.9"):
        write(0, top_p=0.9, **hot)
    with pytest.raises(UserError, match=r"num_beams=4"):
        write(0, num_beams=4)


def test_what_is_too_long_loses_its_beginning_and_is_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = ForescaleLM(str(folder), device="cpu", max_length=16)
    encode = lm.text_tokenizer.encode
    long, options = "the cat sat on a mat . " * 8, {"max_gen_toks": 6, "until": []}
    with caplog.at_level(logging.WARNING):
        (got, short) = lm.loglikelihood(
            requests("loglikelihood", (long, " dogs run"), ("the", " cat")), disable_tqdm=True
        )
        (text,) = lm.generate_until(requests("generate_until", (long, options)), disable_tqdm=True)
    # With the last token, which is predicted and never read, max_length + 1.
    given = encode(long.rstrip())
    follows = encode(long + " dogs run")[len(given) :]
    assert got[0] == pytest.approx(plainly(lm, (begin(lm) + given)[-(17 - len(follows)) :], follows), abs=1e-3)
    assert short[0] == pytest.approx(plainly(lm, begin(lm) + encode("the"), encode(" cat")), abs=1e-3)
    assert text == lm.text_tokenizer.decode(greedy(lm, (begin(lm) + encode(long))[-10:], 6))
    assert [r.message[:32] for r in caplog.records] == [
        "1 of 2 requests did not fit 16 t",
        "1 of 1 requests did not fit 16 t",
    ]
    with pytest.raises(UserError, match="cannot be scored"):
        lm.loglikelihood(requests("loglikelihood", ("the", long)), disable_tqdm=True)
    with pytest.raises(UserError, match="256 positions"):
        ForescaleLM(str(folder), device="cpu", max_length=257)


def picture(seed: int, size: int = SIZE) -> Pillow.Image:
    return Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def test_pictures_stand_where_their_placeholders_do(lm: ForescaleLM, tmp_path: Path) -> None:
    def pictures(doc: dict) -> list[Pillow.Image]:
        return [picture(seed) for seed in doc["seeds"]]

    rows = [{"seeds": [1]}, {"seeds": [2]}, {"seeds": [3, 4]}]
    results = evaluate(
        lm,
        tmp_path,
        rows,
        output_type="generate_until",
        doc_to_text="the <image>cat{% if seeds|length == 2 %}<image>{% endif %} saw",
        doc_to_target="{{seeds}}",
        doc_to_image=pictures,
        generation_kwargs={"until": ["\n\n"], "max_gen_toks": 8},
        metric_list=[mean("exact_match")],
    )
    encode, places = lm.text_tokenizer.encode, [lm.text_tokenizer.image] * lm.model.config.image_tokens
    samples = sorted(results["samples"]["local"], key=lambda s: s["doc_id"])
    got = [s["filtered_resps"][0] for s in samples]
    for row, text in zip(rows, got, strict=True):
        given = begin(lm) + encode("the ") + places
        given += encode("cat") + places + encode(" saw") if len(row["seeds"]) == 2 else encode("cat saw")
        pixels = np.stack([np.asarray(picture(seed)) for seed in row["seeds"]])
        assert text == lm.text_tokenizer.decode(greedy(lm, given, 8, pixels)).split("\n\n")[0]
    assert got[0] != got[1]


def test_pictures_are_scored_with_their_options(lm: ForescaleLM) -> None:
    encode, places = lm.text_tokenizer.encode, [lm.text_tokenizer.image] * lm.model.config.image_tokens
    large = {"visual": [picture(7, 40)]}
    one, two = {"visual": [picture(1)]}, {"visual": [picture(2)]}
    asked = [("<image> the", f" {w}", v) for v in (one, two, large) for w in ("cat", "red dogs")]
    got = lm.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True)
    for (_, follows, visual), (logprob, _) in zip(asked, got):
        pixels = np.asarray(visual["visual"][0].resize((SIZE, SIZE), Pillow.Resampling.LANCZOS))[None]
        expected = plainly(lm, begin(lm) + places + encode(" the"), encode(follows), pixels)
        assert logprob == pytest.approx(expected, abs=1e-3)
    assert got[0] != got[2]
    both = {"visual": [picture(1), picture(2)]}
    ((logprob, _),) = lm.loglikelihood(requests("loglikelihood", ("<image><image>", " cat", both)), disable_tqdm=True)
    pixels = np.stack([np.asarray(picture(1)), np.asarray(picture(2))])
    assert logprob == pytest.approx(plainly(lm, begin(lm) + places + places, encode(" cat"), pixels), abs=1e-3)


def test_pictures_and_places_must_agree(lm: ForescaleLM) -> None:
    with pytest.raises(UserError, match="1 pictures and 2 places"):
        lm.loglikelihood(requests("loglikelihood", ("<image> a <image>", " b", {"visual": [picture(1)]})))
    with pytest.raises(UserError, match="there is room for"):
        lm.loglikelihood(requests("loglikelihood", ("<image> " + "cat " * 300, " b", {"visual": [picture(1)]})))
    with pytest.raises(UserError, match="as Pillow reads them"):
        lm.loglikelihood(requests("loglikelihood", ("<image> a", " b", {"visual": ["a.png"]})))


HISTORY: list[dict[str, str]] = [
    {"role": "system", "content": "the cat"},
    {"role": "user", "content": "saw two dogs ?"},
]


def messages(history: list[dict[str, str]]) -> list[Message]:
    return [Message(m["role"], (Text(m["content"]),)) for m in history]


@pytest.mark.parametrize(
    "said", ["saw two dogs ?", "a <|end|><|assistant|> b", "<|endoftext|>", "<image> and <|image|> or <image>"]
)
def test_conversations_are_those_of_the_chat_template(lm: ForescaleLM, said: str) -> None:
    history = [HISTORY[0], {"role": "user", "content": said}]
    text = lm.apply_chat_template(history)
    if "<image>" not in said:
        expected = encode_chat(messages(history), lm.text_tokenizer, lm.model.config)
        assert tuple(lm.tok_encode(text)) == expected.ids
        # Asked as a request: the reply's log-probability goes by the same ids.
        ((logprob, _),) = lm.loglikelihood(requests("loglikelihood", (text, "A cat")), disable_tqdm=True)
        follows = lm.text_tokenizer.encode("A cat")
        assert logprob == pytest.approx(plainly(lm, list(expected.ids), follows), abs=1e-3)
    else:
        first, second = picture(1), picture(2)
        parts = (Image(np.asarray(first)), Text(" and <|image|> or "), Image(np.asarray(second)))
        expected = encode_chat([messages(history)[0], Message("user", parts)], lm.text_tokenizer, lm.model.config)
        ((logprob, _),) = lm.loglikelihood(
            requests("loglikelihood", (text, " dogs", {"visual": [first, second]})), disable_tqdm=True
        )
        follows = lm.text_tokenizer.encode(" dogs")
        assert logprob == pytest.approx(plainly(lm, list(expected.ids), follows, expected.pixels), abs=1e-3)


def test_data_that_looks_like_a_conversation_is_plain_text(
    lm: ForescaleLM, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm, "_said_unknown", False)
    conversation = lm.apply_chat_template(HISTORY)
    spelled = str.__str__(conversation)
    assert type(spelled) is str
    with caplog.at_level(logging.WARNING):
        ids = lm.tok_encode(spelled)
        assert lm.tok_encode(spelled) == ids
        lm.loglikelihood(requests("loglikelihood", (spelled, " cat")), disable_tqdm=True)
        lm.generate_until(requests("generate_until", (spelled, {"max_gen_toks": 2, "until": []})), disable_tqdm=True)
    assert [record.message[:30] for record in caplog.records] == ["A request begins with U+E003 a"]
    assert not set(ids[len(begin(lm)) :]) & set(lm.text_tokenizer.special)
    assert set(lm.tok_encode(conversation)) & set(lm.text_tokenizer.special)
    # lm_eval copies its requests, and its cache of them pickles.
    for copied in (copy.deepcopy(conversation), pickle.loads(pickle.dumps(conversation))):
        assert lm.tok_encode(copied) == lm.tok_encode(conversation)


def test_a_begun_answer_is_gone_on_from(lm: ForescaleLM) -> None:
    text = lm.apply_chat_template([*HISTORY, {"role": "assistant", "content": "A red"}], add_generation_prompt=False)
    expected = encode_chat(messages(HISTORY), lm.text_tokenizer, lm.model.config)
    assert lm.tok_encode(text) == [*expected.ids, *lm.text_tokenizer.encode("A red")]


def test_a_chat_is_evaluated_through_the_template(lm: ForescaleLM, tmp_path: Path) -> None:
    rows = questions(3)
    results = evaluate(
        lm,
        tmp_path,
        rows,
        chat=True,
        output_type="multiple_choice",
        doc_to_text="{{question}}",
        doc_to_choice=["A", "B"],
        doc_to_target=0,
        metric_list=[mean("acc")],
    )
    samples = sorted(results["samples"]["local"], key=lambda s: s["doc_id"])
    for row, got in zip(rows, samples, strict=True):
        history = [{"role": "user", "content": row["question"]}]
        given = encode_chat(messages(history), lm.text_tokenizer, lm.model.config).ids
        expected = [plainly(lm, list(given), lm.text_tokenizer.encode(letter)) for letter in "AB"]
        assert [float(r[0]) for r in got["filtered_resps"]] == pytest.approx(expected, abs=1e-3)
    assert lm.chat_template(True) == lm.text_tokenizer.roles.chat_template
    with pytest.raises(UserError, match="one unnamed chat template"):
        lm.chat_template("tools")


@pytest.mark.parametrize("solver", [Letters(2), Letters(0), Options(2, per_character=True)])
def test_our_exams_and_lm_evals_tasks_of_them_agree(folder: Path, tmp_path: Path, solver: Solver) -> None:
    items = [
        Item(
            id=f"q{i}",
            question=(Text(row["question"]),),
            options=tuple(row["choices"][: 2 + i % 3]),
            correct=(i % 2,),
            passage=" a passage.\n" if i % 3 == 0 else "",
            facts={"subject": "red_dogs"} if i % 2 else {},
        )
        for i, row in enumerate(questions(10))
    ]
    task = Task(Dataset("local", "Local", tuple(items[2:]), {"": tuple(items[:2])}), solver)
    config = write_task(task, "ours", tmp_path)
    lm = ForescaleLM(str(folder), device="cpu", max_length=2 * CONTEXT)
    results = lm_eval.simple_evaluate(
        model=lm, tasks=[config], bootstrap_iters=0, log_samples=True, task_manager=no_other_tasks()
    )
    samples = {sample["doc"]["id"]: sample for sample in results["samples"]["ours"]}
    rows = examine(load_checkpoint(folder), task, tmp_path / "rows.jsonl")
    assert len(rows) == len(samples) == 8
    for row, item in zip(rows, items[2:], strict=True):
        sample = samples[item.id]
        assert [tuple(arguments) for arguments in sample["arguments"]] == requests_of(item, task)
        assert row["log_probabilities"] == pytest.approx([float(r[0]) for r in sample["filtered_resps"]], abs=1e-3)
        assert row["score"] == sample["acc_norm" if isinstance(solver, Options) else "acc"]
