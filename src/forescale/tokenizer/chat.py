"""Conversations to ids, through the model's own chat template.

Special: what people wrote can never become a control token. The template is filled in twice, once with marks in place of what
people wrote; only if both texts hold the same control tokens is the real one tokenized as `transformers` would.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Sequence
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from forescale.core.documents import Image, Message, Text
from forescale.core.errors import UserError
from forescale.tokenizer.bpe import Tokenizer, is_unicode

MAX_STEPS = 100_000  # turns of all loops of a template, for one conversation
MAX_LENGTH = 10_000_000  # characters of a conversation, or entries of anything that a template adds or multiplies
MAX_BITS = 1024  # of a whole number that a template multiplies
_WIDE = re.compile(
    r"%(?:\([^)]*\))?[^%a-zA-Z]*(?:\*|\d{5})"
)  # a width or precision of "%": taken from the arguments, or huge
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_Pieces = Sequence[Text | Image]


def render(messages: Sequence[Message], tokenizer: Tokenizer, reply: bool = True) -> list[int | Image]:
    """Ids of the conversation, with the pictures themselves where they stand; with `reply`, up to where the answer begins.

    Raises UserError if the model has no chat template, it cannot render these messages, or drops one of their parts.
    """
    if not tokenizer.roles.chat_template:
        raise UserError("this model has no chat template; give it plain text, or a tuned model.")
    pieces: _Pieces = [part for message in messages for part in message.parts]
    pictures = any(isinstance(piece, Image) for piece in pieces)
    # A message is a string to most templates, and a list of parts to those of models that see.
    forms = (True, False) if pictures else (False, True)
    first: UserError | None = None
    for as_list in forms:
        try:
            return _render(messages, pieces, tokenizer, reply, as_list)
        except UserError as error:
            first = first or error
    assert first is not None
    raise first


def _render(
    messages: Sequence[Message], pieces: _Pieces, tokenizer: Tokenizer, reply: bool, as_list: bool
) -> list[int | Image]:
    marked = fill(_shown(messages, as_list, marks=True), tokenizer, reply)
    ids = _encode_marked(marked, pieces, tokenizer, as_list)
    images = [piece for piece in pieces if isinstance(piece, Image)]
    if as_list or not images:
        text = fill(_shown(messages, as_list, marks=False), tokenizer, reply)
        plain = tokenizer.encode_trusted(text) if is_unicode(text) else None
        if plain is not None and _control(plain, tokenizer) == _control(ids, tokenizer):
            left = iter(images)
            return [next(left) if images and i == tokenizer.image else i for i in plain]
    return ids


def _control(ids: Sequence[int | Image], tokenizer: Tokenizer) -> list[int]:
    """The control tokens among `ids`, a picture being an image token."""
    numbers = [tokenizer.image if isinstance(i, Image) else i for i in ids]
    return [i for i in numbers if i in tokenizer.special]


def _shown(messages: Sequence[Message], as_list: bool, marks: bool) -> list[dict[str, Any]]:
    """Messages as templates expect them; with `marks`, numbered marks in place of what people wrote."""
    shown: list[dict[str, Any]] = []
    number = 0
    for message in messages:
        parts: list[dict[str, str]] = []
        for part in message.parts:
            mark = f"{_OPEN}{number}{_CLOSE}"
            number += 1
            if isinstance(part, Image):
                parts.append({"type": "image"} if as_list else {"type": "text", "text": mark})
            else:
                # Whitespace around a message is the template's to trim, so it stays outside the mark.
                core = part.text.strip()
                text = part.text.replace(core, mark, 1) if marks and core else part.text
                parts.append({"type": "text", "text": text})
        content = parts if as_list else "".join(part["text"] for part in parts)
        shown.append({"role": message.role, "content": content})
    return shown


def _encode_marked(text: str, pieces: _Pieces, tokenizer: Tokenizer, as_list: bool) -> list[int | Image]:
    """Template text with its control tokens, the pieces as what they are. Plain runs are encoded as one."""
    images = [piece for piece in pieces if isinstance(piece, Image)]
    expected = [n for n, piece in enumerate(pieces) if (piece.text.strip() if isinstance(piece, Text) else not as_list)]
    if sorted(int(m) for m in _MARK.findall(text)) != expected:
        raise UserError("the model's chat template dropped or repeated a part of this conversation; look at its roles.")
    spellings = sorted(tokenizer.special.values(), key=len, reverse=True)
    ids = {spelling: i for i, spelling in tokenizer.special.items()}
    pattern = re.compile("|".join([_MARK.pattern, *map(re.escape, spellings)]))
    out: list[int | Image] = []
    plain, position, placed = "", 0, 0
    for match in pattern.finditer(text):
        plain += text[position : match.start()]
        position = match.end()
        piece = pieces[int(match.group(1))] if match.group(1) is not None else None
        if isinstance(piece, Text):
            plain += piece.text.strip()
            continue
        out.extend(tokenizer.encode(plain) if plain else [])
        plain = ""
        if piece is not None:
            out.append(piece)
        elif ids[match.group()] != tokenizer.image:
            out.append(ids[match.group()])
        else:
            out.extend(images[placed : placed + 1])
            placed += 1
    if placed != (len(images) if as_list else 0):
        raise UserError("the model's chat template holds another number of pictures than this conversation.")
    plain += text[position:]
    return out + (list(tokenizer.encode(plain)) if plain else [])


class Templated(str):
    """Text that a chat template wrote, so that the control tokens in it are meant. No data can make its own text into one."""

    __slots__ = ()


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


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


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


def fill(messages: list[dict[str, Any]], tokenizer: Tokenizer, reply: bool) -> str:
    """What the template makes of messages. Raises UserError if it fails, goes on too long or makes something too large."""
    roles = tokenizer.roles
    begin = roles.bos if roles.bos >= 0 else roles.begin[0] if roles.begin else -1
    try:
        _Environment.budget.steps = 0
        pieces = _compile(roles.chat_template).generate(
            messages=messages,
            add_generation_prompt=reply,
            bos_token=tokenizer.special.get(begin, ""),
            eos_token=tokenizer.special.get(roles.end, ""),
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
    except Exception as error:  # a template can raise anything
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"the model's chat template cannot render this conversation ({why[0]}).") from error
