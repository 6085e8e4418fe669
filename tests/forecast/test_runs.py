from __future__ import annotations

from pathlib import Path

import pytest

from forescale.core.errors import UserError
from forescale.forecast.runs import Run, read_csv, write_csv

GOOD = "1e18,3.0\n1e19,2.5\n1e20,2.2\n"


def test_reads_any_case_spaces_and_extra_columns(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text('\ufeff Compute , LOSS ,note,Params,seed\n1e18, 3.0,x,10,1\n\n1e19,2.5,,,\n1e20,2.2,"a,b",30,2\n')
    runs = read_csv(path)
    assert [run.compute for run in runs] == [1e18, 1e19, 1e20]
    assert [run.params for run in runs] == [10.0, None, 30.0]
    assert [run.seed for run in runs] == [1, None, 2]


def test_round_trip(tmp_path: Path) -> None:
    runs = [Run(f"r,{i}", 1.1 * 10**i, 3.0 / (i + 1), params=7.0 * i + 1, tokens=None, seed=i) for i in range(4)]
    write_csv(tmp_path / "runs.csv", runs)
    assert read_csv(tmp_path / "runs.csv") == runs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        (" \n\n", ["empty"]),
        ("compute,loss\n", ["no runs"]),
        ("flops,loss\n" + GOOD, ["no column compute", "flops, loss"]),
        ("compute,value\n" + GOOD, ["no column loss"]),
        ("params,tokens,loss\n1,2,3\n", ["6ND", "no compute"]),
        ("compute,loss\n1e18,3.0\n1e19,abc\n1e20,2\n", ["line 3", "'abc'", "not a number"]),
        ("compute,loss\n1e18,3.0\n1e19,nan\n1e20,2\n", ["line 3", "nan", "finite"]),
        ("compute,loss\n1e18,3.0\n1e19,-1\n1e20,2\n", ["line 3", "above 0"]),
        ("compute,loss\n1e18,3.0\n0,2\n1e20,2\n", ["line 3", "compute", "above 0"]),
        ("compute,loss\n1e18,3.0\n1e19,\n1e20,2\n", ["line 3", "loss is empty"]),
        ("compute,loss\n1e18,3.0\n1e19\n1e20,2\n", ["line 3", "1 values for 2 columns"]),
        ("compute,loss\n1e18,3.0\n1e19,2\n1e19,2.1\n", ["3 or more different computes", "are 2"]),
        ("compute,loss\n3,1e18\n2.5,1e19\n2.2,1e20\n", ["check the units"]),
        ("compute,loss,loss\n1,2,3\n", ["loss 2 times"]),
        ("compute,loss,seed\n1e18,3,1.5\n1e19,2,1\n1e20,1,1\n", ["seed", "whole number"]),
        ("PK\x03\x04\x00\x00binary", ["not a text file"]),
    ],
)
def test_bad_files_are_one_clear_sentence(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_csv(path)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_binary_missing_and_folder(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(bytes(range(128, 256)))
    for path, word in (
        (tmp_path / "b.csv", "UTF-8"),
        (tmp_path / "no.csv", "does not exist"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(UserError, match=word):
            read_csv(path)
