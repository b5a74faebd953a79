"""Rivals that read the request at every query: what the base is told, and one LoRA for all tasks."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_world import PerfectGenerator, build_evaluation_world

from llgbm import multitask
from llgbm.errors import InputError
from llgbm.evaluation.instructed import instructed_tokens
from llgbm.evaluation.methods import METHODS, choose_methods
from llgbm.evaluation.setting import EvaluationConfig, Setting, load_setting
from llgbm.evaluation.task_eval import evaluate
from llgbm.multitask import BATCH_SIZE, kept_adapter, kept_under, multitask_adapter, train_multitask
from llgbm.tracking.lock import hold
from llgbm.zoo.base import BaseOptions


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return build_evaluation_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def setting(zoo: Path) -> Setting:
    return load_setting(None, zoo, EvaluationConfig())


def texts(setting: Setting, batch) -> list[str]:
    return [setting.base.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def test_the_sentence_stands_once_before_the_first_of_what_is_read(setting: Setting) -> None:
    question = setting.questions("seen")[0]
    for demonstrated, blocks in ((False, 1), (True, 4)):
        for text in texts(setting, instructed_tokens(setting, question, demonstrated)):
            assert text.count(question.task.description) == 1
            assert text.index(question.task.description) < text.index("\n\n")
            assert text.count("### Response:") == blocks


def test_the_words_are_those_of_the_question(setting: Setting) -> None:
    question = setting.questions("unseen_wording")[0]
    assert question.task.unseen_paraphrases[0] in texts(setting, instructed_tokens(setting, question))[0]


def test_a_sentence_that_does_not_fit_is_refused(setting: Setting) -> None:
    question = setting.questions("seen")[0]
    long = replace(question, task=replace(question.task, description="too much " * 500))
    with pytest.raises(InputError, match=r"task say a: its sentence and an example are more than the \d+ tokens that are read; leave out"):
        instructed_tokens(setting, long)


def test_a_task_has_one_answer_for_each_example_whatever_is_read(zoo: Path, tmp_path: Path) -> None:
    methods = ("base", "instructed", "instructed_few_shot", "multitask_instructed", "multitask_blind")
    found = evaluate(None, zoo, EvaluationConfig(methods=methods, splits=("seen", "unseen_wording")), tmp_path)
    for of_split in found.scores.values():
        assert len({tuple(map(len, scores)) for scores in of_split.values()}) == 1
    kept = {path.name.rpartition("-")[0] for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {"multitask_instructed", "multitask_blind"}
    again = evaluate(None, zoo, EvaluationConfig(methods=methods[3:4], splits=("seen",)), tmp_path)
    assert again.per_task("seen", methods[3]) == found.per_task("seen", methods[3])


def test_one_that_was_taught_to_read_less_is_not_taken_for_it(zoo: Path, tmp_path: Path, monkeypatch) -> None:
    config = EvaluationConfig(methods=("multitask_blind",), splits=("seen",))
    for max_length in (48, 64, 64):
        framing = load_setting(None, zoo, EvaluationConfig()).roomy_framing
        framing.max_length = max_length
        monkeypatch.setattr(Setting, "roomy_framing", framing)
        evaluate(None, zoo, config, tmp_path)
        for scores in tmp_path.glob("scores-*.json"):
            scores.unlink()
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_one_of_a_base_in_another_precision_is_not_taken_for_it(zoo: Path, setting: Setting, tmp_path: Path) -> None:
    coarse, again = (load_setting(None, zoo, EvaluationConfig(base=BaseOptions(dtype=dtype))) for dtype in ("bfloat16", "float32"))
    folders = [kept_under(tmp_path, there, there.pool, instructed=True) for there in (setting, coarse, again)]
    assert folders[0] == folders[2] != folders[1]


def test_it_sees_as_many_examples_as_the_teachers_together_and_starts_where_they_do(setting: Setting, monkeypatch) -> None:
    given = {}

    def train_adapters(functional, lessons, lora, zoo, *others):
        given[lessons[0].name] = zoo
        return trained(functional, lessons, lora, replace(zoo, steps=2), *others)

    trained = multitask.train_adapters
    monkeypatch.setattr(multitask, "train_adapters", train_adapters)
    for instructed in (False, True):
        multitask_adapter(setting, setting.pool, instructed)
    seen = sum(teacher.steps for teacher in setting.pool) * setting.zoo.manifest["zoo"]["batch_size"]
    told = given["multitask_instructed"]
    assert seen - told.batch_size < told.steps * told.batch_size <= seen
    assert told.batch_size == BATCH_SIZE
    assert given["multitask_blind"].steps == setting.zoo.manifest["zoo"]["steps"]


def test_one_that_is_stopped_goes_on_from_its_last_check(setting: Setting, tmp_path: Path, monkeypatch) -> None:
    trained = multitask.train_adapters

    def train_adapters(functional, lessons, lora, zoo, *others):
        return trained(functional, lessons, lora, replace(zoo, steps=7, check_interval=2), *others)

    monkeypatch.setattr(multitask, "train_adapters", train_adapters)
    steps: list[int] = []
    last = [0]

    def stop(step: int, *_: float) -> None:
        steps.append(step)
        if step in last:
            raise KeyboardInterrupt

    whole, folder = train_multitask(setting, setting.pool, True), tmp_path / "adapter"
    for last[0] in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            train_multitask(setting, setting.pool, True, folder=folder, on_step=stop)
    assert steps == [1, 2, 3, 3, 4, 5, 6]
    with hold(tmp_path, ".adapter.lock"):  # another process trains it
        train_multitask(setting, setting.pool, True, folder=tmp_path / "adapter", on_step=lambda step, *_: steps.append(step))
    assert steps[7] == 1
    assert (tmp_path / "adapter-begun").exists()
    shutil.rmtree(folder)
    last.clear()
    ours = train_multitask(setting, setting.pool, True, folder=folder, on_step=stop)
    assert steps[14:] == [5, 6, 7]
    assert ours.content_hash() == whole.content_hash() == kept_adapter(setting, folder).content_hash()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_only_what_reads_the_sentence_is_asked_in_every_wording() -> None:
    assert all(METHODS[name].reads_condition for name in ("instructed", "instructed_few_shot", "multitask_instructed"))
    assert not METHODS["multitask_blind"].reads_condition


def test_a_base_is_told_sentences_unasked_only_where_it_chats(setting: Setting, monkeypatch) -> None:
    told = {name for name, method in METHODS.items() if method.instructs}
    assert told == {"instructed", "instructed_few_shot", "multitask_instructed"}
    assert {*choose_methods(setting)} & {*told, "multitask_blind"} == {"multitask_blind"}
    monkeypatch.setattr(setting.framing, "is_chat", True)
    assert {*choose_methods(setting)} & {*told, "multitask_blind"} == told
    asked = load_setting(None, setting.zoo.folder, EvaluationConfig(methods=("instructed",)))
    assert choose_methods(asked) == ["instructed"]


@pytest.mark.parametrize("method", ["instructed", "instructed_few_shot", "multitask_instructed", "foreign"])
def test_what_reads_sentences_is_not_asked_where_there_are_none(zoo: Path, monkeypatch, method: str) -> None:
    foreign = "os.path:join" if method == "foreign" else None
    setting = load_setting(None, zoo, EvaluationConfig(splits=("seen", "unseen_wording"), foreign=foreign))
    setting.generator = PerfectGenerator(setting.zoo, condition="prompts")
    monkeypatch.setattr(setting.framing, "is_chat", True)
    assert method in choose_methods(setting)
    tasks = {name: replace(task, unseen_paraphrases=()) for name, task in setting.zoo.suite.tasks.items()}
    monkeypatch.setitem(vars(setting.zoo), "suite", replace(setting.zoo.suite, tasks=tasks))
    assert [question.task.name for question in setting.questions("unseen_wording")] == ["say a", "say b", "say c"]
    assert method not in choose_methods(setting)
    setting.config = replace(setting.config, methods=(method,))
    with pytest.raises(InputError, match=f"method {method} reads sentences, and suite letters has tasks without unseen_paraphrases in"):
        choose_methods(setting)
    setting.config = replace(setting.config, splits=("seen",))
    assert choose_methods(setting) == [method]
