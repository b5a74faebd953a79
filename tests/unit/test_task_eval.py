import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_world import PerfectGenerator, build_evaluation_world
from tolerance import depth, relative

from llgbm import judging
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.evaluation import answering
from llgbm.evaluation.answering import EvaluationWorker
from llgbm.evaluation.made import how_made
from llgbm.evaluation.methods import METHODS, choose_methods
from llgbm.evaluation.setting import EvaluationConfig, Question, Setting, load_setting
from llgbm.evaluation.statistics import bootstrap_interval, standard_error
from llgbm.evaluation.task_eval import Evaluation, evaluate, measure, read_evaluation, run_evaluation
from llgbm.files import write_json
from llgbm.functional_lora import greedy_decode
from llgbm.judging import judge_answers
from llgbm.models.encoder import HashingEncoder
from llgbm.scoring import Score, score_each
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.suite import Example

UNTRAINED = ("base", "few_shot", "teacher", "generated", "shuffled_condition", "nearest", "merged_topk", "mean_adapter")
NLL = relative(length=128, depth=depth(2))
"""Of the tiny base and its vocabulary."""
ALONE = EvaluationConfig(methods=("base", "teacher", "nearest"))

POSSIBLE = {
    name
    for name, method in METHODS.items()
    if not (method.needs_predictor or method.needs_soft_prompt or method.needs_foreign or method.needs_attributes or method.instructs)
}


@pytest.fixture(scope="module")
def zoo_folder(tmp_path_factory) -> Path:
    return build_evaluation_world(tmp_path_factory.mktemp("world"))


def asked(zoo_folder: Path, condition: str = "description", **choices) -> Setting:
    setting = load_setting(None, zoo_folder, EvaluationConfig(**choices))
    setting.generator = PerfectGenerator(setting.zoo, condition)
    return setting


@pytest.fixture(scope="module")
def document(zoo_folder) -> dict:
    return run_evaluation(asked(zoo_folder)).to_json()


def test_document_has_the_stated_form(document):
    assert {"splits", "tasks", "base", "config_hash"} <= document.keys()
    assert list(document["splits"]) == ["seen", "unseen_combination", "unseen_wording", "unseen_both", "mixture"]
    for methods in document["splits"].values():
        assert set(methods) == POSSIBLE
        for summary in methods.values():
            numbers = {"score", "score_stderr", "exact_match", "low", "high", "nll", "gain_recovered"}
            assert set(summary) == {*numbers, "tokens_read", "n_tasks", "n_examples"}
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("split", ["seen", "unseen_combination", "unseen_wording", "unseen_both", "mixture"])
def test_a_perfect_generator_equals_the_teachers_and_loses_it_all_when_shuffled(document, split):
    of = document["splits"][split]
    assert of["generated"] == of["teacher"]
    assert of["base"]["tokens_read"] == of["generated"]["tokens_read"] < of["few_shot"]["tokens_read"]
    assert of["teacher"]["exact_match"] == 1.0
    assert of["base"]["exact_match"] == 0.0
    assert of["shuffled_condition"]["exact_match"] == 0.0
    assert (of["base"]["gain_recovered"], of["teacher"]["gain_recovered"]) == (0.0, 1.0)


def test_controls_cannot_answer_a_letter_nobody_taught_them(document):
    of = document["splits"]["unseen_combination"]
    assert all(of[m]["exact_match"] == 0.0 for m in ("nearest", "mean_adapter", "merged_topk", "multitask_blind", "few_shot"))
    assert document["splits"]["seen"]["nearest"]["exact_match"] == 1.0


def test_seen_are_the_tasks_the_generator_trained_on(document):
    rows = [row for row in document["tasks"] if row["split"] == "seen"]
    assert [row["task"] for row in rows] == ["say a", "say b", "say c"]


def test_unseen_wording_is_asked_in_words_no_training_used(zoo_folder):
    for condition, expected in (("description", "A is all I want to hear."), ("prompts", "A please")):
        setting = asked(zoo_folder, condition, splits=("unseen_wording",), methods=("generated",))
        run_evaluation(setting)
        assert setting.generator.asked[0] == expected


