"""What a model answers, apart from what it thinks: reasoning models write their thoughts into a block before their answer."""

from __future__ import annotations

import re

# As Qwen3, DeepSeek-R1, Magistral and their like spell the block; templates may have opened it in the prompt already.
_NAMES = "think|thinking|thought|thoughts|reasoning"
_OPENED = re.compile(rf"\s*(?:<({_NAMES})>|\[({_NAMES})\])", re.I)
_CLOSED = re.compile(rf"</({_NAMES})>|\[/({_NAMES})\]", re.I)
_QUOTES = ("`", "'", '"')


def answer_of(text: str) -> str:
    """`text` without the blocks of thoughts at its beginning.

    A block that was opened in the prompt has its closing tag alone; one that is never closed leaves no answer. A tag further on,
    behind words that are no thoughts, is a part of the answer.
    """
    while True:
        opened = _OPENED.match(text)
        closed = _CLOSED.search(text)
        if opened is None:
            name = (closed[1] or closed[2]) if closed else ""
            # A closing tag that something before it opened is spoken of, not used.
            if closed is None or re.search(rf"[<\[]{name}[>\]]", text[: closed.start()], re.I):
                return text
            # Spoken of as well between backticks or quotes.
            if text[: closed.start()].endswith(_QUOTES) or text[closed.end() :].startswith(_QUOTES):
                return text
        elif closed is None:
            return ""
        text = text[closed.end() :].lstrip()
