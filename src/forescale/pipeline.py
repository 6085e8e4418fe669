"""The whole of a run on one page.

    data -> tokenizer -> shards -> rungs/* -> forecasts/* (sealed) -> target (watched)
         -> alignment: sft -> reward model -> RBRM -> PPO -> behaviour -> exams (base, sft, ppo) -> report

Every arrow is an artifact on disk; a stage whose manifest matches is not run again, and a killed one resumes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forescale.core.artifacts import MANIFEST, Manifest, Stage, read_json, single_writer, write_json, write_text
from forescale.core.config import to_json
from forescale.core.device import accelerators, cpus, has_compiler
from forescale.core.errors import UserError
from forescale.core.progress import duration, meter, say
from forescale.data import prepare as data_stage
from forescale.data import shards as shards_stage
from forescale.data.config import DataStageConfig
from forescale.data.fetch import PackUnavailable
from forescale.data.shards import Shards, ShardsConfig
from forescale.evals.safety.compare import compare
from forescale.evals.safety.profanity import LICENCE, SCORER_NAME, load_profanity
from forescale.evals.safety.sets import Policy
from forescale.evals.safety.stage import Setting as SafetySetting
from forescale.evals.safety.stage import stage_for as safety_stage_for
from forescale.evals.safety.toxicity import Scorer
from forescale.evals.sandbox import Sandbox
from forescale.evals.stage import Setting, stage_for
from forescale.evals.suite import CODE, known
from forescale.forecast import stage as forecast_stage
from forescale.forecast.stage import ForecastConfig
from forescale.ladder import rung as rung_stage
from forescale.ladder.executor import Job, State, run_jobs
from forescale.ladder.rung import RungConfig, exact_flops
from forescale.ladder.rungs import Rung, rungs_for, within_cap, worker_count
from forescale.model.scaling import RunPlan
from forescale.recipes import Recipe
from forescale.report import page as report_stage
from forescale.rewards.rubrics import load_rubric
from forescale.rewards.rules import RulesJudge
from forescale.rlhf import stages as alignment
from forescale.tokenizer import stage as tokenizer_stage
from forescale.tokenizer.bpe import Tokenizer, check_vocabulary

# Between the seeds of two runs of one recipe, so that no rung of one is a rung of the other.
SEEDS_APART = 100
FAILED_TWICE = "its process failed twice"


class RunFailed(RuntimeError):
    """The run itself failed, though its input was right. The message is one sentence."""


@dataclass(frozen=True)
class Plan:
    """What a recipe will train, and what it will take."""

    rungs: list[Rung]
    target: RunPlan
    target_flops: int
    images_per_token: float

    @property
    def ladder_flops(self) -> int:
        return sum(rung.plan.flops for rung in self.rungs)


def run(recipe: Recipe, out_dir: Path) -> Path:
    """Everything that the recipe names, up to its `until`; returns the path of the report, or of the run where it ends before.

    Raises UserError for what the user can mend.
    """
    check(recipe)
    # Each stage locks its own folder; without this two runs would take turns until the first to wait too long gave up.
    with single_writer(out_dir):
        return _run(recipe, out_dir)


def _run(recipe: Recipe, out_dir: Path) -> Path:
    started = time.monotonic()
    if accelerators() == 0 and not has_compiler():
        say("no C++ compiler found: long runs go on uncompiled, at about half the speed (install g++ to change that).")
    data, tokenizer, shards = prepare_data(recipe, out_dir)
    notes = read_json(data / "data.json")["notes"]
    for note in notes:
        say(f"  note: {note}")
    plan = make_plan(recipe, shards, data)
    describe(plan)
    inputs = {"data": data, "tokenizer": tokenizer, "shards": shards}
    finished, exclusions = train_ladder(recipe, plan, inputs, out_dir / "rungs")
    forecasts = seal_forecasts(
        recipe, plan, {"data": data, "shards": shards, **finished}, exclusions, out_dir / "forecasts"
    )
    if recipe.until == "forecast":
        say(
            f"stopped before the target, as asked: {out_dir}/forecasts  ({duration(time.monotonic() - started)} in all)"
        )
        return out_dir
    try:
        train_target(recipe, plan, {**inputs, "forecast": forecasts[0]}, out_dir / "target")
    except RunFailed:
        # A target that failed is part of what a report has to show.
        make_report(recipe, out_dir)
        raise
    if recipe.until == "target":
        return make_report(recipe, out_dir)
    try:
        give_exams(recipe, data, out_dir, "base", out_dir / "target")
        for label, model in align(recipe, out_dir).items():
            give_exams(recipe, data, out_dir, label, model)
            measure_safety(recipe, out_dir, label, model)
    except UserError:
        # The run is worth its report without what comes after its target.
        make_report(recipe, out_dir)
        raise
    report = make_report(recipe, out_dir)
    say(f"report: {report}  ({duration(time.monotonic() - started)} in all)")
    return report


def check(recipe: Recipe) -> None:
    """Raises UserError for a recipe that cannot run, before anything is downloaded or trained."""
    check_vocabulary(recipe.tokenizer.vocab_size)
    if unknown := [name for name in recipe.exams.exams if not known(name)]:
        raise UserError(f"there is no exam {unknown[0]!r}; `forescale eval --list` lists them.")
    if "functions" in recipe.families or set(CODE) & set(recipe.exams.exams):
        # Whether programs can be contained here shows in a second now, or after the first rung.
        Sandbox(unsafe=recipe.capability.unsafe_code).close()
    rungs_for(recipe.family, recipe.ladder, recipe.target.compute, 0.0)
    recipe.family.plan_for(recipe.target.compute, 0.0)


def prepare_data(recipe: Recipe, out_dir: Path) -> tuple[Path, Path, Path]:
    data, tokenizer, shards = out_dir / "data", out_dir / "tokenizer", out_dir / "shards"
    make(data_stage.STAGE, data_config(recipe, data), {}, data)
    make(tokenizer_stage.STAGE, recipe.tokenizer, {"data": data}, tokenizer)
    vocab_size = Tokenizer.load(tokenizer / "tokenizer.json").vocab_size
    family = dataclasses.replace(recipe.family, vocab_size=vocab_size)
    # The longest run is the target's. Its pictures, not known yet, make it read less at its width but may make it the next
    # smaller width, which reads more: half as much again covers both.
    longest = family.plan_for(recipe.target.compute, 0.0)
    config = ShardsConfig(
        sequence_length=family.sequence_length,
        image_tokens=longest.model.image_tokens,
        seed=recipe.seed,
        tokens=int(1.5 * longest.tokens) + longest.batch_tokens,
        validation_rows=recipe.validation_rows,
    )
    make(shards_stage.STAGE, config, {"data": data, "tokenizer": tokenizer}, shards)
    return data, tokenizer, shards


def data_config(recipe: Recipe, data: Path) -> DataStageConfig:
    """What the data stage is asked for now. Data that a run began with is kept, though the network came back or a package whose
    docstrings were read was upgraded since: only the recipe or the user's own files change it."""
    now = data_stage.stage_config(dataclasses.replace(recipe.data, seed=recipe.data.seed + recipe.seed))
    if not (data / MANIFEST).is_file():
        return now
    before = Manifest.load(data).config
    own = [source.name for source in recipe.data.sources if source.kind in ("folder", "jsonl", "parquet")]
    found, had = (to_json(x)["sources"] for x in (now.fingerprint, before["fingerprint"]))
    if before["config"] != to_json(now.config) or any(found[name] != had.get(name) for name in own):
        return now
    if found != had:
        say(f"packs or packages changed since; this run goes on with the data it has (delete {data} to renew them).")
    return DataStageConfig(now.config, before["fingerprint"])


