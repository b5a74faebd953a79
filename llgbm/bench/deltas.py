"""`llgbm bench deltas`: fingerprints of many adapters at once, against PEFT one after another and the bare base.

The reference is how Delta Activations (arXiv:2509.04442) does it, done correctly: load an adapter, forward each probe,
take the last layer's last token, average, unload.
"""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaEngine, DeltaOptions
from llgbm.lora.peft_io import read_adapters
from llgbm.probes import ProbeSet, load_probes
from llgbm.zoo.base import Base, load_base
from llgbm.zoo.teachers import TeacherZoo


def bench_deltas(config: ExperimentConfig, n_adapters: int = 120, repeats: int = 3) -> dict:
    """Median seconds of each way, from adapters on disk to fingerprints; ratios; the largest difference."""
    zoo = TeacherZoo.load(config.checkpoint_folder)
    paths = [zoo.folder / teacher.path for teacher in zoo.teachers[:n_adapters]]
    return compare_deltas(load_base(config.model.name), paths, load_probes("generic"), repeats)


@torch.no_grad()
def compare_deltas(base: Base, paths: list[Path], probes: ProbeSet, repeats: int = 3) -> dict:
    """Time the three ways on any base and any adapters of it."""
    engine = DeltaEngine(base, probes, DeltaOptions())
    model = copy.deepcopy(base.model)
    states = _base_fingerprint(base.model, base, probes)
    ids, mask = engine.batch.input_ids, engine.batch.attention_mask

    def floor() -> np.ndarray:
        k = engine.adapters_at_once
        for start in range(0, len(paths), k):
            count = min(k, len(paths) - start)
            engine.functional(None, ids.repeat(count, 1), mask.repeat(count, 1), hidden_layers=engine.layers)
        return np.zeros(0)

    ways: dict[str, Callable[[], np.ndarray]] = {
        "engine": lambda: engine.deltas(read_adapters(paths, engine.functional.shapes)),
        "floor": floor,
        "peft": lambda: np.stack([_peft_fingerprint(model, path, base, probes) - states for path in paths]),
    }
    results = {name: run() for name, run in ways.items() if name != "peft"}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "n_adapters": len(paths),
        "n_probes": len(probes.texts),
        "tokens": int(mask.sum()) * len(paths),
        **{f"{name}_s": value for name, value in median.items()},
        "speedup_over_peft": median["peft"] / median["engine"],
        "times_the_floor": median["engine"] / median["floor"],
        "max_difference": float(np.abs(results["engine"] - results["peft"]).max()),
    }


def _base_fingerprint(model: torch.nn.Module, base: Base, probes: ProbeSet) -> np.ndarray:
    """Mean over probes of the last layer's last token, one forward a probe."""
    states = []
    for text in probes.texts:
        inputs = base.tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        output = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, output_hidden_states=True)
        states.append(output.hidden_states[-1][0, -1].float())
    return torch.stack(states).mean(0).numpy()


def _peft_fingerprint(model: torch.nn.Module, path: Path, base: Base, probes: ProbeSet) -> np.ndarray:
    adapted = PeftModel.from_pretrained(model, path)  # type: ignore[arg-type]
    fingerprint = _base_fingerprint(adapted, base, probes)
    adapted.unload()
    return fingerprint
