"""Reads a run folder as docs/artifacts.md describes it. Parts may be missing: a report is also for unfinished runs."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forescale.core.artifacts import IN_PROGRESS, MANIFEST, read_json
from forescale.core.documents import LETTERS
from forescale.core.errors import CorruptArtifact, UserError
from forescale.core.listing import damage
from forescale.report import words

STAGE_ORDER = ("data", "tokenizer", "shards", "rungs", "forecasts", "target", "exams", "alignment", "safety", "redteam")
EXAM_PARTS: dict[str, type] = {
    "model": dict, "tasks": list, "code": list, "calibration": dict, "stale": dict, "invented": dict,
    "contamination": dict, "not_run": list,
}  # fmt: skip
LABEL_ORDER = ("base", "tuned", "sft", "ppo")
ROW_KEYS = ("id", "category", "modality", "unit", "request", "answer", "kind")  # of behaviour/<label>/rows.jsonl


def finite(value: Any) -> Any:
    """The same JSON with NaN and infinities as null, so that nothing downstream prints or writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return value


def _object(path: Path, *needed: str) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one where there is no such file. Raises CorruptArtifact if it lacks what is needed."""
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptArtifact(f"{path} should hold a JSON object; delete its folder to make it again.")
    if missing := [key for key in needed if value.get(key) is None]:
        raise CorruptArtifact(f"{path} lacks {', '.join(missing)}; delete its folder to make it again.")
    return value


def _rows(path: Path, growing: bool = False) -> Iterator[dict[str, Any]]:
    """The JSON lines of `path`, one at a time; none where there is no such file. `growing`: a last line without its end is left
    out, as a run that was killed leaves one."""
    if not path.is_file():
        return
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.strip() or (growing and not line.endswith("\n")):
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise CorruptArtifact(
                        f"{path} should hold a JSON object a line; delete its folder to make it again."
                    )
                yield finite(row)
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(
            f"{path} is not valid JSON lines ({error}); delete its folder to make it again."
        ) from error


def _lines(path: Path, growing: bool = False) -> list[dict[str, Any]]:
    return list(_rows(path, growing))


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
class ItemLog:
    """items/<task>.jsonl, as far as a report needs it: the logs of large exams do not fit in memory whole."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)  # condition -> item id -> score
    pictured: list[dict[str, Any]] = field(default_factory=list)  # normal rows that kept their pictures, in file order
    digests: dict[str, bytes] = field(default_factory=dict)  # item id -> what was asked; equal for the same item


@dataclass(frozen=True)
class Exams:
    """One folder under exams/, or one that `forescale eval` wrote."""

    path: str  # relative to the run folder
    result: dict[str, Any]  # exams.json
    items: dict[str, ItemLog] = field(repr=False, default_factory=dict)  # by task

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        return {str(task["name"]): task for task in self.result.get("tasks") or []}


@dataclass(frozen=True)
class Behaviour:
    """alignment/behaviour/<label>/."""

    figures: dict[str, Any]  # behaviour.json
    rows: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Alignment:
    """What alignment/, safety/ and redteam/ hold. What is not there is empty."""

    configs: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the stages that are done, by folder
    sft: dict[str, Any] = field(default_factory=dict)
    sft_steps: list[dict[str, Any]] = field(repr=False, default_factory=list)
    reward: dict[str, Any] = field(default_factory=dict)  # reward_report.json
    reward_steps: list[dict[str, Any]] = field(repr=False, default_factory=list)
    agreement: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    ppo: dict[str, Any] = field(default_factory=dict)  # result.json; empty while the run is not finished
    ppo_steps: list[dict[str, Any]] = field(repr=False, default_factory=list)
    ppo_samples: list[dict[str, Any]] = field(repr=False, default_factory=list)
    behaviour: dict[str, Behaviour] = field(default_factory=dict)  # by label
    safety: dict[str, dict[str, Any]] = field(default_factory=dict)  # safety.json, by label
    against: dict[str, dict[str, Any]] = field(default_factory=dict)  # against.json, by label
    redteam: dict[str, Any] = field(default_factory=dict)  # changes.json
    paths: tuple[str, ...] = ()  # the folders that there are, relative to the run folder