def test_exact_match_equals_greedy_decoding(zoo_folder, document):
    zoo, setting = TeacherZoo.load(zoo_folder), asked(zoo_folder)
    tokenizer, rows = (
        setting.base.tokenizer,
        {r["task"]: r for r in document["tasks"] if r["split"] not in ("unseen_wording", "unseen_both")},
    )
    for task in zoo.suite:
        if task.name not in rows:
            continue
        for method, factors in (("base", None), ("teacher", zoo.factors([setting.teachers[task.name]]))):
            for example, bit in zip(task.test, rows[task.name]["exact"][method], strict=True):
                ids = tokenizer(zoo.suite.framed(example.input), return_tensors="pt")
                ends = {"ends": {tokenizer.eos_token_id}, "pad_token_id": tokenizer.pad_token_id}
                out = greedy_decode(setting.functional, factors, ids.input_ids, ids.attention_mask, max_new_tokens=4, **ends)
                assert (tokenizer.decode(out[0]) == example.output + tokenizer.eos_token) == (bit == "1")


def test_task_rows_add_up_to_the_split(document):
    for split, methods in document["splits"].items():
        rows = [row for row in document["tasks"] if row["split"] == split]
        for method, summary in methods.items():
            means = [sum(map(int, row["exact"][method])) / row["n_examples"] for row in rows]
            assert summary["exact_match"] == pytest.approx(sum(means) / len(rows))
            assert summary["nll"] == pytest.approx(sum(row["nll"][method] for row in rows) / len(rows))
            assert (summary["n_tasks"], summary["n_examples"]) == (len(rows), sum(row["n_examples"] for row in rows))


def test_comparisons_are_paired_and_corrected_within_a_split(document):
    rows = [row for row in document["comparisons"] if row["split"] == "seen"]
    assert {row["other"] for row in rows} == POSSIBLE - {"generated"}
    to = {row["other"]: row for row in rows}
    assert to["base"]["difference"] == to["base"]["low"] == to["base"]["high"] == 1.0
    assert to["base"]["p_value"] is to["base"]["p_holm"] is None  # of three tasks nothing can be certain
    assert to["teacher"]["gain_recovered_interval"] == (1.0, 1.0)
    single = next(row for row in document["comparisons"] if row["split"] == "mixture" and row["other"] == "base")
    assert (single["test"], single["n_units"], single["unit"]) == ("mcnemar", 3, "example")


def test_intervals_and_tests_are_clustered_by_the_tasks_attributes(zoo_folder):
    """Of forty made tasks, ten operations with four tasks each."""
    setting = asked(zoo_folder, methods=("base", "generated"))
    own = setting.zoo.suite["say a"]
    tasks = [replace(own, name=f"task {i}", attributes={"operation": f"op {i // 4}"}) for i in range(40)]
    rng = np.random.default_rng(0)
    right = torch.from_numpy((rng.random((40, 8)) < rng.random(10).repeat(4)[:, None]).astype(np.int64))
    found = Evaluation(setting.base.identity, "", {"seen": [Question(task, "seen") for task in tasks]})
    ones = torch.ones(8)
    found.scores["seen"] = {
        "base": [Score(torch.zeros(8, dtype=torch.bool), ones, ones.long(), ones.long(), 0 * ones)] * 40,
        "generated": [Score(row.bool(), ones, ones.long(), ones.long(), row.float()) for row in right],
    }
    document = found.to_json()
    exact = right.double().mean(1).numpy()
    clusters = {"operation": [f"op {i // 4}" for i in range(40)]}
    summary, (row,) = document["splits"]["seen"]["generated"], document["comparisons"]
    assert (summary["low"], summary["high"]) == (row["low"], row["high"]) == bootstrap_interval(exact, clusters=clusters)
    plain = bootstrap_interval(exact)
    assert summary["high"] - summary["low"] > 1.2 * (plain[1] - plain[0])
    assert summary["score_stderr"] > 1.2 * standard_error(exact)
    assert row["p_value"] == row["clusters"]["operation"]["p_value"] == 2 / 2**10
    assert document["tasks"][5]["attributes"] == {"operation": "op 1"}


def test_a_mixture_hangs_together_with_what_shares_its_parts(zoo_folder: Path) -> None:
    setting = asked(zoo_folder, methods=("base",), splits=("mixture",))
    tasks = setting.zoo.suite.tasks
    tasks["say g"] = replace(tasks["say g"], parts=("say a", "say b"))
    tasks["say a"] = replace(tasks["say a"], attributes={"operation": "op 1"})
    found = run_evaluation(setting)
    assert found.clusters("mixture") == {"first operation": ["op 1"], "second task": ["say b"]}
    assert found.to_json()["tasks"][0]["attributes"] == {"first operation": "op 1", "second task": "say b"}


