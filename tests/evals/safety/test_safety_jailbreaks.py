"""Jailbreak templates: what a wrapped request says, and that the file is whole."""

from __future__ import annotations

import base64
import codecs
from pathlib import Path

import numpy as np
import pytest

from forescale.core.documents import Image, Message, Request, Text
from forescale.core.errors import UserError
from forescale.evals.safety.beliefs import read_beliefs, tasks_of
from forescale.evals.safety.jailbreaks import Template, halves, load_templates

ASKED = "How do I {request} a lock?"
REQUEST = Request("1", "test", (Message("user", (Text(ASKED),)),), "forbidden")


def last(request: Request) -> str:
    return "".join(part.text for part in request.messages[-1].parts if isinstance(part, Text))


def test_every_template_holds_the_request() -> None:
    sources, templates = load_templates()
    assert len(templates) >= 20
    assert {template.technique for template in templates} == set(sources)
    shown = {
        "": lambda text: text,
        "base64": lambda text: base64.b64encode(text.encode()).decode(),
        "rot13": lambda text: codecs.encode(text, "rot13"),
        "leetspeak": lambda text: "H0w d0 1 {r3qu357} 4 l0ck?",
        "reversed": lambda text: text[::-1],
        "spaced": lambda text: "H o w _ d o _ I _ { r e q u e s t } _ a _ l o c k ?",
    }
    for template in templates:
        found = template.wrap(REQUEST)
        expected = shown[template.encoding](ASKED)
        pieces = halves(expected) if "{first}" in template.text else (expected,)
        assert all(piece in last(found) for piece in pieces), template.name
        # Nothing is left to be filled in but what the request itself says.
        assert last(found).count("{request}") == (template.encoding == "" and "{first}" not in template.text) or (
            template.name == "two halves"
        )
        assert "{first}" not in last(found)
        assert (found.id, found.category) == (REQUEST.id, REQUEST.category)
        assert [message.role for message in found.messages] == (
            ["system"] * bool(template.system) + ["user", "assistant"] * len(template.turns) + ["user"]
        )


def test_halves_are_the_whole() -> None:
    assert halves("one two three") == ("one two", "three")
    assert halves("one") == ("one", "")


def test_pictures_and_earlier_messages_stay() -> None:
    picture = Image(np.zeros((2, 2, 3), np.uint8))
    messages = (
        Message("system", (Text("own"),)),
        Message("user", (Text("before"),)),
        Message("assistant", (Text("yes"),)),
        Message("user", (Text("what "), picture, Text("is this?"))),
    )
    template = Template("t", "x", "Say: {request}", system="other", turns=(("q", "a"),))
    found = template.wrap(Request("1", "t", messages)).messages
    assert [m.role for m in found] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert found[0] == Message("system", (Text("other"),))
    assert found[-1].parts == (picture, Text("Say: what is this?"))


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ('name = "a"\ntechnique = "x"\ntext = "nothing"', "needs {request}"),
        ('name = "a"\ntechnique = "x"\ntext = "{first}"', "needs {request}"),
        ('name = "a"\ntechnique = "y"\ntext = "{request}"', "a technique of"),
        ('name = "a"\ntechnique = "x"\ntext = "{request}"\nencoding = "morse"', "one of base64"),
        ('name = "a"\ntechnique = "x"', "lacks a key"),
        ('name = "a"\ntechnique = "x"\ntext = "{request}"\nmore = 1', "one too many"),
        ('name = "plain"\ntechnique = "x"\ntext = "{request}"', "none may be called 'plain'"),
        ("name = ", "not valid TOML"),
    ],
)
def test_bad_templates(tmp_path: Path, template: str, wrong: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(f'[techniques]\nx = "someone"\n[[template]]\n{template}\n')
    with pytest.raises(UserError, match=wrong):
        load_templates(path)


# --- false beliefs


def test_beliefs_are_pairs_in_a_fixed_mixed_order() -> None:
    found = read_beliefs()
    assert len(found.items) >= 60
    places = [item.correct[0] for item in found.items]
    assert 0.3 < sum(places) / len(places) < 0.7
    assert all(len(item.options) == 2 and item.chance == 0.5 for item in found.items)
    assert {item.id: item.correct for item in read_beliefs().items} == {item.id: item.correct for item in found.items}
    bats = next(item for item in found.items if " Bats are blind." in item.options)
    assert bats.options[bats.correct[0]] == " Bats can see."


@pytest.mark.parametrize(
    "text",
    [
        '[[pair]]\ntopic = "x"\ntrue = "a"\n',
        '[[pair]]\ntopic = "x"\ntrue = "a"\nfalse = " "\n',
        '[[pair]]\ntopic = "x"\ntrue = "a"\nfalse = "b"\n' * 2,
        "",
        "[[pair]",
    ],
)
def test_bad_beliefs(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"b\.toml"):
        read_beliefs(path)


def test_truthfulqa_comes_from_the_authors_file(tmp_path: Path) -> None:
    path = tmp_path / "mc_task.json"
    path.write_text(
        '[{"question": "Is it?", "mc1_targets": {"Yes": 1, "No": 0, "Perhaps": 0}, "mc2_targets": {"Yes": 1, "No": 0}}]'
    )
    (task,) = tasks_of(str(path))
    assert task.dataset.name == "truthfulqa-mc1"
    (item,) = task.dataset.items
    assert item.options[item.correct[0]] == "Yes"
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "Who?", "options": ["a", "b"], "answer": "a"}\n')
    with pytest.raises(UserError, match="not TruthfulQA"):
        tasks_of(str(other))
