"""Sealing a forecast before its target runs.

A seal is `{"sealed_at", "sha256", "version", "code"}`; the hash is of the canonical JSON of everything else in the
file together with the seal's own other fields, so neither the forecast nor its time can be edited unseen. It is a
tripwire for honest people, not a proof: whoever holds the file can make a new one, so publish the hash where you do
not hold the pen.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forescale import __version__
from forescale.core.artifacts import code_hash, read_json, utc_now, write_json
from forescale.core.config import digest, to_json
from forescale.core.errors import CorruptArtifact, UserError

SEAL = "seal"


def _hash(payload: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in payload.items() if key != SEAL}
    fields = {key: value for key, value in payload[SEAL].items() if key != "sha256"}
    return digest({"forecast": rest, SEAL: fields})


def seal(payload: Mapping[str, Any], path: Path, now: str | None = None) -> dict[str, Any]:
    """Writes `payload` with its seal to `path` and returns it. The same payload again keeps the old seal.

    Raises UserError if `path` holds another forecast: a sealed forecast is never replaced.
    """
    body = {key: value for key, value in to_json(dict(payload)).items() if key != SEAL}
    if path.is_file():
        there = read_json(path)
        check_seal(there)
        if digest({key: value for key, value in there.items() if key != SEAL}) == digest(body):
            return dict(there)
        raise UserError(
            f"{path} holds another forecast, sealed at {there[SEAL]['sealed_at']}; a sealed forecast is never "
            f"replaced, so write "
            "this one elsewhere."
        )
    sealed_at = utc_now() if now is None else now
    _time(sealed_at)
    body[SEAL] = {"sealed_at": sealed_at, "version": __version__, "code": code_hash()}
    body[SEAL]["sha256"] = _hash(body)
    write_json(path, body)
    return body


def check_seal(payload: Mapping[str, Any]) -> None:
    """Raises CorruptArtifact if there is no seal or anything was edited since."""
    found = payload.get(SEAL) if isinstance(payload, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(found.get("sha256"), str):
        raise CorruptArtifact("this forecast has no seal; make it again with forescale.")
    if _hash(payload) != found["sha256"]:
        raise CorruptArtifact("this forecast was edited after it was sealed (its hash does not match); make it again.")


def _time(text: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise UserError(f"{text!r} is not a time in ISO 8601.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
