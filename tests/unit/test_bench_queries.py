import pytest
from evaluation_world import build_evaluation_world

from llgbm.bench.queries import ADAPTER, WAYS, bench_queries
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    return ExperimentConfig(checkpoint_folder=str(build_evaluation_world(tmp_path_factory.mktemp("world"))))


def test_what_is_told_at_every_query_is_read_at_every_query(config: ExperimentConfig) -> None:
    rows = bench_queries(config, sizes=(1, 3), rounds=2)["rows"]
    assert [(row["told by"], row["batch"]) for row in rows] == [(way, size) for size in (1, 3) for way in WAYS]
    read = {row["told by"]: row["tokens_read"] for row in rows}
    assert read[ADAPTER] == read["nothing"] < read["the sentence"] == read["the sentence, and an adapter that reads it"]
    assert read["nothing"] < read["demonstrations"] < read["the sentence and demonstrations"]
    assert {row["times_an_adapter"] for row in rows if row["told by"] == ADAPTER} == {1.0}
    assert min(row["ms"] for row in rows) > 0


def test_more_queries_together_than_there_are_tasks_are_refused(config: ExperimentConfig) -> None:
    with pytest.raises(InputError, match="has 4 seen tasks, fewer than the 16 to ask together"):
        bench_queries(config)
