"""The generation benchmark times what a user would do, and records ratios of what it timed."""

from pathlib import Path

import pytest
from training_world import build_world

from llgbm.bench import generate
from llgbm.bench.generate import bench_generate
from llgbm.lora.peft_io import read_adapter


def test_records_hold_ratios_of_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_world(tmp_path)
    config.zoo.suite, config.zoo.steps, config.zoo.check_interval = str(tmp_path / "suite"), 2, 1
    written = []

    def write(path: Path, factors, **options) -> None:
        write_adapter(path, factors, **options)
        written.append(read_adapter(path))

    write_adapter = generate.write_adapter
    monkeypatch.setattr(generate, "write_adapter", write)
    monkeypatch.setattr(generate, "TOGETHER", 3)
    figures = bench_generate(config, repeats=1)
    assert figures["share_of_training"] == pytest.approx(figures["generate_s"] / figures["train_teacher_s"])
    assert figures["share_of_training_of_40"] == pytest.approx(figures["generate_of_40_s"] / figures["train_teacher_of_40_s"])
    assert figures["share_with_files"] > figures["share_of_training"]
    assert written[0].shapes == read_adapter(next((tmp_path / "zoo").rglob("adapter_config.json")).parent).shapes
