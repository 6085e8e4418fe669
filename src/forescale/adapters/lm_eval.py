"""A forescale checkpoint as a model of lm_eval (EleutherAI's evaluation harness): text and pictures.

    python -m forescale.adapters.lm_eval run --model forescale --model_args path=runs/laptop --tasks arc_easy

is lm_eval's own command line with the model `forescale` added. All requests of a run are scored at once, so that worked
examples and contexts that requests share are computed once (`generate.score`).
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow

from forescale.checkpoints.encoding import Prompt, place_images
from forescale.checkpoints.files import load_checkpoint
from forescale.core.device import pick_device
from forescale.core.documents import Image
from forescale.core.errors import UserError
from forescale.data.images import fit_image
from forescale.generate.sample import sample
from forescale.generate.score import Query, Scored, score
from forescale.tokenizer.chat import Templated, fill

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    sentence = f'lm_eval cannot be imported ({error}); install it with `pip install "forescale[lm_eval]"`.'
    if __name__ == "__main__":
        print(sentence, file=sys.stderr)
        sys.exit(2)
    raise ImportError(sentence) from error

log = logging.getLogger(__name__)

PICTURE = "<image>"  # lm_eval's placeholder in the text of a request
ROWS = 24  # of a batch that is written, unless a batch size is given
# Stands inside a control token's spelling that a person wrote, so that what the template placed can be told from it, and at
# the beginning of a conversation's text. That alone makes no conversation, since data could begin so: only the type does.
MARK = "\ue003"
# Arguments of generation that change nothing unless they have another value.
NEUTRAL: Mapping[str, Sequence[Any]] = {
    "top_p": (None, 1, 1.0),
    "top_k": (None, 0, -1),
    "min_p": (None, 0, 0.0),
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1, 1.0),
}
SAMPLING = ("top_p", "top_k", "min_p")  # which change nothing either where the likeliest token is taken


@register_model("forescale")
class ForescaleLM(TemplateLM):
    """`path`: a run or checkpoint folder. `max_length`: tokens of context (default: what the model was trained on).

    `batch_size`: rows that are written side by side; scoring makes its own batches, and "auto" leaves both to us.
    """

    MULTIMODAL = True

    def __init__(
        self,
        path: str,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
    ) -> None:
        """Raises UserError if there is no checkpoint, or `max_length` is more than the model has positions."""
        super().__init__()
        self._device = torch.device(device) if device else pick_device()
        checkpoint = load_checkpoint(Path(path).expanduser(), self._device)
        self.model, self.text_tokenizer, self.name = checkpoint.model, checkpoint.tokenizer, checkpoint.name
        positions = len(self.model.cos_TC)
        self.max_length = int(max_length or self.model.config.sequence_length)
        if not 1 < self.max_length <= positions:
            raise UserError(f"max_length={self.max_length} is not between 2 and the model's {positions} positions.")
        self.max_gen_toks = int(max_gen_toks)
        auto = batch_size is None or str(batch_size).startswith("auto")
        self.batch_size = ROWS if auto else int(str(batch_size))
        spellings = sorted(self.text_tokenizer.special.values(), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, spellings)) or r"(?!)")
        self._said_unknown = False
        self._ids = {spelling: i for i, spelling in self.text_tokenizer.special.items()}

    @property
    def eot_token_id(self) -> int:
        return self.text_tokenizer.end

    @property
    def prefix_token_id(self) -> int:
        """What the first token of a text is predicted from: the last of what precedes documents, else as lm_eval's `hf`."""
        roles = self.text_tokenizer.roles
        return roles.begin[-1] if roles.begin else roles.bos if roles.bos >= 0 else roles.end

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer and its template by their content, for lm_eval's cache of requests."""
        tokenizer = self.text_tokenizer
        content = tokenizer.backend.to_str() + tokenizer.roles.chat_template
        return f"forescale-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def get_model_info(self) -> dict[str, Any]:
        """For lm_eval's results file."""
        dtype = str(self.model.lm_head.weight.dtype)
        return {"model_name": self.name, "model_num_parameters": self.model.config.params, "model_dtype": dtype}

    # Text to ids.

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids; what precedes every document goes first unless `add_special_tokens` is False or it is a conversation."""
        begin = () if add_special_tokens is False or isinstance(string, Templated) else self.text_tokenizer.roles.begin
        return [*begin, *(i for i in self._encode(string, ()) if isinstance(i, int))]

    def _encode(self, text: str, images: Sequence[Image]) -> list[int | Image]:
        """Ids of plain text or of a conversation, with the pictures in their places.

        Raises UserError if the text has another number of places.
        """
        tokenizer = self.text_tokenizer
        if not isinstance(text, Templated):
            self._say_unknown(text)
            pieces = text.split(PICTURE) if images else [text]
            self._check_places(len(pieces) - 1, images)
            ids: list[int | Image] = [*tokenizer.encode(pieces[0])] if pieces[0] else []
            for image, piece in zip(images, pieces[1:]):
                ids += [image, *(tokenizer.encode(piece) if piece else [])]
            return ids
        text = text[1:]
        found: list[int] = []
        if MARK not in text:
            found = tokenizer.encode_trusted(text)
        else:
            begin = 0
            for match in [*self._control.finditer(text), None]:
                plain = text[begin : match.start() if match else None].replace(MARK, "")
                found += tokenizer.encode(plain) if plain else []
                if match:
                    begin = match.end()
                    found.append(self._ids[match.group()])
        places = found.count(tokenizer.image) if tokenizer.image >= 0 else 0
        self._check_places(places, images)
        left = iter(images)
        return [next(left) if places and i == tokenizer.image else i for i in found]

    def _say_unknown(self, text: str) -> None:
        """Warns, once, of what looks like a conversation and is none."""
        if text.startswith(MARK) and not self._said_unknown:
            self._said_unknown = True
            log.warning(
                "A request begins with U+E003 and is no conversation of this model's template; it is taken as plain text. "
                "If lm_eval's cache of requests is in use, delete that."
            )

    def _check_places(self, places: int, images: Sequence[Image]) -> None:
        if places != len(images):
            raise UserError(
                f"a request has {len(images)} pictures and {places} places for them in its text ({PICTURE}); "
                "look at the task's doc_to_text and doc_to_image."
            )

    def _prompt(self, text: str, ids: Sequence[int | Image]) -> Prompt:
        """Of a text and its ids, with what precedes every document, unless a conversation brings it."""
        begin = () if isinstance(text, Templated) else self.text_tokenizer.roles.begin
        whole = [*begin, *ids] or [self.prefix_token_id]
        return place_images(whole, self.text_tokenizer, self.model.config)

    def _pair(self, context: str, continuation: str, images: Sequence[Image]) -> tuple[Prompt, tuple[int, ...]]:
        """Encoded together and split where the context alone ends; spaces at its end belong to the continuation."""
        if not context:
            alone = self.tok_encode(continuation, add_special_tokens=False)
            begin = self.text_tokenizer.roles.begin or (self.prefix_token_id,)
            if alone[:1] == [begin[-1]] and len(alone) > 1:
                begin, alone = (*begin[:-1], alone[0]), alone[1:]
            return place_images(begin, self.text_tokenizer, self.model.config), tuple(alone)
        kept, whole = context.rstrip(), context + continuation
        if isinstance(context, Templated):
            kept, whole = Templated(kept), Templated(context + self._written(continuation))
        ids = self._encode(kept, images)
        follows = self._encode(whole, images)[len(ids) :]
        return self._prompt(kept, ids), tuple(i for i in follows if isinstance(i, int))

    def _cut(self, prompt: Prompt, room: int) -> tuple[Prompt, bool]:
        """At most the last `room` tokens, and whether some were left out. Raises UserError if a picture would be."""
        if len(prompt.ids) <= room:
            return prompt, False
        if len(prompt.pixels):
            raise UserError(
                f"a request with pictures takes {len(prompt.ids)} tokens and there is room for {room}; "
                "give it less text, or a larger max_length."
            )
        return Prompt(prompt.ids[len(prompt.ids) - room :], prompt.pixels), True

    def _say_cut(self, cut: int, of: int) -> None:
        if cut:
            log.warning(f"{cut} of {of} requests did not fit {self.max_length} tokens; their beginnings were left out.")

    def _images(self, requests: Sequence[Instance]) -> Iterator[list[Image]]:
        """The pictures of each request, at the model's size. Requests on one document share them.

        Raises UserError for a model that reads none, or for pictures of another kind than Pillow's.
        """
        done: dict[int, list[Image]] = {}
        for request in requests:
            visual = request.args[2].get("visual") if len(request.args) > 2 else None
            if visual is None:
                yield []
                continue
            if not self.model.config.has_vision:
                raise UserError(f"{self.name} reads text alone; leave out tasks with pictures.")
            if id(visual) not in done:
                listed = visual if isinstance(visual, list | tuple) else [visual]
                if not all(isinstance(picture, Pillow.Image) for picture in listed):
                    raise UserError("a task's doc_to_image must give pictures as Pillow reads them.")
                done[id(visual)] = [Image(fit_image(picture, self.model.config.image_size)) for picture in listed]
            yield done[id(visual)]

    # Conversations.

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template, for lm_eval's records. Raises UserError if one is wanted and the model has none, or not that one."""
        if not chat_template:
            return None
        template = self.text_tokenizer.roles.chat_template
        if not template or isinstance(chat_template, str):
            raise UserError(
                f"{self.name} has {'one unnamed' if template else 'no'} chat template; "
                f"{'give --apply_chat_template no name' if template else 'leave out --apply_chat_template'}."
            )
        return template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> Templated:
        """A conversation as text: `MARK`, then what the template makes of it.

        A type of its own, which lm_eval passes on as it is, also through its caches.

        Without `add_generation_prompt` the last message, if it is the assistant's, is one to go on from. A system message is
        left out where the template takes none, as lm_eval's `hf` does.
        """
        history = list(chat_history)
        goes_on = history.pop()["content"] if not add_generation_prompt and history[-1]["role"] == "assistant" else None
        messages = [{"role": message["role"], "content": self._content(message["content"])} for message in history]
        reply = add_generation_prompt or goes_on is not None
        try:
            text = fill(messages, self.text_tokenizer, reply)
        except UserError:
            others = [message for message in messages if message["role"] != "system"]
            if len(others) == len(messages):
                raise
            log.warning("The chat template takes no system message; it is left out.")
            text = fill(others, self.text_tokenizer, reply)
        return Templated(MARK + text + self._written(goes_on or ""))

    def _written(self, text: str) -> str:
        """What a person wrote, with the spellings of control tokens in it broken by marks."""
        return self._control.sub(lambda match: match.group()[0] + MARK + match.group()[1:], text)

    def _content(self, text: str) -> str | list[dict[str, str]]:
        """Of a message, as templates expect it: a list of parts where there are pictures."""
        if not self.model.config.has_vision or PICTURE not in text:
            return self._written(text)
        parts: list[dict[str, str]] = []
        for piece in text.split(PICTURE):
            parts += [{"type": "text", "text": self._written(piece)}] if piece else []
            parts.append({"type": "image"})
        return parts[:-1]

    # What lm_eval asks for.

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding would write it) of each request's continuation after its context."""
        pairs = []
        cut = 0
        for request, images in zip(requests, self._images(requests)):
            prompt, continuation = self._pair(request.args[0], request.args[1], images)
            if not 0 < len(continuation) <= self.max_length:
                raise UserError(
                    f"a continuation of {len(continuation)} tokens ({request.args[1][:60]!r}) cannot be scored; "
                    f"it must have between 1 and {self.max_length}."
                )
            prompt, was_cut = self._cut(prompt, self.max_length + 1 - len(continuation))
            cut += was_cut
            pairs.append((prompt, continuation))
        self._say_cut(cut, len(requests))
        found = self._score(pairs, disable_tqdm)
        for request, answer in zip(requests, found):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        none = place_images([], self.text_tokenizer, self.model.config).pixels
        pairs = [
            (Prompt(tuple(context[-(self.max_length + 1 - len(follows)) :]), none), tuple(follows))
            for _, context, follows in requests
        ]
        return self._score(pairs, kwargs.get("disable_tqdm", False))

    def _score(self, pairs: Sequence[tuple[Prompt, tuple[int, ...]]], quiet: bool) -> list[tuple[float, bool]]:
        """Requests with one prompt become one query, whose continuations share it."""
        asked: dict[tuple[tuple[int, ...], bytes], dict[tuple[int, ...], list[int]]] = {}
        prompts: dict[tuple[tuple[int, ...], bytes], Prompt] = {}
        for i, (prompt, continuation) in enumerate(pairs):
            key = (prompt.ids, hashlib.sha256(prompt.pixels.tobytes()).digest())
            prompts.setdefault(key, prompt)
            asked.setdefault(key, {}).setdefault(continuation, []).append(i)
        queries = [Query(prompts[key], tuple(follows)) for key, follows in asked.items()]
        places = [list(follows.values()) for follows in asked.values()]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        with tqdm(total=len(pairs), disable=quiet, desc="Running loglikelihood requests") as bar:

            def scored(query: int, values: list[Scored]) -> None:
                for indices, value in zip(places[query], values):
                    for i in indices:
                        found[i] = (value.logprob, value.greedy)
                    bar.update(len(indices))

            score(self.model, queries, scored)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in lm_eval's windows. What precedes documents is given, not predicted."""
        none = place_images([], self.text_tokenizer, self.model.config).pixels
        pairs: list[tuple[Prompt, tuple[int, ...]]] = []
        of: list[int] = []
        for i, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                given, predicted = make_disjoint_window(window)
                pairs.append((Prompt(tuple(given), none), tuple(predicted)))
                of.append(i)
        sums = [0.0] * len(requests)
        for i, (logprob, _) in zip(of, self._score(pairs, disable_tqdm)):
            sums[i] += logprob
        for request, total in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each request, up to a stop string, an end token or `max_gen_toks` tokens.

        Requests of like arguments and length are written side by side. Raises UserError for arguments that we do not follow.
        """
        tasks: list[tuple[str, int, Prompt]] = []
        arguments: dict[str, dict[str, Any]] = {}
        cut = 0
        for request, images in zip(requests, self._images(requests)):
            options = self._options(request.args[1])
            key = repr(sorted(options.items()))
            arguments[key] = options
            prompt = self._prompt(request.args[0], self._encode(request.args[0], images))
            prompt, was_cut = self._cut(prompt, self.max_length - options["max_gen_toks"])
            cut += was_cut
            tasks.append((key, len(prompt.ids), prompt))
        self._say_cut(cut, len(requests))
        found = [""] * len(requests)
        order = sorted(range(len(tasks)), key=lambda i: tasks[i][:2])
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for key, members in itertools.groupby(order, key=lambda i: tasks[i][0]):
                rows = list(members)
                for start in range(0, len(rows), self.batch_size):
                    batch = rows[start : start + self.batch_size]
                    for i, text in zip(batch, self._write([tasks[i][2] for i in batch], arguments[key])):
                        found[i] = text
                        self.cache_hook.add_partial("generate_until", requests[i].args, text)
                    bar.update(len(batch))
        return found

    def _options(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """`max_gen_toks` (half the context at the most), `temperature` and `until`. Raises UserError for what we do not do."""
        given = dict(normalize_gen_kwargs(arguments, self.max_gen_toks))
        temperature = float(given.get("temperature", 1.0)) if given["do_sample"] else 0.0
        for name, neutral in NEUTRAL.items():
            free = name in SAMPLING and temperature == 0
            if name in given and not free and given[name] not in neutral:
                raise UserError(f"forescale does not write with {name}={given[name]}; leave it out of gen_kwargs.")
        most = max(1, self.max_length // 2)
        if given["max_gen_toks"] > most:
            log.warning(
                f"max_gen_toks={given['max_gen_toks']} is more than half of {self.max_length}; {most} are taken."
            )
        return {
            "max_gen_toks": min(given["max_gen_toks"], most),
            "temperature": temperature,
            "until": tuple(stop for stop in given["until"] if stop),
        }

    def _write(self, prompts: Sequence[Prompt], options: dict[str, Any]) -> list[str]:
        tokenizer, until = self.text_tokenizer, options["until"]
        # A token is at least a byte, so a stop string that has just ended is within as many tokens.
        reach = max((len(stop.encode()) for stop in until), default=0) + 4

        def enough(ids: list[int]) -> bool:
            end = self._decode(ids[-reach:])
            return any(stop in end for stop in until)

        written = sample(
            self.model,
            prompts,
            stop=tokenizer.roles.stop or (tokenizer.end,),
            max_new_tokens=options["max_gen_toks"],
            temperature=options["temperature"],
            # From torch's generator, which lm_eval seeds.
            seed=int(torch.randint(2**31, ())),
            stop_when=enough if until else None,
        )
        return [postprocess_generated_text(self._decode(ids), list(until), None) for ids in written]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.text_tokenizer.decode([i for i in ids if i not in self.text_tokenizer.special])


def main() -> None:
    """lm_eval's command line with the model `forescale`; ends with status 2 and one sentence where the input is wrong."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
