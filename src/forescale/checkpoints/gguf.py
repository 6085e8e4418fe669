"""GGUF files of llama.cpp, by its own `gguf` library (extra `gguf`): read F32, F16, BF16 and every quantization that the
library can undo; written in F32 or F16, text alone.

llama.cpp turns neighbouring channels of a head where Llama's own layout turns halves, so its Llama files hold query and key
rows interleaved; they are put back at import and interleaved again at export. Qwen3 files are not.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from forescale import __version__
from forescale.checkpoints.files import Checkpoint, build, check_depth, check_ids, first_line, halve
from forescale.checkpoints.names import gguf_decoder
from forescale.core.artifacts import atomic_path
from forescale.core.errors import CorruptArtifact, UserError
from forescale.model.config import ModelConfig
from forescale.tokenizer.bpe import PATTERN, Roles, Tokenizer

ARCHITECTURES = {"llama": False, "qwen3": True}  # whether there is QK-norm
CONTROL, USER_DEFINED = 3, 4  # gguf.TokenType
# Split patterns of llama.cpp's pre-tokenizers (llama-vocab.cpp), by the names that files carry.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|")
PRE_TOKENIZERS = {
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "starcoder": (r"\p{N}", GPT2),
    "llama-bpe": (LLAMA3,),
    "llama3": (LLAMA3,),
    "qwen2": (PATTERN,),
}
# With these llama.cpp takes a word that is a token as it is, without merging, and puts the first token before every text.
WHOLE_WORDS = ("llama-bpe", "llama3")
WRITTEN_BY = "forescale.version"
# What the library raises for files that it cannot read: arrays in arrays without end, and sizes beyond all memory, too.
UNREADABLE = (ValueError, OSError, KeyError, IndexError, TypeError, OverflowError, RecursionError, MemoryError)
# How ends of turns are spelled (llama.cpp, llama-vocab.cpp, has such a list too): early files name the end of a text alone.
ENDS_OF_TURNS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>")


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF files need the `gguf` library; install it with: pip install 'forescale[gguf]'.") from None
    return gguf


def read(path: Path) -> Checkpoint:
    """Raises UserError for a model or tokenizer of another kind, CorruptArtifact for a damaged file."""
    gguf = _library()
    try:
        reader = gguf.GGUFReader(path)
        facts = {name: field.contents() for name, field in reader.fields.items()}
    except UNREADABLE as error:
        raise CorruptArtifact(
            f"{path} is not a readable GGUF file ({first_line(error)}); it may have been cut off."
        ) from error
    architecture = facts.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(f"{path} holds a {architecture!r} model; llama and qwen3 can be imported.")
    try:
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        if len(tensors) != len(reader.tensors):
            raise UserError(f"{path} has a weight twice.")
        config = _model_config(facts, tensors)
        check_depth(config.depth, tensors, r"blk\.(\d{1,6})\.")
        tokenizer = _read_tokenizer(facts, path)
        check_ids(tokenizer, config, path)
        pairs = dict(gguf_decoder(config))
        strange = set(tensors) - set(pairs.values()) - {"rope_freqs.weight"}
        if strange:
            raise UserError(f"{path} has the weight {min(strange)}, which neither Llama nor Qwen3 has.")
        state = {}
        for ours, theirs in pairs.items():
            if theirs not in tensors:
                raise CorruptArtifact(f"{path} lacks the weight {theirs}.")
            values = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
            state[ours] = _turn(torch.from_numpy(np.array(values, np.float32)), ours, config, interleave=False)
        model = build(config, tokenizer.image, state)
    except (KeyError, ValueError, TypeError, ArithmeticError, NotImplementedError, RuntimeError) as error:
        raise CorruptArtifact(
            f"{path} cannot be read as a model ({type(error).__name__}: {first_line(error)})."
        ) from error
    name = str(facts.get("general.name") or path.stem)
    licence = str(facts.get("general.license") or "not stated")
    return Checkpoint(model, tokenizer, name, {"format": "gguf", "name": name, "licence": licence})


def _model_config(facts: dict[str, Any], tensors: dict[str, Any]) -> ModelConfig:
    kind = facts["general.architecture"]
    get = {key.removeprefix(f"{kind}."): value for key, value in facts.items() if key.startswith(f"{kind}.")}
    if get.get("expert_count"):
        raise UserError("a mixture of experts cannot be imported; the decoder must be dense.")
    if get.get("rope.scaling.type") not in (None, "none", "linear"):
        raise UserError(f"rotary scaling of type {get['rope.scaling.type']!r} cannot be imported.")
    heads = get["attention.head_count"]
    head_dim = get.get("attention.key_length") or get["embedding_length"] // heads
    if get.get("rope.dimension_count", head_dim) != head_dim:
        raise UserError("a model that turns only a part of each head cannot be imported.")
    factors: tuple[float, ...] = ()
    if "rope_freqs.weight" in tensors:
        factors = tuple(tensors["rope_freqs.weight"].data.astype(float).tolist())
    elif get.get("rope.scaling.type") == "linear":
        factors = (float(get["rope.scaling.factor"]),) * (head_dim // 2)
    vocabulary, width = tensors["token_embd.weight"].shape[1], get["embedding_length"]
    return ModelConfig(
        vocab_size=int(vocabulary),
        width=width,
        depth=get["block_count"],
        heads=heads,
        kv_heads=get.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        mlp_width=get["feed_forward_length"],
        sequence_length=get["context_length"],
        rope_theta=get.get("rope.freq_base", 10_000.0),
        norm_epsilon=float(str(np.float32(get["attention.layer_norm_rms_epsilon"]))),
        qk_norm=ARCHITECTURES[kind],
        tie_embeddings="output.weight" not in tensors,
        rope_factors=factors,
    )


def _turn(weight: Tensor, name: str, config: ModelConfig, interleave: bool) -> Tensor:
    """Rows of query and key matrices of Llama files between llama.cpp's order and ours."""
    if config.qk_norm or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    heads = config.heads if name.endswith("q_proj.weight") else config.kv_heads
    halves = (heads, 2, config.head_dim // 2) if interleave else (heads, config.head_dim // 2, 2)
    return weight.view(*halves, -1).transpose(1, 2).reshape(weight.shape)


def _read_tokenizer(facts: dict[str, Any], path: Path) -> Tokenizer:
    kind, pre = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise UserError(
            f"a GGUF tokenizer of kind {kind!r} cannot be imported (byte-level BPE can); import the model's Hugging Face "
            "directory instead."
        )
    if pre not in PRE_TOKENIZERS:
        raise UserError(
            f"the pre-tokenizer {pre!r} is not known; known are {', '.join(PRE_TOKENIZERS)}. Import the model's Hugging "
            "Face directory instead."
        )
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ", 1)) for pair in facts["tokenizer.ggml.merges"]]
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise UserError(
            f"{path} has a vocabulary with the token {twice!r} twice, so that one of its ids could not be read."
        )
    if len(types) != len(tokens):
        raise UserError(f"{path} has {len(tokens)} tokens and the types of {len(types)}.")
    try:
        backend = Backend(models.BPE(ids, merges, ignore_merges=pre in WHOLE_WORDS))
    except Exception as error:  # the library raises bare Exception
        raise CorruptArtifact(f"{path} has a tokenizer that cannot be made ({first_line(error)}).") from error
    splits = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in PRE_TOKENIZERS[pre]]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t, c in zip(tokens, types) if c == CONTROL])
    backend.add_tokens([AddedToken(t, special=False) for t, c in zip(tokens, types) if c == USER_DEFINED])
    end, begin = facts["tokenizer.ggml.eos_token_id"], facts.get("tokenizer.ggml.bos_token_id")
    template = str(facts.get("tokenizer.chat_template") or "")
    # llama.cpp stops a chat at the end-of-turn token as well, whether the file names it or its template ends turns with it.
    spelled = [
        ids[token] for token in ENDS_OF_TURNS if token in ids and types[ids[token]] == CONTROL and token in template
    ]
    stop = [end, facts.get("tokenizer.ggml.eot_token_id"), facts.get("tokenizer.ggml.eom_token_id"), *spelled]
    adds = facts.get("tokenizer.ggml.add_bos_token", pre in WHOLE_WORDS)
    roles = Roles(
        end=end,
        begin=(begin,) if adds and begin is not None else (),
        stop=tuple(dict.fromkeys(i for i in stop if i is not None)),
        chat_template=template,
        bos=-1 if begin is None else begin,
    )
    return Tokenizer(backend, roles)