@dataclass(frozen=True)
class RunFolder:
    path: Path
    data: dict[str, Any]
    rungs: list[TrainingRun]
    target: TrainingRun | None
    forecasts: list[ForecastFile]  # smallest cap ratio first
    manifests: dict[str, dict[str, Any]]  # relative folder -> manifest
    exams: dict[str, Exams] = field(default_factory=dict)  # by label, base first
    alignment: Alignment = field(default_factory=Alignment)
    damage: tuple[str, ...] = ()  # files that are not what their manifests say, a sentence each

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


def _odd_forecast(sealed: dict[str, Any]) -> str:
    """What in a forecast file has a type that it cannot have; nothing where all is well."""
    if not isinstance(sealed["cap_ratio"], int | float):
        return "a cap_ratio that is no number"
    if not isinstance(sealed.get("seal"), dict | None):
        return "a seal that is no object"
    by_modality = sealed.get("loss_by_modality") or {}
    if not isinstance(by_modality, dict):
        return "a loss_by_modality that is no object"
    for name, law in {
        "loss": sealed["loss"],
        **{f"loss of {name}": law for name, law in by_modality.items() if law},
    }.items():
        if not isinstance(law, dict):
            return f"a {name} that is no object"
        for key in ("predicted", "interval_level", "baseline_last_rung", "baseline_loglog_line"):
            if not isinstance(law.get(key), int | float | None):
                return f"a {name} whose {key} is no number"
        interval = law.get("interval")
        if interval is not None and not (
            isinstance(interval, list)
            and len(interval) == 2
            and all(isinstance(end, int | float | None) for end in interval)
        ):
            return f"a {name} whose interval is no pair of numbers"
        for key in ("ensemble", "floor_sensitivity", "local_exponents", "warnings"):
            if not isinstance(law.get(key), list | None):
                return f"a {name} whose {key} is no list"
    return ""


def _forecast(root: Path, path: Path) -> ForecastFile:
    sealed = _object(path)
    missing = {"cap_ratio", "loss"} - set(sealed)
    if missing:
        raise CorruptArtifact(f"{path} lacks {', '.join(sorted(missing))}; delete its folder and forecast again.")
    if wrong := _odd_forecast(sealed):
        raise CorruptArtifact(f"{path} holds {wrong}, so it is no forecast; delete its folder and forecast again.")
    return ForecastFile(str(path.parent.relative_to(root)), sealed, finite(sealed), _object(path.parent / MANIFEST))


def item_digest(row: dict[str, Any]) -> bytes:
    """Eight bytes of a row's question, options and right answers, whichever way it was asked (docs/exams.md).

    So an item asked by letters and the same one asked by option texts have one digest. Pictures are left out: most rows do
    not keep theirs.
    """
    options = [str(option) for option in row.get("options") or []]
    question = re.sub(r"\n(Answer|Explanation):\s*$", "", str(row.get("prompt") or ""))
    question = question.removesuffix("".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options)))
    question = re.sub(r"^Question: ", "", question, flags=re.MULTILINE).strip()
    content = [question, options, sorted(row.get("correct") or []), row.get("accepted") or []]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).digest()


def _item_log(path: Path) -> ItemLog:
    log = ItemLog()
    for row in _rows(path):
        condition, score = row.get("condition") or "normal", row.get("score")
        if not isinstance(score, float | int | None):
            raise CorruptArtifact(f"{path} holds the score {score!r}; delete its folder to make it again.")
        if score is not None:
            log.scores.setdefault(condition, {})[str(row.get("id"))] = float(score)
        if score is not None and condition == "normal":
            log.digests[str(row.get("id"))] = item_digest(row)
        if score is not None and row.get("images") and condition == "normal":
            log.pictured.append(row)
    return log


def read_exams(folder: Path, path: str) -> Exams:
    """What an exam folder holds. `path`: what to call it.

    Raises UserError if there is no exams.json, CorruptArtifact if a file in it cannot be read.
    """
    file = folder / "exams.json"
    if not file.is_file():
        raise UserError(f"{folder} holds no exams.json; give the folder that `forescale eval --out` wrote.")
    result = finite(_object(file))
    for part, kind in EXAM_PARTS.items():
        found = result.get(part)
        rows = found if isinstance(found, list) else []
        if not isinstance(found, kind | None) or not all(isinstance(row, dict) for row in rows):
            raise CorruptArtifact(
                f"{file} holds {part!r} in a form that is not known; delete its folder to make it again."
            )
    tasks = result.get("tasks") or []
    if not all(task.get("name") for task in tasks):
        raise CorruptArtifact(f"{file} holds a task without a name; delete its folder to make it again.")
    # Only the last part of the path counts: an artifact from elsewhere must not make the report read other files.
    logs = {str(t["name"]): folder / "items" / Path(t.get("path") or f"{t['name']}.jsonl").name for t in tasks}
    return Exams(
        path=path,
        result=result,
        items={name: _item_log(log) for name, log in logs.items()},
    )


