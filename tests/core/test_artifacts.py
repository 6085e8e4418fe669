from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from forescale.core.artifacts import MANIFEST, Manifest, Stage, atomic_path, single_writer, verify, write_json
from forescale.core.config import digest
from forescale.core.errors import CorruptArtifact, UserError
from forescale.core.listing import list_artifacts, render


@dataclass(frozen=True)
class Config:
    text: str = "a"


def counting(name: str, calls: list[str], volatile: frozenset[str] = frozenset()) -> Stage:
    def run(config, inputs, out_dir):
        calls.append(name)
        text = config.text + "".join((folder / "out.txt").read_text() for folder in inputs.values())
        (out_dir / "out.txt").write_text(text)
        (out_dir / "clock.txt").write_text(str(time.time_ns()))

    return Stage(name, run, volatile=volatile or frozenset({"clock.txt"}))


def test_runs_once_and_again_only_when_something_changed(tmp_path: Path) -> None:
    calls: list[str] = []
    a, b = counting("a", calls), counting("b", calls)
    a.make(Config(), {}, tmp_path / "a")
    b.make(Config("b"), {"a": tmp_path / "a"}, tmp_path / "b")
    a.make(Config(), {}, tmp_path / "a")
    b.make(Config("b"), {"a": tmp_path / "a"}, tmp_path / "b")
    assert calls == ["a", "b"]
    a.make(Config("other"), {}, tmp_path / "a")
    b.make(Config("b"), {"a": tmp_path / "a"}, tmp_path / "b")
    assert calls == ["a", "b", "a", "b"]
    assert (tmp_path / "b" / "out.txt").read_text() == "bother"


def test_deleting_one_artifact_reruns_it_and_nothing_that_would_come_out_the_same(tmp_path: Path) -> None:
    calls: list[str] = []
    a, b = counting("a", calls), counting("b", calls)
    a.make(Config(), {}, tmp_path / "a")
    b.make(Config("b"), {"a": tmp_path / "a"}, tmp_path / "b")
    (tmp_path / "a" / MANIFEST).unlink()
    (tmp_path / "a" / "out.txt").unlink()
    (tmp_path / "a" / "clock.txt").unlink()
    a.make(Config(), {}, tmp_path / "a")
    b.make(Config("b"), {"a": tmp_path / "a"}, tmp_path / "b")
    assert calls == ["a", "b", "a"]


def test_a_changed_output_is_noticed_and_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    stage = counting("a", calls)
    stage.make(Config(), {}, tmp_path / "a")
    (tmp_path / "a" / "out.txt").write_text("b")
    with pytest.raises(CorruptArtifact, match=r"out\.txt does not match"):
        verify(tmp_path / "a")
    stage.make(Config(), {}, tmp_path / "a")
    assert calls == ["a", "a"]
    assert verify(tmp_path / "a").outputs.keys() == {"out.txt"}


def test_never_clears_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="did not make"):
        counting("a", []).make(Config(), {}, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_kill_at_the_very_start_does_not_jam_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "..stage.json.77.tmp").write_text("half")
    counting("a", []).make(Config(), {}, tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir() if p.name != ".lock") == ["clock.txt", MANIFEST, "out.txt"]


def test_a_killed_stage_keeps_its_leftovers_and_another_key_clears_them(tmp_path: Path) -> None:
    seen: list[bool] = []

    def run(config, inputs, out_dir):
        seen.append((out_dir / "part").exists())
        (out_dir / "part").write_text("x")
        if len(seen) == 1:
            raise KeyboardInterrupt

    stage = Stage("a", run)
    with pytest.raises(KeyboardInterrupt):
        stage.make(Config(), {}, tmp_path / "a")
    assert not (tmp_path / "a" / MANIFEST).exists()
    stage.make(Config(), {}, tmp_path / "a")
    stage.make(Config("other"), {}, tmp_path / "a")
    assert seen == [False, True, False]


def _hold(folder: str, ready) -> None:
    with single_writer(Path(folder)):
        ready.set()
        time.sleep(60)


def test_two_processes_never_write_one_artifact_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready))
    other.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match="another process is writing"), single_writer(tmp_path, wait_seconds=0.2):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with single_writer(tmp_path, wait_seconds=5):
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})


def test_hashes_do_not_depend_on_order() -> None:
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})


def test_listing_shows_finished_unfinished_and_damaged(tmp_path: Path) -> None:
    stage = counting("a", [])
    for name in ("a", "b", "c"):
        stage.make(Config(), {}, tmp_path / name)
    (tmp_path / "b" / MANIFEST).write_text("{")
    (tmp_path / "c" / MANIFEST).rename(tmp_path / "c" / ".stage.json")
    rows = {row["artifact"]: row["state"] for row in list_artifacts(tmp_path)}
    assert rows == {"a": "done", "b": "damaged", "c": "unfinished"}
    assert "unfinished" in render(list_artifacts(tmp_path))
    with pytest.raises(UserError, match="not a folder"):
        list_artifacts(tmp_path / "nowhere")


def test_manifest_says_what_was_made_of_what(tmp_path: Path) -> None:
    a, b = counting("a", []), counting("b", [])
    first = a.make(Config(), {}, tmp_path / "a")
    second = b.make(Config("b"), {"a": tmp_path / "a"}, tmp_path / "b", seed=3)
    assert second.inputs == {"a": first.content}
    assert second.seed == 3
    assert Manifest.load(tmp_path / "b") == second
    assert "clock.txt" in second.volatile
