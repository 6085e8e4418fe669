"""The sections on alignment in words: what is there, what is missing, and what to hold against it."""

from __future__ import annotations

from typing import Any

from forescale.report import words
from forescale.report.alignment import AFTER, BEFORE

Json = dict[str, Any]
PARTS = {
    "sft": "supervised fine-tuning",
    "reward_model": "the reward model",
    "judge": "the judge’s agreement with people",
    "rbrm": "the weights of the RBRM",
    "ppo": "PPO",
    "behaviour": "behaviour on held-out requests",
    "exams": "exams before and after PPO",
    "safety": "the safety evaluation",
    "redteam": "red-team findings",
}
SAID = {
    "refusal_desired": "refusal (desired style)",
    "refusal_undesired": "refusal (undesired style)",
    "off_topic": "off topic",
    "other_help": "help with another topic",
    "other_referral": "referral for another topic",
}


def sections(summary: Json | None) -> list[tuple[str, str]]:
    """(id, title) of the sections that there is data for, in the page's order."""
    if summary is None:
        return []
    there = {
        ("alignment", "Alignment"): True,
        ("ppo", "PPO"): bool(summary["ppo"]),
        ("behaviour", "Behaviour"): bool(summary["behaviour"]),
        ("before-after", "Before and after"): bool((summary["behaviour"] or {}).get("shown")),
        ("aligned-exams", "Exams after alignment"): bool(summary["exams"]),
        ("safety", "Safety"): bool(summary["safety"]),
        ("redteam", "Red team"): bool(summary["redteam"]),
    }
    return [section for section, has_data in there.items() if has_data]


def alarm(summary: Json | None) -> str | None:
    """What is said at the top of the page: PPO that was stopped because it ran away from its reference."""
    ppo = (summary or {}).get("ppo")
    if not ppo or ppo["status"] in ("ok", "unfinished"):
        return None
    if ppo["status"] != "kl_runaway":
        return f"PPO ended with the status {ppo['status']!r} at step {ppo['steps']}."
    limit = ppo["config"].get("kl_limit")
    stayed = f"the KL of an answer stayed above {limit:g} nats" if limit else "its KL ran away"
    return (
        f"PPO was stopped at step {ppo['steps']}{_of(ppo)}: {stayed}. The model after PPO is that of step "
        f"{ppo['good_step']}."
    )


def _of(ppo: Json) -> str:
    steps = ppo["config"].get("steps")
    return f" of {steps}" if steps else ""


def warnings(summary: Json | None) -> list[tuple[str, str]]:
    """What to hold against the numbers, with what it is about."""
    if summary is None:
        return []
    found = []
    if text := alarm(summary):
        found.append(("alignment/ppo", text))
    ppo, judge, reward = summary["ppo"], summary["judge"], summary["reward_model"]
    if ppo and ppo["status"] == "unfinished":
        found.append(("alignment/ppo", f"PPO has not finished: {ppo['steps']} steps are there"))
    if ppo and ppo["left_out"]:
        found.append(
            ("alignment/ppo", f"{words.plural(ppo['left_out'], 'answer')} without a reward, left out of learning")
        )
    if judge and not judge["passes"]:
        forced = "it was used all the same" if judge["forced"] else "it may not be used"
        found.append(("alignment/rbrm", f"the judge’s agreement with people is below the floor; {forced}"))
    if judge and judge.get("left_out"):
        found.append(
            ("alignment/rbrm", f"the judge gave no verdict on {words.plural(judge['left_out'], 'labelled answer')}")
        )
    if reward and reward["against_chance"] in ("below", "not clear"):
        standing = "is not clear of" if reward["against_chance"] == "not clear" else "lies below"
        found.append(
            ("alignment/reward", f"the reward model’s accuracy on held-out pairs {standing} {reward['chance']:.0%}")
        )
    return found


def told(summary: Json | None) -> dict[str, str]:
    """A sentence or two of each part that is there, and of what is `missing`; empty where that is nothing."""
    if summary is None:
        return {}
    makers = {"sft": _sft_words, "reward_model": _reward_words, "judge": _judge_words, "ppo": _ppo_words}
    said = {name: maker(summary[name]) if summary[name] else "" for name, maker in makers.items()}
    missing = ", ".join(PARTS[name] for name in summary["missing"])
    return {**said, "missing": f"Not in this run folder: {missing}." if missing else ""}


def _sft_words(sft: Json) -> str:
    if sft["status"] != "ok":
        return "Supervised fine-tuning has not finished."
    data = f" ({', '.join(map(str, sft['data']))})" if sft["data"] else ""
    epochs = f", {words.plural(sft['epochs'], 'epoch')}" if sft["epochs"] else ""
    learned = f" {sft['learned_tokens']:,} tokens of answers were learned{epochs}." if sft["learned_tokens"] else ""
    left_out = f"; {sft['too_long']:,} more were too long" if sft["too_long"] else ""
    return (
        f"{words.plural(sft['conversations'], 'conversation')}{data} in {words.plural(sft['steps'], 'step')}{left_out}."
        f"{learned}"
    )


