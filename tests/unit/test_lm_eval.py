"""`llgbm evaluate --backend lm-eval` gives what lm-evaluation-harness gives when it is called by hand, and runs no code unasked."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("lm_eval", reason="pip install 'llgbm[eval]'")

import datasets
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from llgbm.cli import main
from llgbm.config import ExperimentConfig, LoRAConfig, ModelConfig, ZooConfig
from llgbm.errors import InputError
from llgbm.evaluation.lm_eval import HarnessConfig, _adapted, evaluate_lm
from llgbm.evaluation.lm_tasks import open_tasks
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.evaluation.task_eval import evaluate
from llgbm.files import read_json
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.models.encoder import HashingEncoder
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.report.collect import collect_run
from llgbm.zoo.base import load_base
from llgbm.zoo.build import build_zoo
from llgbm.zoo.harness import save_harness_tasks
from llgbm.zoo.named import MICRO_FOLDER
from llgbm.zoo.suite import ALPACA_FRAME, Example, Task, TaskSuite
from llgbm.zoo.suites import load_suite

ROOT = Path(__file__).parents[2]
SEEN, UNSEEN = "reverse-upper-brackets", "reverse-upper-stars"
TARGETS = ["q_proj", "v_proj", "down_proj"]
SENTENCE = "Write the string backwards in capitals with stars around it."
ROWS = 8


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setenv("DISABLE_MULTIPROC", "1")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Task `spell` is answered in writing, task `choose` by a choice; metrics are told apart by any change of a likelihood or text."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [json.dumps(row) for row in example_rows(load_suite("micro")[UNSEEN])]
    (folder / "rows.jsonl").write_text("\n".join(rows[:ROWS]))
    write_task(folder, "spell", data_files=str(folder / "rows.jsonl"), metrics=("exact_match", "chrf"))
    chosen = {"output_type": "multiple_choice", "doc_to_target": "answer", "doc_to_choice": "choices"}
    write_task(folder, "choose", data_files=str(folder / "rows.jsonl"), metrics=("acc", "brier_score"), **chosen)
    return folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    """Two teachers of MicroZoo, not fully trained, so that their scores are no round numbers."""
    folder = tmp_path_factory.mktemp("zoo")
    load_suite("micro").select([SEEN, UNSEEN]).save(folder / "suite")
    build_zoo(
        ExperimentConfig(
            model=ModelConfig(name="micro"),
            lora=LoRAConfig(rank=4, alpha=8, target_modules=TARGETS),
            zoo=ZooConfig(suite=str(folder / "suite"), steps=4, batch_size=8, learning_rate=1e-2),
            checkpoint_folder=str(folder / "zoo"),
        )
    )
    return folder / "zoo"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A generator that writes random adapters which do change what the base says."""
    base, encoder = load_base("micro"), HashingEncoder()
    spec = GeneratorSpec(
        target_shapes(base.model, TARGETS), 4, 8.0, encoder.dim, condition="description", encoder_id=encoder.content_id, base=base.identity
    )
    torch.manual_seed(0)
    generator = LoRAGenerator(spec, encoder)
    for head in generator.heads:
        torch.nn.init.normal_(head.write_b.weight)
    folder = tmp_path_factory.mktemp("run")
    generator.save_pretrained(folder / "generator")
    ExperimentConfig(experiment_name=folder.name, output_dir=str(folder.parent)).save(folder / "config.yaml")
    return folder


def example_rows(task: Task) -> Iterator[dict[str, Any]]:
    """A row of the examples for each test example: its answer among four wrong ones."""
    for i, example in enumerate(task.test):
        word = example.output.strip("*")
        choices = [f"*{example.input.upper()}*", word, f"[{word}]", f"*{word.lower()}*"]
        random.Random(i).shuffle(choices)
        place = random.Random(f"place {i}").randrange(5)
        choices.insert(place, example.output)
        yield {"input": example.input, "output": example.output, "choices": choices, "answer": place}


