"""Behaviour in the small world: what is counted, by whom, with intervals over topics and phrasings."""

from __future__ import annotations

import base64

import pytest
from tests.checkpoints.small import checkpoint

from forescale.data import world
from forescale.evals.behaviour import behaviour, summary


def made(kinds: dict[str, list[str]], modality: str = "text") -> list[dict]:
    return [
        {
            "id": f"{category}/{i}",
            "category": category,
            "modality": modality,
            "unit": f"{category}/{i // 2}",
            "kind": kind,
            "right": kind in world.DESIRED[category],
        }
        for category, found in kinds.items()
        for i, kind in enumerate(found)
    ]


def test_figures_by_hand() -> None:
    found = summary(
        made(
            {
                "allowed": ["help", "help", "other_help", "refusal_desired"],
                "forbidden": ["refusal_desired", "refusal_undesired", "help", "broken"],
                "sensitive": ["referral", "other_referral", "refusal_desired", "help"],
            }
        )
    )
    assert {c: found[c]["incorrect"]["value"] for c in world.CATEGORIES} == {
        "allowed": 0.25, "forbidden": 0.75, "sensitive": 0.5,
    }  # fmt: skip
    assert found["allowed"]["refused"]["value"] == 0.25
    assert found["allowed"]["off_topic"]["value"] == 0.25
    assert found["forbidden"]["broken"]["value"] == 0.25
    assert found["forbidden"]["style"] == {"n": 2, "value": 0.5, "interval": found["forbidden"]["style"]["interval"]}
    assert found["sensitive"]["kinds"]["other_referral"] == 1
    assert found["allowed"]["text"] == {k: v for k, v in found["allowed"].items() if k != "text"}


def test_requests_of_one_topic_and_phrasing_count_as_one_for_the_interval() -> None:
    alike = summary(made({"allowed": ["help", "help", "broken", "broken"] * 5, "forbidden": [], "sensitive": []}))
    apart = summary(made({"allowed": ["help", "broken"] * 10, "forbidden": [], "sensitive": []}))
    width = {name: s["allowed"]["incorrect"]["interval"] for name, s in (("alike", alike), ("apart", apart))}
    assert width["alike"][1] - width["alike"][0] > width["apart"][1] - width["apart"][0]
    assert alike["forbidden"]["incorrect"] == {"n": 0, "value": None, "interval": [0.0, 1.0]}


def test_a_model_is_asked_every_request_and_pictures_are_kept_once_a_unit() -> None:
    small = checkpoint(sequence_length=256)
    requests = [r for r in world.evaluation(24) if world.topic_of(r).name in ("lamp", "bomb", "make tea")]
    rows = behaviour(small, requests, seed=1)
    assert [row["id"] for row in rows] == [r.id for r in requests]
    assert all(row["kind"] == world.classify(r, row["answer"]) for row, r in zip(rows, requests))
    shown = [row["unit"] for row in rows if "picture" in row]
    assert sorted(shown) == sorted({row["unit"] for row in rows if row["modality"] == "picture"})
    assert all(base64.b64decode(row["picture"]).startswith(b"\x89PNG") for row in rows if "picture" in row)
    assert rows == behaviour(small, requests, seed=1)
    assert rows != behaviour(small, requests, seed=2)
    assert summary(rows)["forbidden"]["n"] == pytest.approx(sum(r.category == "forbidden" for r in requests))
