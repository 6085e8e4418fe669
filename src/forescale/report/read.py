"""Reads a run folder as docs/artifacts.md describes it. Parts may be missing: a report is also for unfinished runs."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forescale.core.artifacts import IN_PROGRESS, MANIFEST, read_json
from forescale.core.errors import CorruptArtifact, UserError
from forescale.report import words

STAGE_ORDER = ("data", "tokenizer", "shards", "rungs", "forecasts", "target")


def finite(value: Any) -> Any:
    """The same JSON with NaN and infinities as null, so that nothing downstream prints or writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return value


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one where there is no such file."""
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptArtifact(f"{path} should hold a JSON object; delete its folder to make it again.")
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [finite(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptArtifact(
            f"{path} is not valid JSON lines ({error}); delete its folder to make it again."
        ) from error


@dataclass(frozen=True)
class TrainingRun:
    """One folder under rungs/, or target/."""

    path: str  # relative to the run folder
    asked: dict[str, Any]  # run.json
    result: dict[str, Any]  # result.json; empty while the run is not finished
    timing: dict[str, Any]
    manifest: dict[str, Any]
    capability: list[dict[str, Any]] = field(repr=False, default_factory=list)
    samples: list[dict[str, Any]] = field(repr=False, default_factory=list)

    @property
    def name(self) -> str:
        return str(self.result.get("name") or self.asked.get("name") or Path(self.path).name)

    @property
    def seed(self) -> int | None:
        return self.result.get("seed", self.asked.get("seed"))

    @property
    def status(self) -> str:
        """ok, failed (diverged, say, or without a finite loss) or unfinished."""
        if not self.result:
            return "unfinished"
        if self.result.get("status") != "ok" or self.result.get("loss") is None:
            return "failed"
        return "ok"

    @property
    def compute(self) -> float | None:
        return self.result.get("compute") or self.asked.get("flops")

    @property
    def started_at(self) -> str | None:
        """The earliest start that anything on disk knows of: a resumed run must not look younger than it is."""
        times = [t for t in (self.timing.get("started_at"), self.manifest.get("started_at")) if words.parse_time(t)]
        return min(times, key=lambda t: words.parse_time(t) or dt.datetime.max, default=None)


@dataclass(frozen=True)
class ForecastFile:
    """forecasts/<cap>/forecast.json: `sealed` as on disk (what the hash covers), `payload` with finite numbers."""

    path: str
    sealed: dict[str, Any]
    payload: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def cap_ratio(self) -> float:
        return float(self.payload["cap_ratio"])


@dataclass(frozen=True)
class RunFolder:
    path: Path
    data: dict[str, Any]
    rungs: list[TrainingRun]
    target: TrainingRun | None
    forecasts: list[ForecastFile]  # smallest cap ratio first
    manifests: dict[str, dict[str, Any]]  # relative folder -> manifest

    @property
    def ladder(self) -> list[TrainingRun]:
        """The rungs that ended well, by compute."""
        return [rung for rung in self.rungs if rung.status == "ok" and rung.compute]

    @property
    def observed(self) -> TrainingRun | None:
        """The target, where it is done and ended well."""
        return self.target if self.target is not None and self.target.status == "ok" else None


def _training_run(root: Path, folder: Path) -> TrainingRun:
    return TrainingRun(
        path=str(folder.relative_to(root)),
        asked=finite(_object(folder / "run.json")),
        result=finite(_object(folder / "result.json")),
        timing=finite(_object(folder / "timing.json")),
        manifest=_object(folder / MANIFEST) or _object(folder / IN_PROGRESS),
        capability=_lines(folder / "capability.jsonl"),
        samples=_lines(folder / "samples.jsonl"),
    )


def _forecast(root: Path, path: Path) -> ForecastFile:
    sealed = _object(path)
    missing = {"cap_ratio", "loss"} - set(sealed)
    if missing:
        raise CorruptArtifact(f"{path} lacks {', '.join(sorted(missing))}; delete its folder and forecast again.")
    return ForecastFile(str(path.parent.relative_to(root)), sealed, finite(sealed), _object(path.parent / MANIFEST))


def read(run_dir: Path) -> RunFolder:
    """All that a report needs of a run folder. Raises UserError if there is neither a ladder nor a target in it."""
    run_dir = Path(run_dir)
    folders = sorted(path for path in run_dir.glob("rungs/*") if path.is_dir() and not path.name.startswith("."))
    rungs = [_training_run(run_dir, folder) for folder in folders]
    target_dir = run_dir / "target"
    target = (
        _training_run(run_dir, target_dir)
        if any((target_dir / n).is_file() for n in ("run.json", "result.json"))
        else None
    )
    if not rungs and target is None:
        raise UserError(f"{run_dir} holds no rungs/ and no target/; give the folder that `forescale run` wrote.")
    forecasts = [_forecast(run_dir, path) for path in sorted(run_dir.glob("forecasts/*/forecast.json"))]
    manifests = {
        str(path.parent.relative_to(run_dir)): _object(path)
        for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}")
        for path in sorted(run_dir.glob(pattern))
        if path.relative_to(run_dir).parts[0] != "report"
    }
    return RunFolder(
        path=run_dir,
        data=finite(_object(run_dir / "data" / "data.json")),
        rungs=sorted(rungs, key=lambda rung: (rung.compute or 0.0, rung.name, rung.seed or 0)),
        target=target,
        forecasts=sorted(forecasts, key=lambda forecast: forecast.cap_ratio),
        manifests=manifests,
    )


def stage_of(folder: str) -> str:
    """The stage that a manifest's folder counts under: all rungs together, all forecasts together."""
    return Path(folder).parts[0]
