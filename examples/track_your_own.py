"""A script of your own, recorded: `python examples/track_your_own.py FOLDER` fits a line, and can be killed and called again.

Below FOLDER are then the record of each call (runs/), checkpoints, and the data and the fitted line as artifacts (artifacts/):
`llgbm artifacts lineage --store FOLDER/artifacts` shows which was made from which.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from llgbm.reproducibility import Checkpoint, checkpoint, reproducible, track_artifacts

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/line")


@reproducible(name="make_data", capture_level="basic", output_dir=FOLDER / "runs")
@track_artifacts(outputs={"dataset-line": "{path}"}, store=FOLDER / "artifacts")
def make_data(path: Path, count: int = 64) -> None:
    """Noisy points of y = 3x - 1."""
    x = torch.randn(count)
    y = 3 * x - 1 + 0.1 * torch.randn(count)
    path.write_text(json.dumps({"x": x.tolist(), "y": y.tolist()}))


@checkpoint(folder=FOLDER / "checkpoints", frequency=50, save_best=True, metric="loss")
def descend(data: Path, rate: float, steps: int, resume: Checkpoint | None = None) -> Iterator[Checkpoint]:
    """Gradient descent; goes on from `resume`, the newest checkpoint of these very arguments."""
    points = json.loads(Path(data).read_text())
    x, y = torch.tensor(points["x"]), torch.tensor(points["y"])
    line = torch.zeros(2) if resume is None else resume.tensors["line"]
    for step in range(resume.step + 1 if resume else 1, steps + 1):
        error = line[0] * x + line[1] - y
        line = line - rate * 2 * torch.stack([(error * x).mean(), error.mean()])
        yield Checkpoint(step, {"line": line}, {"loss": error.square().mean().item()})


@reproducible(name="fit", capture_level="standard", output_dir=FOLDER / "runs")
@track_artifacts(inputs={"dataset-line": "{data}"}, outputs={"model-line": "{model}"}, store=FOLDER / "artifacts")
def fit(data: Path, model: Path, rate: float = 0.1, steps: int = 200) -> dict[str, float]:
    """Fit, keep the line, and say how it went."""
    last = descend(data, rate, steps)
    save_file(dict(last.tensors), model)
    slope, offset = last.tensors["line"].tolist()
    return {"slope": slope, "offset": offset, **last.metrics}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_data(FOLDER / "points.json")
    print(fit(FOLDER / "points.json", FOLDER / "line.safetensors"))