def _all_exams(run_dir: Path) -> dict[str, Exams]:
    labels = _labels(run_dir, "exams/*/exams.json")
    return {label: read_exams(run_dir / "exams" / label, f"exams/{label}") for label in labels}


def _labels(run_dir: Path, pattern: str) -> list[str]:
    """The folders that hold a file of that pattern, by name: those of LABEL_ORDER first."""
    order = {label: i for i, label in enumerate(LABEL_ORDER)}
    labels = [path.parent.name for path in run_dir.glob(pattern)]
    return sorted(labels, key=lambda label: (order.get(label, len(order)), label))


def _behaviour(folder: Path) -> Behaviour:
    figures = finite(_object(folder / "behaviour.json"))
    for category, found in figures.items():
        if not isinstance(found, dict) or not isinstance(found.get("kinds"), dict) or "incorrect" not in found:
            raise CorruptArtifact(
                f"{folder / 'behaviour.json'} holds {category!r} in a form that is not known; delete its folder to make it again."
            )
    rows = _lines(folder / "rows.jsonl")
    if any(not isinstance(row.get(key), str) for row in rows for key in ROW_KEYS):
        raise CorruptArtifact(
            f"{folder / 'rows.jsonl'} holds a row without {', '.join(ROW_KEYS)}; delete its folder to make it again."
        )
    return Behaviour(figures, rows)


def _alignment(run_dir: Path) -> Alignment:
    """Raises CorruptArtifact if a file cannot be read or lacks what every such file has."""
    root = run_dir / "alignment"
    names = ("sft", "reward", "rbrm", "ppo")
    behaviour = _labels(run_dir, "alignment/behaviour/*/behaviour.json")
    safety = _labels(run_dir, "safety/*/safety.json")
    paths = [f"alignment/{name}" for name in names if (root / name).is_dir()]
    paths += [f"alignment/behaviour/{label}" for label in behaviour] + [f"safety/{label}" for label in safety]
    paths += ["redteam"] if (run_dir / "redteam" / "changes.json").is_file() else []
    against = {label: finite(_object(run_dir / "safety" / label / "against.json", "sets")) for label in safety}
    return Alignment(
        configs={name: _object(root / name / MANIFEST).get("config") or {} for name in names},
        sft=finite(_object(root / "sft" / "result.json", "conversations", "steps")),
        sft_steps=_lines(root / "sft" / "metrics.jsonl", growing=True),
        reward=finite(_object(root / "reward" / "reward_report.json", "pairs", "held_out", "chance")),
        reward_steps=_lines(root / "reward" / "metrics.jsonl", growing=True),
        agreement=finite(_object(root / "rbrm" / "agreement.json", "judge", "binary", "sources", "floor", "passes")),
        weights=finite(_object(root / "rbrm" / "weights.json", "values", "figures")),
        ppo=finite(_object(root / "ppo" / "result.json", "status", "step")),
        ppo_steps=_lines(root / "ppo" / "metrics.jsonl", growing=True),
        ppo_samples=_lines(root / "ppo" / "samples.jsonl", growing=True),
        behaviour={label: _behaviour(root / "behaviour" / label) for label in behaviour},
        safety={
            label: finite(_object(run_dir / "safety" / label / "safety.json", "judge", "sets")) for label in safety
        },
        against={label: found for label, found in against.items() if found},
        redteam=finite(_object(run_dir / "redteam" / "changes.json", "rows", "total")),
        paths=tuple(paths),
    )


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
        for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}", f"*/*/*/{MANIFEST}")
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
        exams=_all_exams(run_dir),
        alignment=_alignment(run_dir),
        damage=tuple(damage(run_dir)),
    )


def stage_of(folder: str) -> str:
    """The stage that a manifest's folder counts under: all rungs together, all forecasts together, all of alignment together."""
    return Path(folder).parts[0]
