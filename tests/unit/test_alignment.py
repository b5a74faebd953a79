"""Which words ask for which level: read where a level was seen with one other level alone, and amid words that nobody knows."""

import math
from collections.abc import Sequence

import pytest
import torch
from tolerance import assert_near
from torch import Tensor

from llgbm.models.alignment import CAUTION, KAPPA, READINGS, ROUNDS, SURE, UNKNOWN, WordAlignment, count_words
from llgbm.models.encoder import HashingEncoder
from llgbm.models.reader import embed_conditions

ENCODER = HashingEncoder(256)
OPERATIONS, STYLES = ("reverse", "sort", "double"), ("loudly", "quietly")
TASKS = ((0, 0), (1, 0), (1, 1), (2, 1))
"""Operation and style; the first and the last operation were seen with one style alone."""
FRAMES = ("please {} the letters {}", "{} the letters {} now", "i want you to {} what is there {}")


def wordings(operation: int, style: int) -> list[str]:
    return [frame.format(OPERATIONS[operation], STYLES[style]) for frame in FRAMES]


def one_hot(tasks: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor([[float(o == i) for i in range(3)] + [float(s == i) for i in range(2)] for o, s in tasks])


@pytest.fixture(scope="module")
def alignment() -> WordAlignment:
    return WordAlignment.fitted([ENCODER.encode(wordings(*task)) for task in TASKS], one_hot(TASKS), ENCODER.dim, (3, 2))


def read(alignment: WordAlignment, texts: Sequence[str]) -> Tensor:
    """The chance of each level."""
    said = alignment.say(*embed_conditions(ENCODER, [[text] for text in texts]))
    return torch.cat([part.softmax(1) for part in said.split(alignment.counts, 1)], 1)


@pytest.mark.parametrize("task", [(0, 1), (2, 0), *TASKS])
def test_a_combination_is_read_from_words_that_were_seen_apart(alignment: WordAlignment, task: tuple[int, int]) -> None:
    said = read(alignment, wordings(*task))
    assert said.gather(1, one_hot([task] * len(FRAMES)).nonzero()[:, 1].view(-1, 2)).min().item() > 0.8


@pytest.mark.numeric
def test_its_table_is_that_of_model_1_word_by_word(alignment: WordAlignment) -> None:
    """By the book: every word of every text asks each source of its task for its share, and each source sums what it got."""
    words = [(k, word) for k, task in enumerate(TASKS) for text in ENCODER.encode(wordings(*task)) for word in text]
    known = torch.stack([word / word.norm() for _, word in words]) @ alignment.known.T
    places, sources = known.argmax(1), torch.cat([torch.ones(4, 1), one_hot(TASKS)], 1).double()
    table = torch.full(alignment.brought.shape, 1 / len(alignment.known), dtype=torch.float64)
    for _ in range(ROUNDS):
        found = torch.zeros_like(table)
        for (k, _), place in zip(words, places, strict=True):
            shares = sources[k] * table[:, place]
            found[:, place] += shares / shares.sum()
        table = found / found.sum(1, keepdim=True)
    assert len(alignment.known) == len({tuple(row.sign().tolist()) for _, row in words})
    assert_near(alignment.brought, table, scale=1.0, length=len(words), depth=ROUNDS)


def test_what_every_task_says_comes_from_no_level(alignment: WordAlignment) -> None:
    the = alignment.known @ ENCODER.encode(["the letters"])[0][0]
    assert alignment.brought[:, the.argmax()].argmax() == 0


def test_words_that_nobody_knows_say_nothing(alignment: WordAlignment) -> None:
    assert_near(read(alignment, ["kumquat"]), torch.tensor([[1 / 3] * 3 + [1 / 2] * 2]), scale=1.0, length=256, depth=4)
    plain, amid = read(alignment, ["please reverse the letters quietly", "hello dear friends: please reverse the letters quietly"])
    assert (plain - amid).abs().max().item() < 0.02


def test_a_word_counts_also_before_another_word_than_ever(alignment: WordAlignment) -> None:
    chances = read(alignment, ["now reverse these letters quietly"])[0]
    assert chances[0].item() > 1.2 * chances[1:3].max().item()


def test_what_few_of_the_usual_words_say_counts_less(alignment: WordAlignment) -> None:
    """A word by chance amid a phrase that nobody knows is no reason to be sure."""
    whole, one_word = (alignment.say(*embed_conditions(ENCODER, [[text]]))[0, 3:] for text in ("sort the letters quietly", "never quietly"))
    assert 0 < 4 * (one_word[1] - one_word[0]) < whole[1] - whole[0]


@pytest.mark.parametrize("times", [2, 40])
def test_usual_words_are_counted_by_text(times: int) -> None:
    """Of five words two come from the operation, two from the style; that which stands between belongs to the pair, so to none."""
    texts = [ENCODER.encode([f"{a} {a}b {a}c {style} {style}d"] * times) for a, style in (("x", "y"), ("x", "z"), ("v", "y"), ("v", "z"))]
    labels = torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]])
    usual = WordAlignment.fitted(texts, labels, ENCODER.dim, (2, 2)).usual
    assert (usual - 2).abs().max().item() < 0.01


