"""`forescale <verb>`: the command line. Imports torch only when a verb needs it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forescale import __version__
from forescale.core.errors import UserError

USAGE = """\
forescale: train the small ones, know the big one.

usage: forescale <verb> ...        (forescale <verb> --help tells more)

  run RECIPE     data, tokenizer, ladder, sealed forecast, target, report: quick, laptop or overnight
  plan RECIPE    what a run will train and need, before anything starts
  runs           what the run folders hold
  forecast       a forecast from your own runs:  --runs my_runs.csv --target 1e21
  seal           the seals of a run folder's forecasts; anchor their hashes where you do not hold the pen
  report         draw the report of a run folder again:  --dir runs/quick
  eval MODEL     exams: text, pictures, code, calibration, knowledge; ours or a pretrained model
  import SOURCE  bring a pretrained model in: Hugging Face directory, GGUF file, or the pack smollm2
  export MODEL   take a model out: for transformers and vLLM, or as GGUF for llama.cpp
  sft MODEL      tune a model on conversations
  reward MODEL   fit a reward model to preferences
  ppo MODEL      align a model: reward model, RBRM, KL penalty
  judge          how far a judge agrees with people, before its rewards are used
  safety MODEL   refusals, over-refusals, jailbreaks, toxicity, false beliefs
  redteam        findings of human experts: import, list, export, verify, amend, retract
  data           the packs of text and pictures; fetch them, look into them

