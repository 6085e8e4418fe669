"""Conversations of the user's own, and every way in which they can be wrong."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from tests.data.talk import SIZE, jsonl, png, requests, said, url

from forescale.core.documents import Conversation, Document, Image, Text
from forescale.core.errors import UserError
from forescale.data import curriculum
from forescale.data.conversations import (
    Row,
    Turn,
    content_id,
    curriculum_conversations,
    encyclopedia_conversations,
    parse_turns,
    read_conversations,
    turns_json,
)
from forescale.data.fetch import PackUnavailable
from forescale.data.packs import find_pack
from forescale.data.readers import ReadOptions

GOOD = [said("user", "Hi"), said("assistant", "Hello")]


def read(tmp_path: Path, *rows: Any) -> list[Conversation]:
    return list(read_conversations(jsonl(tmp_path / "c.jsonl", *rows), SIZE))


def spelled(conversation: Conversation) -> list[tuple[str, list[str]]]:
    return [
        (m.role, [part.text if isinstance(part, Text) else str(part.pixels[4, 4].tolist()) for part in m.parts])
        for m in conversation.messages
    ]


def test_messages_with_text_and_pictures_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "blue.png").write_bytes(png((0, 0, 255)))
    picture = {"type": "image_url", "image_url": {"url": url(png())}}
    beside = [{"type": "image", name: "blue.png"} for name in ("image", "path", "url")]
    content = [{"type": "text", "text": "See "}, picture, {"type": "text", "text": "and"}, *beside]
    (found,) = read(tmp_path, {"id": 7, "messages": [said("system", "Be kind."), said("user", content), GOOD[1]]})
    assert (found.id, found.source) == ("7", "c.jsonl")
    blue = str([0, 0, 255])
    assert spelled(found) == [
        ("system", ["Be kind."]),
        ("user", ["See ", str([255, 0, 0]), "and", blue, blue, blue]),
        ("assistant", ["Hello"]),
    ]
    pictures = [part for part in found.messages[1].parts if isinstance(part, Image)]
    assert all(picture.pixels.shape == (SIZE, SIZE, 3) and picture.pixels.dtype == np.uint8 for picture in pictures)


def test_sharegpt_with_its_row_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "blue.png").write_bytes(png((0, 0, 255)))
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Blue. <image>"}]
    (found,) = read(tmp_path, {"image": "blue.png", "conversations": turns})
    assert spelled(found) == [("user", [str([0, 0, 255]), "\nWhat is it?"]), ("assistant", ["Blue. <image>"])]
    (found,) = read(tmp_path, {"conversations": turns})
    assert spelled(found)[0] == ("user", ["<image>\nWhat is it?"])


def test_pictures_of_a_row_fill_the_places_in_the_messages(tmp_path: Path) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "or", "image": None}, {"type": "image", "text": None}]
    row = {"images": [url(png()), {"bytes": url(png((0, 0, 255)))}], "messages": [said("user", content), GOOD[1]]}
    (found,) = read(tmp_path, row)
    assert spelled(found)[0] == ("user", [str([255, 0, 0]), "or", str([0, 0, 255])])


def test_compressed_files_and_folders(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps({"messages": GOOD}) + "\n\n")
    jsonl(tmp_path / "b.jsonl", {"messages": [*GOOD, *GOOD]})
    found = list(read_conversations(str(tmp_path), SIZE))
    assert [(c.source, len(c.messages)) for c in found] == [("a.jsonl.gz", 2), ("b.jsonl", 4)]


def test_a_system_message_without_words_is_left_out(tmp_path: Path) -> None:
    (found,) = read(tmp_path, {"messages": [said("system", " "), *GOOD]})
    assert [message.role for message in found.messages] == ["user", "assistant"]


WRONG: dict[str, tuple[Any, str]] = {
    "bad JSON": ('{"messages": [', "not valid JSON"),
    "not an object": ([1], "not a JSON object but list"),
    "not UTF-8 text": ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
    "no messages": ({"text": "Hi"}, 'has no "messages"'),
    "messages not a list": ({"messages": "Hi"}, "must be a list of one or more"),
    "no message": ({"messages": []}, "must be a list of one or more"),
    "a message that is a string": ({"messages": ["Hi"]}, "must be an object with role and content, not str"),
    "unknown role": ({"messages": [said("tool", "x"), *GOOD]}, "role 'tool' is unknown"),
    "no role": ({"messages": [{"content": "x"}]}, "role None is unknown"),
    "unknown speaker": ({"conversations": [{"from": "bot", "value": "x"}]}, "role 'bot' is unknown"),
    "no content": ({"messages": [{"role": "user"}, GOOD[1]]}, "the user's message has no content"),
    "a tool's call": ({"messages": [GOOD[0], {"role": "assistant", "content": None, "tool_calls": []}]}, "no content"),
    "content not text": ({"messages": [said("user", 5), GOOD[1]]}, "content must be text or a list of parts, not int"),
    "unknown part": ({"messages": [said("user", [{"type": "audio"}]), GOOD[1]]}, "not 'audio'"),
    "a text part without text": ({"messages": [said("user", [{"type": "text"}]), GOOD[1]]}, '"text" must be a string'),
    "no answer": ({"messages": [GOOD[0]]}, "no answer of the assistant's"),
    "the user last": ({"messages": [*GOOD, GOOD[0]]}, "ends with the user's words"),
    "empty answer": ({"messages": [GOOD[0], said("assistant", " \n")]}, "an empty answer of the assistant's"),
    "an empty answer in the middle": ({"messages": [GOOD[0], said("assistant", ""), *GOOD]}, "empty answer"),
    "empty question": ({"messages": [said("user", []), GOOD[1]]}, "an empty message of the user's"),
    "two user turns": ({"messages": [GOOD[0], *GOOD]}, "two messages of the user's in a row"),
    "two answers": ({"messages": [*GOOD, GOOD[1]]}, "two messages of the assistant's in a row"),
    "the assistant first": ({"messages": [GOOD[1], *GOOD]}, "does not begin with the user's words"),
    "only a system message": ({"messages": [said("system", "x")]}, "does not begin with the user's words"),
    "a late system message": ({"messages": [*GOOD, said("system", "x"), *GOOD]}, "system message stands at place 3"),
    "a drawn answer": (
        {"messages": [GOOD[0], said("assistant", [{"type": "image", "image": url(png())}])]},
        "the assistant's message holds a picture",
    ),
    "a missing picture": (
        {"messages": [said("user", [{"type": "image", "path": "no.png"}]), GOOD[1]]},
        "a picture cannot be read (.*No such file",
    ),
    "a picture elsewhere": (
        {"messages": [said("user", [{"type": "image", "path": "../x.png"}]), GOOD[1]]},
        "leaves the file's folder",
    ),
    "a broken picture": (
        {"messages": [said("user", [{"type": "image_url", "image_url": {"url": url(png()[:40])}}]), GOOD[1]]},
        "a picture cannot be read",
    ),
    "not base64": (
        {"messages": [said("user", [{"type": "image_url", "image_url": "data:image/png;base64,%%"}]), GOOD[1]]},
        "neither a file name nor base64",
    ),
    "a picture on the web": (
        {"messages": [said("user", [{"type": "image_url", "image_url": {"url": "HTTPS://a.b/c.png"}}]), GOOD[1]]},
        "on the web .* is not fetched; save it beside the file",
    ),
    "a picture too few": ({"images": [], "messages": [said("user", [{"type": "image"}]), GOOD[1]]}, "more places"),
    "a picture too many": ({"image": url(png()), "messages": GOOD}, "1 of its 1 pictures stand nowhere"),
    "an id that is a list": ({"id": [], "messages": GOOD}, '"id" must be a string'),
    "a bad answer": ({"bad_answer": True, "messages": GOOD}, "bad answer of a red-team finding"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, name: str) -> None:
    row, message = WRONG[name]
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        read(tmp_path, {"messages": GOOD}, "", row)
    assert str(error.value).startswith(f"{tmp_path}/c.jsonl:3")


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.jsonl").write_bytes(data)
    with pytest.raises(UserError, match="is empty"):
        list(read_conversations(str(tmp_path / "c.jsonl"), SIZE))


@pytest.mark.parametrize("damage", [slice(0, 60), slice(20, None)])
def test_a_broken_gz_is_an_error_that_names_it(tmp_path: Path, damage: slice) -> None:
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps({"messages": GOOD}).encode() * 99)[damage])
    with pytest.raises(UserError, match=r"c\.jsonl\.gz cannot be read"):
        list(read_conversations(str(tmp_path / "c.jsonl.gz"), SIZE))


@pytest.mark.parametrize(("suffix", "codec"), [("gz", gzip), ("xz", lzma), ("bz2", bz2)])
def test_a_damaged_stream_is_an_error_that_names_it(tmp_path: Path, suffix: str, codec: Any) -> None:
    data = bytearray(codec.compress(json.dumps({"messages": GOOD, "more": [*range(300)]}).encode()))
    data[40:60] = b"\xff" * 20
    (tmp_path / f"c.jsonl.{suffix}").write_bytes(data)
    with pytest.raises(UserError, match=rf"c\.jsonl\.{suffix} cannot be read"):
        list(read_conversations(str(tmp_path / f"c.jsonl.{suffix}"), SIZE))


@given(requests())
def test_turns_go_to_json_and_back_with_the_bytes_of_their_pictures(turns: tuple[Turn, ...]) -> None:
    value = json.loads(json.dumps(turns_json(turns)))
    assert parse_turns(value, Row("x:1", None, {})) == turns


def test_a_row_without_a_file_takes_no_path() -> None:
    content = [{"type": "image", "path": "a.png"}]
    with pytest.raises(UserError, match="not a data: URL"):
        parse_turns([said("user", content)], Row("x:1", None, {}))


def test_a_content_id_is_of_words_roles_and_picture_files_alone() -> None:
    turns = (Turn("user", ("a  b", png())),)
    assert content_id(turns) == content_id((Turn("user", ("a b\n", png())),))
    others = [Turn("user", ("a b",)), Turn("user", ("a c", png())), Turn("assistant", ("a b", png()))]
    others += [Turn("user", (png(), "a b")), Turn("user", ("a b", png((0, 0, 1))))]
    assert len({content_id((turn,)) for turn in (*turns, *others)}) == 6


# What forescale makes itself


def document(id_: str, text: str) -> Document:
    return Document(id_, "encyclopedia", (Text(text),))


def texts(conversation: Conversation) -> list[str]:
    return ["".join(p.text for p in m.parts if isinstance(p, Text)) for m in conversation.messages]


def test_encyclopedia_documents_become_a_question_and_its_answer() -> None:
    asked, titled, spanish = encyclopedia_conversations(
        [
            document("en/a", "Question: What is Tin?\nAnswer: Tin is a metal.\nIt melts.\n"),
            document("en/b", "Iron: a metal\n\nIron is one.\n\nIt rusts.\n"),
            document("es/c", "Cobre\n\nEs un metal.\n"),
        ]
    )
    assert (asked.id, asked.source) == ("en/a", "encyclopedia")
    assert texts(asked) == ["What is Tin?", "Tin is a metal.\nIt melts."]
    assert "Iron: a metal" in texts(titled)[0]
    assert texts(titled)[1] == "Iron is one.\n\nIt rusts."
    assert texts(spanish)[0] in ("Explica brevemente: Cobre", "¿Qué sabes del siguiente tema? Cobre")


@pytest.mark.parametrize("wrong", [document("en/x", "no title"), document("xx/x", "A\n\nB"), document("x", "A\n\nB")])
def test_a_document_of_another_pack_is_refused(wrong: Document) -> None:
    with pytest.raises(ValueError, match="not one of the encyclopedia pack"):
        list(encyclopedia_conversations([wrong]))


def test_every_article_of_the_pack_becomes_a_conversation() -> None:
    try:
        documents = list(find_pack("encyclopedia").documents(ReadOptions(languages=("en", "fr", "es"))))
    except PackUnavailable as error:
        pytest.skip(str(error))
    found = list(encyclopedia_conversations(documents))
    assert len(found) == len(documents) > 9_000
    assert all(text.strip() for conversation in found for text in texts(conversation))
    assert all(len({texts(c)[0][:9] for c in found if c.id.startswith(code)}) > 1 for code in ("en/", "fr/", "es/"))


def test_the_curriculum_gives_instructions_of_its_train_split() -> None:
    found = list(curriculum_conversations(2, 5, 48))
    assert [c.source for c in found] == [*curriculum.FAMILIES] * 2
    problems = [list(curriculum.generate(family, "train", 2, 5, 48)) for family in curriculum.FAMILIES]
    expected = [problem for row in zip(*problems) for problem in row]
    assert [c.id for c in found] == [problem.id for problem in expected]
    for conversation, problem in zip(found, expected):
        user, answer = conversation.messages
        assert (user.role, answer.role) == ("user", "assistant")
        assert texts(conversation)[0] == "".join(p.text for p in problem.prompt if isinstance(p, Text)).rstrip()
        assert answer.parts == (Text(problem.answer.strip()),)
        pictures: Sequence[Image] = [part for part in user.parts if isinstance(part, Image)]
        assert len(pictures) == sum(isinstance(part, Image) for part in problem.prompt)
    assert sum(any(isinstance(part, Image) for part in c.messages[0].parts) for c in found) == 12


def test_a_longer_reading_begins_with_a_shorter_one() -> None:
    short, long = (list(curriculum_conversations(n, 1, 48, ("addition",))) for n in (3, 6))
    assert [(c.id, texts(c)) for c in long[:3]] == [(c.id, texts(c)) for c in short]
    with pytest.raises(UserError, match="no curriculum family"):
        list(curriculum_conversations(1, 0, 48, ("nothing",)))
