"""Rows of tasks' files: every format to the same rows; what is broken is named and left out, or refused."""

import logging
import sys
from pathlib import Path

import datasets
import pytest

from llgbm.errors import InputError
from llgbm.files import write_bytes, write_text
from llgbm.study.tables import find_split, read_hub, read_table

ROWS = [{"sentence": 'it "works', "label": 1}, {"sentence": "café , no", "label": 0}]


def _write(folder: Path, suffix: str) -> Path:
    path = folder / f"train{suffix}"
    if suffix == ".tsv":
        write_text(path, "\ufeffsentence\tlabel\r\n" + "".join(f"{row['sentence']}\t{row['label']}\r\n" for row in ROWS))
    elif suffix == ".jsonl":
        datasets.Dataset.from_list(ROWS).to_json(path)
    else:
        getattr(datasets.Dataset.from_list(ROWS), {".csv": "to_csv", ".parquet": "to_parquet", ".json": "to_json"}[suffix])(path)
    return path


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    table = read_table(_write(tmp_path, suffix))
    assert [{**row, "label": int(row["label"])} for _, row in table.rows] == ROWS
    assert not table.faults
    assert find_split(tmp_path, "train") == tmp_path / f"train{suffix}"


def test_broken_lines_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "train.tsv"
    write_text(path, "sentence\tlabel\ngood\t1\nno label\none\ttwo\tthree\n\nbad\t0\nodd\t7\n")

    def make(where: str, row: dict) -> str:
        if row["label"] == "7":
            raise ValueError("its label is 7")
        return f"{where} {row['sentence']}"

    with caplog.at_level(logging.WARNING):
        assert read_table(path).read(make) == ["line 2 good", "line 6 bad"]
    assert "train.tsv: 3 of 5 rows are left out: line 3: has 1 columns, the header 2; line 4: has 3 columns" in caplog.text
    assert "line 7: its label is 7" in caplog.text


def test_broken_json_lines_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_text(tmp_path / "train.jsonl", '{"a": 1}\n{"a": \n[3]\n\n' + "{\n" * 3)
    with caplog.at_level(logging.WARNING):
        assert read_table(tmp_path / "train.jsonl").read(lambda where, row: where) == ["line 1"]
    assert "5 of 6 rows are left out: line 2: not valid JSON" in caplog.text
    assert "line 3: is no object" in caplog.text
    assert "and 2 more" in caplog.text


def test_a_file_without_one_good_row_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "train.tsv", "sentence\tlabel\nx\n")
    with pytest.raises(InputError, match=r"train\.tsv: no row can be used; line 2: has 1 columns, the header 2"):
        read_table(tmp_path / "train.tsv")
    write_text(tmp_path / "train.jsonl", "\n")
    with pytest.raises(InputError, match=r"train\.jsonl: no row can be used; it has none"):
        read_table(tmp_path / "train.jsonl")


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, ".csv"))
    assert table.column("text", "sentence") == "sentence"
    with pytest.raises(InputError, match=r"train\.csv: no column Quality or class; its columns are sentence, label"):
        table.column("Quality", "class")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_file_that_is_of_another_format_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    write_bytes(path, b'\x00\x01{"a": "\xff\n' * 3)
    with pytest.raises(InputError, match=rf"train\{suffix}: cannot be read as {suffix[1:]} "):
        read_table(path)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no dev\.tsv or validation\.tsv \(or \.jsonl, \.json, \.csv, \.parquet\); put the task's files"):
        find_split(tmp_path, "dev", "validation")


def test_the_hub_out_of_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"nobody/nothing, mrpc, train: cannot be loaded from the hub .*; check the network, or set data"):
        read_hub("nobody/nothing", "mrpc", "train")


def test_without_datasets_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, ".parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"need datasets; pip install 'llgbm\[study\]'"):
        read_table(path)
