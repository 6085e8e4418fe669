"""What a model reads: token ids with pictures in place, from parts, conversations, and answers to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from forescale.core.documents import Image, Message, Part, Text
from forescale.core.errors import UserError
from forescale.data.images import fit_image
from forescale.model.config import ModelConfig
from forescale.tokenizer.bpe import Tokenizer
from forescale.tokenizer.chat import render


@dataclass(frozen=True)
class Prompt:
    """Token ids with image tokens in place, and the pictures: uint8 (n, S, S, 3)."""

    ids: tuple[int, ...]
    pixels: np.ndarray


def encode_parts(parts: Sequence[Part], tokenizer: Tokenizer, config: ModelConfig) -> Prompt:
    """A document's beginning: what precedes every document, then its parts.

    Raises UserError if there are pictures and the model reads none.
    """
    ids: list[int | Image] = list(tokenizer.roles.begin)
    for part in parts:
        ids += tokenizer.encode(part.text) if isinstance(part, Text) else [part]
    return place_images(ids, tokenizer, config)


def encode_chat(messages: Sequence[Message], tokenizer: Tokenizer, config: ModelConfig) -> Prompt:
    """A conversation up to where the assistant answers. Raises UserError as `tokenizer.chat.render` and `place_images` do."""
    return place_images(render(messages, tokenizer), tokenizer, config)


def place_images(ids: Sequence[int | Image], tokenizer: Tokenizer, config: ModelConfig) -> Prompt:
    """Image tokens where the pictures stand, and the pictures at the model's size.

    Raises UserError if there are pictures and the model reads none.
    """
    out: list[int] = []
    pixels = []
    for item in ids:
        if isinstance(item, Image):
            if not config.has_vision:
                raise UserError(
                    "this model reads text alone; leave the pictures out or choose a model with a vision tower."
                )
            out += [tokenizer.image] * config.image_tokens
            size = config.image_size
            fits = item.pixels.shape == (size, size, 3)
            pixels.append(item.pixels if fits else fit_image(Pillow.fromarray(item.pixels), size))
        else:
            out.append(item)
    shape = (0, config.image_size, config.image_size, 3)
    return Prompt(tuple(out), np.stack(pixels) if pixels else np.zeros(shape, np.uint8))


@dataclass(frozen=True)
class Lesson:
    """A conversation to learn from: ids, for each whether the assistant wrote it, and the pictures: uint8 (n, S, S, 3)."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    pixels: np.ndarray


def encode_lesson(messages: Sequence[Message], tokenizer: Tokenizer, config: ModelConfig) -> Lesson:
    """The assistant's words and what ends them are learned; the rest is what they answer.

    Every answer stands exactly where `encode_chat` would have the model write it. Where a template tells earlier turns otherwise
    once they are past (Qwen3 drops their thoughts), these are told so and only what comes after is learned.

    Raises UserError as `encode_chat` does, and if the last message is not the assistant's or an answer is empty or holds a picture.
    """
    if not messages or messages[-1].role != "assistant":
        raise UserError("a conversation to learn from ends with an answer of the assistant's.")
    items: list[int | Image] = []
    learned: list[bool] = []
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = render(messages[:number], tokenizer)
        if before[: len(items)] != items:
            learned = []
        told = render(messages[: number + 1], tokenizer, reply=False)
        answer = _answer_ids(message, told[len(before) :], tokenizer)
        learned += [False] * (len(before) - len(learned)) + [True] * len(answer)
        items = [*before, *answer]
    each = [config.image_tokens if isinstance(item, Image) else 1 for item in items]
    prompt = place_images(items, tokenizer, config)
    return Lesson(prompt.ids, tuple(mark for mark, count in zip(learned, each) for _ in range(count)), prompt.pixels)


def _answer_ids(message: Message, told: Sequence[int | Image], tokenizer: Tokenizer) -> list[int]:
    """What the assistant would have written: its words, and the token with which the template ended them when it `told` them.

    Raises UserError for an empty answer, or one with a picture in it.
    """
    if any(isinstance(part, Image) for part in message.parts):
        raise UserError("an answer holds a picture, and the model writes text alone; leave it out of the answer.")
    text = "".join(part.text for part in message.parts if isinstance(part, Text))
    if not text.strip():
        raise UserError("an answer is empty; leave the conversation out or give it one.")
    end = next((i for i in told if isinstance(i, int) and i in tokenizer.roles.stop), tokenizer.roles.end)
    return [*tokenizer.encode(text), end]
