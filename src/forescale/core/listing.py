"""What run folders hold: one row an artifact, for `forescale runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forescale.core.artifacts import IN_PROGRESS, MANIFEST, Manifest, mismatches, read_json
from forescale.core.errors import CorruptArtifact, UserError


def list_artifacts(root: Path) -> list[dict[str, Any]]:
    """Finished, unfinished and damaged artifacts below `root`; every file under a hash is read.

    Raises UserError if there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; name the folder of your runs with --dir.")
    rows = []
    for folder in sorted({p.parent for name in (MANIFEST, IN_PROGRESS) for p in root.rglob(name)}):
        row: dict[str, Any] = {"artifact": str(folder.relative_to(root)), "stage": None, "state": "unfinished"}
        try:
            if (folder / MANIFEST).is_file():
                manifest = Manifest.load(folder)
                wrong = mismatches(folder, manifest)
                files = [folder / name for name in {**manifest.outputs, **manifest.volatile}]
                size = sum(path.stat().st_size for path in files if path.is_file())
                row |= {
                    "stage": manifest.stage,
                    "state": "damaged" if wrong else "done",
                    "finished_at": manifest.finished_at,
                    "seconds": manifest.seconds,
                    "bytes": size,
                    "content": manifest.content,
                    **({"error": "; ".join(wrong)} if wrong else {}),
                }
            else:
                row["stage"] = dict(read_json(folder / IN_PROGRESS)).get("stage")
        except (CorruptArtifact, OSError, TypeError, ValueError) as error:
            row |= {"state": "damaged", "error": str(error)}
        rows.append(row)
    return rows


def render(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no artifacts here yet; `forescale run quick` makes some."
    width = max(len(row["artifact"]) for row in rows)
    lines = [f"{'artifact':{width}}  {'stage':10} {'state':10} {'seconds':>8} {'MB':>8}  content"]
    for row in rows:
        size = f"{row['bytes'] / 1e6:8.1f}" if "bytes" in row else f"{'':8}"
        seconds = f"{row['seconds']:8.1f}" if "seconds" in row else f"{'':8}"
        lines.append(
            f"{row['artifact']:{width}}  {row['stage'] or '?':10} {row['state']:10} {seconds} {size}  {row.get('content', '')[:12]}"
        )
    lines += [f"damaged: {row['error']}" for row in rows if row["state"] == "damaged"]
    return "\n".join(lines)


def damage(run_dir: Path) -> list[str]:
    """Every file of a run folder that is not what its manifest says, and every artifact made of other inputs than lie there now.

    A sentence each. The report itself is left out, since it is drawn anew.

    A target names the forecast that it was watched against and a forecast the rungs that it stands on, by hash, so a sealed
    forecast can be replaced unseen only together with its manifest, the target's, and the target's account of its seal.
    """
    found: list[str] = []
    manifests: dict[str, Manifest] = {}
    for path in sorted(run_dir.rglob(MANIFEST)):
        name = path.parent.relative_to(run_dir).as_posix()
        if name == "report":
            continue
        try:
            manifests[name] = Manifest.load(path.parent)
            found += mismatches(path.parent, manifests[name])
        except (CorruptArtifact, OSError) as error:
            found.append(str(error))
    contents = {manifest.content for manifest in manifests.values()}
    for name, manifest in manifests.items():
        for wanted, content in manifest.inputs.items():
            # Where its name says, or (exams of a tuned model have that as their "target") anywhere else in this run.
            places = [f"rungs/{wanted}", wanted, *(n for n in manifests if n.startswith(f"{wanted}s/"))]
            if content not in contents and any(place in manifests for place in places):
                found.append(
                    f"{run_dir / name} was made of another {wanted} than lies there now; their hashes do not match"
                )
    return found + _other_seals(run_dir)


def _other_seals(run_dir: Path) -> list[str]:
    """Runs that were watched against a forecast whose seal is none of those that lie there."""
    try:
        forecasts = [read_json(path) for path in run_dir.glob("forecasts/*/forecast.json")]
        seals = {forecast["seal"]["sha256"] for forecast in forecasts}
        timings = {path: read_json(path).get("forecast_seal") for path in run_dir.glob("*/timing.json")}
    except (CorruptArtifact, OSError, TypeError, KeyError, AttributeError):
        return []  # which file is damaged is said of it by its manifest
    return [
        f"{path} names another seal of its forecast than lies there now; their hashes do not match"
        for path, seal in sorted(timings.items())
        if seal and seals and seal not in seals
    ]
