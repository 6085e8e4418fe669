"""The figures of `safety.json` as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]
WHAT = {
    "disallowed": "disallowed: incorrect is no refusal",
    "sensitive": "sensitive: incorrect is not what the rubric desires",
    "allowed": "allowed: incorrect is no safe answer; refused is over-refusal",
}


def render(result: Json) -> str:
    """All figures of the whole and of each group, with n and interval. `-` where nothing could be counted."""
    return "\n".join(_lines(result))


def _lines(result: Json) -> Iterator[str]:
    judge = result["judge"]
    yield f"model: {result['model']['name']}"
    yield f"judge: {judge['name']}, {_agreement(judge['agreement'])}"
    for found in result["sets"]:
        yield f"\n{found['title']} ({found['source']})" + _too_long(found)
        for kind, figures in found["kinds"].items():
            yield f"  {WHAT[kind]}"
            heads = ("incorrect", "refused", "harmful", "desired style")
            yield f"  {'':26} {'answers':>7} {'unjudged':>8}  {' '.join(f'{head:24}' for head in heads)} classes a b c d, off topic"
            for name, part in {"all": figures, **figures["groups"]}.items():
                shares = " ".join(f"{share(part[key]):24}" for key in ("incorrect", "refused", "harmful", "style"))
                counts = " ".join(str(n) for n in part["matrix"].values())
                yield f"  {name or 'no group':26.26} {part['answers']:7} {part['unjudged']:8}  {shares} {counts}"
    if result["jailbreaks"]:
        yield from _jailbreaks(result["jailbreaks"])
    for found in result["toxicity"]:
        how = f"{found['samples']} continuations a prompt, scored by {found['scorer']['name']}"
        yield f"\n{found['title']}: {how}" + _too_long(found)
        yield f"  {'':26} {'prompts':>7} {'unscored':>8}  {'expected maximum':24} {'probability':24} {'fraction toxic':24}"
        for name, part in {"all": found, **found["groups"]}.items():
            figures = f"{share(part['expected_maximum'], '.3f'):24} {share(part['probability']):24} {share(part['fraction']):24}"
            yield f"  {name:26.26} {part['prompts']:7} {part['unscored']:8}  {figures}".rstrip()
    for found in result["facts"]:
        low, high = found["interval"]
        yield (
            f"\n{found['title']}: {found['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {found['n']}, chance "
            f"{found['chance']:.1%}" + _too_long(found)
        )
    if result["not_run"]:
        yield ""
    for entry in result["not_run"]:
        yield f"not asked: {entry['set']}: {entry['why']}"


def _jailbreaks(found: Json) -> Iterator[str]:
    yield f"\nJailbreaks around {found['requests']} disallowed requests: answers with disallowed content" + _too_long(
        found
    )
    yield f"  {'':26} {'answers':>7} {'unjudged':>8}  {'success':24} {'refused':24} against plain, paired"
    for name, part in {"plain": found["plain"], **found["techniques"]}.items():
        difference = part["difference"]
        against = ""
        if difference:
            low, high = difference["interval"]
            against = f"{difference['value']:+.1%} ({low:+.1%} to {high:+.1%})"
        figures = f"{share(part['success']):24} {share(part['refused']):24} {against}"
        yield f"  {name.replace('_', ' '):26.26} {part['answers']:7} {part['unjudged']:8}  {figures}".rstrip()
    yield f"  {'any template':26} {'':7} {'':8}  {share(found['any'])}"


def _agreement(found: Json | None) -> str:
    if not found:
        return "agreement with people not measured"
    binary = found["binary"]
    if binary["accuracy"] is None:
        return "agreement with people could not be measured: it gave no verdict"
    low, high = binary["interval"]
    return f"agrees with people on refusal or compliance in {binary['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {binary['n']}"


def _too_long(found: Json) -> str:
    return f"; {found['too_long']} too long for the model" if found["too_long"] else ""


def share(found: Json, form: str = ".1%") -> str:
    """A figure with its interval."""
    if found["value"] is None:
        return "-"
    low, high = found["interval"]
    return f"{found['value']:{form}} ({low:{form}} to {high:{form}})"


def render_comparison(found: Json) -> str:
    """Paired differences of `compare`, second - first."""
    lines = [f"{found['second']} against {found['first']}, on the same requests, judged by {found['judge']}:"]
    head = f"  {'':44} {'n':>5} {'first':>8} {'second':>8}  {'difference':26} {'p':>7} {'risen':>5} {'fallen':>6}"
    lines.append(head)
    parts: dict[str, Json | None] = {
        f"{name}, {kind}, {what}": part
        for name, kinds in found["sets"].items()
        for kind, figures in kinds.items()
        for what, part in figures.items()
    }
    parts["jailbreaks, harmful"] = found["jailbreaks"]
    parts |= {
        f"{name}, {what.replace('_', ' ')}": part
        for name, both in found["toxicity"].items()
        for what, part in both.items()
    }
    parts |= {f"{name}, correct": part for name, part in found["facts"].items()}
    for name, part in parts.items():
        if part:
            low, high = part["interval"]
            p = f"{part['p_value']:.3f}" if part["p_value"] is not None else "-"
            difference = f"{part['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
            lines.append(
                f"  {name:44.44} {part['n']:5} {part['first']:8.3f} {part['second']:8.3f}  {difference:26} {p:>7} "
                f"{len(part['risen']):5} {len(part['fallen']):6}"
            )
    return "\n".join(lines)
