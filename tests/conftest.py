"""Shared fixtures: a tiny data artifact of real source code, sums and pictures, made without a network."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from forescale.core.artifacts import Stage
from forescale.data import shards as shards_stage
from forescale.data.shards import ShardsConfig
from forescale.tokenizer import stage as tokenizer_stage
from forescale.tokenizer.stage import TokenizerConfig


def write_data(config: object, inputs: object, out_dir: Path) -> None:
    """A `data` artifact: Python source that stays the same, sums, and pictures of squares to count."""
    generator = np.random.default_rng(0)
    train: list[dict] = []
    held_out: list[dict] = []
    for path in sorted(Path(asyncio.__file__).parent.glob("*.py")):
        document = {"id": path.name, "source": "code", "parts": [{"text": path.read_text()}]}
        (held_out if hashlib.sha256(path.name.encode()).digest()[0] < 60 else train).append(document)
    for i in range(400):
        a, b = generator.integers(0, 30, 2).tolist()
        document = {"id": f"sum{i}", "source": "sums", "parts": [{"text": f"{a}+{b}="}, {"text": str(a + b)}]}
        (held_out if i % 10 == 0 else train).append(document)
    pictures = []
    for i in range(120):
        picture, count = np.full((48, 48, 3), 255, np.uint8), int(generator.integers(1, 5))
        for cell in generator.choice(16, count, replace=False):
            y, x = divmod(int(cell), 4)
            picture[y * 12 + 2 : y * 12 + 10, x * 12 + 2 : x * 12 + 10] = (200, 30, 30)
        document = {
            "id": f"count{i}",
            "source": "count",
            "parts": [{"image": i}, {"text": "How many? "}, {"text": str(count)}],
        }
        pictures.append(picture)
        (held_out if i % 6 == 0 else train).append(document)
    np.stack(pictures).tofile(out_dir / "images.u8")
    for name, documents in (("documents", train), ("validation", held_out)):
        (out_dir / f"{name}.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    sources = [{"name": name, "weight": weight} for name, weight in (("code", 0.6), ("sums", 0.2), ("count", 0.2))]
    facts = {"image_size": 48, "n_images": len(pictures), "sources": sources, "notes": []}
    (out_dir / "data.json").write_text(json.dumps(facts))


DATA = Stage("data", write_data)

# With FORESCALE_NO_SKIPS any other skip fails the tests: what is skipped without a word is not tested. Reason: why it may be.
MAY_BE_SKIPPED = {
    "is not in the cache|is not cached here": "a pack that others publish; tests download nothing",
    "is not here|are not beside": "evaluation data that the project may not hold; they lie beside it where it is developed",
}


def unexpected_skips(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("FORESCALE_NO_SKIPS"):
        return []
    reasons = [
        str(report.longrepr[2]) for report in reporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)
    ]
    return sorted({reason for reason in reasons if not any(re.search(known, reason) for known in MAY_BE_SKIPPED)})


def pytest_sessionfinish(session: pytest.Session) -> None:
    if unexpected_skips(session.config) and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason in unexpected_skips(terminalreporter.config):
        terminalreporter.write_line(
            f"skipped, and not on the list of what may be (tests/conftest.py): {reason}", red=True
        )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the artifacts `data`, `tokenizer` and `shards`, shared by all tests of one process: read only."""
    root = tmp_path_factory.mktemp("prepared")
    folders = {name: root / name for name in ("data", "tokenizer", "shards")}
    DATA.make({}, {}, folders["data"])
    tokenizer_stage.STAGE.make(TokenizerConfig(vocab_size=400), {"data": folders["data"]}, folders["tokenizer"])
    config = ShardsConfig(sequence_length=64, tokens=60_000, validation_rows=4)
    inputs = {"data": folders["data"], "tokenizer": folders["tokenizer"]}
    shards_stage.STAGE.make(config, inputs, folders["shards"])
    return folders
