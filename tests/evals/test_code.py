"""Programs as exams: problems from their packs, programs out of what models write, pass@k."""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import json
import zipfile
from pathlib import Path

import pytest

from forescale.core.errors import UserError
from forescale.data.fetch import Archive, PackUnavailable
from forescale.evals import code
from forescale.evals.code import (
    CodeProblem,
    check,
    cut,
    fenced_code,
    function_problems,
    is_complete,
    load_humaneval,
    pass_at_k,
    program,
    read_humaneval,
    score_code,
    write_rows,
)

ADD = CodeProblem("add", 'def add(x, y):\n    """Add."""\n', "add", "assert add(2, 3) == 5\n", "    return x + y\n")
TWICE = CodeProblem(
    "twice",
    "import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef twice(x):\n    return",
    "twice",
    "assert twice(3) == 6 and half(twice(3)) == 3\n",
    " 2 * x\n",
)
RIGHT, WRONG = "    return x + y\n", "    return x - y\n"


@pytest.fixture(scope="module")
def humaneval() -> tuple[CodeProblem, ...]:
    try:
        return load_humaneval()
    except PackUnavailable as error:
        pytest.skip(str(error))


def test_all_canonical_solutions_pass_and_all_empty_bodies_fail(humaneval: tuple[CodeProblem, ...]) -> None:
    assert [problem.id for problem in humaneval] == [f"HumanEval/{i}" for i in range(164)]
    verdicts = check(humaneval, [[problem.canonical, "    pass\n", ""] for problem in humaneval], unsafe=True)
    assert [i for i, (canonical, *_) in enumerate(verdicts) if not canonical.passed] == []
    assert [i for i, (_, *empty) in enumerate(verdicts) if any(verdict.passed for verdict in empty)] == []


def test_all_canonical_solutions_pass_as_a_chat_model_gives_them(humaneval: tuple[CodeProblem, ...]) -> None:
    whole = [f"Here:\n```python\n{p.prompt}{p.canonical}```\nIt adds numbers." for p in humaneval]
    bodies = [f"```\n{p.canonical}```" for p in humaneval]
    verdicts = check(humaneval, list(zip(whole, bodies)), chat=True, unsafe=True)
    assert [i for i, row in enumerate(verdicts) if not all(verdict.passed for verdict in row)] == []


