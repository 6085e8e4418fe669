"""A checkpoint of our own: `config.json`, `model.safetensors`, `tokenizer.json` (and `tokens.json` where it was imported)."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from forescale.checkpoints.packs import PACKS
from forescale.core.artifacts import MANIFEST, Manifest, atomic_path, mismatches, read_json, write_json
from forescale.core.errors import CorruptArtifact, UserError
from forescale.model.config import ModelConfig
from forescale.model.multimodal import Model
from forescale.tokenizer.bpe import Tokenizer

REWARD = "reward.json"  # beside the weights of a reward model
# What to do about a damaged model. No stage can make a folder of the user's own again, so it is not to be deleted.
AGAIN = "take a whole copy of the model and import it again, into a new folder"


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode and its tokenizer. `name` is for people.

    `source` says where an imported model is from (`format`, `name`, `origin`, `sha256`, `licence` ...); empty for our own.
    """

    model: Model
    tokenizer: Tokenizer
    name: str
    source: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(model: Model, tokenizer: Tokenizer, folder: Path, source: Mapping[str, Any] | None = None) -> None:
    """Everything that evaluation, export and further training need, in one folder. `config.json` is written last."""
    state = dict(model.state_dict())
    if model.config.tie_embeddings:
        del state["lm_head.weight"]
    save_weights(state, folder / "model.safetensors")
    tokenizer.save(folder / "tokenizer.json")
    facts = {"model": model.config, "image_token": model.image_token}
    write_json(folder / "config.json", facts | ({"source": dict(source)} if source else {}))


def save_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """A safetensors file that others may read as they may any other file; the library's own are their owner's alone.

    Raises OSError, as any other writing does, if the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        try:
            save_file(weights, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            if found := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
            raise UserError(f"{path} cannot be written ({first_line(error)}).") from error
        temporary.chmod(mode)


def build(config: ModelConfig, image_token: int, state: dict[str, torch.Tensor]) -> Model:
    """A model of these weights in float32, without drawing random ones first.

    Raises RuntimeError if they do not fit it or are not all finite.
    """
    with torch.device("meta"):
        model = Model(config, image_token, seed=None)
    for name, value in state.items():
        if not value.is_floating_point():
            raise RuntimeError(
                f"{name} holds whole numbers ({value.dtype}), not weights; quantized ones cannot be read"
            )
    state = {name: value.to(torch.float32) for name, value in state.items()}
    if config.tie_embeddings:
        state["lm_head.weight"] = state["embed_tokens.weight"]
    for name, expected in model.state_dict().items():
        if name in state and state[name].shape != expected.shape:
            raise RuntimeError(
                f"{name} has shape {tuple(state[name].shape)} where the configuration asks for {tuple(expected.shape)}"
            )
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise RuntimeError(f"{name} holds values that are not finite (NaN or infinite)")
    model.load_state_dict(state, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.eval()


def check_depth(said: int, names: Iterable[str], block: str) -> None:
    """Raises UserError unless as many blocks are said as the names of the weights have; `block`: a pattern of a block's number.

    Before anything is built: what is said may be any number, and what is named is bounded by the file.
    """
    numbers = {int(found[1]) for name in names if (found := re.match(block, name))}
    if numbers != set(range(len(numbers))) or said != len(numbers):
        there = (
            f"{len(numbers)}" if numbers == set(range(len(numbers))) else f"numbers {min(numbers)} to {max(numbers)}"
        )
        raise UserError(
            f"the configuration says {said} layers, and the weights have {there}; they do not belong together."
        )


def check_ids(tokenizer: Tokenizer, config: ModelConfig, path: Path) -> None:
    """Raises CorruptArtifact if the tokenizer can give, or has roles for, ids that the model has no embedding of."""
    roles = tokenizer.roles
    largest = max([*tokenizer.backend.get_vocab(with_added_tokens=True).values(), roles.image, roles.end, *roles.stop])
    if largest >= config.vocab_size:
        raise CorruptArtifact(
            f"{path} has a tokenizer with ids up to {largest} and a model of {config.vocab_size}; they do not belong together."
        )


def halve(name: str, weight: torch.Tensor) -> torch.Tensor:
    """In float16. Raises UserError if a value is too large for it."""
    small = weight.to(torch.float16)
    if not torch.isfinite(small).all():
        raise UserError(f"the weight {name} has values too large for float16; export without --half.")
    return small


def load_checkpoint(path: Path, device: torch.device | None = None) -> Checkpoint:
    """From a checkpoint folder, or a run folder (its target).

    Raises UserError if it is neither or holds a reward model, CorruptArtifact if it is damaged.
    """
    folder = find_checkpoint(path)
    if (folder / REWARD).is_file():
        raise UserError(
            f"{folder} holds a reward model, which scores answers and writes none; give the model that it was trained from."
        )
    return read_checkpoint(folder, path.name if folder == path else path.resolve().name, device)


def read_checkpoint(folder: Path, name: str, device: torch.device | None = None) -> Checkpoint:
    """Of a checkpoint folder, whatever its weights are for. Raises CorruptArtifact if it is damaged."""
    _refuse_damage(folder)
    try:
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
    except CorruptArtifact as error:
        why = first_line(error.__cause__ or error)
        raise CorruptArtifact(f"{folder} holds no readable tokenizer ({why}); {AGAIN}.") from error
    return Checkpoint(load_model(folder, device), tokenizer, name, source_of(folder))


def _refuse_damage(folder: Path) -> None:
    """Raises CorruptArtifact if a file is not what the manifest of the stage that made it says."""
    for artifact in (folder, *([folder.parent] if folder.name == "checkpoint" else [])):
        if (artifact / MANIFEST).is_file():
            below = "" if artifact == folder else f"{folder.name}/"
            for sentence in mismatches(artifact, Manifest.load(artifact), below):
                raise CorruptArtifact(f"{sentence}; {AGAIN}, or make it again with the command that made it.")


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder of a run folder or of itself. Raises UserError if there is none."""
    for folder in (path, path / "checkpoint", path / "target" / "checkpoint"):
        if is_checkpoint(folder):
            return folder
    raise UserError(_no_checkpoint(path))


