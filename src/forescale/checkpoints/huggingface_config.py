"""`config.json` of Hugging Face directories: to a ModelConfig and back.

Reads what `transformers` 4 and 5 write; what they leave out has the defaults of their classes.
"""

from __future__ import annotations

from typing import Any

import torch

from forescale.core.errors import UserError
from forescale.model.config import ModelConfig

Json = dict[str, Any]
# Defaults of LlamaConfig, Qwen3Config, SiglipVisionConfig and LlavaConfig: version 4 does not write values that equal them.
DECODERS: dict[str, Json] = {
    "llama": {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
    },
    "qwen3": {
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22_016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
    },
}
SIGLIP: Json = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
LLAVA: Json = {
    "image_token_index": 32_000,
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": True,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "tie_word_embeddings": False,
}


def model_config(facts: Json) -> ModelConfig:
    """Raises UserError for a model of another kind; KeyError, TypeError or ArithmeticError if the configuration is broken."""
    kind = facts.get("model_type")
    if kind != "llava":
        return ModelConfig(**_decoder_config(facts))
    text, vision = facts["text_config"], facts["vision_config"]
    if vision.get("model_type") != "siglip_vision_model":
        raise UserError(
            f"this LLaVA has a {vision.get('model_type')!r} tower; only 'siglip_vision_model' can be imported."
        )
    decoder = _decoder_config({"model_type": "llama", **text})
    # As LlavaConfig reads them: either may say that the head is the embedding.
    decoder["tie_embeddings"] |= _tied(facts)
    return ModelConfig(**decoder, **_vision_config(LLAVA | facts, SIGLIP | vision))


def image_token(facts: Json) -> int:
    """The id that stands where a picture patch goes; -1 if the model does not see."""
    if facts.get("model_type") != "llava":
        return -1
    named = [facts[name] for name in ("image_token_index", "image_token_id") if facts.get(name) is not None]
    return int([*named, LLAVA["image_token_index"]][0])


