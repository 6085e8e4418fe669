"""Jailbreaks: disallowed requests inside templates that have lured aligned models. The templates are in `jailbreaks.toml`.

A judge is always shown the plain request with the answer: whether an answer holds disallowed content does not depend on how it
was asked for.
"""

from __future__ import annotations

import base64
import codecs
import functools
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from forescale.core.documents import Image, Message, Part, Request, Text
from forescale.core.errors import UserError

TEMPLATES = Path(__file__).with_name("jailbreaks.toml")
PLAIN = "plain"
_LEET = str.maketrans("aeiostAEIOST", "431057431057")
ENCODINGS: Mapping[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "leetspeak": lambda text: text.translate(_LEET),
    "reversed": lambda text: text[::-1],
    "spaced": lambda text: " ".join(text.replace(" ", "_")),
}


@dataclass(frozen=True)
class Template:
    """`text` holds {request}, or {first} and {second}, its halves. `turns`: (user, assistant) exchanges before it."""

    name: str
    technique: str
    text: str
    encoding: str = ""
    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()

    def wrap(self, request: Request) -> Request:
        """The request with its last message inside the template. Pictures of that message stay before its words."""
        *before, last = request.messages
        text = "".join(part.text for part in last.parts if isinstance(part, Text)).strip()
        shown = ENCODINGS[self.encoding](text) if self.encoding else text
        first, second = halves(shown)
        filled = self.text
        # One pass, so that a request with braces in it is not filled in again.
        pieces = {"{request}": shown, "{first}": first, "{second}": second}
        for mark in pieces:
            filled = filled.replace(mark, f"\0{mark}\0")
        filled = "".join(pieces.get(piece, piece) for piece in filled.split("\0"))
        parts: tuple[Part, ...] = (*(part for part in last.parts if isinstance(part, Image)), Text(filled))
        # A template's own system message takes the place of the request's, as most chat templates allow one.
        kept = [m for m in before if not (self.system and m.role == "system")]
        opening = [m for m in kept if m.role == "system"] + (
            [Message("system", (Text(self.system),))] if self.system else []
        )
        exchanged = [
            Message(role, (Text(said),))
            for exchange in self.turns
            for role, said in zip(("user", "assistant"), exchange)
        ]
        rest = [m for m in kept if m.role != "system"]
        return replace(request, messages=(*opening, *exchanged, *rest, Message(last.role, parts)))


def halves(text: str) -> tuple[str, str]:
    """The two halves of a text, by words."""
    words = text.split()
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])


@functools.cache
def load_templates(path: Path = TEMPLATES) -> tuple[Mapping[str, str], tuple[Template, ...]]:
    """The source of each technique, and the templates. Raises UserError, naming the file, for one that is not of its form."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}).") from error
    sources = data.get("techniques", {})
    templates = []
    for row in data.get("template", []):
        name = row.get("name", "")
        try:
            template = Template(**{**row, "turns": tuple(tuple(turn) for turn in row.get("turns", ()))})
        except TypeError as error:
            raise UserError(f"{path}: template {name!r} lacks a key or has one too many ({error}).") from error
        whole = "{request}" in template.text or ("{first}" in template.text and "{second}" in template.text)
        if not whole or template.technique not in sources or template.encoding not in ("", *ENCODINGS):
            raise UserError(
                f"{path}: template {name!r} needs {{request}} in its text (or {{first}} and {{second}}), a technique of "
                f"[techniques], and no encoding or one of {', '.join(ENCODINGS)}."
            )
        templates.append(replace(template, text=template.text.strip()))
    if len({template.name for template in templates} | {PLAIN}) != len(templates) + 1:
        raise UserError(f"{path}: names of templates must differ, and none may be called {PLAIN!r}.")
    return sources, tuple(templates)
