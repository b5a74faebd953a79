"""`llgbm bench deltas`: fingerprints of many adapters at once, against PEFT one after another and the bare base.

The reference is how Delta Activations (arXiv:2509.04442) does it, done correctly: load an adapter, forward each probe,
take the last layer's last token, average, unload. The floor is the base alone on the same tokens in one batch, in the
chunks the engine uses.
"""

import copy
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import Qwen2Config, Qwen2ForCausalLM

from llgbm.bench.clock import now
from llgbm.config import ExperimentConfig
from llgbm.delta import DeltaEngine, DeltaOptions
from llgbm.errors import InputError
from llgbm.lora.bulk import read_readable
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes, write_adapter
from llgbm.probes import ProbeSet, load_probes
from llgbm.zoo.base import Base, load_base, load_configured
from llgbm.zoo.folder import TeacherZoo


def bench_deltas(config: ExperimentConfig, n_adapters: int = 120, repeats: int = 3) -> dict:
    """Median seconds of each way, from adapters on disk to fingerprints; ratios; the largest difference."""
    zoo = TeacherZoo.load(config.checkpoint_folder)
    paths = [zoo.folder / teacher.path for teacher in zoo.teachers[:n_adapters]]
    return compare_deltas(load_configured(config.model), paths, load_probes("generic"), repeats)


def bench_deltas_100m(config: ExperimentConfig, n_adapters: int = 8, repeats: int = 3) -> dict:
    """The same on a random Qwen2 of about 100M parameters, where the base's own work dominates; adapters of random factors."""
    tokenizer = load_base("micro").tokenizer
    base = Base(random_qwen2(len(tokenizer), config.model.device), tokenizer, "qwen2-100m")
    generator = torch.Generator().manual_seed(0)
    shapes = target_shapes(base.model, config.lora.target_modules)
    factors = LoRAFactors.initialize(shapes, config.lora.rank, config.lora.alpha, n_adapters, generator=generator)
    factors = factors.map(lambda tensor: torch.randn(tensor.shape, generator=generator) * 0.02)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(k) for k in range(n_adapters)]
        for k, path in enumerate(paths):
            write_adapter(path, factors, k, base_name=base.name)
        figures = compare_deltas(base, paths, load_probes("generic"), repeats)
    return {"parameters": sum(p.numel() for p in base.model.parameters()), **figures}


@torch.no_grad()
def compare_deltas(base: Base, paths: Sequence[Path], probes: ProbeSet, repeats: int = 3) -> dict:
    """Time the three ways in turn on any base and any adapters of it."""
    engine = DeltaEngine(base, probes, DeltaOptions())
    model = copy.deepcopy(base.model)
    states = _base_fingerprint(base.model, base, probes)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "engine": lambda: _engine_fingerprints(engine, paths),
        "floor": lambda: _base_only(engine, len(paths)),
        "peft": lambda: np.stack([_peft_fingerprint(model, path, base, probes) - states for path in paths]),
    }
    results = {name: run() for name, run in ways.items() if name != "peft"}  # warm up; the first PEFT run is no slower
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = now()
            results[name] = run()
            seconds[name].append(now() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "n_adapters": len(paths),
        "n_probes": len(probes.texts),
        "tokens": int(engine.batch.attention_mask.sum()) * len(paths),
        "threads": torch.get_num_threads(),
        **{f"{name}_s": value for name, value in median.items()},
        "seconds": seconds,
        "speedup_over_peft": median["peft"] / median["engine"],
        "floor_over_peft": median["peft"] / median["floor"],
        "times_the_floor": median["engine"] / median["floor"],
        "max_difference": float(np.abs(results["engine"] - results["peft"]).max()),
        "largest_delta": float(np.abs(results["peft"]).max()),
    }


def _engine_fingerprints(engine: DeltaEngine, paths: Sequence[Path]) -> np.ndarray:
    batch = read_readable(paths, engine.functional.shapes)
    if batch.factors is None or batch.failures:
        raise InputError(next(iter(batch.failures.values()), "no adapters to measure; build a zoo first"))
    return engine.deltas(batch.factors)


def _base_only(engine: DeltaEngine, n_adapters: int) -> np.ndarray:
    for start in range(0, n_adapters, engine.adapters_at_once):
        count = min(engine.adapters_at_once, n_adapters - start)
        ids = engine.batch.input_ids.repeat(count, 1).to(engine.functional.device)
        engine.functional(None, ids, hidden_layers=engine.layers)
    return np.zeros(0)


def _base_fingerprint(model: torch.nn.Module, base: Base, probes: ProbeSet) -> np.ndarray:
    """Mean over probes of the last layer's last token, one forward a probe."""
    states = []
    for text in probes.texts:
        inputs = base.tokenizer(text, return_tensors="pt", truncation=True, max_length=256).to(base.model.device)
        output = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, output_hidden_states=True)
        states.append(output.hidden_states[-1][0, -1].float())
    return torch.stack(states).mean(0).cpu().numpy()


def _peft_fingerprint(model: torch.nn.Module, path: Path, base: Base, probes: ProbeSet) -> np.ndarray:
    adapted = PeftModel.from_pretrained(model, path)  # type: ignore[arg-type]
    fingerprint = _base_fingerprint(adapted, base, probes)
    adapted.unload()
    return fingerprint


def random_qwen2(vocabulary: int, device: str = "cpu") -> Qwen2ForCausalLM:
    """GPT-2's proportions with gated feed-forward layers; the vocabulary is small, so all of it is layers."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=768,
        intermediate_size=2688,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.device(device):
        return Qwen2ForCausalLM(config).eval().requires_grad_(False)
