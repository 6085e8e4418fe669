"""The text families: arithmetic, comparison, strings, lists, recall, sequences, units and dates, logic.

Difficulty 1 is meant for a model of 20 thousand parameters, difficulty 5 for one that the ladder does not reach.
"""

from __future__ import annotations

from random import Random

from forescale.data.curriculum.base import Draft, Family, Templates, made_up_word

# --- addition and subtraction

_ADDITION_RANGE = {1: (1, 20, 1, 9), 2: (1, 50, 1, 50), 3: (10, 99, 10, 99), 4: (100, 999, 100, 999)}


def _draw_addition(rng: Random, difficulty: int) -> Draft:
    if difficulty == 5:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        c = rng.randint(1, a + b)
        low, high = sorted((a, b))
        return Draft("three", (low, high, c), str(a + b - c), {"a": a, "b": b, "c": c})
    low_a, high_a, low_b, high_b = _ADDITION_RANGE[difficulty]
    a, b = rng.randint(low_a, high_a), rng.randint(low_b, high_b)
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            a, b = b, a
        return Draft("add", ("+", min(a, b), max(a, b)), str(a + b), {"a": a, "b": b})
    a, b = max(a, b), min(a, b)
    return Draft("subtract", ("-", a, b), str(a - b), {"a": a, "b": b})


ADDITION = Family(
    "addition",
    "text",
    "Add or subtract two whole numbers, from single digits to three digits, then three numbers.",
    _draw_addition,
    {
        "add": Templates(
            ("Q: {a}+{b}\nA: ", "{a} + {b} = ", "What is {a} plus {b}? "),
            ("Q: {a} + {b}\nA: ", "{a}+{b} = ", "Q: What is {a} plus {b}?\nA: "),
        ),
        "subtract": Templates(
            ("Q: {a}-{b}\nA: ", "{a} - {b} = ", "What is {a} minus {b}? "),
            ("Q: {a} - {b}\nA: ", "{a}-{b} = ", "Q: What is {a} minus {b}?\nA: "),
        ),
        "three": Templates(
            ("Q: {a}+{b}-{c}\nA: ", "{a} + {b} - {c} = ", "What is {a} plus {b} minus {c}? "),
            ("Q: {a} + {b} - {c}\nA: ", "{a}+{b}-{c} = "),
        ),
    },
)

# --- multiplication

_PRODUCT_RANGE = {2: (2, 12, 2, 12), 3: (11, 30, 2, 9), 4: (11, 40, 11, 40), 5: (100, 999, 3, 19)}


def _draw_multiplication(rng: Random, difficulty: int) -> Draft:
    if difficulty == 1:
        a, b = rng.randint(1, 60), rng.choice((1, 2, 10))
    else:
        low_a, high_a, low_b, high_b = _PRODUCT_RANGE[difficulty]
        a, b = rng.randint(low_a, high_a), rng.randint(low_b, high_b)
    if rng.random() < 0.5:
        a, b = b, a
    return Draft("multiply", (min(a, b), max(a, b)), str(a * b), {"a": a, "b": b})


MULTIPLICATION = Family(
    "multiplication",
    "text",
    "Multiply two whole numbers, from doubling and tens to three digits by two.",
    _draw_multiplication,
    {
        "multiply": Templates(
            ("Q: {a}*{b}\nA: ", "{a} * {b} = ", "What is {a} times {b}? "),
            ("Q: {a} * {b}\nA: ", "{a}*{b} = ", "Q: What is {a} times {b}?\nA: "),
        )
    },
)

# --- comparison


def _draw_comparison(rng: Random, difficulty: int) -> Draft:
    count = {1: 2, 2: 3, 3: 5, 4: 3, 5: 6}[difficulty]
    numbers = rng.sample(range(1, 100), count)
    values = (count, *sorted(numbers))
    spaced = " ".join(map(str, numbers))
    if difficulty >= 4:
        return Draft("sort", values, " ".join(map(str, sorted(numbers))), {"numbers": spaced})
    largest = rng.random() < 0.5
    answer = str(max(numbers) if largest else min(numbers))
    fields = {"numbers": spaced, "most": "largest" if largest else "smallest"}
    if difficulty == 1:
        fields |= {"a": str(numbers[0]), "b": str(numbers[1]), "more": "larger" if largest else "smaller"}
        return Draft("two", values, answer, fields)
    return Draft("extreme", values, answer, fields)


