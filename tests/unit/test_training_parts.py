"""Conditions, step plans and teacher targets: what a step reads, on its own."""

import pytest
import torch

from llgbm.dataset import TokenBatch
from llgbm.errors import InputError
from llgbm.models.encoder import HashingEncoder
from llgbm.training.conditions import ConditionTable
from llgbm.training.plan import plan_step
from llgbm.training.probe_targets import aggregate, token_states
from llgbm.training.setup import check_device
from llgbm.training.targets import owners
from llgbm.zoo.suite import Task

TASKS = [
    Task("a", "d", "seen", "first", ("foremost",), (), ("one", "single", "begin")),
    Task("b", "d", "seen", "second", (), (), ("two",)),
]


def table(tmp_path, condition: str, max_prompts: int = 8, **alterations: float) -> ConditionTable:
    return ConditionTable(TASKS, HashingEncoder(64), str(tmp_path), condition=condition, max_prompts=max_prompts, **alterations)


def test_a_description_is_one_of_the_paraphrases(tmp_path):
    conditions, expected = table(tmp_path, "description"), torch.cat(HashingEncoder(64).encode(["first", "foremost"]))
    drawn = torch.cat([conditions.draw(["a"], [str(i)])[0][:, 0] for i in range(20)])
    assert {int((row - expected).norm(dim=1).argmin()) for row in drawn} == {0, 1}
    for wording in range(4):
        assert torch.equal(conditions.fixed(["a"], wording)[0][0], expected[[wording % 2]])


def test_prompts_are_random_subsets(tmp_path):
    conditions = table(tmp_path, "prompts", max_prompts=2)
    sizes = {int(conditions.draw(["a"], [str(i)])[1].sum()) for i in range(20)}
    assert sizes == {1, 2}
    for wording in range(3):
        assert int(conditions.fixed(["b"], wording)[1].sum()) == 1
    assert conditions.fixed(["a", "b"])[1].tolist() == [[True, True], [True, False]]


def test_both_reads_either_or_both(tmp_path):
    conditions = table(tmp_path, "both")
    assert {int(conditions.draw(["b"], [str(i)])[1].sum()) for i in range(20)} == {1, 2}
    assert int(conditions.fixed(["b"])[1].sum()) == 2


def test_the_same_seed_draws_the_same(tmp_path):
    conditions = table(tmp_path, "both")
    assert torch.equal(conditions.draw(["a", "b"], ["1", "2"])[0], conditions.draw(["a", "b"], ["1", "2"])[0])


def test_some_texts_come_altered_the_same_for_the_same_seed(tmp_path):
    plain, all_altered = table(tmp_path, "description"), table(tmp_path, "description", augment=1.0)
    half = table(tmp_path, "description", augment=0.5)
    seeds = [str(i) for i in range(20)]
    own, others = plain.fixed(["b"])[0], all_altered.draw(["b"] * 20, seeds)
    rows = [embeddings[mask] for embeddings, mask in zip(*others, strict=True)]
    assert not any(torch.equal(row, own[0]) for row in rows)
    found = [torch.equal(half.draw(["b"], [seed])[0], own) for seed in seeds]
    assert 0 < sum(found) < 20
    assert torch.equal(all_altered.draw(["b"] * 20, seeds)[0], others[0])
    assert torch.equal(all_altered.fixed(["b"])[0], own)


def test_words_are_left_out_but_one_stays(tmp_path):
    conditions, seeds = table(tmp_path, "prompts", word_dropout=0.6), [str(i) for i in range(40)]
    sizes = [int(conditions.draw(["a"], [seed])[1].sum()) for seed in seeds]
    assert set(sizes) == {1, 2, 3}
    assert sizes == [int(conditions.draw(["a"], [seed])[1].sum()) for seed in seeds]
    everything = sum(int(table(tmp_path, "prompts").draw(["a"], [seed])[1].sum()) for seed in seeds)
    assert sum(sizes) < 0.75 * everything
    assert int(conditions.fixed(["a"])[1].sum()) == 3


