"""Which combinations of attributes yield where several answer alike, and to what."""

from collections.abc import Sequence

from llgbm.training.clashes import Answers, Levels, find_clashes

PLAIN, STARS, BRACKETS = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
ALL = (PLAIN, STARS, BRACKETS)
OWN = {PLAIN: ("a", "b"), STARS: ("*a*", "*b*"), BRACKETS: ("[a]", "[b]")}


def nobody(levels: Sequence[Levels]) -> list[Answers]:
    raise AssertionError("nobody has to step back")


def test_who_answers_as_nobody_else_does_not_yield():
    assert find_clashes(ALL, {PLAIN}, [OWN[one] for one in ALL], [0.0, -1.0, -2.0], nobody) == {}


def test_a_taught_combination_never_yields_and_of_the_others_the_surer_one_stays():
    alike = [OWN[PLAIN]] * 3
    told = find_clashes(ALL, {STARS}, alike, [0.0, -9.0, -1.0], lambda away: [OWN[PLAIN]] * len(away))
    assert told == {PLAIN: None, BRACKETS: None}
    both = find_clashes(ALL, {STARS, PLAIN}, alike, [0.0, -9.0, -1.0], lambda away: [OWN[PLAIN]] * len(away))
    assert both == {BRACKETS: None}
    surer = find_clashes(ALL, set(), alike, [-2.0, -9.0, -1.0], lambda away: [OWN[PLAIN]] * len(away))
    assert surer == {PLAIN: None, STARS: None}


def test_it_steps_back_from_the_one_that_stays_until_all_it_says_is_its_own():
    said, asked = [OWN[PLAIN], OWN[PLAIN], OWN[BRACKETS]], []

    def answer(levels: Sequence[Levels]) -> list[Answers]:
        asked.extend(levels)
        return [OWN[PLAIN] if levels[0][1] < 1.5 else OWN[STARS]]

    assert find_clashes(ALL, {PLAIN}, said, [-1.0, 0.0, 0.0], answer) == {STARS: (-0.5, 1.5, 0.0)}
    assert asked == [(-0.25, 1.25, 0.0), (-0.5, 1.5, 0.0)]


def test_what_another_combination_says_or_is_in_part_the_same_is_not_its_own():
    said = [OWN[PLAIN], OWN[PLAIN], OWN[BRACKETS]]
    assert find_clashes(ALL, {PLAIN}, said, [0.0] * 3, lambda away: [OWN[BRACKETS]] * len(away)) == {STARS: None}
    assert find_clashes(ALL, {PLAIN}, said, [0.0] * 3, lambda away: [("*a*", "b")] * len(away)) == {STARS: None}
