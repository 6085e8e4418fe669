from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from forescale.cli import main
from forescale.core.errors import UserError
from forescale.forecast.anchor import anchor, check_anchor, seals
from forescale.forecast.seal import seal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for cap in (10, 100):
        seal(
            {"cap_ratio": cap, "loss": {"predicted": 2.0}}, tmp_path / "run" / "forecasts" / f"{cap}x" / "forecast.json"
        )
    return tmp_path / "run"


def forge(run: Path) -> None:
    path = run / "forecasts" / "10x" / "forecast.json"
    path.unlink()
    seal({"cap_ratio": 10, "loss": {"predicted": 2.1}}, path)


def test_a_file_tells_a_seal_that_was_made_again(run: Path, tmp_path: Path) -> None:
    where = str(tmp_path / "anchor.json")
    assert anchor(seals(run), where) == where
    assert check_anchor(seals(run), where) == []
    assert "2.0" not in json.dumps([line["sha256"] for line in json.loads(Path(where).read_text())["seals"]])
    forge(run)
    (sentence,) = check_anchor(seals(run), where)
    assert "forecasts/10x/forecast.json is not what was anchored" in sentence
    (run / "forecasts" / "10x" / "forecast.json").unlink()
    (sentence,) = check_anchor(seals(run), where)
    assert sentence == "forecasts/10x/forecast.json was anchored and is missing"


def test_a_git_tag_tells_it_too(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    with pytest.raises(UserError, match="git tag failed"):
        anchor(seals(run), "tag")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *words], check=True)
    tag = anchor(seals(run), "tag")
    assert check_anchor(seals(run), tag) == []
    with pytest.raises(UserError, match="already exists"):
        anchor(seals(run), "tag")
    forge(run)
    assert len(check_anchor(seals(run), tag)) == 1


def test_what_is_edited_is_not_anchored_and_nothing_is_replaced(run: Path, tmp_path: Path) -> None:
    where = tmp_path / "anchor.json"
    anchor(seals(run), str(where))
    before = where.read_bytes()
    with pytest.raises(UserError, match="never replaced"):
        anchor(seals(run), str(where))
    assert where.read_bytes() == before
    path = run / "forecasts" / "100x" / "forecast.json"
    path.write_text(path.read_text().replace("2.0", "1.9"))
    with pytest.raises(UserError, match=r"100x/forecast.json: this forecast was edited"):
        anchor(seals(run), str(tmp_path / "other.json"))
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        '{"format": "forescale-anchor", "seals": []}',
        '{"format": "forescale-anchor", "seals": [{"forecast": 1}]}',
    ],
)
def test_what_is_no_anchor_is_refused(run: Path, tmp_path: Path, content: str) -> None:
    where = tmp_path / "anchor.json"
    where.write_text(content)
    with pytest.raises(UserError, match="is no anchor"):
        check_anchor(seals(run), str(where))


def test_the_verb(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(tmp_path / "anchor.json")
    assert main(["seal", "--dir", str(run), "--anchor", where]) == 0
    assert seals(run)[0].sha256 in capsys.readouterr().out
    assert main(["seal", "--dir", str(run), "--check", where]) == 0
    forge(run)
    assert main(["seal", "--dir", str(run), "--check", where]) == 1
    assert "not what was anchored" in capsys.readouterr().err
    assert main(["seal", "--dir", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["seal", "--dir", str(tmp_path / "empty")]) == 2