COMPARISON = Family(
    "comparison",
    "text",
    "Pick the larger or smaller of two numbers, the largest or smallest of several, or sort them.",
    _draw_comparison,
    {
        "two": Templates(
            ("Which is {more}, {a} or {b}? ", "Q: {more} of {a} and {b}\nA: "),
            ("Q: Which is {more}, {a} or {b}?\nA: ", "{more} of {a} and {b}: "),
        ),
        "extreme": Templates(
            ("{most} of {numbers}: ", "Q: {most} of {numbers}\nA: ", "What is the {most} of {numbers}? "),
            ("{most} in {numbers}: ", "Q: What is the {most} of {numbers}?\nA: "),
        ),
        "sort": Templates(
            ("Sort {numbers}: ", "Q: sort {numbers}\nA: "),
            ("sort {numbers}: ", "Q: Sort {numbers}.\nA: "),
        ),
    },
)

# --- strings

_STRING_TASKS = {
    1: (("first", (3, 4)), ("last", (3, 4))),
    2: (("last", (5, 6)), ("upper", (4, 5))),
    3: (("spell", (4, 5)), ("count", (5, 6))),
    4: (("reverse", (3, 4)), ("count", (7, 8))),
    5: (("reverse", (6, 8)), ("alphabet", (5, 6))),
}


def _draw_strings(rng: Random, difficulty: int) -> Draft:
    kind, (short, long) = rng.choice(_STRING_TASKS[difficulty])
    word = made_up_word(rng, rng.randint(short, long))
    letter = rng.choice(word)
    answer = {
        "first": word[0],
        "last": word[-1],
        "upper": word.upper(),
        "spell": "-".join(word),
        "count": str(word.count(letter)),
        "reverse": word[::-1],
        "alphabet": "".join(sorted(word)),
    }[kind]
    return Draft(kind, (word,), answer, {"word": word, "letter": letter})


STRINGS = Family(
    "strings",
    "text",
    "Work on a made-up word: first or last letter, upper case, spell it, count a letter, reverse it, sort its letters.",
    _draw_strings,
    {
        "first": Templates(
            ("First letter of {word}: ", "Q: first letter of {word}\nA: "),
            ("Q: First letter of {word}?\nA: ", "first letter of {word}: "),
        ),
        "last": Templates(
            ("Last letter of {word}: ", "Q: last letter of {word}\nA: "),
            ("Q: Last letter of {word}?\nA: ", "last letter of {word}: "),
        ),
        "upper": Templates(
            ("{word} in upper case: ", "Q: upper case of {word}\nA: "),
            ("Q: {word} in upper case\nA: ", "upper case of {word}: "),
        ),
        "spell": Templates(
            ("Spell {word}: ", "Q: spell {word}\nA: "),
            ("Q: Spell {word}.\nA: ", "spell {word}: "),
        ),
        "count": Templates(
            ("How many {letter} in {word}? ", "Q: count {letter} in {word}\nA: "),
            ("Q: How many {letter} in {word}?\nA: ", "count {letter} in {word}: "),
        ),
        "reverse": Templates(
            ("{word} reversed: ", "Q: reverse {word}\nA: "),
            ("Q: {word} reversed\nA: ", "reverse {word}: "),
        ),
        "alphabet": Templates(
            ("Letters of {word} in order: ", "Q: sort the letters of {word}\nA: "),
            ("Q: letters of {word} in order\nA: ", "sort the letters of {word}: "),
        ),
    },
)

# --- lists


def _draw_lists(rng: Random, difficulty: int) -> Draft:
    count = {1: 3, 2: 4, 3: 4, 4: 4, 5: 5}[difficulty]
    numbers = [rng.randint(0, 99 if difficulty < 5 else 30) for _ in range(count)]
    i, extra = rng.randrange(count), rng.randint(0, 99)
    j = rng.randint(i + 1, count)
    start, pair, triple = numbers[: i + 1], numbers[:2], numbers[:3]
    # (what is asked, its value, the list that is shown)
    options: dict[int, tuple[tuple[str, object, list[int]], ...]] = {
        1: ((f"{numbers}[0]", numbers[0], numbers), (f"{numbers}[-1]", numbers[-1], numbers)),
        2: ((f"{numbers}[{i}]", numbers[i], numbers), (f"len({start})", i + 1, start)),
        3: ((f"{numbers}[{i}:{j}]", numbers[i:j], numbers), (f"{numbers} + [{extra}]", [*numbers, extra], numbers)),
        4: ((f"{numbers}[::-1]", numbers[::-1], numbers), (f"sum({pair})", sum(pair), pair)),
        5: ((f"sorted({numbers})", sorted(numbers), numbers), (f"sum({triple})", sum(triple), triple)),
    }
    expression, value, shown = rng.choice(options[difficulty])
    return Draft("expression", tuple(sorted(shown)), repr(value), {"expression": expression})


