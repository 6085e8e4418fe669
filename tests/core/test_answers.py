from __future__ import annotations

import pytest

from forescale.core.answers import answer_of

CASES = {
    "nothing thought": ("Paris", "Paris"),
    "a block": ("<think>Lyon? No.</think>Paris", "Paris"),
    "opened in the prompt": ("Lyon? No.\n</think>\n\nParis", "Paris"),
    "never closed": ("<think>It may be Lyon", ""),
    "two blocks": ("<think>a</think>\n<think>b</think> Paris", "Paris"),
    "an empty block": ("<think>\n\n</think>\n\nParis", "Paris"),
    "another name": ("<thinking>a</thinking>Paris", "Paris"),
    "brackets": ("[THINK]a[/THINK]Paris", "Paris"),
    "capitals": ("<Think>a</THINK>Paris", "Paris"),
    "reasoning": ("<reasoning>a</reasoning>Paris", "Paris"),
    "spaces before": ("  \n<think>a</think>Paris", "Paris"),
    "spoken of": (
        "The tag <think> opens a block, </think> ends it.",
        "The tag <think> opens a block, </think> ends it.",
    ),
    "code about it": ("text.split('</think>')[-1]", "text.split('</think>')[-1]"),
    "between backticks": ("Models write `</think>` first.", "Models write `</think>` first."),
    "nothing": ("", ""),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_answers_are_read_without_thoughts(text: str, expected: str) -> None:
    assert answer_of(text) == expected
