"""Nothing that is tested was trained on: which tasks, examples and words reach training, controls and caches.

`tests/mutants` breaks each of these rules on purpose and expects a test of this file to notice.
"""

import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from training_world import build_world, changed, retrain

from llgbm import multitask
from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch
from llgbm.errors import InputError
from llgbm.evaluation import answering, ridge
from llgbm.evaluation.composition_eval import CompositionEvaluator
from llgbm.evaluation.instructed import instructed_tokens
from llgbm.evaluation.methods import METHODS, choose_methods
from llgbm.evaluation.setting import EvaluationConfig, Setting, load_setting
from llgbm.evaluation.task_eval import evaluate, run_evaluation
from llgbm.functional_lora import FunctionalLoRA
from llgbm.judging import judge_answers
from llgbm.models.alignment import count_words
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.models.encoder import HashingEncoder
from llgbm.models.generator import LoRAGenerator
from llgbm.models.reading import NOWHERE, homes_of
from llgbm.training import setup as training_setup
from llgbm.training.behavior import train_generator
from llgbm.training.fingerprint import teacher_deltas, train_predictor
from llgbm.training.setup import Setup, new_generator, prepare
from llgbm.zoo.micro.pretraining import PretrainConfig, batches, document
from llgbm.zoo.micro.tokenizer import build_tokenizer
from llgbm.zoo.micro.world import is_test_payload, micro_suite, micro_tasks
from llgbm.zoo.suite import Task, TaskSuite
from llgbm.zoo.trainer import Lesson, make_lesson


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    return build_world(tmp_path_factory.mktemp("world"), n_unseen=3)


@pytest.fixture(scope="module")
def setup(config: ExperimentConfig) -> Setup:
    return prepare(config, "cpu")


def setting_of(config: ExperimentConfig, generator: LoRAGenerator | None = None, **choices) -> Setting:
    setting = load_setting(None, config.checkpoint_folder, EvaluationConfig(**choices))
    setting.generator = generator
    return setting


@pytest.fixture(scope="module")
def asked(config: ExperimentConfig, setup: Setup) -> Setting:
    return setting_of(config, new_generator(config, setup))


def inputs_of(batch: TokenBatch, suite: TaskSuite, tokenizer) -> list[list[str]]:
    """What stands in the frames of each row."""
    before, after = suite.frame.split("{input}")
    texts = [tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    return [[part.split(after)[0] for part in text.split(before)[1:]] for text in texts]


def flat(rows: list[list[str]]) -> set[str]:
    return {text for row in rows for text in row}


def of_tasks(tasks: list[Task], side: str) -> set[str]:
    return {example.input for task in tasks for example in getattr(task, side)}


def names_of(config: ExperimentConfig, *splits: str) -> set[str]:
    zoo = setting_of(config).zoo
    return {task.name for task in zoo.suite if task.split in splits}


def test_training_and_validation_are_on_seen_tasks_and_share_none(config: ExperimentConfig, setup: Setup) -> None:
    train, held = set(setup.train.task_names), set(setup.validation.task_names)
    assert names_of(config, "unseen_combination", "mixture")  # which could have been taken
    assert train | held == names_of(config, "seen")
    assert train
    assert held
    assert not train & held
    assert all(teacher.split == "seen" for teacher in (*setup.train.teachers, *setup.validation.teachers))


def test_a_generator_says_what_it_was_trained_and_judged_on(config: ExperimentConfig, setup: Setup) -> None:
    spec = new_generator(config, setup).spec
    assert set(spec.trained_on) == set(setup.train.task_names)
    assert set(spec.validated_on) == set(setup.validation.task_names)


def test_training_and_validation_read_train_examples_of_their_own_tasks(setup: Setup) -> None:
    for teachers in (setup.train, setup.validation):
        shown = inputs_of(teachers.examples, setup.zoo.suite, setup.base.tokenizer)
        for k, task in enumerate(teachers.tasks):
            own = flat(shown[k * teachers.per_teacher : (k + 1) * teachers.per_teacher])
            assert own
            assert own <= of_tasks([task], "train")
            assert not own & of_tasks(list(setup.zoo.suite), "test")


def test_scales_are_those_of_the_teachers_trained_on(config: ExperimentConfig, setup: Setup) -> None:
    generator, expected = new_generator(config, setup), new_generator(config, setup)
    expected.fit_scale(setup.zoo.factors(setup.train.teachers))
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in generator.state_dict().items() if "rms_" in name)
    every = new_generator(config, setup)
    every.fit_scale(setup.zoo.factors(setup.zoo.teachers))
    changed = [
        name for name, value in every.state_dict().items() if "rms_" in name and not torch.equal(value, generator.state_dict()[name])
    ]
    assert changed  # all teachers together would have had others


