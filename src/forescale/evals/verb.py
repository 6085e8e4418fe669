"""`forescale eval`: its flags, and what they do."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from forescale.core.artifacts import IN_PROGRESS, MANIFEST, Manifest, read_json, verify
from forescale.core.errors import UserError
from forescale.core.progress import meter, say
from forescale.data.config import DataConfig
from forescale.evals.stage import Setting, corpus_identity, stage_for
from forescale.evals.suite import ExamsConfig

HELD_OUT = ("validation_fraction", "max_validation_documents", "max_validation_characters")


@dataclass(frozen=True)
class Eval(ExamsConfig):
    """Give a model its exams.  Examples:

    forescale eval models/smollm2 --exams mmlu openbookqa humaneval --out exams/smollm2

    forescale eval runs/laptop --exams counting emoji my_questions.jsonl --limit 0

    forescale eval --list
    """

    model: Annotated[Positional[Path | None], arg(metavar="MODEL")] = None
    """a run folder, or a checkpoint folder (`forescale import` makes one)"""
    exams: tuple[str, ...] = ("mmlu", "openbookqa", "commonsenseqa", "piqa", "boolq")
    """names (see --list), or files and folders of questions in the forms of docs/exams.md"""
    out: Path | None = None
    """where the results go (default: exams/NAME); the same folder again goes on where it stopped"""
    corpus: Path | None = None
    """the model's training text, searched for the exams' items"""
    against: Path | None = None
    """results of another model on the same exams, for a paired comparison"""
    list: bool = False
    """list the exams there are"""
    json: bool = False
    """with --list: print JSON"""


def give(options: Eval) -> tuple[Path, dict[str, Path]]:
    """Gives the exams. Returns the results' folder, and the folders to draw a page of, by label.

    Raises UserError for a model, exam or comparison that cannot be.
    """
    if options.model is None:
        raise UserError("name a model, before --exams: forescale eval MODEL --exams ...; --list lists the exams.")
    if not options.exams:
        raise UserError("--exams names no exam; --list lists those there are.")
    config = ExamsConfig(**{f.name: getattr(options, f.name) for f in fields(ExamsConfig)})
    config = replace(config, **_of_the_run(options.model))
    name = name_of(options.model)
    out = options.out or Path("exams") / name
    if options.against is not None:
        if options.against.resolve() == out.resolve():
            raise UserError(f"{out} is what the new results would replace; give them another --out.")
        verify(options.against)
    with meter("exams") as shown:
        setting = Setting(options.model, name, options.corpus, shown, strict=True)
        identity = corpus_identity(options.corpus) if options.corpus else ""
        stage, facts = stage_for(config, setting, identity)
        keep_others(out, stage.key(facts, {}))
        if stage.is_done(facts, {}, out):
            say(f"{out} holds these results already.")
        stage.make(facts, {}, out)
    labels = {name: out}
    if options.against is not None:
        other = options.against.resolve()
        label = other.name if other.name != name else f"{other.parent.name}/{other.name}"
        labels = {label: options.against, name: out}
    return out, labels


def name_of(model: Path) -> str:
    """What a model is called: its folder, or the run's where that only says what it is."""
    folder = model.resolve()
    while folder.name in ("checkpoint", "target") and folder.parent != folder:
        folder = folder.parent
    return folder.name


def keep_others(out: Path, key: str) -> None:
    """Raises UserError if the folder holds the results, finished or not, of other exams or another model."""
    begun = any(out.glob("items/*")) or any(out.glob(".*.jsonl"))
    marks = [out / name for name in (MANIFEST, IN_PROGRESS) if (out / name).is_file()]
    if begun and any(read_json(mark).get("key") not in (key, "") for mark in marks):
        raise UserError(
            f"{out} holds the results of other exams, settings or another model; give these another --out, or delete it "
            "yourself."
        )


def _of_the_run(model: Path) -> dict[str, Any]:
    """What a run folder's data stage says: how it held documents out of the packs, which visual exams are made of, and how
    far its almanac goes."""
    if not (model / "data" / MANIFEST).is_file():
        return {}
    facts = Manifest.load(model / "data").config["config"]
    found: dict[str, Any] = {"data": DataConfig(**{name: facts[name] for name in HELD_OUT if name in facts})}
    for source in facts["sources"]:
        if source["kind"] == "almanac":
            found["cutoff"] = source["cutoff"]
    return found