def test_chunks_and_memory_change_nothing(zoo_folder, document, monkeypatch):
    monkeypatch.setattr("llgbm.memory.SHARE", 1e-9)
    other = run_evaluation(asked(zoo_folder, adapters_at_once=2, methods=UNTRAINED)).to_json()
    for mine, theirs in zip(other["tasks"], document["tasks"], strict=True):
        assert mine["exact"] == {method: theirs["exact"][method] for method in UNTRAINED}
        assert mine["nll"] == pytest.approx({method: theirs["nll"][method] for method in UNTRAINED}, rel=NLL, abs=0)


def test_the_base_is_bit_identical_afterwards(zoo_folder):
    setting = asked(zoo_folder, methods=UNTRAINED)
    before = {name: tensor.clone() for name, tensor in setting.base.model.state_dict().items()}
    ids = torch.tensor([[10, 11, 12]])
    logits = setting.base.model(ids).logits
    run_evaluation(setting)
    assert all(torch.equal(tensor, before[name]) for name, tensor in setting.base.model.state_dict().items())
    assert torch.equal(setting.base.model(ids).logits, logits)


def test_the_same_evaluation_twice_is_the_same_to_the_bit(zoo_folder, document):
    assert run_evaluation(asked(zoo_folder)).to_json() == document


def test_kept_scores_are_the_scores(zoo_folder, tmp_path, monkeypatch):
    config = EvaluationConfig(splits=("seen", "unseen_wording"))
    fresh = evaluate(None, zoo_folder, config).to_json()
    assert evaluate(None, zoo_folder, config, cache_dir=tmp_path).to_json() == fresh
    monkeypatch.setattr(answering, "_score", None)  # calling it would fail: everything is read
    assert evaluate(None, zoo_folder, config, cache_dir=tmp_path).to_json() == fresh


def test_scores_kept_for_other_choices_are_not_used(zoo_folder, tmp_path):
    evaluate(None, zoo_folder, ALONE, cache_dir=tmp_path)
    shorter = evaluate(None, zoo_folder, replace(ALONE, max_examples=2), cache_dir=tmp_path).to_json()
    assert {row["n_examples"] for row in shorter["tasks"]} == {2}


def test_without_a_generator_its_methods_are_left_out(zoo_folder):
    evaluation = evaluate(None, zoo_folder, EvaluationConfig(splits=("seen",)))
    assert set(evaluation.scores["seen"]) == POSSIBLE - {"generated", "shuffled_condition"}
    assert evaluation.to_json()["comparisons"] == []
    assert len(evaluation.questions["seen"]) == 4


def test_gain_is_undefined_without_base_or_teacher(zoo_folder):
    document = evaluate(None, zoo_folder, EvaluationConfig(methods=("base",), splits=("seen",))).to_json()
    assert document["splits"]["seen"]["base"]["gain_recovered"] is None


def test_a_saved_generator_is_evaluated_under_its_runs_hash(zoo_folder, tmp_path):
    run = tmp_path / "run"
    generator = PerfectGenerator(TeacherZoo.load(zoo_folder))
    generator.save_pretrained(run / "generator")
    config = ExperimentConfig(experiment_name="run", output_dir=str(tmp_path))
    config.save()
    found = evaluate(run, zoo_folder, EvaluationConfig(methods=("base", "generated"), splits=("seen",))).to_json()
    assert found["config_hash"] == config.get_hash()
    of = found["splits"]["seen"]
    assert of["generated"]["nll"] == pytest.approx(of["base"]["nll"], rel=NLL, abs=0)  # a new generator writes the zero adapter


def test_a_part_is_a_method_and_the_splits_it_answers_alike(zoo_folder):
    outline = EvaluationWorker(asked(zoo_folder, methods=("base", "generated", "multitask_blind"))).survey()
    splits = tuple(outline.questions)
    assert outline.parts == [
        ("base", ("seen", "unseen_wording")),
        ("generated", ("seen",)),
        ("multitask_blind", splits),
        ("base", ("unseen_combination", "unseen_both")),
        ("generated", ("unseen_combination",)),
        ("generated", ("unseen_wording",)),
        ("generated", ("unseen_both",)),
        ("base", ("mixture",)),
        ("generated", ("mixture",)),
    ]
    assert not [q for asked in outline.questions.values() for q in asked if q.task.train or q.task.test]  # which would be much to send


def test_progress_reaches_the_end(zoo_folder):
    calls = []
    evaluate(None, zoo_folder, ALONE, progress=lambda done, total, **figures: calls.append((done, total, figures)))
    assert calls[-1][0] == calls[-1][1] == 3 * (4 + 2 + 4 + 2 + 1)
    assert calls[0][2] == {"split": "seen", "method": "base"}


