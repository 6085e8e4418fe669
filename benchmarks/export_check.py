"""Exports a model and asks other programs whether it is still the same: `transformers`, and llama.cpp if it is there.

    python -m benchmarks.export_check --model runs/laptop [--out export_check.json]

Ten inputs with text and pictures in every order (for a model that reads text alone: ten texts) go through our model and
through `transformers`' from the exported directory, tokenizer and processor included; in float32 as it is used, and in
float64, where rounding plays no part; with drawn shapes, and with noise, which drives activations far out. Where
`xllamacpp` is installed, the text part also goes to llama.cpp as GGUF, and both write greedily.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageDraw

from forescale.checkpoints import gguf, huggingface
from forescale.checkpoints.encoding import encode_parts
from forescale.checkpoints.files import Checkpoint, load_checkpoint
from forescale.core.documents import Image, Part, Text
from forescale.generate.sample import sample

# Where pictures stand in each input: P a picture, t a text.
ORDERS = ("tPt", "Pt", "tP", "t", "PPt", "tPtPt", "tPPPPt", "PtPtP", "PP", "tPtPtPtP")
TEXTS = (
    "How many red squares are there? 3\n",
    "def add(a, b):\n    return a + b  # 12345 + 0.5\n",
    "naïve café – 日本語 😀 \u0301 ½ ²",
    "  two spaces,\ttab, \r\n and a trailing blank ",
    "{{ braces }} <b>tags</b> & 'quotes' \"double\" \\n",
    "I'll can't WE'VE x'S don’t",
    "A: 17 × 23 = 391; 1,000,000.00 €",
    "\n\n\n   indented\n\t\tmore",
    "ﬁligree ｆｕｌｌ ｗｉｄｔｈ ١٢٣ Ⅷ",
    "plain words that follow one another for a while, as they do in most documents",
)


@dataclass(frozen=True)
class Difference:
    """Largest over all inputs; `ids` and `pixels` say whether every input had the same ids and pixel values."""

    inputs: int
    logits: float
    ids: bool
    pixels: bool


def picture(size: int, seed: int, noise: bool) -> Image:
    """Shapes on white as in our training data, or on noise, which no model has seen; uint8 (size, size, 3)."""
    random = np.random.default_rng(seed)
    ground = (
        random.integers(0, 256, (size, size, 3), dtype=np.uint8) if noise else np.full((size, size, 3), 255, np.uint8)
    )
    canvas = Pillow.fromarray(ground)
    draw = ImageDraw.Draw(canvas)
    for kind in (draw.rectangle, draw.ellipse, draw.rectangle)[: int(random.integers(1, 4))]:
        x, y = random.integers(0, size * 3 // 4, 2).tolist()
        kind((x, y, x + size // 4, y + size // 4), fill=tuple(random.integers(0, 256, 3).tolist()))
    return Image(np.array(canvas))


def inputs(checkpoint: Checkpoint, noise: bool = False) -> list[list[Part]]:
    """Documents that fit the model: pictures in other places each time, none to four of them."""
    config = checkpoint.model.config
    documents: list[list[Part]] = []
    for n, order in enumerate(ORDERS):
        parts: list[Part] = []
        texts = 0
        for m, kind in enumerate(order if config.has_vision else "t"):
            if kind == "P":
                parts.append(picture(config.image_size, 100 * n + m, noise))
            else:
                parts.append(Text(TEXTS[(n + 3 * texts) % len(TEXTS)]))
                texts += 1
        # A model may be too short for the longest of them.
        while len(encode_parts(parts, checkpoint.tokenizer, config).ids) > config.sequence_length:
            parts.pop()
        documents.append(parts)
    return documents


def compare(
    checkpoint: Checkpoint, folder: Path, documents: Sequence[Sequence[Part]], dtype: torch.dtype = torch.float32
) -> Difference:
    """Our model against what `transformers` makes of the exported directory `folder`, with no code of ours.

    In float64 rounding plays no part: what is left is a difference in what is computed.
    """
    from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

    sees = (folder / "processor_config.json").is_file()
    kind: Any = LlavaForConditionalGeneration if sees else AutoModelForCausalLM
    theirs, report = kind.from_pretrained(folder, output_loading_info=True, dtype=dtype)
    model = copy.deepcopy(checkpoint.model).to(dtype)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not report[problem], (problem, report[problem])
    processor = AutoProcessor.from_pretrained(folder) if sees else AutoTokenizer.from_pretrained(folder)
    image = getattr(processor, "image_token", "")
    largest, same_ids, same_pixels = 0.0, True, True
    for parts in documents:
        prompt = encode_parts(parts, checkpoint.tokenizer, checkpoint.model.config)
        text = "".join(part.text if isinstance(part, Text) else image for part in parts)
        pictures = [Pillow.fromarray(part.pixels) for part in parts if isinstance(part, Image)]
        # The tokenizer would take a text of no characters for no text at all.
        given: dict[str, Any] = {"images": pictures} if pictures else {}
        batch = dict(processor(text=text, return_tensors="pt", **given))
        same_ids &= batch["input_ids"][0].tolist() == list(prompt.ids)
        if pictures:
            wanted = torch.from_numpy(prompt.pixels).permute(0, 3, 1, 2).to(dtype) / 127.5 - 1
            same_pixels &= torch.allclose(batch["pixel_values"].to(dtype), wanted, atol=1e-6)
        with torch.inference_mode():
            ours = model(torch.tensor([prompt.ids]), torch.from_numpy(prompt.pixels))
            # The processor rounds to float32.
            pixels = {"pixel_values": batch["pixel_values"] if dtype == torch.float32 else wanted} if pictures else {}
            other = theirs(input_ids=batch["input_ids"], **pixels).logits
        same_ids &= ours.shape == other.shape
        largest = max(largest, float((ours - other).abs().max())) if ours.shape == other.shape else float("inf")
    return Difference(len(documents), largest, same_ids, same_pixels)


class LlamaCpp:
    """llama.cpp with a GGUF file, in float32 on one thread (`xllamacpp`)."""

    def __init__(self, path: Path) -> None:
        import xllamacpp

        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.n_ctx, options.n_parallel, options.n_gpu_layers = 1024, 1, 0
        options.warmup, options.verbosity = False, 0
        options.special = True  # show control tokens in what is written
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(options)

    def tokenize(self, text: str) -> list[int]:
        """As it does with a prompt: with what precedes every text."""
        body = json.dumps({"content": text, "add_special": True}).encode()
        request = urllib.request.Request(
            f"{self.server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return list(json.load(answer)["tokens"])

    def write(self, prompt: str, tokens: int) -> str:
        """The likeliest token each time."""
        options = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "top_k": 1, "cache_prompt": False}
        choice = self.server.handle_completions(options)["choices"][0]
        # What ended it is shown as well.
        return re.sub(r"<\|[a-z_]+\|>$", "", choice["text"]) if choice["finish_reason"] == "stop" else choice["text"]


def greedy(checkpoint: Checkpoint, prompts: Sequence[str], tokens: int) -> list[str]:
    """The same with our model, all prompts at once."""
    given = [encode_parts([Text(prompt)], checkpoint.tokenizer, checkpoint.model.config) for prompt in prompts]
    stop = checkpoint.tokenizer.roles.stop
    rows = sample(checkpoint.model, given, stop=stop, max_new_tokens=tokens, temperature=0)
    return [checkpoint.tokenizer.decode(row) for row in rows]


def against_llama_cpp(checkpoint: Checkpoint, path: Path, texts: Sequence[str], tokens: int) -> dict[str, Any]:
    """How many of the texts have the same ids, and the same greedy continuation, from the GGUF file `path`."""
    other, first = LlamaCpp(path), list(checkpoint.tokenizer.roles.begin)
    written = greedy(checkpoint, texts, tokens)
    pairs = list(zip(written, [other.write(text, tokens) for text in texts], strict=True))
    return {
        "prompts": len(texts),
        "same ids": sum(other.tokenize(text) == first + checkpoint.tokenizer.encode(text) for text in texts),
        "same greedy text": sum(ours == theirs for ours, theirs in pairs),
        "different continuations": len(set(written)),
        "pairs that differ": [pair for pair in pairs if pair[0] != pair[1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("export_check.json"))
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.model)
    result: dict[str, Any] = {"model": str(options.model), "parameters": checkpoint.model.config.params}
    result["versions"] = {name: version(name) for name in ("forescale", "torch", "transformers")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        documents = inputs(checkpoint)
        huggingface.write(checkpoint, folder / "full")
        result["transformers"] = asdict(compare(checkpoint, folder / "full", documents))
        result["transformers, float64"] = asdict(compare(checkpoint, folder / "full", documents, torch.float64))
        if checkpoint.model.config.has_vision:
            strange = inputs(checkpoint, noise=True)
            result["transformers, noise"] = asdict(compare(checkpoint, folder / "full", strange))
            result["transformers, noise, float64"] = asdict(
                compare(checkpoint, folder / "full", strange, torch.float64)
            )
            huggingface.write(checkpoint, folder / "text", text_only=True)
            texts = [[Text(text)] for text in TEXTS]
            result["transformers, text part"] = asdict(compare(checkpoint, folder / "text", texts))
        try:
            result["versions"]["xllamacpp"] = version("xllamacpp")
        except ModuleNotFoundError:
            result["llama.cpp, text part"] = "not installed"
        else:
            gguf.write(checkpoint, folder / "text.gguf")
            result["llama.cpp, text part"] = against_llama_cpp(checkpoint, folder / "text.gguf", TEXTS, 48)
    print(json.dumps(result, indent=1, ensure_ascii=False))
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
