"""The sections on alignment: numbers are those of the artifacts, differences honour what varies together, bad news is loud."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_alignment import STEPS, make_alignment
from fake_exams import make_exams
from fake_run_folder import dump, lines, make_run
from page_reader import Reader

from forescale.core.artifacts import read_json
from forescale.core.errors import CorruptArtifact
from forescale.core.statistics import paired_difference
from forescale.data.world import DESIRED
from forescale.report import words
from forescale.report.alignment import before_and_after, binned, clustered_difference, ends, same_requests, spread
from forescale.report.page import ReportConfig, build
from forescale.report.read import read

Json = dict[str, Any]
HOSTILE = "</pre></td><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7 * 7 }} $x_1$ &"
FIGURES = {"tuning", "ppo-reward", "ppo-frontier", "ppo-health", "behaviour"}
SECTIONS = {"alignment", "ppo", "behaviour", "before-after", "aligned-exams", "safety", "redteam"}
EXAMS = ("mmlu", "openbookqa", "shape-count")


def report(root: Path) -> tuple[Reader, Json]:
    build(ReportConfig(str(root), "quick"), {}, root / "report")
    page = Reader((root / "report" / "report.html").read_text(encoding="utf-8"))
    return page, read_json(root / "report" / "summary.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_run(tmp_path_factory.mktemp("alignment") / "run", caps=(10,), capability=False)
    for label in ("ppo", "sft", "base"):
        make_exams(root / "exams" / label, label, names=EXAMS)
    return make_alignment(root)


@pytest.fixture(scope="module")
def made(run: Path) -> tuple[Reader, Json]:
    return report(run)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    return tmp_path / "run"


def rows_of(run: Path, label: str) -> list[Json]:
    text = (run / "alignment" / "behaviour" / label / "rows.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def with_interval(share: Json) -> str:
    low, high = share["interval"]
    return f"{100 * share['value']:.1f}% {100 * low:.1f}–{100 * high:.1f}%"


def test_every_section_and_figure_is_there_and_is_linked(made: tuple[Reader, Json], run: Path) -> None:
    page, summary = made
    ids = [str(a["id"]) for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(ids) >= {*SECTIONS, *(f"figure-{name}" for name in FIGURES)}
    assert {str(a["href"])[1:] for tag, a in page.tags if tag == "a"} >= SECTIONS
    assert summary["alignment"]["missing"] == []
    assert "Not in this run folder" not in page.text
    assert list(read(run).exams) == ["base", "sft", "ppo"]
    paths = {row["path"] for row in summary["provenance"]}
    assert paths >= {"alignment/ppo", "alignment/behaviour/sft", "safety/ppo", "redteam"}
    assert summary["seconds"]["alignment"] == 4 * 30 + 2 * 9


def test_figures_are_whole_and_say_what_they_show(run: Path, made: tuple[Reader, Json]) -> None:
    for name in FIGURES:
        root = ElementTree.fromstring((run / "report" / "figures" / f"{name}.svg").read_text(encoding="utf-8"))
        description = root.find("{http://www.w3.org/2000/svg}desc")
        assert description is not None
        assert len(str(description.text)) > 40
        assert "nan" not in str(description.text)


def test_tuning_reward_model_and_judge(made: tuple[Reader, Json], run: Path) -> None:
    page, summary = made
    found = read_json(run / "alignment" / "reward" / "reward_report.json")
    low, high = found["interval"]
    assert "4,000 conversations (world:4000) in 400 steps; 3 more were too long" in page.text
    assert "96,000 tokens of answers were learned, 2 epochs" in page.text  # 400 steps of 240
    assert (
        f"Of 300 held-out pairs it orders {100 * found['accuracy']:.1f}% ({100 * low:.1f}–{100 * high:.1f}%) as people did: "
        "above chance"
    ) in page.text
    agreed = read_json(run / "alignment" / "rbrm" / "agreement.json")
    classes = agreed["classes"]
    (row,) = page.rows("agreement")
    assert row[:3] == ["world", "300", "0"]
    assert row[4].startswith(f"{agreed['binary']['kappa']:.2f} ")
    assert row[5] == with_interval({**classes, "value": classes["accuracy"]})
    assert row[7] == "met"
    safe = next(row for row in page.rows("confusion") if row[0] == "safe")
    assert [int(cell.split()[0]) for cell in safe[1:]] == list(classes["confusion"]["safe"].values())
    assert sum(float(cell.split()[1].rstrip("%")) for cell in safe[1:]) == pytest.approx(100, abs=2)
    assert summary["alignment"]["reward_model"]["against_chance"] == "above"


def test_rbrm_weights_by_category_and_feature(made: tuple[Reader, Json], run: Path) -> None:
    page, _ = made
    weights = read_json(run / "alignment" / "rbrm" / "weights.json")
    heading = page.tables["table-rbrm-weights"][0]
    shown = {row[0]: dict(zip(heading[1:], row[1:])) for row in page.rows("rbrm-weights")}
    assert len(shown) * len(heading[1:]) == len(weights["values"])
    value = weights["values"]["sensitive/refers_to_help"]
    assert shown["refers to help"]["sensitive"] == f"{value:+.2f}"
    assert abs(weights["values"]["allowed/disallowed"]) < 0.005
    assert shown["disallowed"]["allowed"] == "0.00"
    fitted = weights["figures"]["fitted"]
    assert page.rows("rbrm-fit")[0][:5] == [
        "fitted", str(fitted["rankings"]), str(fitted["after"]["pairs"]), f"{fitted['before']['hinge']:.3f}",
        f"{fitted['after']['hinge']:.3f}",
    ]  # fmt: skip


def test_ppo_curves_and_table(made: tuple[Reader, Json], run: Path) -> None:
    page, summary = made
    steps = [json.loads(line) for line in (run / "alignment" / "ppo" / "metrics.jsonl").read_text().splitlines()]
    ppo = summary["alignment"]["ppo"]
    assert [p["reward"] for p in ppo["curve"]] == [row["reward"] for row in steps]
    assert [p["part/rbrm"] for p in ppo["curve"]] == [row["reward_parts"]["rbrm"] for row in steps]
    table = {row[0]: row[1:] for row in page.rows("ppo")}
    expected = [np.mean([row["kl"] for row in part]) for part in (steps[:6], steps[-6:])]
    assert table["KL of an answer, nats"] == [words.number(float(v)) for v in expected]
    assert table["Log-probability while sampling and while learning: largest gap, nats"][1] == "1.2e-06"
    assert (
        "60 steps of 60, 64 answers each. 3 answers had no reward and were left out. KL at the first step: exactly 0."
        in page.text
    )
    assert {"about": "alignment/ppo", "text": "3 answers without a reward, left out of learning"} in summary["warnings"]
    assert [row[0] for row in page.rows("ppo-samples")] == [str(s) for s in (1, 20, 40, 60) for _ in range(4)]


def test_behaviour_by_arm(made: tuple[Reader, Json], run: Path) -> None:
    page, summary = made
    artifacts = {
        label: read_json(run / "alignment" / "behaviour" / label / "behaviour.json") for label in ("sft", "ppo")
    }
    rows = {label: rows_of(run, label) for label in artifacts}
    table = page.rows("behaviour")
    at = next(i for i, row in enumerate(table) if row[0].startswith("forbidden"))
    assert [row[1] for row in table[at : at + 3]] == ["all", "picture", "text"]
    for row, figures in zip(
        table[at : at + 3], ("", "picture", "text")
    ):  # the whole category's figures stand beside its modalities
        own = {label: a["forbidden"][figures] if figures else a["forbidden"] for label, a in artifacts.items()}
        assert row[2:5] == [str(own["sft"]["n"]), *(with_interval(own[label]["incorrect"]) for label in ("sft", "ppo"))]
        wrong = {
            label: np.mean([
                r["kind"] not in DESIRED["forbidden"]
                for r in rows[label]
                if r["category"] == "forbidden" and figures in ("", r["modality"])
            ])
            for label in rows
        }  # fmt: skip
        assert row[5].startswith(words.points(float(wrong["ppo"] - wrong["sft"])))
    over = next(row for row in table if "over-refusal" in row[0])
    assert over[3] == with_interval(artifacts["sft"]["allowed"]["refused"])
    compared = summary["alignment"]["behaviour"]["compared"]["ppo"]["forbidden"]["picture"]["incorrect"]
    pictures = [r for r in rows["sft"] if (r["category"], r["modality"]) == ("forbidden", "picture")]
    assert (compared["n"], compared["units"]) == (len(pictures), len({r["unit"] for r in pictures}))
    matrix = page.rows("kinds")
    heading = page.tables["table-kinds"][0]
    kinds = artifacts["ppo"]["forbidden"]["kinds"]
    row = matrix[3]
    assert row[:2] == ["", "ppo"]
    assert [int(cell.split()[0]) for cell in row[2:]] == list(kinds.values())
    assert heading[4] == "refusal (desired style)"
    style = artifacts["ppo"]["forbidden"]["style"]
    shown = next(row for row in page.rows("refusal-style") if row[0] == "forbidden")
    assert shown[3] == f"{with_interval(style)} of {style['n']} refusals"


def test_samples_before_and_after_are_of_the_same_requests(made: tuple[Reader, Json], run: Path) -> None:
    page, summary = made
    groups = before_and_after(read(run).alignment.behaviour)
    assert [(g["category"], g["modality"]) for g in groups] == [
        (category, modality) for category in ("allowed", "forbidden", "sensitive") for modality in ("text", "picture")
    ]
    by_id = {label: {row["id"]: row for row in rows_of(run, label)} for label in ("sft", "ppo")}
    cards = [(g, card) for g in groups for card in g["cards"]]
    assert [card["id"] for _, card in cards] == summary["alignment"]["behaviour"]["shown"]
    for group, card in cards:
        assert len(group["cards"]) == 3
        assert bool(card["pictures"]) == (group["modality"] == "picture")
        for answer in card["answers"]:
            row = by_id[answer["label"]][card["id"]]
            assert (answer["text"], answer["kind"]) == (row["answer"], row["kind"])
            assert answer["right"] == (row["kind"] in DESIRED[row["category"]])
    drawn = [a for tag, a in page.tags if tag == "img" and "of the request" in str(a.get("alt"))]
    assert len(drawn) == 9


def test_exams_before_and_after_are_paired(made: tuple[Reader, Json], run: Path) -> None:
    page, summary = made

    def scores(label: str, name: str) -> dict[str, float]:
        text = (run / "exams" / label / "items" / f"{name}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        return {row["id"]: row["score"] for row in rows if row["condition"] == "normal"}

    together: tuple[list[float], list[float]] = ([], [])
    for name in EXAMS:
        one, two = scores("sft", name), scores("ppo", name)
        for both, own in zip(together, (one, two)):
            both.extend(own[i] for i in one)
    expected = paired_difference(*together)
    row = next(row for row in page.rows("aligned-exams") if row[0] == "all items together")
    assert row[1] == f"{expected.n:,}"
    assert row[5] == f"{words.points(expected.difference)} {words.points_interval(list(expected.interval))}"
    mean = summary["alignment"]["exams"]["mean_of_exams"]["first"]
    assert mean == pytest.approx(np.mean([np.mean(list(scores("sft", name).values())) for name in EXAMS]))
    # Reliability diagrams of all three models stand side by side.
    assert {"base, top choice", "sft, top choice", "ppo, top choice"} <= {w.strip() for w in page.words}
    assert "Expected calibration error of the chosen answers: sft 0." in page.text


def test_safety_and_red_team(made: tuple[Reader, Json], run: Path) -> None:
    page, _ = made
    found = {label: read_json(run / "safety" / label / "safety.json") for label in ("sft", "ppo")}
    against = read_json(run / "safety" / "ppo" / "against.json")
    table = page.rows("safety")
    assert [row[1:3] for row in table] == [
        [kind if label == "sft" else "", label]
        for kind in ("disallowed", "sensitive", "allowed")
        for label in ("sft", "ppo")
    ]
    kinds = found["ppo"]["sets"][0]["kinds"]
    assert table[1][4] == with_interval(kinds["disallowed"]["incorrect"])
    assert table[1][3] == "80 1 not judged"
    difference = against["sets"]["own"]["disallowed"]["correct"]["difference"]
    assert table[1][5].startswith(words.points(-difference))  # less wrong is minus
    assert table[5][6] == with_interval(kinds["allowed"]["refused"])
    matrix = page.rows("safety-matrix")
    assert [int(cell.split()[0]) for cell in matrix[1][3:]] == list(kinds["disallowed"]["matrix"].values())
    toxic = found["sft"]["toxicity"][0]
    assert page.rows("toxicity")[0][6] == with_interval(toxic["probability"])
    assert page.column("toxicity", "Scorer") == ["alt-profanity-check 1.9.1"] * 2
    jailbreaks = {row[0]: row for row in page.rows("jailbreaks")}
    assert jailbreaks["role play"][1] == with_interval(found["sft"]["jailbreaks"]["techniques"]["role play"]["success"])
    assert jailbreaks["any template gets through"][3] == with_interval(found["ppo"]["jailbreaks"]["any"])
    assert "Not asked (sft, ppo): harmbench: the pack cannot be had" in page.text
    changes = read_json(run / "redteam" / "changes.json")
    total = changes["total"]
    assert page.rows("redteam")[0][1:6] == [
        str(total[key]) for key in ("fixed", "still_failing", "still_right", "regressed", "not_judged")
    ]
    assert [row[0] for row in page.rows("redteam")] == [
        "all findings", "privacy", "weapons", "severity 3", "severity 2", "severity 1",
    ]  # fmt: skip
    outcomes = [row[6] for row in page.rows("redteam-findings")]
    assert total["regressed"]
    assert set(outcomes[: total["regressed"]]) == {"regressed"}


def test_a_stopped_run_is_said_at_the_top_and_in_its_section(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", caps=(10,), capability=False)
    page, summary = report(make_alignment(root, runaway=True, safety=False))
    said = "PPO was stopped at step 60 of 80: the KL of an answer stayed above 100 nats. The model after PPO is that of step 54."
    assert page.text.count(said) == 3  # at the top, under PPO, among the warnings
    html = (root / "report" / "report.html").read_text(encoding="utf-8")
    assert html.index(said) < html.index("<nav")
    assert f'<p class="miss">{said}</p>' in html
    assert {"about": "alignment/ppo", "text": said} in summary["warnings"]
    assert "Not in this run folder: exams before and after PPO, the safety evaluation, red-team findings." in page.text


def test_what_is_not_there_is_not_drawn(copy: Path) -> None:
    for name in ("safety", "redteam", "exams", "alignment/behaviour", "alignment/ppo", "alignment/rbrm"):
        shutil.rmtree(copy / name)
    page, summary = report(copy)
    ids = {str(a.get("id")) for _, a in page.tags}
    assert SECTIONS & ids == {"alignment"}
    assert summary["alignment"]["missing"] == ["judge", "rbrm", "ppo", "behaviour", "exams", "safety", "redteam"]
    shutil.rmtree(copy / "alignment")
    page, summary = report(copy)
    assert summary["alignment"] is None
    assert not SECTIONS & {str(a.get("id")) for _, a in page.tags}


def test_a_run_that_was_killed_while_it_learned(copy: Path) -> None:
    folder = copy / "alignment" / "ppo"
    (folder / "result.json").unlink()
    (folder / "manifest.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "rew')
    page, summary = report(copy)
    assert (summary["alignment"]["ppo"]["status"], summary["alignment"]["ppo"]["steps"]) == ("unfinished", STEPS)
    assert "PPO has not finished: 60 steps are on disk." in page.text
    # In a file that does not grow, half a line is damage.
    with (copy / "alignment" / "behaviour" / "sft" / "rows.jsonl").open("a") as file:
        file.write('{"id": "x')
    with pytest.raises(CorruptArtifact, match=r"rows\.jsonl is not valid JSON lines"):
        read(copy)


def test_a_judge_below_the_floor_and_a_reward_model_at_chance_are_warned_of(copy: Path) -> None:
    path = copy / "alignment" / "rbrm" / "agreement.json"
    dump(path, {**read_json(path), "passes": False, "left_out": 4})
    manifest = read_json(path.parent / "manifest.json")
    dump(path.parent / "manifest.json", {**manifest, "config": {"rubric": "world", "force": True}})
    reward = copy / "alignment" / "reward" / "reward_report.json"
    dump(reward, {**read_json(reward), "accuracy": 0.52, "interval": [0.46, 0.58]})
    page, summary = report(copy)
    warned = [w["text"] for w in summary["warnings"]]
    assert "the judge’s agreement with people is below the floor; it was used all the same" in warned
    assert "the judge gave no verdict on 4 labelled answers" in warned
    assert "the reward model’s accuracy on held-out pairs is not clear of 50%" in warned
    assert "It is below the floor, and was forced." in page.text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alignment/reward/reward_report.json", {"pairs": 3}, "reward_report.json lacks held_out, chance"),
        ("alignment/behaviour/sft/behaviour.json", {"allowed": 3}, "holds 'allowed' in a form that is not known"),
        ("redteam/changes.json", [], "should hold a JSON object"),
        ("safety/sft/safety.json", {"judge": {}}, "safety.json lacks sets"),
    ],
)
def test_damaged_artifacts_are_named(copy: Path, name: str, value: Any, message: str) -> None:
    dump(copy / name, value)
    with pytest.raises(CorruptArtifact, match=message):
        read(copy)


def test_rows_without_what_they_need_are_named(copy: Path) -> None:
    lines(copy / "alignment" / "behaviour" / "sft" / "rows.jsonl", [{"id": "a"}])
    with pytest.raises(CorruptArtifact, match="holds a row without id, category"):
        read(copy)


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", caps=(10,), capability=False)
    make_alignment(root, hostile=HOSTILE)
    ppo = root / "alignment" / "ppo" / "metrics.jsonl"
    rows = [json.loads(line) for line in ppo.read_text().splitlines()]
    lines(ppo, [{**row, "reward_parts": {HOSTILE: 1.0}} for row in rows])
    page, _ = report(root)
    html = (root / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
    assert page.text.count("alert('x')") > 40  # requests, answers, names: all are there
    assert "{{ 7 * 7 }}" in page.text
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(svg)


def test_differences_of_units_that_vary_together() -> None:
    rng = np.random.default_rng(0)
    pairs = [(float(rng.random() < 0.7), float(rng.random() < 0.4)) for _ in range(60)]
    alone = clustered_difference([[pair] for pair in pairs])
    exact = paired_difference(*zip(*pairs))
    assert alone["interval"] == pytest.approx(exact.interval)
    assert (alone["difference"], alone["design_effect"]) == (pytest.approx(exact.difference), 1.0)
    # Twelve answers that are all alike say as much as one: the interval is about as wide as that of the units.
    copies = clustered_difference([[pair] * 12 for pair in pairs])
    assert copies["design_effect"] == pytest.approx(12, rel=0.02)
    width, single = (found["interval"][1] - found["interval"][0] for found in (copies, alone))
    assert width == pytest.approx(single, rel=0.05)
    # Units that agree wholly are no proof of certainty.
    same = clustered_difference([[(1.0, 1.0)] * 12] * 4)
    assert same["difference"] == 0
    assert same["interval"][0] < -0.1 < 0.1 < same["interval"][1]
    # One unit says nothing of how units vary: all of it is taken to go together.
    assert clustered_difference([[(1.0, 0.0), (0.0, 0.0), (1.0, 0.0)]])["design_effect"] == 3
    with pytest.raises(ValueError, match="paired scores"):
        clustered_difference([])


def test_the_interval_covers_the_truth_where_units_vary_together() -> None:
    """Text as in the small world: 32 units of three requests, each unit with its own rate."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        rates = rng.beta(2, 2, 32), rng.beta(1, 3, 32)
        units = [[(float(rng.random() < a), float(rng.random() < b)) for _ in range(3)] for a, b in zip(*rates)]
        low, high = clustered_difference(units)["interval"]
        hits += low <= 0.25 - 0.5 <= high
    assert 0.925 <= hits / 400 <= 0.99


def test_small_parts() -> None:
    rows = [{"step": i + 1, "x": float(i) if i % 2 else None} for i in range(10)]
    assert binned(rows, ("x",), 5) == [{"step": 1.5 + 2 * i, "x": 1.0 + 2 * i} for i in range(5)]
    assert len(binned(rows, ("x",), 50)) == 10
    assert binned([], ("x",)) == []
    assert ends(rows, "x") == {"n": 1, "first": 1.0, "last": 9.0}
    assert ends(rows, "y") is None
    assert [spread(n, 3) for n in (0, 1, 2, 7)] == [[], [0], [0, 1], [0, 3, 6]]
    one = [{"id": "a", "category": "allowed", "request": "x"}, {"id": "b", "category": "allowed", "request": "y"}]
    assert same_requests(one, [one[0], {**one[1], "request": "z"}]) == [(one[0], one[0])]
