"""Documents, problems and conversations: text and pictures in any order. The one form in which data enters forescale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of options


@dataclass(frozen=True)
class Text:
    """A run of text. Special-token spellings inside it are plain text, always."""

    text: str


@dataclass(frozen=True, eq=False)
class Image:
    """A picture: `pixels` is uint8 of shape (height, width, 3), RGB."""

    pixels: np.ndarray


Part = Text | Image


def joined(parts: Sequence[Part]) -> list[Part]:
    """With neighbouring texts as one, and without empty ones: part borders are token borders."""
    out: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and out and isinstance(out[-1], Text):
            out[-1] = Text(out[-1].text + part.text)
        else:
            out.append(part)
    return [part for part in out if isinstance(part, Image) or part.text]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `role` is system, user or assistant; `parts` may hold any number of pictures."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Conversation:
    """Messages in order. What a model is tuned on ends with an answer of the assistant's."""

    id: str
    source: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Request:
    """What a model is asked: messages that end before its answer.

    `category`: which of a policy's categories people say that it falls in; empty where nobody said.
    """

    id: str
    source: str
    messages: tuple[Message, ...]
    category: str = ""


@dataclass(frozen=True)
class Answered:
    """A request and one answer to it."""

    request: Request
    answer: str


@dataclass(frozen=True)
class Preference:
    """Of two answers to a request the one that was preferred. `margin`: by how much, on the rater's scale (0: not said)."""

    request: Request
    chosen: str
    rejected: str
    margin: float = 0.0


@dataclass(frozen=True)
class Document:
    """What a model is trained on: parts in order, and where they came from."""

    id: str
    source: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All text of the document, pictures left out."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def has_image(self) -> bool:
        return any(isinstance(part, Image) for part in self.parts)


@dataclass(frozen=True)
class Problem:
    """A question with one right answer.

    `prompt` ends with text; `answer` is what comes next, up to and excluding the end-of-document token. Part borders are
    token borders, so the probability of the answer given the prompt is well defined. `tests`, where not empty, is Python
    source whose assertions decide whether prompt text + completion is right (then `answer` is one right answer of many).
    """

    id: str
    family: str
    difficulty: int
    prompt: tuple[Part, ...]
    answer: str
    tests: str = ""

    def as_document(self) -> Document:
        return Document(id=self.id, source=self.family, parts=(*self.prompt, Text(self.answer)))
