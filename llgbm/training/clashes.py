"""Combinations of attributes whose adapters answer alike, though every attribute counts: which of them yield, and to what.

Adapters that are sums of effects fail in a body: they do what a neighbor does, surely and well, such as capitals instead of a capital. Of
two that answer alike the one with a teacher is right, else the surer one. The other steps back from it, along the difference of their
levels, until it says something that no combination says.

Letters: C combinations, F levels of all attributes.

Source: that no two names mean the same, Markman and Wachtel 1988, doi:10.1016/0010-0285(88)90017-5; the extrapolation is that of
classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598, in the space of levels.
"""

from collections.abc import Callable, Collection, Sequence

Levels = tuple[float, ...]
"""How much of each level an adapter is written with."""
Answers = tuple[str, ...]
"""To the same few inputs."""
STEPS_BACK = (0.25, 0.5, 0.75)
"""How far a combination steps back, in differences to the one that it yields to; farther back fewer are right (docs/findings.md)."""


def find_clashes(
    combinations: Sequence[Levels],
    taught: Collection[Levels],
    said: Sequence[Answers],
    sure: Sequence[float],
    answer: Callable[[Sequence[Levels]], Sequence[Answers]],
) -> dict[Levels, Levels | None]:
    """For each combination that has to yield, with what levels its answers are its own; None where it found none.

    Args:
        combinations: C rows of levels.
        taught: Those that have a teacher, and never yield.
        said: What each of the C answers to the same inputs.
        sure: How sure each is of it: a log-likelihood.
        answer: What adapters of other levels say to these inputs.
    """
    alike: dict[Answers, list[int]] = {}
    for i, answers in enumerate(said):
        alike.setdefault(answers, []).append(i)
    yielding: dict[int, int] = {}
    for group in alike.values():
        first = max(group, key=lambda i: (combinations[i] in taught, sure[i]))
        yielding |= {i: first for i in group if i != first and combinations[i] not in taught}
    found: dict[Levels, Levels | None] = {combinations[i]: None for i in yielding}
    for far in STEPS_BACK:
        still = [i for i in yielding if found[combinations[i]] is None]
        away = [_away(combinations[i], combinations[yielding[i]], far) for i in still]
        for i, levels, answers in zip(still, away, answer(away) if away else (), strict=True):
            if answers not in alike and all(new != old for new, old in zip(answers, said[i], strict=True)):
                found[combinations[i]] = levels
    return found


def _away(own: Levels, other: Levels, far: float) -> Levels:
    return tuple(a + far * (a - b) for a, b in zip(own, other, strict=True))
