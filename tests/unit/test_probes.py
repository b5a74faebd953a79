"""Probe sets: five each, in the Alpaca layout, named and hashed."""

from pathlib import Path

import pytest

from llgbm.errors import InputError
from llgbm.probes import PROBE_SETS, ProbeSet, create_domain_probes, create_generic_probes, load_probes, suite_probes
from llgbm.zoo.micro.world import micro_suite


def test_settled_sets() -> None:
    sets = [create_generic_probes(), *(create_domain_probes(domain) for domain in ("math", "code", "commonsense"))]
    assert [len(texts) for texts in sets] == [5, 5, 5, 5]
    assert len({text for texts in sets for text in texts}) == 20
    assert all("### Instruction:" in text and text.endswith("### Response:\n") for texts in sets for text in texts)
    assert len(load_probes("diverse").texts) >= 20
    with pytest.raises(InputError, match="no probes for domain 'art'; choose one of math, code, commonsense"):
        create_domain_probes("art")


def test_hash_is_of_content_not_name() -> None:
    assert ProbeSet("a", ("x",)).content_hash == ProbeSet("b", ("x",)).content_hash
    assert len({load_probes(name).content_hash for name in PROBE_SETS}) == len(PROBE_SETS)
    assert ProbeSet("a", ("x",), ("y",)).content_hash != ProbeSet("a", ("x",)).content_hash


def test_files(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert load_probes(str(tmp_path / "p.txt")) == ProbeSet("p", ("one", "two"))
    (tmp_path / "p.jsonl").write_text('{"text": "q", "response": "a"}\n')
    assert load_probes(str(tmp_path / "p.jsonl")).responses == ("a",)
    (tmp_path / "p.jsonl").write_text('{"text": "q", "response": "a"}\n{"text": "r"}\n')
    with pytest.raises(InputError, match="1 of 2 probes have a response"):
        load_probes(str(tmp_path / "p.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"caf\xe9\n", r"p.txt: not UTF-8 text \(byte 3\)"),
        ("p.jsonl", b'{"text": 3}\n', r"p.jsonl:1: text must be a string, found 3"),
        ("p.jsonl", b'{"text": "a", "response": 4}\n', r"p.jsonl:1: response must be a string or null, found 4"),
    ],
)
def test_faulty_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_probes(str(tmp_path / name))


def test_faults() -> None:
    with pytest.raises(
        InputError, match=r"probe type 'genric' is neither one of .*\(did you mean generic\?\) nor suite:<suite>, .* or a file"
    ):
        load_probes("genric")
    with pytest.raises(InputError, match="probe set x is empty"):
        ProbeSet("x", ())
    with pytest.raises(InputError, match="has 1 texts and 2 responses"):
        ProbeSet("x", ("a",), ("b", "c"))
    with pytest.raises(InputError, match="has 5 probes, 6 were asked for"):
        load_probes("generic").first(6)


def test_the_first_probes_know_how_many_were_left_out() -> None:
    generic = load_probes("generic")
    assert generic.at_most(6) == generic
    assert generic.left_out == generic.at_most(6).left_out == 0
    assert (generic.at_most(2).texts, generic.at_most(2).left_out) == (generic.texts[:2], 3)
    assert generic.first(2).texts == generic.texts[:2]
    assert (generic.first(2).left_out, generic.first(4).first(1).left_out) == (3, 4)


def test_suite_probes_are_framed_seeded_and_answered() -> None:
    suite = micro_suite(n_train=8, n_test=2).select(["reverse-lower-plain", "double-digits-plain"])
    probes = suite_probes(suite, per_task=3, with_responses=True)
    assert len(probes.texts) == 6
    assert probes.responses is not None
    answers = {suite.framed(e.input): e.output for task in suite for e in task.train}
    assert [answers[text] for text in probes.texts] == list(probes.responses)
    assert suite_probes(suite, 3) == suite_probes(suite, 3) != suite_probes(suite, 3, seed=1)


def test_probes_of_a_suite_by_name(tmp_path: Path) -> None:
    suite = micro_suite(n_train=4, n_test=2).select(["reverse-lower-plain", "double-digits-plain"])
    suite.save(tmp_path)
    assert load_probes(f"suite:{tmp_path}").responses is None
    answered = load_probes(f"answered:{tmp_path}")
    assert answered.responses is not None
    assert answered.texts == load_probes(f"suite:{tmp_path}").texts
