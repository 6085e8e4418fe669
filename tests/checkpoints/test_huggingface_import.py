"""Models that `transformers` made and saved, read by us: the same logits. And what must be refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.export_check import picture
from safetensors.torch import load_file, save_file
from tests.checkpoints.small import TOKENIZER, checkpoint

from forescale.checkpoints import huggingface
from forescale.checkpoints.files import Checkpoint
from forescale.core.errors import CorruptArtifact, UserError

transformers = pytest.importorskip("transformers", reason="transformers is in the test extra")

DECODER = {
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 0,
    "bos_token_id": None,
}
SIGLIP = {
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
IDS = torch.randint(10, TOKENIZER.vocab_size, (2, 300), generator=torch.Generator().manual_seed(0))


def save(model: Any, folder: Path, **options: Any) -> None:
    """As its authors would publish it, with a tokenizer of the fast kind."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.eval().save_pretrained(folder, **options)
    backend = TOKENIZER.backend
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)
    backend.encode_special_tokens = True


def rewrite(folder: Path, change: dict[str, Any]) -> None:
    facts = json.loads((folder / "config.json").read_text())
    facts = {name: value for name, value in {**facts, **change}.items() if value != "gone"}
    (folder / "config.json").write_text(json.dumps(facts))


def same_text(model: Any, read: Checkpoint) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(read.model(IDS), model(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Llama", {"rope_parameters": LLAMA3}),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}}),
        ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
        ("Qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ("Qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    ],
    ids=str,
)
def test_decoders(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    config = getattr(transformers, f"{kind}Config")(**{**DECODER, **changes})
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    save(model, tmp_path)
    read = huggingface.read(tmp_path)
    same_text(model, read)
    assert read.model.config.tie_embeddings == config.tie_word_embeddings
    assert read.tokenizer.encode("a cat 12") == TOKENIZER.encode("a cat 12")
    # What stretches the frequencies goes out again in a form that `transformers` reads.
    huggingface.write(read, tmp_path / "again")
    same_text(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval(), read)


def test_the_names_of_settings_before_version_5(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER, rope_parameters=LLAMA3))
    save(model, tmp_path)
    old = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    rewrite(tmp_path, {"rope_parameters": "gone", "rope_theta": 500_000.0, "rope_scaling": old})
    same_text(model, huggingface.read(tmp_path))


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER))
    save(model, tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    same_text(model, huggingface.read(tmp_path))
    next(tmp_path.glob("*00002-of-*.safetensors")).unlink()
    with pytest.raises(UserError, match=r"lacks model-00002"):
        huggingface.read(tmp_path)


def llava(folder: Path, text: str = "llama", **changes: Any) -> Any:
    decoder = transformers.LlamaConfig(**DECODER) if text == "llama" else transformers.Qwen3Config(**DECODER)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**SIGLIP),
        text_config=decoder,
        image_token_index=TOKENIZER.image,
        **{"vision_feature_select_strategy": "full", **changes},
    )
    model = transformers.LlavaForConditionalGeneration(config)
    save(model, folder)
    return model


