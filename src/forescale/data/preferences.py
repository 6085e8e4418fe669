"""Preferences between answers, rankings, and requests to be answered: files of the user's own.

JSON lines anywhere that fsspec reaches; docs/conversations.md has the forms. A row that is not of any form is an error that
names file and line. A pair that says nothing is left out and counted by reason: its answers are identical, or (in a
transcript of hh-rlhf's form, a published file that nobody can mend by hand) whatever else is wrong with it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from forescale.core.documents import Preference, Request
from forescale.core.errors import UserError
from forescale.data.conversations import (
    Row,
    Turn,
    check_turns,
    content_id,
    json_rows,
    parse_turns,
    row_id,
    row_messages,
    source_of,
    to_messages,
)
from forescale.data.sources import checked_text

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class _LeftOut(Exception):
    """A transcript that is no pair; the message is the reason under which it is counted."""


def read_preferences(path: str, image_size: int, counts: Counter[str] | None = None) -> Iterator[Preference]:
    """Pairs in the files' order; a ranking of K answers gives all K (K - 1) / 2 (Ouyang et al. 2022, section 3.5), together.

    Equal requests have the same `Request.id` (the hash of what is asked, whatever the rows call it), so that a request's
    pairs can be kept on one side of a split. `counts` is filled with "rows", "pairs", and "left out: REASON". Raises
    UserError naming file and line for a row that is not of a form, an empty answer, or a margin that is not a number of at
    least 0, and naming the file if no pair is left.
    """
    counts = Counter() if counts is None else counts
    for row in json_rows(path):
        counts["rows"] += 1
        try:
            turns, ranked = _ranked(row)
        except _LeftOut as reason:
            counts[f"left out: {reason}"] += 1
            continue
        request = _request(turns, row, image_size, content_id(turns))
        margin = _margin(row)
        for chosen, rejected in itertools.combinations(ranked, 2):
            if chosen.split() == rejected.split():
                counts["left out: identical answers"] += 1
                continue
            counts["pairs"] += 1
            yield Preference(request, chosen, rejected, margin)
    if not counts["pairs"]:
        raise UserError(f"{path} holds no pair of answers that differ; give a file of preferences.")


def read_requests(path: str, image_size: int) -> Iterator[Request]:
    """Requests without answers: `{"messages": [...]}` or `{"prompt": text or messages}`, perhaps `category` and `id`.

    `id` is the row's own, else the hash of what is asked. Raises UserError naming file and line for a row that is not a
    request, and for an id that was there before with another request.
    """
    seen: dict[str, str] = {}
    for row in json_rows(path):
        turns = _asked(row)
        check_turns(turns, row.where, answered=False)
        content = content_id(turns)
        name = row_id(row) or content
        if seen.setdefault(name, content) != content:
            raise UserError(f"{row.where}: the id {name!r:.60} is that of another request further up; ids must differ.")
        yield _request(turns, row, image_size, name)


def held_out(id_: str, share: float) -> bool:
    """Whether a request is held out: a `share` of all ids are, the same ones on every machine, and a smaller share is a part
    of a larger one. Raises ValueError for a share outside 0..1."""
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} cannot be held out")
    number = int.from_bytes(hashlib.sha256(f"held out|{id_}".encode()).digest()[:8], "big")
    return number < share * 2**64


def _request(turns: tuple[Turn, ...], row: Row, image_size: int, id_: str) -> Request:
    category = row.value.get("category")
    return Request(
        id=id_,
        source=source_of(row),
        messages=to_messages(turns, image_size, row.where),
        category="" if category is None else checked_text(category, row.where),
    )


def _margin(row: Row) -> float:
    value = row.value.get("margin")
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise UserError(f'{row.where}: "margin" must be a number of at least 0, not {value!r:.40}.')
    if "ranked" in row.value:
        raise UserError(f'{row.where}: a ranking has no "margin"; give pairs with one each instead.')
    return float(value)


def _ranked(row: Row) -> tuple[tuple[Turn, ...], list[str]]:
    """What is asked, and the answers from best to worst. Raises UserError or _LeftOut."""
    value = row.value
    if value.get("ranked") is not None:
        answers = value["ranked"]
        if not isinstance(answers, list) or len(answers) < 2:
            raise UserError(f'{row.where}: "ranked" must be a list of two or more answers, the best first.')
        turns, ranked = _asked(row), [checked_text(answer, row.where) for answer in answers]
    else:
        missing = [name for name in ("chosen", "rejected") if value.get(name) is None]
        if missing:
            raise UserError(
                f'{row.where} has no "{missing[0]}"; a pair has "chosen" and "rejected", a ranking "ranked".'
            )
        both = [value["chosen"], value["rejected"]]
        if all(isinstance(answer, str) for answer in both):
            asked = any(value.get(name) is not None for name in ("messages", "conversations", "prompt"))
            if not asked and both[0].startswith("\n\nHuman:"):
                return _transcripts(both[0], both[1], row)
            turns, ranked = _asked(row), [checked_text(answer, row.where) for answer in both]
        else:
            turns, ranked = _shared(both, row)
    check_turns(turns, row.where, answered=False)
    if empty := next((place for place, answer in enumerate(ranked, 1) if not answer.strip()), None):
        name = f"answer {empty} of the ranking" if "ranked" in value else ("chosen", "rejected")[empty - 1]
        raise UserError(f"{row.where}: {name} is empty; fill it in or remove the row.")
    return turns, ranked


def _asked(row: Row) -> tuple[Turn, ...]:
    """The row's request: `messages`, or a `prompt` of text, of messages, or of hh-rlhf's transcript up to the answer."""
    prompt = row.value.get("prompt")
    if prompt is None or row.value.get("messages") is not None:
        return parse_turns(row_messages(row), row)
    if isinstance(prompt, list):
        return parse_turns(prompt, row)
    text = checked_text(prompt, row.where)
    if text.startswith("\n\nHuman:"):
        turns = _speakers(text)
        return turns[:-1] if turns[-1] == Turn("assistant", ()) else turns
    return parse_turns([{"role": "user", "content": text}], row)


def _shared(both: list[Any], row: Row) -> tuple[tuple[Turn, ...], list[str]]:
    """Lists of messages that differ in the last alone. A beginning that does not open a conversation follows the request."""
    lists = [parse_turns([answer] if isinstance(answer, Mapping) else answer, row) for answer in both]
    for turns, name in zip(lists, ("chosen", "rejected")):
        if not turns or turns[-1].role != "assistant":
            raise UserError(f'{row.where}: "{name}" does not end with an answer of the assistant\'s.')
        if turns[-1].has_picture:
            raise UserError(f'{row.where}: the answer of "{name}" holds a picture; answers are text.')
    before, other = (turns[:-1] for turns in lists)
    if before != other:
        raise UserError(
            f'{row.where}: "chosen" and "rejected" differ before their last message; they must share the request.'
        )
    if not before or before[0].role == "assistant":
        before = (*_asked(row), *before)
    return before, [turns[-1].text for turns in lists]


def _transcripts(chosen: str, rejected: str, row: Row) -> tuple[tuple[Turn, ...], list[str]]:
    """hh-rlhf's form (Bai et al. 2022): "\\n\\nHuman: ...\\n\\nAssistant: ..." twice, alike up to the last answer.

    Raises _LeftOut, with the reason, for transcripts that are no pair.
    """
    if not rejected.startswith("\n\nHuman:"):
        raise _LeftOut("does not run from a human's words to an assistant's answer")
    a, b = (_speakers(checked_text(text, row.where)) for text in (chosen, rejected))
    for turns in (a, b):
        if any(one.role == two.role for one, two in itertools.pairwise(turns)):
            raise _LeftOut("two turns of one speaker in a row")
        if not turns or turns[0].role != "user" or turns[-1].role != "assistant":
            raise _LeftOut("does not run from a human's words to an assistant's answer")
    if a[:-1] != b[:-1]:
        raise _LeftOut("chosen and rejected answer different requests")
    if not all(turn.parts for turn in (*a, *b)):
        raise _LeftOut("an empty turn or answer")
    return a[:-1], [a[-1].text, b[-1].text]


def _speakers(transcript: str) -> tuple[Turn, ...]:
    _, *pieces = _SPEAKER.split(transcript)
    said = zip(pieces[::2], (text.strip() for text in pieces[1::2]))
    return tuple(Turn(_SPEAKERS[speaker], (text,) if text else ()) for speaker, text in said)
