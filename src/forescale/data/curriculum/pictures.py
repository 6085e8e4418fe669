"""The picture families: counting shapes, naming colours and shapes, reading drawn text, two panels, bar charts.

Shapes stand in the cells of a grid, one a cell, so they never overlap. Values decide what is in a picture; where it
stands and how large it is comes from the painter's own generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import cast

import numpy as np

from forescale.data.curriculum.base import IMAGE, Draft, Family, Templates
from forescale.data.curriculum.drawing import (
    COLORS,
    DARK,
    SHAPES,
    WHITE,
    canvas,
    draw_shape,
    draw_text,
    text_size,
)

_COLOR_NAMES = tuple(COLORS)
Object = tuple[str, str]  # shape, colour


def _scatter(picture: np.ndarray, objects: Sequence[Object], rng: Random) -> None:
    """Draws each object in its own cell of the smallest grid that holds them all, a pixel or more from the others."""
    height, width, _ = picture.shape
    rows, columns = next((r, c) for r, c in _grids(height, width) if r * c >= len(objects))
    cell_height, cell_width = height // rows, width // columns
    largest = min(cell_height - 1, cell_width - 1, 26 * min(height, width) // 48)
    for (shape, color), cell in zip(objects, rng.sample(range(rows * columns), len(objects))):
        size = rng.randint(min(largest, max(8, largest * 3 // 4)), largest)
        top = cell // columns * cell_height + rng.randint(0, cell_height - size - 1)
        left = cell % columns * cell_width + rng.randint(0, cell_width - size - 1)
        draw_shape(picture, shape, size, top, left, COLORS[color])


def _grids(height: int, width: int) -> tuple[tuple[int, int], ...]:
    if height == width:
        return (1, 1), (2, 2), (3, 3)
    return ((1, 1), (2, 1), (3, 1), (3, 2)) if height > width else ((1, 1), (1, 2), (1, 3), (2, 3))


def _instruction(*questions: str, test: Sequence[str]) -> Templates:
    """Picture first, then each question; `test` questions are the test split's alone."""
    train = tuple(f"{IMAGE}{question} Answer: " for question in questions)
    return Templates(train, tuple(f"{IMAGE}{question} Answer: " for question in test))


# --- shape_count

_COUNTED = ("circle", "square", "triangle")
_CountValues = tuple[str, str, int, tuple[tuple[str, str, int], ...], int]


def _draw_count(rng: Random, difficulty: int) -> Draft:
    """Values: (counted shape, its colour, how many, ((other shape, colour, how many), ...), background)."""
    shape, color = rng.choice(_COUNTED), rng.choice(_COLOR_NAMES)
    count = rng.randint(1, 3 if difficulty == 1 else 5)
    others: list[tuple[str, str, int]] = []
    if difficulty in (3, 4, 5):
        other = rng.choice([s for s in _COUNTED if s != shape])
        other_color = color if difficulty == 3 else rng.choice(_COLOR_NAMES)
        others.append((other, other_color, rng.randint(1, 2 if difficulty == 3 else 3)))
    kind = "color" if difficulty == 5 else "plain"
    if difficulty == 5:
        others.append((shape, rng.choice([c for c in _COLOR_NAMES if c != color]), 1))
    values = (shape, color, count, tuple(others), rng.randrange(len(DARK)))
    return Draft(kind, values, str(count), {"shape": shape, "color": color})


def _paint_count(draft: Draft, n_images: int, rng: Random, size: int) -> tuple[np.ndarray, ...]:
    shape, color, count, others, background = cast(_CountValues, draft.values)
    picture = canvas(size, size, DARK[background])
    objects = [(shape, color)] * count
    for other, other_color, other_count in others:
        objects += [(other, other_color)] * other_count
    _scatter(picture, objects, rng)
    return (picture,)


SHAPE_COUNT = Family(
    "shape_count",
    "vision",
    "Count the circles, squares or triangles (one to five) among other shapes, or only those of one colour.",
    _draw_count,
    {
        "plain": _instruction(
            "How many {shape}s?", "Count the {shape}s.", test=("How many {shape}s are there?", "Count {shape}s.")
        ),
        "color": _instruction(
            "How many {color} {shape}s?",
            "Count the {color} {shape}s.",
            test=("How many {color} {shape}s are there?", "Count {color} {shape}s."),
        ),
    },
    _paint_count,
)

# --- shape_color


def _draw_color(rng: Random, difficulty: int) -> Draft:
    """Values: (((shape, colour), ...) sorted, background)."""
    count = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4}[difficulty]
    shapes, colors = rng.sample(SHAPES, count), rng.sample(_COLOR_NAMES, count)
    shape, color = shapes[0], colors[0]
    values = (tuple(sorted(zip(shapes, colors))), rng.randrange(len(DARK)))
    kind = {1: rng.choice(("color", "shape")), 2: "both"}.get(difficulty, rng.choice(("of", "which")))
    answer = {"color": color, "shape": shape, "both": f"{color} {shape}", "of": color, "which": shape}[kind]
    return Draft(kind, values, answer, {"shape": shape, "color": color})