@pytest.mark.numeric
@pytest.mark.parametrize("text", ["kindly double the letters there quietly", "reverse a kumquat"])
def test_it_says_what_the_formula_says_and_reads_no_more_than_the_words_numbers(alignment: WordAlignment, text: str) -> None:
    """Word by word, level by level, in double precision; the vectors have further numbers, which say something else."""
    vectors, mask = embed_conditions(ENCODER, [[text]])
    likeness = torch.nn.functional.normalize(vectors[0].double(), dim=1) @ alignment.known.double().T

    def chances(kappa: float) -> tuple[Tensor, list[Tensor]]:
        brought = (kappa * (likeness - 1)).exp() @ alignment.brought.double().T
        return brought[:, 0] + UNKNOWN / len(alignment.known), [brought[:, 1:4], brought[:, 4:]]

    none, levels = chances(KAPPA)
    read = [torch.full((part.shape[1],), 1 / part.shape[1], dtype=torch.float64) for part in levels]
    said = list(read)
    for _ in range(READINGS):
        for own, part in enumerate(levels):
            other = levels[1 - own] @ read[1 - own]
            odds = [sum(math.log(none[i] + other[i] + part[i, level]) for i in range(len(none))) for level in range(part.shape[1])]
            said[own] = torch.tensor(odds, dtype=torch.float64).log_softmax(0)
            read[own] = said[own].exp()
    none, levels = chances(SURE)
    found = [part @ chance for part, chance in zip(levels, read, strict=True)]
    shares = [
        min(1.0, float((one / (none + found[0] + found[1])).sum() / usual)) for one, usual in zip(found, alignment.usual, strict=True)
    ]
    expected = torch.cat(said) * (sum(shares) / len(shares)) ** CAUTION
    more = torch.cat([vectors, torch.randn(*vectors.shape[:2], 7, generator=torch.Generator().manual_seed(0))], -1)
    assert_near(alignment.say(more, mask)[0], expected, scale=expected.abs().max() + 10, length=256, depth=READINGS)
    assert max(shares) < 1 or text.startswith("kindly")


@pytest.mark.numeric
def test_a_text_said_eight_times_says_what_it_says_once_and_not_eight_times_as_much(alignment: WordAlignment) -> None:
    longest = int(alignment.longest)
    text = "i want you to double what is there quietly"
    assert len(text.split()) == longest
    once, often = (alignment.say(*embed_conditions(ENCODER, [[text] * times])) for times in (1, 8))
    assert_near(often, once, scale=10.0, length=256, depth=4, dtype=torch.float16)  # as vectors are rounded


@pytest.mark.numeric
def test_room_for_more_words_changes_nothing(alignment: WordAlignment) -> None:
    asked = embed_conditions(ENCODER, [["please double the letters quietly"], ["kumquat"]])
    wider = alignment.with_room(len(alignment.known) + 5)
    assert len(wider.known) == len(alignment.known) + 5
    assert_near(wider.say(*asked), alignment.say(*asked), scale=10.0, length=256, depth=4)


