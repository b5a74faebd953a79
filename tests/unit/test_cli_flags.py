"""One name for one thing: flags, older names, configs by name or path, help of one screen, and what a dry run says."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from training_world import build_world, changed

from llgbm.cli import COMMANDS, main, make_parser
from llgbm.cli.options import read_config, read_overrides
from llgbm.config import CONFIGS, describe_fields
from llgbm.errors import InputError
from llgbm.progress import ProgressBar, Steps, quietly
from llgbm.training.behavior import train_generator
from llgbm.training.estimate import recorded_rate

OLD_NAMES = {
    "compute-deltas": {"--checkpoint_dir": "zoo", "--output_dir": "deltas"},
    "train": {"--checkpoint_folder": "checkpoint_folder", "--delta_cache_dir": "delta_cache_dir", "--config_file": "config"},
    "evaluate": {"--checkpoint": "run", "--data_dir": "zoo", "--cache_dir": "scores"},
    "compose": {"--checkpoint": "run", "--checkpoint_dir": "zoo", "--cache_dir": "deltas", "--output_dir": "output"},
    "retrieve": {"--cache_dir": "deltas", "--output_dir": "output", "--index_dir": "index"},
    "generate": {"--checkpoint": "run", "--output_dir": "output", "--model.device": "model.device"},
    "visualize": {"--checkpoint_dir": "zoo", "--cache_dir": "deltas", "--output_dir": "output"},
    "verify": {"--model.name": "base", "--zoo.suite": "suite"},
    "ablate": {"--study_dir": "output", "--checkpoint_folder": "checkpoint_folder"},
}
NEW_NAMES = {
    "--zoo": ("compute-deltas", "train", "train-delta-only", "evaluate", "compose", "visualize", "ablate", "quickstart"),
    "--deltas": ("compute-deltas", "train", "train-delta-only", "retrieve", "compose", "visualize", "quickstart"),
    "--run": ("train", "train-delta-only", "generate", "try", "evaluate", "compose", "visualize", "report", "ensemble", "quickstart"),
    "--device": ("compute-deltas", "train", "generate", "try", "evaluate", "retrieve", "compose", "visualize", "ablate", "bench"),
    "--dtype": ("compute-deltas", "train", "generate", "try", "evaluate", "retrieve", "compose", "visualize", "ablate", "bench"),
}
NEEDED = {"try": ["a", "t"], "ensemble": ["--run", "a"], "bench": ["all"]}


def parse(command: str, *arguments: str):
    return make_parser(command).parse_args([*NEEDED.get(command, []), *arguments])


def of(args, dest: str):
    value = vars(args)[dest]
    return value[0] if isinstance(value, list) else value


@pytest.mark.parametrize(("command", "old", "dest"), [(c, old, dest) for c, names in OLD_NAMES.items() for old, dest in names.items()])
def test_old_names_are_understood_and_not_shown(command: str, old: str, dest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert of(parse(command, old, "x"), dest) == "x"
    assert main([command, "--help"]) == 0
    assert f"{old} " not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "command"), [(name, command) for name, commands in NEW_NAMES.items() for command in commands])
def test_new_names_are_everywhere(name: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "xyz" in str(vars(parse(command, name, "xyz")).values())
    assert main([command, "--help"]) == 0
    assert f"{name} " in capsys.readouterr().out


SCREENS = [[name] for name in COMMANDS] + [["zoo", action] for action in ("build", "import", "list", "tasks", "reword")] + [[]]


@pytest.mark.parametrize("command", SCREENS, ids=" ".join)
def test_help_fits_one_screen_and_ends_with_an_example_that_parses(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    if command:
        example = next(line for line in lines if line.startswith("example: llgbm "))
        words = shlex.split(example)[2:]
        make_parser(words[0]).parse_args(words[1:])


def test_all_fields_stand_in_the_help_of_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help_config"]) == 0
    out = capsys.readouterr().out
    assert not [name for name in describe_fields() if f"  --{name} " not in out]
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--objective.kl " not in out
    assert all(name in out for name in CONFIGS)


LIGHT = [["--version"], ["--help"], ["zoo", "list", "--zoo", "FOLDER"], ["zoo", "build", "--help"], ["zoo", "tasks", "--count", "1"]]
LIGHT += [["train", "--print_config", "--zoo", "x"]]


@pytest.mark.parametrize("arguments", LIGHT, ids=lambda a: " ".join(a[:2]))
def test_looking_imports_no_torch(arguments: list[str], tmp_path: Path) -> None:
    row = {"path": "d/t/seed0", "task": "t", "domain": "d", "split": "seen", "seed": 0, "steps": 1, "exact_match": 1.0, "hash": "a"}
    manifest = {"base": {"name": "micro", "hash": "x"}, "suite": {"source": "micro", "hash": "y"}, "teachers": [row]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    given = [str(tmp_path) if word == "FOLDER" else word for word in arguments]
    heavy = "[m for m in ('torch', 'transformers', 'peft', 'sklearn', 'matplotlib') if m in sys.modules]"
    code = f"import sys; from llgbm.cli import main; status = main({given!r}); print({heavy}, file=sys.stderr); sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("how", [["FILE"], ["--config", "FILE"], ["--config_file", "FILE"]])
def test_a_config_is_a_path_or_a_name_with_or_without_its_flag(tmp_path: Path, how: list[str]) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 7\n")
    given = [str(tmp_path / "mine.yaml") if word == "FILE" else word for word in how]
    assert read_config(parse("train", "--training.total_steps", "3", *given)).seed == 7
    named = ["baseline" if word == "FILE" else word for word in how]
    assert read_config(parse("train", *named, "--seed", "3")).experiment_name == "baseline"


def test_words_that_belong_nowhere_are_refused() -> None:
    for command, words in (
        ("train", ["--res"]),
        ("train", ["baseline", "smoke"]),
        ("train", ["--config", "smoke", "baseline"]),
        ("compose", ["x"]),
    ):
        with pytest.raises(InputError, match=f"unrecognized arguments: .*; 'llgbm {command} --help' shows the flags"):
            parse(command, *words)
    assert parse("ablate", "--seeds", "0", "--json", "seen_tasks").study == "seen_tasks"
    assert parse("report", "a", "b").run == ["a", "b"]


def test_the_runs_folder_is_one_flag() -> None:
    config = read_config(parse("train", "--run", "somewhere/mine"))
    assert (config.output_dir, config.experiment_name) == ("somewhere", "mine")
    with pytest.raises(InputError, match="--run a/b says where the run goes; leave out --experiment_name"):
        read_overrides(parse("train", "--run", "a/b", "--experiment_name", "c"))


def test_a_printed_config_can_be_fed_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = build_world(tmp_path)
    flags = ["--zoo", config.checkpoint_folder, "--run", str(tmp_path / "out" / "mine"), "--objective.sft", "0.5"]
    assert main(["train", "smoke", *flags, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["lora"]["rank"] == 2  # as the zoo has it
    (tmp_path / "fed.yaml").write_text(printed)
    assert main(["train", str(tmp_path / "fed.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == printed
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_where_and_how_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed(build_world(tmp_path), output_dir=str(tmp_path / "out"), zoo__suite=str(tmp_path / "suite"))
    config.save(tmp_path / "c.yaml")
    train = ["train", str(tmp_path / "c.yaml"), "--dry_run", "--json"]

    def row(*arguments: str) -> dict[str, str]:
        assert main([*arguments]) == 0
        return json.loads(capsys.readouterr().out)[0]

    assert row(*train) == {
        "what": "train a generator, 6 steps",
        "where": str(config.run_folder),
        "how_long": "unknown, nothing like it is recorded there",
    }
    assert not (tmp_path / "out").exists()
    train_generator(config)
    assert main(train) == 2
    assert "is finished" in capsys.readouterr().err
    rate = recorded_rate(config)
    assert rate is not None
    assert row(*train, "--overwrite", "--training.total_steps", "1000")["how_long"].endswith(f", by the steps of {config.run_folder}")
    assert row(*train, "--run", str(tmp_path / "out" / "other"), "--objective.sft", "1")["how_long"].startswith("unknown")
    assert recorded_rate(changed(config, experiment_name="other", seed=5)) == rate
    build = ["zoo", "build", str(tmp_path / "c.yaml"), "--dry_run", "--json"]
    assert row(*build) == {"what": "train 0 of 6 teachers", "where": str(tmp_path / "zoo"), "how_long": "nothing, all are there"}
    assert row(*build, "--zoo.seeds", "[0, 1]")["what"] == "train 6 of 12 teachers"
    scores = row("evaluate", "--run", str(config.run_folder), "--zoo", str(tmp_path / "zoo"), "--splits", "seen", "--dry_run", "--json")
    assert scores["what"] == "score all methods that are possible on seen of 6 tasks"
    assert scores["where"] == str(config.run_folder / "eval_main.json")
    cells = ["ablate", "conditions", "--zoo", str(tmp_path / "zoo"), "--seeds", "0", "--variants", "hashing, description"]
    flags = ["--lora.rank", "2", "--lora.alpha", "4", "--suite", str(tmp_path / "suite"), "--output", str(tmp_path / "studies")]
    assert row(*cells, *flags, "--lora.target_modules", "[q_proj, down_proj]", "--dry_run", "--json")["then"] == "evaluate"
    deltas = row("compute-deltas", "--zoo", str(tmp_path / "zoo"), "--deltas", str(tmp_path / "d"), "--dry_run", "--json")
    assert deltas["what"].startswith("compute the deltas of 6 adapters, but of those among 0 kept ones")
    assert "6 random pairs in sum," in row("compose", "--methods", "sum", "--n_pairs", "6", "--dry_run", "--json")["what"]
    assert main(["quickstart", str(tmp_path / "c.yaml"), "--dry_run"]) == 0
    assert "nothing, it is done" in capsys.readouterr().out
    assert main(["quickstart", str(tmp_path / "c.yaml"), "--objective.sft", "0.5", "--dry_run"]) == 2  # as without --dry_run
    assert "step_6: was trained with another config" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_quiet_shows_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with quietly(), ProgressBar("work") as progress:
        progress(1, 1)
    assert capsys.readouterr().err == ""
    with ProgressBar("work") as progress:
        progress(1, 1)
    assert capsys.readouterr().err == "work: 1/1 steps\n"
    assert main(["zoo", "tasks", "--count", "1", "--quiet"]) == 0
    assert "1 tasks" in capsys.readouterr().out


def test_named_steps_are_progress() -> None:
    seen: list[tuple] = []
    step = Steps(2, lambda done, total, **figures: seen.append((done, total, figures.get("now"))))
    for name in ("a", "b", "c"):
        step(name)
    step.end()
    Steps(1)("shown nowhere")
    assert seen == [(0, 2, "a"), (1, 2, "b"), (1, 2, "c"), (2, 2, None)]
