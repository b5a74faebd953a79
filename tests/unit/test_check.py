"""What a base must have before teachers are trained on it."""

import dataclasses

import pytest
import torch
from shared_data import SHARED_DATA, needs_shared_data

from llgbm.cli import main
from llgbm.config import ZooConfig
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.zoo.base import load_base
from llgbm.zoo.check import check_base, require_fit, twins
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suite import Example, TaskSuite


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return micro_suite(n_train=3, n_test=2).spaced(2)


def test_the_shipped_base_is_fit(suite) -> None:
    base = load_base("micro")
    found = check_base(base, Framing.of(base, suite), suite)
    assert [(finding.check, finding.ok) for finding in found] == [("padding", True), ("end token", True), ("length", True)]
    assert "0 of 10 examples do not fit into 512 tokens" in found[2].found
    require_fit(base, Framing.of(base, suite), suite)


def test_an_end_token_like_others_is_refused(suite) -> None:
    base = load_base("micro")
    end, weight = Framing.of(base, suite).end, base.model.get_output_embeddings().weight
    with torch.no_grad():
        weight[60:70] = weight[end] * 1.001
    assert twins(base, end) == 10
    with pytest.raises(InputError, match=r"end token: '<eos>' \(token 1\) has the output embedding of 10 other tokens.*--zoo.end_token"):
        require_fit(base, Framing.of(base, suite), suite)
    require_fit(base, Framing.of(base, suite, ZooConfig(end_token="\n")), suite)


def test_an_end_token_beyond_the_embeddings_is_refused(suite) -> None:
    base = load_base("micro")
    framing = Framing.of(base, suite)
    framing.end = len(base.tokenizer) - 1
    weight = base.model.get_output_embeddings().weight
    weight.data = weight.data[:50]
    with pytest.raises(InputError, match="is none of the 50 that the base can write"):
        require_fit(base, framing, suite)


def test_tasks_without_fitting_examples_are_named(suite) -> None:
    base, name = load_base("micro"), next(iter(suite.tasks))
    longer = dataclasses.replace(suite[name], test=(Example("a" * 600, "b"), *suite[name].test))
    some = TaskSuite("some", {**suite.tasks, name: longer})
    found = check_base(base, Framing.of(base, some), some)[2]
    assert found.ok
    assert "1 of 11 examples do not fit into 512 tokens and are left out" in found.found
    none = TaskSuite("none", {**suite.tasks, name: dataclasses.replace(longer, test=longer.test[:1])})
    with pytest.raises(InputError, match=f"task {name} has none left to train or test on"):
        require_fit(base, Framing.of(base, none), none)


@needs_shared_data
def test_a_story_base_has_an_untrained_end_token(suite) -> None:
    base = load_base(str(SHARED_DATA / "model_stories260k" / "hf"))
    assert twins(base, Framing.of(base, suite).end) > 100
    assert twins(base, Framing.of(base, suite, ZooConfig(end_token="\n")).end) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite", "/no/such/suite"], "--suite says how a base is checked; give that as --base, or leave --suite out"),
        (["--end_token", "x"], "--end_token says how a base is checked"),
        (["--max_length", "9"], "--max_length says how a base is checked"),
        (["--dtype", "bfloat16"], "--dtype says how a base is checked"),
        (["--device", "cpu"], "--device says how a base is checked"),
        (["--revision", "v1"], "--revision says how a base is checked"),
        (["--deterministic", "--suite", "words"], "--suite says how a base is checked"),
        (["--deterministic", "--base", "micro"], "--base and --deterministic check different things; give one of them"),
    ],
)
def test_verify_refuses_what_it_would_not_read(flags: list[str], message: str, capsys) -> None:
    assert main(["verify", *flags]) == 2
    assert message in capsys.readouterr().err


def test_verify_checks_a_base_and_fails_where_build_would(suite, capsys, tmp_path) -> None:
    suite.save(tmp_path / "some")
    flags = ["--model.name", "micro", "--zoo.suite", str(tmp_path / "some")]
    assert main(["verify", *flags]) == 0
    assert "unlike every other" in capsys.readouterr().out
    assert main(["verify", *flags, "--zoo.max_length", "9"]) == 1
    assert "has none left to train or test on" in " ".join(capsys.readouterr().out.split())
    assert main(["zoo", "build", *flags, "--zoo.max_length", "9", "--checkpoint_folder", str(tmp_path / "zoo")]) == 2
    assert "cannot learn suite" in capsys.readouterr().err
