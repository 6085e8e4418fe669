"""Conversations that a model is tuned on: files of the user's own, encyclopedia questions, and the curriculum as instructions.

A file is JSON lines (`.gz` and the like too) anywhere that fsspec reaches, in the common `messages` form or ShareGPT's
`conversations`; docs/conversations.md has both. Nothing is mended or dropped: what cannot be trained on is an error that
names file and line. The order is the one that chat templates agree on: perhaps a system message, then user and assistant in
turn.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image as PIL

from forescale.core.config import digest
from forescale.core.documents import Conversation, Document, Image, Message, Part, Text
from forescale.core.errors import UserError
from forescale.data import curriculum
from forescale.data.images import decode_image
from forescale.data.readers import LANGUAGES
from forescale.data.sources import RemoteFile, checked_text, image_bytes, json_lines

ROLES = ("system", "user", "assistant")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
IMAGE_MARK = "<image>"  # where a picture of the row's own list stands, in files made for LLaVA
_REMOTE = re.compile(r"\s*(https?|ftp)://", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A row of a file: `where` is "path:line" for messages; `file` is None where it cannot name pictures beside it."""

    where: str
    file: RemoteFile | None
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    """A message as its file has it: `parts` are texts, and pictures as the bytes of their files, no two texts in a row."""

    role: str
    parts: tuple[str | bytes, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def has_picture(self) -> bool:
        return any(isinstance(part, bytes) for part in self.parts)


def json_rows(path: str) -> Iterator[Row]:
    """The objects of JSON lines, in the files' order; blank lines are left out, compressed files are opened by their suffix.

    Raises UserError naming file and line if a line is not a JSON object, a file cannot be read, or there is no row at all.
    """
    found = False
    for file, where, value in json_lines(path):
        found = True
        if not isinstance(value, Mapping):
            raise UserError(f"{where} is not a JSON object but {type(value).__name__}; one a line is needed.")
        yield Row(where, file, value)
    if not found:
        raise UserError(f"{path} is empty; give a file with one JSON object a line.")


def read_conversations(path: str, image_size: int) -> Iterator[Conversation]:
    """A conversation a row, each ending with the assistant's answer; pictures are uint8 (image_size, image_size, 3).

    `id` is the row's own, else `content_id`; `source` is the file's name. Raises UserError naming file and line for whatever
    `parse_turns` and `check_turns` refuse, and for bad answers that `forescale redteam export` wrote as such.
    """
    for row in json_rows(path):
        if row.value.get("bad_answer"):
            raise UserError(
                f"{row.where} ends with a bad answer of a red-team finding; export findings --as sft instead."
            )
        turns = parse_turns(row_messages(row), row)
        check_turns(turns, row.where, answered=True)
        messages = to_messages(turns, image_size, row.where)
        yield Conversation(row_id(row) or content_id(turns), source_of(row), messages)


def row_messages(row: Row) -> Any:
    """The row's list of messages, whichever its name. Raises UserError if it has none."""
    for name in ("messages", "conversations"):
        if row.value.get(name) is not None:
            return row.value[name]
    raise UserError(f'{row.where} has no "messages"; a row is {{"messages": [{{"role": ..., "content": ...}}, ...]}}.')


def row_id(row: Row) -> str:
    """The row's own id, empty if it has none. Raises UserError if it is neither a string nor a whole number."""
    value = row.value.get("id")
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise UserError(f'{row.where}: "id" must be a string or a whole number, not {type(value).__name__}.')
    return "" if value is None else str(value)


def source_of(row: Row) -> str:
    return row.file.path.rpartition("/")[2] if row.file else ""


# Messages ---------------------------------------------------------------------------------------------------------------


def parse_turns(value: Any, row: Row) -> tuple[Turn, ...]:
    """Messages of either form as turns. A system message without words says nothing and is left out.

    Raises UserError for an unknown role, content that is neither text nor parts, a picture that cannot be read or is only
    linked to on the web, and where the row's own list of pictures does not match the places for them.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{row.where}: the messages must be a list of one or more.")
    pictures = row.value.get("images", row.value.get("image"))
    own = list(pictures) if isinstance(pictures, list) else [] if pictures is None else [pictures]
    left = iter(own)
    turns = []
    for message in value:
        role, content = _message(message, row)
        marked = bool(own) and role == "user"
        turn = Turn(role, _merged(_parts(content, row, left, marked)))
        if role != "system" or turn.text.strip() or turn.has_picture:
            turns.append(turn)
    # Answers alone, as files of preferences have them, hold none of the row's pictures.
    if any(turn.role == "user" for turn in turns) and (unused := sum(1 for _ in left)):
        raise UserError(f"{row.where}: {unused} of its {len(own)} pictures stand nowhere in the messages.")
    return tuple(turns)


def _message(message: Any, row: Row) -> tuple[str, Any]:
    """Role and content of a message of either form."""
    if not isinstance(message, Mapping):
        raise UserError(
            f"{row.where}: a message must be an object with role and content, not {type(message).__name__}."
        )
    if "role" in message or "from" not in message:
        given, roles = message.get("role"), {role: role for role in ROLES}
        content = message.get("content")
    else:
        given, roles = message["from"], SHAREGPT_ROLES
        content = message.get("value")
    role = roles.get(given) if isinstance(given, str) else None
    if role is None:
        raise UserError(f"{row.where}: the role {given!r:.60} is unknown; roles are {', '.join(roles)}.")
    if content is None:
        raise UserError(f"{row.where}: the {role}'s message has no content.")
    return role, content


def _parts(content: Any, row: Row, left: Iterator[Any], marked: bool) -> Iterator[str | bytes]:
    """Parts of a content; `left` are the row's own pictures that have no place yet, `marked` whether texts say where."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise UserError(f"{row.where}: content must be text or a list of parts, not {type(content).__name__}.")
    for item in content:
        part = {key: value for key, value in item.items() if value is not None} if isinstance(item, Mapping) else {}
        kind = part.get("type", "text" if "text" in part else "image" if "image" in part else None)
        if kind == "text":
            text = checked_text(part.get("text"), row.where)
            pieces = text.split(IMAGE_MARK) if marked else [text]
            yield pieces[0]
            for piece in pieces[1:]:
                yield _next_picture(left, row)
                yield piece
        elif kind in ("image", "image_url"):
            name = next((name for name in ("image_url", "image", "path", "url", "base64") if name in part), "")
            yield _picture(name, part[name], row) if name else _next_picture(left, row)
        else:
            raise UserError(f'{row.where}: a part must be of type "text", "image" or "image_url", not {kind!r:.60}.')


def _next_picture(left: Iterator[Any], row: Row) -> bytes:
    for value in left:
        return _picture("image", value, row)
    raise UserError(f"{row.where}: the messages have more places for pictures than the row has pictures.")


def _picture(name: str, value: Any, row: Row) -> bytes:
    """The bytes of a picture file, not looked into yet. Raises UserError if there are none."""
    if isinstance(value, Mapping) and "url" in value:
        value = value["url"]
    if isinstance(value, str) and _REMOTE.match(value):
        raise UserError(f"{row.where}: a picture on the web ({value:.80}) is not fetched; save it beside the file.")
    try:
        if name == "path" and isinstance(value, str):
            value = {"path": value}
        if row.file is None and not (isinstance(value, str) and value.startswith("data:")):
            raise ValueError("it is not a data: URL")
        return image_bytes(value, row.file or RemoteFile(None, ""), True)
    except (ValueError, OSError) as error:
        raise UserError(f"{row.where}: a picture cannot be read ({error}); mend or remove it.") from error


def _merged(parts: Iterable[str | bytes]) -> tuple[str | bytes, ...]:
    """Without empty texts, and with texts that follow each other as one."""
    merged: list[str | bytes] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part:
            merged.append(part)
    return tuple(merged)


def check_turns(turns: Sequence[Turn], where: str, answered: bool) -> None:
    """Raises UserError unless the turns are a conversation: perhaps a system message, then user and assistant in turn.

    It ends with the assistant's answer if `answered`, with the user's words otherwise. No message is empty; pictures stand in
    the user's alone, since models here write text alone.
    """
    for number, turn in enumerate(turns):
        if turn.role == "system" and number:
            raise UserError(f"{where}: a system message stands at place {number + 1}; it can only be the first.")
        if turn.has_picture and turn.role != "user":
            raise UserError(f"{where}: the {turn.role}'s message holds a picture; only the user's may.")
        if not turn.text.strip() and not turn.has_picture:
            what = "answer of the assistant's" if turn.role == "assistant" else f"message of the {turn.role}'s"
            raise UserError(f"{where}: an {'empty ' + what}; fill it in or remove the row.")
    said = [turn.role for turn in turns if turn.role != "system"]
    if not said or said[0] != "user":
        raise UserError(f"{where}: the conversation does not begin with the user's words (after a system message).")
    if twice := next((a for a, b in itertools.pairwise(said) if a == b), None):
        raise UserError(f"{where}: two messages of the {twice}'s in a row; join them, or remove one.")
    if answered and "assistant" not in said:
        raise UserError(f"{where}: there is no answer of the assistant's to learn from.")
    if answered and said[-1] != "assistant":
        raise UserError(f"{where}: the conversation ends with the user's words; remove them, or add the answer.")
    if not answered and said[-1] != "user":
        raise UserError(f"{where}: the request ends with an answer of the assistant's; remove that.")


def content_id(turns: Sequence[Turn]) -> str:
    """What is said, as 32 hexadecimal digits: equal for equal roles, words (white space apart) and picture files.

    The size at which pictures are later shown to a model does not change it.
    """

    def key(part: str | bytes) -> Any:
        return " ".join(part.split()) if isinstance(part, str) else {"picture": hashlib.sha256(part).hexdigest()}

    return digest([[turn.role, [key(part) for part in turn.parts]] for turn in turns])[:32]


def to_messages(turns: Sequence[Turn], image_size: int, where: str) -> tuple[Message, ...]:
    """The turns as a model sees them, pictures as uint8 (image_size, image_size, 3). Raises UserError for a broken one."""

    def shown(part: str | bytes) -> Part:
        if isinstance(part, str):
            return Text(part)
        try:
            return Image(decode_image(part, image_size))
        except ValueError as error:
            raise UserError(f"{where}: a picture cannot be read ({error}); mend or remove it.") from error

    return tuple(Message(turn.role, tuple(shown(part) for part in turn.parts)) for turn in turns)


def turns_json(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns in the `messages` form, pictures as `data:` URLs of their files' own bytes: `parse_turns` gives them back."""

    def spelled(part: str | bytes) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        with PIL.open(io.BytesIO(part)) as picture:
            kind = PIL.MIME.get(picture.format or "", "application/octet-stream")
        url = f"data:{kind};base64,{base64.b64encode(part).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}

    return [
        {"role": turn.role, "content": [spelled(part) for part in turn.parts] if turn.has_picture else turn.text}
        for turn in turns
    ]


# What forescale makes itself --------------------------------------------------------------------------------------------

_ASKED = re.compile(r"Question: (?P<question>[^\n]+)\nAnswer: (?P<answer>.+)", re.DOTALL)
_TITLED = re.compile(r"(?P<title>[^\n]+)\n\n(?P<answer>.+)", re.DOTALL)
# Worded so that no article or preposition has to agree with the title.
_REQUESTS = {
    "en": ("Tell me about {}.", "Briefly: what do you know of {}?", "Write an encyclopedia entry's lead: {}"),
    "fr": ("Présente en quelques phrases : {}", "Que sais-tu du sujet suivant ? {}"),
    "es": ("Explica brevemente: {}", "¿Qué sabes del siguiente tema? {}"),
}


def encyclopedia_conversations(documents: Iterable[Document]) -> Iterator[Conversation]:
    """A request and its answer a document of the encyclopedia pack: its own question where it has one, else about its title.

    Which wording is used depends on the document's id alone. Raises ValueError for a document that is not the pack's.
    """
    for document in documents:
        language = document.id.partition("/")[0]
        asked, titled = _ASKED.fullmatch(document.text), _TITLED.fullmatch(document.text)
        if language not in LANGUAGES or not (asked or titled):
            raise ValueError(f"document {document.id!r} is not one of the encyclopedia pack")
        if asked:
            question, answer = asked["question"], asked["answer"]
        else:
            assert titled is not None
            wordings = _REQUESTS[language]
            chosen = hashlib.blake2b(document.id.encode(), digest_size=8).digest()
            question = wordings[int.from_bytes(chosen, "big") % len(wordings)].format(titled["title"])
            answer = titled["answer"]
        yield _pair(document.id, "encyclopedia", (Text(question),), answer)


def curriculum_conversations(
    n: int, seed: int, image_size: int, families: Sequence[str] = curriculum.FAMILIES
) -> Iterator[Conversation]:
    """`n` instructions of each family's train split, families taking turns: a longer reading begins with a shorter one.

    Test values and held-out phrasings never occur. `id` is the problem's, `source` its family. Raises UserError as
    `curriculum.generate` does.
    """
    problems = [curriculum.generate(family, "train", n, seed, image_size) for family in families]
    for row in zip(*problems, strict=True):
        for problem in row:
            *before, last = problem.prompt
            parts = (*before, Text(last.text.rstrip())) if isinstance(last, Text) else problem.prompt
            yield _pair(problem.id, problem.family, parts, problem.answer)


def _pair(id_: str, source: str, request: tuple[Part, ...], answer: str) -> Conversation:
    # White space around a message is the chat template's own.
    return Conversation(id_, source, (Message("user", request), Message("assistant", (Text(answer.strip()),))))
