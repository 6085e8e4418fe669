"""GGUF: what we write llama.cpp runs, and what we cannot read we say so."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.export_check import TEXTS, against_llama_cpp
from tests.checkpoints.small import STRETCHED, TOKENIZER, checkpoint

from forescale.checkpoints import gguf, huggingface
from forescale.checkpoints.files import Checkpoint
from forescale.core.errors import CorruptArtifact, UserError
from forescale.tokenizer.bpe import Roles, Tokenizer

library = pytest.importorskip("gguf", reason="gguf is in the test extra")
SHAPES: list[dict[str, Any]] = [
    {},
    {"tie_embeddings": True, "kv_heads": 1},
    {"rope_factors": (4.0,) * 8},
    {"qk_norm": False},
    {"qk_norm": False, "tie_embeddings": True, "rope_factors": STRETCHED},
    {"qk_norm": False, "rope_factors": (2.0,) * 8, "rope_theta": 500_000.0, "norm_epsilon": 1e-5},
]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_written_and_read_again_nothing_has_changed(changes: dict[str, Any], tmp_path: Path) -> None:
    ours = checkpoint(sight=False, **changes)
    gguf.write(ours, tmp_path / "model.gguf")
    read = gguf.read(tmp_path / "model.gguf")
    assert read.model.config.rope_factors == pytest.approx(ours.model.config.rope_factors, rel=1e-7)
    assert {**vars(read.model.config), "rope_factors": ()} == {**vars(ours.model.config), "rope_factors": ()}
    for name, value in ours.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], value), name
    for text in TEXTS:
        assert read.tokenizer.encode(text) == TOKENIZER.encode(text)
        assert read.tokenizer.decode(TOKENIZER.encode(text)) == text
    roles, wanted = read.tokenizer.roles, TOKENIZER.roles
    assert (roles.end, roles.begin, roles.chat_template) == (wanted.end, wanted.begin, wanted.chat_template)
    assert set(roles.stop) == set(wanted.stop)
    assert read.source["format"] == "gguf"


def test_a_model_that_sees_leaves_its_tower_behind(tmp_path: Path) -> None:
    ours = checkpoint()
    gguf.write(ours, tmp_path / "model.gguf")
    read = gguf.read(tmp_path / "model.gguf")
    ids = torch.tensor([TOKENIZER.encode(TEXTS[0])])
    with torch.inference_mode():
        assert torch.equal(read.model(ids), ours.model(ids))
    assert not read.model.config.has_vision


def test_half_precision_is_half(tmp_path: Path) -> None:
    ours = checkpoint(sight=False)
    gguf.write(ours, tmp_path / "whole.gguf")
    gguf.write(ours, tmp_path / "half.gguf", half=True)
    kinds = {t.tensor_type.name for t in library.GGUFReader(tmp_path / "half.gguf").tensors}
    assert kinds == {"F16", "F32"}, "norms stay whole"
    read = gguf.read(tmp_path / "half.gguf")
    for name, value in ours.model.state_dict().items():
        torch.testing.assert_close(read.model.state_dict()[name], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_llama_cpp_writes_the_same_text(changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is in the test extra")
    ours = checkpoint(sight=False, seed=3, **changes)
    gguf.write(ours, tmp_path / "model.gguf")
    found = against_llama_cpp(ours, tmp_path / "model.gguf", TEXTS, 32)
    assert found["different continuations"] >= 8, "what is written depends on what was asked"
    assert found["pairs that differ"] == []
    assert found["same ids"] == len(TEXTS) == 10


def test_an_imported_tokenizer_goes_through_both_forms(tmp_path: Path) -> None:
    ours = checkpoint(sight=False, qk_norm=False)
    gguf.write(ours, tmp_path / "model.gguf")
    huggingface.write(gguf.read(tmp_path / "model.gguf"), tmp_path / "directory")
    read = huggingface.read(tmp_path / "directory")
    assert read.tokenizer.roles.begin == TOKENIZER.roles.begin
    gguf.write(read, tmp_path / "again.gguf")
    again = gguf.read(tmp_path / "again.gguf")
    assert again.tokenizer.encode(TEXTS[2]) == TOKENIZER.encode(TEXTS[2])
    assert again.tokenizer.roles.chat_template == TOKENIZER.roles.chat_template


def test_what_llama_cpp_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evenly or not at all"):
        gguf.write(checkpoint(sight=False, rope_factors=STRETCHED), tmp_path / "model.gguf")
    ours = checkpoint(sight=False)
    for old, new in (
        ("\\\\p{N}|", "\\\\p{N}{1,2}|"),
        ('"Isolated"', '"Removed"'),
        ('"ignore_merges":false', '"ignore_merges":true'),
    ):
        text = ours.tokenizer.backend.to_str()
        assert old in text
        strange = Tokenizer(type(ours.tokenizer.backend).from_str(text.replace(old, new)), Roles(end=0))
        with pytest.raises(UserError, match="no pre-tokenizer"):
            gguf.write(Checkpoint(ours.model, strange, "strange"), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> Path:
    """The file with other facts or weights."""
    reader = library.GGUFReader(path)
    facts = {n: f.contents() for n, f in reader.fields.items() if not n.startswith("GGUF.")}
    weights = {t.name: np.array(t.data) for t in reader.tensors}
    types = {n: reader.fields[n].types for n in facts}
    change(facts, weights)
    out = path.with_name("changed.gguf")
    writer = library.GGUFWriter(out, facts.pop("general.architecture"))
    for name, value in facts.items():
        kinds = types.get(name) or [library.GGUFValueType.get_type(value)]
        if kinds[0] == library.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, kinds[0])
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    gguf.write(checkpoint(sight=False, qk_norm=False), path)
    return path


def test_rewriting_alone_changes_nothing(written: Path) -> None:
    """Or the refusals below would prove little."""
    read = gguf.read(rewritten(written, lambda facts, weights: None))
    assert read.model.config == gguf.read(written).model.config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f, w: f.update({"general.architecture": "falcon"}), "'falcon' model; llama and qwen3"),
        (lambda f, w: f.update({"tokenizer.ggml.model": "llama"}), "tokenizer of kind 'llama'"),
        (lambda f, w: f.update({"tokenizer.ggml.pre": "tekken"}), "'tekken' is not known"),
        (lambda f, w: f.pop("tokenizer.ggml.pre"), "'default' is not known"),
        (lambda f, w: f.pop("tokenizer.ggml.merges"), "cannot be read as a model"),
        (lambda f, w: f.pop("llama.block_count"), "cannot be read as a model"),
        (lambda f, w: f.update({"llama.rope.dimension_count": 8}), "a part of each head"),
        (lambda f, w: f.update({"llama.block_count": 3}), "says 3 layers, and the weights have 2"),
        (lambda f, w: f.update({"llama.block_count": 2**31 - 1}), "says 2147483647 layers"),
        (lambda f, w: f.update({"llama.block_count": 1}), "says 1 layers, and the weights have 2"),
        (lambda f, w: f.update({"llama.attention.head_count": 0}), "heads is 0"),
        (lambda f, w: f.update({"llama.attention.head_count_kv": 0}), "kv_heads is 0"),
        (lambda f, w: f.update({"llama.context_length": 0}), "sequence_length is 0"),
        (lambda f, w: f.update({"llama.context_length": 2**31}), "sequence_length is 2147483648"),
        (lambda f, w: f.update({"llama.attention.layer_norm_rms_epsilon": 0.0}), "norm_epsilon is 0"),
        (lambda f, w: f.update({"llama.attention.layer_norm_rms_epsilon": float("nan")}), "norm_epsilon is nan"),
        (lambda f, w: f.update({"llama.rope.freq_base": -1.0}), "rope_theta is -1"),
        (lambda f, w: f.update({"llama.rope.freq_base": float("inf")}), "rope_theta is inf"),
        (lambda f, w: w.update({"rope_freqs.weight": np.zeros(8, np.float32)}), "rope_factors.0. is 0"),
        (lambda f, w: w["blk.0.ffn_up.weight"].fill(np.nan), "up_proj.weight holds values that are not finite"),
        (lambda f, w: w["output_norm.weight"].fill(np.inf), "norm.weight holds values that are not finite"),
        (lambda f, w: w.update({"output.bias": np.zeros(400, np.float32)}), "output.bias"),
        (lambda f, w: w.update({"position_embd.weight": np.zeros((9, 48), np.float32)}), "position_embd.weight"),
        (lambda f, w: f.update({"llama.feed_forward_length": 71}), "has shape"),
        (lambda f, w: f.update({"tokenizer.ggml.eos_token_id": 4_000}), "do not belong together"),
        (
            lambda f, w: f["tokenizer.ggml.tokens"].__setitem__(300, f["tokenizer.ggml.tokens"][290]),
            "with the token '.*' twice",
        ),
        (lambda f, w: f["tokenizer.ggml.tokens"].pop(), "tokens and the types of"),
        (lambda f, w: f["tokenizer.ggml.merges"].append("no such"), "tokenizer that cannot be made"),
        (lambda f, w: f["tokenizer.ggml.merges"].append("alone"), "cannot be"),
        (lambda f, w: w.pop("blk.1.ffn_up.weight"), r"lacks the weight blk\.1\.ffn_up"),
        (lambda f, w: w.update({"blk.0.attn_q.bias": np.zeros(64, np.float32)}), r"blk\.0\.attn_q\.bias"),
        (lambda f, w: w.update({"token_embd.weight": np.zeros((10, 48), np.float32)}), "do not belong together"),
        (lambda f, w: w.update({"blk.0.attn_q.weight": np.zeros((64, 40), np.float32)}), "has shape"),
    ],
)
def test_models_of_another_kind_are_refused(
    change: Callable[[dict[str, Any], dict[str, np.ndarray]], Any], says: str, written: Path
) -> None:
    with pytest.raises(UserError, match=says) as error:
        gguf.read(rewritten(written, change))
    assert "\n" not in str(error.value), "one sentence"


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.05, 0.1, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_said_to_be(share: float, written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CorruptArtifact, match="cut off"):
        gguf.read(tmp_path / "cut.gguf")


@pytest.mark.parametrize("turn", ["<|eot_id|>", "<|im_end|>", "<|end|>"])
def test_ends_of_turns_that_an_early_file_does_not_name(turn: str, written: Path) -> None:
    def early(facts: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
        facts["tokenizer.ggml.tokens"][5] = turn  # where ours has <|end|>
        facts["tokenizer.chat_template"] = "{% for m in messages %}{{ m['content'] }}" + turn + "{% endfor %}"
        facts.pop("tokenizer.ggml.eot_token_id", None)

    roles = gguf.read(rewritten(written, early)).tokenizer.roles
    assert roles.end == 0
    assert roles.stop == (0, 5)


def test_arrays_in_arrays_without_end_are_one_sentence(tmp_path: Path) -> None:
    deep = b"".join(struct.pack("<IQ", 9, 1) for _ in range(50_000))
    key = b"general.deep"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<I", 9)
    (tmp_path / "deep.gguf").write_bytes(head + deep)
    with pytest.raises(CorruptArtifact, match=r"deep\.gguf is not a readable GGUF file") as error:
        gguf.read(tmp_path / "deep.gguf")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(6))
def test_fuzzed_files_end_in_one_sentence_or_a_model(seed: int, written: Path, tmp_path: Path) -> None:
    """36 files each: bytes of the head, where counts, types and names are, replaced, doubled, or taken out."""
    random, data = np.random.default_rng(seed), written.read_bytes()
    for number in range(36):
        broken = bytearray(data)
        for _ in range(int(random.integers(1, 6))):
            place, width = int(random.integers(4, 30_000)), int(random.integers(1, 9))
            way = random.integers(0, 4)
            if way == 0:
                broken[place : place + width] = random.integers(0, 256, width, dtype=np.uint8).tobytes()
            elif way == 1:
                broken[place : place + width] = b"\xff" * width
            elif way == 2:
                broken[place:place] = broken[place : place + width]
            else:
                del broken[place : place + width]
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(broken)
        began, said = time.process_time(), ""
        try:
            gguf.read(path)
        except UserError as error:
            said = str(error)
        assert "\n" not in said
        assert time.process_time() - began < 5, number
        path.unlink()


def test_damaged_counts_end_in_one_sentence(written: Path, tmp_path: Path) -> None:
    data = bytearray(written.read_bytes())
    for place in range(8, 200, 8):
        broken = data.copy()
        broken[place : place + 8] = b"\xff" * 8
        (tmp_path / "broken.gguf").write_bytes(broken)
        # Anything but an error that is the user's to mend would end the test.
        with contextlib.suppress(UserError):
            gguf.read(tmp_path / "broken.gguf")
