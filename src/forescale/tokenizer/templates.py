"""Chat templates (Jinja) rendered, in a child process: `forescale.core.limited` gives it a clock and a limit on memory.

Imports neither torch nor tokenizers, so that the child starts in a fraction of a second. What can be refused at once and in words
of its own is refused here: loops without end, arithmetic and joins that grow.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 100_000  # turns of all loops of a template, for one conversation
MAX_LENGTH = 10_000_000  # characters of a conversation, or entries of anything that a template adds or multiplies
MAX_BITS = 1024  # of a whole number that a template multiplies
_WIDE = re.compile(
    r"%(?:\([^)]*\))?[^%a-zA-Z]*(?:\*|\d{5})"
)  # a width or precision of "%": taken from the arguments, or huge


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja without unsafe attributes, imports or mutation, whose loops end and whose arithmetic stays small."""

    budget = threading.local()
    # What is intercepted is not computed when a template is compiled either.
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > 1:
            raise TemplateError(f"its {operator!r} would give something too large")
        return super().call_binop(context, operator, left, right)

    def joined(self, *parts: Any) -> str:
        """What `~` gives, which is no operator that can be intercepted."""
        texts = [str(part) for part in parts]
        if sum(map(len, texts)) > MAX_LENGTH:
            raise TemplateError("its '~' would give something too large")
        return "".join(texts)

    def step(self) -> None:
        self.budget.steps = getattr(self.budget, "steps", 0) + 1
        if self.budget.steps > MAX_STEPS:
            raise TemplateError(f"its loops take more than {MAX_STEPS:,} turns")


class _Joins(NodeTransformer):
    """`a ~ b` becomes a call that can refuse. As attributes of the environment no template can give names another meaning."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None)
        return call.set_lineno(node.lineno)


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _size(operator: str, left: Any, right: Any) -> float:
    """Upper bound on what the operator gives, as a share of what is allowed; 0 for what cannot grow."""
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            return left.bit_length() * max(0, right) / MAX_BITS
        return (left.bit_length() + right.bit_length()) / MAX_BITS if operator == "*" else 0
    if operator == "%":
        return 2.0 if isinstance(left, str) and _WIDE.search(left) else 0.0
    lengths = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
    if operator == "*":
        times = next((value for value in (left, right) if isinstance(value, int)), 0)
        return sum(lengths) * max(0, times) / MAX_LENGTH
    return sum(lengths) / MAX_LENGTH


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As `transformers` defines it; Jinja's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    # There is no clock: a prompt that holds today's date would not give the same score tomorrow.
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _to_json
    tree = _Joins().visit(environment.parse(source))
    for loop in tree.find_all(nodes.For):
        step = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
        loop.body.insert(0, nodes.ExprStmt(step).set_lineno(loop.lineno))
    return environment.from_string(tree)


def render(request: dict[str, Any]) -> str:
    """What the template `source` makes of `messages`. Raises whatever it raises, and TemplateError for what grows too large."""
    _Environment.budget.steps = 0
    pieces = _compile(request["source"]).generate(
        messages=request["messages"],
        add_generation_prompt=request["add_generation_prompt"],
        bos_token=request["bos_token"],
        eos_token=request["eos_token"],
        tools=None,
        documents=None,
    )
    text, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_LENGTH:
            raise TemplateError(f"it writes more than {MAX_LENGTH:,} characters")
        text.append(piece)
    return "".join(text)
