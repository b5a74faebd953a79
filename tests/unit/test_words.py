"""The suite `words` as a benchmark: systematic splits, no leakage of payloads, words, values or wordings, answers that need every value."""

import itertools
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from llgbm.zoo.composed import Wordings, is_test_payload
from llgbm.zoo.suite import CHAT_FRAME, Example, Task, TaskSuite
from llgbm.zoo.suites import load_suite
from llgbm.zoo.words import wordings
from llgbm.zoo.words.lexicon import COLOR_OF, KINDS, KNOWN, NEVER_TRAINED, OPPOSITE, plural, with_article
from llgbm.zoo.words.payloads import SHAPES, Payload
from llgbm.zoo.words.values import CHANGES, DRESSES, PICKS
from llgbm.zoo.words.world import NEW_WORDS, WordTask, combination_suite, short_word_suite, word_suite, word_tasks

HELD = {"third", "job", "ing", "parentheses"}
TABLES = (wordings.SUBJECTS, wordings.PICKS, wordings.CHANGES, wordings.DRESSES)


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return word_suite(n_train=64, n_test=12, n_new=12)


@pytest.fixture(scope="module")
def singles(suite: TaskSuite) -> list[Task]:
    return [task for task in suite if task.split != "mixture"]


def values_of(task: Task) -> tuple[str, str, str]:
    return task.attributes["pick"], task.attributes["change"], task.attributes["dress"]


def training_texts(task: Task) -> list[str]:
    """All that training may read or learn to say."""
    return [task.description, *task.paraphrases, *task.prompts, *(text for e in task.train for text in (e.input, e.output))]


def words_of(texts: list[str]) -> set[str]:
    return {word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text)}


def test_sizes(suite: TaskSuite) -> None:
    counts = Counter(task.split for task in suite)
    assert len(suite) >= 240
    assert counts["mixture"] == 10
    assert min(counts.values()) >= 10
    assert counts["seen"] > 120
    assert suite.frame == CHAT_FRAME
    assert {task.domain for task in suite if task.split != "mixture"} == {"list", "sentence"}
    assert suite.further_tests == [NEW_WORDS]


def test_held_values_are_in_no_seen_task_and_each_of_the_others_is(singles: list[Task]) -> None:
    of = defaultdict(list)
    for task in singles:
        of[task.split].append(values_of(task))
    seen = {value for values in of["seen"] for value in values}
    assert seen == {value.name for value in (*PICKS, *CHANGES, *DRESSES)} - HELD
    assert {value for values in of["unseen_value"] for value in values} >= HELD
    assert all(len(HELD & {*values}) == 1 for values in of["unseen_value"])


def test_unseen_combinations_are_of_values_and_picks_with_changes_that_are_seen(singles: list[Task]) -> None:
    seen = {values_of(task) for task in singles if task.split == "seen"}
    unseen = {values_of(task) for task in singles if task.split == "unseen_combination"}
    assert not seen & unseen
    assert {values[:2] for values in unseen} <= {values[:2] for values in seen}
    assert {values[2] for values in unseen} == {values[2] for values in seen}
    assert {(pick.name, change) for pick in PICKS if not pick.held for change in pick.changes if change not in HELD} == {
        v[:2] for v in seen
    }


@pytest.mark.parametrize(
    ("task", "payload", "answer"),
    [
        ("first-plain-bare", "wolf, hot, France, ladder", "wolf"),
        ("second-kind-brackets", "wolf, hot, France, ladder", "[adjective]"),
        ("last-twice-quotes", "wolf, hot, France, ladder", '"ladder ladder"'),
        ("third-initial-shout", "wolf, hot, France, ladder", "F!"),
        ("animal-plural-label", "wolf, hot, France, ladder", "Answer: wolves"),
        ("country-capital_of-sentence", "wolf, hot, France, ladder", "The answer is Paris."),
        ("country-continent-json", "wolf, hot, France, ladder", '{"answer": "Europe"}'),
        ("country-people-parentheses", "wolf, hot, France, ladder", "(French)"),
        ("adjective-opposite-bare", "wolf, hot, France, ladder", "cold"),
        ("object-article-bare", "wolf, hot, France, umbrella", "an umbrella"),
        ("verb-past-bare", "teach, red, tomato, doctor", "taught"),
        ("verb-ing-shout", "teach, red, tomato, doctor", "teaching!"),
        ("food-color_of-bare", "teach, blue, tomato, doctor", "red"),
        ("color-capitalized-bare", "teach, blue, tomato, doctor", "Blue"),
        ("job-plural-bare", "teach, blue, tomato, fisherman", "fishermen"),
    ],
)
def test_answers_worked_by_hand(task: str, payload: str, answer: str) -> None:
    pick, change, dress = (
        next(v for v in table if v.name == name) for table, name in zip((PICKS, CHANGES, DRESSES), task.split("-"), strict=True)
    )
    kind_of = {word: kind for kind, words in KINDS.items() for word in words}
    from llgbm.zoo.words.values import Item

    items = tuple(Item(word, kind_of[word]) for word in payload.split(", "))
    assert WordTask("list", pick, change, dress).answer(Payload(payload, items)) == answer


