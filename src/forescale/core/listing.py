"""What run folders hold: one row an artifact, for `forescale runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forescale.core.artifacts import IN_PROGRESS, MANIFEST, Manifest, read_json
from forescale.core.errors import CorruptArtifact, UserError


def list_artifacts(root: Path) -> list[dict[str, Any]]:
    """Finished, unfinished and unreadable artifacts below `root`. Raises UserError if there is no such folder."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; name the folder of your runs with --dir.")
    rows = []
    for folder in sorted({p.parent for name in (MANIFEST, IN_PROGRESS) for p in root.rglob(name)}):
        row: dict[str, Any] = {"artifact": str(folder.relative_to(root)), "stage": None, "state": "unfinished"}
        try:
            if (folder / MANIFEST).is_file():
                manifest = Manifest.load(folder)
                size = sum((folder / name).stat().st_size for name in {**manifest.outputs, **manifest.volatile})
                row |= {
                    "stage": manifest.stage,
                    "state": "done",
                    "finished_at": manifest.finished_at,
                    "seconds": manifest.seconds,
                    "bytes": size,
                    "content": manifest.content,
                }
            else:
                row["stage"] = read_json(folder / IN_PROGRESS).get("stage")
        except (CorruptArtifact, OSError) as error:
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
    return "\n".join(lines)
