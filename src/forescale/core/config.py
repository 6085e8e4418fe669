"""Frozen dataclasses to and from plain JSON, with hashes that are the same on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any


def to_json(value: Any) -> Any:
    """Plain JSON for a dataclass, a container of them, or a scalar."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"not JSON: {type(value).__name__}")


def canonical(value: Any) -> str:
    """JSON text with sorted keys and no white space: equal values give equal text."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """SHA-256 (hex) of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
