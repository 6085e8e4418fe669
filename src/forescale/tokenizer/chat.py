"""Conversations to ids, through the model's own chat template.

Special: what people wrote can never become a control token. The template is filled in twice, once with marks in place of what
people wrote; only if both texts hold the same control tokens is the real one tokenized as `transformers` would.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from forescale.core.documents import Image, Message, Text
from forescale.core.errors import UserError
from forescale.core.limited import Child, Exceeded, Refused
from forescale.tokenizer.bpe import Tokenizer, is_unicode

# Templates are programs of strangers: no clock and no limit in this process would hold them (see `templates`).
_RENDERER = Child("forescale.tokenizer.templates:render", memory_bytes=250_000_000)
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
            if isinstance(error.__cause__, Exceeded):
                raise  # the other form would take as long
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


def fill(messages: list[dict[str, Any]], tokenizer: Tokenizer, reply: bool) -> str:
    """What the template makes of messages. Raises UserError if it fails, takes too long or too much."""
    roles = tokenizer.roles
    begin = roles.bos if roles.bos >= 0 else roles.begin[0] if roles.begin else -1
    request = {
        "source": roles.chat_template,
        "messages": messages,
        "add_generation_prompt": reply,
        "bos_token": tokenizer.special.get(begin, ""),
        "eos_token": tokenizer.special.get(roles.end, ""),
    }
    try:
        return str(_RENDERER(request))
    except (Refused, Exceeded) as error:
        raise UserError(f"the model's chat template cannot render this conversation ({error}).") from error
