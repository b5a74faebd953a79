"""Whatever a file or flag holds, the outcome is success or one sentence, and nothing is written outside the folder."""

import copy
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llgbm.config import build
from llgbm.delta.cache import DeltaCache
from llgbm.errors import InputError
from llgbm.names import path_part
from llgbm.tracking.record import ExperimentLogger
from llgbm.zoo.folder import TeacherZoo

pytestmark = pytest.mark.slow

NASTY = st.sampled_from(
    [
        "",
        ".",
        "..",
        "../../x",
        "/tmp/x",
        "a/b",
        "a\\b",
        "C:x",
        "NUL",
        "con.txt",
        "a.",
        "a\0b",
        "a\nb",
        "\ud800",
        "x" * 300,
        "(",
        "(a+)+$",
        "[/b]",
        "É",
    ]
)
TEXT = NASTY | st.text(max_size=20)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)


def cases(count: int) -> Any:
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def _places(value: Any, place: tuple = ()) -> list[tuple]:
    """Every place inside a document."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(inner for key, entry in entries for inner in _places(entry, (*place, key)))]


@st.composite
def mutated(draw: Any, document: Any) -> Any:
    """The document with one to three entries replaced, removed or added."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(document)))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                document = draw(VALUE)
            continue
        holder = document
        for key in place[:-1]:
            holder = holder[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "remove":
            del holder[place[-1]]
        elif action == "add" and isinstance(holder, dict):
            holder[draw(TEXT)] = draw(VALUE)
        else:
            holder[place[-1]] = draw(VALUE)
    return document


def _listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_manifests(tmp_path: Path) -> None:
    row = {"path": "d/t/seed0", "task": "t", "domain": "d", "split": "seen", "seed": 0, "steps": 1, "exact_match": 1.0, "hash": "a"}
    base, suite = {"name": "micro", "hash": "x"}, {"source": "micro", "hash": "y"}
    zoo = {"base": base, "suite": suite, "lora": {}, "zoo": {}, "batches": [["d/t/seed0"]], "teachers": [row]}
    delta = {"key": "k", "file": "k.safetensors", "sha256": "0", "shape": [2], "place": "/a"}
    cache = {"adapters": {"a": delta}, "config": {"base": "x"}, "base": delta}

    @cases(2500)
    @given(st.booleans(), st.data())
    def check(is_zoo: bool, data: st.DataObject) -> None:
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps(data.draw(mutated(zoo if is_zoo else cache))))
        with suppress(InputError):
            if is_zoo:
                loaded = TeacherZoo.load(folder)
                assert all((folder / t.path).resolve().is_relative_to(folder.resolve()) for t in loaded.teachers)
            else:
                DeltaCache(folder).get_all_deltas()
                DeltaCache(folder).get_delta("a")

    check()
    assert _listing(tmp_path) == {"folder", "folder/manifest.json"}


def test_names(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)

    @cases(1500)
    @given(TEXT)
    def check(name: str) -> None:
        try:
            folder = inside / path_part(name)
            assert build({"experiment_name": name, "output_dir": str(inside)}).run_folder == folder
        except InputError:
            with pytest.raises(InputError):
                ExperimentLogger(inside, name)
            with pytest.raises(InputError):
                build({"experiment_name": name})
            return
        folder.mkdir()
        assert [path.name for path in inside.iterdir()] == [name]
        shutil.rmtree(folder)

    check()
    assert _listing(tmp_path) == {"a", "a/b"}
