"""The command line as a person meets it: help, versions, and every kind of bad input in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forescale import cli


def forescale(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forescale.cli", *words], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys; from forescale import cli; cli.main(['--help']); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "forescale.cli", "--help"], check=True, capture_output=True)
        best = min(best, time.perf_counter() - started)
    assert best < 2, "help should come at once; something heavy is imported"


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli.VERBS:
        with pytest.raises(SystemExit) as stop:
            cli.main([verb, "--help"])
        assert stop.value.code == 0
        assert "xample" in capsys.readouterr().out, verb


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dance"], "no verb 'dance'"),
        (["run"], "name a recipe"),
        (["run", "gigantic"], "no recipe 'gigantic'"),
        (["run", "quick", "--target.compute", "0"], "above zero"),
        (["run", "quick", "--target.compute", "nan"], "above zero"),
        (["run", "quick", "--target.compute", "1e9"], "raise the target's compute"),
        (["run", "quick", "--target.compute", "1e25"], "above the largest model"),
        (["plan", "quick", "--target.compute", "inf"], "finite number"),
        (["plan", "quick", "--family.image-size", "144"], "does not fit a sequence"),
        (["plan", "quick", "--family.sequence-length", "0"], "sequence_length is 0"),
        (["plan", "quick", "--family.patch-size", "0"], "patch_size is 0"),
        (["plan", "quick", "--family.tokens-per-param", "-1"], "tokens_per_param"),
        (["plan", "quick", "--family.learning-rates.muon", "nan"], "learning rate"),
        (["plan", "quick", "--ladder.workers", "-1"], "0 workers"),
        (["run", "quick", "--capability.problems", "0"], "at least 1"),
        (["run", "quick", "--ladder.caps", "0.5"], "above 1"),
        (["run", "quick", "--family.vocab-size", "100"], "at least 262"),
        (["run", "quick", "--family.patch-size", "13"], "no multiple of patch size"),
        (["run", "quick", "--corpus", "/nowhere/at/all"], "/nowhere/at/all"),
        (["run", "quick", "--corpus", "x", "--corpus-weight", "3"], "--corpus-weight"),
        (["runs", "--dir", "/nowhere"], "not a folder"),
        (["report", "--dir", "/nowhere"], "not a run folder"),
        (["data", "--sample", "nonsense"], "nonsense"),
        (["forecast", "--runs", "/nowhere.csv", "--target", "1e20"], "/nowhere.csv"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    words: list[str], says: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith("forescale: ")
    assert says in last
    assert "Traceback" not in err
    assert out == ""
    assert not [p for p in tmp_path.rglob("*") if p.name == "manifest.json"]


def test_every_corpus_of_the_readmes_command_is_read() -> None:
    own = ["a", "b.jsonl.gz", "s3://c/d.parquet"]
    flags = [word for path in own for word in ("--corpus", path)]
    words = ["quick", *flags, "--corpus-weight", "0.6", "--out", "somewhere"]
    recipe, out = cli._recipe("run", words)
    first = recipe.data.sources[:3]
    assert [(s.path, s.kind) for s in first] == [
        ("a", "folder"),
        ("b.jsonl.gz", "jsonl"),
        ("s3://c/d.parquet", "parquet"),
    ]
    assert sum(s.weight for s in first) == pytest.approx(0.6)
    assert sum(s.weight for s in recipe.data.sources) == pytest.approx(1.0)
    assert out == Path("somewhere")


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "quick", "--frobnicate"])
    assert stop.value.code == 2
    assert "frobnicate" in capsys.readouterr().err


def test_a_strangers_runs_become_a_forecast_in_json_and_nothing_else(tmp_path: Path) -> None:
    rows = [f"{c:g},{2.0 + 30 * c**-0.08:.5f}" for c in (1e16, 3e16, 1e17, 3e17, 1e18, 3e18)]
    (tmp_path / "mine.csv").write_text("compute,loss\n" + "\n".join(rows) + "\n")
    done = forescale("forecast", "--runs", "mine.csv", "--target", "1e20", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    for key in ("predicted", "interval", "interval_level", "law", "baseline_loglog_line", "warnings"):
        assert key in table
    truth = 2.0 + 30 * 1e20**-0.08
    assert table["predicted"] == pytest.approx(truth, rel=0.05)
    assert table["interval"][0] < truth < table["interval"][1]
    assert json.loads((tmp_path / "mine-forecast.json").read_text()) == table
    figure = (tmp_path / "mine-forecast.svg").read_text()
    assert f"{table['predicted']:.4g}" in figure
    assert "last rung" in figure
    text = forescale("forecast", "--runs", "mine.csv", "--target", "1e20", "--out", "mine.png", cwd=tmp_path)
    assert "forecast loss" in text.stdout
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    refused = forescale("forecast", "--runs", "mine.csv", "--target", "1e20", "--out", "mine.pdf", cwd=tmp_path)
    assert refused.returncode == 2
    assert ".svg or .png" in refused.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("flops,loss\n1,2\n", "compute"),
        ("compute,loss\n1e18,3\n", "3 or more different computes"),
        ("compute,loss\n1e18,-3\n1e19,2\n1e20,1\n", "above 0"),
        ("compute,loss\n1e18,x\n1e19,2\n1e20,1\n", "'x'"),
        ("", "empty"),
    ],
)
def test_a_csv_that_cannot_carry_a_forecast_is_refused(content: str, says: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.csv").write_text(content)
    assert cli.main(["forecast", "--runs", str(tmp_path / "mine.csv"), "--target", "1e21", "--json"]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
