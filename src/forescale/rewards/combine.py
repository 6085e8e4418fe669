"""Rewards put together: each part by its name, so that what taught a policy can be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from forescale.core.documents import Answered


class Reward(Protocol):
    """From answers to the named parts of each one's reward, None where it cannot be had: such an answer teaches nothing."""

    def __call__(self, cases: Sequence[Answered]) -> Sequence[Mapping[str, float] | None]: ...


class Scorer(Protocol):
    """One part of a reward."""

    def __call__(self, cases: Sequence[Answered]) -> Sequence[float | None]: ...


class Sum:
    """Named parts whose sum is the reward. An answer that one part cannot score has none."""

    def __init__(self, parts: Mapping[str, Scorer]) -> None:
        self.parts = parts

    def __call__(self, cases: Sequence[Answered]) -> list[Mapping[str, float] | None]:
        columns = {name: scorer(cases) for name, scorer in self.parts.items()}
        rows: list[Mapping[str, float] | None] = []
        for index in range(len(cases)):
            row = {name: column[index] for name, column in columns.items()}
            rows.append(None if any(v is None for v in row.values()) else row)  # type: ignore[arg-type]
        return rows