def _paint_color(draft: Draft, n_images: int, rng: Random, size: int) -> tuple[np.ndarray, ...]:
    objects, background = cast(tuple[tuple[Object, ...], int], draft.values)
    picture = canvas(size, size, DARK[background])
    _scatter(picture, objects, rng)
    return (picture,)


SHAPE_COLOR = Family(
    "shape_color",
    "vision",
    "Name the colour or the shape of the one object, or of the one among several that the question points at.",
    _draw_color,
    {
        "color": _instruction("What color?", "Name the color.", test=("What color is it?",)),
        "shape": _instruction("What shape?", "Name the shape.", test=("What shape is it?",)),
        "both": _instruction("What is it?", "Name color and shape.", test=("What is this?",)),
        "of": _instruction(
            "What color is the {shape}?", "Color of the {shape}?", test=("What is the color of the {shape}?",)
        ),
        "which": _instruction(
            "What shape is {color}?", "Shape of the {color} one?", test=("What is the shape of the {color} one?",)
        ),
    },
    _paint_color,
)

# --- drawn_text

# Without O and I, which are drawn like 0 and 1; from three characters on without vowels, so that no words appear.
_READABLE = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
_NO_VOWELS = "BCDFGHJKLMNPQRSTVWXYZ0123456789"


def _draw_drawn_text(rng: Random, difficulty: int) -> Draft:
    """Values: the string, and for a single character, which would leave too few to learn from, its colours as well."""
    text = "".join(rng.choice(_READABLE if difficulty <= 2 else _NO_VOWELS) for _ in range(difficulty))
    color, background = rng.choice((*_COLOR_NAMES, "white")), rng.randrange(len(DARK))
    values: tuple[object, ...] = (text, color, background) if difficulty == 1 else (text,)
    return Draft("read", values, text, {"color": color, "background": background})


