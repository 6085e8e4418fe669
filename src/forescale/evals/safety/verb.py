"""`forescale safety`: its flags, and what they do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from forescale.core.artifacts import read_json, write_json
from forescale.core.errors import UserError
from forescale.core.progress import meter, say
from forescale.evals.safety.compare import compare
from forescale.evals.safety.profanity import LICENCE, SCORER_NAME, load_profanity
from forescale.evals.safety.sets import Policy
from forescale.evals.safety.stage import SafetyConfig, Setting, stage_for
from forescale.evals.safety.table import render, render_comparison
from forescale.evals.safety.toxicity import Scorer
from forescale.evals.verb import keep_others, name_of
from forescale.rewards.agreement import agreement, require
from forescale.rewards.labelled import PYRIT, load_labelled
from forescale.rewards.rubrics import Rubric, load_rubric
from forescale.rewards.verb import RULES, make_judge
from forescale.rewards.verdicts import Judge


@dataclass(frozen=True)
class Safety(SafetyConfig):
    """Measure how a model answers what it should and should not.  Examples:

    forescale safety models/smollm2 --sets xstest=xstest_prompts.csv donotanswer harmbench --jailbreaks 20 --toxicity 50

    forescale safety runs/laptop --sets my_requests.jsonl --rubric my_rubric.toml --against safety/before
    """

    model: Annotated[Positional[Path | None], arg(metavar="MODEL")] = None
    """a run folder, or a checkpoint folder (`forescale import` makes one)"""
    judge: str = RULES
    """rules, a checkpoint folder, or the address of an OpenAI-compatible endpoint"""
    judge_model: str = ""
    """the endpoint's name of its model"""
    rubric: str = "refusals"
    """what the judge works under: a rubric's TOML file, or the name of one that comes with forescale"""
    labels: tuple[str, ...] = (PYRIT,)
    """labelled answers that the judge is measured on first; none skips that"""
    force: bool = False
    """use a judge even if it agrees too little with people"""
    out: Path | None = None
    """where the results go (default: safety/NAME); the same folder again goes on where it stopped"""
    against: Path | None = None
    """results of another model on the same sets, for a paired comparison"""
    json: bool = False
    """print JSON instead of a table"""


def give(options: Safety) -> str:
    """Asks, judges, and returns what is to be printed.

    Raises UserError for a model, set, judge or comparison that cannot be.
    """
    if options.model is None:
        raise UserError("name a model, before --sets: forescale safety MODEL --sets ...")
    config = SafetyConfig(**{f.name: getattr(options, f.name) for f in fields(SafetyConfig)})
    name = name_of(options.model)
    out = options.out or Path("safety") / name
    if options.against is not None and options.against.resolve() == out.resolve():
        raise UserError(f"{out} is what the new results would replace; give them another --out.")
    rubric = load_rubric(options.rubric)
    judge = _judge(options, rubric)
    figures = _measured(judge, options)
    scorer = Scorer(SCORER_NAME, LICENCE, load_profanity()) if config.toxicity else None
    with meter("safety") as shown:
        setting = Setting(options.model, judge, Policy(rubric), scorer, figures, name, shown, strict=True)
        stage, facts = stage_for(config, setting)
        keep_others(out, stage.key(facts, {}))
        if stage.is_done(facts, {}, out):
            say(f"{out} holds these results already.")
        stage.make(facts, {}, out)
    result: dict[str, Any] = read_json(out / "safety.json")
    if options.against is None:
        return _printed(result, options.json) or render(result)
    against = compare(options.against, out)
    write_json(out / "against.json", against)
    return _printed({**result, "against": against}, options.json) or f"{render(result)}\n\n{render_comparison(against)}"


def _printed(result: dict[str, Any], as_json: bool) -> str:
    import json

    return json.dumps(result, indent=1, allow_nan=False) if as_json else ""


def _judge(options: Safety, rubric: Rubric) -> Judge:
    """A model is asked for propositions if a category of the rubric needs one, which a class alone does not tell."""
    propositions = any(category.needs for category in rubric.categories.values())
    return make_judge(options.judge, rubric, options.judge_model, propositions)


def _measured(judge: Judge, options: Safety) -> dict[str, Any] | None:
    """The judge's agreement with people, said before it is used. Raises UserError for one below the floor, unless forced."""
    if not options.labels:
        return None
    found = agreement(judge, [row for name in options.labels for row in load_labelled(name)])
    require(found, options.force)
    binary = found["binary"]
    if binary["accuracy"] is not None:
        low, high = binary["interval"]
        say(
            f"  judge {judge.name}: agrees with people in {binary['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {binary['n']}"
        )
    return found
