from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from forescale.core.errors import CorruptArtifact, UserError
from forescale.forecast.seal import check_seal, seal

PAYLOAD: dict[str, Any] = {
    "cap_ratio": 10.0,
    "ladder_share": 0.3,
    "target": {"flops": 1e15, "params": 1, "tokens": 2},
    "loss": {
        "predicted": 2.0,
        "interval": [1.9, 2.1],
        "interval_level": 0.9,
        "baseline_last_rung": 2.5,
        "baseline_loglog_line": 1.8,
    },
    "loss_by_modality": {"text": {"predicted": 3.0, "interval": [2.9, 3.1], "interval_level": 0.9}},
    "capability": [
        {"family": "add", "bucket": "easy", "problem_ids": ["a", "b"], "n_problems": 2, "predicted": 1.0,
         "interval": (0.8, 1.2), "status": "forecast", "baseline_last_rung": 1.5},
        {"family": "add", "bucket": "hard", "problem_ids": ["c"], "n_problems": 1, "predicted": None,
         "interval": None, "status": "no forecast", "baseline_last_rung": 4.0},
    ],
}  # fmt: skip
EARLY, LATE = "2030-01-01T00:00:00+00:00", "2030-01-02T00:00:00+00:00"


def test_seals_reads_back_and_is_idempotent(tmp_path: Path) -> None:
    path = tmp_path / "f" / "forecast.json"
    sealed = seal(PAYLOAD, path, now=EARLY)
    there = json.loads(path.read_text())
    assert there == sealed
    check_seal(there)
    assert set(there["seal"]) == {"sealed_at", "sha256", "version", "code"}
    assert seal(PAYLOAD, path, now=LATE) == sealed


def test_never_replaces_another_forecast(tmp_path: Path) -> None:
    path = tmp_path / "forecast.json"
    seal(PAYLOAD, path, now=EARLY)
    other = copy.deepcopy(PAYLOAD)
    other["loss"]["predicted"] = 2.05
    with pytest.raises(UserError, match="never replaced"):
        seal(other, path)
    assert json.loads(path.read_text())["loss"]["predicted"] == 2.0


@pytest.mark.parametrize("edit", ["predicted", "time", "hash", "added", "no seal"])
def test_tampering_is_found(tmp_path: Path, edit: str) -> None:
    sealed = seal(PAYLOAD, tmp_path / "forecast.json", now=LATE)
    if edit == "predicted":
        sealed["loss"]["predicted"] = 2.0001
    elif edit == "time":
        sealed["seal"]["sealed_at"] = EARLY
    elif edit == "hash":
        sealed["seal"]["sha256"] = "0" * 64
    elif edit == "added":
        sealed["exclusions"] = []
    else:
        del sealed["seal"]
    with pytest.raises(CorruptArtifact):
        check_seal(sealed)


def test_a_tampered_file_is_not_taken_for_the_same_forecast(tmp_path: Path) -> None:
    path = tmp_path / "forecast.json"
    seal(PAYLOAD, path, now=LATE)
    path.write_text(path.read_text().replace(LATE, EARLY))
    with pytest.raises(CorruptArtifact):
        seal(PAYLOAD, path)
