"""The report stage: one HTML page that stands alone, its numbers as JSON, the runs as CSV, and the figures as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from forescale import __version__
from forescale.core.artifacts import IN_PROGRESS, MANIFEST, Manifest, Stage, read_json, utc_now, write_json, write_text
from forescale.core.errors import CorruptArtifact, UserError
from forescale.forecast.runs import Run, write_csv
from forescale.report import (
    alignment,
    alignment_words,
    exams,
    figures,
    figures_alignment,
    figures_exams,
    figures_law,
    figures_run,
    tables,
    tables_alignment,
    tables_exams,
    tables_safety,
    words,
)
from forescale.report.collect import summarise
from forescale.report.pictures import pictures
from forescale.report.read import RunFolder, read, read_exams
from forescale.report.style import Drawing
from forescale.report.tables import Table

Json = dict[str, Any]
MAX_SAMPLES = 24


@dataclass(frozen=True)
class ReportConfig:
    """`commands` maps what was made (run, report ...) to the command line that made it; the page prints them."""

    run_dir: str
    recipe: str
    commands: Mapping[str, str] = field(default_factory=dict)


def draw(folder: RunFolder, summary: Json) -> dict[str, Drawing]:
    """All figures that this run folder has data for, by name."""
    makers = (
        figures.loss_scaling,
        figures.each_forecast,
        figures_law.floors,
        figures_run.capability,
        figures_run.collapse,
        figures_law.by_modality,
        figures_run.cost,
    )
    drawn = [maker(folder, summary) for maker in makers]
    if summary["exams"]:
        drawn += _draw_exams(summary["exams"], tuple(e.path for e in folder.exams.values()))
    if summary["alignment"]:
        drawn += [maker(summary["alignment"], folder.alignment.paths) for maker in figures_alignment.MAKERS]
    return {d.name: d for d in drawn if d is not None}


def _draw_exams(summary: Json, sources: tuple[str, ...]) -> list[Drawing | None]:
    return [maker(summary, sources) for maker in figures_exams.MAKERS]


def headline(summary: Json) -> str:
    """The page's title: the task in words, outcomes come right under it, all at one size."""
    ratios = [e["cap_ratio"] for e in summary["loss"]["forecasts"]]
    compute = summary["target"]["compute"]
    run = f"a run of {words.scientific(compute)} FLOPs" if compute else "a large run"
    if not ratios:
        return f"{summary['recipe']}: {run}, without a forecast"
    sizes = words.ratio(ratios[0]) if len(ratios) == 1 else f"{words.ratio(min(ratios))} to {words.ratio(max(ratios))}"
    named = any(e["is_forecast"] or e["pending"] for e in summary["loss"]["forecasts"])
    verb = "forecast" if named else "extrapolated (not a forecast)"
    return f"{summary['recipe']}: {run}, {verb} from runs {sizes} times smaller"