def write_task(folder: Path, name: str, data_files: str, metrics: tuple[str, ...] = ("exact_match",), **more: Any) -> Path:
    values = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": data_files}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": ALPACA_FRAME.replace("{input}", "{{input}}"),
        "doc_to_target": "{{output}}",
        "target_delimiter": "",
        "metric_list": [
            {"metric": metric, "aggregation": metric.replace("acc", "mean").replace("exact_match", "mean")} for metric in metrics
        ],
        "metadata": {"version": 2.0},
    }
    if "output_type" not in more:
        values["generation_kwargs"] = {"until": ["<eos>"], "max_gen_toks": 9}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**values, **more}))
    return path


def by_hand(tasks: Path, adapter: Path | None = None) -> dict[tuple[str, str], tuple[float, Any]]:
    """(task, metric) -> value and standard error."""
    peft = "" if adapter is None else f",peft={adapter}"
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = simple_evaluate(
        model="hf",
        model_args=f"pretrained={MICRO_FOLDER}{peft}",
        tasks=["spell", "choose"],
        task_manager=manager,
        device="cpu",
        batch_size=4,
    )
    assert results is not None
    return {
        (task, key.removesuffix(",none")): (value, found[key.replace(",", "_stderr,")])
        for task, found in results["results"].items()
        for key, value in found.items()
        if key.endswith(",none") and "_stderr" not in key
    }


def scored(document: dict[str, Any], model: str, asked: str | None) -> dict[tuple[str, str], tuple[float, Any]]:
    rows = [row for row in document["scores"] if (row["model"], row["asked"]) == (model, asked)]
    assert all(row["n"] == ROWS for row in rows)
    return {(row["task"], row["metric"]): (row["value"], "N/A" if row["stderr"] is None else row["stderr"]) for row in rows}


@pytest.mark.slow
def test_base_teacher_and_generated_score_as_the_harness_scores_them_by_hand(tasks, zoo, run, tmp_path):
    document = evaluate_lm(run, zoo, EvaluationConfig(), HarnessConfig(("spell,choose",), str(tasks), batch_size="4"), [SENTENCE], [UNSEEN])
    asked = f"{UNSEEN} (unseen_combination)"
    assert [(row["model"], row["asked"]) for row in document["models"]] == [
        ("base", None),
        ("teacher", asked),
        ("generated", asked),
        ("generated", SENTENCE),
    ]
    assert main(["generate", "--run", str(run), "--description", SENTENCE, "--output", str(tmp_path / "adapter")]) == 0
    expected = {
        ("base", None): by_hand(tasks),
        ("teacher", asked): by_hand(tasks, zoo / "code" / UNSEEN / "seed0"),
        ("generated", SENTENCE): by_hand(tasks, tmp_path / "adapter"),
    }
    assert {key: scored(document, *key) for key in expected} == expected
    for metric in (("spell", "chrf"), ("choose", "brier_score")):
        assert len({found[metric][0] for found in expected.values()}) == 3
    assert document["tasks"] == {"spell": {"version": 2.0, "n_shot": 0}, "choose": {"version": 2.0, "n_shot": 0}}


def test_a_teachers_exact_match_is_the_one_of_llgbm_evaluate(tasks, zoo):
    config = EvaluationConfig(splits=("unseen_combination",), methods=("base", "teacher"), max_examples=ROWS)
    own = evaluate(None, zoo, config).to_json()["splits"]["unseen_combination"]
    document = evaluate_lm(None, zoo, config, HarnessConfig(("spell",), str(tasks), batch_size="4"))
    found = {row["model"]: row["value"] for row in document["scores"] if row["metric"] == "exact_match"}
    assert found == {method: own[method]["exact_match"] for method in ("base", "teacher")}
    assert 0 < found["teacher"] < 1


@pytest.fixture(scope="module")
def exported(zoo, tmp_path_factory) -> Path:
    """The zoo's suite as the harness's tasks."""
    folder = tmp_path_factory.mktemp("exported")
    assert main(["zoo", "tasks", "--suite", str(zoo.parent / "suite"), "--save_lm_eval", str(folder)]) == 0
    return folder


