"""Practice: adapters of mixed attributes learn to be sure of what they answer."""

import itertools
import json
import math
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tolerance import assert_near
from training_world import build_world, changed

from llgbm.errors import InputError
from llgbm.files import read_json, write_json
from llgbm.framing import Framing
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import Evidence, practice_loss
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.training.behavior import BehaviorProblem, train_generator
from llgbm.training.checkpoints import read_state, step_folder
from llgbm.training.practice import Practice
from llgbm.zoo.base import load_base
from llgbm.zoo.suite import Example
from llgbm.zoo.suites import load_suite

COMPARING = {"training__practice_prior": 0.5, "training__practice_interval": 4}
ASKED = {"generator__attributes": True, "objective__attributes": 1.0, "objective__practice": 1.0, **COMPARING}


@pytest.fixture
def problem(tmp_path):
    made = BehaviorProblem(changed(build_world(tmp_path, n_tasks=8), **ASKED), {"kl": 1.0, "practice": 1.0}, torch.device("cpu"))
    made.ready(lambda now: None)
    return made


def practice_of(problem: BehaviorProblem) -> Practice:
    assert problem.practice is not None
    return problem.practice


def test_it_counts_each_adapters_tokens_alike():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    factors = LoRAFactors.initialize({"q": (2, 2)}, 1, 1.0, 2, torch.Generator().manual_seed(0))
    evidence = Evidence(factors, practiced=logits, own_answers=torch.tensor([0, 1, 1]), practiced_by=torch.tensor([0, 1, 1]))
    expected = (-logits.log_softmax(-1)[0, 0] + torch.tensor(2.0).log()) / 2
    assert_near(practice_loss(evidence), expected, length=4, depth=2)
    with pytest.raises(InputError, match="objective practice has nothing to compare: no adapters of mixed attributes were given"):
        practice_loss(Evidence(factors))


def test_levels_are_mixed_within_a_domain_and_one_of_each_attribute(problem):
    practice, train, network = practice_of(problem), problem.setup.train, problem.network
    assert isinstance(network, AttributeGenerator)
    own = network.levels([task.attributes for task in train.tasks])
    rows = torch.tensor([practice.mixed(0, random.Random(n)) for n in range(50)])
    domain = own[practice.alike[train.tasks[0].domain]]
    for mixed, known in zip(rows.split(network.counts, 1), domain.split(network.counts, 1), strict=True):
        assert (mixed.sum(1) == 1).all()
        assert (mixed.sum(0) > 0).equal(known.sum(0) > 0)
    assert any((own != row).any(1).all() for row in rows)  # combinations that no teacher has are among them


def test_inputs_are_those_that_teachers_were_trained_on(problem):
    for inputs, task in zip(practice_of(problem).inputs, problem.setup.train.tasks, strict=True):
        assert set(inputs) <= {example.input for example in task.train}
        assert not set(inputs) & {example.input for example in task.test}


@pytest.mark.parametrize("too_long", ["leave_out", "cut_left"])
def test_inputs_and_answers_keep_to_the_longest_sequence(tmp_path, too_long):
    config = changed(build_world(tmp_path, n_tasks=8), **ASKED)
    suite, long = load_suite(tmp_path / "suite"), Example("12345" * 9, "1")
    suite = replace(suite, tasks={task.name: replace(task, train=(long, *task.train)) for task in suite})
    suite.save(tmp_path / "suite")
    framing = Framing(load_base(config.model.name).tokenizer)
    limit = max(sum(map(len, framing.ids(task.train[-1]))) for task in suite)
    manifest = read_json(tmp_path / "zoo" / "manifest.json")
    manifest |= {"zoo": {"max_length": limit, "too_long": too_long}, "suite": {**manifest["suite"], "hash": suite.content_hash}}
    write_json(tmp_path / "zoo" / "manifest.json", manifest)
    found = BehaviorProblem(config, {"kl": 1.0, "practice": 1.0}, torch.device("cpu"))
    found.ready(lambda now: None)
    practice, part = practice_of(found), found.plan(0)
    assert {long.input in inputs for inputs in practice.inputs} == {too_long == "cut_left"}
    read = practice._answered(practice.inputs[0], ["never ending " * 50] * len(practice.inputs[0]))
    assert read.input_ids.shape[1] == limit
    assert all(read.answers())
    evidence = Evidence(found.setup.train.factors.select(part.teachers))
    practice.fill(evidence, part)
    assert torch.isfinite(practice_loss(evidence))


def test_answers_are_its_own_and_training_makes_it_surer_of_them(problem):
    part = problem.plan(0)

    def said() -> Evidence:
        evidence = Evidence(problem.setup.train.factors.select(part.teachers))
        practice_of(problem).fill(evidence, part)
        return evidence

    before = said()
    assert before.own_answers is not None
    assert before.practiced_by is not None
    assert len(before.own_answers) == len(before.practiced_by)
    again = said()
    assert again.own_answers is not None
    assert before.own_answers.equal(again.own_answers)  # of plan and weights alone
    optimizer = torch.optim.SGD(problem.network.parameters(), lr=0.1)
    practice_loss(before).backward()
    optimizer.step()
    evidence = said()
    assert evidence.own_answers is not None
    assert evidence.own_answers.equal(before.own_answers)  # else the step was too large to compare
    assert practice_loss(evidence) < practice_loss(before)


