"""`forescale judge`: its flags, and what they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forescale.core.artifacts import write_json
from forescale.core.errors import UserError
from forescale.core.statistics import spread
from forescale.rewards.agreement import agreement, render
from forescale.rewards.labelled import load_labelled
from forescale.rewards.rubrics import Rubric, load_rubric
from forescale.rewards.rules import RulesJudge
from forescale.rewards.verdicts import Judge

RULES = "rules"


@dataclass(frozen=True)
class JudgeFlags:
    """Measure how far a judge agrees with people.  Examples:

    forescale judge --labels pyrit-refusals my_labels.jsonl

    forescale judge --judge models/smollm2 --rubric my_rubric.toml --labels xstest.csv --limit 150

    forescale judge --judge http://localhost:8000/v1 --judge-model NAME --labels pyrit-refusals
    """

    labels: tuple[str, ...] = ()
    """labelled answers: files in the forms of docs/rbrm.md, or the pack pyrit-refusals"""
    judge: str = RULES
    """rules, a checkpoint folder, or the address of an OpenAI-compatible endpoint"""
    judge_model: str = ""
    """the endpoint's name of its model"""
    rubric: str = "refusals"
    """a rubric's TOML file, or the name of one that comes with forescale"""
    propositions: bool = False
    """ask a model for each proposition, and let the class follow, instead of for the class"""
    limit: int = 0
    """at most so many answers of each set, evenly spread (0: all)"""
    out: Path | None = None
    """write the figures here, as JSON"""
    json: bool = False
    """print JSON instead of a table"""


def make_judge(judge: str, rubric: Rubric, judge_model: str = "", propositions: bool = False) -> Judge:
    """ "rules", an endpoint's address, or a checkpoint folder. Raises UserError for anything else."""
    if judge == RULES:
        return RulesJudge(rubric)
    # Reading checkpoints needs torch, which rules do without.
    from forescale.rewards.judges import CheckpointJudge, EndpointJudge

    ask: Any = "propositions" if propositions else "letter"
    if judge.startswith(("http://", "https://")):
        return EndpointJudge(judge, judge_model, rubric, ask)
    from forescale.checkpoints.files import load_checkpoint
    from forescale.core.device import pick_device

    return CheckpointJudge(load_checkpoint(Path(judge), pick_device()), rubric, ask)


def measure(flags: JudgeFlags) -> str:
    """Measures a judge. Returns what is to be printed, once the figures are written.

    Raises UserError for a rubric, judge or labels that cannot be, JudgeUnreachable for a dead endpoint.
    """
    if not flags.labels:
        raise UserError("name labelled answers with --labels: files, or the pack pyrit-refusals.")
    if flags.limit < 0:
        raise UserError(f"--limit must be 0 or more, not {flags.limit}.")
    rubric = load_rubric(flags.rubric)
    rows = [row for name in flags.labels for row in spread(load_labelled(name), flags.limit)]
    figures = agreement(make_judge(flags.judge, rubric, flags.judge_model, flags.propositions), rows)
    figures |= {"rubric": {"name": rubric.name, "sha256": rubric.sha256}}
    if flags.out is not None:
        write_json(flags.out, figures)
    if flags.json:
        import json

        return json.dumps(figures, indent=1)
    return render(figures)