def make_plan(recipe: Recipe, shards_dir: Path, data_dir: Path) -> Plan:
    """The ladder and the target, FLOPs exact: the target has at least the compute that was asked for."""
    shards = Shards(shards_dir, data_dir)
    images_per_token = shards.facts["images_per_token"]
    family = dataclasses.replace(recipe.family, vocab_size=shards.facts["vocab_size"])
    target = family.plan_for(recipe.target.compute, images_per_token)

    while exact_flops(target, shards.train) < recipe.target.compute:
        target = dataclasses.replace(target, steps=target.steps + 1)
    if target.steps * target.batch_rows > len(shards.train):
        raise UserError(
            f"the target reads {target.tokens} tokens, more than the {len(shards.train)} rows laid out for it: the mixture holds "
            "so many pictures that much smaller models are planned; give them less weight or use larger patches."
        )
    flops = exact_flops(target, shards.train)
    return Plan(
        rungs_for(family, recipe.ladder, flops, images_per_token, recipe.seed * SEEDS_APART),
        target,
        flops,
        images_per_token,
    )


def describe(plan: Plan) -> None:
    sizes = sorted({rung.plan.model.width: rung.plan for rung in plan.rungs}.items())
    say(
        f"ladder: {len(plan.rungs)} runs of {len(sizes)} sizes, {plan.ladder_flops:.3g} FLOPs, "
        f"{plan.ladder_flops / plan.target_flops:.0%} of the target"
    )
    model = plan.target.model
    say(
        f"target: {plan.target_flops:.4g} FLOPs, width {model.width}, depth {model.depth}, {model.params:,} parameters "
        f"({model.params_vision:,} of them vision), {plan.target.tokens:,} tokens in {plan.target.steps} steps of "
        f"{plan.target.batch_tokens:,}, about {model.training_memory_bytes(plan.target.batch_tokens) / 1e6:,.0f} MB"
    )