def _no_checkpoint(path: Path) -> str:
    """What is at `path` instead, and the command that makes a checkpoint of it."""
    name = (path.stem if path.suffix == ".gguf" else path.name) or path.resolve().name
    if path.is_file() and path.suffix == ".gguf":
        return f"{path} is a GGUF file and holds no forescale checkpoint; bring it in with {_command(str(path), name)}."
    if is_foreign(path):
        return (
            f"{path} is a Hugging Face directory and holds no forescale checkpoint; bring it in with "
            f"{_command(str(path), name)}."
        )
    if path.exists():
        return (
            f"{path} holds no forescale checkpoint; give a run folder whose target has ended, a checkpoint folder, or bring "
            f"a Hugging Face directory or GGUF file in with {_command('PATH', 'NAME')}."
        )
    if str(path) in PACKS:
        return f"{path} does not exist and so holds no forescale checkpoint; make it with {_command(str(path), name)}."
    return (
        f"{path} does not exist and so holds no forescale checkpoint; models are not downloaded by name, but if you have this "
        f"one as a Hugging Face directory or GGUF file bring it in with {_command('PATH', name)}."
    )


def _command(source: str, name: str) -> str:
    return f"`{shlex.join(['forescale', 'import', source, '--out', f'models/{name}'])}`"


def load_model(folder: Path, device: torch.device | None = None) -> Model:
    """Raises CorruptArtifact if the folder holds no model of ours."""
    try:
        facts = read_facts(folder / "config.json")
        config = dict(facts["model"])
        config["rope_factors"] = tuple(config.get("rope_factors", ()))  # a list in JSON
        state = load_file(folder / "model.safetensors")
        check_depth(config["depth"], state, r"layers\.(\d{1,6})\.")
        model = build(ModelConfig(**config), facts["image_token"], state)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CorruptArtifact(f"{folder} holds no readable checkpoint ({first_line(error)}); {AGAIN}.") from error
    return model.to(device or torch.device("cpu"))


def source_of(folder: Path) -> dict[str, Any]:
    """Where the model of a checkpoint folder was imported from; empty if it was trained here."""
    return dict(read_facts(folder / "config.json").get("source", {}))


def is_checkpoint(folder: Path) -> bool:
    """Whether it is a checkpoint folder of ours; a Hugging Face directory may hold files of the same names."""
    if not all((folder / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json")):
        return False
    facts = read_facts(folder / "config.json")
    return isinstance(facts, dict) and {"image_token", "model"} <= set(facts)


def is_foreign(folder: Path) -> bool:
    """Whether it looks like a Hugging Face directory: its `config.json` names a type of model."""
    path = folder / "config.json"
    try:
        facts = read_facts(path) if path.is_file() else {}
    except CorruptArtifact:
        return False
    return isinstance(facts, dict) and "model_type" in facts


def read_facts(path: Path) -> Any:
    """Parsed JSON of a model's folder, which may be the only copy there is. Raises CorruptArtifact if it is not JSON."""
    try:
        return read_json(path)
    except CorruptArtifact as error:
        why = first_line(error.__cause__ or error)
        raise CorruptArtifact(f"{path} is not valid JSON ({why}); {AGAIN}.") from error


def first_line(error: BaseException) -> str:
    """Of what it says, else its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