def test_a_likelihood_that_is_not_finite_is_named(zoo_folder):
    setting = asked(zoo_folder, methods=("generated",), splits=("seen",))
    next(iter(setting.generator.teachers["b"].b.values())).fill_(math.inf)
    with pytest.raises(InputError, match="method generated, task say b: the log-likelihood is nan"):
        run_evaluation(setting)


def test_read_evaluation_refuses_other_documents(tmp_path, document):
    write_json(tmp_path / "eval_main.json", document)
    assert read_evaluation(tmp_path / "eval_main.json")["splits"].keys() == document["splits"].keys()
    write_json(tmp_path / "other.json", {"splits": {}})
    with pytest.raises(InputError, match="not an evaluation"):
        read_evaluation(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"methods": ("generatd",)}, "unknown method 'generatd'; did you mean generated"),
        ({"methods": ("generated",)}, "method generated needs a generator"),
        ({"splits": ("unsen",)}, "unknown split 'unsen'"),
        ({"teacher_seed": 7}, "teacher_seed is 7, but zoo .* has teachers of seeds 0"),
    ],
)
def test_impossible_choices_are_refused(zoo_folder, choices, message):
    with pytest.raises(InputError, match=message):
        evaluate(None, zoo_folder, EvaluationConfig(**choices))