def write(checkpoint: Checkpoint, path: Path, half: bool = False) -> None:
    """The decoder as a GGUF file, matrices in F32 or (`half`) F16. The vision tower, if any, is left out.

    Raises UserError for a tokenizer or a rotary scaling that llama.cpp does not have.
    """
    gguf = _library()
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    config = model.config
    pre = _pre_tokenizer_name(tokenizer)
    vocabulary = _vocabulary(tokenizer, config.vocab_size)
    kind = "qwen3" if config.qk_norm else "llama"
    linear = len(set(config.rope_factors)) == 1
    if config.rope_factors and not linear and config.qk_norm:
        raise UserError(
            "llama.cpp stretches Qwen3's rotary frequencies evenly or not at all; export to Hugging Face instead."
        )
    roles = tokenizer.roles
    begin = roles.bos if roles.bos >= 0 else roles.begin[0] if roles.begin else tokenizer.end
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, kind)
        writer.add_name(checkpoint.name)
        writer.add_string(WRITTEN_BY, __version__)
        if checkpoint.source.get("licence"):
            writer.add_license(checkpoint.source["licence"])
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
        writer.add_block_count(config.depth)
        writer.add_context_length(config.sequence_length)
        writer.add_embedding_length(config.width)
        writer.add_feed_forward_length(config.mlp_width)
        writer.add_head_count(config.heads)
        writer.add_head_count_kv(config.kv_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_layer_norm_rms_eps(config.norm_epsilon)
        writer.add_vocab_size(config.vocab_size)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list([token for token, _ in vocabulary])
        writer.add_token_types([category for _, category in vocabulary])
        writer.add_token_merges(_merges(tokenizer))
        writer.add_eos_token_id(tokenizer.end)
        writer.add_bos_token_id(begin)
        writer.add_add_bos_token(bool(roles.begin))
        others = [i for i in roles.stop if i != tokenizer.end]
        if others:
            writer.add_eot_token_id(others[0])
        if roles.chat_template:
            writer.add_chat_template(roles.chat_template)
        if linear:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope_factors[0])
        elif config.rope_factors:
            writer.add_tensor("rope_freqs.weight", np.array(config.rope_factors, np.float32))
        state = model.state_dict()
        for ours, theirs in gguf_decoder(config):
            weight = _turn(state[ours].detach().cpu().float(), ours, config, interleave=True).contiguous()
            writer.add_tensor(theirs, (halve(ours, weight) if half and weight.ndim > 1 else weight).numpy())
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        except OSError as error:
            with suppress(OSError):  # what is still in its buffers does not fit either
                writer.close()
            if error.strerror:
                raise OSError(error.errno, error.strerror, str(path)) from error
            # numpy gives counts of items alone
            raise UserError(f"{path} cannot be written ({first_line(error)}); is the disk full?") from error


