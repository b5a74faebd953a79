"""MicroZoo as a benchmark: systematic splits, no leakage, answers that need every attribute, wordings that differ."""

import itertools
from collections import Counter

import networkx as nx
import pytest

from llgbm.errors import InputError
from llgbm.zoo.micro import wordings
from llgbm.zoo.micro.attributes import DOMAINS, WRAPPERS
from llgbm.zoo.micro.pretraining import practiced_tasks
from llgbm.zoo.micro.things import RELATIONS, THINGS
from llgbm.zoo.micro.world import is_test_payload, micro_suite, micro_tasks
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.suites import load_suite


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return micro_suite(n_train=24, n_test=8)


def test_sizes(suite: TaskSuite) -> None:
    assert Counter(t.split for t in suite) == {"seen": 171, "unseen_combination": 45, "mixture": 24}
    assert {t.domain for t in suite if t.split != "mixture"} == {"math", "code", "commonsense"}


@pytest.mark.parametrize("domain", ["math", "code", "commonsense"])
def test_every_value_and_every_pair_of_values_is_seen_and_held_out_evenly(suite: TaskSuite, domain: str) -> None:
    tasks = [t for t in suite if t.domain == domain]
    names = ("operation", "style", "wrapper")
    seen = [t.attributes for t in tasks if t.split == "seen"]
    unseen = [t.attributes for t in tasks if t.split == "unseen_combination"]
    for pair in itertools.combinations(names, 2):
        possible = {tuple(t.attributes[n] for n in pair) for t in tasks}
        assert {tuple(a[n] for n in pair) for a in seen} == possible
    for name in names:
        assert {a[name] for a in unseen} == {t.attributes[name] for t in tasks}


@pytest.mark.parametrize(("percent", "pairs"), [(25, 6), (50, 12)])
def test_the_wild_suites_hold_out_pairs_with_every_wrapper_and_no_single_value(percent: int, pairs: int) -> None:
    suite = load_suite(f"micro-wild-{percent}")
    for domain in DOMAINS:
        tasks = [t for t in suite if t.domain == domain.name]
        seen, held = (
            {(t.attributes["operation"], t.attributes["style"]) for t in tasks if t.split == split}
            for split in ("seen", "unseen_combination")
        )
        assert not seen & held
        assert (len(held), len(seen)) == (pairs, 24 - pairs)
        assert {pair[0] for pair in seen} == {value.name for value in domain.operations}
        assert {pair[1] for pair in seen} == {value.name for value in domain.styles}
        assert nx.is_connected(nx.Graph(seen))  # so attributes that add up could be told apart
    held_tasks = {t.name for t in suite if t.split == "unseen_combination"}
    assert not held_tasks & {task.name for task in practiced_tasks(percent)}
    assert len(practiced_tasks(percent)) + len(held_tasks) == len(practiced_tasks(0)) == 216


def test_another_share_of_pairs_is_refused() -> None:
    with pytest.raises(InputError, match="30% of the pairs of operation and style held out; choose one of 25, 50"):
        micro_tasks(30)


@pytest.mark.parametrize(
    ("task", "payload", "answer"),
    [
        ("increment-letters-brackets", "90121", "[abcdc]"),
        ("complement-commas-plain", "90125", "0,9,8,7,4"),
        ("running_sum-digits-stars", "54321", "*59245*"),
        ("sort_descending-capitals-plain", "90125", "JFCBA"),
        ("rotate_left-alternating-stars", "abcde", "*bCdEa*"),
        ("swap_pairs-capitalized-brackets", "abcde", "[Badce]"),
        ("previous_letter-upper-plain", "abcde", "ZABCD"),
        ("color-ends-brackets", "cow pig owl", "[white brown]"),
        ("act-middle-stars", "cow bee owl", "*fly*"),
    ],
)
def test_answers_worked_by_hand(task: str, payload: str, answer: str) -> None:
    rule = next(t for t in micro_tasks() if t.name == task)
    symbols = payload.split(" ") if rule.domain.separator else list(payload)
    assert rule.domain.answer(symbols, rule.operation, rule.style, rule.wrapper) == answer


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.name)
def test_answers_need_every_attribute(domain) -> None:
    """Changing any one attribute changes the answer on most payloads."""
    tasks = [t for t in micro_tasks() if t.domain is domain]
    inputs = [e.input for e in tasks[0].examples(60, seed=3)]
    answers = {t.name: [_answer(t, payload) for payload in inputs] for t in tasks}
    for one, two in itertools.combinations(tasks, 2):
        same = sum(a == b for a, b in zip(answers[one.name], answers[two.name], strict=True))
        assert same <= 0.45 * len(inputs), (one.name, two.name, same)


def _answer(task, payload: str) -> str:
    symbols = payload.split(" ") if task.domain.separator else list(payload)
    return task.domain.answer(symbols, task.operation, task.style, task.wrapper)


def test_train_and_test_share_no_payload(suite: TaskSuite) -> None:
    for task in suite:
        assert not any(is_test_payload(e.input) for e in task.train)
        assert all(is_test_payload(e.input) for e in task.test)


def test_examples_are_seeded_and_unlimited() -> None:
    task = micro_tasks()[0]
    assert task.examples(50, seed=1) == task.examples(50, seed=1)
    assert task.examples(50, seed=1) != task.examples(50, seed=2)
    assert len({e.input for e in task.examples(3000, seed=1)}) == 3000


def test_wordings_name_the_task_and_unseen_ones_are_new(suite: TaskSuite) -> None:
    singles = [t for t in suite if t.split != "mixture"]
    descriptions = [t.description for t in singles]
    assert len(set(descriptions)) == len(descriptions)
    for task in singles:
        known = {task.description, *task.paraphrases}
        assert len(known) == 33
        assert task.unseen_paraphrases
        assert not known & set(task.unseen_paraphrases)
        assert len(task.prompts) == 48
        assert len(task.unseen_prompts) == 8


def test_every_value_can_be_said_and_no_unseen_wording_is_part_of_a_seen_one() -> None:
    assert wordings.SUBJECTS.keys() == {d.name for d in DOMAINS}
    assert wordings.OPERATIONS.keys() == {v.name for d in DOMAINS for v in d.operations}
    assert wordings.STYLES.keys() == {v.name for d in DOMAINS for v in d.styles}
    assert wordings.WRAPPERS.keys() == {v.name for v in WRAPPERS}
    for table in (wordings.OPERATIONS, wordings.STYLES, wordings.WRAPPERS):
        for words in table.values():
            assert len(set(words.seen)) == 8
            assert not any(seen in unseen or unseen in seen for seen in words.seen for unseen in words.unseen)
        said = [wording for words in table.values() for wording in (*words.seen, *words.unseen)]
        assert len(set(said)) == len(said)


def test_mixtures_unite_two_seen_tasks_of_different_domains(suite: TaskSuite) -> None:
    parts = [part for t in suite if t.split == "mixture" for part in t.parts]
    assert len(set(parts)) == len(parts) == 48
    for mixture in (t for t in suite if t.split == "mixture"):
        one, two = (suite[name] for name in mixture.parts)
        assert one.domain != two.domain
        assert one.split == two.split == "seen"
        assert set(mixture.train) == {*one.train, *two.train}


def test_facts_are_complete_and_relations_do_not_share_values() -> None:
    assert len(THINGS) == 36
    values = [set(facts) for facts in zip(*THINGS.values(), strict=True)]
    assert len(values) == len(RELATIONS)
    for one, two in itertools.combinations(values, 2):
        assert not one & two
