"""Hugging Face directories, read and written with safetensors and JSON alone (no `transformers`, no pickles, no remote code).

Reads Llama- and Qwen3-shaped decoders and LLaVA of a SigLIP tower with one of them. Writes Qwen3ForCausalLM,
LlamaForCausalLM or LlavaForConditionalGeneration with tokenizer, chat template and processor.

LLaVA takes its features before the tower's last layer (`vision_feature_layer` -2), and so every reader of that format drops
it. Our tower has no layer too many, so an identity layer is added at export and dropped again at import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend
from torch import Tensor

from forescale import __version__
from forescale.checkpoints.files import (
    Checkpoint,
    build,
    check_depth,
    check_ids,
    first_line,
    halve,
    read_facts,
    save_weights,
)
from forescale.checkpoints.filling import WRITTEN
from forescale.checkpoints.huggingface_config import Json, image_token, llava_facts, model_config, text_facts
from forescale.checkpoints.names import huggingface_decoder, huggingface_vision, huggingface_vision_block
from forescale.core.artifacts import write_json, write_text
from forescale.core.errors import CorruptArtifact, UserError
from forescale.model.config import ModelConfig
from forescale.model.multimodal import Model
from forescale.tokenizer.bpe import Roles, Tokenizer
from forescale.tokenizer.vetting import load_backend

# SigLIP's processor: pixels / 255, then mean and deviation 0.5; bicubic.
SIGLIP_PIXELS = {"rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
_TOWER = "vision_tower.vision_model"
# Tables that older versions stored and that are made anew, and what stands behind the features that LLaVA takes of a tower.
_WITHOUT_EFFECT = re.compile(
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
    r"|vision_tower\.vision_model\.(embeddings\.position_ids|post_layernorm\.(weight|bias)|head\..+)"
)
_FIRST_OF_BLOCK = r"vision_tower\.vision_model\.encoder\.layers\.\d{1,6}\.layer_norm1\.weight"
_TOWER_BLOCK = re.compile(r"vision_tower\.vision_model\.encoder\.layers\.(\d{1,6})\.")


def read(folder: Path) -> Checkpoint:
    """Raises UserError for a kind of model that is not ours, CorruptArtifact for files that are damaged or missing."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a Hugging Face directory: it has no config.json.")
    facts = read_facts(folder / "config.json")
    if not isinstance(facts, dict):
        raise CorruptArtifact(
            f"{folder / 'config.json'} is not a model's configuration (a JSON object with model_type)."
        )
    try:
        config = model_config(facts)
        tokenizer = _read_tokenizer(folder, facts)
        check_ids(tokenizer, config, folder)
        state = _read_weights(folder, config)
        head, embedding = state.get("lm_head.weight"), state["embed_tokens.weight"]
        if config.tie_embeddings and head is not None and not torch.equal(head, embedding):
            # Weights outweigh a flag: files of tuned heads are known whose configuration still says that there is none.
            config = replace(config, tie_embeddings=False)
        model = build(config, tokenizer.image, state)
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        OSError,
        SafetensorError,
        RuntimeError,
    ) as e:
        raise CorruptArtifact(f"{folder} cannot be read as a model ({type(e).__name__}: {first_line(e)}).") from e
    name = folder.resolve().name
    return Checkpoint(model, tokenizer, name, {"format": "huggingface", "name": name, "licence": _licence(folder)})


def files(folder: Path) -> list[Path]:
    """The files of a directory that `read` takes anything from, sorted."""
    found = (p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".safetensors") and p.is_file())
    return sorted(p for p in found if p.name != WRITTEN)


