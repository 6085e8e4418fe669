"""Anchoring seals: their hashes where the holder of a run folder cannot change them afterwards.

A seal carries the machine's own clock, and whoever holds a run folder can make a new one. An anchor is a small JSON document with
the seals' hashes, to be published before the target runs: a file to send or post, or a git tag to push. It tells nothing of what
was forecast; later it shows that the forecasts are those of then.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forescale import __version__
from forescale.core.artifacts import read_json, utc_now, write_json
from forescale.core.errors import CorruptArtifact, UserError
from forescale.forecast.seal import SEAL, check_seal

FORMAT = "forescale-anchor"
TAG = "tag"


@dataclass(frozen=True)
class SealLine:
    """One sealed forecast of a run folder. `problem` is empty where the seal holds."""

    forecast: str  # relative to the run folder
    sealed_at: str
    sha256: str
    problem: str = ""


def seals(run_dir: Path) -> list[SealLine]:
    """The seals below `run_dir`, by path. Raises UserError if there are none."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not a folder; `forescale runs` lists those there are.")
    found = []
    for path in sorted(run_dir.rglob("forecast.json")):
        name = path.relative_to(run_dir).as_posix()
        try:
            payload = read_json(path)
            check_seal(payload)
            found.append(SealLine(name, str(payload[SEAL].get("sealed_at")), payload[SEAL]["sha256"]))
        except CorruptArtifact as error:
            found.append(SealLine(name, "", "", str(error)))
    if not found:
        raise UserError(f"{run_dir} holds no forecast; make one with `forescale run RECIPE --until forecast`.")
    return found


def anchor(found: list[SealLine], where: str) -> str:
    """Writes the hashes of `found` to the file `where`, or as an annotated git tag where that is "tag"; returns what was written.

    Raises UserError if a seal does not hold, if the file exists or no tag can be made.
    """
    for line in found:
        if line.problem:
            raise UserError(f"{line.forecast}: {line.problem} It is not anchored.")
    content = {
        "format": FORMAT,
        "version": __version__,
        "anchored_at": utc_now(),
        "seals": [{key: value for key, value in asdict(line).items() if key != "problem"} for line in found],
    }
    if where == TAG:
        # Of all the hashes, so that one repository holds the anchors of many runs.
        name = "forescale-seal-" + "-".join(line.sha256[:10] for line in found)
        _git(
            "tag", "--annotate", name, "--message", f"Forecasts sealed by forescale\n\n{json.dumps(content, indent=1)}"
        )
        return name
    path = Path(where)
    if path.exists():
        raise UserError(f"{path} exists; an anchor is never replaced, so name another file.")
    write_json(path, content)
    return str(path)


def check_anchor(found: list[SealLine], where: str) -> list[str]:
    """What of an anchor (a file or a git tag) the seals of a run folder do not keep: a sentence each, none where all is kept.

    Raises UserError if `where` is no anchor.
    """
    there = {line.forecast: line for line in found}
    sentences = []
    for wanted in _read(where):
        line = there.get(wanted["forecast"])
        if line is None:
            sentences.append(f"{wanted['forecast']} was anchored and is missing")
        elif line.problem:
            sentences.append(f"{wanted['forecast']}: {line.problem.rstrip('.')}")
        elif line.sha256 != wanted["sha256"]:
            sentences.append(
                f"{wanted['forecast']} is not what was anchored: its seal is {line.sha256[:12]}, the anchor's "
                f"{wanted['sha256'][:12]} of {wanted['sealed_at']}"
            )
    return sentences


def _read(where: str) -> list[dict[str, str]]:
    if Path(where).is_file():
        try:
            content: Any = read_json(Path(where))
        except CorruptArtifact:
            raise UserError(
                f"{where} is no anchor; name the file or the git tag that `forescale seal` wrote."
            ) from None
    else:
        try:
            content = json.loads(_git("for-each-ref", "--format=%(contents:body)", f"refs/tags/{where}"))
        except ValueError:
            content = None
    wanted = content.get("seals") if isinstance(content, dict) and content.get("format") == FORMAT else None
    keys = {"forecast", "sealed_at", "sha256"}
    if not (
        isinstance(wanted, list)
        and wanted
        and all(
            isinstance(line, dict) and keys == set(line) and all(isinstance(v, str) for v in line.values())
            for line in wanted
        )
    ):
        raise UserError(f"{where} is no anchor; name the file or the git tag that `forescale seal` wrote.")
    return wanted


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("git is not installed; anchor to a file instead, with --anchor FILE.") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"git {words[0]} failed ({reason}); anchor to a file instead, with --anchor FILE.")
    return done.stdout