def _lines(text: str) -> tuple[str, ...]:
    return (text,) if len(text) <= 3 else (text[: (len(text) + 1) // 2], text[(len(text) + 1) // 2 :])


def _write(picture: np.ndarray, text: str, color: tuple[int, int, int], rng: Random) -> None:
    """Writes text, on two lines from four characters on, as large as fits or a step smaller, in a random place."""
    height, width, _ = picture.shape
    lines = _lines(text)
    longest = max(map(len, lines))
    fits = min((width - 2) // (6 * longest - 1), (height - 2) // (8 * len(lines) - 1))
    scale = rng.randint(max(min(2, fits), fits - 1), fits)
    line_height, line_width = text_size(longest, scale)
    total = line_height * len(lines) + scale * (len(lines) - 1)
    top, left = rng.randint(1, height - total - 1), rng.randint(1, width - line_width - 1)
    for i, line in enumerate(lines):
        draw_text(picture, line, scale, top + i * (line_height + scale), left, color)


def _paint_drawn_text(draft: Draft, n_images: int, rng: Random, size: int) -> tuple[np.ndarray, ...]:
    picture = canvas(size, size, DARK[cast(int, draft.fields["background"])])
    color = cast(str, draft.fields["color"])
    _write(picture, draft.answer, WHITE if color == "white" else COLORS[color], rng)
    return (picture,)


DRAWN_TEXT = Family(
    "drawn_text",
    "vision",
    "Read one to five drawn letters and digits, on two lines from four on.",
    _draw_drawn_text,
    {"read": _instruction("Read the text.", "What does it say?", test=("What is written?", "What does this say?"))},
    _paint_drawn_text,
)

# --- two_panel

_SIDES = (("left", "first"), ("right", "second"))


def _draw_panels(rng: Random, difficulty: int) -> Draft:
    """Values: the two panels, in order. A panel is ("objects", (shape, colour, number)) or ("text", string, colour)."""
    colors, shapes = rng.sample(_COLOR_NAMES, 2), rng.sample(SHAPES, 2)
    asked = rng.randrange(2)
    side, ordinal = _SIDES[asked]
    if difficulty in (1, 2):
        panels = tuple(("objects", (shape, color, 1)) for shape, color in zip(shapes, colors))
        kind = "color" if difficulty == 1 else "shape"
        answer = (colors if difficulty == 1 else shapes)[asked]
        return Draft(kind, panels, answer, {"side": side, "ordinal": ordinal})
    if difficulty == 4:
        texts = ["".join(rng.choice(_READABLE) for _ in range(2)) for _ in range(2)]
        written = tuple(("text", text, color) for text, color in zip(texts, colors))
        return Draft("text", written, texts[asked], {"side": side, "ordinal": ordinal})
    counts = rng.sample(range(1, 6), 2)
    counted = tuple(("objects", (shape, color, n)) for shape, color, n in zip(shapes, colors, counts))
    if difficulty == 3:
        return Draft("count", counted, str(counts[asked]), {"side": side, "ordinal": ordinal})
    return Draft("total", counted, str(sum(counts)), {})


def _paint_panel(picture: np.ndarray, panel: tuple[object, ...], rng: Random) -> None:
    if panel[0] == "text":
        _, text, color = cast(tuple[str, str, str], panel)
        _write(picture, text, COLORS[color], rng)
    else:
        shape, color, count = cast(tuple[str, str, int], panel[1])
        _scatter(picture, [(shape, color)] * count, rng)


def _paint_panels(draft: Draft, n_images: int, rng: Random, size: int) -> tuple[np.ndarray, ...]:
    """Two pictures, or one that a white line splits in two, as the template has it."""
    panels = cast(tuple[tuple[object, ...], ...], draft.values)
    colors = rng.sample(DARK, 2)
    if n_images == 2:
        pictures = tuple(canvas(size, size, color) for color in colors)
        for picture, panel in zip(pictures, panels):
            _paint_panel(picture, panel, rng)
        return pictures
    picture, half = canvas(size, size, WHITE), size // 2
    for area, panel, color in zip((picture[:, : half - 1], picture[:, half + 1 :]), panels, colors):
        area[:] = color
        _paint_panel(area, panel, rng)
    return (picture,)


def _panel_templates(about: str, held_out: str) -> Templates:
    """Each question about one split picture and about two pictures, `{{where}}` being the side or the ordinal."""

    def prompts(question: str) -> tuple[str, str]:
        one = f"{IMAGE}{question.replace('WHERE', '{side}')} Answer: "
        two = f"{IMAGE}{IMAGE}{question.replace('WHERE', '{ordinal}')} Answer: "
        return one, two

    return Templates(prompts(about), prompts(held_out))


TWO_PANEL = Family(
    "two_panel",
    "vision",
    "Answer a question about one panel of a split picture or one picture of two: colour, shape, count, text, total.",
    _draw_panels,
    {
        "color": _panel_templates("What color is the WHERE one?", "What color is in the WHERE one?"),
        "shape": _panel_templates("What shape is the WHERE one?", "What shape is in the WHERE one?"),
        "count": _panel_templates("How many in the WHERE one?", "How many are in the WHERE one?"),
        "text": _panel_templates("Read the WHERE one.", "Read the text of the WHERE one."),
        "total": _panel_templates("How many in total?", "How many are there in total?"),
    },
    _paint_panels,
)

# --- bar_chart

_TALLEST = 8


def _draw_bars(rng: Random, difficulty: int) -> Draft:
    """Values: ((colour, height), ...) sorted."""
    count = {1: 2, 2: 3, 3: 2, 4: 4, 5: 4}[difficulty]
    colors = rng.sample(_COLOR_NAMES, count)
    heights = rng.sample(range(1, _TALLEST + 1), count)
    values = tuple(sorted(zip(colors, heights)))
    bars = dict(zip(colors, heights))
    fields: dict[str, object] = {"color": colors[0], "bars": tuple(zip(colors, heights))}
    if difficulty <= 2:
        most = rng.choice(("tallest", "shortest"))
        pick = max if most == "tallest" else min
        return Draft("extreme", values, pick(bars, key=lambda name: bars[name]), {**fields, "most": most})
    if difficulty == 5:
        fields["other"] = colors[1]
        return Draft("sum", values, str(heights[0] + heights[1]), fields)
    return Draft("height", values, str(heights[0]), fields)


def _paint_bars(draft: Draft, n_images: int, rng: Random, size: int) -> tuple[np.ndarray, ...]:
    """Bars over a line a unit, so that heights can be counted."""
    bars = list(cast(tuple[tuple[str, int], ...], draft.fields["bars"]))
    rng.shuffle(bars)
    background = rng.choice(DARK)
    picture = canvas(size, size, background)
    unit = (size - 4) // _TALLEST
    base = size - 2
    line = tuple(channel + 50 for channel in background)
    picture[[base - unit * i for i in range(_TALLEST + 1)]] = line
    picture[base] = WHITE
    slot = size // len(bars)
    width = min(slot - 2, rng.randint(8, 12) * size // 48)
    for i, (color, height) in enumerate(bars):
        left = i * slot + rng.randint(1, slot - width - 1)
        picture[base - unit * height : base, left : left + width] = COLORS[color]
    return (picture,)


BAR_CHART = Family(
    "bar_chart",
    "vision",
    "Name the tallest or shortest bar of a chart, read a bar's height off the lines, or add two heights.",
    _draw_bars,
    {
        "extreme": _instruction(
            "Which bar is {most}?", "Color of the {most} bar?", test=("What color is the {most} bar?",)
        ),
        "height": _instruction(
            "How tall is the {color} bar?", "Height of the {color} bar?", test=("How high is the {color} bar?",)
        ),
        "sum": _instruction(
            "Height of {color} plus {other}?",
            "{color} bar plus {other} bar?",
            test=("How tall are {color} and {other} together?",),
        ),
    },
    _paint_bars,
)

FAMILIES = (SHAPE_COUNT, SHAPE_COLOR, DRAWN_TEXT, TWO_PANEL, BAR_CHART)
