"""Scripts of people's own: recorded, their files kept with what they were made from, their loops resumed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.reproducibility import Checkpoint, checkpoint, current_run, reproducible, track_artifacts
from llgbm.tracking.record import read_metrics
from llgbm.tracking.store import ArtifactStore

ROOT = Path(__file__).parents[2]


def test_the_example_runs_and_goes_on_from_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "track_your_own.py"), str(tmp_path)]
    for _ in range(2):
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    record = read_json(tmp_path / "runs" / "fit" / "metadata.json")
    assert record["state"] == "COMPLETED"
    assert record["final_metrics"]["slope"] == pytest.approx(3, abs=0.1)
    assert record["final_metrics"]["offset"] == pytest.approx(-1, abs=0.1)
    assert record["artifacts"] == {"inputs": ["dataset-line:v1"], "outputs": ["model-line:v1"]}
    assert {artifact.ref: artifact.inputs for artifact in ArtifactStore(tmp_path / "artifacts")} == {
        "dataset-line:v1": (),
        "model-line:v1": ("dataset-line:v1",),
    }
    assert "step_200" in {path.name for path in (tmp_path / "checkpoints").iterdir()}


def test_a_call_is_recorded_with_arguments_seed_figures_and_fault(tmp_path: Path) -> None:
    @reproducible(name="mine", capture_level="basic", output_dir=tmp_path)
    def draw(count: int, seed: int = 7, folder: Path = tmp_path) -> dict[str, float]:
        current_run().log_metrics(1, {"loss": 0.5})
        if count < 0:
            raise ValueError("no luck")
        return {"mean": torch.rand(count).mean().item()}

    assert draw(3) == draw(3)
    assert draw(3) != draw(3, seed=8)
    record = read_json(tmp_path / "mine" / "metadata.json")
    assert (record["state"], record["level"]) == ("COMPLETED", "basic")
    assert record["config"] == {"function": draw.__qualname__, "count": 3, "seed": 8, "folder": str(tmp_path)}
    assert record["final_metrics"] == draw(3, seed=8)
    with pytest.raises(ValueError, match="no luck"):
        draw(-1)
    assert read_json(tmp_path / "mine" / "metadata.json")["error"] == "ValueError: no luck"
    with pytest.raises(InputError, match=r"argument count of .*draw is <object .*, which cannot be recorded as JSON"):
        draw(object())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no function decorated with @reproducible is running"):
        current_run()


def test_what_a_call_returns_reaches_the_caller_whatever_json_can_hold(tmp_path: Path) -> None:
    found = {"loss": float("nan"), "mean": torch.tensor(0.5), "rows": torch.zeros(2), "by": Path("place"), "n": 3}
    assert reproducible(name="mine", output_dir=tmp_path)(lambda: found)() is found
    record = read_json(tmp_path / "mine" / "metadata.json")
    assert record["state"] == "COMPLETED"
    assert record["final_metrics"] == {"loss": "nan", "mean": 0.5, "rows": "tensor([0., 0.])", "by": "place", "n": 3}


def test_a_shorter_call_leaves_no_tail_of_a_longer_one_before(tmp_path: Path) -> None:
    @reproducible(name="mine", output_dir=tmp_path)
    def count(start: int, end: int) -> None:
        for step in range(start, end):
            current_run().log_metrics(step, {"start": start})

    count(0, 5)
    count(0, 3)
    count(2, 4)  # goes on behind step 1
    rows = read_metrics(tmp_path / "mine" / "metrics.jsonl")
    assert [(row["step"], row["start"]) for row in rows] == [(0, 0), (1, 0), (2, 2), (3, 2)]


def test_files_are_linked_whoever_made_them(tmp_path: Path) -> None:
    store = tmp_path / "store"

    @track_artifacts(outputs=["{folder}/a.txt"], store=store)
    def first(folder: Path, text: str) -> None:
        (folder / "a.txt").write_text(text)

    @track_artifacts(inputs=[f"{tmp_path}/a.txt", "a.txt:v1"], outputs=[f"{tmp_path}/b.txt"], store=store)
    def second(write: bool = True) -> str:
        if write:
            (tmp_path / "b.txt").write_text("b" + (tmp_path / "a.txt").read_text())
        return "done"

    with pytest.raises(InputError, match=r"input .*a\.txt: neither a file nor a folder, nor an artifact of .*store; make it first"):
        second()
    first(tmp_path, "one")
    first(tmp_path, "two")
    assert second() == "done"
    assert {artifact.ref: artifact.inputs for artifact in ArtifactStore(store)} == {
        "a.txt:v1": (),
        "a.txt:v2": (),
        "b.txt:v1": ("a.txt:v2", "a.txt:v1"),
    }
    track_artifacts(inputs=[f"{tmp_path}/b.txt"], store=store)(lambda: None)()
    assert len(list(ArtifactStore(store))) == 3  # what another function wrote is no new version
    (tmp_path / "b.txt").unlink()
    with pytest.raises(InputError, match=r"b\.txt: no such file or folder"):
        second(write=False)


def test_other_processes_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    kept = track_artifacts(outputs=[f"{tmp_path}/a"], store=tmp_path / "store")(lambda: 7)
    walk = checkpoint(tmp_path / "states")(lambda resume=None: iter([Checkpoint(1, {"x": torch.ones(1)}, {"loss": 1.0})]))
    assert (kept(), walk().step) == (7, 1)
    assert not list(tmp_path.iterdir())


def make_walk(folder: Path, stop: list[int], **options):
    """A loop whose loss is |step - 5|, and which fails after the steps in `stop`, each once."""

    @checkpoint(folder, **{"frequency": 4, **options})
    def walk(steps: int, resume: Checkpoint | None = None) -> Iterator[Checkpoint]:
        total = torch.zeros(2) if resume is None else resume.tensors["total"]
        for step in range(resume.step + 1 if resume else 1, steps + 1):
            total = total + step
            yield Checkpoint(step, {"total": total}, {"loss": abs(step - 5)})
            if step in stop:
                stop.remove(step)
                raise ValueError("interrupted")

    return walk


def steps_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_loop_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, stop = make_walk(tmp_path / "whole", []), [10]
    broken = make_walk(tmp_path / "broken", stop)
    with pytest.raises(ValueError, match="interrupted"):
        broken(13)
    assert steps_in(tmp_path / "broken") == {"step_5", "step_8"}
    for walk, folder in ((whole, "whole"), (broken, "broken"), (whole, "whole")):
        last = walk(13)
        assert (last.step, last.tensors["total"].tolist(), last.metrics) == (13, [91, 91], {"loss": 8})
        assert steps_in(tmp_path / folder) == {"step_5", "step_13"}
    files = [tmp_path / folder / "step_13" / "state.safetensors" for folder in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()
    make_walk(tmp_path / "large", [], mode="max")(13)
    make_walk(tmp_path / "plain", [], save_best=False)(13)
    assert steps_in(tmp_path / "large") == {"step_13"}
    assert steps_in(tmp_path / "plain") == {"step_13"}


def test_the_first_step_may_be_0_and_the_best(tmp_path: Path) -> None:
    def rise(last: int, resume: Checkpoint | None = None) -> Iterator[Checkpoint]:
        for step in range(resume.step + 1 if resume else 0, last + 1):
            yield Checkpoint(step, {"total": torch.tensor([step])}, {"loss": float(step)})

    for last, kept in ((0, {"step_0"}), (3, {"step_0", "step_3"})):
        assert checkpoint(tmp_path / str(last), frequency=2)(rise)(last).step == last
        assert steps_in(tmp_path / str(last)) == kept


def test_a_damaged_checkpoint_is_passed_over_and_written_anew(tmp_path: Path) -> None:
    walk = make_walk(tmp_path, [])
    walk(13)
    file = tmp_path / "step_13" / "state.safetensors"
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert walk(13).tensors["total"].tolist() == [91, 91]
    assert file.read_bytes() == sound
    assert load_file(file)["total"].tolist() == [91, 91]
    file.write_bytes(sound[:-1])
    make_walk(tmp_path, [], frequency=100)(13)
    assert file.read_bytes() == sound


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="frequency is 0; give the number of steps between two checkpoints, from 1"):
        checkpoint(tmp_path, frequency=0)
    make_walk(tmp_path / "a", [])(4)
    with pytest.raises(InputError, match=r"step_4: was made with other arguments; give another folder, or remove"):
        make_walk(tmp_path / "a", [])(5)
    with pytest.raises(InputError, match="step 1 has no metric 'accuracy'; it has loss"):
        make_walk(tmp_path / "b", [], metric="accuracy")(5)
    with pytest.raises(InputError, match="yielded no step, so there is nothing to keep"):
        make_walk(tmp_path / "c", [])(0)
    nan = checkpoint(tmp_path / "d", save_best=False)(lambda resume=None: iter([Checkpoint(1, {}, {"loss": float("nan")})]))
    with pytest.raises(InputError, match="step 1: metric loss is nan, which cannot be recorded"):
        nan()


def test_metrics_of_a_loop_go_into_the_running_record(tmp_path: Path) -> None:
    walk = make_walk(tmp_path / "states", [])
    reproducible(name="walk", output_dir=tmp_path)(lambda: walk(3).metrics)()
    assert [row["step"] for row in read_metrics(tmp_path / "walk" / "metrics.jsonl")] == [1, 2, 3]
