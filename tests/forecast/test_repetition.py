"""What the target alone reads more than once is named before it runs."""

from __future__ import annotations

from typing import Any

import pytest

from forescale.forecast.repetition import read_again, readings, warning

SHARDS: dict[str, Any] = {
    "sources": {
        "books": {"weight": 0.7, "tokens_available": 1_000_000, "modality": "text"},
        "sums": {"weight": 0.2, "tokens_available": 50_000, "modality": "text"},
        "digits": {"weight": 0.095, "tokens_available": 1_000, "modality": "vision"},
        "dust": {"weight": 0.005, "tokens_available": 4_000, "modality": "text"},
    }
}


def test_readings_are_share_times_tokens_over_what_there_is() -> None:
    assert readings(SHARDS, 1e6) == pytest.approx({"books": 0.7, "sums": 4.0, "digits": 95.0, "dust": 1.25})


def test_only_what_the_target_alone_reads_again_is_named() -> None:
    # Digits are read again by the rung too, so that the ladder shows it; dust weighs too little; books are read once.
    assert read_again(SHARDS, 1e5, 1e6) == pytest.approx({"sums": 4.0})
    assert read_again(SHARDS, 1e4, 2e6) == pytest.approx({"digits": 190.0, "sums": 8.0, "books": 1.4})
    assert list(read_again(SHARDS, 1e4, 2e6)) == ["digits", "sums", "books"]


def test_a_modality_hears_of_its_own_sources() -> None:
    assert set(read_again(SHARDS, 1e4, 2e6, "vision")) == {"digits"}


def test_a_target_as_long_as_its_rung_repeats_nothing_new() -> None:
    assert read_again(SHARDS, 2e6, 2e6) == {}


def test_the_warning_says_how_much_of_the_mixture_and_what_to_do() -> None:
    says = warning(read_again(SHARDS, 1e5, 1e6), SHARDS)
    assert "20% of its mixture" in says
    assert "sums 4.0 times" in says
    assert "less weight or more documents" in says