LISTS = Family(
    "lists",
    "text",
    "Say what Python prints for an expression on a list: index, length, slice, append, reverse, sum, sort.",
    _draw_lists,
    {
        "expression": Templates(
            (">>> {expression}\n", "Q: {expression}\nA: ", "{expression} is "),
            ("Q: What is {expression}?\nA: ", ">>> print({expression})\n"),
        )
    },
)

# --- recall

_KEYS = (
    "red", "blue", "green", "pink", "gold", "cat", "dog", "cow", "fox", "bee", "sun", "moon", "tree", "leaf", "rain",
    "snow", "cup", "box", "hat", "key", "pen", "map", "car", "bus",
)  # fmt: skip


def _draw_recall(rng: Random, difficulty: int) -> Draft:
    count = {1: 2, 2: 3, 3: 4, 4: 6, 5: 8}[difficulty]
    pairs = [(key, rng.randint(1, 9 if difficulty <= 2 else 99)) for key in rng.sample(_KEYS, count)]
    key, value = rng.choice(pairs)
    fields = {
        "equal": " ".join(f"{k}={v}" for k, v in pairs),
        "colon": ", ".join(f"{k}: {v}" for k, v in pairs),
        "is": ", ".join(f"{k} is {v}" for k, v in pairs),
        "key": key,
    }
    return Draft("lookup", tuple(sorted(pairs)), str(value), fields)


RECALL = Family(
    "recall",
    "text",
    "Look up a value among two to eight pairs of a name and a number that stand in the prompt.",
    _draw_recall,
    {
        "lookup": Templates(
            ("{equal}. {key}=", "{is}. {key} is ", "{colon}. Q: {key}\nA: "),
            ("{equal}, {key}=", "{colon}. {key}: "),
        )
    },
)

# --- sequences


def _draw_sequence(rng: Random, difficulty: int) -> Draft:
    start = rng.randint(1, 200)
    values: tuple[int, ...]
    if difficulty == 1:
        kind, terms, values = "steps", [start + i for i in range(4)], (start, 1)
    elif difficulty == 2:
        step = rng.choice((2, 5, 10))
        kind, terms, values = "steps", [start + step * i for i in range(4)], (start, step)
    elif difficulty == 3:
        step = rng.choice((-9, -8, -7, -6, -4, -3, -2, -1, 3, 4, 6, 7, 8, 9))
        start += 40
        kind, terms, values = "steps", [start + step * i for i in range(5)], (start, step)
    elif difficulty == 4:
        step, growth = rng.randint(1, 9), rng.randint(1, 4)
        start = rng.randint(1, 30)
        terms = [start + step * i + growth * i * (i - 1) // 2 for i in range(5)]
        kind, values = "growing", (start, step, growth)
    else:
        terms = [rng.randint(1, 12), rng.randint(1, 12)]
        values = (terms[0], terms[1])
        while len(terms) < 6:
            terms.append(terms[-1] + terms[-2])
        kind = "sums"
    *shown, answer = terms
    fields = {"comma": ", ".join(map(str, shown)), "space": " ".join(map(str, shown))}
    return Draft("next", (kind, *values), str(answer), fields)


SEQUENCE = Family(
    "sequence",
    "text",
    "Continue a sequence of numbers: counting, equal steps, growing steps, sums of the last two.",
    _draw_sequence,
    {
        "next": Templates(
            ("{comma}, ", "Q: {space}\nA: ", "Next after {space}: "),
            ("{space} ", "Q: {comma}\nA: ", "Next after {comma}: "),
        )
    },
)

# --- units and dates

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    ("January", 31), ("February", 28), ("March", 31), ("April", 30), ("May", 31), ("June", 30), ("July", 31),
    ("August", 31), ("September", 30), ("October", 31), ("November", 30), ("December", 31),
)  # fmt: skip
_UNITS = (("m", "cm", 100), ("km", "m", 1000), ("cm", "mm", 10), ("kg", "g", 1000))


