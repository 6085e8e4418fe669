"""The user's own data: a folder of text files, JSON lines or Parquet, as documents of text and pictures.

JSON lines and Parquet may lie anywhere that fsspec reaches (`s3://...`, `hf://...`, a local path, a `*` pattern, a
folder). A row has `text`, or `parts`: a list of `{"text": str}` and `{"image": ...}`, the picture as bytes (base64 in
JSON) or as a path relative to the file's folder.
"""

from __future__ import annotations

import base64
import binascii
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forescale.core.documents import Document, Image, Part, Text
from forescale.core.errors import UserError
from forescale.data.images import decode_image
from forescale.data.readers import shuffled, text_document

TEXT_SUFFIXES = frozenset(
    f".{name}"
    for line in (
        "txt md rst tex org html htm csv tsv json yaml yml toml ini cfg xml sql sh",
        "py pyi c h cc cpp hpp cu rs go java kt swift js mjs ts tsx jsx css rb php pl lua r jl scala hs",
    )
    for name in line.split()
)
JSONL_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.bz2", ".jsonl.xz", ".jsonl.zst")
PARQUET_SUFFIXES = (".parquet",)
PARQUET_BATCH_ROWS = 256


@dataclass
class RowOptions:
    """How rows become documents. `skipped_images` counts what `skip_bad_images` left out."""

    image_size: int = 48
    skip_bad_images: bool = False
    skipped_images: int = field(default=0, compare=False)


def read_folder(path: str) -> Iterator[Document]:
    """A document a text file under `path`, in a fixed shuffled order. Line ends become newlines.

    Left out: empty files, hidden files and folders, and files whose names do not end like text. Raises UserError if
    there is no folder, no text file in it, or a file is not readable as UTF-8.
    """
    root = Path(path).expanduser()
    files = {file.relative_to(root).as_posix(): file for file in text_files(path)}
    for name in shuffled(files):
        try:
            text = files[name].read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{files[name]} is not UTF-8 text (byte {error.start}); convert it, or move it out of the folder."
            ) from error
        except OSError as error:
            raise UserError(f"{files[name]} cannot be read ({error.strerror}); mend or remove it.") from error
        if text.strip():
            yield text_document(name, text)


def text_files(path: str) -> list[Path]:
    """The files that `read_folder` reads, sorted. Raises UserError if there are none."""
    root = Path(path).expanduser()
    if root.is_file():
        raise UserError(f"{root} is a file; name the folder that it lies in, or use kind 'jsonl' or 'parquet'.")
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; check the path.")
    files = [
        file
        for file in sorted(root.rglob("*"))
        if file.suffix.lower() in TEXT_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
        and file.is_file()
    ]
    if not files:
        raise UserError(f"{root} holds no text files (.txt, .md, .py ...); put some there or name another folder.")
    return files


@dataclass(frozen=True)
class RemoteFile:
    """A file on any fsspec file system: `path` as that file system spells it."""

    system: Any
    path: str

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    def read_beside(self, name: str) -> bytes:
        """The bytes of a file named relative to this one's folder. Raises ValueError if it would lie outside it."""
        if name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name:
            raise ValueError(f"the path '{name}' leaves the file's folder")
        data: bytes = self.system.cat_file(f"{self.folder}/{name}")
        return data


def find_files(path: str, suffixes: tuple[str, ...]) -> list[RemoteFile]:
    """The files that `path` names: one file, a `*` pattern, or a folder's files with one of `suffixes`, sorted.

    Raises UserError if there are none or the place cannot be reached.
    """
    from fsspec.core import url_to_fs

    try:
        system, place = url_to_fs(str(Path(path).expanduser()) if "://" not in path else path)
        if any(character in place for character in "*?["):
            names = [name for name in system.glob(place) if not system.isdir(name)]
        elif system.isdir(place):
            names = [name for name in system.find(place) if name.endswith(suffixes)]
        else:
            names = [place] if system.exists(place) else []
    except ImportError as error:
        raise UserError(f"{path} needs a package that is not installed ({error}); install it and run again.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be reached ({error}); check the path and your access to it.") from error
    if not names:
        raise UserError(f"{path} names no file ({' or '.join(suffixes[:2])}); check the path.")
    return [RemoteFile(system, name) for name in sorted(names)]


def read_jsonl(path: str, options: RowOptions) -> Iterator[Document]:
    """A document a line, in the files' order; blank lines are left out. Compressed files are opened by their suffix.

    Raises UserError naming file and line if a line is not a document or its picture cannot be read.
    """
    for file, where, value in json_lines(path):
        yield from _row(value, file, where, options, True)


def json_lines(path: str) -> Iterator[tuple[RemoteFile, str, Any]]:
    """File, "path:line" and value of every line of JSON lines, in the files' order; compressed files are opened by their
    suffix, blank lines are left out.

    Raises UserError naming file and line if a line is not JSON or a file cannot be read.
    """
    import fsspec

    for file in find_files(path, JSONL_SUFFIXES):
        number = 0
        try:
            opened = fsspec.core.OpenFile(file.system, file.path, "rb", compression=_compression(file.path))
            with opened as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        where = f"{file.path}:{number}"
                        yield file, where, _parse_line(line, where)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{file.path} cannot be read after line {number} ({error}); mend it.") from error


