"""Config: typed, checked all at once, hashed by what matters."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from llgbm.config import CONFIGS, ExperimentConfig, build, content, describe_fields, get_config
from llgbm.errors import InputError
from llgbm.schema import merge, read_yaml


def test_defaults_are_the_settled_ones() -> None:
    config = ExperimentConfig()
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (16, 32, 0.0)
    assert config.training.learning_rate == 3e-5
    assert config.training.total_steps == 5000
    assert (config.probe.probe_type, config.probe.num_probes, config.probe.max_length) == ("generic", 5, 256)
    assert (config.seed, config.output_dir, config.model.name) == (42, "outputs", "micro")


def test_building_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ExperimentConfig()
    assert not list(tmp_path.iterdir())


def test_every_field_has_a_docstring() -> None:
    assert not [name for name, (_, _, text) in describe_fields().items() if not text]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_presets_load_and_survive_yaml(name: str, tmp_path: Path) -> None:
    config = get_config(name)
    assert config.experiment_name == name
    config.save(tmp_path / "c.yaml")
    again = ExperimentConfig.load(tmp_path / "c.yaml")
    assert again == config
    assert again.get_hash() == config.get_hash()


def test_default_save_path_is_the_run_folder(tmp_path: Path) -> None:
    config = build({"output_dir": str(tmp_path), "experiment_name": "x"})
    assert config.save() == tmp_path / "x" / "config.yaml"


def test_presets_differ_where_it_counts() -> None:
    behavioral = ("delta", "trajectory", "kl", "sft")
    assert not any(getattr(get_config("baseline").objective, term) for term in behavioral)
    assert get_config("delta_multi").objective.product
    assert get_config("delta_multi").objective.kl
    assert not get_config("delta_only").objective.product
    assert not get_config("delta_only").objective.weight


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown config 'delta_mult'; choose one of baseline, .*did you mean delta_multi"):
        get_config("delta_mult")


def test_hash_covers_science_and_nothing_else() -> None:
    plain = ExperimentConfig()
    assert len(plain.get_hash()) == 8
    assert int(plain.get_hash(), 16) >= 0
    for name, value in {"output_dir": "elsewhere", "experiment_name": "y", "training.log_interval": 3, "model.device": "cuda"}.items():
        assert build(merge({}, {name: value})).get_hash() == plain.get_hash(), name
    changed = {
        name: "x" if kind is str else not default if kind is bool else default + (0.25 if kind is float else 1)
        for name, (kind, default, _) in describe_fields().items()
        if kind in (int, float, str, bool) and name in content(plain)
    }
    changed["lora.dropout"] = 0.5
    hashes = {build(merge({}, {name: value})).get_hash() for name, value in changed.items()}
    assert len(hashes | {plain.get_hash()}) == len(changed) + 1


def test_hash_is_of_typed_values() -> None:
    assert build({"lora": {"alpha": 32}}).get_hash() == build({"lora": {"alpha": 32.0}}).get_hash() == ExperimentConfig().get_hash()


def test_all_faults_at_once_with_dotted_names() -> None:
    values = {
        "lora": {"rank": 0, "rnk": 3, "alpha": "x", "target_modules": "q_proj"},
        "trainning": {},
        "training": {"batch_size": 3.7, "mixed_precision": "fp8", "learning_rate": float("nan"), "gradient_checkpointing": 1},
        "model": 3,
        "zoo": {"seeds": [1, "a"]},
    }
    with pytest.raises(InputError) as caught:
        build(values, source="my.yaml")
    message = str(caught.value)
    for part in (
        "my.yaml: ",
        "lora.rank must be at least 1, found 0",
        "unknown key lora.rnk (did you mean lora.rank?)",
        "lora.alpha must be a number, found 'x'",
        "lora.target_modules must be a list of a string, found 'q_proj'",
        "unknown key trainning (did you mean training?)",
        "training.batch_size must be an integer, found 3.7",
        "training.mixed_precision must be one of no, bf16, fp16, found 'fp8'",
        "training.learning_rate must be finite",
        "training.gradient_checkpointing must be true or false, found 1",
        "model must be a mapping, found 3",
        "zoo.seeds must be a list of an integer",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("training.validation_fraction", 0.95, "at most 0.9"),
        ("training.learning_rate", 0.0, "greater than 0"),
        ("training.max_train_tasks", "many", "an integer or null"),
    ],
)
def test_bounds(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be {message}"):
        build(merge({}, {name: value}))


def test_yaml_numbers_are_coerced_by_type(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("training: {learning_rate: 3e-4, mixed_precision: no, max_train_tasks: null}\nlora: {alpha: 8}\n")
    config = ExperimentConfig.load(tmp_path / "c.yaml")
    assert config.training.learning_rate == 3e-4
    assert config.training.mixed_precision == "no"
    assert isinstance(config.lora.alpha, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "key 'seed' stands twice"),
        ("lora: {rank: 1, rank: 2}\n", "key 'rank' stands twice"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "expected a mapping of config fields, found list"),
        ("seed: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "c.yaml")


def test_missing_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.yaml: no such file"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert ExperimentConfig.load(tmp_path / "empty.yaml") == ExperimentConfig()


def test_parts_are_dataclasses() -> None:
    config = ExperimentConfig()
    parts = [getattr(config, f.name) for f in fields(config) if is_dataclass(getattr(config, f.name))]
    assert len(parts) == 8