def _licence(folder: Path) -> str:
    """What the model card declares."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---")[0] if card.is_file() else ""
    found = re.search(r"^licen[sc]e:\s*(\S+)", head, re.MULTILINE) if head.startswith("---") else None
    return found.group(1) if found else "not stated"


def _read_weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Ours by name; with a head where the file has one. Every weight there is used, without effect, or refused by its name."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_facts(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            more = " (pickled weights are never loaded)" if any(folder.glob("*.bin")) else ""
            raise UserError(f"{folder} lacks {name}; weights must be in safetensors files{more}.")
    keys: dict[str, tuple[str, str]] = {}  # plain name -> file and the name there
    with ExitStack() as stack:
        opened = {name: stack.enter_context(safe_open(folder / name, framework="pt")) for name in names}
        for name, file in opened.items():
            for key in file.keys():  # noqa: SIM118 (the file object has no iterator of its own)
                if keys.setdefault(_plain_name(key), (name, key)) != (name, key):
                    raise UserError(f"{folder} has the weight {key} twice.")
        check_depth(config.depth, keys, r"model\.layers\.(\d{1,6})\.")
        if (tower := sum(bool(re.fullmatch(_FIRST_OF_BLOCK, plain)) for plain in keys)) < config.vision_depth:
            raise UserError(
                f"the configuration asks for {config.vision_depth} layers of the vision tower, and the weights have {tower}."
            )
        pairs = dict(huggingface_decoder(config))
        if config.has_vision:
            pairs |= dict(huggingface_vision(config))
        wanted = {theirs: ours for ours, theirs in pairs.items()} | {"lm_head.weight": "lm_head.weight"}
        for plain, (_, key) in keys.items():
            if plain not in wanted and not _without_effect(plain, config):
                raise UserError(
                    f"{folder} has the weight {key}, which no model that can be imported has; it would be lost."
                )
        state = {wanted[plain]: opened[name].get_tensor(key) for plain, (name, key) in keys.items() if plain in wanted}
    missing = sorted(set(pairs) - set(state))
    if missing:
        raise CorruptArtifact(f"{folder} lacks {len(missing)} weights, among them {pairs[missing[0]]}.")
    if config.has_vision:
        # A convolution over patches as the matrix product that it is.
        state["vision.patch_embedding.weight"] = state["vision.patch_embedding.weight"].flatten(1)
    return state


def _without_effect(name: str, config: ModelConfig) -> bool:
    if name.startswith("vision_tower.") and not config.has_vision:
        return False
    block = _TOWER_BLOCK.match(name)
    return _WITHOUT_EFFECT.fullmatch(name) is not None or (block is not None and int(block[1]) >= config.vision_depth)


def _plain_name(key: str) -> str:
    """LLaVA's names of all generations of `transformers` to the oldest, a bare decoder's to itself.

    Until 4.51 and in every file since: `language_model.model.layers`, `language_model.lm_head`, `vision_tower.vision_model`.
    In memory since 4.52: `model.language_model.layers`, `lm_head`, `model.vision_tower`. Since 5 without `vision_model`.
    """
    key = key.removeprefix("model.") if key.startswith(("model.language", "model.vision", "model.multi")) else key
    if key.startswith("language_model.model."):
        return key.removeprefix("language_model.")
    if key == "language_model.lm_head.weight":
        return "lm_head.weight"
    if key.startswith("language_model."):
        return "model." + key.removeprefix("language_model.")
    if key.startswith("vision_tower.") and not key.startswith("vision_tower.vision_model."):
        return "vision_tower.vision_model." + key.removeprefix("vision_tower.")
    return key


def _read_tokenizer(folder: Path, facts: Json) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder} has no tokenizer.json; save its tokenizer in the fast format first.")
    backend = load_backend(path)
    described = read_facts(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    generation = read_facts(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
    text = facts.get("text_config", facts)
    stop: list[int] = []
    for value in (generation.get("eos_token_id"), text.get("eos_token_id"), facts.get("eos_token_id")):
        stop += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    end, bos = _token_id(described, "eos_token", backend), _token_id(described, "bos_token", backend)
    if end is None and not stop:
        raise UserError(f"{folder} does not say which token ends a text (eos_token in tokenizer_config.json).")
    end = stop[0] if end is None else end
    image = image_token(facts)
    if image >= 0 and (spelling := backend.id_to_token(image)) is not None:
        # Whether or not the file calls it special, text that spells it must not become a picture.
        backend.add_special_tokens([AddedToken(spelling, special=True, normalized=False)])
    roles = Roles(
        end=end,
        begin=_begin(backend, described, bos),
        stop=tuple(dict.fromkeys([end, *stop])),
        image=image,
        chat_template=_chat_template(folder, described),
        bos=-1 if bos is None else bos,
    )
    return Tokenizer(backend, roles)


def _token_id(described: Json, name: str, backend: Backend) -> int | None:
    spelled = described.get(name)
    spelled = spelled["content"] if isinstance(spelled, dict) else spelled
    return backend.token_to_id(spelled) if spelled else None


def _begin(backend: Backend, described: Json, bos: int | None) -> tuple[int, ...]:
    """What the tokenizer puts before a text: `add_bos_token` where it is said, else what its post-processor does."""
    said = described.get("add_bos_token")
    if said is not None and bos is not None:
        return (bos,) if said else ()
    encoding = backend.encode("a", add_special_tokens=True)
    count = next((i for i, special in enumerate(encoding.special_tokens_mask) if not special), 0)
    return tuple(encoding.ids[:count])


def _chat_template(folder: Path, described: Json) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = described.get("chat_template") or ""
    if isinstance(template, list):  # several by name
        template = next((t["template"] for t in template if t["name"] == "default"), "")
    if not template and (folder / "chat_template.json").is_file():  # processors before 4.5x
        template = read_facts(folder / "chat_template.json").get("chat_template") or ""
    return str(template)


def write(checkpoint: Checkpoint, folder: Path, text_only: bool = False, half: bool = False) -> None:
    """A directory that `transformers`, vLLM and the like load. `text_only` leaves the vision tower out; weights are float32,
    or with `half` float16.

    Raises UserError if a weight is too large for float16.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    config, ours = model.config, model.state_dict()
    vision = config.has_vision and not text_only
    prefix = "language_model." if vision else ""
    state = {prefix + theirs: ours[name] for name, theirs in huggingface_decoder(config)}
    if vision:
        state |= _vision_weights(model)
    if half:
        state = {name: halve(name, value) for name, value in state.items()}
    save_weights(state, folder / "model.safetensors")
    roles = tokenizer.roles
    begin = roles.bos if roles.bos >= 0 else roles.begin[0] if roles.begin else None
    text = text_facts(config, begin, tokenizer.end, "float16" if half else "float32")
    generation: Json = {"eos_token_id": list(roles.stop) or [tokenizer.end], "pad_token_id": tokenizer.end}
    if begin is not None:
        generation["bos_token_id"] = begin
    write_json(folder / "generation_config.json", generation)
    _write_tokenizer(tokenizer, config, folder, begin, vision)
    facts = llava_facts(config, tokenizer.image, text) if vision else text
    # Loaders leave keys alone that they do not know.
    write_json(folder / "config.json", facts | {"forescale": {"version": __version__, "source": checkpoint.source}})