def test_nouns_are_spelled_right() -> None:
    assert [plural(noun) for noun in ("fox", "butterfly", "monkey", "ostrich", "mouse", "shelf")] == [
        "foxes", "butterflies", "monkeys", "ostriches", "mice", "shelves",
    ]  # fmt: skip
    assert [with_article(noun) for noun in ("owl", "horse")] == ["an owl", "a horse"]


@pytest.mark.parametrize("domain", SHAPES)
def test_answers_need_every_value(domain: str) -> None:
    """On payloads that both can be asked of, two tasks agree seldom: dropping or changing any one value changes the answer."""
    rng = random.Random(0)
    tasks = [task for task in word_tasks() if task.domain == domain]
    payloads = [SHAPES[domain](rng, KNOWN, None) for _ in range(300)]
    answers = [[task.answer(p) if task.pick.apply(list(p.items)) else None for p in payloads] for task in tasks]
    for (one, ours), (two, theirs) in itertools.combinations(zip(tasks, answers, strict=True), 2):
        both = [a == b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        assert sum(both) <= 0.45 * len(both) or not both, (one.name, two.name, sum(both) / len(both))


def test_lexicons_are_large_and_every_word_is_of_one_kind() -> None:
    assert all(len(words) >= (20 if kind == "color" else 60) for kind, words in KINDS.items())
    count = Counter(word for words in KINDS.values() for word in words)
    assert not [word for word, n in count.items() if n > 1]
    for kind, words in KINDS.items():
        assert {*KNOWN[kind], *NEVER_TRAINED[kind]} == {*words}
        assert 0.1 <= len(NEVER_TRAINED[kind]) / len(words) <= 0.25
    assert all((OPPOSITE[word] in NEVER_TRAINED["adjective"]) == (word in NEVER_TRAINED["adjective"]) for word in OPPOSITE)
    assert not {*COLOR_OF.values()} & {*NEVER_TRAINED["color"]}


def test_train_and_test_share_no_payload(suite: TaskSuite, singles: list[Task]) -> None:
    for task in suite:
        assert not any(is_test_payload(e.input) for e in task.train)
        assert all(is_test_payload(e.input) for e in (*task.test, *task.further_tests.get(NEW_WORDS, ())))
    trained = {e.input for task in suite for e in task.train}
    assert not trained & {e.input for task in suite for e in task.test}
    for task in (task for task in singles if task.domain == "list"):
        shown = [re.search(r"\w+, \w+, \w+, \w+", prompt) for prompt in task.prompts]
        assert not any(found is None or is_test_payload(found[0]) for found in shown)


def test_new_words_are_in_no_training_and_new_lists_have_known_words_alone(suite: TaskSuite, singles: list[Task]) -> None:
    never = {word.lower() for words in NEVER_TRAINED.values() for word in words}
    known = {word.lower() for words in KNOWN.values() for word in words}
    assert not never & words_of([text for task in suite for text in training_texts(task)])
    assert not never & words_of([e.input for task in suite for e in task.test])
    for task in singles:
        for example in task.further_tests[NEW_WORDS]:
            told = [word for word in re.findall(r"[A-Za-z]+", example.input) if word.lower() in never | known]
            assert told
            assert {word.lower() for word in told} <= never


def test_held_out_wordings_and_values_are_in_no_training_text(suite: TaskSuite, singles: list[Task]) -> None:
    texts = [text for task in suite if task.split == "seen" for text in (task.description, *task.paraphrases, *task.prompts)]
    unseen = [phrase for table in TABLES for words in table.values() for phrase in words.unseen]
    held = [phrase for table in TABLES for name, words in table.items() if name in HELD for phrase in (*words.seen, *words.unseen)]
    apart = [phrase for phrase in held if phrase != "the ing form"]
    together = "\n".join(texts).lower()
    assert not [phrase for phrase in (*unseen, *apart) if phrase.lower() in together]
    assert not any("(" in e.output for task in suite if task.split == "seen" for e in task.train)
    frames = [frame.split("{")[0] for frame in (*wordings.UNSEEN_DESCRIPTIONS, *wordings.UNSEEN_REQUESTS)]
    assert not [frame for frame in frames if frame.lower() in together]


@pytest.mark.parametrize("table", TABLES)
def test_every_value_can_be_said_in_eight_ways_and_one_more(table: dict[str, Wordings]) -> None:
    for words in table.values():
        assert len(set(words.seen)) == 8
        assert len(words.unseen) == 1
        assert not any(seen in unseen or unseen in seen for seen in words.seen for unseen in words.unseen)
    said = [wording for words in table.values() for wording in (*words.seen, *words.unseen)]
    assert len(set(said)) == len(said)


def test_every_value_has_words() -> None:
    tables = ((wordings.PICKS, PICKS), (wordings.CHANGES, CHANGES), (wordings.DRESSES, DRESSES))
    assert all(words.keys() == {value.name for value in values} for words, values in tables)
    assert wordings.SUBJECTS.keys() == SHAPES.keys()


def test_tasks_are_asked_for_in_many_ways(singles: list[Task]) -> None:
    descriptions = [task.description for task in singles]
    assert len({*descriptions}) == len(descriptions)
    for task in singles:
        known = {task.description, *task.paraphrases}
        assert (len(known), len(task.unseen_paraphrases), len(task.prompts), len(task.unseen_prompts)) == (33, 1, 48, 8)
        assert not known & {*task.unseen_paraphrases}


def test_mixtures_unite_a_task_on_lists_and_one_on_sentences(suite: TaskSuite) -> None:
    for mixture in (task for task in suite if task.split == "mixture"):
        parts = [suite[name] for name in mixture.parts]
        assert [part.domain for part in parts] == ["list", "sentence"]
        assert {part.split for part in parts} == {"seen"}
        assert {*mixture.train} == {e for part in parts for e in part.train}


def test_the_suite_is_the_same_every_time_and_on_disk(suite: TaskSuite, tmp_path: Path) -> None:
    word_suite.cache_clear()
    again = word_suite(n_train=64, n_test=12, n_new=12)
    assert again is not suite
    assert again.content_hash == suite.content_hash
    assert word_suite(1, n_train=64, n_test=12, n_new=12).content_hash != suite.content_hash
    suite.save(tmp_path)
    loaded = load_suite(tmp_path)
    assert loaded == suite
    assert loaded.content_hash == suite.content_hash


def test_examples_are_plenty() -> None:
    for task in word_tasks():
        assert len({e.input for e in task.examples(300, seed=1)}) == 300
    assert isinstance(word_tasks()[0].example(random.Random(0), NEVER_TRAINED, test=True), Example)


def test_all_combinations_on_the_seen_side_are_a_suite_and_none_of_them_is_tested(suite: TaskSuite, singles: list[Task]) -> None:
    whole = combination_suite(n_train=8)
    tested = {values_of(task) for task in singles if task.split != "seen"}
    assert {task.split for task in whole} == {"seen"}
    assert not {values_of(task) for task in whole} & tested
    assert {task.name for task in singles if task.split == "seen"} < set(whole.tasks)
    assert whole.header == suite.header
    assert not {value for task in whole for value in values_of(task)} & HELD


def test_the_short_suite_has_every_value_in_what_is_trained_on_and_all_unseen_combinations() -> None:
    short, whole = short_word_suite(), word_suite()
    assert short.name == "words-80"
    assert Counter(task.split for task in short) == {"seen": 80, "unseen_combination": len(whole.select(split="unseen_combination"))}
    assert all(task.train == whole[task.name].train and task.test == whole[task.name].test[:10] for task in short)
    seen = {value for task in short.select(split="seen") for value in task.attributes.items()}
    assert {value for task in short for value in task.attributes.items()} == seen