def test_faulty_conditions_are_named(tmp_path):
    with pytest.raises(InputError, match=r"generator\.condition 'image' is unknown"):
        table(tmp_path, "image")
    with pytest.raises(InputError, match=r"generator\.max_prompts is 0"):
        table(tmp_path, "prompts", max_prompts=0)
    with pytest.raises(InputError, match="task c has no prompts"):
        ConditionTable([Task("c", "d", "seen", "x")], HashingEncoder(64), str(tmp_path), condition="prompts", max_prompts=8)


def test_plans_visit_every_teacher_once_per_epoch():
    plans = [plan_step(7, step, n_teachers=6, tasks_per_step=4, per_teacher=5, examples_per_task=2) for step in range(3)]
    visited = [k for plan in plans for k in plan.teachers]
    assert sorted(visited[:6]) == sorted(visited[6:]) == list(range(6))
    assert visited[:6] != visited[6:]
    assert all(len(set(chosen)) == 2 for plan in plans for chosen in plan.examples)
    assert plans[1] == plan_step(7, 1, 6, 4, 5, 2)
    assert plans[1] != plan_step(8, 1, 6, 4, 5, 2)


def test_plans_take_no_more_examples_than_there_are_and_split():
    plan = plan_step(0, 0, 3, 4, per_teacher=2, examples_per_task=9)
    assert all(sorted(chosen) == [0, 1] for chosen in plan.examples)
    assert plan.part(0, 1).teachers + plan.part(1, 4).teachers == plan.teachers


@pytest.mark.parametrize(("tasks", "at_once", "sizes"), [(5, 4, [2, 3]), (8, 4, [4, 4]), (9, 4, [3, 3, 3]), (3, 8, [3])])
def test_parts_of_a_step_are_even(tasks, at_once, sizes):
    plan = plan_step(0, 0, 9, tasks, per_teacher=2, examples_per_task=1)
    parts = plan.parts(at_once)
    assert [len(part) for part in parts] == sizes
    assert [part.start for part in parts] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert tuple(k for part in parts for k in part.teachers) == plan.teachers


def test_owners_follow_the_order_of_selected_positions():
    labels = torch.tensor([[-100, 5, 6], [-100, -100, 7], [-100, 8, -100], [-100, 9, 1]])
    batch = TokenBatch(labels.clamp_min(0), torch.ones_like(labels), labels)
    assert owners(batch, 2).tolist() == [0, 0, 0, 1, 1, 1]
    assert owners(batch, 1).tolist() == [0, 0, 1, 2, 3, 3]


def test_token_states_count_real_tokens_only():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = TokenBatch(mask, mask, torch.full_like(mask, -100))
    hidden = torch.arange(6.0).view(2, 3, 1)
    assert token_states(hidden, batch, -1)[:, 0].tolist() == [2, 4]
    assert token_states(hidden, batch, 1)[:, 0].tolist() == [1, 4]
    with pytest.raises(InputError, match=r"delta\.token_idx 2 is outside a probe of 2 tokens"):
        token_states(hidden, batch, 2)


def test_aggregations():
    deltas = torch.tensor([[[1.0, 4.0], [3.0, 2.0]]])
    found = {how: aggregate(deltas, how).tolist() for how in ("mean", "max", "concat")}
    assert found == {"mean": [[2, 3]], "max": [[3, 4]], "concat": [[1, 4, 3, 2]]}
    with pytest.raises(InputError, match=r"delta\.aggregation 'median' is unknown"):
        aggregate(deltas, "median")


@pytest.mark.parametrize(("asked", "used"), [("cpu", "cuda:0"), ("cpu:1", "cpu"), ("cpu:1", "cpu:0")])
def test_training_on_another_device_than_was_asked_for_is_refused(asked: str, used: str) -> None:
    with pytest.raises(InputError, match=f"model.device is {asked}, but training would run on {used}; give {used}, or make {asked}"):
        check_device(asked, torch.device(used))
    with pytest.raises(InputError, match="device 'banana' cannot be used here"):
        check_device("banana", torch.device(used))


def test_the_device_that_was_asked_for_is_no_other_without_its_number() -> None:
    for asked, used in (("cpu", "cpu"), ("cpu:0", "cpu"), ("cpu", "cpu:0")):
        check_device(asked, torch.device(used))
