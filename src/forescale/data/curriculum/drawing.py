"""Drawing in pure numpy and whole numbers, so that a picture is the same, byte for byte, on every machine.

Coverage masks count how many of a pixel's 4 x 4 sample points lie inside the shape (0 to 16); they are made once per
shape and size and blended into the picture.
"""

from __future__ import annotations

import functools

import numpy as np

Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
    "red": (225, 35, 45),
    "orange": (250, 135, 15),
    "yellow": (255, 225, 50),
    "green": (35, 175, 70),
    "cyan": (70, 215, 225),
    "blue": (65, 105, 250),
    "purple": (165, 65, 205),
    "pink": (255, 150, 195),
}
DARK: tuple[Color, ...] = (
    (16, 18, 26), (44, 44, 52), (14, 34, 44), (42, 24, 30), (0, 0, 0), (24, 42, 28), (34, 22, 48), (48, 38, 20),
)  # fmt: skip
WHITE: Color = (250, 250, 250)
SHAPES = ("circle", "square", "triangle", "diamond", "cross")

_SAMPLES = 4


def canvas(height: int, width: int, color: Color) -> np.ndarray:
    """A picture of one colour, uint8 `(height, width, 3)`."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = color
    return picture


@functools.lru_cache(maxsize=512)
def mask(shape: str, size: int) -> np.ndarray:
    """Coverage 0..16 of a shape that fills `(size, size)`, as uint16 `(size, size, 1)`."""
    side = size * _SAMPLES
    # Odd coordinates in units of half a sample, from the centre: exact, no halves.
    at = 2 * np.arange(side) + 1 - side
    y, x = at[:, None], at[None, :]
    if shape == "circle":
        inside = x * x + y * y <= side * side
    elif shape == "square":
        inside = np.maximum(abs(x), abs(y)) * 10 <= side * 9
    elif shape == "triangle":
        inside = 2 * abs(x) <= y + side
    elif shape == "diamond":
        inside = abs(x) + abs(y) <= side
    elif shape == "cross":
        inside = (np.minimum(abs(x), abs(y)) * 3 <= side) & (x == x)
    else:
        raise AssertionError(shape)
    counts = inside.reshape(size, _SAMPLES, size, _SAMPLES).sum(axis=(1, 3))
    return counts.astype(np.uint16)[:, :, None]


@functools.lru_cache(maxsize=1024)
def glyph(character: str, scale: int) -> np.ndarray:
    """Coverage 0 or 16 of a character, as uint16 `(7 * scale, 5 * scale, 1)`."""
    rows = FONT[character]
    bits = np.array([[16 * (cell == "#") for cell in row] for row in rows], np.uint16)
    return bits.repeat(scale, axis=0).repeat(scale, axis=1)[:, :, None]


@functools.lru_cache(maxsize=4096)
def _weighted(coverage_key: tuple[str, int, bool], color: Color) -> tuple[np.ndarray, np.ndarray]:
    name, size, is_glyph = coverage_key
    coverage = glyph(name, size) if is_glyph else mask(name, size)
    return coverage * np.array(color, np.uint16), 16 - coverage


def _blend(picture: np.ndarray, key: tuple[str, int, bool], top: int, left: int, color: Color) -> None:
    ink, rest = _weighted(key, color)
    area = picture[top : top + ink.shape[0], left : left + ink.shape[1]]
    area[:] = (area * rest + ink) >> 4


def draw_shape(picture: np.ndarray, shape: str, size: int, top: int, left: int, color: Color) -> None:
    """Draws a shape into the square of `size` pixels whose corner is at (`top`, `left`). Changes `picture`."""
    _blend(picture, (shape, size, False), top, left, color)


def draw_text(picture: np.ndarray, text: str, scale: int, top: int, left: int, color: Color) -> None:
    """Draws characters of A-Z and 0-9, each 5 x 7 cells of `scale` pixels, a cell apart. Changes `picture`."""
    for i, character in enumerate(text):
        _blend(picture, (character, scale, True), top, left + 6 * scale * i, color)


def text_size(characters: int, scale: int) -> tuple[int, int]:
    """(height, width) in pixels of a line of text."""
    return 7 * scale, (6 * characters - 1) * scale


_DRAWN = """
A .###. #...# #...# ##### #...# #...# #...#
B ####. #...# #...# ####. #...# #...# ####.
C .#### #.... #.... #.... #.... #.... .####
D ####. #...# #...# #...# #...# #...# ####.
E ##### #.... #.... ####. #.... #.... #####
F ##### #.... #.... ####. #.... #.... #....
G .#### #.... #.... #..## #...# #...# .####
H #...# #...# #...# ##### #...# #...# #...#
I ##### ..#.. ..#.. ..#.. ..#.. ..#.. #####
J ..### ...#. ...#. ...#. ...#. #..#. .##..
K #...# #..#. #.#.. ##... #.#.. #..#. #...#
L #.... #.... #.... #.... #.... #.... #####
M #...# ##.## #.#.# #.#.# #...# #...# #...#
N #...# ##..# ##..# #.#.# #..## #..## #...#
O .###. #...# #...# #...# #...# #...# .###.
P ####. #...# #...# ####. #.... #.... #....
Q .###. #...# #...# #...# #.#.# #..#. .##.#
R ####. #...# #...# ####. #.#.. #..#. #...#
S .#### #.... #.... .###. ....# ....# ####.
T ##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..
U #...# #...# #...# #...# #...# #...# .###.
V #...# #...# #...# #...# .#.#. .#.#. ..#..
W #...# #...# #...# #.#.# #.#.# ##.## #...#
X #...# #...# .#.#. ..#.. .#.#. #...# #...#
Y #...# #...# .#.#. ..#.. ..#.. ..#.. ..#..
Z ##### ....# ...#. ..#.. .#... #.... #####
0 .###. #..## #..## #.#.# ##..# ##..# .###.
1 ..#.. .##.. #.#.. ..#.. ..#.. ..#.. #####
2 .###. #...# ....# ..##. .#... #.... #####
3 ####. ....# ....# .###. ....# ....# ####.
4 ...#. ..##. .#.#. #..#. ##### ...#. ...#.
5 ##### #.... ####. ....# ....# #...# .###.
6 ..##. .#... #.... ####. #...# #...# .###.
7 ##### ....# ...#. ...#. ..#.. ..#.. ..#..
8 .###. #...# #...# .###. #...# #...# .###.
9 .###. #...# #...# .#### ....# ...#. .##..
"""

FONT: dict[str, tuple[str, ...]] = {line[0]: tuple(line.split()[1:]) for line in _DRAWN.strip().splitlines()}
