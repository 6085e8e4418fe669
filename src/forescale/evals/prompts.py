"""From an exam's item to what a model is shown. The forms are those of lm-eval's tasks, so that scores can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from forescale.checkpoints.encoding import Prompt, encode_chat, encode_parts
from forescale.core.documents import Message, Part, Text, joined
from forescale.evals.task import LETTERS, Explain, Item, Letters, Options, Respond, Task
from forescale.model.config import ModelConfig
from forescale.tokenizer.bpe import Tokenizer

# "Answer: A" after an explanation, and what an explanation may grow by when it is encoded again.
LETTER_ROOM = 16
EXPLAIN_CHAT = "\n\nExplain briefly, then give the letter of the right answer."


def question(item: Item, task: Task) -> list[Part]:
    """The item up to where its answer begins. Text of `plain` options is left as it is: that is how training showed it."""
    solver = task.solver
    if isinstance(solver, Options) and solver.plain:
        return list(item.question)
    lettered = isinstance(solver, Letters | Explain)
    before = f"{item.passage.strip()}\n" if item.passage else ""
    if not lettered:
        before += "Question: "
    parts: list[Part] = [Text(before), *item.question]
    if lettered:
        parts.append(Text(_lettered(item)))
    return [*parts, Text("\nExplanation:" if isinstance(solver, Explain) else "\nAnswer:")]


def _lettered(item: Item) -> str:
    return "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, item.options))


def answer(item: Item, task: Task) -> str:
    """What follows the question when it is answered rightly: in worked examples."""
    if isinstance(task.solver, Letters | Explain):
        return f" {LETTERS[item.correct[0]]}"
    return f" {item.options[item.correct[0]] if item.options else item.accepted[0]}"


def parts_of(item: Item, task: Task) -> list[Part]:
    """Header, worked examples, question; neighbouring texts joined."""
    parts: list[Part] = []
    if isinstance(task.solver, Letters) and item.options:
        subject = str(item.facts.get("subject", "")).replace("_", " ")
        about = f" about {subject}" if subject else ""
        parts.append(Text(f"The following are multiple choice questions (with answers){about}.\n\n"))
    for example in task.dataset.examples(item.group, task.solver.shots):
        parts += [*question(example, task), Text(answer(example, task) + "\n\n")]
    return joined([*parts, *question(item, task)])


def shown(parts: Sequence[Part]) -> str:
    """For logs: pictures as `<image>`."""
    return "".join(part.text if isinstance(part, Text) else "<image>" for part in parts)


def scored_prompt(item: Item, task: Task, tokenizer: Tokenizer, config: ModelConfig) -> tuple[Prompt, list[list[int]]]:
    """A prompt, and the ids of each letter or option after it.

    Prompt and answer are encoded together and split where the prompt alone ends, as lm-eval does; after `plain` questions the
    answer is encoded by itself, as in training, where part borders are token borders.
    """
    solver = task.solver
    parts = parts_of(item, task)
    prompt = encode_parts(parts, tokenizer, config)
    if isinstance(solver, Options) and solver.plain:
        return prompt, [tokenizer.encode(option) for option in item.options]
    last = parts[-1]
    assert isinstance(last, Text)
    alone = len(tokenizer.encode(last.text))
    follows = [
        f" {option}" for option in (LETTERS[: len(item.options)] if isinstance(solver, Letters) else item.options)
    ]
    return prompt, [tokenizer.encode(last.text + text)[alone:] for text in follows]


def written_prompt(item: Item, task: Task, tokenizer: Tokenizer, config: ModelConfig, chat: bool) -> Prompt:
    """A prompt that the model goes on from in its own words: as a conversation if `chat`, without worked examples then."""
    if not chat:
        return encode_parts(parts_of(item, task), tokenizer, config)
    parts: list[Part] = [Text(f"{item.passage.strip()}\n\n")] if item.passage else []
    parts += item.question
    if isinstance(task.solver, Explain):
        parts.append(Text(_lettered(item) + EXPLAIN_CHAT))
    return encode_chat([Message("user", tuple(joined(parts)))], tokenizer, config)


def new_tokens(task: Task, config: ModelConfig) -> int:
    """Tokens that the task's solver may take after its prompt, at most half of what the model was trained on: what it writes,
    and the question for the letter after an explanation."""
    if not isinstance(task.solver, Explain | Respond):
        return 0
    written = min(task.solver.max_new_tokens, config.sequence_length // 2)
    return written + (LETTER_ROOM if isinstance(task.solver, Explain) else 0)
