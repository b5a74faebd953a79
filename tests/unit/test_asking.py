"""Ways of asking: what is altered, how many wordings there are, and that no training knows the words."""

import random
from pathlib import Path

import pytest
from evaluation_world import PerfectGenerator, build_evaluation_world

from llgbm.errors import InputError
from llgbm.evaluation import asking
from llgbm.evaluation.asking import FILLERS, SPLITS, WAYS, check_split, parse_split, typos
from llgbm.evaluation.setting import EvaluationConfig, Question, Setting, load_setting
from llgbm.evaluation.task_eval import run_evaluation
from llgbm.training import augment
from llgbm.zoo.suites import load_suite

TEXT = "Read it from right to left in Small letters, and put it inside the brackets."


@pytest.fixture(scope="module")
def zoo_folder(tmp_path_factory) -> Path:
    return build_evaluation_world(tmp_path_factory.mktemp("world"))


def setting_of(zoo_folder: Path, **choices) -> Setting:
    setting = load_setting(None, zoo_folder, EvaluationConfig(**choices))
    setting.generator = PerfectGenerator(setting.zoo)
    return setting


def edits(one: str, other: str) -> int:
    """Letters to put in, take out, replace or swap with the next, to get from one text to the other."""
    rows = [[i + j if not i * j else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (one[i - 1] != other[j - 1]))
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


@pytest.mark.parametrize("count", [1, 3])
def test_a_typo_is_one_slip_inside_a_word(count: int) -> None:
    found = [typos(TEXT, random.Random(seed), count) for seed in range(200)]
    distances = [edits(TEXT, text) for text in found]
    assert sum(distance <= count for distance in distances) >= 200 - count  # slips upon slips can cost one more
    assert sum(distance == count for distance in distances) > 150  # two letters alike can swap unseen
    assert len(set(found)) > 60 * count
    assert typos("1, 2", random.Random(0), 3) == "1, 2"


def test_chatter_keeps_the_request_and_says_nothing_that_training_hears() -> None:
    text = WAYS["chatter"].alter(TEXT, random.Random(0))
    assert TEXT in text
    assert text != TEXT
    assert not {*asking.OPENINGS, *asking.CLOSINGS} & {*augment.BEFORE, *augment.AFTER}


def test_lower_case_has_no_capitals_and_no_punctuation_at_the_ends_of_words() -> None:
    assert WAYS["lower_case"].alter(TEXT, random.Random(0)) == TEXT.lower().replace(",", "").replace(".", "")
    assert WAYS["lower_case"].alter("Use - this: [x]!", random.Random(0)) == "use - this x"


def test_telegrams_save_small_words_alone() -> None:
    text = WAYS["telegraphic"].alter(TEXT, random.Random(0))
    assert text == "Read from right to left in Small letters, put inside brackets."
    assert WAYS["telegraphic"].alter("It is", random.Random(0)) == "It is"
    assert not FILLERS & {"no", "not", "without", "with", "in", "on", "by"}


@pytest.mark.parametrize("split", [*SPLITS, *(f"{split}+{way}" for split in SPLITS for way in WAYS if way)])
def test_every_split_asks_for_the_same_task_twice_alike(split: str) -> None:
    task = load_suite("micro-words-1")["reverse-lower-plain"]
    (first, *_), (again, *_) = (Question(task, split).reworded("both", 2) for _ in range(2))
    assert first.texts("both", 2) == again.texts("both", 2) != []
    assert len(first.texts("both", 2)) == 3


def test_unknown_splits_are_named_with_near_ones() -> None:
    suite = load_suite("words")
    for name in ("mixture", "seen+one_typo", "unseen_value+new_words", "unseen_both"):
        check_split(name, suite)
    with pytest.raises(
        InputError, match="unknown split 'sen'; choose from seen, unseen_combination, unseen_wording, unseen_both, unseen_value"
    ):
        check_split("sen", suite)
    with pytest.raises(InputError, match=r"did you mean seen\+one_typo"):
        check_split("seen+one_tyop", suite)
    with pytest.raises(InputError, match=r"after the plus sign stands one of one_typo, .*, paraphrases, new_words"):
        check_split("seen+", suite)
    assert parse_split("seen+new_words")[2] == "new_words"
    assert parse_split("seen+one_typo")[2] == parse_split("seen")[2] == ""


def test_unseen_combinations_in_unseen_words(zoo_folder: Path) -> None:
    setting = setting_of(zoo_folder, splits=("unseen_both",), methods=("generated",))
    found = run_evaluation(setting)
    assert [q.task.name for q in found.questions["unseen_both"]] == ["say e", "say f"]
    assert setting.generator.asked == ["E is all I want to hear.", "F is all I want to hear."]


def test_a_task_asked_for_in_several_wordings_has_their_mean_and_their_worst(zoo_folder: Path) -> None:
    class Misreading(PerfectGenerator):
        """Takes "whatever is asked" for another wish."""

        def generate(self, prompts=None, description=None, base=None):
            return super().generate(prompts, ["say g" if "whatever" in text else text for text in description], base)

    setting = setting_of(zoo_folder, splits=("unseen_combination+paraphrases",), methods=("generated", "teacher"))
    setting.generator = Misreading(setting.zoo)
    document = run_evaluation(setting).to_json()
    of = document["splits"]["unseen_combination+paraphrases"]
    assert of["teacher"]["score"] == of["teacher"]["score_worst"] == 1
    assert of["generated"]["score"] == 0.5
    assert of["generated"]["score_worst"] == 0
    assert of["generated"]["n_examples"] == of["teacher"]["n_examples"] == sum(len(setting.zoo.suite[f"say {x}"].test) for x in "ef")
    assert of["generated"]["n_tasks"] == 2
    for row in document["tasks"]:
        assert row["marks"]["generated"] == [0.5] * row["n_examples"]
        assert len(row["exact"]["generated"]) == 2 * row["n_examples"]


def test_a_tasks_wordings_are_no_further_examples(zoo_folder: Path) -> None:
    setting = setting_of(zoo_folder, splits=("mixture", "mixture+paraphrases"), methods=("generated", "base"))
    document = run_evaluation(setting).to_json()
    (plain, worded), of = document["comparisons"], document["splits"]
    assert len(document["tasks"][1]["exact"]["base"]) == 2 * plain["n_units"]
    assert {**worded, "split": "mixture"} == plain
    for split in of:
        assert of[split]["base"]["n_examples"] == plain["n_units"] == len(setting.zoo.suite["say g"].test)