def train_ladder(
    recipe: Recipe, plan: Plan, inputs: Mapping[str, Path], out_dir: Path
) -> tuple[dict[str, Path], tuple[tuple[str, str], ...]]:
    """All rungs, side by side. Returns the folders of those that ended, and which were given up, with why."""
    jobs = []
    given_up = _given_up(out_dir.parent / "forecasts")
    for rung in plan.rungs:
        if rung.name in given_up:
            continue
        config = RungConfig(rung.name, rung.plan, rung.seed, 1, recipe.families, recipe.capability)
        jobs.append(Job(rung.name, rung_stage.STAGE, config, inputs, out_dir / rung.name, rung.plan.flops, rung.seed))
    train_jobs("ladder", jobs, worker_count(recipe.ladder), 1)
    for job in jobs:
        if not job.done:
            say(f"  {job.name} failed twice and is excluded: {_last_line(job.error)}")
            given_up.add(job.name)
    # One wording, whatever went wrong: it is part of the forecast's identity.
    exclusions = tuple((name, FAILED_TWICE) for name in sorted(given_up))
    return {job.name: job.out_dir for job in jobs if job.done}, exclusions


def _given_up(forecasts: Path) -> set[str]:
    """Rungs that a sealed forecast says were given up. They are not tried again: the forecast would be another one."""
    sealed = [read_json(path) for path in forecasts.glob("*/forecast.json")]
    return {e["name"] for forecast in sealed for e in forecast["exclusions"] if e["why"] == FAILED_TWICE}


def seal_forecasts(
    recipe: Recipe, plan: Plan, finished: Mapping[str, Path], exclusions: Sequence[tuple[str, str]], out_dir: Path
) -> list[Path]:
    """One sealed forecast for each cap, from the nested ladder below it. The first has the largest rungs. `finished`: `data`,
    `shards` and the rungs, by name."""
    folders = []
    for cap in sorted(recipe.ladder.caps):
        within = {"data", "shards", *(r.name for r in plan.rungs if within_cap(r.plan.flops, plan.target_flops, cap))}
        config = ForecastConfig(
            cap=cap,
            target_flops=plan.target_flops,
            target_params=plan.target.model.params_active,
            target_tokens=plan.target.tokens,
            target_steps=plan.target.steps,
            exclusions=tuple(pair for pair in exclusions if pair[0] in within),
            believed=recipe.believed,
        )
        folder = out_dir / f"{cap:g}"
        inputs = {name: path for name, path in finished.items() if name in within}
        if _is_sealed_otherwise(config, inputs, folder) and (out_dir.parent / "target").is_dir():
            raise UserError(
                f"{folder} holds a sealed forecast whose target has begun, and these settings would make another one; a sealed "
                "forecast is never replaced, so give another --out folder (or delete forecasts/ and target/ yourself)."
            )
        make(forecast_stage.STAGE, config, inputs, folder)
        sealed = read_json(folder / "forecast.json")
        low, high = sealed["loss"]["interval"]
        say(
            f"  forecast from 1/{sealed['cap_ratio']:.0f} of the compute: loss {sealed['loss']['predicted']:.4f} "
            f"({low:.4f} to {high:.4f}), sealed {sealed['seal']['sealed_at']}"
        )
        folders.append(folder)
    return folders