def same_sight(model: Any, read: Checkpoint) -> None:
    images = torch.stack([torch.from_numpy(picture(24, seed, noise=True).pixels) for seed in range(3)])
    patches = [TOKENIZER.image] * 9
    ids = torch.tensor([[7, 8, *patches, 9, *patches, *patches, 10, 11]])
    with torch.inference_mode():
        theirs = model(input_ids=ids, pixel_values=images.permute(0, 3, 1, 2) / 127.5 - 1).logits
        torch.testing.assert_close(read.model(ids, images), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "depth"),
    [
        ({"vision_feature_layer": -2}, 2),
        ({"vision_feature_layer": -1}, 3),
        ({"vision_feature_layer": 1, "text": "qwen3"}, 1),
        ({"vision_feature_layer": -4}, 0),
        ({"tie_word_embeddings": True}, 2),
    ],
    ids=str,
)
def test_llava_with_a_siglip_tower(changes: dict[str, Any], depth: int, tmp_path: Path) -> None:
    model = llava(tmp_path, **changes)
    assert any("head.probe" in name for name in load_file(tmp_path / "model.safetensors")), "a head that is not used"
    read = huggingface.read(tmp_path)
    assert read.model.config.vision_depth == depth
    assert read.tokenizer.image == TOKENIZER.image
    same_sight(model, read)
    # And out again, where the tower gets one layer that nobody reads.
    huggingface.write(read, tmp_path / "again")
    same_sight(transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "again").eval(), read)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("vision_tower.", "vision_tower.vision_model."),
        lambda name: re.sub(
            "^(vision_tower|multi_modal_projector)",
            r"model.\1",
            name.replace("language_model.model", "model.language_model"),
        ).replace("language_model.lm_head", "lm_head"),
        lambda name: (
            re.sub(
                "^(vision_tower|multi_modal_projector)",
                r"model.\1",
                name.replace("language_model.model", "model.language_model"),
            )
            .replace("language_model.lm_head", "lm_head")
            .replace("vision_tower.", "vision_tower.vision_model.")
        ),
    ],
    ids=["files of version 4", "in memory, version 5", "in memory, version 4.52"],
)
def test_layouts_of_all_versions(rename: Any, tmp_path: Path) -> None:
    model = llava(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({rename(name): value for name, value in state.items()}, tmp_path / "model.safetensors")
    assert {rename(name) for name in state} != set(state)
    same_sight(model, huggingface.read(tmp_path))


def test_settings_left_out_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    classes = {"llama": transformers.LlamaConfig(), "qwen3": transformers.Qwen3Config()}
    for kind, config in classes.items():
        bare = huggingface.model_config({"model_type": kind})
        full = huggingface.model_config(config.to_dict())
        assert bare == full
    vision = transformers.SiglipVisionConfig()
    bare = {"model_type": "llava", "vision_feature_select_strategy": "full", "text_config": {}}
    sparse = huggingface.model_config({**bare, "vision_config": {"model_type": "siglip_vision_model"}})
    whole = transformers.LlavaConfig(vision_config=vision, vision_feature_select_strategy="full").to_dict()
    assert sparse == huggingface.model_config(whole)
    assert huggingface.image_token(bare) == transformers.LlavaConfig().image_token_index


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    huggingface.write(checkpoint(qk_norm=False), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mixtral"}, "model type 'mixtral' cannot be imported|decoder type"),
        ({"model_type": None}, "cannot be imported"),
        ({"vision_feature_select_strategy": "default"}, "class token"),
        ({"vision_feature_select_strategy": "gone"}, "class token"),
        ({"vision_feature_layer": [-2, -5]}, "one layer's number"),
        ({"vision_feature_layer": -9}, "one layer's number"),
        ({"projector_hidden_act": "relu"}, "projector activation 'relu'"),
        ({"multimodal_projector_bias": False}, "without biases"),
        ({"text_config": "gone"}, "cannot be read as a model"),
        ({"text_config": 3}, "cannot be read as a model"),
        ({"image_token_index": 5000}, "do not belong together"),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "'clip_vision_model' tower"),
    ],
    ids=str,
)
def test_models_of_another_kind_are_refused(change: dict[str, Any], says: str, exported: Path) -> None:
    rewrite(exported, change)
    with pytest.raises(UserError, match=says):
        huggingface.read(exported)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gemma3"}, "'gemma3' cannot be imported"),
        ({"attention_bias": True}, "attention biases"),
        ({"mlp_bias": True}, "MLP biases"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4}}, "'yarn' cannot be imported"),
        ({"partial_rotary_factor": 0.5}, "a part of each head"),
        ({"num_attention_heads": 3}, "cannot share"),
        ({"num_attention_heads": "many"}, "cannot be read as a model"),
        (
            {"num_key_value_heads": 4},
            r"k_proj\.weight has shape \(32, 48\) where the configuration asks for \(64, 48\)",
        ),
        ({"hidden_size": -1}, "width is -1"),
        ({"hidden_size": 48.0}, "width is 48.0"),
        ({"intermediate_size": 0}, "mlp_width is 0"),
        ({"num_hidden_layers": 3}, "says 3 layers, and the weights have 2"),
        ({"num_hidden_layers": 1}, "says 1 layers, and the weights have 2"),
        ({"num_hidden_layers": 10**9}, "says 1000000000 layers"),
        ({"num_hidden_layers": True}, "depth is True"),
        ({"num_attention_heads": -4}, "heads is -4"),
        ({"num_key_value_heads": 0}, "kv_heads is 0"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"max_position_embeddings": 0}, "sequence_length is 0"),
        ({"max_position_embeddings": 10**12}, "sequence_length is 1000000000000"),
        ({"vocab_size": "384"}, "vocab_size is '384'"),
        ({"rms_norm_eps": 0}, "norm_epsilon is 0"),
        ({"rms_norm_eps": float("nan")}, "norm_epsilon is nan"),
        ({"rms_norm_eps": "1e-6"}, "norm_epsilon is '1e-6'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_theta is 0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1e4}}, "rope_theta is -10000"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, r"rope_factors\[0\] is 0"),
        ({"rope_parameters": {**LLAMA3, "factor": float("nan")}}, "rope_factors"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "do not attend to everything"),
        ({"model_type": "qwen3"}, "lacks 4 weights"),
        ({"vocab_size": 300}, "do not belong together"),
    ],
    ids=str,
)
def test_decoders_of_another_kind_are_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    huggingface.write(checkpoint(sight=False, qk_norm=False), tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(UserError, match=says):
        huggingface.read(tmp_path)


def test_broken_files_are_said_to_be(exported: Path, tmp_path: Path) -> None:
    def broken(name: str, data: bytes | None) -> Path:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
        return folder

    weights = (exported / "model.safetensors").read_bytes()
    for name, data, says in (
        ("model.safetensors", weights[: len(weights) // 2], "cannot be read as a model"),
        ("model.safetensors", weights[:5], "cannot be read as a model"),
        ("model.safetensors", b"\xff" * 8 + b"{}", "cannot be read as a model"),
        ("model.safetensors", None, "lacks model.safetensors"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", b"{}", "not a tokenizer file"),
        ("config.json", b"{", "not valid JSON"),
        ("config.json", b"[]", "config.json is not a model's configuration"),
        ("config.json", None, "has no config.json"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../x.safetensors"}}', "lacks ../../x"),
        ("model.safetensors.index.json", b"{}", "cannot be read as a model"),
    ):
        with pytest.raises(UserError, match=re.escape(says)) as error:
            huggingface.read(broken(name, data))
        assert "\n" not in str(error.value), "one sentence"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
Q_PROJ = "language_model.model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w[Q_PROJ].fill_(float("nan")), "q_proj.weight holds values that are not finite"),
        (lambda w: w[Q_PROJ][3].mul_(float("inf")), "q_proj.weight holds values that are not finite"),
        (lambda w: w.update({Q_PROJ: w[Q_PROJ].to(torch.int8)}), "q_proj.weight holds whole numbers (torch.int8)"),
        (lambda w: w["multi_modal_projector.linear_1.bias"].fill_(-float("inf")), "linear_1.bias holds values"),
        *(
            (lambda w, name=name: w.update({name: torch.ones(4)}), f"has the weight {name}")
            for name in (
                "lm_head.bias",
                LORA,
                LORA.replace("_A", "_B"),
                "model.embed_positions.weight",
                "language_model.model.layers.0.self_attn.q_proj.bias",
                "language_model.model.layers.0.mlp.down_proj.weight_scale",
                "language_model.model.embed_tokens.bias",
                "image_newline",
                "multi_modal_projector.linear_3.weight",
                "vision_tower.vision_model.embeddings.class_embedding",
                "vision_tower.vision_model.encoder.layers.0.gamma",
                "score.weight",
                "v_head.summary.weight",
            )
        ),
        (lambda w: w.update({"language_model.model.layers.2.mlp.up_proj.weight": torch.ones(4)}), "weights have 3"),
        (lambda w: w.update({"language_model.model.layers.7.mlp.up_proj.weight": torch.ones(4)}), "numbers 0 to 7"),
        (lambda w: w.update({"model.norm.weight": torch.ones(48)}), "twice"),
    ],
)
def test_weights_are_used_or_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], Any], says: str, exported: Path
) -> None:
    change_weights(exported, change)
    with pytest.raises(UserError, match=re.escape(says)) as error:
        huggingface.read(exported)
    assert "\n" not in str(error.value), "one sentence"


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq",
        "language_model.model.rotary_emb.inv_freq",
        "vision_tower.vision_model.embeddings.position_ids",
        "vision_tower.vision_model.head.probe",
    ],
)
def test_weights_without_effect_are_left(name: str, exported: Path) -> None:
    before = huggingface.read(exported).model(IDS)
    change_weights(exported, lambda weights: weights.update({name: torch.ones(4)}))
    assert torch.equal(huggingface.read(exported).model(IDS), before)


