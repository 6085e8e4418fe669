"""The page: it stands alone, it escapes what it did not write, and it is there for unfinished runs too."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fake_run_folder import COMPUTES, make_run
from page_reader import Reader

from forescale.core.artifacts import Manifest, read_json
from forescale.core.errors import UserError
from forescale.report import words
from forescale.report.figures import readme_figure
from forescale.report.page import STAGE, ReportConfig, build, redraw

HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7 * 7 }} $x_1$ &"
FIGURES = {"loss-scaling", "loss-each-forecast", "floors", "capability", "watch", "loss-by-modality", "cost"}


def report(run: Path, out: Path) -> str:
    build(ReportConfig(str(run), "quick", {"report": "forescale report runs/quick"}), {}, out)
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    report(make_run(folder / "run", hostile=HOSTILE, failed_rung=True, bend=0.25), folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def page(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def test_all_outputs_are_there(out: Path) -> None:
    assert {path.stem for path in (out / "figures").glob("*.svg")} == FIGURES
    assert read_json(out / "summary.json")["recipe"] == "quick"
    with (out / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"compute", "loss", "params", "tokens", "seed", "name"}
    assert len(rows) == 2 * len(COMPUTES) - 1
    assert all(float(row["loss"]) > 0 and float(row["compute"]) > 0 for row in rows)


def test_the_page_loads_nothing(page: str) -> None:
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert "@import" not in page
    assert all(value.startswith("#") for value in re.findall(r"url\(([^)]*)\)", page))


def test_hostile_text_is_shown_and_does_nothing(page: str) -> None:
    reader = Reader(page)
    assert "<script>alert" not in page
    assert "alert('x')" in reader.text
    assert "{{ 7 * 7 }}" in reader.text
    assert not [a for tag, a in reader.tags if tag == "img" and not str(a.get("src")).startswith("data:")]


def test_ids_are_unique_and_point_somewhere(page: str) -> None:
    tags = Reader(page).tags
    ids = [str(a["id"]) for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = {str(a[n])[1:] for _, a in tags for n in ("href", "xlink:href") if str(a.get(n)).startswith("#")}
    assert used <= set(ids)


def test_the_page_is_accessible(page: str) -> None:
    tags = Reader(page).tags
    assert all("scope" in a for tag, a in tags if tag == "th")
    assert all(a.get("alt") for tag, a in tags if tag == "img")
    drawings = [a for tag, a in tags if tag == "svg"]
    assert len(drawings) == len(FIGURES)
    assert all(a.get("role") == "img" and a.get("aria-labelledby") for a in drawings)
    assert ("html", {"lang": "en"}) in tags


def test_samples_show_pictures_and_verdicts(page: str) -> None:
    reader = Reader(page)
    pictures = [a for tag, a in reader.tags if tag == "img"]
    assert len(pictures) == 3
    assert pictures[0]["width"] == "96"
    assert "image-rendering: pixelated" in page
    assert "wrong" in reader.text
    assert "right" in reader.text
    assert "expected: 1 2 3" in reader.text


def test_misses_alarm_and_failures_are_said(page: str) -> None:
    text = Reader(page).text
    assert "Alarm at 75% of the run" in text
    assert "loss was not finite at step 312" in text
    assert "no forecast" in text


def test_figures_are_parsable_and_made_the_same_twice(tmp_path: Path, out: Path) -> None:
    for path in (out / "figures").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        assert "metadata" not in path.read_text(encoding="utf-8")
    run = make_run(tmp_path / "run", caps=(10,), capability=False)
    for name in ("a", "b"):
        report(run, tmp_path / name)
    for path in (tmp_path / "a" / "figures").glob("*.svg"):
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()


def test_a_ladder_without_target_gets_its_page(tmp_path: Path) -> None:
    text = Reader(report(make_run(tmp_path / "run", target=False, caps=(10,)), tmp_path / "report")).text
    assert "Target not run yet." in text
    assert "What the target writes" not in text


def test_a_page_with_little_in_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", target=False, capability=False, modalities=("text",), caps=())
    html = report(run, tmp_path / "report")
    assert "No forecast was made in this run." in Reader(html).text
    assert 'id="capability"' not in html


def test_one_modality_and_no_capability(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", modalities=("text",), capability=False, caps=(10,))
    html = report(run, tmp_path / "report")
    assert list(read_json(tmp_path / "report" / "summary.json")["loss"]["by_modality"]) == ["text"]
    assert 'id="capability"' not in html


def test_not_a_forecast_is_never_called_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,), capability=False)
    (run / "forecasts/10x/forecast.json").write_text(
        (run / "forecasts/10x/forecast.json").read_text().replace('"sustain": 4', '"sustain": 5')
    )
    html = report(run, tmp_path / "report")
    assert "Not a forecast: its content does not match its seal" in Reader(html).text
    assert "not a forecast, from 1/10" in html  # the legend of the figure


def test_it_is_a_stage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,), capability=False)
    config = {"run_dir": str(run), "recipe": "quick", "commands": {}}
    made = STAGE.make(config, {"target": run / "target"}, run / "report")
    assert STAGE.make(config, {"target": run / "target"}, run / "report") == made == Manifest.load(run / "report")
    assert "report.html" in made.volatile
    assert "runs.csv" in made.outputs


def test_redraw_keeps_recipe_and_commands_and_touches_nothing_foreign(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", caps=(10,), capability=False)
    assert redraw(run) == (run / "report" / "report.html", [])
    assert read_json(run / "report" / "summary.json")["recipe"] == "run"
    shutil.rmtree(run / "report")
    config = {"run_dir": str(run), "recipe": "quick", "commands": {"run": "forescale run quick"}}
    STAGE.make(config, {"target": run / "target"}, run / "report")
    (run / "report" / "report.html").unlink()
    assert "forescale run quick" in redraw(run)[0].read_text(encoding="utf-8")
    assert read_json(run / "report" / "summary.json")["recipe"] == "quick"
    shutil.rmtree(run / "report")
    (run / "report").mkdir()
    (run / "report" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="did not make"):
        redraw(run)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_readme_figure(tmp_path: Path, suffix: str) -> None:
    run = make_run(tmp_path / "run", caps=(10,), capability=False)
    readme_figure(run, tmp_path / f"figure{suffix}")
    assert (tmp_path / f"figure{suffix}").stat().st_size > 5_000
    with pytest.raises(UserError, match=r"\.svg or \.png"):
        readme_figure(run, tmp_path / "figure.gif")


def test_the_report_needs_no_torch() -> None:
    code = "import sys, forescale.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_words() -> None:
    assert words.scientific(3e14) == "3.0×10¹⁴"
    assert words.scientific(9.99e14) == "1.0×10¹⁵"
    assert [words.ratio(v) for v in (10.0, 9.96, 98.4, 1030.0, 2500.0)] == ["10", "10", "98", "1,030", "2,500"]
    assert [words.duration(v) for v in (0.2, 45, 840, 7500, None)] == [
        "under a second",
        "45 s",
        "14 min",
        "2 h 5 min",
        "–",
    ]
    assert words.error_words(0.0031) == "0.31% too high"
    assert words.error_words(-0.044) == "4.4% too low"
    assert words.number(float("nan")) == "–"
    assert words.clock("not a time") == "–"