class Recorder(HashingEncoder):
    """Keeps what it was asked to encode."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: set[str] = set()

    def encode(self, texts):
        self.texts |= set(texts)
        return super().encode(texts)


@pytest.mark.parametrize("condition", ["description", "prompts", "both"])
def test_no_text_of_an_unseen_wording_or_task_is_read_in_training(
    config: ExperimentConfig, tmp_path: Path, monkeypatch, condition: str
) -> None:
    encoder = Recorder()
    monkeypatch.setattr(training_setup, "build_encoder", lambda *_: encoder)
    setup = prepare(changed(config, generator__condition=condition, output_dir=str(tmp_path)), "cpu")
    seen = [setup.zoo.suite[name] for name in names_of(config, "seen")]
    allowed = {text for task in seen for text in (task.description, *task.paraphrases, *task.prompts)}
    forbidden = {text for task in setup.zoo.suite for text in (*task.unseen_paraphrases, *task.unseen_prompts)}
    assert forbidden
    assert encoder.texts
    assert encoder.texts <= allowed
    assert not encoder.texts & forbidden


def test_the_predictor_knows_the_fingerprints_of_the_tasks_it_trained_on_alone(config: ExperimentConfig, tmp_path: Path) -> None:
    own = changed(config, output_dir=str(tmp_path), delta_cache_dir=str(tmp_path / "deltas"), training__total_steps=2)
    result = train_predictor(own)
    setting = load_setting(None, config.checkpoint_folder, EvaluationConfig(predictor=str(result.folder)))
    predictor = setting.predictor
    assert predictor is not None
    trained = set(predictor.spec.trained_on)
    assert trained | set(predictor.spec.validated_on) == names_of(config, "seen")
    teachers = [teacher for teacher in setting.teachers.values() if teacher.task in trained]
    deltas = teacher_deltas(predictor.engine(setting.base), setting.zoo, teachers, tmp_path / "deltas")
    torch.testing.assert_close(predictor.mean, deltas.mean(0))
    assert {teacher.task for teacher in setting.pool} == trained


def test_a_run_is_not_resumed_with_another_zoo(config: ExperimentConfig, tmp_path: Path) -> None:
    shutil.copytree(Path(config.checkpoint_folder).parent / "zoo", tmp_path / "zoo")
    shutil.copytree(Path(config.checkpoint_folder).parent / "base", tmp_path / "base")
    own = changed(config, checkpoint_folder=str(tmp_path / "zoo"), output_dir=str(tmp_path / "outputs"), training__total_steps=2)
    train_generator(own)
    shutil.rmtree(tmp_path / "outputs" / "run" / "generator")
    retrain(tmp_path, next(iter(names_of(config, "seen"))))
    with pytest.raises(InputError, match="was trained with another zoo"):
        train_generator(own, begin="go_on")


def test_the_pool_is_the_seen_teachers_the_generator_trained_on(config: ExperimentConfig, asked: Setting) -> None:
    assert {teacher.task for teacher in setting_of(config).pool} == names_of(config, "seen")
    assert {teacher.task for teacher in asked.pool} == set(asked.generator.spec.trained_on) < names_of(config, "seen")


@pytest.mark.parametrize(
    "method", ["nearest", "merged_topk", "mean_adapter", "ridge", "ridge_attributes", "ridge_aligned", "ridge_true_attributes"]
)
def test_retrieval_never_answers_with_what_an_unseen_teacher_knows(config: ExperimentConfig, tmp_path: Path, method: str) -> None:
    """Zeroing every unseen teacher changes nothing."""
    shutil.copytree(Path(config.checkpoint_folder).parent, tmp_path / "world")
    unseen = sorted(names_of(config, "unseen_combination", "mixture"))
    for task in unseen:
        retrain(tmp_path / "world", task)
    answers = []
    for folder in (config.checkpoint_folder, tmp_path / "world" / "zoo"):
        setting = load_setting(None, folder, EvaluationConfig())
        factors = METHODS[method].attempt(setting, setting.questions("unseen_combination")).factors
        assert factors is not None
        answers.append(factors)
    assert all(torch.equal(a, answers[1].a[name]) for name, a in answers[0].a.items())
    assert all(torch.equal(b, answers[1].b[name]) for name, b in answers[0].b.items())


def test_the_alignment_of_a_control_knows_the_pools_words_alone(asked: Setting) -> None:
    METHODS["ridge_aligned"].attempt(asked, asked.questions("unseen_combination"))
    texts = [asked.encoder.encode(group) for group in asked.pool_texts]
    alignment = asked.kept["attribute_reader"].alignment
    assert len(alignment.known) == count_words(texts, asked.encoder.dim) > 0
    words = torch.nn.functional.normalize(torch.cat([text for group in texts for text in group]), dim=1)
    assert (alignment.known @ words.T).max(1).values.min().item() > 0.999


def test_the_alignment_of_a_control_reads_words_alone(config: ExperimentConfig, setup: Setup) -> None:
    """An encoder of sentence models has theirs beside; looking at every token for them takes minutes."""

    class BesideSentences(HashingEncoder):
        words = HashingEncoder()

        def encode(self, texts: Sequence[str]) -> list[Float[Tensor, "_ E"]]:
            raise AssertionError("read whole")

    asked = setting_of(config, new_generator(config, setup))
    questions = asked.questions("unseen_combination")
    known = METHODS["ridge_aligned"].attempt(asked, questions).factors
    beside = setting_of(config, asked.generator)
    beside.encoder = BesideSentences()
    found = METHODS["ridge_aligned"].attempt(beside, questions).factors
    assert known is not None
    assert found is not None
    assert all(torch.equal(a, found.a[name]) for name, a in known.a.items())


def test_a_generator_that_aligns_knows_the_words_of_its_training_tasks_alone(config: ExperimentConfig) -> None:
    aligning = changed(config, generator__attributes=True, generator__alignment=True, objective__attributes=1.0)
    setup = prepare(aligning, "cpu")
    generator = new_generator(aligning, setup)
    assert isinstance(generator, AttributeGenerator)
    assert generator.alignment is not None
    assert setup.validation is not None
    texts = [[task.description, *task.paraphrases] for task in setup.train.tasks]
    words = {word for group in texts for text in group for word in re.findall(r"\w+", text.lower())}
    held = {word for task in setup.validation.tasks for word in re.findall(r"\w+", task.description.lower())} - words
    rows = torch.cat([row for group in texts for row in setup.encoder.encode(group)])
    assert (generator.alignment.known @ torch.nn.functional.normalize(rows, dim=1).T).max(1).values.min().item() > 0.999
    for word in held:
        assert (generator.alignment.known @ torch.nn.functional.normalize(setup.encoder.encode([word])[0][0], dim=0)).max().item() < 0.9
    without = new_generator(changed(aligning, generator__alignment=False), setup)
    assert isinstance(without, AttributeGenerator)
    assert without.alignment is None


def test_domains_are_those_of_training_tasks_and_of_the_pool(config: ExperimentConfig, asked: Setting, monkeypatch) -> None:
    """What tells domains apart: an unseen task may have a level in another one."""
    seen: list[tuple[list[dict[str, str]], list[str]]] = []

    def watched(attributes, domains, levels):
        seen.append((attributes, domains))
        return homes_of(attributes, domains, levels)

    monkeypatch.setattr(training_setup, "homes_of", watched)
    monkeypatch.setattr(ridge, "homes_of", watched)
    by_attributes = changed(config, generator__attributes=True, objective__attributes=1.0)
    setup = prepare(by_attributes, "cpu")
    new_generator(by_attributes, setup)
    ridge.AttributeReader(asked)
    for known, tasks in zip(seen, (setup.train.tasks, [asked.zoo.suite[teacher.task] for teacher in asked.pool]), strict=True):
        assert known == ([task.attributes for task in tasks], [task.domain for task in tasks])


def test_a_control_reads_levels_of_one_domain(asked: Setting) -> None:
    """Were the level it reads of one attribute in another domain than the one it reads of the next, one of them would yield."""
    reader = ridge.AttributeReader(asked)
    texts = asked.pool_texts[0][:1]
    read = reader.read(texts, aligned=False)
    one, other = [name for name, levels in reader.levels.items() if len(levels) > 1][:2]
    homes = {(one, level): int(level != read[one]) for level in reader.levels[one]}
    homes |= {(other, level): int(level == read[other]) for level in reader.levels[other]}
    reader.homes = [homes.get((name, level), NOWHERE) for name, levels in reader.levels.items() for level in levels]
    again = reader.read(texts, aligned=False)
    assert homes[one, read[one]] != homes[other, read[other]]
    assert homes[one, again[one]] == homes[other, again[other]]


@pytest.mark.parametrize("known", [0, 8])
def test_a_control_that_aligns_stands_beside_a_generator_that_does(config: ExperimentConfig, setup: Setup, known: int) -> None:
    generator = new_generator(config, setup)
    generator.spec = replace(generator.spec, known_words=known)
    chosen = choose_methods(setting_of(config, generator))
    assert {"ridge_attributes", "ridge_true_attributes"} < set(chosen)
    assert ("ridge_aligned" in chosen) == (known > 0)


@pytest.mark.parametrize("name", ["ridge", "attribute_writer"])
def test_ridges_know_and_are_chosen_on_tasks_of_the_pool_alone(config: ExperimentConfig, asked: Setting, name: str) -> None:
    METHODS["ridge"].attempt(asked, asked.questions("unseen_combination"))
    METHODS["ridge_attributes"].attempt(asked, asked.questions("unseen_combination"))
    trained = set(asked.generator.spec.trained_on)
    assert set(asked.kept[name].fitted_on) == trained
    assert set(asked.kept[name].chosen_on) <= trained
    assert set(asked.kept["attribute_reader"].chosen_on) == trained


def test_ridges_are_judged_on_train_examples(asked: Setting, monkeypatch) -> None:
    suite, shown = asked.zoo.suite, set()

    def recording(functional, factors, batches, framing):
        for batch in batches:
            shown.update(flat(inputs_of(batch, suite, asked.base.tokenizer)))
        return judge_answers(functional, factors, batches, framing)

    monkeypatch.setattr("llgbm.evaluation.ridge.judge_answers", recording)
    asked.kept.pop("ridge", None)
    METHODS["ridge"].attempt(asked, asked.questions("unseen_combination"))
    assert shown
    assert shown <= of_tasks([suite[teacher.task] for teacher in asked.pool], "train")


def test_demonstrations_are_train_examples_other_than_the_query(asked: Setting) -> None:
    suite = asked.zoo.suite
    for task in suite:
        rows = inputs_of(asked.demonstrated(task), suite, asked.base.tokenizer)
        assert [row[-1] for row in rows] == [example.input for example in task.test]
        assert all(len(row) == 4 for row in rows)
        shown = flat([row[:-1] for row in rows])
        assert shown <= of_tasks([task], "train")
        assert not shown & of_tasks([task], "test")


def test_questions_are_test_examples_without_demonstrations(asked: Setting) -> None:
    for task in asked.zoo.suite:
        assert inputs_of(asked.tokens(task), asked.zoo.suite, asked.base.tokenizer) == [[example.input] for example in task.test]


class Taught(Exception):
    """Ends a method where it would train."""


def taught(asked: Setting, method: str, monkeypatch: pytest.MonkeyPatch) -> Lesson:
    """What a method's multi-task LoRA would be trained on."""

    def stop(functional: FunctionalLoRA, lessons: list[Lesson], *_: object) -> None:
        raise Taught(lessons[0])

    monkeypatch.setattr(multitask, "train_adapters", stop)
    with pytest.raises(Taught) as caught:
        METHODS[method].attempt(asked, asked.questions("unseen_combination"))
    return caught.value.args[0]


