"""The benchmark of memory runs every stage as a user would, and finds the peak of each."""

import pytest
from transformers import Qwen2Config

from llgbm.bench import memory
from llgbm.bench.memory import bench_memory_500m, run_stage
from llgbm.config import ExperimentConfig


def test_a_failed_stage_says_what_the_command_said() -> None:
    with pytest.raises(RuntimeError, match=r"llgbm zoo list --checkpoint_folder=nowhere ended with status 2: llgbm: nowhere"):
        run_stage(["zoo", "list", "--checkpoint_folder=nowhere"])


@pytest.mark.slow
def test_peaks_are_of_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        memory, "Qwen2Config", lambda **shape: Qwen2Config(**{**shape, "hidden_size": 28, "num_hidden_layers": 2, "intermediate_size": 32})
    )
    found = bench_memory_500m(ExperimentConfig())
    assert found["parameters"] > 28 * 151_936
    assert [row["stage"] for row in found["rows"]] == ["teacher training", "training", "scoring"]
    for row in found["rows"]:
        assert 4 * found["parameters"] / memory.GIB < row["host_peak_gib"] < found["budget_gib"] == memory.BUDGET_GB
        assert (row["device_peak_gib"] > 0) == (found["device"] != "cpu")
