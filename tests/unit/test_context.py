"""Tasks without teachers: a LoRA that reads requests answers them, and generated adapters learn to answer as it does."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tolerance import assert_near, relative
from training_world import build_world, changed

from llgbm.config import ExperimentConfig
from llgbm.delta.behavior import Predictions
from llgbm.errors import InputError
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.evaluation.task_eval import evaluate
from llgbm.files import read_json, write_json
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import Evidence, context_loss
from llgbm.training import context as module
from llgbm.training.behavior import BehaviorProblem, train_generator
from llgbm.training.context import Context, further_tasks
from llgbm.training.setup import split_teachers
from llgbm.training.step import adapters_at_once
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suite import Example, TaskSuite
from llgbm.zoo.suites import load_suite

ASKED = {"objective__context": 1.0, "objective__agreement": 1.0}
ATTRIBUTES = {"generator__attributes": True, "objective__attributes": 1.0}


def with_further(folder: Path, n_tasks: int = 6, **settings) -> ExperimentConfig:
    """A world, and a suite of the next seen tasks, which it lacks."""
    config = build_world(folder, n_tasks=n_tasks, n_unseen=2)
    whole = micro_suite(n_train=12, n_test=4)
    whole.select(list(whole.select(split="seen").tasks)[n_tasks : n_tasks + 6]).save(folder / "further")
    manifest = read_json(folder / "zoo" / "manifest.json")
    teachers = [{**row, "steps": 16} for row in manifest["teachers"]]  # so the guide has 20 steps
    write_json(folder / "zoo" / "manifest.json", {**manifest, "teachers": teachers})
    return changed(config, training__further_tasks=str(folder / "further"), **(ASKED | settings))


def problem_of(config: ExperimentConfig) -> BehaviorProblem:
    weights = {name: float(value) for name, value in vars(config.objective).items() if value}
    made = BehaviorProblem(config, weights, torch.device("cpu"))
    made.ready(lambda now: None)
    return made


def context_of(problem: BehaviorProblem) -> Context:
    assert problem.context is not None
    return problem.context


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    return with_further(tmp_path)


def test_the_term_is_the_kl_to_the_guide_and_counts_each_adapters_tokens_alike():
    own, theirs = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    factors = LoRAFactors.initialize({"q": (2, 2)}, 1, 1.0, 2, torch.Generator().manual_seed(0))
    evidence = Evidence(factors, guided=own, guidance=Predictions(theirs), guided_by=torch.tensor([0, 1, 1]), scale={"context": 2.0})
    by_token = (theirs.exp() * (theirs - own)).sum(-1)
    assert_near(context_loss(evidence), (by_token[0] + by_token[1:].mean()) / 4, length=16, depth=2)
    with pytest.raises(InputError, match="objective context has nothing to compare: no predictions of a guide were given"):
        context_loss(Evidence(factors))


def test_the_guide_reads_the_request_and_the_adapter_the_input_alone(config, monkeypatch):
    problem = problem_of(config)
    context, part, read = context_of(problem), problem.plan(0), []
    answered = module.answered

    def kept(pairs, pad):
        made = list(pairs)
        read.append(made)
        return answered(made, pad)

    monkeypatch.setattr(module, "answered", kept)
    context.fill(Evidence(problem.setup.train.factors.select(range(len(part)))), part)
    words = {text for task in context.tasks for text in (task.description, *task.paraphrases)}
    inputs = {example.input for task in context.tasks for example in task.train}
    tokenizer = problem.setup.base.tokenizer
    for (told, answer), (alone, same) in zip(*read, strict=True):
        whole, input_alone = tokenizer.decode(told), tokenizer.decode(alone)
        assert any(text in whole for text in words)
        assert not any(text in input_alone for text in words)
        assert any(text in whole and text in input_alone for text in inputs)
        assert answer == same


def test_the_guide_learns_from_training_tasks_alone_and_is_kept_for_evaluation(config, monkeypatch):
    taught, train = [], module.train_multitask

    def kept(there, teachers, **more):
        taught.append([teacher.task for teacher in teachers])
        return train(there, teachers, **more)

    monkeypatch.setattr(module, "train_multitask", kept)
    train_generator(config)
    chosen, held_back = split_teachers(TeacherZoo.load(config.checkpoint_folder), config)
    assert held_back
    assert taught == [[teacher.task for teacher in chosen]]
    guides = list((Path(config.output_dir) / "cache").glob("multitask_instructed-*"))
    assert len(guides) == 1
    asked = EvaluationConfig(methods=("multitask_instructed",), splits=("unseen_combination",))
    evaluate(config.run_folder, config.checkpoint_folder, asked, Path(config.output_dir) / "cache")
    assert list((Path(config.output_dir) / "cache").glob("multitask_instructed-*")) == guides


def test_answers_that_a_suite_gives_are_not_looked_at(tmp_path):
    found = []
    for output in (None, "zzz"):
        config = with_further(tmp_path / str(output), objective__kl=0.0, objective__product=0.0)
        folder = tmp_path / str(output) / "further"
        if output:
            suite = load_suite(folder)
            wrong = {t.name: replace(t, train=tuple(Example(e.input, output) for e in t.train)) for t in suite}
            TaskSuite(suite.name, wrong, suite.frame).save(folder)
        train_generator(config)
        found.append([json.loads(line)["loss"] for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()])
    assert found[0] == found[1]


@pytest.mark.parametrize(("n_tasks", "settings"), [(6, {}), (14, ATTRIBUTES)], ids=["conditions", "attributes"])
def test_training_brings_adapters_near_to_the_guide(tmp_path, n_tasks, settings):
    config = with_further(tmp_path, n_tasks, objective__kl=0.0, objective__product=0.0, training__total_steps=40, **settings)
    problem = problem_of(config)
    context, part = context_of(problem), problem.plan(0)
    optimizer = torch.optim.AdamW(problem.network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        evidence = Evidence(problem.setup.train.factors.select(range(len(part))))
        context.fill(evidence, part)
        loss = context_loss(evidence)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_the_zero_adapter_is_one_away_from_the_guide_on_average(config):
    problem = problem_of(config)
    context, losses = context_of(problem), []
    for step in range(8):
        part = problem.plan(step)
        evidence = Evidence(problem.setup.train.factors.select(range(len(part))).map(torch.zeros_like))
        context.write = lambda tasks, seeds, zero=evidence.generated: zero
        context.fill(evidence, part)
        losses.append(context_loss(evidence).item())
    assert sum(losses) / len(losses) == pytest.approx(1, rel=0.5)


def test_a_step_cut_into_parts_has_the_same_loss(config):
    problem = problem_of(config)
    context, part = context_of(problem), problem.plan(0)

    def loss(start: int, stop: int) -> torch.Tensor:
        some = part.part(start, stop)
        evidence = Evidence(problem.setup.train.factors.select(range(len(some))))
        context.fill(evidence, some)
        return context_loss(evidence).detach() * len(some)

    whole, cut = loss(0, 4), loss(0, 1) + loss(1, 4)
    assert float(whole) == pytest.approx(float(cut), rel=relative(length=128, depth=8))


def test_it_is_logged_by_its_name(config):
    train_generator(config)
    rows = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert all("loss/context" in row for row in rows if "loss" in row)


def test_of_a_task_with_several_teachers_the_guide_learns_once(config):
    zoo = Path(config.checkpoint_folder)
    manifest = read_json(zoo / "manifest.json")
    again = []
    for row in manifest["teachers"]:
        shutil.copytree(zoo / row["path"], zoo / row["path"].replace("seed0", "seed1"))
        again.append({**row, "path": row["path"].replace("seed0", "seed1"), "seed": 1})
    one = context_of(problem_of(config)).guide
    write_json(zoo / "manifest.json", {**manifest, "teachers": [*manifest["teachers"], *again]})
    both = context_of(problem_of(config)).guide
    assert all(tensor.equal(other) for tensor, other in zip(one.tensors(), both.tensors(), strict=True))
    assert len(list((Path(config.output_dir) / "cache").glob("multitask_instructed-*"))) == 1


def test_a_step_that_runs_further_tasks_alone_through_the_base_is_divided_by_what_they_take(config, monkeypatch):
    alone, sizes = changed(config, objective__kl=0.0, objective__agreement=0.0), []
    for one in (alone, changed(alone, objective__context=0.0)):
        problem = problem_of(one)
        memory = problem.setup.functional.memory
        monkeypatch.setattr(memory, "at_once", lambda kind, each, *rest: sizes.append(each) or 1)
        adapters_at_once(one.training, problem.setup.train, problem.targets, problem.network)
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"training__further_tasks": None},
            "objective.context has a weight, but training.further_tasks names no suite; name one, or weigh",
        ),
        ({"training__further_tasks": "words"}, "training.further_tasks words: frames examples otherwise than suite micro"),
    ],
)
def test_suites_that_do_not_fit_are_refused(config, change, message):
    with pytest.raises(InputError, match=message):
        problem_of(changed(config, **change))


def test_a_task_that_asks_for_what_is_tested_is_refused_by_another_name_too(config, tmp_path):
    known = TeacherZoo.load(config.checkpoint_folder).suite
    tested = next(task for task in known if task.split == "unseen_combination")
    TaskSuite("own", {"other": replace(tested, name="other", split="seen")}).save(tmp_path / "own")
    with pytest.raises(InputError, match=rf"task other asks for what {tested.name} of split unseen_combination tests; leave it out"):
        further_tasks(str(tmp_path / "own"), known)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda tested: {"attributes": {**tested.attributes, "style": "rot13"}}, "has style rot13, which only tests have"),
        (lambda tested: {"attributes": {}, "paraphrases": ()}, "says .*, as a test does"),
        (
            lambda tested: {"attributes": {}, "description": "x", "paraphrases": (), "prompts": tested.prompts[-1:]},
            "says .*, as a test does",
        ),
        (lambda tested: {"attributes": {}, "description": "x", "paraphrases": tested.unseen_paraphrases}, "says .*, as a test does"),
        (
            lambda tested: {"attributes": {}, "description": "x", "paraphrases": (), "prompts": tested.unseen_prompts},
            "says .*, as a test does",
        ),
    ],
    ids=["level", "description", "prompt", "unseen wording", "unseen prompt"],
)
def test_a_task_that_has_what_only_tests_have_is_refused(config, tmp_path, change, fault):
    known = TeacherZoo.load(config.checkpoint_folder).suite
    tested = next(task for task in known if task.split == "unseen_combination")
    odd = replace(tested, name="odd", attributes={**tested.attributes, "style": "rot13", "wrapper": "stars"})
    TaskSuite("own", {"other": replace(tested, name="other", split="seen", **change(tested))}).save(tmp_path / "own")
    with pytest.raises(InputError, match=f"task other {fault}; leave it out"):
        further_tasks(str(tmp_path / "own"), replace(known, tasks={**known.tasks, "odd": odd}))


def test_a_task_that_is_known_by_another_name_is_left_out(config, tmp_path):
    known = TeacherZoo.load(config.checkpoint_folder).suite
    seen = next(task for task in known if task.split == "seen")
    new = next(task for task in micro_suite().select(split="seen") if task.name not in known.tasks)
    TaskSuite("own", {"twin": replace(seen, name="twin"), new.name: new}).save(tmp_path / "own")
    assert [task.name for task in further_tasks(str(tmp_path / "own"), known)] == [new.name]


def test_each_adapter_is_written_for_its_own_task_in_changing_words(config):
    problem = problem_of(config)
    context, part, drawn = context_of(problem), problem.plan(0), []
    write = context.write

    def kept(tasks, seeds):
        drawn.append([*tasks])
        return write(tasks, seeds)

    context.write = kept
    for step in range(30):
        part = problem.plan(step)
        context.fill(Evidence(problem.setup.train.factors.select(range(len(part)))), part)
        requests = [context.request(random.Random(f"{seed}/further")) for seed in part.condition_seeds]
        assert drawn[-1] == [one.task for one in requests]
    names = [context.tasks[k].name for k in range(len(context.tasks))]
    assert context.conditions is not None
    seeds = [seed for step in range(30) for seed in problem.plan(step).condition_seeds]
    of = {name: set() for name in names}
    for seed in seeds:
        k = context.request(random.Random(f"{seed}/further")).task
        embeddings, mask = context.conditions.draw([names[k]], [f"{seed}/further/condition"])
        of[names[k]].add(embeddings[mask].sum().item())
    assert min(map(len, of.values())) > 5


def test_the_network_learns_from_further_tasks_however_far_validation_trusts_it(tmp_path):
    problem = problem_of(with_further(tmp_path, generator__ridge=3))
    context, network, written = context_of(problem), problem.network, []
    assert network.spec.ridge == 3
    for head in network.heads:
        torch.nn.init.normal_(head.write_b.weight)
    for trust in (1.0, 0.5, 0.0):
        network.trust.fill_(trust)
        written.append(context.write([0, 1], ["a", "b"]))
        network.zero_grad()
        sum(b.square().sum() for b in written[-1].b.values()).backward()
        assert all(head.write_b.weight.grad.any() for head in network.heads)
    assert all(torch.equal(one.b[name], written[0].b[name]) for one in written for name in one.b)


def test_a_generator_of_attributes_is_asked_for_levels_it_knows(tmp_path):
    config = with_further(tmp_path, n_tasks=14, **ATTRIBUTES)
    suite = load_suite(tmp_path / "further")
    first, *others = suite
    odd = [replace(first, name="odd", attributes={**first.attributes, "style": "rot13"}), replace(first, name="bare", attributes={})]
    TaskSuite(suite.name, {task.name: task for task in (*odd, *others)}, suite.frame).save(tmp_path / "further")
    context = context_of(problem_of(config))
    assert context.tasks
    assert not {"odd", "bare"} & {task.name for task in context.tasks}
    assert (context.levels.sum(1) == len(first.attributes)).all()
    TaskSuite(suite.name, {task.name: task for task in odd}, suite.frame).save(tmp_path / "further")
    with pytest.raises(InputError, match="no task has attributes, all of them levels that tasks trained on have"):
        problem_of(config)


def test_requests_of_further_tasks_teach_reading_too(tmp_path, monkeypatch):
    """Each is of any task, with the levels of that task, in one of its first wordings; the same in every part of a step."""
    monkeypatch.setattr(module, "WORDINGS", 2)
    config = with_further(tmp_path, n_tasks=14, training__readings=3, training__read_further=True, **ATTRIBUTES)
    problem = problem_of(config)
    context, setup, rereading = context_of(problem), problem.setup, problem.rereading
    assert rereading is not None
    taught, further = setup.train.tasks, context.tasks
    said = {
        rows.numpy().tobytes(): (task.name, problem.network.levels([task.attributes])[0])
        for tasks, conditions, most in ((taught, setup.conditions, None), (further, context.conditions, 2))
        for task in tasks
        for rows in conditions.of_task(task.name)[:most]
    }
    names, n_steps = [], 20
    for step in range(n_steps):
        plan = problem.plan(step)
        (embeddings, mask), levels = rereading.draw(plan)
        assert len(levels) == 3 * len(plan)
        read = [said[rows[real].numpy().tobytes()] for rows, real in zip(embeddings, mask, strict=True)]
        assert all(torch.equal(own, expected) for own, (_, expected) in zip(levels, read, strict=True))
        names += [name for name, _ in read]
        (again, _), same = rereading.draw(plan.part(1, 3))
        assert torch.equal(again, embeddings)
        assert torch.equal(same, levels)
    share = sum(name in {task.name for task in further} for name in names) / len(names)
    assert abs(share - len(further) / (len(taught) + len(further))) < 4 * (0.25 / len(names)) ** 0.5
    assert {*names} == {task.name for task in (*taught, *further)}


def test_unasked_no_further_request_is_embedded(tmp_path):
    problem = problem_of(with_further(tmp_path, n_tasks=14, **ATTRIBUTES))
    assert context_of(problem).conditions is None
    assert problem.rereading is not None
    assert problem.rereading.further is None


@pytest.mark.parametrize("without", [{"objective__context": 0.0}, {"objective__attributes": 0.0}, {"generator__attributes": False}])
def test_further_requests_are_not_asked_for_in_vain(tmp_path, without):
    asked = {"training__read_further": True, **ATTRIBUTES, **without}
    with pytest.raises(InputError, match=r"training.read_further needs generator.attributes and a weight of objective.context and "):
        problem_of(with_further(tmp_path, **asked))


def test_inputs_that_leave_no_room_are_left_out(config, tmp_path):
    suite = load_suite(tmp_path / "further")
    long = {task.name: replace(task, paraphrases=("too much " * 4_000,)) for task in suite}
    TaskSuite(suite.name, long, suite.frame).save(tmp_path / "further")
    with pytest.raises(InputError, match="no input leaves room for a request and an answer in what the base reads"):
        problem_of(config)


def test_a_base_in_shares_is_refused_where_answers_are_decoded(config):
    with pytest.raises(
        InputError, match=r"training.shard_base does not go with objective.practice or context: processes answer in different"
    ):
        problem_of(changed(config, training__shard_base=True))


def test_further_tasks_that_have_changed_are_another_run(config, tmp_path):
    train_generator(changed(config, training__total_steps=2))
    (tmp_path / "further" / "train.jsonl").write_text(
        (tmp_path / "further" / "train.jsonl").read_text().replace('"input": "', '"input": "1', 1)
    )
    with pytest.raises(InputError, match="was trained with another further_tasks"):
        train_generator(changed(config, training__total_steps=2), begin="go_on")


def test_it_can_be_the_only_term_and_begin_late(config):
    alone = changed(config, objective__kl=0.0, objective__product=0.0, objective__agreement=0.0, training__schedules=["context:step"])
    train_generator(changed(alone, training__lambda_warmup_steps=3))
    rows = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] == 0 for row in rows if "loss" in row] == [True] * 3 + [False] * 3


def test_tasks_that_test_are_left_out_and_a_suite_with_nothing_new_is_refused(config):
    suite, whole = TeacherZoo.load(config.checkpoint_folder).suite, micro_suite()
    known = suite.select([task.name for task in suite if task.split != "mixture"])  # it says what its parts say, which are not here
    assert {task.split for task in further_tasks("micro", known)} == {"seen"}
    assert {task.name for task in further_tasks("micro", known)} == set(whole.select(split="seen").tasks) - set(known.tasks)
    source = TeacherZoo.load(config.checkpoint_folder).suite_entry.source
    with pytest.raises(InputError, match="has no task of split seen that suite micro lacks"):
        further_tasks(source, suite)