def test_the_blind_multitask_lora_learns_from_train_examples_of_the_pool(asked: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson, suite = taught(asked, "multitask_blind", monkeypatch), asked.zoo.suite
    pool = [suite[teacher.task] for teacher in asked.pool]
    for batch in (lesson.train, lesson.validation):
        shown = flat(inputs_of(batch, suite, asked.base.tokenizer))
        assert shown <= of_tasks(pool, "train")
        assert not shown & of_tasks(list(suite), "test")


def test_the_instructed_multitask_lora_learns_from_train_examples_of_the_pool_in_seen_words(
    asked: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson, suite = taught(asked, "multitask_instructed", monkeypatch), asked.zoo.suite
    pool = [suite[teacher.task] for teacher in asked.pool]
    seen = {f"{words}\n\n{example.input}" for task in pool for words in (task.description, *task.paraphrases) for example in task.train}
    for batch in (lesson.train, lesson.validation):
        assert set(flat(inputs_of(batch, suite, asked.base.tokenizer))) <= seen
    told = {text.split("\n\n")[0] for text in flat(inputs_of(lesson.train, suite, asked.base.tokenizer))}
    assert len(told) == sum(min(len(task.train), 1 + len(task.paraphrases)) for task in pool)


@pytest.mark.parametrize("split", ["seen", "unseen_combination", "unseen_wording"])
def test_an_instructed_query_is_the_splits_sentence_and_a_test_example(asked: Setting, split: str) -> None:
    for question in asked.questions(split):
        sentence, suite = question.condition("description", 0)[0], asked.zoo.suite
        read = inputs_of(instructed_tokens(asked, question), suite, asked.base.tokenizer)
        assert read == [[f"{sentence}\n\n{example.input}"] for example in question.task.test]
        read = inputs_of(instructed_tokens(asked, question, demonstrated=True), suite, asked.base.tokenizer)
        assert [row[-1] for row in read] == [example.input for example in question.task.test]
        assert all(row[0].startswith(f"{sentence}\n\n") for row in read)
        assert {row[0].removeprefix(f"{sentence}\n\n") for row in read} <= of_tasks([question.task], "train")


def test_composition_searches_weights_on_train_examples(asked: Setting) -> None:
    teachers = {teacher.path: teacher for teacher in asked.zoo.teachers}
    evaluator = CompositionEvaluator(asked, teachers)
    for name in teachers:
        shown = flat(inputs_of(evaluator._shown(name, 0), asked.zoo.suite, asked.base.tokenizer))
        assert shown <= of_tasks([evaluator.task(name)], "train")


def test_the_shuffled_condition_asks_for_other_tasks(asked: Setting, monkeypatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(asked.generator, "generate", lambda prompts, descriptions, base: read.extend(descriptions) or asked.pool_factors)
    for split in ("seen", "unseen_combination"):
        read.clear()
        questions = asked.questions(split)
        METHODS["shuffled_condition"].attempt(asked, questions)
        assert len(read) == len(questions) > 1
        assert all(text != question.task.description for text, question in zip(read, questions, strict=True))


def test_unseen_wordings_are_asked_in_words_no_training_used(config: ExperimentConfig, asked: Setting, monkeypatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(asked.generator, "generate", lambda prompts, descriptions, base: read.extend(descriptions) or asked.pool_factors)
    questions = asked.questions("unseen_wording")
    METHODS["generated"].attempt(asked, questions)
    used = {text for task in asked.zoo.suite for text in (task.description, *task.paraphrases)}
    assert read
    assert not set(read) & used
    assert {question.task.name for question in questions} == set(asked.generator.spec.trained_on)


def nll(evaluation, method: str) -> dict[str, list[float]]:
    return {split: [score.nll for score in scores[method]] for split, scores in evaluation.scores.items()}


def test_kept_scores_of_another_zoo_are_not_used(config: ExperimentConfig, tmp_path: Path) -> None:
    shutil.copytree(Path(config.checkpoint_folder).parent, tmp_path / "world")
    zoo, chosen = tmp_path / "world" / "zoo", EvaluationConfig(methods=("teacher", "mean_adapter"), splits=("seen",))
    before = evaluate(None, zoo, chosen, tmp_path / "cache")
    retrain(tmp_path / "world", before.questions["seen"][0].task.name)
    kept, fresh = evaluate(None, zoo, chosen, tmp_path / "cache"), evaluate(None, zoo, chosen)
    for method in chosen.methods:
        assert nll(kept, method) == nll(fresh, method) != nll(before, method)


def test_kept_scores_of_another_pool_are_not_used(config: ExperimentConfig, setup: Setup, tmp_path: Path) -> None:
    seen, found = sorted(names_of(config, "seen")), []
    for trained_on, cache in ((seen[:3], tmp_path), (seen[3:], tmp_path), (seen[3:], None)):
        generator = new_generator(config, setup)
        generator.spec.trained_on = trained_on
        setting = setting_of(config, generator, methods=("mean_adapter",), splits=("unseen_combination",))
        setting.cache_dir = cache
        found.append(nll(run_evaluation(setting), "mean_adapter"))
    assert found[1] == found[2] != found[0]


def test_a_generators_scores_are_kept_and_are_those_of_its_weights_and_spec(
    config: ExperimentConfig, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted evaluation scored is not scored again; nothing of another generator is taken for its own."""
    scored, score = [], answering._score
    monkeypatch.setattr(answering, "_score", lambda *given: scored.append(given[0]) or score(*given))

    def found(change: float = 0.0, alpha: float = 1.0, cache: Path | None = tmp_path) -> dict[str, list[float]]:
        torch.manual_seed(0)
        generator = new_generator(config, setup)
        generator.spec = replace(generator.spec, alpha=alpha * generator.spec.alpha)
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter += change
        setting = setting_of(config, generator, methods=("generated",), splits=("seen",))
        setting.cache_dir = cache
        return nll(run_evaluation(setting), "generated")

    first = found(0.01)
    assert found(0.01) == first
    assert scored == ["generated"]
    assert found(0.02) == found(0.02, cache=None) != first
    assert found(0.01, alpha=3.0) == found(0.01, alpha=3.0, cache=None) != first


def test_scores_of_other_code_are_not_used(config: ExperimentConfig, asked: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = asked.questions("seen")
    before = {method: answering._key(method, questions, asked) for method in ("generated", "ridge")}
    monkeypatch.setattr(answering, "_code_of_networks", lambda: ["other"])
    assert answering._key("generated", questions, asked) != before["generated"]
    assert answering._key("ridge", questions, asked) == before["ridge"]  # code of controls is told apart by CACHE_FORMAT


def test_a_teachers_lesson_is_of_train_examples_and_keeps_its_validation_apart(setup: Setup) -> None:
    suite, tokenizer = setup.zoo.suite, setup.base.tokenizer
    for task in suite:
        lesson = make_lesson(setup.zoo.framing(setup.base), task, 0)
        train, held = (flat(inputs_of(batch, suite, tokenizer)) for batch in (lesson.train, lesson.validation))
        assert held
        assert train | held == of_tasks([task], "train")
        assert not train & held


def test_pretraining_shows_train_payloads_only() -> None:
    tokenizer, rng = build_tokenizer(), random.Random(0)
    frame = TaskSuite("", {}).frame
    for task in micro_tasks()[::20]:
        ids, _ = document(task, rng, tokenizer, 30)
        shown = [part.split(frame.split("{input}")[1])[0] for part in tokenizer.decode(ids).split(frame.split("{input}")[0])[1:]]
        assert len(shown) == 30
        assert not any(map(is_test_payload, shown))
    assert next(batches(PretrainConfig(documents_per_step=2), tokenizer))[0].shape[0] == 2


def test_no_payload_is_on_both_sides() -> None:
    suite = micro_suite(n_train=12, n_test=4)
    assert not of_tasks(list(suite), "train") & of_tasks(list(suite), "test")
    prompts = " ".join(text for task in suite for text in (*task.prompts, *task.unseen_prompts))
    letters = {example.input for task in suite if task.domain == "code" for example in task.test}
    assert not any(payload in prompts for payload in letters)


def test_unseen_combinations_are_no_seen_tasks() -> None:
    values: dict[tuple, set[str]] = {}
    for task in micro_suite(n_train=12, n_test=4):
        values.setdefault(tuple(task.attributes.values()), set()).add(task.split)
    assert all(len(splits) == 1 for attributes, splits in values.items() if attributes)
    assert sum(splits == {"unseen_combination"} for splits in values.values()) == 45