def test_humaneval_is_read_from_its_member() -> None:
    row = {
        "task_id": "HumanEval/0",
        "prompt": ADD.prompt,
        "entry_point": "add",
        "canonical_solution": RIGHT,
        "test": "def check(candidate):\n    assert candidate(1, 1) == 2\n",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(code.MEMBER, gzip.compress((json.dumps(row) + "\n\n").encode()))
    (problem,) = read_humaneval(Archive(buffer.getvalue(), "x.whl"))
    assert (problem.id, problem.prompt, problem.entry_point, problem.canonical) == (
        "HumanEval/0",
        ADD.prompt,
        "add",
        RIGHT,
    )
    assert [v.status for v in check([problem], [[RIGHT, WRONG]], unsafe=True)[0]] == ["passed", "failed"]


def test_function_families_are_code_problems() -> None:
    problems = function_problems(30, seed=3)
    assert len({problem.id for problem in problems}) == 30
    empty = [" None\n" if problem.prompt.endswith("return") else "    pass\n" for problem in problems]
    verdicts = check(problems, [[problem.canonical, body] for problem, body in zip(problems, empty)], unsafe=True)
    assert all(right.passed and wrong.status == "failed" for right, wrong in verdicts)
    with pytest.raises(UserError, match="no unit tests"):
        function_problems(3, seed=3, family="addition")


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_all_subsets(n: int) -> None:
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_does_not_overflow() -> None:
    assert pass_at_k(10**6, 3, 1) == pytest.approx(3e-6, rel=1e-9)
    assert 0 < pass_at_k(10**6, 1, 10**5) < 1
    for n, c, k in ((3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)):
        with pytest.raises(ValueError, match="cannot be estimated"):
            pass_at_k(n, c, k)


@pytest.mark.parametrize("stop", code.STOPS)
def test_completions_are_cut_at_stop_strings(stop: str) -> None:
    assert cut(f"{RIGHT}{stop} x\nclass y") == RIGHT
    assert is_complete(RIGHT + stop)
    assert cut(stop) == ""


def test_what_looks_like_a_stop_string_is_kept() -> None:
    body = "    # a comment\n    if x:\n        print(x)\n    return x + y\n"
    assert cut(body) == body
    assert not is_complete(body)


FENCED = {
    "a block": ("Sure:\n```python\ndef add(x, y):\n    return x + y\n```\nDone.", "def add(x, y):\n    return x + y\n"),
    "the block that defines it": (
        "```\npip install x\n```\n```py\ndef add(x, y):\n    0\n```",
        "def add(x, y):\n    0\n",
    ),
    "another name": ("```\ndef addition(): 0\n```\n```\ndef add(): 1\n```", "def add(): 1\n"),
    "cut off": ("```python\ndef add(x, y):\n    return x", "def add(x, y):\n    return x"),
    "nothing fenced": ("The function is\ndef add(x, y):\n    return 1\n", "def add(x, y):\n    return 1\n"),
    "imports": ("This works:\nimport math\ndef add(x, y): return 1", "import math\ndef add(x, y): return 1"),
    "only a body": ("    return x + y\n", "    return x + y\n"),
    "in a list": (
        "1. Write:\n\n   ```python\n   def add(x, y):\n       return x + y\n   ```\n2. Done.",
        "def add(x, y):\n    return x + y\n",
    ),
    "on a list's own line": (
        "- ```python\n  def add(x, y):\n      return x + y\n  ```",
        "def add(x, y):\n    return x + y\n",
    ),
    "in a quote": ("> ```\n> def add(x, y):\n>     return x\n> ```", "def add(x, y):\n    return x\n"),
    "tildes": ("~~~python\ndef add(x, y): return x\n~~~", "def add(x, y): return x\n"),
    "longer fences": ("````\ndef add(x, y): return 1\n# ```\n```\n````", "def add(x, y): return 1\n# ```\n```\n"),
    "tildes do not end backticks": ("```\ndef add(x, y): 1\n~~~\n```", "def add(x, y): 1\n~~~\n"),
    "code between backticks is no fence": ("```def add(x, y)``` is\ndef add(x, y): 1", "def add(x, y): 1"),
    "a thought before": (
        "<think>\n```\ndef add(x, y): 0\n```\n</think>\n```\ndef add(x, y): 1\n```",
        "def add(x, y): 1\n",
    ),
    "a thought in the prompt": ("def add(x, y): 0\n</think>\ndef add(x, y): 1", "def add(x, y): 1"),
    "words behind": (
        "def add(x, y):\n    return x + y\n\nThis adds x to y, you see.\n",
        "def add(x, y):\n    return x + y\n\n",
    ),
    "one word behind": ("def add(x, y):\n    return x + y\n\nDone\n", "def add(x, y):\n    return x + y\n\n"),
    "a call behind is code": ("def add(x, y): 1\nprint(add(1, 2))\n", "def add(x, y): 1\nprint(add(1, 2))\n"),
    "a coroutine": ("Here:\nasync def add(x, y): 1", "async def add(x, y): 1"),
    "never right": ("def add(x, y:\n", "def add(x, y:\n"),
    "an empty block": ("```\n```", ""),
    "tabs": ("```\ndef add(x, y):\n\treturn x\n```", "def add(x, y):\n\treturn x\n"),
    "fences in a string": ("```\ndef add(x, y):\n    return '```'\n```", "def add(x, y):\n    return '```'\n"),
}


@pytest.mark.parametrize(("answer", "expected"), FENCED.values(), ids=FENCED.keys())
def test_code_is_taken_out_of_answers(answer: str, expected: str) -> None:
    assert fenced_code(answer, "add") == expected


CHAT = [
    "```python\ndef twice(x):\n    return 2 * x\n```",
    "```python\nimport math\n\ndef half(x):\n    return x / 2\n\ndef twice(x):\n    return math.prod([2, x])\n```",
    " 2 * x",
    "```\n 2 * x\n```",
    "def twice(x):\n    return 2 * x\nprint(twice(4))\n",
]


@pytest.mark.parametrize("answer", CHAT)
def test_chat_answers_run(answer: str) -> None:
    assert [v.status for v in check([TWICE], [[answer]], chat=True, unsafe=True)[0]] == ["passed"]


def test_a_body_without_indentation_is_indented() -> None:
    assert program(ADD, "```\nz = x + y\nreturn z\n```", chat=True) == ADD.prompt + "    z = x + y\n    return z\n"
    (part,) = code.chat_message(ADD).parts
    assert part.text.endswith('```python\ndef add(x, y):\n    """Add."""\n```')


def test_scores_are_counted_by_problem(tmp_path: Path) -> None:
    entry, rows = score_code(
        "functions",
        [ADD, ADD, TWICE],
        [[RIGHT, WRONG], [WRONG, WRONG], [" 2 * x", " 2 * x"]],
        (1, 2),
        temperature=0.8,
        unsafe=True,
    )
    assert entry["pass_at"]["1"]["value"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert entry["pass_at"]["2"]["value"] == pytest.approx(2 / 3)
    for k in ("1", "2"):
        low, high = entry["pass_at"][k]["interval"]
        assert 0 <= low < entry["pass_at"][k]["value"] < high <= 1
    assert (entry["name"], entry["n"], entry["samples"], entry["temperature"]) == ("functions", 3, 2, 0.8)
    assert "resource limits" in entry["isolation"]
    assert entry["licence"]
    assert entry["source"]
    assert [(row["id"], row["sample"], row["passed"]) for row in rows] == [
        ("add", 0, True),
        ("add", 1, False),
        ("add", 0, False),
        ("add", 1, False),
        ("twice", 0, True),
        ("twice", 1, True),
    ]
    assert rows[1]["status"] == "failed"
    write_rows(tmp_path / "items" / "functions.jsonl", rows)
    lines = (tmp_path / "items" / "functions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_no_passes_claim_no_certainty() -> None:
    entry, _ = score_code("functions", [ADD] * 3, [[WRONG]] * 3, temperature=0.0, unsafe=True)
    assert entry["pass_at"]["1"]["value"] == 0
    low, high = entry["pass_at"]["1"]["interval"]
    assert low == 0
    assert 0.3 < high < 0.8


def test_equal_completions_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    original = code.run_programs_patiently
    monkeypatch.setattr(code, "run_programs_patiently", lambda p, **o: ran.append(len(p)) or original(p, **o))
    verdicts = check([ADD, ADD], [[RIGHT, RIGHT, WRONG], [RIGHT]], unsafe=True)
    assert ran == [2]
    assert [[v.passed for v in row] for row in verdicts] == [[True, True, False], [True]]


@pytest.mark.parametrize(
    ("completions", "ks", "match"),
    [
        ([], (1,), "at least one problem"),
        ([[RIGHT], [RIGHT, RIGHT]], (1,), "equally many"),
        ([[], []], (1,), "one or more"),
        ([[RIGHT], [RIGHT]], (2,), "between 1 and 1"),
        ([[RIGHT], [RIGHT]], (), "between 1 and 1"),
        ([[RIGHT], [RIGHT], [RIGHT]], (1,), "as many lists"),
    ],
)
def test_what_cannot_be_scored_is_said(completions: list[list[str]], ks: tuple[int, ...], match: str) -> None:
    with pytest.raises(UserError, match=match):
        score_code("functions", [ADD, ADD] if completions else [], completions, ks, temperature=0.0, unsafe=True)


@pytest.mark.parametrize(
    "cheat",
    [
        "def half(x):\n    return 3\n",
        "half = lambda x: 3\n",
        "import math\nmath.sqrt = half\nhalf = float\n",
        "global half\n",
        "class half:\n    def __new__(cls, x): return 3\n",
    ],
)
def test_helpers_of_the_prompt_are_not_taken_from_the_program(cheat: str) -> None:
    # half(twice(3)) is to be 3 whatever twice says, by the program's own half.
    tests = "assert half(twice(3)) == 3\n"
    problem = dataclasses.replace(TWICE, tests=tests)
    ((honest, forged),) = check([problem], [[" 2 * x\n", f" 7 * x\n\n\n{cheat}"]], unsafe=True)
    assert honest.passed
    assert not forged.passed


def test_what_the_prompt_imports_and_assigns_is_there_for_the_tests() -> None:
    problem = CodeProblem(
        "area",
        "from math import pi as PI\nSCALE = 2\n\n\ndef area(r):\n",
        "area",
        "assert area(1) == PI * SCALE\n",
        "    return PI * SCALE * r\n",
    )
    ((verdict,),) = check([problem], [[problem.canonical]], unsafe=True)
    assert verdict.passed
