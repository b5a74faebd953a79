"""A task's parts never mix, and are always the same ones."""

import pytest

from llgbm.errors import InputError
from llgbm.study.config import SizesConfig
from llgbm.study.parts import cut_parts

TRAIN, TEST = [f"train {i}" for i in range(50)], [f"test {i}" for i in range(30)]


def test_validation_comes_from_the_train_split_alone() -> None:
    parts = cut_parts("t", TRAIN, TEST, SizesConfig(validation_examples=10))
    assert len(parts.validation) == 10
    assert set(parts.train) | set(parts.validation) == set(TRAIN)
    assert not set(parts.train) & set(parts.validation)
    assert sorted(parts.test) == sorted(TEST)


def test_smaller_sizes_cut_and_draw_the_same_ones() -> None:
    whole = cut_parts("t", TRAIN, TEST, SizesConfig(validation_examples=10))
    few = cut_parts("t", TRAIN, TEST, SizesConfig(validation_examples=10, train_examples=7, test_examples=4))
    assert few.validation == whole.validation
    assert few.train == whole.train[:7]
    assert few.test == whole.test[:4]
    assert few == cut_parts("t", TRAIN, TEST, SizesConfig(validation_examples=10, train_examples=7, test_examples=4))


def test_a_task_may_have_a_size_of_its_own() -> None:
    sizes = SizesConfig(validation_examples=10, train_examples=7, train_examples_of={"t": 3})
    assert cut_parts("t", TRAIN, TEST, sizes).train == cut_parts("u", TRAIN, TEST, sizes).train[:3]
    assert len(cut_parts("u", TRAIN, TEST, sizes).train) == 7


def test_fewer_to_train_on_leave_the_others() -> None:
    parts = cut_parts("t", TRAIN, TEST, SizesConfig(validation_examples=10))
    assert parts.at_most(None) == parts
    assert parts.at_most(3).train == parts.train[:3]
    assert (parts.at_most(3).validation, parts.at_most(3).test) == (parts.validation, parts.test)


def test_by_heart_is_about_the_same_few_train_examples() -> None:
    parts = cut_parts("t", TRAIN, TEST, SizesConfig(validation_examples=10)).learned_by_heart(3)
    assert parts.train == parts.validation
    assert len(parts["train"]) == 3


@pytest.mark.parametrize(("train", "test"), [(TRAIN[:10], TEST), (TRAIN, [])])
def test_a_task_without_examples_for_a_part_is_named(train: list[str], test: list[str]) -> None:
    with pytest.raises(InputError, match=f"task t: {len(train)} train and {len(test)} test examples; 10 of the train examples are kept"):
        cut_parts("t", train, test, SizesConfig(validation_examples=10))


def test_groups_are_on_one_side_and_examples_are_still_drawn_from_all_of_them() -> None:
    grouped = [f"{letter} {i}" for letter in "abcde" for i in range(10)]
    parts = cut_parts("t", grouped, TEST, SizesConfig(validation_examples=14, train_examples=20), group=lambda item: item[0])
    assert len(parts.validation) == 14
    assert len(parts.train) == 20
    assert len({item[0] for item in parts.validation}) == 2
    assert len({item[0] for item in parts.train}) == 3
    assert not {item[0] for item in parts.validation} & {item[0] for item in parts.train}