def _is_sealed_otherwise(config: ForecastConfig, inputs: Mapping[str, Path], folder: Path) -> bool:
    """Whether the folder holds a finished forecast that these settings would not make."""
    if not (folder / MANIFEST).is_file():
        return False
    return Manifest.load(folder).key != forecast_stage.STAGE.key(config, inputs)


def train_target(recipe: Recipe, plan: Plan, inputs: Mapping[str, Path], out_dir: Path) -> None:
    """The target, alone on the machine, watched against the forecast. Raises RunFailed if it cannot be trained."""
    # A target that was begun with another number of cores goes on with that number.
    begun = out_dir / "run.json"
    threads = read_json(begun)["threads"] if begun.is_file() else cpus()
    seed = recipe.target.seed + recipe.seed * SEEDS_APART
    config = RungConfig("target", plan.target, seed, threads, recipe.families, recipe.capability, samples=True)
    job = Job("target", rung_stage.STAGE, config, inputs, out_dir, plan.target_flops, seed)
    train_jobs("target", [job], 1, threads)
    if job.error:
        log = out_dir.with_name("target-error.txt")
        write_text(log, job.error)
        raise RunFailed(f"the target failed twice ({_last_line(job.error)}); {log} has the whole message.")
    result = read_json(out_dir / "result.json")
    if result["status"] != "ok":
        raise RunFailed(
            f"the target diverged ({result['notes'][0]}); lower the learning rates or look at {out_dir}/metrics.jsonl."
        )
    say(f"  target: loss {result['loss']:.4f}, {result['bits_per_byte']:.4f} bits per byte")


def align(recipe: Recipe, out_dir: Path) -> dict[str, Path]:
    """The target tuned, then aligned; folders of the models that come out, by what they are called."""
    folder = out_dir / "alignment"
    sft_config, reward_config, rbrm_config, ppo_config = recipe.alignment.stages()
    sft, reward, rbrm, ppo = (folder / name for name in ("sft", "reward", "rbrm", "ppo"))
    pretraining = {name: out_dir / name for name in ("data", "shards")}
    make(alignment.SFT, sft_config, {"base": out_dir / "target", **pretraining}, sft)
    make(alignment.REWARD, reward_config, {"sft": sft}, reward)
    make(alignment.RBRM, rbrm_config, {"sft": sft, "reward": reward}, rbrm)
    make(alignment.PPO, ppo_config, {"sft": sft, "reward": reward, "rbrm": rbrm}, ppo)
    models = {"sft": sft, "ppo": ppo}
    for label, model in models.items():
        make(alignment.BEHAVIOUR, alignment.BehaviourConfig(), {"model": model}, folder / "behaviour" / label)
    return models


def give_exams(recipe: Recipe, data: Path, out_dir: Path, label: str, model: Path) -> Path:
    """A model's exams, with its training documents searched for their items."""
    folder = out_dir / "exams" / label
    cutoffs = [source.cutoff for source in recipe.data.sources if source.kind == "almanac"]
    config = dataclasses.replace(
        recipe.exams,
        exams=tuple(name for name in recipe.exams.exams if name != "almanac" or cutoffs),
        cutoff=cutoffs[0] if cutoffs else recipe.exams.cutoff,
        data=recipe.data,
        unsafe_code=recipe.capability.unsafe_code,
    )
    with meter("exams") as shown:
        name = recipe.name if label == "base" else f"{recipe.name} {label}"
        setting = Setting(model / "checkpoint", name, data, shown)
        stage, facts = stage_for(config, setting, f"training documents {Manifest.load(data).content[:12]}")
        make(stage, facts, {"target": model, "data": data}, folder)
    return folder