def is_ours(path: Path) -> bool:
    """Whether the file was written by `write`; one that llama.cpp quantized from it keeps the mark and yet is not."""
    gguf = _library()
    plain = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
    try:
        reader = gguf.GGUFReader(path)
        return WRITTEN_BY in reader.fields and all(tensor.tensor_type in plain for tensor in reader.tensors)
    except UNREADABLE:
        return False


def _backend_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(tokenizer.backend.to_str())
    return facts


def _pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for how this tokenizer splits text before merging. Raises UserError if it has none."""
    facts = _backend_facts(tokenizer)
    pre, model, normalizer = facts.get("pre_tokenizer") or {}, facts["model"], facts.get("normalizer") or {}
    patterns: list[str] = []
    # llama.cpp leaves out the NFC normalization of Qwen's tokenizers as well.
    known = model.get("type") == "BPE" and normalizer.get("type", "NFC") == "NFC"
    for step in pre.get("pretokenizers") or [pre]:
        if step.get("type") == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            patterns.append(step["pattern"].get("Regex", ""))
        elif step.get("type") == "Digits" and step["individual_digits"]:
            patterns.append(r"\p{N}")
        elif step.get("type") == "ByteLevel" and not step["add_prefix_space"]:
            patterns += [GPT2] if step["use_regex"] else []
        else:
            known = False
    for name, theirs in PRE_TOKENIZERS.items():
        if known and theirs == tuple(patterns) and bool(model.get("ignore_merges")) == (name in WHOLE_WORDS):
            return name
    raise UserError(
        "llama.cpp has no pre-tokenizer for how this tokenizer splits text; export to Hugging Face instead."
    )


def _vocabulary(tokenizer: Tokenizer, size: int) -> list[tuple[str, int]]:
    by_id = {i: token for token, i in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    added = tokenizer.backend.get_added_tokens_decoder()
    normal, unused = 1, 5  # gguf.TokenType

    def category(i: int) -> int:
        if i not in by_id:
            return unused
        return (CONTROL if added[i].special else USER_DEFINED) if i in added else normal

    return [(by_id.get(i, f"[PAD{i}]"), category(i)) for i in range(size)]


def _merges(tokenizer: Tokenizer) -> list[str]:
    merges = _backend_facts(tokenizer)["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