def _vision_weights(model: Model) -> dict[str, Tensor]:
    config, ours = model.config, model.state_dict()
    state = {theirs: ours[name] for name, theirs in huggingface_vision(config)}
    patch = f"{_TOWER}.embeddings.patch_embedding.weight"
    state[patch] = state[patch].view(-1, 3, config.patch_size, config.patch_size)
    for name, theirs in huggingface_vision_block(config.vision_depth):
        shape = _block_shape(name.split(".", 3)[3], config)
        state[theirs] = torch.ones(shape) if "layer_norm" in name and "weight" in name else torch.zeros(shape)
    state[f"{_TOWER}.post_layernorm.weight"] = torch.ones(config.vision_width)
    state[f"{_TOWER}.post_layernorm.bias"] = torch.zeros(config.vision_width)
    return state


def _block_shape(name: str, config: ModelConfig) -> tuple[int, ...]:
    wide, narrow = config.vision_mlp_width, config.vision_width
    if name.endswith("bias") or name.startswith("layer_norm"):
        return (wide if name.startswith("fc1") else narrow,)
    return {"fc1.weight": (wide, narrow), "fc2.weight": (narrow, wide)}.get(name, (narrow, narrow))


def _write_tokenizer(tokenizer: Tokenizer, config: ModelConfig, folder: Path, begin: int | None, vision: bool) -> None:
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = False
    spell = backend.id_to_token
    leading = [(spell(i), i) for i in tokenizer.roles.begin]
    if backend.encode("", add_special_tokens=True).ids != list(tokenizer.roles.begin):
        # Ours and those of GGUF files say it in `roles` alone.
        single = [*(token for token, _ in leading), "$A"]
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=leading)
    write_text(folder / "tokenizer.json", backend.to_str())
    end = spell(tokenizer.end)
    facts: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        "model_max_length": config.sequence_length,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    if begin is not None:
        facts["bos_token"] = spell(begin)
    if vision:
        facts |= {"image_token": spell(tokenizer.image), "processor_class": "LlavaProcessor"}
    write_json(folder / "tokenizer_config.json", facts)
    if tokenizer.roles.chat_template:
        write_text(folder / "chat_template.jinja", tokenizer.roles.chat_template)
    if vision:
        _write_processor(facts["image_token"], config, folder)


def _write_processor(image: str, config: ModelConfig, folder: Path) -> None:
    pixels: Json = {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "size": {"height": config.image_size, "width": config.image_size},
        **SIGLIP_PIXELS,
    }
    write_json(folder / "preprocessor_config.json", pixels)
    processor: Mapping[str, Any] = {
        "processor_class": "LlavaProcessor",
        "patch_size": config.patch_size,
        "vision_feature_select_strategy": "full",
        "image_token": image,
        "num_additional_image_tokens": 0,
    }
    write_json(folder / "processor_config.json", processor)