def _decoder_config(facts: Json) -> Json:
    kind = facts.get("model_type")
    if kind not in DECODERS:
        raise UserError(f"model type {kind!r} cannot be imported; the types are llama, qwen3 and llava (SigLIP).")
    facts = DECODERS[kind] | facts
    refused = {
        "attention biases": facts.get("attention_bias"),
        "MLP biases": facts.get("mlp_bias"),
        f"activation {facts.get('hidden_act')!r}": facts.get("hidden_act", "silu") != "silu",
        "sliding-window attention": facts.get("use_sliding_window"),
        "quantized weights": facts.get("quantization_config"),
        "layers that do not attend to everything": set(facts.get("layer_types") or ()) - {"full_attention"},
    }
    for what, found in refused.items():
        if found:
            raise UserError(f"a model with {what} cannot be imported; the decoder must be Llama- or Qwen3-shaped.")
    heads = facts["num_attention_heads"]
    head_dim = _first(facts.get("head_dim"), facts["hidden_size"] // heads)
    theta, factors = _rope(facts, head_dim)
    return {
        "vocab_size": facts["vocab_size"],
        "width": facts["hidden_size"],
        "depth": facts["num_hidden_layers"],
        "heads": heads,
        "kv_heads": _first(facts.get("num_key_value_heads"), heads),
        "head_dim": head_dim,
        "mlp_width": facts["intermediate_size"],
        "sequence_length": facts["max_position_embeddings"],
        "rope_theta": theta,
        "norm_epsilon": facts["rms_norm_eps"],
        "qk_norm": kind == "qwen3",
        "tie_embeddings": _tied(facts),
        "rope_factors": factors,
    }


def _tied(facts: Json) -> bool:
    tied = facts.get("tie_word_embeddings") or False
    if not isinstance(tied, bool):
        raise UserError(f"tie_word_embeddings is {tied!r}; it must be true or false.")
    return tied


def _first(*values: Any) -> Any:
    """The first that is said at all: 0 is said, and wrong where it is."""
    return next(value for value in values if value is not None)


def _rope(facts: Json, head_dim: int) -> tuple[float, tuple[float, ...]]:
    """Base and frequency divisors. `rope_parameters` since transformers 5, `rope_theta` and `rope_scaling` before."""
    rope = facts.get("rope_parameters") or facts.get("rope_scaling") or {}
    if _first(rope.get("partial_rotary_factor"), facts.get("partial_rotary_factor"), 1.0) != 1.0:
        raise UserError("a model that turns only a part of each head cannot be imported.")
    theta = float(_first(rope.get("rope_theta"), facts.get("rope_theta"), 10_000.0))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, ()
    if kind == "linear":
        return theta, (float(rope["factor"]),) * (head_dim // 2)
    if kind == "longrope" and rope["short_factor"] == rope["long_factor"] and rope.get("attention_factor") == 1.0:
        return theta, tuple(map(float, rope["short_factor"]))
    if kind == "llama3":
        return theta, _llama3_factors(rope, theta, head_dim)
    raise UserError(f"rotary scaling of type {kind!r} cannot be imported; default, linear and llama3 can.")


def _llama3_factors(rope: Json, theta: float, head_dim: int) -> tuple[float, ...]:
    """Llama 3.1's stretch: long wavelengths by `factor`, short ones not at all, those between by a smooth ramp."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    wavelengths = 2 * torch.pi / frequencies
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((rope["original_max_position_embeddings"] / wavelengths - low) / (high - low)).clamp(0, 1)
    return tuple((1 / ((1 - smooth) / rope["factor"] + smooth)).tolist())


def _vision_config(facts: Json, vision: Json) -> Json:
    layer, layers = facts["vision_feature_layer"], vision["num_hidden_layers"]
    if not isinstance(layer, int) or not -layers - 1 <= layer <= layers:
        raise UserError(f"vision_feature_layer {layer!r} cannot be imported; it must be one layer's number.")
    strategy, square = facts["vision_feature_select_strategy"], isinstance(vision["image_size"], int)
    refused = {
        "features chosen by 'default', which drops a class token that SigLIP has not": strategy != "full",
        f"activation {vision['hidden_act']!r}": vision["hidden_act"] != "gelu_pytorch_tanh",
        f"projector activation {facts['projector_hidden_act']!r}": facts["projector_hidden_act"] != "gelu",
        "a projector without biases": not facts["multimodal_projector_bias"],
        f"norm epsilon {vision['layer_norm_eps']}": vision["layer_norm_eps"] != 1e-6,
        f"{vision['num_channels']} channels": vision["num_channels"] != 3,
        "oblong pictures or patches": not square or not isinstance(vision["patch_size"], int),
    }
    for what, found in refused.items():
        if found:
            raise UserError(f"a vision tower with {what} cannot be imported.")
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "vision_width": vision["hidden_size"],
        "vision_depth": layers + 1 + layer if layer < 0 else layer,
        "vision_heads": vision["num_attention_heads"],
        "vision_mlp_width": vision["intermediate_size"],
    }


def text_facts(config: ModelConfig, begin: int | None, end: int, dtype: str) -> Json:
    """Of Qwen3ForCausalLM or LlamaForCausalLM. `begin` and `end` are the ids of the tokens that `transformers` calls bos, eos."""
    rope: Json = {"rope_type": "default", "rope_theta": config.rope_theta}
    if len(set(config.rope_factors)) == 1:
        rope |= {"rope_type": "linear", "factor": config.rope_factors[0]}
    elif config.rope_factors:
        # The one kind of scaling in `transformers` that takes the divisors one by one.
        rope |= {
            "rope_type": "longrope",
            "short_factor": list(config.rope_factors),
            "long_factor": list(config.rope_factors),
            "attention_factor": 1.0,
            "factor": 1.0,
            "original_max_position_embeddings": config.sequence_length,
        }
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.sequence_length,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": rope,
        # Read by versions before 5.
        "rope_theta": config.rope_theta,
        **({"rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"}} if config.rope_factors else {}),
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def llava_facts(config: ModelConfig, image: int, text: Json) -> Json:
    """Of LlavaForConditionalGeneration around `text`; the tower has one layer more than ours (see `huggingface`)."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": image,
        "image_seq_length": config.image_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": config.tie_embeddings,
        "text_config": text,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": config.vision_width,
            "intermediate_size": config.vision_mlp_width,
            "num_hidden_layers": config.vision_depth + 1,
            "num_attention_heads": config.vision_heads,
            "num_channels": 3,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
            "vision_use_head": False,
        },
        "dtype": text["dtype"],
        "torch_dtype": text["dtype"],
    }
