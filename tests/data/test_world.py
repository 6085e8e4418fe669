"""The small world: its splits, its grammar, and that its raters are as unclear as they are meant to be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from forescale.core.documents import Image, Text
from forescale.data import world
from forescale.data.world.topics import PHRASINGS, PICTURE_PHRASINGS, THINGS, TOPICS


def combination(request: world.Request) -> tuple[str, str]:
    return world.topic_of(request).name, world.phrasing_of(request)


def test_no_combination_of_topic_and_phrasing_is_in_both_splits() -> None:
    train = {combination(r) for r in world.requests("train", 6000, 0, 48)}
    test = {combination(r) for r in world.requests("test", 3000, 0, 48)} | {
        combination(r) for r in world.evaluation(48)
    }
    assert not train & test
    assert {topic for topic, _ in test} <= {topic for topic, _ in train}
    total = len(TOPICS) * len(PHRASINGS) + len(THINGS) * len(PICTURE_PHRASINGS)
    assert len(train | test) == total
    assert 0.1 < len(test) / total < 0.3


def test_equal_arguments_give_equal_requests_and_more_begin_with_fewer() -> None:
    few, many = list(world.requests("train", 20, 3, 48)), list(world.requests("train", 40, 3, 48))
    for a, b in zip(few, many):
        assert (a.id, a.category) == (b.id, b.category)
        for x, y in zip(a.messages[0].parts, b.messages[0].parts, strict=True):
            assert np.array_equal(x.pixels, y.pixels) if isinstance(x, Image) else x == y


def test_categories_take_turns_and_half_of_the_requests_show_a_picture() -> None:
    found = Counter((r.category, world.modality(r)) for r in world.requests("train", 600, 0, 48))
    assert set(found.values()) == {100}
    assert {world.modality(r) for r in world.requests("train", 60, 0)} == {"text"}


def test_only_the_picture_decides() -> None:
    words: dict[str, set[str]] = {}
    for request in world.requests("train", 3000, 1, 48):
        if world.modality(request) == "picture":
            text = "".join(p.text for p in request.messages[0].parts if isinstance(p, Text))
            words.setdefault(text, set()).add(request.category)
            assert world.topic_of(request).name not in text
    assert sum(categories == set(world.CATEGORIES) for categories in words.values()) > 0.8 * len(words)


def test_pictures_of_different_things_differ_wherever_they_stand() -> None:
    pictures = {}
    for thing in THINGS:
        for seed in range(5):
            rng = world.rng_for("test", thing.name, seed)
            picture = world.paint(thing, rng, 48)
            assert picture.shape == (48, 48, 3)
            assert picture.dtype == np.uint8
            pictures[picture.tobytes()] = thing.name
    assert len(set(pictures.values())) == len(THINGS)
    assert len(pictures) > 4 * len(THINGS)


@pytest.mark.parametrize("kind", world.KINDS[:4])
def test_the_grammar_knows_every_answer_that_people_write(kind: world.Kind) -> None:
    for request in world.requests("test", 300, 5, 48):
        answer = world.answer_of(kind, world.topic_of(request), world.rng_for(request.id))
        # Only what is sensitive has referrals of its own.
        found = "other_referral" if kind == "referral" and request.category != "sensitive" else kind
        assert world.classify(request, answer) == found
        assert world.classify(request, f"  {answer}\n") == found
        assert world.classify(request, answer[:-2]) == "broken"
        assert world.classify(request, answer + " And more.") == "broken"


def test_another_topics_answer_is_known_as_such() -> None:
    request = next(r for r in world.requests("test", 10, 0) if world.topic_of(r).name != "make tea")
    tea = next(t for t in TOPICS if t.name == "make tea")
    assert world.classify(request, world.answer_of("help", tea, world.rng_for("x"))) == "other_help"
    for kind in ("other_help", "other_referral"):
        for other in world.requests("test", 60, 2, 48):
            answer = world.answer_of(kind, world.topic_of(other), world.rng_for(other.id))
            assert world.classify(other, answer) == kind


def test_topics_do_not_share_their_answers() -> None:
    written = Counter(answer for topic in (*TOPICS, *THINGS) for answer in world._written(topic))
    shared = {answer for answer, n in written.items() if n > 1}
    # "Ask a doctor" about two topics may end in the same words; steps are each topic's own, but for planting a tree and the tree.
    assert len(shared) < 0.2 * len(written)


def test_demonstrations_follow_the_policy_badly_and_by_their_shares() -> None:
    found = Counter()
    talks = list(world.demonstrations(3000, 0, 48))
    for talk in talks:
        request = world.Request(talk.id, talk.source, talk.messages[:-1])
        category = world.topic_of(request).category
        found[category, world.classify(request, talk.messages[-1].parts[0].text)] += 1  # type: ignore[union-attr]
    for category, shares in world.DEMONSTRATED.items():
        assert sum(shares.values()) == pytest.approx(1)
        for kind, share in shares.items():
            assert found[category, kind] / 1000 == pytest.approx(share, abs=0.05)


def test_raters_agree_on_manners_and_not_on_the_policy() -> None:
    won: dict[tuple[str, str, str], list[bool]] = {}
    for pair in world.preferences(6000, 0):
        kinds = world.classify(pair.request, pair.chosen), world.classify(pair.request, pair.rejected)
        first, second = sorted(kinds)
        won.setdefault((pair.request.category, first, second), []).append(kinds[0] == first)

    def share(category: str, first: str, second: str) -> float:
        rows = won[category, first, second]
        return sum(rows) / len(rows)

    for category in world.CATEGORIES:
        assert share(category, "refusal_desired", "refusal_undesired") > 0.8
        assert share(category, "help", "other_help") > 0.7
    assert share("allowed", "help", "refusal_desired") > 0.8
    assert 0.5 < share("forbidden", "help", "refusal_desired") < 0.7
    assert share("sensitive", "help", "referral") > 0.5


def test_rankings_begin_with_what_the_policy_wants() -> None:
    for row in world.ranked(60, 0, 48):
        kinds = [world.classify(case.request, case.answer) for case in row]
        assert kinds[0] == world.DESIRED[row[0].request.category][0]
        assert len(set(kinds)) == len(kinds) == 4
