"""Progress for people: a live bar with the time left on a terminal, plain lines elsewhere. Machines read metrics.jsonl instead."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

PLAIN_EVERY_SECONDS = 15.0
SPEED_SECONDS = 300.0
"""The time left is judged by the last so many seconds: a compilation or a suspended machine before them is no measure."""


def duration(seconds: float) -> str:
    """12s, 3m05s, 2h07m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Meter:
    """Follows one stage: call `update(share, note)` as often as you like; it draws as often as is useful."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.seen: deque[tuple[float, float]] = deque()
        self.drawn = 0.0 if self.live else time.monotonic()

    def update(self, share: float, note: str = "") -> None:
        now = time.monotonic()
        # A second apart or more. A resumed stage starts above zero: what this process did itself counts.
        if not self.seen or now - self.seen[-1][0] >= 1:
            self.seen.append((now, share))
        while len(self.seen) > 2 and now - self.seen[1][0] > SPEED_SECONDS:
            self.seen.popleft()
        if now - self.drawn < (0.2 if self.live else PLAIN_EVERY_SECONDS):
            return
        self.drawn = now
        since, before = self.seen[0]
        done = share - before
        left = f", {duration((1 - share) * (now - since) / done)} left" if done > 0 and now - since >= 5 else ""
        line = f"  {self.title}: {share:4.0%}{left}{'  ' + note if note else ''}"
        if self.live:
            self.stream.write("\r\x1b[2K" + line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def clear(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()


@contextmanager
def meter(title: str) -> Iterator[Meter]:
    shown = Meter(title)
    try:
        yield shown
    finally:
        shown.clear()


def say(text: str) -> None:
    """A line for people, on standard error, so that standard output stays for results."""
    print(text, file=sys.stderr, flush=True)
