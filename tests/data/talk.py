"""Conversations to test with."""

from __future__ import annotations

import base64
import io
import itertools
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image as PIL

from forescale.data.conversations import Turn

SIZE = 8


def png(color: tuple[int, int, int] = (255, 0, 0), format: str = "PNG") -> bytes:
    data = io.BytesIO()
    PIL.new("RGB", (12, 12), color).save(data, format)
    return data.getvalue()


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
PICTURES = st.sampled_from([png(), png((1, 2, 3)), png((9, 9, 9), "BMP"), png((7, 7, 7), "GIF")])
# No two texts in a row: they would be read as one.
PARTS = st.lists(st.one_of(TEXTS, PICTURES), min_size=1, max_size=4).filter(
    lambda parts: not any(isinstance(a, str) and isinstance(b, str) for a, b in itertools.pairwise(parts))
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Turn, ...]:
    turns = [Turn("system", (draw(TEXTS),))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [Turn("user", tuple(draw(PARTS))), Turn("assistant", (draw(TEXTS),))]
    return (*turns, Turn("user", tuple(draw(PARTS))))