def test_it_is_sure_of_words_where_they_were_known_and_not_of_new_phrases_made_of_them(alignment: WordAlignment) -> None:
    """Chatter takes nothing away; known words in another order are no known phrase."""
    plain, amid, anew = (
        alignment.say(*embed_conditions(ENCODER, [[text]])).abs().max().item()
        for text in ("sort the letters quietly", "hello dear friends: sort the letters quietly", "quietly please sort now")
    )
    assert amid > 0.9 * plain
    assert anew < 0.25 * plain


@pytest.mark.numeric
def test_masked_vectors_do_not_count(alignment: WordAlignment) -> None:
    vectors, mask = embed_conditions(ENCODER, [["sort the letters loudly", "double the letters quietly"]])
    mask[0, 4:] = False
    alone = alignment.say(*embed_conditions(ENCODER, [["sort the letters loudly"]]))
    assert_near(alignment.say(vectors, mask), alone, scale=10.0, length=256, depth=4, dtype=torch.float16)  # as vectors are rounded


def test_a_task_may_lack_an_attribute() -> None:
    labels = one_hot([(0, 0), (1, 0), (2, 1)])
    labels[2, 3:] = 0
    texts = [ENCODER.encode([text]) for text in ("reverse it loudly", "sort it loudly", "double it")]
    learned = WordAlignment.fitted(texts, labels, ENCODER.dim, (3, 2))
    assert learned.brought.isfinite().all()
    assert learned.brought[-1].sum() == 0  # no task brings this level
    assert read(learned, ["double it"])[0].argmax() == 2


def test_an_attribute_that_tasks_may_lack_is_not_missed() -> None:
    """A known request without one is as surely read as any; where tasks may lack each of them, all count."""
    tasks, labels = [*TASKS, *[(o, 0) for o in range(3)]], one_hot([*TASKS, *[(o, 0) for o in range(3)]])
    labels[len(TASKS) :, 3:] = 0
    plain = [f"please {name} the letters" for name in OPERATIONS]
    texts = [ENCODER.encode(wordings(*task)) for task in TASKS] + [ENCODER.encode([text]) for text in plain]
    asked = embed_conditions(ENCODER, [[plain[1]], ["please sort the letters loudly"]])
    found = WordAlignment.fitted(texts, labels, ENCODER.dim, (3, 2)).read(*asked)[1]
    assert len(texts) == len(tasks)
    assert found.min().item() > 0.7
    labels[0, :3] = 0
    assert WordAlignment.fitted(texts, labels, ENCODER.dim, (3, 2)).certain.tolist() == [1, 1]


def test_vectors_that_are_no_words_are_not_counted() -> None:
    assert count_words([ENCODER.encode(["sort it"])], 0) == 0
    assert count_words([ENCODER.encode(["sort it", "sort it now"]), ENCODER.encode(["sort it"])], ENCODER.dim) == 4


@pytest.mark.numeric
def test_vectors_that_stand_for_no_word_change_nothing(alignment: WordAlignment) -> None:
    """As where a text has more tokens than words: they are no known word, and make no request longer."""
    texts = [ENCODER.encode(wordings(*task)) for task in TASKS]
    longer = [[torch.cat([text, text.new_zeros(9, text.shape[1])]) for text in group] for group in texts]
    learned = WordAlignment.fitted(longer, one_hot(TASKS), ENCODER.dim, (3, 2))
    assert count_words(longer, ENCODER.dim) == len(alignment.known)
    assert learned.longest == alignment.longest
    vectors, mask = embed_conditions(ENCODER, [["please double the letters quietly"]])
    more = torch.cat([vectors, torch.zeros_like(vectors), torch.zeros_like(vectors)], 1), mask.repeat(1, 3)
    assert_near(learned.say(*more), alignment.say(vectors, mask), scale=10.0, length=256, depth=4)
