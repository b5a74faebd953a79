"""What a run takes of the machine, sampled while it lasts, and shown in its report."""

import time
from pathlib import Path

import pytest
from training_world import build_world, changed

from llgbm.report.html import write_report
from llgbm.tracking.monitor import Gpus, HardwareMonitor
from llgbm.tracking.record import read_metrics
from llgbm.training.behavior import train_generator

FIGURES = {"second", "process_cpu_percent", "process_memory_gib", "cpu_percent", "memory_percent"}


def test_samples_come_in_between_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "hardware.jsonl"
    with HardwareMonitor(tmp_path, 0.01) as monitor:
        while not path.is_file() or len(list(read_metrics(path))) < 3:
            time.sleep(0.01)
    monitor.stop()
    rows = list(read_metrics(path))
    assert all(row.keys() >= FIGURES for row in rows)
    assert all(row["process_memory_gib"] > 0 for row in rows)
    with HardwareMonitor(tmp_path, 300, goes_on=True):
        pass
    again = list(read_metrics(path))
    assert again[: len(rows)] == rows
    assert again[-1]["second"] > rows[-1]["second"]
    with HardwareMonitor(tmp_path, 300):
        pass
    assert len(list(read_metrics(path))) == 1


def test_nothing_is_sampled_where_nobody_asks_or_another_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HardwareMonitor(tmp_path, 0):
        pass
    monkeypatch.setenv("RANK", "1")
    with HardwareMonitor(tmp_path, 1):
        pass
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_does_not_end_the_run(tmp_path: Path) -> None:
    with HardwareMonitor(tmp_path / "gone", 0.01) as monitor:
        assert monitor.sample().keys() >= FIGURES


def test_devices_are_sampled_where_there_are_any() -> None:
    gpus = Gpus()
    gpus.open()
    found = gpus.sample()
    assert all(value >= 0 for value in found.values())
    assert all(name.startswith("gpu") for name in found)
    gpus.close()
    assert gpus.sample() == {}


def test_training_is_watched_and_its_report_shows_it(tmp_path: Path) -> None:
    config = build_world(tmp_path)
    train_generator(config)
    folder = tmp_path / "outputs" / "run"
    assert list(read_metrics(folder / "hardware.jsonl"))
    page = write_report([folder], tmp_path / "page.html", tmp_path / "none").read_text()
    for said in ("What training took of the machine", "memory, this process, GiB", "processor, this process, % of a core"):
        assert said in page
    unwatched = changed(config, tracking__monitor_s=0)
    assert unwatched.get_hash() == config.get_hash()
    train_generator(unwatched, begin="overwrite")
    assert not (folder / "hardware.jsonl").exists()
    assert "What training took" not in write_report([folder], tmp_path / "page.html", tmp_path / "none").read_text()