def test_a_suite_s_tasks_for_the_harness_score_as_llgbm_evaluate_does(exported, zoo):
    config = EvaluationConfig(splits=("unseen_combination",), methods=("base", "teacher"), max_examples=ROWS)
    own = evaluate(None, zoo, config).to_json()["splits"]["unseen_combination"]
    document = evaluate_lm(None, zoo, config, HarnessConfig((f"micro-{UNSEEN}",), str(exported), batch_size="4"))
    found = {row["model"]: row["value"] for row in document["scores"] if row["metric"] == "exact_match"}
    assert found == {method: own[method]["exact_match"] for method in ("base", "teacher")}
    assert 0 < found["teacher"] < 1


@pytest.mark.slow
def test_the_harness_s_own_command_runs_exported_tasks_offline(exported, zoo, tmp_path):
    adapter = zoo / "code" / UNSEEN / "seed0"
    model = ["--model", "hf", "--model_args", f"pretrained={MICRO_FOLDER},peft={adapter}", "--device", "cpu", "--batch_size", "4"]
    asked = ["--tasks", "micro", "--include_path", str(exported), "--num_fewshot", "1", "--limit", "4"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "DISABLE_MULTIPROC": "1"}
    command = [sys.executable, "-m", "lm_eval", *model, *asked, "--output_path", str(tmp_path / "scores.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = tmp_path.rglob("scores_*.json")
    results = read_json(file)["results"]
    assert {"micro", f"micro-{SEEN}", f"micro-{UNSEEN}"} == {*results}
    alone = [results[f"micro-{name}"]["exact_match,none"] for name in (SEEN, UNSEEN)]
    assert results["micro"]["exact_match,none"] == pytest.approx(sum(alone) / 2)


def test_texts_of_exported_tasks_are_no_templates(tmp_path):
    tricky = Task("odd", "d", "seen", "x", test=(Example("{{ 1 + 1 }} {input}", "{% raw %}"),))
    suite = TaskSuite("mine", {"odd": tricky}, frame="{{ nothing }} {input}\n> ")
    assert save_harness_tasks(suite, tmp_path) == ["mine", "mine-odd"]
    (row,) = (json.loads(line) for line in (tmp_path / "mine-odd-test.jsonl").read_text().splitlines())
    assert row == {"text": "{{ nothing }} {{ 1 + 1 }} {input}\n> ", "answer": "{% raw %}"}
    task: Any = TaskManager(include_path=str(tmp_path), include_defaults=False).load(["mine-odd"])["tasks"]["mine-odd"]
    (doc,) = task.test_docs()
    assert (task.doc_to_text(doc), task.doc_to_target(doc)) == (row["text"], row["answer"])
    chat = TaskSuite("chats", {"odd": tricky}, frame="chat", system="Be brief.")
    save_harness_tasks(chat, tmp_path)
    assert yaml.safe_load((tmp_path / "chats-odd.yaml").read_text())["description"] == "Be brief."


@pytest.mark.parametrize(
    ("name", "test", "message"),
    [
        ("a, b", (Example("a", "b"),), r"task 'mine-a, b' holds ',', in which 'lm_eval --tasks' would read more than a name; rename it"),
        ("a/b", (Example("a", "b"),), r"task 'mine-a/b' holds the separator"),
        ("a", (), r"task mine-a: has no test examples, which are what lm-evaluation-harness asks"),
    ],
)
def test_a_task_that_the_harness_cannot_ask_is_refused(tmp_path, name, test, message):
    with pytest.raises(InputError, match=message):
        save_harness_tasks(TaskSuite("mine", {name: Task(name, "d", "seen", "x", test=test)}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_put_in_alone_and_taken_out_again():
    base = load_base("micro")
    ids, before = torch.arange(8, 20)[None], base.content_hash
    plain = base.model(ids).logits
    wide, narrow = (random_factors(target_shapes(base.model, targets)) for targets in (TARGETS, ["q_proj"]))
    with _adapted(load_base("micro"), narrow) as alone:
        expected = alone(ids).logits
    with _adapted(base, wide) as first:
        assert not torch.equal(first(ids).logits, plain)
    with _adapted(base, narrow) as second:
        assert torch.equal(second(ids).logits, expected)
    with _adapted(base, None) as model:
        assert torch.equal(model(ids).logits, plain)
    del base.__dict__["content_hash"]
    assert base.content_hash == before


def random_factors(shapes: dict[str, tuple[int, int]]) -> LoRAFactors:
    torch.manual_seed(1)
    zeros = LoRAFactors.zeros(shapes, 1, 1.0)
    return LoRAFactors(
        {name: torch.randn_like(a) for name, a in zeros.a.items()},
        {name: torch.randn_like(b) for name, b in zeros.b.items()},
        zeros.scaling,
        zeros.ranks,
    )


def flags(tasks: Path, *more: str) -> list[str]:
    return ["evaluate", "--backend", "lm-eval", "--include_path", str(tasks), "--max_examples", "2", *more]


def test_the_command_writes_a_file_that_reports_pass_over(tasks, run, capsys):
    said = flags(tasks, "--tasks", "spell", "choose", "--run", str(run), "--description", SENTENCE, "--zoo", "nowhere")
    assert main(said) == 0
    out, err = capsys.readouterr()
    assert all(word in out for word in ("lm-eval 0", "base", "generated", SENTENCE, "exact_match", "brier_score", "±"))
    assert err.count("metric exact_match is defined, but higher_is_better is not") == 1
    assert "pretrained" not in err
    assert "it/s" not in err
    document = read_json(run / "eval_lm_main.json")
    assert document["backend"] == "lm-eval"
    assert {row["n"] for row in document["scores"]} == {2}
    assert not collect_run(run).evaluations
    assert main([*said, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_the_base_is_scored_alone_and_a_file_is_a_task(tasks, zoo, tmp_path, capsys):
    alone = ["--run", "none", "--zoo", str(zoo), "--output", str(tmp_path), "--tasks", str(tasks / "spell.yaml")]
    assert main(flags(tasks, *alone, "--name", "mine", "--num_fewshot", "1", "--batch_size", "2")) == 0
    assert [row["model"] for row in read_json(tmp_path / "eval_lm_mine.json")["models"]] == ["base"]
    assert main(flags(tasks, *alone, "--dry_run")) == 0
    assert "score base, teachers and generated adapters on" in capsys.readouterr().out
    assert not (tmp_path / "eval_lm_main.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "spell", "--example_answers", "2"], "--example_answers does not go with --backend lm-eval; leave it out"),
        (["--tasks", "spell", "--workers", "2"], "--workers does not go with --backend lm-eval; leave it out"),
        (["--tasks", "spell", "--address", "auto"], "--address does not go with --backend lm-eval; leave it out"),
        (["--tasks", "spell", "--demonstrations", "2"], "--demonstrations does not go with --backend lm-eval; leave it out"),
        (["--tasks", "spell", "--scores", "here"], "--scores does not go with --backend lm-eval; leave it out"),
        (["--tasks", "spell", "--engine", "ray"], "--engine does not go with --backend lm-eval; leave it out"),
        (["--tasks", "spell", "--report_to", "wandb"], "--report_to does not go with --backend lm-eval; leave it out"),
        (["--backend", "own", "--tasks", "spell"], "--tasks does not go with --backend own; leave it out, or say --backend lm-eval"),
        (["--backend", "lm_eval"], "invalid choice: 'lm_eval'"),
        (["--tasks", ","], "--tasks names no task"),
        (["--tasks", "spell", "--include_path", "nowhere"], "--include_path nowhere is no folder"),
        (["--tasks", "nowhere.yaml"], "nowhere.yaml"),
        (["--tasks", "spell", "--batch_size", "0"], "--batch_size is 0; give 1 or more, or auto"),
        (["--tasks", "spell", "--num_fewshot", "-1"], "--num_fewshot is -1; give 0 or more"),
        (["--tasks", "spell", "--apply_chat_template"], "has no chat template; leave out --apply_chat_template"),
        (["--tasks", "spell", "--methods", "few_shot"], "method few_shot changes what the base reads"),
        (
            ["--tasks", "spell", "--methods", "teacher"],
            "method teacher makes adapters for tasks of the zoo; say for which by --zoo_tasks or --splits",
        ),
        (["--tasks", "spell", "--methods", "best", "--splits", "seen"], "unknown method 'best'"),
        (["--tasks", "spell", "--run", "none", "--description", "x"], "--description needs a generator; give it as --run"),
        (["--tasks", "spell", "--methods", "generated"], "nothing to score; give --methods base"),
        (["--tasks", "spell", "--zoo_tasks", "hum"], "has no task 'hum'"),
        (
            ["--tasks", "spell", "--run", "none", "--zoo_tasks", UNSEEN, "--splits", "seen"],
            f"has no teacher of task '{UNSEEN}' in split seen; leave it out",
        ),
        (["--tasks", "spell", "--splits", "unheard"], "unknown split 'unheard'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(tasks, zoo, run, tmp_path, capsys, more, message):
    assert main([*flags(tasks, "--run", str(run), "--zoo", str(zoo), "--output", str(tmp_path)), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}},
            r"task .*bad.yaml: its data or prompts cannot be had \(.*nowhere.jsonl",
        ),
        ({"dataset_path": "somebody/something", "dataset_kwargs": {}}, r"cannot be had \(Couldn't reach 'somebody/something' on the Hub"),
        ({"doc_to_text": "{{ nothing }}"}, r"bad.yaml: lm-eval cannot build it \(UndefinedError: 'nothing' is undefined\); mend its file"),
        ({"output_type": "guess"}, r"lm-eval cannot build it \(ValueError: Got invalid output_type 'guess'"),
        ({"doc_to_text": "{{ cycler.__init__.__globals__ }}"}, r"lm-eval cannot build it \(SecurityError: "),
        (
            {"metric_list": [{"metric": "somebody/metric"}]},
            r"metric 'somebody/metric' is not the harness's own, and would be fetched as code",
        ),
        ({"metric_list": [{"metric": "exact_match", "hf_evaluate": True}]}, r"metric 'exact_match' is not the harness's own"),
        ({"include": "bad.yaml"}, r"bad.yaml: includes itself; take that out"),
        ({"doc_to_image": "input"}, r"task bad: shows pictures or sounds"),
        ({"unsafe_code": True}, r"task bad: runs what models answer as code; give --confirm_run_unsafe_code if that may run here"),
    ],
)
def test_a_task_that_cannot_be_asked_is_named(tasks, tmp_path, changed, message):
    path = write_task(tmp_path, "bad", **{"data_files": str(tasks / "rows.jsonl"), **changed})
    with pytest.raises(InputError, match=message):
        open_tasks([str(path)])


def test_a_task_that_does_not_suit_the_harness_later_on_is_named(tasks, run, tmp_path, capsys):
    path = write_task(tmp_path, "first", data_files=str(tasks / "rows.jsonl"), doc_to_text="{{ {'kflcj': 'a'}[input] }}")
    assert main(["evaluate", "--backend", "lm-eval", "--run", str(run), "--output", str(tmp_path), "--tasks", str(path)]) == 2
    assert f"lm-eval cannot score tasks {path} (UndefinedError: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"x.yaml: is not valid YAML \(.*\); mend it"),
        (
            "task: !!python/name:os.system",
            r"x.yaml: is not valid YAML \(could not determine a constructor for the tag .*python/name:os.system",
        ),
        ("- task", r"x.yaml: is no task of lm-eval; it needs a mapping with task or group"),
        ("name: x", r"x.yaml: is no task of lm-eval; it needs a mapping with task or group"),
    ],
)
def test_a_file_that_is_no_task_is_named(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        open_tasks([str(tmp_path / "x.yaml")])


def test_code_that_a_task_names_runs_when_that_is_confirmed_alone(tasks, tmp_path):
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n\ndef answer(doc):\n    return doc['output']\n")
    path = write_task(tmp_path, "codes", data_files=str(tasks / "rows.jsonl"))
    path.write_text(path.read_text().replace("doc_to_target: '{{output}}'", "doc_to_target: !function mine.answer"))
    (tmp_path / "all.yaml").write_text("group: all\ntask: [codes]\n")
    (tmp_path / "over.yaml").write_text("include: codes.yaml\ntask: over\ndoc_to_target: '{{output}}'\n")
    for asked in (str(path), "codes", "all", "over"):
        with pytest.raises(
            InputError, match=r"\.yaml: asks for Python code \(!function mine.answer\), .*; read it, and give --confirm_run_unsafe_code"
        ):
            open_tasks([asked], str(tmp_path))
    assert not (tmp_path / "ran").exists()
    opened = open_tasks(["all"], str(tmp_path), confirmed=True)
    assert (tmp_path / "ran").exists()
    assert opened.names == ("all",)


def test_without_the_harness_it_says_what_to_install(tasks, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(flags(tasks, "--run", str(run), "--tasks", "spell")) == 2
    assert "--backend lm-eval needs lm_eval, which is not installed; pip install 'llgbm[eval]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_name_that_nobody_knows_is_told_from_a_file_that_is_broken(tasks, tmp_path):
    with pytest.raises(InputError, match=r"task 'hellaswga' is unknown to lm-eval; did you mean hellaswag"):
        open_tasks(["hellaswga"], str(tasks))
    (tmp_path / "mine.yaml").write_text("task: mine\na: [")
    with pytest.raises(InputError, match=r"task 'mine' is unknown to lm-eval \(.*mine.yaml: is not valid YAML"):
        open_tasks(["mine"], str(tmp_path))
    with pytest.raises(InputError, match=r"task arc_easy: its data or prompts cannot be had \(Couldn't reach 'allenai/ai2_arc' on the Hub"):
        open_tasks(["arc_easy"])


def test_the_examples_are_a_task_of_microzoo():
    rows = [json.loads(line) for line in (ROOT / "examples" / "lm_eval" / "reverse.jsonl").read_text().splitlines()]
    assert rows == list(example_rows(load_suite("micro")[UNSEEN]))


@pytest.mark.slow
def test_the_harness_itself_takes_an_adapter_as_it_lies(zoo, tmp_path):
    """The command of docs/lm_eval.md, in a process of its own, on the shipped examples."""
    adapter = zoo / "code" / UNSEEN / "seed0"
    command = [
        "--model",
        "hf",
        "--model_args",
        f"pretrained={MICRO_FOLDER},peft={adapter}",
        "--tasks",
        "micro_reverse,micro_reverse_choice",
    ]
    places = ["--include_path", "examples/lm_eval", "--output_path", str(tmp_path / "out"), "--device", "cpu", "--limit", "4"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-m", "lm_eval", *command, *places], cwd=ROOT, env=environment, check=True, capture_output=True)
    (written,) = (tmp_path / "out").rglob("results*.json")
    results = read_json(written)["results"]
    config = EvaluationConfig(splits=("unseen_combination",), methods=("teacher",), max_examples=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        document = evaluate_lm(None, zoo, config, HarnessConfig(("micro_reverse", "micro_reverse_choice"), "examples/lm_eval"))
    assert {row["task"]: row["value"] for row in document["scores"]} == {
        "micro_reverse": results["micro_reverse"]["exact_match,none"],
        "micro_reverse_choice": results["micro_reverse_choice"]["acc,none"],
    }
