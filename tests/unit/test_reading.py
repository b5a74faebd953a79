"""Levels of attributes that tell domains apart are read of one domain, as likely as all of them together make it."""

import math

import pytest
import torch

from llgbm.models.effects import levels_of
from llgbm.models.reading import NOWHERE, homes_of, in_one_domain, likeliest
from llgbm.zoo.micro.world import micro_suite

TASKS = [
    (domain, {"operation": operation, "style": style, "wrapper": "stars" if (operation, style) == ("sort", "commas") else "plain"})
    for domain, operations, styles in (
        ("numbers", ("double", "sort"), ("digits", "commas")),
        ("letters", ("turn", "rotate"), ("upper", "lower")),
    )
    for operation in operations
    for style in styles
] * 2
DOMAINS, ATTRIBUTES = [domain for domain, _ in TASKS], [own for _, own in TASKS]
LEVELS = levels_of(ATTRIBUTES)
COUNTS = [len(levels) for levels in LEVELS.values()]
HOMES = [1, 0, 1, 0, 1, 1, 0, 0, NOWHERE, NOWHERE]


def test_an_attribute_whose_levels_several_domains_have_is_at_home_nowhere() -> None:
    """All its levels: that stars were never asked for amid letters says nothing."""
    assert homes_of(ATTRIBUTES, DOMAINS, LEVELS) == homes_of(ATTRIBUTES[::-1], DOMAINS[::-1], LEVELS) == HOMES


def test_levels_that_few_tasks_have_are_at_home_nowhere() -> None:
    """Two tasks of each of four levels are in one of two domains each in one case of 16, were domains drawn; four tasks in one of 4,096."""
    few = len(TASKS) // 2
    assert set(homes_of(ATTRIBUTES[:few], DOMAINS[:few], LEVELS)) == {NOWHERE}


def test_an_attribute_that_some_domain_lacks_is_at_home_nowhere() -> None:
    """Or that domain could not be asked for: here of three, two of which its levels tell apart."""
    third = [{"operation": operation, "wrapper": "plain"} for operation in ("greet", "thank")] * 4
    attributes, domains = [*ATTRIBUTES, *third], [*DOMAINS, *["manners"] * len(third)]
    homes = homes_of(attributes, domains, levels_of(attributes))
    assert homes == [2, 1, 0, 2, 1, 0, *[NOWHERE] * 6]


def test_operations_and_styles_of_the_built_in_world_tell_its_domains_apart() -> None:
    """Wrappers do not: all domains have all of them."""
    seen = micro_suite().select(split="seen")
    homes = iter(homes_of([task.attributes for task in seen], [task.domain for task in seen], levels_of([t.attributes for t in seen])))
    of_each = {name: [next(homes) for _ in levels] for name, levels in levels_of([task.attributes for task in seen]).items()}
    assert {name: sorted(set(found)) for name, found in of_each.items()} == {
        "operation": [0, 1, 2],
        "style": [0, 1, 2],
        "wrapper": [NOWHERE],
    }


def log(*chances: float) -> torch.Tensor:
    return torch.tensor(chances, dtype=torch.float64).log()[None]


def test_what_is_sure_says_where_the_rest_belongs() -> None:
    """The style is surely of letters, so is the operation, although `double` looks a little likelier; the wrapper stays as it was."""
    said = log(0.4, 0.1, 0.2, 0.3, 0.02, 0.01, 0.07, 0.9, 0.7, 0.3)
    joint = in_one_domain(said, COUNTS, HOMES)
    assert likeliest(said, COUNTS).tolist() == [[0, 7, 8]]
    assert likeliest(joint, COUNTS).tolist() == [[3, 7, 8]]
    expected = torch.tensor([0, 0.25, 0, 0.75, 0, 0, 0.07 / 0.97, 0.9 / 0.97, 0.7, 0.3], dtype=torch.float64)
    assert (joint[0].exp() - expected).abs().max().item() < 1e-12
    assert joint.isfinite().all()


def test_the_likeliest_levels_stay_where_one_domain_has_them() -> None:
    """However many others share what is left in another domain."""
    counts, homes = [5, 5], [0, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    said = torch.cat([log(0.24, 0.19, 0.19, 0.19, 0.19)] * 2, 1)
    assert likeliest(in_one_domain(said, counts, homes), counts).tolist() == [[0, 5]]


@pytest.mark.parametrize("homes", [[], [NOWHERE] * 4])
def test_without_domains_levels_are_only_normalized(homes: list[int]) -> None:
    said = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    joint = in_one_domain(said, [2, 2], homes)
    assert joint.shape == said.shape
    assert (joint[0, 1] - joint[0, 0]).item() == pytest.approx(1.0)
    assert joint[0, :2].exp().sum().item() == pytest.approx(1.0)
    assert joint[0, 2].item() == pytest.approx(-math.log(1 + math.e))
