from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forescale.checkpoints.encoding import Prompt
from forescale.core.errors import UserError
from forescale.generate import score as scoring
from forescale.generate.score import GROUP_COST, PASS_COST, Query, groups, score
from forescale.model.config import ModelConfig
from forescale.model.multimodal import Model

IMAGE = 1
CONFIG = ModelConfig(
    vocab_size=60, width=24, depth=2, heads=4, kv_heads=2, head_dim=8, mlp_width=48, sequence_length=48,
    image_size=8, patch_size=4, vision_width=16, vision_depth=1, vision_heads=2, vision_mlp_width=24,
)  # fmt: skip
SHAPES = {
    "grouped keys": CONFIG,
    "as many keys as heads": dataclasses.replace(CONFIG, kv_heads=4, qk_norm=False),
    "text alone, tied head": dataclasses.replace(CONFIG, image_size=0, patch_size=0, tie_embeddings=True),
}
NO_PIXELS = np.zeros((0, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """So small products only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def model(shape: str = "grouped keys") -> Model:
    """Without zero matrices, so that every path matters."""
    config = SHAPES[shape]
    made = Model(config, IMAGE if config.has_vision else -1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim > 1:
                p.normal_(0, 1.5 * p.shape[-1] ** -0.5, generator=generator)
    return made.eval()


@torch.inference_mode()
def plainly(made: Model, query: Query) -> list[tuple[float, bool]]:
    """Each continuation by a full forward pass of its own."""
    found = []
    for continuation in query.continuations:
        ids = torch.tensor([[*query.prompt.ids, *continuation]])
        logs = (
            made(ids[:, :-1], torch.from_numpy(query.prompt.pixels))[0, -len(continuation) :].double().log_softmax(-1)
        )
        likeliest = tuple(logs.argmax(-1).tolist()) == continuation
        found.append((float(logs[range(len(continuation)), list(continuation)].sum()), likeliest))
    return found


def assert_as_plain(made: Model, queries: Sequence[Query], **options: int) -> None:
    got = score(made, queries, **options)
    for query, values in zip(queries, got, strict=True):
        expected = plainly(made, query)
        assert [v.logprob for v in values] == pytest.approx([logprob for logprob, _ in expected], abs=2e-4)
        assert [v.greedy for v in values] == [greedy for _, greedy in expected]


def text(*ids: int) -> Prompt:
    return Prompt(ids, NO_PIXELS)


def picture(seed: int, before: Sequence[int] = (), after: Sequence[int] = (5,)) -> Prompt:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    return Prompt((*before, *[IMAGE] * CONFIG.image_tokens, *after), pixels)


tokens = st.integers(2, 7)
# Few tokens and a handful of beginnings, so that prompts do share.
beginnings = st.sampled_from([(), (2,), (2, 3, 4, 5, 6) * 3, (2, 3, 4, 5, 6) * 3 + (7, 7), tuple(range(2, 8)) * 5])
continuations = st.lists(st.lists(tokens, min_size=1, max_size=5).map(tuple), min_size=1, max_size=4).map(tuple)


@st.composite
def queries_of(draw: st.DrawFn, pictures: bool) -> list[Query]:
    found = []
    for _ in range(draw(st.integers(1, 9))):
        begin, end = draw(beginnings), draw(st.lists(tokens, min_size=1, max_size=6))
        kind = draw(st.sampled_from(["text", "picture"] if pictures else ["text"]))
        prompt = picture(draw(st.integers(0, 2)), begin, end) if kind == "picture" else text(*begin, *end)
        found.append(Query(prompt, draw(continuations)))
    return found


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_scores_are_those_of_full_forward_passes(shape: str, data: st.DataObject) -> None:
    queries = data.draw(queries_of(SHAPES[shape].has_vision))
    assert_as_plain(model(shape), queries, batch_tokens=data.draw(st.sampled_from([1, 40, 4096])))


def test_sharing_and_branching_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = model(), []
    hidden = type(made).hidden

    def counted(self: Model, tokens_BT: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(tuple(tokens_BT.shape))
        return hidden(self, tokens_BT, *rest)

    monkeypatch.setattr(type(made), "hidden", counted)
    shared = tuple(range(2, 32))
    queries = [Query(text(*shared, i), ((2,), (3, 4), (3, 5, 6))) for i in range(2, 8)]
    score(made, queries)
    # The beginning once; then one token of the prompt and 0 + 1 + 2 of the continuations, in six rows.
    assert seen == [(1, 30), (6, 4)]
    monkeypatch.undo()
    assert_as_plain(made, queries)


def test_prompts_that_share_nothing_are_batched_together(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = model(), []
    hidden = type(made).hidden
    monkeypatch.setattr(type(made), "hidden", lambda self, x, *rest: (seen.append(len(x)), hidden(self, x, *rest))[1])
    queries = [Query(picture(i, after=(i, 9)), ((2,), (3,))) for i in range(2, 10)]
    queries += [Query(text(i, 2, 3), ((4, 5),)) for i in range(20, 24)]
    score(made, queries)
    assert sum(seen) == len(queries)
    assert len(seen) <= 2
    monkeypatch.undo()
    assert_as_plain(made, queries)


def test_a_beginning_is_shared_up_to_the_first_picture() -> None:
    shared = tuple(range(2, 40))
    prompts = [picture(i, shared, (i,)) for i in range(2, 7)]
    assert groups(prompts, IMAGE) == [(38, [0, 1, 2, 3, 4])]
    assert_as_plain(model(), [Query(prompt, ((7,), (8, 9))) for prompt in prompts])


def test_pictures_go_to_their_own_rows_whatever_the_order() -> None:
    generator = np.random.default_rng(0)
    prompts = [picture(seed, after=range(2, 3 + seed)) for seed in range(9)]
    two = Prompt((*[IMAGE] * 4, 6, *[IMAGE] * 4, 7), generator.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    assert_as_plain(model(), [Query(p, ((3,), (4, 5))) for p in (*prompts[::-1], two)], batch_tokens=30)


def test_the_greedy_continuation_is_called_greedy() -> None:
    made, prompt = model(), text(2, 3, 4)
    ids = list(prompt.ids)
    with torch.inference_mode():
        for _ in range(4):
            ids.append(int(made(torch.tensor([ids]))[0, -1].argmax()))
    greedy = tuple(ids[3:])
    other = (*greedy[:3], (greedy[3] + 1) % 60)
    assert [value.greedy for value in score(made, [Query(prompt, (greedy, other))])[0]] == [True, False]


def test_long_texts_take_the_head_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "HEAD_LOGITS", 5 * 60 + 7)
    queries = [Query(text(2), (tuple(range(2, 40)),)), Query(text(3, 4), ((5,), (6, 7, 8)))]
    assert_as_plain(model(), queries)


def test_every_query_is_reported_once() -> None:
    queries = [Query(text(*range(2, 30), i), ((3,),)) for i in range(5)] + [Query(text(40), ((3,), (4, 5)))]
    reported = {}
    result = score(model(), queries, lambda i, values: reported.setdefault(i, values))
    assert reported == dict(enumerate(result))


def test_what_does_not_fit_the_positions_is_refused() -> None:
    made = model()  # 96 positions: the last token of a continuation needs none
    assert_as_plain(made, [Query(text(*[3] * 94), ((4, 5, 6),))])
    with pytest.raises(UserError, match="98 tokens asked of a model that has 96 positions"):
        score(made, [Query(text(*[3] * 94), ((4,), (4, 5, 6, 7)))])


@pytest.mark.parametrize(("ids", "follows"), [((), ((2,),)), ((2,), ()), ((2,), ((3,), ()))])
def test_empty_queries_are_refused(ids: tuple[int, ...], follows: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Query(text(*ids), follows)


def saved(shared_and_members: Sequence[tuple[int, Sequence[int]]]) -> int:
    return sum(n * (len(m) - 1) - GROUP_COST for n, m in shared_and_members if n)


def shared_by(prompts: Sequence[Prompt]) -> int:
    """By the definition: the longest beginning of all that leaves each a token."""
    n = 0
    while all(len(p.ids) > n + 1 for p in prompts) and len({p.ids[: n + 1] for p in prompts}) == 1:
        n += 1
    return n


prompts_of = st.lists(
    st.tuples(beginnings, beginnings, st.lists(tokens, min_size=1, max_size=3)).map(
        lambda t: text(*t[0], *t[1], *t[2])
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@example(prompts=[text(*[2] * 60, i) for i in range(3, 6)] + [text(*[2] * 30, 9, i) for i in range(3, 6)])
@given(prompts=prompts_of)
def test_the_cut_is_the_cheapest_of_the_sorted_prompts(prompts: list[Prompt]) -> None:
    found = groups(prompts)
    assert sorted(i for _, members in found for i in members) == list(range(len(prompts)))
    for shared, members in found:
        assert shared == (shared_by([prompts[i] for i in members]) if shared else 0)
    order = sorted(prompts, key=lambda p: p.ids)
    best = 0
    for size in range(len(order)):
        for cuts in itertools.combinations(range(1, len(order)), size):
            pieces = [order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])]
            best = max(best, saved([(shared_by(p), range(len(p))) for p in pieces if len(p) > 1]))
    assert saved(found) == best


def test_groups_beyond_the_reach_of_the_search_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "GROUP", 4)
    prompts = [text(*[2] * 40, i, 3) for i in range(3, 23)] + [text(*[50] * 40, i, 3) for i in range(3, 13)]
    assert groups(prompts) == [(40, list(range(20))), (40, list(range(20, 30)))]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 120), st.sampled_from([0, 24]))
def test_batches_have_the_least_padding(lengths: list[int], budget: int, shared: int) -> None:
    queries = [Query(text(*[3] * (shared + n)), ((4,),)) for n in lengths]
    batches = scoring._batches(queries, range(len(queries)), shared, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))

    def cost(pieces: Sequence[Sequence[int]]) -> float:
        fits = all(len(p) == 1 or len(p) * (max(p) + shared // 8) <= budget for p in pieces)
        return sum(PASS_COST + len(p) * max(p) for p in pieces) if fits else float("inf")

    order = sorted(lengths)
    best = min(
        cost([order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])])
        for size in range(len(order))
        for cuts in itertools.combinations(range(1, len(order)), size)
    )
    assert cost([[lengths[i] for i in batch] for batch in batches]) == best
