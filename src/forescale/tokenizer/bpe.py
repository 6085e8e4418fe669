"""Train, load and use a byte-level BPE tokenizer (Hugging Face `tokenizers`).

Special: digits stand alone (arithmetic is then about digits, not about which pairs were merged), all 256 bytes are in the
vocabulary, and special tokens are placed by code only: their spelling inside a text is plain text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from forescale.core.artifacts import write_text
from forescale.core.errors import CorruptArtifact, UserError

SPECIAL = ("<|endoftext|>", "<|image|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
# GPT-4's split pattern as Qwen2 ships it (single digits), so that exported tokenizers behave alike everywhere.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MIN_VOCABULARY = 256 + len(SPECIAL)


def check_vocabulary(vocab_size: int) -> None:
    """Raises UserError if it cannot hold all bytes and special tokens, or its ids do not fit the shards' 16 bits."""
    if vocab_size < MIN_VOCABULARY:
        raise UserError(
            f"a vocabulary of {vocab_size} cannot hold 256 bytes and special tokens; use at least {MIN_VOCABULARY}."
        )
    if vocab_size > 65_536:
        raise UserError(f"a vocabulary of {vocab_size} does not fit 16-bit token shards; use at most 65536.")


def _byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: character -> byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in kept]
    return {chr(b): b for b in kept} | {chr(256 + i): b for i, b in enumerate(others)}


class Tokenizer:
    """Text to ids and back. `end` ends (and separates) documents; `image` holds the place of one picture patch."""

    def __init__(self, backend: Backend) -> None:
        backend.encode_special_tokens = True
        self._backend = backend
        self._byte_of = _byte_characters()
        ids = [i for token in SPECIAL if (i := backend.token_to_id(token)) is not None]
        found = {byte: backend.token_to_id(character) for character, byte in self._byte_of.items()}
        self._id_of_byte = {byte: i for byte, i in found.items() if i is not None}
        if len(ids) < len(SPECIAL) or len(self._id_of_byte) < 256:
            raise CorruptArtifact(
                "the tokenizer lacks forescale's special tokens or some of the 256 bytes; train it again."
            )
        self.end, self.image, self.system, self.user, self.assistant, self.end_of_turn = ids
        self._special = dict(zip(ids, SPECIAL))

    @staticmethod
    def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Raises UserError if `vocab_size` cannot hold all bytes and special tokens."""
        check_vocabulary(vocab_size)
        backend = Backend(models.BPE())
        split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(_byte_characters()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return Tokenizer(backend)

    @staticmethod
    def load(path: Path) -> Tokenizer:
        """Raises CorruptArtifact if the file is no tokenizer of ours."""
        try:
            return Tokenizer(Backend.from_file(str(path)))
        except Exception as error:
            if isinstance(error, UserError):
                raise
            raise CorruptArtifact(
                f"{path} is not a tokenizer file ({error}); delete its folder to make it again."
            ) from error

    def save(self, path: Path) -> None:
        write_text(path, self._backend.to_str())

    @property
    def vocab_size(self) -> int:
        return self._backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Lone surrogates (undecodable bytes read with `surrogateescape`) become their bytes."""
        if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text):
            return self._backend.encode(text, add_special_tokens=False).ids
        return self.encode_bytes(text.encode("utf-8", "surrogateescape"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if any(not t.isascii() and any("\ud800" <= c <= "\udfff" for c in t) for t in texts):
            return [self.encode(text) for text in texts]
        return [encoding.ids for encoding in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: valid UTF-8 by the merges, the rest a byte at a time."""
        ids: list[int] = []
        text = data.decode("utf-8", "surrogateescape")
        run: list[str] = []
        for character in text:
            if "\udc80" <= character <= "\udcff":
                ids += self.encode("".join(run)) if run else []
                run = []
                ids.append(self._id_of_byte[ord(character) - 0xDC00])
            else:
                run.append(character)
        return ids + (self.encode("".join(run)) if run else [])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes; special tokens by their spelling."""
        out = bytearray()
        for i in ids:
            if i in self._special:
                out += self._special[i].encode()
            else:
                out += bytes(self._byte_of[c] for c in self._backend.id_to_token(i) or "")
        return bytes(out)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")