def test_a_head_of_the_files_own_is_used_though_the_configuration_ties_it(tmp_path: Path) -> None:
    model = checkpoint(sight=False, qk_norm=False)
    huggingface.write(model, tmp_path)
    rewrite(tmp_path, {"tie_word_embeddings": True})
    read = huggingface.read(tmp_path)
    assert torch.equal(read.model(IDS), model.model(IDS))
    assert not read.model.config.tie_embeddings
    # The same numbers twice are one weight.
    change_weights(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    assert huggingface.read(tmp_path).model.config.tie_embeddings


def test_more_layers_of_the_tower_than_there_are(exported: Path) -> None:
    facts = json.loads((exported / "config.json").read_text())["vision_config"]
    rewrite(exported, {"vision_config": {**facts, "num_hidden_layers": 10**9}})
    with pytest.raises(UserError, match="999999999 layers of the vision tower, and the weights have 2"):
        huggingface.read(exported)


def test_pickles_are_never_opened(exported: Path) -> None:
    (exported / "model.safetensors").unlink()
    # Unpickling this would raise; it is not even opened.
    (exported / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nabort\n)R.")
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        huggingface.read(exported)


def test_missing_weights_are_named(exported: Path) -> None:
    state = load_file(exported / "model.safetensors")
    del state["language_model.model.norm.weight"]
    save_file(state, exported / "model.safetensors")
    with pytest.raises(CorruptArtifact, match=r"lacks 1 weights, among them model\.norm\.weight"):
        huggingface.read(exported)


def test_a_picture_token_is_special_though_the_file_calls_it_plain(exported: Path) -> None:
    facts = json.loads((exported / "tokenizer.json").read_text())
    for token in facts["added_tokens"]:
        token["special"] = token["id"] != TOKENIZER.image
    (exported / "tokenizer.json").write_text(json.dumps(facts))
    assert TOKENIZER.image not in huggingface.read(exported).tokenizer.encode("a <|image|> b")


def test_what_stands_before_a_text(exported: Path) -> None:
    path = exported / "tokenizer_config.json"
    described = json.loads(path.read_text())
    for said, begin in ((None, (0,)), (True, (0,)), (False, ())):
        path.write_text(json.dumps(described if said is None else {**described, "add_bos_token": said}))
        roles = huggingface.read(exported).tokenizer.roles
        assert (roles.begin, roles.bos) == (begin, 0)


def test_the_licence_is_kept(exported: Path) -> None:
    assert huggingface.read(exported).source["licence"] == "not stated"
    (exported / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\nA model.\n")
    assert huggingface.read(exported).source["licence"] == "apache-2.0"
