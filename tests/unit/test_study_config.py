"""Configs of studies: typed, checked all at once; the files that come with the package are sound."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from llgbm.errors import InputError
from llgbm.study.config import StudyConfig, build_study, describe_study, study_presets, study_values


def test_every_field_has_a_docstring_and_a_default() -> None:
    described = describe_study()
    assert not [name for name, (_, _, text) in described.items() if not text]
    assert described["search.trials"][1] == 10
    assert described["tasks"][1] == StudyConfig().tasks


@pytest.mark.parametrize("name", study_presets())
def test_presets_survive_yaml(name: str) -> None:
    config = build_study(study_values(name), name)
    assert build_study(yaml.safe_load(config.dump())) == config


def test_all_faults_at_once() -> None:
    values = {
        "tasks": [],
        "seeds": [1, 1],
        "methods": ["dora"],
        "search": {"full": {"learning_rate": [0, 1], "warmup": [0.2, 0.1]}, "lora": {"rank": []}, "trails": 3},
        "sizes": {"max_length": 3},
        "training": {"epochs": 0},
    }
    with pytest.raises(InputError) as caught:
        build_study(values, "my.yaml")
    for part in (
        "my.yaml: ",
        "tasks must be at least 1 long, found []",
        "seeds: 1 stands twice; name it once",
        "methods[0] must be one of full, lora, found 'dora'",
        "search.full.learning_rate: [0.0, 1.0] is searched by its logarithm; give values above 0",
        "search.full.warmup: [0.2, 0.1] is no range; give the smallest and the largest value",
        "search.lora.rank must be at least 1 long, found []",
        "unknown key search.trails (did you mean search.trials?)",
        "sizes.max_length must be at least 8, found 3",
        "training.epochs must be greater than 0, found 0",
    ):
        assert part in str(caught.value), part


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown study config 'mikro'; give a YAML file or one of .*micro.*did you mean micro"):
        study_values("mikro")


def test_building_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert asdict(StudyConfig())
    assert not list(tmp_path.iterdir())
