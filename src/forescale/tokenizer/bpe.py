"""Train, load and use a tokenizer (Hugging Face `tokenizers`): a byte-level BPE of our own, or any that was imported.

Special to our own: digits stand alone (arithmetic is then about digits, not about which pairs were merged) and all 256 bytes
are in the vocabulary. Special to all: special tokens are placed by code only; their spelling inside a text is plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from forescale.core.artifacts import read_json, write_json, write_text
from forescale.core.errors import CorruptArtifact, UserError
from forescale.tokenizer.vetting import load_backend, no_panic

SPECIAL = ("<|endoftext|>", "<|image|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
# GPT-4's split pattern as Qwen2 ships it (single digits), so that exported tokenizers behave alike everywhere.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MIN_VOCABULARY = 256 + len(SPECIAL)
# The form that `transformers` and every server of chat models expect; a picture is an image token (see `tokenizer.chat`).
CHAT_TEMPLATE = (
    "<|endoftext|>{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROLES_FILE = "tokens.json"
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that are no undecodable byte


@dataclass(frozen=True)
class Roles:
    """What the ids of a tokenizer are for.

    `end` ends (and separates) documents, `begin` precedes every document and prompt, any of `stop` ends what a model writes,
    `image` holds the place of one picture patch (-1: none). `chat_template` is Jinja, empty where a model has no chat form;
    `bos` is what it calls `bos_token` (-1: the first of `begin`).
    """

    end: int
    begin: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    image: int = -1
    chat_template: str = ""
    bos: int = -1


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
    """Text to ids and back. `roles` says what its special ids are for; without them it must be one of our own."""

    def __init__(self, backend: Backend, roles: Roles | None = None) -> None:
        backend.encode_special_tokens = True
        self.backend = backend
        self._byte_of = _byte_characters()
        found = {byte: backend.token_to_id(character) for character, byte in self._byte_of.items()}
        self._id_of_byte = {byte: i for byte, i in found.items() if i is not None}
        self.is_ours = roles is None
        if roles is None:
            ids = [i for token in SPECIAL if (i := backend.token_to_id(token)) is not None]
            if len(ids) < len(SPECIAL) or len(self._id_of_byte) < 256:
                raise CorruptArtifact(
                    "the tokenizer lacks forescale's special tokens or some of the 256 bytes; train it again."
                )
            roles = Roles(ids[0], (ids[0],), (ids[0], ids[5]), ids[1], CHAT_TEMPLATE)
        self.roles = roles
        self.end, self.image = roles.end, roles.image
        added = backend.get_added_tokens_decoder()
        self.special = {i: token.content for i, token in added.items() if token.special}
        self._added = {i: token.content for i, token in added.items()}
        self._byte_level = _is_byte_level(backend)
        self._trusting: Backend | None = None

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
        """From `tokenizer.json`, and `tokens.json` beside it if there is one. Raises CorruptArtifact if they are neither
        a tokenizer of ours nor an imported one."""
        try:
            described = path.with_name(ROLES_FILE)
            roles = None
            if described.is_file():
                facts = read_json(described)
                described_roles: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
                roles = Roles(**described_roles)
            return Tokenizer(load_backend(path), roles)
        except Exception as error:
            if isinstance(error, UserError):
                raise
            raise CorruptArtifact(
                f"{path} is not a tokenizer file ({error}); delete its folder to make it again."
            ) from error

    def save(self, path: Path) -> None:
        write_text(path, self.backend.to_str())
        if not self.is_ours:
            write_json(path.with_name(ROLES_FILE), asdict(self.roles))

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Lone surrogates (undecodable bytes read with `surrogateescape`) become their bytes; those
        that stand for no byte become U+FFFD."""
        if is_unicode(text):
            with no_panic():
                return self.backend.encode(text, add_special_tokens=False).ids
        return self.encode_bytes(_NO_BYTE.sub("\ufffd", text).encode("utf-8", "surrogateescape"))

    def encode_trusted(self, text: str) -> list[int]:
        """Ids of text that code has put together: what spells a special token is one. Never for what people wrote."""
        if self._trusting is None:
            self._trusting = Backend.from_str(self.backend.to_str())
            self._trusting.encode_special_tokens = False
        with no_panic():
            return self._trusting.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if not all(map(is_unicode, texts)):
            return [self.encode(text) for text in texts]
        with no_panic():
            return [encoding.ids for encoding in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: valid UTF-8 by the merges, the rest a byte at a time, as U+FFFD if there is no token for it."""
        ids: list[int] = []
        text = data.decode("utf-8", "surrogateescape")
        run: list[str] = []
        for character in text:
            if not "\udc80" <= character <= "\udcff":
                run.append(character)
            elif (byte := ord(character) - 0xDC00) not in self._id_of_byte:
                run.append("\ufffd")
            else:
                ids += self.encode("".join(run)) if run else []
                run = []
                ids.append(self._id_of_byte[byte])
        return ids + (self.encode("".join(run)) if run else [])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes; added tokens by their spelling. Tokenizers that are not byte-level give what they decode to."""
        if not self._byte_level:
            return str(self.backend.decode(list(ids), skip_special_tokens=False)).encode()
        out = bytearray()
        for i in ids:
            if i in self._added:
                out += self._added[i].encode()
            else:
                out += bytes(self._byte_of[c] for c in self.backend.id_to_token(i) or "")
        return bytes(out)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")


def is_unicode(text: str) -> bool:
    """Whether it holds no lone surrogates."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _is_byte_level(backend: Backend) -> bool:
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    parts = decoder.get("decoders") or [decoder]
    return any(part.get("type") == "ByteLevel" for part in parts)