def samples(folder: RunFolder) -> list[Json]:
    """The target's samples, pictures first, each family in turn, with right or wrong where an answer is known."""
    rows = folder.target.samples if folder.target else []
    by_family: dict[tuple[bool, str], list[Json]] = {}
    for row in rows:
        by_family.setdefault((not row.get("images"), str(row.get("family"))), []).append(row)
    queues = [by_family[key] for key in sorted(by_family)]
    turns = [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
    shown = sorted(turns[:MAX_SAMPLES], key=lambda row: (not row.get("images"), str(row.get("family"))))
    result = []
    for row in shown:
        answer, completion = row.get("answer"), str(row.get("completion") or "")
        right = None if answer is None else completion.strip() == str(answer).strip()
        result.append(
            {
                "family": str(row.get("family") or ""),
                "prompt": str(row.get("prompt") or ""),
                "completion": completion,
                "answer": answer,
                "right": right,
                "pictures": pictures(row),
            }
        )
    return result


def ladder_runs(folder: RunFolder) -> list[Run]:
    """The ladder's good runs, for the file that `forescale forecast --runs` reads."""
    return [
        Run(r.name, r.compute, r.result["loss"], r.result.get("params"), r.result.get("tokens"), r.seed)
        for r in folder.ladder
        if r.compute is not None
    ]


def _fill(template: str, drawings: Mapping[str, Drawing], made: Sequence[Table | None], **values: Any) -> str:
    """A page from its template. Everything that comes from files is escaped; only our own SVG goes in as it is."""
    environment = Environment(
        loader=PackageLoader("forescale.report", package_path="."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        figures=drawings,
        tables={table.name: table for table in made if table is not None},
        words=words,
        version=__version__,
        **values,
    )


def render(folder: RunFolder, summary: Json, drawings: Mapping[str, Drawing], commands: Mapping[str, str]) -> str:
    """The whole page of a run."""
    makers = (
        tables.forecasts,
        tables.laws,
        tables.floors,
        tables.capability,
        tables.modality,
        tables.exponents,
        tables.ladder,
        tables.data,
        tables.throughput,
        tables.provenance,
    )
    made = [maker(summary) for maker in makers]
    if summary["exams"]:
        made += [maker(summary["exams"]) for maker in tables_exams.MAKERS]
    aligned = summary["alignment"]
    if aligned:
        made += [maker(aligned) for maker in (*tables_alignment.MAKERS, *tables_safety.MAKERS)]
    hashes = {row["path"]: str(row["content"] or "")[:12] for row in summary["provenance"]}
    origins = [(d, [(path, hashes.get(path) or "no manifest") for path in d.sources]) for d in drawings.values()]
    return _fill(
        "template.html.j2",
        drawings,
        made,
        summary=summary,
        title=headline(summary),
        exams=summary["exams"],
        exam_sections=exams.sections(summary["exams"]),
        exam_pictures=exams.pictured(folder.exams),
        alignment=aligned,
        alignment_sections=alignment_words.sections(aligned),
        alignment_alarm=alignment_words.alarm(aligned),
        told=alignment_words.told(aligned),
        safety_said=alignment_words.safety_words(aligned),
        not_asked=alignment_words.not_asked(aligned),
        calibration=alignment_words.calibration_words(summary["exams"]),
        before_after=alignment.before_and_after(folder.alignment.behaviour),
        kind_words=alignment_words.kind_words,
        samples=samples(folder),
        n_samples=len(folder.target.samples) if folder.target else 0,
        watch=figures_run.watch_words(summary["watch"]),
        alarm=figures_run.alarm_words(summary["watch"]["alarm"]),
        origins=origins,
        commands=dict(commands),
    )


def build(config: ReportConfig | Mapping[str, Any], inputs: Mapping[str, Path], out_dir: Path) -> None:
    """Stage function: writes report.html, summary.json, runs.csv, figures/*.svg. `inputs` decide when to run again."""
    if isinstance(config, Mapping):
        config = ReportConfig(str(config["run_dir"]), str(config["recipe"]), config.get("commands") or {})
    folder = read(Path(config.run_dir))
    try:
        summary = summarise(folder, config.recipe)
        drawings = draw(folder, summary)
    except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
        if not folder.damage:
            raise
        # What was edited or damaged may hold anything, and no figure of it would be worth drawing.
        raise CorruptArtifact(f"{'; '.join(folder.damage)}; no report can be drawn of that.") from error
    for drawing in drawings.values():
        write_text(out_dir / "figures" / f"{drawing.name}.svg", drawing.svg)
    write_csv(out_dir / "runs.csv", ladder_runs(folder))
    write_json(out_dir / "summary.json", summary)
    write_text(out_dir / "report.html", render(folder, summary, drawings, config.commands))


STAGE = Stage("report", build, volatile=frozenset({"report.html", "summary.json"}))


def redraw(run_dir: Path) -> tuple[Path, list[str]]:
    """Draws the report of a run folder again, with the code of today. Returns the page's path, and what of the run folder does not
    match its manifests, a sentence each.

    Recipe and commands are those of the report that was there. Raises UserError if the folder holds no run, or if its
    report/ holds files of somebody else's.
    """
    read(run_dir)
    out_dir = run_dir / "report"
    old: Json = {}
    if (out_dir / MANIFEST).is_file():
        old = Manifest.load(out_dir).config
        write_json(out_dir / IN_PROGRESS, {"stage": "report", "key": ""})
        (out_dir / MANIFEST).unlink()
    config = {
        "run_dir": str(run_dir),
        "recipe": old.get("recipe") or run_dir.name,
        "commands": old.get("commands") or {},
    }
    artifacts = {str(path.parent.relative_to(run_dir)): path.parent for path in sorted(run_dir.rglob(MANIFEST))}
    STAGE.make(config, artifacts, out_dir)
    return out_dir / "report.html", read_json(out_dir / "summary.json")["damage"]


def examine_page(folders: Mapping[str, Path], out: Path) -> Path:
    """Writes one page about the exams in `folders` (by label, the first the one to compare with) and returns `out`.

    The same sections as in a run's report, without a run. Raises UserError if a folder holds no exams.json, CorruptArtifact
    if a file in it cannot be read.
    """
    found = {label: read_exams(folder, str(folder)) for label, folder in folders.items()}
    summary = exams.summarise_exams(found)
    if summary is None:
        raise UserError("there are no exams to show; name at least one folder that `forescale eval --out` wrote.")
    drawings = [d for d in _draw_exams(summary, tuple(str(folder) for folder in folders.values())) if d is not None]
    page = _fill(
        "exam_page.html.j2",
        {d.name: d for d in drawings},
        [maker(summary) for maker in tables_exams.MAKERS],
        title=exams_headline(summary),
        exams=summary,
        exam_sections=exams.sections(summary),
        exam_pictures=exams.pictured(found),
        created_at=utc_now(),
    )
    write_text(out, page)
    return out


def exams_headline(summary: Json) -> str:
    """Whose exams these are, and how many."""
    names = {label: str(model.get("name") or label) for label, model in summary["models"].items()}
    who = [name if len(names) == 1 or name == label else f"{name} ({label})" for label, name in names.items()]
    count = len(summary["tasks"]) + len({row.get("name") for row in summary["code"]})
    return f"{' and '.join(who)}: {words.plural(count, 'exam')}"