def _compression(path: str) -> str | None:
    from fsspec.utils import infer_compression

    compression: str | None = infer_compression(path)
    return compression


def _parse_line(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text (byte {error.start} of the line); convert the file.") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({error}); each line must be one object.") from error


def read_parquet(path: str, options: RowOptions) -> Iterator[Document]:
    """A document a row, in the files' order, a few hundred rows in memory at a time.

    Raises UserError if pyarrow is not installed, a file is not Parquet, there is neither a `text` nor a `parts` column,
    or a row is not a document (naming file and row, counted from 1).
    """
    try:
        import pyarrow.parquet as pq
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise UserError("Parquet needs pyarrow; install it with: pip install 'forescale[parquet]'") from error
    for file in find_files(path, PARQUET_SUFFIXES):
        row = 0
        try:
            with file.system.open(file.path, "rb") as stream:
                table = pq.ParquetFile(stream)
                names = set(table.schema_arrow.names)
                if not names & {"text", "parts"}:
                    found = ", ".join(sorted(names)) or "none"
                    raise UserError(f"{file.path} has no column 'text' or 'parts', only {found}; rename one.")
                columns = [name for name in ("id", "text", "parts") if name in names]
                for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
                    for value in batch.to_pylist():
                        row += 1
                        yield from _row(value, file, f"{file.path}, row {row}", options, False)
        except (ArrowException, OSError) as error:
            raise UserError(f"{file.path} is not readable as Parquet after row {row} ({error}); mend it.") from error


def _row(value: Any, file: RemoteFile, where: str, options: RowOptions, is_json: bool) -> Iterator[Document]:
    """The document of a row; none if it is empty, or if a picture is unreadable and such rows are skipped."""
    if not isinstance(value, Mapping):
        raise UserError(f'{where} is not an object with "text" or "parts".')
    raw = value.get("parts")
    if raw is None:
        raw = [{"text": value.get("text")}] if value.get("text") is not None else None
    if not isinstance(raw, list):
        raise UserError(f'{where} has neither "text" (a string) nor "parts" (a list).')
    parts: list[Part] = []
    for item in raw:
        # A Parquet struct has every field in every item, null where it is not given.
        fields = item if isinstance(item, Mapping) else {}
        given = {key: fields[key] for key in ("text", "image") if fields.get(key) is not None}
        if len(given) != 1:
            raise UserError(f'{where}: each part must be {{"text": ...}} or {{"image": ...}}.')
        if "text" in given:
            parts.append(Text(checked_text(given["text"], where)))
            continue
        try:
            parts.append(Image(decode_image(image_bytes(given["image"], file, is_json), options.image_size)))
        except (ValueError, OSError) as error:
            if options.skip_bad_images:
                options.skipped_images += 1
                return
            raise UserError(
                f"{where}: the picture cannot be read ({error}); mend it, remove the row, or set skip_bad_images."
            ) from error
    parts = [part for part in parts if isinstance(part, Image) or part.text]
    if any(isinstance(part, Image) or part.text.strip() for part in parts):
        name = value.get("id")
        yield Document(id=str(name) if name is not None else where.rpartition("/")[2], source="", parts=tuple(parts))


def checked_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f'{where}: "text" must be a string, not {type(value).__name__}.')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise UserError(f"{where}: the text holds half of a surrogate pair ({half}); mend it.") from error
    return value


def image_bytes(value: Any, file: RemoteFile, is_json: bool) -> bytes:
    """Bytes of a picture given as bytes, `{"bytes": ...}`, `{"path": ...}`, base64 (JSON) or a relative path.

    Raises ValueError or OSError if there are none.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("it is neither bytes nor a path")
    if is_json and value.startswith("data:"):
        value = value.partition(",")[2]
    elif not is_json or (len(value) < 1024 and "." in value):
        # Base64 has no dot, a file name with a suffix has one.
        return file.read_beside(value)
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"neither a file name nor base64: {error}") from error


def fingerprint(kind: str, path: str) -> list[list[Any]]:
    """Name, size and time of change of every file that the source reads: changes when the user's files do.

    Pictures that rows name by path are not looked at.
    """
    if kind == "folder":
        root = Path(path).expanduser()
        stats = [(file, file.stat()) for file in text_files(path)]
        return [[file.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns] for file, stat in stats]
    rows = []
    for file in find_files(path, JSONL_SUFFIXES if kind == "jsonl" else PARQUET_SUFFIXES):
        info = file.system.info(file.path)
        stamps = (info.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "updated"))
        stamp = next((str(stamp) for stamp in stamps if stamp), "")
        rows.append([file.path.rpartition("/")[2], info.get("size"), stamp])
    return rows