example: forescale run quick --out runs/quick
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns the exit status: 0 done, 1 the run itself failed, 2 the input was wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="  %(message)s", level=logging.WARNING)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"forescale {__version__}")
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        print(f"forescale: there is no verb {words[0]!r}; the verbs are {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    try:
        return verb(words[1:]) or 0
    except UserError as error:
        print(f"forescale: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"forescale: {error.strerror or error}{where}; mend that and run again, finished work is kept.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        import signal

        # A second Ctrl-C while Python winds down would only print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\nforescale: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def _parse(kind: Any, words: Sequence[str], verb: str, default: Any = None, positional: str = "") -> Any:
    """Flags to a dataclass by tyro, with `forescale VERB` as the program's name."""
    import tyro

    prog = f"forescale {verb}{' ' + positional if positional else ''}"
    config = (tyro.conf.FlagCreatePairsOff,)
    if default is not None:
        return tyro.cli(kind, prog=prog, args=list(words), default=default, config=config)
    return tyro.cli(kind, prog=prog, args=list(words), config=config)


def _recipe(verb: str, words: Sequence[str]) -> tuple[Any, Path]:
    """The recipe with the flags applied, and its run folder."""
    if not words or words[0].startswith("-"):
        from forescale.recipes import RECIPES

        if words and words[0] in ("-h", "--help"):
            print(f"usage: forescale {verb} RECIPE [flags]\n")
            for name, make in RECIPES.items():
                print(f"  {name:10} {(make.__doc__ or '').splitlines()[0]}")
            print(
                f"\nflags of one: forescale {verb} quick --help\n"
                f"example: forescale {verb} laptop --target.compute 3e14 --out runs/mine"
            )
            raise SystemExit(0)
        raise UserError(f"name a recipe: forescale {verb} {' | '.join(RECIPES)}.")
    from forescale.recipes import get_recipe
    from forescale.recipes.flags import RunFlags

    name = words[0]
    flags = _parse(RunFlags, words[1:], verb, RunFlags.of(get_recipe(name)), name)
    command = " ".join(["forescale", verb, *words])
    return flags.apply(get_recipe(name), command), flags.out or Path("runs") / name


def run(words: Sequence[str]) -> int:
    recipe, out = _recipe("run", words)
    from forescale import pipeline

    try:
        pipeline.run(recipe, out)
    except pipeline.RunFailed as error:
        print(f"forescale: {error}", file=sys.stderr)
        return 1
    return 0


def plan(words: Sequence[str]) -> int:
    recipe, _ = _recipe("plan", words)
    from forescale.ladder.plan import estimate, render

    print(render(estimate(recipe.family, recipe.ladder, recipe.target.compute)))
    return 0


def runs(words: Sequence[str]) -> int:
    @dataclass(frozen=True)
    class Runs:
        """List what run folders hold.  Example: forescale runs --dir runs"""

        dir: Path = Path("runs")
        """where to look"""
        json: bool = False
        """print JSON instead of a table"""

    options = _parse(Runs, words, "runs")
    from forescale.core.listing import list_artifacts, render

    rows = list_artifacts(options.dir)
    if options.json:
        # Whoever reads this reads the states too.
        print(json.dumps(rows, indent=1))
        return 0
    print(render(rows))
    return int(any(row["state"] == "damaged" for row in rows))


def forecast(words: Sequence[str]) -> int:
    @dataclass(frozen=True)
    class Forecast:
        """Forecast a target's loss from a CSV of runs.  Example: forescale forecast --runs my_runs.csv --target 1e21"""

        runs: Path
        """CSV with columns compute,loss and perhaps params,tokens,seed"""
        target: float
        """FLOPs of the run to be forecast"""
        target_params: float | None = None
        """its parameters, for the law in N and D"""
        target_tokens: float | None = None
        """its training tokens"""
        level: float = 0.9
        """level of the interval"""
        out: Path | None = None
        """the figure, .svg or .png; the forecast goes beside it as .json (default: the CSV's name with -forecast.svg, here)"""
        json: bool = False
        """print JSON, and nothing else, on standard output"""

    options = _parse(Forecast, words, "forecast")
    from forescale.forecast.verb import forecast_table, render_text

    figure = options.out or Path(f"{options.runs.stem}-forecast.svg")
    if figure.suffix not in (".svg", ".png"):
        raise UserError(f"--out {figure} should end in .svg or .png.")
    table = forecast_table(options.runs, options.target, options.target_params, options.target_tokens, options.level)
    from forescale.core.artifacts import write_json
    from forescale.core.progress import say
    from forescale.report.figure_forecast import draw_forecast

    draw_forecast(table, figure)
    write_json(figure.with_suffix(".json"), table)
    print(json.dumps(table, indent=1, allow_nan=False) if options.json else render_text(table))
    say(f"drawn in {figure}, written to {figure.with_suffix('.json')}")
    return 0


def seal(words: Sequence[str]) -> int:
    @dataclass(frozen=True)
    class Seal:
        """Show, anchor or check the seals of a run folder.  Example: forescale seal --dir runs/laptop --anchor tag"""

        dir: Path
        """the run folder"""
        anchor: str | None = None
        """write the seals' hashes as a git tag of the repository you are in (`tag`), or to a file to publish (its name)"""
        check: str | None = None
        """the file or the git tag of an anchor: are the seals still those?"""
        json: bool = False
        """print JSON instead of a table"""

    options = _parse(Seal, words, "seal")
    from dataclasses import asdict

    from forescale.forecast.anchor import anchor, check_anchor, seals

    found = seals(options.dir)
    broken = check_anchor(found, options.check) if options.check else []
    if options.json:
        print(json.dumps({"seals": [asdict(line) for line in found], "not_as_anchored": broken}, indent=1))
    else:
        for line in found:
            print(
                f"{line.forecast}  {line.sealed_at}  {line.sha256}"
                if not line.problem
                else f"{line.forecast}  {line.problem}"
            )
    if options.anchor:
        print(
            f"forescale: anchored as {anchor(found, options.anchor)}; publish it before the target runs.",
            file=sys.stderr,
        )
    for sentence in broken:
        print(f"forescale: {sentence}.", file=sys.stderr)
    return int(bool(broken) or any(line.problem for line in found))


def report(words: Sequence[str]) -> int:
    @dataclass(frozen=True)
    class Report:
        """Draw the report of a run folder again.  Example: forescale report --dir runs/quick"""

        dir: Path
        """the run folder"""

    options = _parse(Report, words, "report")
    if not options.dir.is_dir():
        raise UserError(f"{options.dir} is not a run folder; `forescale runs` lists those there are.")
    from forescale.report.page import redraw

    page, damage = redraw(options.dir)
    print(page)
    for sentence in damage:
        print(f"forescale: {sentence}.", file=sys.stderr)
    return int(bool(damage))


def data(words: Sequence[str]) -> int:
    @dataclass(frozen=True)
    class Data:
        """List packs, fetch them, or look into one.  Example: forescale data --sample encyclopedia"""

        fetch: tuple[str, ...] = ()
        """packs to download now; `all` for every one"""
        sample: str | None = None
        """a pack or curriculum family to show documents of"""
        n: int = 3
        """how many documents to show"""
        json: bool = False
        """print JSON instead of a table"""

    options = _parse(Data, words, "data")
    from forescale.data import browse

    print(browse.show(options.fetch, options.sample, options.n, options.json))
    return 0


def eval_(words: Sequence[str]) -> int:
    from forescale.evals.suite import names
    from forescale.evals.verb import Eval, give
    from forescale.report.page import examine_page

    options = _parse(Eval, words, "eval")
    if options.list:
        rows = names()
        if options.json:
            print(json.dumps(rows, indent=1))
            return 0
        print(f"{'name':16} {'items':>6} {'chance':>7}  {'kind':7} {'title':38} from")
        for row in rows:
            chance = f"{row['chance']:.0%}" if row["chance"] else ""
            print(
                f"{row['name']:16} {row['n'] or '':>6} {chance:>7}  {row['modality']:7} {row['title']:38} {row['pack']}"
            )
        return 0
    out, labels = give(options)
    print(examine_page(labels, out / "report.html"))
    return 0


def import_(words: Sequence[str]) -> int:
    from forescale.checkpoints.verbs import Import, import_model

    print(import_model(_parse(Import, words, "import")))
    return 0


def export(words: Sequence[str]) -> int:
    from forescale.checkpoints.verbs import Export, export_model

    print(export_model(_parse(Export, words, "export")))
    return 0


def sft(words: Sequence[str]) -> int:
    from forescale.rlhf import verb

    print(verb.sft(_parse(verb.Sft, words, "sft")))
    return 0


def reward(words: Sequence[str]) -> int:
    from forescale.rlhf import verb

    print(verb.render_reward(verb.reward(_parse(verb.RewardFlags, words, "reward"))))
    return 0


def ppo(words: Sequence[str]) -> int:
    from forescale.rlhf import verb

    print(verb.ppo(_parse(verb.PpoFlags, words, "ppo")))
    return 0


def judge(words: Sequence[str]) -> int:
    from forescale.rewards.verb import JudgeFlags, measure

    print(measure(_parse(JudgeFlags, words, "judge")))
    return 0


def safety(words: Sequence[str]) -> int:
    from forescale.evals.safety.verb import Safety, give

    print(give(_parse(Safety, words, "safety")))
    return 0


def redteam(words: Sequence[str]) -> int:
    from forescale.redteam.verb import Redteam
    from forescale.redteam.verb import redteam as act

    print(act(_parse(Redteam, words, "redteam")))
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run,
    "plan": plan,
    "runs": runs,
    "forecast": forecast,
    "seal": seal,
    "report": report,
    "eval": eval_,
    "import": import_,
    "export": export,
    "sft": sft,
    "reward": reward,
    "ppo": ppo,
    "judge": judge,
    "safety": safety,
    "redteam": redteam,
    "data": data,
}


if __name__ == "__main__":
    raise SystemExit(main())
