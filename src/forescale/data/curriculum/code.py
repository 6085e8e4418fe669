"""The `functions` family: write the body of a Python function, judged by running its unit tests.

The expected values in the tests come from a reference in this file that shares no text with the canonical body, so that
running the canonical answers against their tests checks both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from forescale.data.curriculum.base import Draft, Family, Templates, made_up_word

Arguments = tuple[object, ...]


def _draft(
    kind: str,
    constants: tuple[object, ...],
    body: str,
    reference: Callable[..., object],
    inputs: Sequence[Arguments],
    fields: dict[str, object],
    name: str,
) -> Draft:
    """`inputs` must not all give the same value, or a constant body would pass."""
    unique = list(dict.fromkeys(map(repr, inputs)))
    cases = [next(case for case in inputs if repr(case) == text) for text in unique]
    lines = [f"assert {name}({', '.join(map(repr, case))}) == {reference(*case)!r}\n" for case in cases]
    return Draft(kind, (kind, *constants), body, {"name": name, **fields}, "".join(lines))


# --- difficulty 1: one operation with one constant


def _one_operation(rng: Random) -> Draft:
    kind, x, c = rng.choice(("add", "subtract", "times")), rng.choice("xn"), rng.randint(1, 99)
    sign, reference = {
        "add": ("+", lambda v: v + c),
        "subtract": ("-", lambda v: v - c),
        "times": ("*", lambda v: v * c),
    }[kind]
    inputs = [(0,), (1,), (rng.randint(2, 50),), (c,), (-3,)]
    return _draft(kind, (c,), f" {x} {sign} {c}\n", reference, inputs, {"x": x, "c": c}, f"{kind}_{c}")


# --- difficulty 2: two operations, or a question about one number


def _two_operations(rng: Random) -> Draft:
    kind, x = rng.choice(("affine", "above", "multiple")), rng.choice("xn")
    c, d = rng.randint(2, 40), rng.randint(1, 20)
    fields: dict[str, object] = {"x": x, "c": c, "d": d}
    if kind == "affine":
        inputs: list[Arguments] = [(0,), (1,), (5,), (c,), (-d,)]
        return _draft(kind, (c, d), f" {x} * {c} + {d}\n", lambda v: c * v + d, inputs, fields, "f")
    if kind == "above":
        c = fields["c"] = rng.randint(2, 99)
        inputs = [(c - 1,), (c,), (c + 1,), (0,), (3 * c,)]
        return _draft(kind, (c,), f" {x} > {c}\n", lambda v: not v <= c, inputs, fields, "f")
    inputs = [(c,), (c + 1,), (3 * c,), (3 * c - 1,), (0,), (1,)]
    return _draft(kind, (c,), f" {x} % {c} == 0\n", lambda v: v // c * c == v, inputs, fields, "f")


# --- difficulty 3: two arguments, strings, lists


def _numbers(rng: Random, count: int) -> list[int]:
    return rng.sample(range(1, 60), count)


def _other_types(rng: Random) -> Draft:
    kind = rng.choice(("pair", "suffix", "repeat", "item", "slice", "total"))
    c, d, i, length = rng.randint(2, 9), rng.randint(1, 60), rng.randint(0, 5), rng.randint(2, 6)
    word = made_up_word(rng, rng.randint(2, 3))
    fields: dict[str, object] = {"c": c, "d": d, "i": i, "j": i + length, "word": word}
    two: list[Arguments] = [(0, 1), (1, 0), (7, 3), (rng.randint(2, 50), 5)]
    text: list[Arguments] = [("",), ("a",), ("to be",)]
    rows: list[Arguments] = [(_numbers(rng, 8 + extra),) for extra in range(3)]
    if kind == "pair":
        return _draft(kind, (c, d), f" a * {c} + b + {d}\n", lambda a, b: b + d + c * a, two, fields, "f")
    if kind == "suffix":
        return _draft(kind, (word,), f' s + "{word}"\n', lambda s: f"{s}{word}", text, fields, "f")
    if kind == "repeat":
        return _draft(kind, (c, word), f' s * {c} + "{word}"\n', lambda s: "".join([s] * c) + word, text, fields, "f")
    if kind == "item":
        return _draft(kind, (i, d), f" xs[{i}] + {d}\n", lambda xs: d + list(xs).pop(i), rows, fields, "f")
    if kind == "slice":
        body = f" xs[{i}:{i + length}]\n"
        rows.append((list(range(20, 40)),))
        reference = lambda xs: [v for at, v in enumerate(xs) if i <= at < i + length]  # noqa: E731
        return _draft(kind, (i, i + length), body, reference, rows, fields, "f")
    # `total`: the empty list tells a sum from a first item.
    return _draft(kind, (d,), f" sum(xs) + {d}\n", lambda xs: sum([d, *xs]), [([],), *rows[:2]], fields, "f")


# --- difficulty 4: conditions


def _conditions(rng: Random) -> Draft:
    kind = rng.choice(("choose", "cap", "floor", "filter"))
    c, a, b = rng.randint(2, 99), made_up_word(rng, 2), made_up_word(rng, 3)
    fields: dict[str, object] = {"c": c, "a": a, "b": b}
    near: list[Arguments] = [(c - 1,), (c,), (c + 1,), (0,), (c + 30,)]
    if kind == "choose":
        body = f'    if x > {c}:\n        return "{a}"\n    return "{b}"\n'
        return _draft(kind, (c, a, b), body, lambda x: b if x <= c else a, near, fields, "f")
    if kind == "cap":
        body = f"    if x > {c}:\n        return {c}\n    return x\n"
        return _draft(kind, (c,), body, lambda x: min(c, x), near, fields, "f")
    if kind == "floor":
        body = f"    if x < {c}:\n        return {c}\n    return x\n"
        return _draft(kind, (c,), body, lambda x: max(c, x), near, fields, "f")
    rows: list[Arguments] = [([],), ([c, c + 1, c - 1, c + 5],), (_numbers(rng, 6),)]
    body = f"    return [x for x in xs if x > {c}]\n"
    return _draft(kind, (c,), body, lambda xs: list(filter(c.__lt__, xs)), rows, fields, "f")


# --- difficulty 5: loops


def _loops(rng: Random) -> Draft:
    kind = rng.choice(("sum_above", "count_multiples", "sum_to", "first_above"))
    c, d = rng.randint(2, 40), rng.randint(1, 20)
    fields: dict[str, object] = {"c": c, "d": d}
    rows: list[Arguments] = [([],), ([c, c + 1, c - 1, 3 * c, 3 * c],), (_numbers(rng, 6),)]
    if kind == "sum_above":
        body = f"    total = {d}\n    for x in xs:\n        if x > {c}:\n            total += x\n    return total\n"
        return _draft(kind, (c, d), body, lambda xs: sum(v for v in xs if v > c) + d, rows, fields, "f")
    if kind == "count_multiples":
        loop = f"    for x in xs:\n        if x % {c} == 0:\n            count += 1\n"
        body = f"    count = {d}\n{loop}    return count\n"
        return _draft(kind, (c, d), body, lambda xs: d + [v % c for v in xs].count(0), rows, fields, "f")
    if kind == "sum_to":
        body = f"    total = {d}\n    for x in range(n):\n        total += {c} * x\n    return total\n"
        counts: list[Arguments] = [(0,), (1,), (2,), (3,), (10,)]
        return _draft(kind, (c, d), body, lambda n: c * (n * (n - 1) // 2) + d, counts, fields, "f")
    body = f"    for x in xs:\n        if x > {c}:\n            return x\n    return {d}\n"
    return _draft(kind, (c, d), body, lambda xs: next((v for v in xs if v > c), d), rows, fields, "f")


_LEVELS = {1: _one_operation, 2: _two_operations, 3: _other_types, 4: _conditions, 5: _loops}


def _draw(rng: Random, difficulty: int) -> Draft:
    return _LEVELS[difficulty](rng)


def _phrased(arguments: str, train: tuple[str, ...], held_out: tuple[str, ...], block: bool = False) -> Templates:
    """Templates from docstrings. With `block` the answer is the whole body, else what follows `return`."""
    end = "" if block else "    return"

    def prompts(phrases: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f'def {{name}}({arguments}):\n    """{phrase}"""\n{end}' for phrase in phrases)

    return Templates(prompts(train), prompts(held_out))


_TEMPLATES = {
    "add": _phrased(
        "{x}", ("Return {x} plus {c}.", "Add {c} to {x}."), ("Give {x} plus {c}.", "Return {c} added to {x}.")
    ),
    "subtract": _phrased(
        "{x}", ("Return {x} minus {c}.", "Subtract {c} from {x}."), ("Give {x} minus {c}.", "Return {c} less than {x}.")
    ),
    "times": _phrased(
        "{x}", ("Return {x} times {c}.", "Multiply {x} by {c}."), ("Give {x} times {c}.", "Return {x} * {c}.")
    ),
    "affine": _phrased(
        "{x}", ("Return {x} times {c} plus {d}.", "Multiply {x} by {c}, add {d}."), ("Give {x} times {c} plus {d}.",)
    ),
    "above": _phrased(
        "{x}", ("Return whether {x} is above {c}.", "Is {x} above {c}?"), ("Tell whether {x} is above {c}.",)
    ),
    "multiple": _phrased(
        "{x}",
        ("Return whether {x} is a multiple of {c}.", "Is {x} a multiple of {c}?"),
        ("Tell whether {x} is a multiple of {c}.",),
    ),
    "pair": _phrased("a, b", ("Return a times {c} plus b plus {d}.",), ("Give a times {c} plus b plus {d}.",)),
    "suffix": _phrased("s", ("Return s followed by {word}.", "Add {word} to s."), ("Give s followed by {word}.",)),
    "repeat": _phrased(
        "s",
        ("Return s {c} times, then {word}.", "Repeat s {c} times, add {word}."),
        ("Give s {c} times, then {word}.",),
    ),
    "item": _phrased(
        "xs", ("Return item {i} of xs plus {d}.", "Add {d} to item {i} of xs."), ("Give item {i} of xs plus {d}.",)
    ),
    "slice": _phrased(
        "xs", ("Return items {i} to {j} of xs.", "Slice xs from {i} to {j}."), ("Give items {i} to {j} of xs.",)
    ),
    "total": _phrased(
        "xs", ("Return the sum of xs plus {d}.", "Sum xs and add {d}."), ("Give the sum of xs plus {d}.",)
    ),
    "choose": _phrased(
        "x", ("Return {a} if x is above {c}, else {b}.",), ("Give {a} if x is above {c}, else {b}.",), block=True
    ),
    "cap": _phrased("x", ("Return x, at most {c}.",), ("Give x, at most {c}.",), block=True),
    "floor": _phrased("x", ("Return x, at least {c}.",), ("Give x, at least {c}.",), block=True),
    "filter": _phrased("xs", ("Return the items of xs above {c}.",), ("Give the items of xs above {c}.",), block=True),
    "sum_above": _phrased(
        "xs",
        ("Return {d} plus the sum of the items of xs above {c}.",),
        ("Give {d} plus the sum of the items of xs above {c}.",),
        block=True,
    ),
    "count_multiples": _phrased(
        "xs",
        ("Return {d} plus the count of multiples of {c} in xs.",),
        ("Give {d} plus the count of multiples of {c} in xs.",),
        block=True,
    ),
    "sum_to": _phrased(
        "n",
        ("Return {d} plus the sum of {c} * x for x below n.",),
        ("Give {d} plus the sum of {c} * x for x below n.",),
        block=True,
    ),
    "first_above": _phrased(
        "xs",
        ("Return the first item of xs above {c}, else {d}.",),
        ("Give the first item of xs above {c}, else {d}.",),
        block=True,
    ),
}

FUNCTIONS = Family(
    "functions",
    "text",
    "Write the body of a Python function from its docstring: one expression, strings and lists, conditions, loops.",
    _draw,
    _TEMPLATES,
)

FAMILIES = (FUNCTIONS,)