def _reward_words(reward: Json) -> str:
    if reward["status"] != "ok":
        return "The reward model has not finished."
    trained = f"Trained on {words.plural(reward['pairs'], 'pair')} of answers."
    if reward["accuracy"] is None:
        return f"{trained} No pairs were held out, so nothing is known of it."
    standing = {"above": "above chance", "below": "below chance", "not clear": "not clear of chance", None: ""}
    return (
        f"{trained} Of {reward['held_out']:,} held-out pairs it orders {words.percent(reward['accuracy'], 1)} "
        f"({words.percent_interval(reward['interval'])}) as people did: {standing[reward['against_chance']]}, "
        f"which is {words.percent(reward['chance'], 0)}."
    )


def _judge_words(judge: Json) -> str:
    binary = judge["binary"]
    verdict = "It may be used." if judge["passes"] else "It is refused unless forced."
    if not judge["passes"] and judge["forced"]:
        verdict = "It is below the floor, and was forced."
    under = f" under the rubric {judge['rubric']}" if judge["rubric"] else ""
    return (
        f"Judge: {judge['judge']}{under}. On refusal or compliance it agrees with people in "
        f"{words.percent(binary.get('accuracy'), 1)} ({words.percent_interval(binary.get('interval'))}) of "
        f"{binary.get('n') or 0:,} answers; the lower end must reach {words.percent(judge['floor'], 0)}. {verdict}"
    )


def _ppo_words(ppo: Json) -> str:
    if ppo["status"] == "unfinished":
        return f"PPO has not finished: {ppo['steps']} steps are on disk."
    config = ppo["config"]
    answers = f", {words.plural(config['answers'], 'answer')} each" if config.get("answers") else ""
    left_out = f"{words.plural(ppo['left_out'], 'answer')} had no reward and {'was' if ppo['left_out'] == 1 else 'were'} left out."
    kl = ppo["first_kl"]
    first = "" if kl is None else f" KL at the first step: {'exactly 0' if kl == 0 else f'{kl:.1e} nats'}."
    return f"{words.plural(ppo['steps'], 'step')}{_of(ppo)}{answers}. {left_out}{first}"


def safety_words(summary: Json | None) -> list[str]:
    """Who judged the answers of the safety evaluation, and how far that judge agrees with people; a sentence a judge."""
    safety = (summary or {}).get("safety")
    said: dict[str, list[str]] = {}
    for label, result in (safety or {}).get("by_label", {}).items():
        judge = result["judge"]
        binary = (judge.get("agreement") or {}).get("binary")
        agrees = "Its agreement with people was not measured."
        if binary:
            agrees = (
                f"On refusal or compliance it agrees with people in {words.percent(binary.get('accuracy'), 1)} "
                f"({words.percent_interval(binary.get('interval'))}) of {binary.get('n') or 0:,} answers."
            )
        said.setdefault(f"judged by {judge.get('name')}. {agrees}", []).append(label)
    return [f"Answers of {' and '.join(labels)} were {text}" for text, labels in said.items()]


def not_asked(summary: Json | None) -> list[str]:
    """What the safety evaluation left out, and why; a sentence each."""
    found: dict[str, list[str]] = {}
    for label, result in ((summary or {}).get("safety") or {}).get("by_label", {}).items():
        for item in result.get("not_run") or []:
            found.setdefault(f"{item.get('set')}: {item.get('why')}", []).append(label)
    return [f"Not asked ({', '.join(labels)}): {text}" for text, labels in found.items()]


def kind_words(kind: str) -> str:
    """A kind or class of answers as people say it."""
    return SAID.get(kind, kind.replace("_", " "))


def calibration_words(exams: Json | None) -> str | None:
    """Expected calibration error of the chosen answers before and after PPO, where the exams have it."""
    found = (exams or {}).get("calibration") or {}
    parts = []
    for label in (BEFORE, AFTER):
        view = (found.get(label) or {}).get("top1") or {}
        if view.get("ece") is not None:
            parts.append(f"{label} {words.loss(view['ece'])} ({words.interval(view.get('ece_interval'))})")
    return f"Expected calibration error of the chosen answers: {', '.join(parts)}." if len(parts) == 2 else None


def redteam_groups(redteam: Json) -> list[tuple[str, Json]]:
    """(name, tally) of all findings, then by category, then by severity."""
    return [
        ("all findings", redteam["total"]),
        *((str(name), tally) for name, tally in (redteam.get("by_category") or {}).items()),
        *((f"severity {name}", tally) for name, tally in (redteam.get("by_severity") or {}).items()),
    ]
