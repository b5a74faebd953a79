"""`llgbm bench plan`: each stage's own step beside its plan, on the built-in base."""

import pytest

from llgbm.bench.plan import _of_base
from llgbm.config import ExperimentConfig, LoRAConfig
from llgbm.planning.costs import UnitCosts
from llgbm.zoo.named import MICRO

COSTS = UnitCosts(1e-6, 1e-11, 1e-10, 1e-10, device="a machine", memory_gb=4.0)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 16])
def test_a_plan_never_promises_less_memory_than_a_step_takes_nor_half_as_much_again(rank: int) -> None:
    config = ExperimentConfig(lora=LoRAConfig(rank=rank))
    rows = list(_of_base(MICRO, MICRO, "micro", config, COSTS, repeats=1))
    assert [row["step"] for row in rows] == ["teachers", "generator", "evaluation"]
    for row in rows:
        assert 1 <= row["memory_ratio"] <= 1.5, row
        assert row["time_ratio"] == pytest.approx(row["planned_s"] / row["measured_s"])
        assert min(row["planned_s"], row["measured_s"]) > 0