def _draw_units(rng: Random, difficulty: int) -> Draft:
    if difficulty == 1:
        n = rng.randint(1, 99)
        large, small, factor = rng.choice(_UNITS)
        return Draft("convert", (large, n), str(n * factor), {"n": n, "large": large, "small": small})
    if difficulty == 2:
        day, n = rng.randrange(7), rng.randint(1, 30)
        return Draft("weekday", (_DAYS[day], n), _DAYS[(day + n) % 7], {"day": _DAYS[day], "n": n})
    if difficulty == 3:
        n = rng.randint(61, 600)
        return Draft("hours", ("minutes", n), f"{n // 60} h {n % 60} min", {"n": n})
    if difficulty == 4:
        start, n = rng.randrange(0, 24 * 60), rng.randint(5, 90)
        end = (start + n) % (24 * 60)
        clock = f"{start // 60:02}:{start % 60:02}"
        return Draft("clock", (clock, n), f"{end // 60:02}:{end % 60:02}", {"clock": clock, "n": n})
    month, n = rng.randrange(12), rng.randint(2, 28)
    name, length = _MONTHS[month]
    day = rng.randint(1, length)
    later = day + n
    answer = f"{name} {later}" if later <= length else f"{_MONTHS[(month + 1) % 12][0]} {later - length}"
    return Draft("date", (name, day, n), answer, {"date": f"{name} {day}", "n": n})


UNITS = Family(
    "units",
    "text",
    "Convert units, add minutes to a clock time, add days to a weekday or to a date of a common year.",
    _draw_units,
    {
        "convert": Templates(
            ("{n} {large} in {small}: ", "Q: {n} {large} in {small}\nA: "),
            ("Q: {n} {large} in {small}?\nA: ", "{n} {large} to {small}: "),
        ),
        "weekday": Templates(
            ("{day} plus {n} days: ", "Q: {day} plus {n} days\nA: "),
            ("{day} + {n} days: ", "Q: {day} plus {n} days?\nA: "),
        ),
        "hours": Templates(
            ("{n} minutes in hours: ", "Q: {n} minutes in hours\nA: "),
            ("{n} min in hours: ", "Q: {n} minutes in hours?\nA: "),
        ),
        "clock": Templates(
            ("{clock} plus {n} minutes: ", "Q: {clock} plus {n} minutes\nA: "),
            ("{clock} + {n} minutes: ", "Q: {clock} plus {n} minutes?\nA: "),
        ),
        "date": Templates(
            ("{date} plus {n} days: ", "Q: {date} plus {n} days\nA: "),
            ("{date} + {n} days: ", "Q: {date} plus {n} days?\nA: "),
        ),
    },
)

# --- logic


def _comparison(rng: Random) -> tuple[str, bool, tuple[object, ...]]:
    a, b = rng.randint(1, 30), rng.randint(1, 30)
    sign = rng.choice("<>")
    return f"{a} {sign} {b}", a < b if sign == "<" else a > b, (a, sign, b)


def _draw_logic(rng: Random, difficulty: int) -> Draft:
    expression, truth, values = _comparison(rng)
    for _ in range({1: 0, 2: 0, 3: 1, 4: 1, 5: 2}[difficulty]):
        other, other_truth, other_values = _comparison(rng)
        word = rng.choice(("and", "or"))
        if difficulty >= 4:
            other, other_truth, other_values = f"not {other}", not other_truth, ("not", *other_values)
        if difficulty == 5:
            expression = f"({expression})" if " and " in expression or " or " in expression else expression
        expression = f"{expression} {word} {other}"
        truth = (truth and other_truth) if word == "and" else (truth or other_truth)
        values = (*values, word, *other_values)
    if difficulty == 2:
        expression, truth, values = f"not {expression}", not truth, ("not", *values)
    return Draft("truth", values, str(truth), {"expression": expression})


LOGIC = Family(
    "logic",
    "text",
    "Say whether a Python comparison, or several joined by not, and, or, is True or False.",
    _draw_logic,
    {
        "truth": Templates(
            (">>> {expression}\n", "Q: {expression}\nA: ", "{expression} is "),
            ("Q: Is {expression}?\nA: ", ">>> print({expression})\n"),
        )
    },
)

FAMILIES = (ADDITION, MULTIPLICATION, COMPARISON, STRINGS, LISTS, RECALL, SEQUENCE, UNITS, LOGIC)
