"""Whatever a file or flag holds, the outcome is success or one sentence, and nothing is written outside the folder."""

import copy
import json
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llgbm.cli import main
from llgbm.config import build
from llgbm.delta.cache import DeltaCache
from llgbm.errors import InputError
from llgbm.lora.adapter_config import CONFIG_FILE, base_of
from llgbm.lora.bulk import read_readable
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import write_adapter
from llgbm.names import path_part
from llgbm.tracking.record import ExperimentLogger
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.suites import load_suite

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


ROWS: dict[str, list[dict[str, Any]]] = {
    "suite.json": [{"name": "s", "frame": "Q {input} A"}],
    "tasks.jsonl": [
        {"task": "t", "domain": "d", "description": "do it", "paraphrases": ["do"], "prompts": ["p"], "attributes": {"a": "b"}},
        {"task": "u", "domain": "e", "split": "mixture", "description": "both", "parts": ["t"]},
    ],
    "train.jsonl": [{"task": name, "input": "i", "output": "o"} for name in "tu"],
    "test.jsonl": [{"task": name, "input": "j", "output": "o"} for name in "tu"],
}


@st.composite
def files_of_a_suite(draw: Any) -> dict[str, bytes]:
    """A suite's files, one of them with other values, other lines or other bytes."""
    files = {name: "".join(json.dumps(row) + "\n" for row in rows) for name, rows in ROWS.items()}
    name = draw(st.sampled_from(sorted(ROWS)))
    how = draw(st.sampled_from(["values", "values", "values", "lines", "bytes", "no file"]))
    if how == "values":
        rows = draw(mutated(ROWS[name]))
        files[name] = "".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows]))
    elif how == "lines":
        lines = files[name].splitlines(keepends=True)
        files[name] = "".join(draw(st.lists(st.sampled_from([*lines, "\n", "{", "[1]\n", "null\n", "NaN\n"]), max_size=4)))
    content = {name: text.encode() for name, text in files.items()}
    if how == "bytes":
        place = draw(st.integers(0, len(content[name])))
        content[name] = content[name][:place] + draw(st.binary(min_size=1, max_size=4)) + content[name][place + draw(st.integers(0, 4)) :]
    elif how == "no file":
        del content[name]
    return content


def test_suites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, statuses = tmp_path / "suite", Counter[int]()

    @cases(4000)
    @given(files_of_a_suite(), st.integers(0, 7))
    def check(files: dict[str, bytes], turn: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if turn == 0:  # the whole command, which takes longer
            status = main(["zoo", "tasks", "--suite", str(folder), "--json"])
            said = capsys.readouterr().err
            assert (status, said.count("\n")) in ((0, 0), (2, 1)), said
        try:
            suite = load_suite(folder)
            status = 0
            suite.save(folder / "again")
            assert {**load_suite(folder / "again").tasks} == suite.tasks
            for task in suite:
                path = folder / path_part(task.domain) / path_part(task.name)
                assert path.resolve().is_relative_to(folder.resolve())
        except InputError:
            status = 2
        statuses[status] += 1

    check()
    assert {path.split("/")[0] for path in _listing(tmp_path)} == {"suite"}
    assert min(statuses[0], statuses[2]) > 200  # both doors are tried


PATTERN_KEYS = st.sampled_from(["q_proj", "layers.0.q_proj", "(a+)+$", "(.*)*x", "[", "(?P<n>", "a{99999}", "^", "\\", "x" * 2000]) | TEXT
CONFIG_ENTRIES: dict[str, Any] = {
    "rank_pattern": st.dictionaries(PATTERN_KEYS, st.integers(-2, 9) | LEAF, max_size=3) | VALUE,
    "alpha_pattern": st.dictionaries(PATTERN_KEYS, st.floats() | LEAF, max_size=3) | VALUE,
    "lora_alpha": st.floats() | VALUE,
    **dict.fromkeys(("r", "peft_type", "bias", "init_lora_weights", "use_rslora"), VALUE),
    **dict.fromkeys(("use_dora", "modules_to_save", "layer_replication", "base_model_name_or_path", "target_modules"), VALUE),
}


def test_adapter_configs(tmp_path: Path) -> None:
    folder, statuses = tmp_path / "adapter", Counter[int]()
    factors = LoRAFactors.initialize({f"layers.{i}.q_proj": (4, 4) for i in range(2)}, 2, 4.0, 1, torch.Generator().manual_seed(0))
    write_adapter(folder, factors, base_name="b")
    sound = json.loads((folder / CONFIG_FILE).read_text())

    @cases(2000)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            config = data.draw(mutated(sound))
        else:
            names = data.draw(st.lists(st.sampled_from(sorted(CONFIG_ENTRIES)), max_size=3, unique=True))
            config = {**sound, **{name: data.draw(CONFIG_ENTRIES[name]) for name in names}}
        (folder / CONFIG_FILE).write_text(json.dumps(config))
        batch = read_readable([folder])
        assert batch.failures.keys() | set(batch.paths) == {str(folder)}
        assert all("\n" not in reason for reason in batch.failures.values())
        with suppress(InputError):
            base_of(folder)
        if batch.factors is not None:
            assert all(scaling.isfinite().all() for scaling in batch.factors.scaling.values())
        statuses[2 if batch.failures else 0] += 1

    check()
    assert _listing(tmp_path) == {"adapter", f"adapter/{CONFIG_FILE}", "adapter/adapter_model.safetensors"}
    assert min(statuses[0], statuses[2]) > 200