def test_a_step_cut_into_parts_practices_the_same(problem):
    part = problem.plan(0)

    def loss(some) -> torch.Tensor:
        evidence = Evidence(problem.setup.train.factors.select(some.teachers))
        practice_of(problem).fill(evidence, some)
        return practice_loss(evidence).detach() * len(some)

    halves = loss(part.part(0, 1)) + loss(part.part(1, len(part)))
    assert_near(halves, loss(part), length=512, depth=64)


def test_what_the_base_holds_for_likely_counts(problem):
    practice, part = practice_of(problem), problem.plan(0)

    def said(prior: float) -> list[int]:
        practice.prior = prior
        evidence = Evidence(problem.setup.train.factors.select(part.teachers))
        practice.fill(evidence, part)
        assert evidence.own_answers is not None
        return evidence.own_answers.tolist()

    with torch.no_grad():
        for effect in problem.network.effects.values():
            effect.mean_b.add_(1.0)  # else the adapters say what the base does
    alone, together = said(0.0), said(1e6)
    with torch.no_grad():
        for effect in problem.network.effects.values():
            effect.mean_b.zero_()
            effect.of_levels.zero_()
    assert together == said(0.0) != alone


def test_all_combinations_of_a_domain_are_compared_and_those_with_a_teacher_stay(problem):
    practice, train, network = practice_of(problem), problem.setup.train, problem.network
    with torch.no_grad():
        for effect in network.effects.values():
            effect.of_levels.zero_()  # all say the same, however far they step back
    practice.compare(0, at_once=3)
    for domain, clashes in practice.clashes.items():
        members = practice.alike[domain]
        counts = [len({part[k].argmax().item() for k in members}) for part in practice.parts]
        assert len(clashes) == math.prod(counts) - len(members)
        assert not set(clashes) & practice.taught
        assert set(clashes.values()) == {None}
        assert practice.draw(members[0], random.Random(0)) in practice.taught  # who has nothing of its own to say does not practice
    assert len(train) == len(practice.taught)


def test_who_yields_is_practiced_with_what_it_says_when_it_steps_back(problem, monkeypatch):
    practice, part, asked = practice_of(problem), problem.plan(0), []
    mixed = practice.mixed(part.teachers[0], random.Random(0))
    away = tuple(1.5 * value for value in mixed)
    practice.clashes = {domain: {mixed: away} for domain in practice.alike}
    monkeypatch.setattr("llgbm.training.practice.OFTEN", 1.0)
    monkeypatch.setattr("llgbm.training.practice.MOST_OFTEN", 1.0)
    write = practice.network.write
    monkeypatch.setattr(practice.network, "write", lambda levels: asked.append(levels) or write(levels))
    practice.fill(Evidence(problem.setup.train.factors.select(part.teachers)), part)
    answering, practiced = asked
    assert answering.equal(torch.tensor([away] * len(part)))
    assert practiced.equal(torch.tensor([mixed] * len(part)))


def test_of_many_combinations_some_are_drawn_anew_each_time(problem, monkeypatch):
    practice, asked = practice_of(problem), []
    monkeypatch.setattr("llgbm.training.practice.COMPARED", 2)
    monkeypatch.setattr("llgbm.training.practice.find_clashes", lambda chosen, *_: asked.append(chosen) or {})
    for step in (0, practice.interval):
        practice.compare(step, at_once=8)
    of_domain, domains = len(practice.alike), list(practice.alike.values())
    for k, chosen in enumerate(asked):
        members = domains[k % of_domain]
        levels = [{tuple(part[i].tolist()) for i in members} for part in practice.parts]
        possible = {tuple(itertools.chain(*one)) for one in itertools.product(*levels)}
        assert len(set(chosen)) == min(2, len(possible)) == len(chosen)
        assert set(chosen) <= possible
    assert asked[:of_domain] != asked[of_domain:]


def test_it_compares_at_its_interval_and_a_checkpoint_keeps_what_it_found(problem):
    practice = practice_of(problem)
    seen = []
    for step in (3, 4, 6, 7, 10, 11):
        practice.compare(step, at_once=8)
        seen.append(practice.compared)
    assert seen == [3, 3, 3, 7, 7, 11]
    practice.clashes = {domain: {(1.0, 0.0): (1.25, -0.25), (0.0, 1.0): None} for domain in practice.alike}
    problem.restore(json.loads(json.dumps(problem.state())))
    problem.ready(lambda now: None)
    again = practice_of(problem)
    assert again is not practice
    assert (again.compared, again.clashes) == (practice.compared, practice.clashes)
    again.interval = 0
    again.compare(99, at_once=8)
    assert again.compared == 11


def test_checkpoints_keep_when_it_compared(tmp_path):
    result = train_generator(changed(build_world(tmp_path), **ASKED))
    assert read_state(step_folder(result.folder / "checkpoints", 6))["problem"].get("compared") == 4


def test_it_begins_when_its_schedule_says(tmp_path):
    late = {"training__schedules": ("practice:step",), "training__lambda_warmup_steps": 3}
    config = changed(build_world(tmp_path), **ASKED, **late)
    result = train_generator(config)
    rows = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines() if "loss/attributes" in line]
    assert ["loss/practice" in row for row in rows] == [False] * 3 + [True] * 3
    assert all(torch.isfinite(tensor).all() for tensor in load_file(result.network / "model.safetensors").values())


def test_without_attributes_there_is_none(tmp_path):
    config = changed(build_world(tmp_path), objective__practice=1.0)
    train_generator(config)
    assert "loss/practice" not in (config.run_folder / "metrics.jsonl").read_text()