def measure_safety(recipe: Recipe, out_dir: Path, label: str, model: Path) -> None:
    """Refusals, toxicity and false beliefs of an aligned model, if the recipe asks for them."""
    config, scorer = recipe.safety, None
    if config is None:
        return
    if config.toxicity:
        try:
            scorer = Scorer(SCORER_NAME, LICENCE, load_profanity())
        except PackUnavailable as error:
            say(f"  toxicity is left out: {error}")
            config = dataclasses.replace(config, toxicity=0)
    rubric = load_rubric("refusals")
    with meter("safety") as shown:
        name = f"{recipe.name} {label}"
        setting = SafetySetting(model, RulesJudge(rubric), Policy(rubric), scorer, name=name, shown=shown)
        stage, facts = safety_stage_for(config, setting)
        folder = out_dir / "safety" / label
        make(stage, facts, {"model": model}, folder)
    before = out_dir / "safety" / "sft"
    if folder != before:
        write_json(folder / "against.json", compare(before, folder))


def say_alarm(alarm: Mapping[str, Any]) -> None:
    seen = "not a number" if alarm["loss"] is None else f"{alarm['loss']:.3f}"
    say(
        f"  ALARM: from {alarm['since']:.0%} of the run on the loss is {alarm['direction']} "
        f"({seen}, not {alarm['low']:.3f} to {alarm['high']:.3f})"
    )


def make_report(recipe: Recipe, out_dir: Path) -> Path:
    artifacts = {str(path.parent.relative_to(out_dir)): path.parent for path in sorted(out_dir.rglob(MANIFEST))}
    artifacts.pop("report", None)
    config = {"run_dir": str(out_dir), "recipe": recipe.name, "commands": {"run": recipe.command}}
    make(report_stage.STAGE, config, artifacts, out_dir / "report")
    return out_dir / "report" / "report.html"


def make(stage: Stage, config: Any, inputs: Mapping[str, Path], out_dir: Path) -> Manifest:
    """Makes one stage in this process and says so in a line."""
    started = time.monotonic()
    if stage.is_done(config, inputs, out_dir):
        say(f"{stage.name}: already there")
        return Manifest.load(out_dir)
    say(f"{stage.name} ...")
    try:
        manifest = stage.make(config, inputs, out_dir)
    except OSError as error:
        raise UserError(
            f"{stage.name}: {error.strerror or error} ({out_dir}); free space or mend the path and run again."
        ) from error
    say(f"{stage.name}: done in {duration(time.monotonic() - started)}")
    return manifest


def train_jobs(title: str, jobs: Sequence[Job], workers: int, threads: int) -> None:
    """Trains jobs that are not done yet, with one meter over all of them."""
    left = []
    for job in jobs:
        if job.stage.is_done(job.config, job.inputs, job.out_dir):
            job.done = True
        else:
            left.append(job)
    if not left:
        say(f"{title}: already there")
        return
    say(f"{title} ...")
    started = time.monotonic()
    total = sum(job.weight for job in left)
    alarmed: set[str] = set()
    with meter(title) as shown:

        def display(current: Sequence[Job], state: State) -> None:
            share = sum(job.weight * state.shares.get(job.name, 0.0) for job in current) / total
            for name in [name for name in list(state.alarms) if name not in alarmed]:
                alarmed.add(name)
                shown.clear()
                say_alarm(state.alarms[name])
            running = [
                f"{name} {state.losses[name]:.3f}"
                for name, part in list(state.shares.items())
                if part < 1 and name in state.losses
            ]
            shown.update(share, "loss " + ", ".join(running) if running else "")

        run_jobs(left, workers, threads, display)
    say(f"{title}: done in {duration(time.monotonic() - started)}")


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1] if lines else "unknown"
