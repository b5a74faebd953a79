"""Adapters of the hub and of folders become a zoo: each checked, the others named, none fetched twice."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from hub_world import Hub, commit_of, files_of, into_cache, serve
from tiny import peft_adapter
from training_world import build_world

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.hub import fetched, hub_id
from llgbm.lora.peft_io import adapter_hash
from llgbm.tracking.store import ArtifactStore
from llgbm.zoo.base import load_base
from llgbm.zoo.folder import TeacherZoo

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A dozen adapters of the built-in base as PEFT writes them, of several ranks and targets."""
    model, folder = load_base("micro").model, tmp_path_factory.mktemp("peft")
    targets = (["q_proj"], ["q_proj", "v_proj"], "all-linear")
    for k in range(12):
        peft_adapter(model, folder / f"a{k}", seed=k, r=1 + k % 2, target_modules=targets[k % 3])
    return sorted(folder.iterdir())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def run_import(zoo: Path, *given: object) -> int:
    return main(["zoo", "import", *map(str, given), "--zoo", str(zoo), "--quiet"])


def manifest(zoo: Path) -> dict:
    return json.loads((zoo / "manifest.json").read_text())


def test_ids_of_a_list_become_a_zoo(adapters: list[Path], cache: Path, tmp_path: Path, capsys: Said) -> None:
    commits = [into_cache(cache, f"org{k}/same", files_of(folder)) for k, folder in enumerate(adapters[:10])]
    commits += [into_cache(cache, "org0/same", files_of(adapters[10]), branch="v1"), into_cache(cache, "o/n", files_of(adapters[11]))]
    lines = ["# mine", *(f"org{k}/same  # the {k}th" for k in range(5)), "", *(f"hf://org{k}/same" for k in range(5, 10)), "org0/same@v1"]
    (tmp_path / "ids.txt").write_text("\n".join(lines))
    zoo = tmp_path / "zoo"
    assert run_import(zoo, tmp_path / "ids.txt", "hf://o/n", "hf://org0/same") == 0
    assert f"{zoo}: 12 imported, 0 kept, 0 failed" in capsys.readouterr().out
    found = manifest(zoo)["imported"]
    names = [*(f"hf://org{k}/same" for k in range(10)), "hf://org0/same@v1", "hf://o/n"]
    assert found == {
        name: {"path": f"{hub_id(name)[0]}/{commit}", "commit": commit} for name, commit in sorted(zip(names, commits, strict=True))
    }
    opened = TeacherZoo.load(zoo)
    hashes = {teacher.path: teacher.hash for teacher in opened.teachers}
    assert [hashes[found[name]["path"]] for name in names] == [adapter_hash(folder) for folder in adapters]
    assert not opened.damaged()
    assert {path.name for path in zoo.rglob("*") if path.is_file()} == {"manifest.json", WEIGHTS, CONFIG}
    assert main(["zoo", "list", "--zoo", str(zoo)]) == 0
    assert main(["compute-deltas", "--zoo", str(zoo), "--deltas", str(tmp_path / "deltas"), "--quiet"]) == 0
    assert "12 computed, 0 reused, 0 failed" in capsys.readouterr().out
    assert main(["retrieve", "--adapter", str(adapters[3]), "--deltas", str(tmp_path / "deltas"), "--k", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["adapter"] == str(zoo / found["hf://org3/same"]["path"])


def broken_repositories(cache: Path, whole: dict[str, bytes], other_base: Path) -> dict[str, str]:
    """Repositories of the cache that cannot be imported -> what is said."""
    config = json.loads(whole[CONFIG])
    into_cache(cache, "bad/cut", whole | {WEIGHTS: whole[WEIGHTS][:-9]})
    into_cache(cache, "bad/bare", {WEIGHTS: whole[WEIGHTS]})
    into_cache(cache, "bad/shape", files_of(other_base))
    into_cache(cache, "bad/base", whole | {CONFIG: json.dumps(config | {"base_model_name_or_path": "Qwen/Other"}).encode()})
    into_cache(cache, "bad/dora", whole | {CONFIG: json.dumps(config | {"use_dora": True}).encode()})
    into_cache(cache, "bad/pickle", {CONFIG: whole[CONFIG], "adapter_model.bin": pickle.dumps(shutil.rmtree)})
    into_cache(cache, "bad/ref", whole, commit="../../escaped")
    return {
        "hf://bad/cut": "adapter_model.safetensors is truncated or broken",
        "hf://bad/bare": "has no adapter_config.json; only adapters in safetensors are imported",
        "hf://bad/shape": "train it for this base",
        "hf://bad/base": "was trained on base 'Qwen/Other', this zoo is of micro; leave it out, or give --same_base Qwen/Other",
        "hf://bad/dora": "uses DoRA, which LoRA factors cannot express",
        "hf://bad/pickle": "has no adapter_model.safetensors; only adapters in safetensors are imported",
        "hf://bad/ref": "which is no commit; remove",
        "hf://bad/nowhere": "cannot be had from the hub",
        "hf://bad/../escape": "is no name of the hub's",
    }


@pytest.fixture(scope="module")
def other_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of a base with other shapes."""
    from tiny import tiny_model

    peft_adapter(tiny_model("qwen2"), tmp_path_factory.mktemp("other") / "a", target_modules=["q_proj"])
    return next(path for path in tmp_path_factory.getbasetemp().glob("other*/a"))


def test_what_cannot_be_imported_is_named_and_the_rest_is(
    adapters: list[Path], other_base: Path, cache: Path, tmp_path: Path, capsys: Said
) -> None:
    into_cache(cache, "org/good", files_of(adapters[0]))
    expected = broken_repositories(cache, files_of(adapters[1]), other_base)
    assert run_import(tmp_path / "zoo", *list(expected)[:4], "hf://org/good", *list(expected)[4:]) == 2
    out, err = capsys.readouterr()
    said = err.splitlines()
    assert len(said) == len(expected)
    for line, (name, reason) in zip(said, expected.items(), strict=True):
        assert line.startswith("llgbm: ")
        assert name in line
        assert reason in line
    assert f"1 imported, 0 kept, {len(expected)} failed" in out
    assert list(manifest(tmp_path / "zoo")["imported"]) == ["hf://org/good"]
    assert run_import(tmp_path / "none", "hf://bad/cut") == 2
    assert "none of 1 adapters could be imported" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert run_import(tmp_path / "zoo", "hf://bad/base", "--same_base", "qwen/other") == 0


@pytest.mark.parametrize("count", [pytest.param(100, marks=pytest.mark.slow)])
def test_a_twentieth_broken_of_many(count: int, adapters: list[Path], other_base: Path, cache: Path, tmp_path: Path, capsys: Said) -> None:
    broken = list(broken_repositories(cache, files_of(adapters[1]), other_base))[:5]
    for k in range(count - 5):
        into_cache(cache, f"org/a{k}", files_of(adapters[k % 12]))
    names = [f"org/a{k}" for k in range(count - 5)]
    for k, name in enumerate(broken):
        names.insert(20 * k, name)
    (tmp_path / "ids.txt").write_text("\n".join(names))
    for done in (f"{count - 5} imported, 0 kept, 5 failed", f"0 imported, {count - 5} kept, 5 failed"):
        assert run_import(tmp_path / "zoo", tmp_path / "ids.txt") == 2
        out, err = capsys.readouterr()
        assert done in out
        assert [next(name for name in broken if name in line) for line in err.splitlines()] == broken
    assert len(TeacherZoo.load(tmp_path / "zoo").teachers) == count - 5


@pytest.fixture
def hub(adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub that can be reached, with three adapters, and an empty cache."""
    hub = Hub()
    hub.repositories = {f"org/a{k}": files_of(adapters[k]) for k in range(3)}
    with serve(hub, tmp_path / "hub", monkeypatch):
        yield hub


def test_what_was_imported_is_not_fetched_again(hub: Hub, adapters: list[Path], tmp_path: Path, capsys: Said) -> None:
    zoo = tmp_path / "zoo"
    hub.cut = {"org/a1"}
    assert run_import(zoo, "hf://org/a0", "hf://org/a1", "hf://org/gone") == 2
    err = capsys.readouterr().err
    assert "hf://org/a1: cannot be had from the hub" in err
    assert "hf://org/gone: cannot be had from the hub" in err
    hub.cut, fetched_files = set(), [line for line in hub.asked if line.startswith("GET /org/a0/")]
    assert sorted(line.rpartition("/")[2] for line in fetched_files) == [CONFIG, WEIGHTS]
    hub.asked.clear()
    assert run_import(zoo, "hf://org/a0", "hf://org/a1", "hf://org/a2") == 0
    assert f"{zoo}: 2 imported, 1 kept, 0 failed" in capsys.readouterr().out
    assert not [line for line in hub.asked if "/a0/" in line]
    hub.asked.clear()
    origins = manifest(zoo)["imported"]
    assert origins["hf://org/a2"]["commit"] == commit_of("org/a2 main")
    weights = zoo / origins["hf://org/a1"]["path"] / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(
        InputError, match=r"is not as it was imported \(its weights have hash .*\); 'llgbm zoo import' into .* takes it again"
    ):
        TeacherZoo.load(zoo).check(TeacherZoo.load(zoo).teachers)
    assert run_import(zoo, "hf://org/a0", "hf://org/a1", "hf://org/a2") == 0
    assert "1 imported, 2 kept, 0 failed" in capsys.readouterr().out
    assert adapter_hash(weights.parent) == adapter_hash(adapters[1])
    shutil.rmtree(tmp_path / "hub")
    assert run_import(zoo, "hf://org/a0", "hf://org/a1", "hf://org/a2") == 0
    assert not hub.asked


def test_an_interrupted_import_keeps_what_it_had(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    from llgbm.zoo import imported

    real, zoo = imported.fetched, tmp_path / "zoo"

    def stopped(name: str, *args: object, **options: object) -> Path:
        if name.endswith("a2"):
            raise KeyboardInterrupt
        return real(name, *args, **options)

    monkeypatch.setattr(imported, "fetched", stopped)
    assert run_import(zoo, "hf://org/a0", "hf://org/a1", "hf://org/a2") == 130
    assert (zoo / "manifest.json").exists()
    assert list(manifest(zoo)["imported"]) == ["hf://org/a0", "hf://org/a1"]
    monkeypatch.setattr(imported, "fetched", real)
    assert run_import(zoo, "hf://org/a0", "hf://org/a1", "hf://org/a2") == 0
    assert "1 imported, 2 kept, 0 failed" in capsys.readouterr().out


def test_nothing_is_asked_where_the_cache_has_it_or_offline_is_said(
    hub: Hub, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    into_cache(tmp_path / "hub", "org/a0", files_of(adapters[0]))
    assert run_import(tmp_path / "zoo", "hf://org/a0") == 0
    into_cache(tmp_path / "hub", "org/a1", {CONFIG: files_of(adapters[1])[CONFIG]})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run_import(tmp_path / "zoo", "hf://org/a1", "hf://org/a2") == 2
    err = capsys.readouterr().err
    assert "hf://org/a1: has no adapter_model.safetensors" in err
    assert "hf://org/a2: cannot be had from the hub" in err
    assert not hub.asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert run_import(tmp_path / "zoo", "hf://org/a1") == 0


HOSTILE = ("", "name", "a/b/c", "../b", "a/..", "a/../../b", "/etc/passwd", "a/b@", "a/b@../../x", "a/b@/x", "a/b@x//y", "a/b@x y")
HOSTILE += (
    "a/b\n",
    "a/b\0",
    "a/b?x=1",
    "a/b#c",
    "a%2f/b",
    "a\\b/c",
    "C:/b",
    "~/b",
    "-a/b",
    "a/.b",
    "a/b.",
    "a--x/b",
    "a/b..c",
    "\u0430/b",
    "a/b@c@d",
)
HOSTILE += ("hf://hf://a/b", "http://x/y", "a/NUL", "con/b", "a/b@aux", "a/" + "b" * 300)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_ids_are_refused_by_one_function(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: pytest.fail("it was looked for"))
    with pytest.raises(InputError, match=r"no name of the hub's|give a path below its folder"):
        hub_id(f"hf://{name}")
    with pytest.raises(InputError):
        fetched(f"hf://{name}")


@pytest.mark.parametrize("name", ["a/b", "a/b@refs/pr/1", "A_1/b-2.0", "a/b@v1.0", "a/b@" + "c" * 40, "a/b@feature--x"])
def test_good_ids_are_taken_apart(name: str) -> None:
    repo_id, _, revision = name.partition("@")
    assert hub_id(name) == hub_id(f"hf://{name}") == (repo_id, revision or None)


def test_folders_become_a_zoo_too(adapters: list[Path], tmp_path: Path, capsys: Said) -> None:
    mine, zoo = adapters[0].parent, tmp_path / "zoo"
    assert run_import(zoo, mine) == 0
    assert {teacher.path for teacher in TeacherZoo.load(zoo).teachers} == {f"{mine.name}/{folder.name}" for folder in adapters}
    twin = tmp_path / "twin" / mine.name
    shutil.copytree(adapters[5], twin / adapters[0].name)
    assert run_import(zoo, twin) == 2
    assert (
        f"{twin / 'a0'}: would stand at {mine.name}/a0, where {mine.name}/a0 stands already; rename its folder" in capsys.readouterr().err
    )
    assert TeacherZoo.load(zoo).damaged() == {}
    (tmp_path / "empty").mkdir()
    assert run_import(zoo, tmp_path / "empty") == 2
    assert "no adapters here" in capsys.readouterr().err
    assert run_import(zoo, tmp_path / "nothing") == 2
    assert "no such file or folder; give a folder of adapters" in capsys.readouterr().err


def test_what_lies_in_the_zoo_already_is_taken_where_it_is(adapters: list[Path], tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(adapters[0], zoo / "mine")
    (tmp_path / "links" / "other").mkdir(parents=True)
    shutil.copytree(adapters[1], zoo / "links" / "other")
    for name in (WEIGHTS, CONFIG):
        (tmp_path / "links" / "other" / name).symlink_to(zoo / "links" / "other" / name)
    assert run_import(zoo, zoo / "mine", tmp_path / "links") == 0
    assert [teacher.path for teacher in TeacherZoo.load(zoo).teachers] == ["links/other", "mine"]
    for place, adapter in ((zoo / "mine", adapters[0]), (zoo / "links" / "other", adapters[1])):
        assert {WEIGHTS, CONFIG} <= files_of(place).keys()
        assert adapter_hash(place) == adapter_hash(adapter)


def test_a_damaged_teacher_stays_until_it_is_taken_again(adapters: list[Path], tmp_path: Path, capsys: Said) -> None:
    zoo = tmp_path / "zoo"
    assert run_import(zoo, adapters[0], adapters[1]) == 0
    (zoo / "a0" / WEIGHTS).unlink()
    assert run_import(zoo, adapters[2]) == 0
    opened = TeacherZoo.load(zoo)
    assert [teacher.path for teacher in opened.teachers] == [folder.name for folder in adapters[:3]]
    assert list(opened.damaged()) == ["a0"]
    assert list(manifest(zoo)["imported"]) == [str(folder) for folder in adapters[:3]]
    capsys.readouterr()
    assert run_import(zoo, *adapters[:3]) == 0
    assert "1 imported, 2 kept, 0 failed" in capsys.readouterr().out
    assert TeacherZoo.load(zoo).damaged() == {}


def test_a_zoo_without_tasks_says_so(adapters: list[Path], tmp_path: Path, capsys: Said) -> None:
    zoo = tmp_path / "zoo"
    assert run_import(zoo, adapters[0]) == 0
    build = ["zoo", "build", "smoke", "--zoo", str(zoo), "--base", "micro"]
    for command in (["train", "smoke", "--run", str(tmp_path / "run")], ["evaluate", "--run", "none", "--output", str(tmp_path)]):
        assert main([*command, "--zoo", str(zoo)]) == 2
        assert "its adapters were imported, and nothing says which tasks they are for" in capsys.readouterr().err
    assert main(build) == 2
    assert "holds imported adapters, and none can be trained among them" in capsys.readouterr().err


def test_trained_teachers_are_left_alone(adapters: list[Path], tmp_path: Path, capsys: Said) -> None:
    config = build_world(tmp_path)
    assert run_import(Path(config.checkpoint_folder), adapters[0]) == 2
    assert "holds teachers that were trained there; import into another folder" in capsys.readouterr().err


def test_lineage_says_where_adapters_are_from(adapters: list[Path], cache: Path, tmp_path: Path) -> None:
    commit = into_cache(cache, "org/a", files_of(adapters[0]))
    assert run_import(tmp_path / "zoo", "hf://org/a", "--store", tmp_path / "store") == 0
    (zoo,) = [artifact for artifact in ArtifactStore(tmp_path / "store") if artifact.kind == "zoo"]
    assert zoo.metadata["imported"] == {"hf://org/a": {"path": f"org/a/{commit}", "commit": commit}}
    flags = ["--zoo", str(tmp_path / "zoo"), "--deltas", str(tmp_path / "deltas"), "--store", str(tmp_path / "store"), "--quiet"]
    assert main(["compute-deltas", *flags]) == 0
    (deltas,) = [artifact for artifact in ArtifactStore(tmp_path / "store") if artifact.kind == "deltas"]
    assert deltas.inputs == (zoo.ref,)