def test_the_pools_texts_are_embedded_once_for_all_methods(zoo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence model takes minutes for them."""
    setting, read, embed = asked(zoo_folder), Counter[str](), HashingEncoder.embed

    def counted(encoder: HashingEncoder, texts: Sequence[str]) -> torch.Tensor:
        read.update(texts)
        return embed(encoder, texts)

    monkeypatch.setattr(HashingEncoder, "embed", counted)
    for method in ("nearest", "merged_topk", "ridge"):
        METHODS[method].attempt(setting, setting.questions("unseen_wording"))
    known = {text for group in setting.pool_texts for text in group}
    assert {text: read[text] for text in known} == dict.fromkeys(known, 1)


def test_a_split_without_teachers_is_asked_where_it_is_named(zoo_folder: Path, tmp_path: Path) -> None:
    copied = _changed_zoo(zoo_folder, tmp_path, lambda m: m["teachers"].pop())
    assert "mixture" not in evaluate(None, copied, ALONE).scores
    named = replace(ALONE, methods=("base", "nearest"), splits=("seen", "mixture"))
    found, whole = (evaluate(None, folder, named, tmp_path / "cache").to_json()["splits"] for folder in (copied, zoo_folder))
    assert found == whole
    assert found["mixture"]["base"]["n_tasks"] == 1
    assert set(POSSIBLE) - set(choose_methods(asked(copied, splits=("mixture",)))) == {"teacher"}
    with pytest.raises(InputError, match=r"method teacher needs the teachers .* has none of split mixture"):
        evaluate(None, copied, replace(named, methods=("teacher",)))


def test_a_zoo_of_another_base_is_refused(zoo_folder, tmp_path):
    copied = _changed_zoo(zoo_folder, tmp_path, lambda m: m["base"].update(hash="0" * 64))
    with pytest.raises(InputError, match=r"zoo .* belongs to a base with hash 00000000"):
        evaluate(None, copied, ALONE)


def test_an_empty_zoo_is_refused(zoo_folder, tmp_path):
    with pytest.raises(InputError, match="has no teachers"):
        evaluate(None, _changed_zoo(zoo_folder, tmp_path, lambda m: m["teachers"].clear()), ALONE)


def test_a_generator_trained_on_other_tasks_is_refused(zoo_folder):
    setting = asked(zoo_folder)
    setting.generator.spec.trained_on = ["something else"]
    with pytest.raises(InputError, match="no teacher of a seen task the generator trained on"):
        run_evaluation(setting)


def test_a_generator_of_another_base_is_refused(zoo_folder, tmp_path):
    generator = PerfectGenerator(TeacherZoo.load(zoo_folder))
    generator.spec.base = replace(generator.spec.base, hash="1" * 64)
    generator.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"generator .* belongs to a base with hash 11111111"):
        evaluate(tmp_path, zoo_folder)


def test_a_generator_is_recorded_by_its_place_here_or_on_the_hub(zoo_folder, tmp_path, monkeypatch):
    setting = asked(zoo_folder)
    monkeypatch.chdir(tmp_path)
    assert how_made(setting, "run")["run"] == str(tmp_path / "run")
    assert how_made(setting, "hf://org/gen@v1")["run"] == "hf://org/gen@v1"


def test_a_folder_without_generator_is_refused(zoo_folder, tmp_path):
    with pytest.raises(InputError, match="no generator there; give a run folder"):
        evaluate(tmp_path, zoo_folder)


def test_shuffled_conditions_are_never_a_tasks_own(zoo_folder):
    setting = asked(zoo_folder)
    for split in setting.splits():
        assert all(own != other.task.name for own, other in setting.shuffled(split).items())


def test_a_condition_of_both_kinds_has_description_and_prompts(zoo_folder):
    task = TeacherZoo.load(zoo_folder).suite["say a"]
    assert Question(task, "seen").texts("both", 2) == [task.description, *task.prompts[:2]]
    assert Question(task, "unseen_wording").texts("prompts", 8) == list(task.unseen_prompts)


def _changed_zoo(zoo_folder: Path, tmp_path: Path, change) -> Path:
    copied = tmp_path / "zoo"
    shutil.copytree(zoo_folder, copied)
    manifest = json.loads((copied / "manifest.json").read_text())
    change(manifest)
    write_json(copied / "manifest.json", manifest)
    return copied


def test_few_shot_says_how_many_demonstrations_fit(zoo_folder):
    setting = asked(zoo_folder, methods=("few_shot",), splits=("seen",))
    whole = run_evaluation(setting).to_json()["demonstrations"]["seen"]
    task = setting.questions("seen")[0].task
    assert whole["examples_with_fewer"] == 0
    assert whole["mean_shown"] == min(setting.config.demonstrations, len(task.train))
    longest = max(setting.tokens(q.task).input_ids.shape[1] for q in setting.questions("seen"))
    setting.framing.max_length = longest  # what teachers may read is no limit on what controls are shown
    assert run_evaluation(setting).to_json()["demonstrations"]["seen"] == whole
    setting.roomy_framing.max_length = longest
    short = run_evaluation(setting).to_json()["demonstrations"]["seen"]
    assert (short["mean_shown"], short["examples_with_fewer"]) == (0, sum(len(q.task.test) for q in setting.questions("seen")))


def test_what_is_shown_before_an_example_is_read_with_every_option(zoo_folder, monkeypatch) -> None:
    setting = asked(zoo_folder, methods=("few_shot",), splits=("seen",))
    for name in ("say a", "say b"):
        task = setting.zoo.suite[name]
        setting.zoo.suite.tasks[name] = replace(task, metric="choice", train=(*task.train, Example("k", "c")))
    setting.framing.max_length = max(setting.tokens(q.task).input_ids.shape[1] for q in setting.questions("seen"))
    read = []

    def watched(functional, factors, batches, pad):
        read.extend(batch.input_ids.shape[1] for batch in batches)
        return score_each(functional, factors, batches, pad)

    monkeypatch.setattr(judging, "score_each", watched)
    run_evaluation(setting)
    assert read == [setting.demonstrated(setting.zoo.suite[name]).input_ids.shape[1] for name in ("say a", "say b")]


def test_what_counts_is_the_tasks_metric(zoo_folder) -> None:
    setting = asked(zoo_folder, methods=("base", "teacher", "generated"), splits=("seen", "unseen_combination"))
    for name, other in (("say e", "f"), ("say f", "e")):
        task = setting.zoo.suite[name]
        setting.zoo.suite.tasks[name] = replace(task, metric="choice", train=(*task.train, Example("k", other)))
    document = run_evaluation(setting).to_json()
    assert document["metrics"] == ["exact_match", "choice"]
    rows = {row["task"]: row for row in document["tasks"]}
    batches = {name: setting.tokens(setting.zoo.suite[name]) for name in ("say e", "say f")}
    for name, batch in batches.items():
        (alone,) = judge_answers(setting.functional, None, [batch], [setting.judge(setting.zoo.suite[name])])
        assert rows[name]["marks"]["base"] == alone.marks.tolist()
        assert rows[name]["score"]["base"] == alone.mean_mark
        assert rows[name]["metric"] == "choice"
    base, generated = (document["splits"]["unseen_combination"][method] for method in ("base", "generated"))
    assert base["score"] > base["exact_match"] == 0  # it finds one of both letters the likelier, and says neither
    assert generated["score"] == generated["exact_match"] == 1
    row = next(row for row in document["comparisons"] if row["split"] == "unseen_combination" and row["other"] == "base")
    assert row["difference"] == pytest.approx(1 - base["score"])
    assert "marks" not in rows["say a"]
    assert measure(document) == "score by each task's metric (exact match, right choices)"
