"""What a run needs to go on exactly: named tensors and a few facts in one safetensors file, replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from forescale.core.artifacts import atomic_path
from forescale.core.errors import CorruptArtifact

STATE = ".resume.safetensors"


def save_state(path: Path, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Tensors by group and name, and JSON facts."""
    tensors = {
        f"{group}.{name}": value.detach().cpu().contiguous()
        for group, values in groups.items()
        for name, value in values.items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})


def load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """What was saved, or None where nothing was. Raises CorruptArtifact if it cannot be read."""
    if not path.is_file():
        return None
    try:
        groups: dict[str, dict[str, Tensor]] = {}
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            for name in file.keys():  # noqa: SIM118 (no mapping)
                group, _, rest = name.partition(".")
                groups.setdefault(group, {})[rest] = file.get_tensor(name)
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise corrupt(path, error) from error
    return groups, facts


def corrupt(path: Path, error: Exception) -> CorruptArtifact:
    return CorruptArtifact(f"{path} cannot be continued from ({error}); delete it to train this run from the start.")


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, one that two names share once."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


@torch.no_grad()
def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies `weights` of another model of the same shape. Raises KeyError or RuntimeError if they do not fit."""
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[name])


def open_metrics(path: Path, steps: int) -> TextIO:
    """The metrics file cut back to the first `steps` records, open for more."""
    kept: list[str] = []
    if steps and path.is_file():
        kept = path.read_text().splitlines(keepends=True)[:steps]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept))
    return path.open("a")
