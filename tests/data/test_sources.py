"""The user's own data, and every way in which it can be wrong."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PIL

from forescale.core.documents import Image, Text
from forescale.core.errors import UserError
from forescale.data.images import decode_image
from forescale.data.sources import RowOptions, fingerprint, read_folder, read_jsonl, read_parquet


def png(color: tuple[int, ...] = (255, 0, 0), size: tuple[int, int] = (20, 10), mode: str = "RGB") -> bytes:
    data = io.BytesIO()
    PIL.new(mode, size, color).save(data, "PNG")
    return data.getvalue()


def jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_a_wide_picture_keeps_its_aspect_on_white() -> None:
    pixels = decode_image(png(), 8)
    assert pixels.shape == (8, 8, 3)
    assert pixels[0].min() == pixels[-1].min() == 255
    assert (pixels[2:6] == (255, 0, 0)).all()


def test_transparent_and_16_bit_pictures_are_not_black() -> None:
    assert (decode_image(png((0, 0, 0, 0), (9, 9), "RGBA"), 9) == 255).all()
    deep = io.BytesIO()
    PIL.fromarray(np.full((9, 9), 0x8000, np.uint16)).save(deep, "PNG")
    assert (decode_image(deep.getvalue(), 9) == 0x80).all()


@pytest.mark.parametrize("data", [b"", b"not a picture", png()[:50]])
def test_an_unreadable_picture_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_image(data, 8)


def test_a_folder_is_read_recursively_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (tmp_path / "sub" / "b.py").write_text("print(1)")
    (tmp_path / "sub" / "empty.md").write_text(" \n")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    documents = list(read_folder(str(tmp_path)))
    assert {d.id: d.text for d in documents} == {"a.txt": "one\ntwo", "sub/b.py": "print(1)"}
    assert [d.id for d in documents] == [d.id for d in read_folder(str(tmp_path))]


def test_folders_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        list(read_folder(str(tmp_path / "none")))
    with pytest.raises(UserError, match="holds no text files"):
        list(read_folder(str(tmp_path)))
    (tmp_path / "a.txt").write_bytes(b"ok\xff")
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8 text \(byte 2\)"):
        list(read_folder(str(tmp_path)))
    with pytest.raises(UserError, match="is a file; name the folder"):
        list(read_folder(str(tmp_path / "a.txt")))


def test_jsonl_rows_of_text_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "p.png").write_bytes(png())
    encoded = base64.b64encode(png()).decode()
    path = jsonl(
        tmp_path / "a.jsonl",
        {"text": "hello"},
        "",
        {"id": 7, "parts": [{"text": "see "}, {"image": "pictures/p.png"}, {"image": encoded}, {"text": "!"}]},
        {"parts": [{"image": f"data:image/png;base64,{encoded}"}]},
        {"text": "  "},
    )
    first, second, third = read_jsonl(path, RowOptions(image_size=8))
    assert (first.id, first.text) == ("a.jsonl:1", "hello")
    assert second.id == "7"
    assert [type(part) for part in second.parts] == [Text, Image, Image, Text]
    assert isinstance(second.parts[1], Image)
    assert isinstance(second.parts[2], Image)
    assert (second.parts[1].pixels == second.parts[2].pixels).all()
    assert third.has_image


def test_jsonl_through_fsspec_compressed_and_by_pattern(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open(str(tmp_path / "b.jsonl.gz"), "wb", compression="gzip") as file:
        file.write(b'{"text": "two"}\n')
    jsonl(tmp_path / "a.jsonl", {"text": "one"})
    assert [d.text for d in read_jsonl(str(tmp_path), RowOptions())] == ["one", "two"]
    assert [d.text for d in read_jsonl(f"{tmp_path}/b*", RowOptions())] == ["two"]
    with fsspec.open("memory://corpus/c.jsonl", "wb") as file:
        file.write(b'{"text": "three"}\n')
    assert [d.text for d in read_jsonl("memory://corpus/c.jsonl", RowOptions())] == ["three"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "is not an object"),
        ('{"body": "x"}', 'has neither "text"'),
        ('{"text": 3}', '"text" must be a string, not int'),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
        ('{"parts": [{"sound": "x"}]}', "each part must be"),
        ('{"parts": ["x"]}', "each part must be"),
        ('{"parts": [{"image": "gone.png"}]}', "the picture cannot be read"),
        ('{"parts": [{"image": "../secret.png"}]}', "leaves the file's folder"),
        ('{"parts": [{"image": "/etc/hostname.png"}]}', "leaves the file's folder"),
        ('{"parts": [{"image": "AAAA"}]}', "the picture cannot be read"),
        ('{"parts": [{"image": "!!"}]}', "neither a file name nor base64"),
        ('{"parts": [{"image": 3}]}', "neither bytes nor a path"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "fine"}, line)
    with pytest.raises(UserError, match=message) as caught:
        list(read_jsonl(path, RowOptions()))
    assert "a.jsonl:2" in str(caught.value)


def test_bytes_that_are_not_utf8_or_not_gzip_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2 is not UTF-8"):
        list(read_jsonl(str(tmp_path / "a.jsonl"), RowOptions()))
    (tmp_path / "b.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"b\.jsonl\.gz cannot be read"):
        list(read_jsonl(str(tmp_path / "b.jsonl.gz"), RowOptions()))


def test_bad_pictures_are_skipped_and_counted_when_told_so(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"parts": [{"image": "gone.png"}]}, {"text": "fine"})
    options = RowOptions(skip_bad_images=True)
    assert [d.text for d in read_jsonl(path, options)] == ["fine"]
    assert options.skipped_images == 1


@pytest.mark.parametrize("path", ["none.jsonl", "none*.jsonl", "nosuchprotocol://x/y.jsonl"])
def test_a_path_that_names_nothing_is_an_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"names no file|cannot be reached"):
        list(read_jsonl(path if "://" in path else str(tmp_path / path), RowOptions()))


def test_parquet_rows_of_text_and_pictures(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "p.png").write_bytes(png())
    parts = [[{"text": "a", "image": None}, {"text": None, "image": {"bytes": png(), "path": None}}], None]
    pq.write_table(pa.table({"parts": parts, "text": [None, "plain"], "n": [1, 2]}), tmp_path / "a.parquet")
    first, second = read_parquet(str(tmp_path / "a.parquet"), RowOptions(image_size=8))
    assert first.has_image
    assert first.text == "a"
    assert (second.id, second.text) == ("a.parquet, row 2", "plain")
    pq.write_table(pa.table({"parts": [[{"image": "p.png"}], [{"image": "gone.png"}]]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet, row 2: the picture cannot be read"):
        list(read_parquet(str(tmp_path / "b.parquet"), RowOptions(image_size=8)))


def test_parquet_without_its_column_or_that_is_not_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"content": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has no column 'text' or 'parts', only content, n"):
        list(read_parquet(str(tmp_path / "a.parquet"), RowOptions()))
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"b\.parquet is not readable as Parquet"):
        list(read_parquet(str(tmp_path / "b.parquet"), RowOptions()))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"forescale\[parquet\]"):
        list(read_parquet(str(tmp_path), RowOptions()))


def test_the_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "one"})
    (tmp_path / "a.txt").write_text("one")
    before = fingerprint("jsonl", path), fingerprint("folder", str(tmp_path))
    assert before == (fingerprint("jsonl", path), fingerprint("folder", str(tmp_path)))
    jsonl(tmp_path / "a.jsonl", {"text": "other"})
    (tmp_path / "a.txt").write_text("other")
    after = fingerprint("jsonl", path), fingerprint("folder", str(tmp_path))
    assert before[0] != after[0]
    assert before[1] != after[1]
