import pytest
from evaluation_world import build_evaluation_world

from llgbm.bench.evaluate import bench_evaluate
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    return ExperimentConfig(checkpoint_folder=str(build_evaluation_world(tmp_path_factory.mktemp("world"))))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_batched_answers_are_those_of_peft_one_by_one(config):
    rows = bench_evaluate(config, n_adapters=4, examples=(2, 3), repeats=1)["rows"]
    assert [row["examples"] for row in rows] == [2, 3]
    for row in rows:
        assert (row["differing_answers"], row["exact_match"]) == (0, 1.0)
        assert row["speedup_over_peft_decode"] > 0


def test_more_adapters_than_the_zoo_has_are_refused(config):
    with pytest.raises(InputError, match="has 7 teachers, fewer than the 40 to evaluate"):
        bench_evaluate(config)
