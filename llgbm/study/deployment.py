"""What serving adapters costs against a merged model: latency, throughput, memory and switching, by model and backend.

A backend counts only if its tokens are those of the reference (`parity`), greedy and in float32.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from pydantic.dataclasses import dataclass
from torch import Tensor

from llgbm.checking import RECORD, Integer, List, Number, read_as
from llgbm.errors import InputError
from llgbm.files import hash_file, read_json, write_json
from llgbm.lora.peft_io import TENSOR_FILE
from llgbm.progress import ProgressCallback
from llgbm.study.config import DeploymentConfig
from llgbm.study.folder import Study
from llgbm.study.parity import Reference, disagreement, make_reference
from llgbm.study.served_models import BASE, serve_model, trained_adapters
from llgbm.study.serving import BACKENDS, Served
from llgbm.study.serving_times import Serving, time_backend, time_switches
from llgbm.tracking.environment import get_environment_info

DEPLOYMENT_FILE = "deployment.json"


@dataclass(frozen=True, config=RECORD)
class BackendFindings:
    """One backend with one model."""

    model: str
    backend: str
    refused: str | None
    """Why nothing was measured: not installed, or a token differs; then the rest is empty."""
    compared_tokens: Integer = 0
    """Tokens that agreed with the reference."""
    changed: Number = 0.0
    """Share of the compared prompts that adapters answer otherwise than the base."""
    servings: List[Serving] = dataclasses.field(default_factory=list)
    switching_ms: dict[str, Number] = dataclasses.field(default_factory=dict)
    """Median time from one adapter to another, by how."""


@dataclass(frozen=True, config=RECORD)
class ModelFindings:
    """One model with all backends."""

    model: str
    parameters: Integer
    adapters: str
    """Which they are, in words."""
    refused: str | None
    """Why it is not served."""
    backends: List[BackendFindings]


@dataclass(frozen=True, config=RECORD)
class DeploymentFindings:
    """What `deployment.json` holds."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    models: List[ModelFindings]

    def rows(self) -> list[dict[str, Any]]:
        """One per model, backend and way, for a table: median milliseconds by batch size, and the median ratio to merged of each."""
        return [row for model in self.models for backend in model.backends for row in _table(backend)]


def run_deploy(study: Study, progress: ProgressCallback | None = None) -> DeploymentFindings:
    """Measure every model and backend and write `deployment.json` after each model; what was measured with these settings here stays.

    Raises:
        InputError: The base cannot be loaded, or its modules take no adapters.
    """
    trained = [hash_file(folder / TENSOR_FILE) for folder in trained_adapters(study)]
    base = {"base": study.config.model.name, "revision": study.config.model.revision, "trained_adapters": trained}
    settings = {**base, **dataclasses.asdict(study.config.deployment)}
    known, machine = read_deployment(study), _machine(study.config.model.device)
    same = known is not None and (known.settings, known.machine) == (settings, machine)
    models = {one.model: one for one in known.models} if known is not None and same else {}
    for name in study.config.deployment.models:
        if name not in models:
            models[name] = _measured(study, name, progress)
            write_json(study.path(DEPLOYMENT_FILE), dataclasses.asdict(DeploymentFindings(settings, machine, list(models.values()))))
    return DeploymentFindings(settings, machine, list(models.values()))


def read_deployment(study: Study) -> DeploymentFindings | None:
    """What `run_deploy` found; None where it has not run."""
    path = study.path(DEPLOYMENT_FILE)
    return read_as(DeploymentFindings, read_json(path), str(path)) if path.exists() else None


def _measured(study: Study, name: str, progress: ProgressCallback | None) -> ModelFindings:
    config = study.config.deployment
    if name == BASE and study.config.architecture == "encoder":
        return ModelFindings(name, 0, "", "an encoder writes no answers; give random-100m in deployment.models", [])
    with tempfile.TemporaryDirectory() as folder:
        served, about = serve_model(study, name, Path(folder))
        prompts = random_prompts(served, max(config.batch_sizes), config.prompt_tokens)
        reference = make_reference(served, prompts)
        found = []
        for done, backend in enumerate(config.backends):

            def tick(rounds: int, before: int = done * config.repeats, backend: str = backend) -> None:
                if progress:
                    progress(before + rounds, len(config.backends) * config.repeats, model=name, backend=backend)

            found.append(measure_backend(served, backend, prompts, reference, config, tick))
            tick(config.repeats)
        return ModelFindings(name, sum(p.numel() for p in served.model.parameters()), about, None, found)


def measure_backend(
    served: Served,
    backend: str,
    prompts: Int[Tensor, "B T"],
    reference: Reference,
    config: DeploymentConfig,
    tick: Callable[[int], None] | None = None,
) -> BackendFindings:
    """Compare a backend's tokens, and time it if they are right."""
    try:
        with closing(BACKENDS[backend](served)) as serving:
            differs = disagreement(serving, reference)
            if differs:
                return BackendFindings(served.name, backend, f"its tokens are not the reference's, so its times do not count ({differs})")
            servings = time_backend(serving, prompts, config, tick)
            return BackendFindings(served.name, backend, None, reference.tokens, reference.changed, servings, time_switches(serving))
    except InputError as error:
        return BackendFindings(served.name, backend, str(error))


def random_prompts(served: Served, count: int, tokens: int) -> Int[Tensor, "B T"]:
    """Texts of tokens drawn at random: what serving costs does not depend on what they say."""
    vocabulary = served.model.config.get_text_config().vocab_size
    return torch.randint(vocabulary, (count, tokens), generator=torch.Generator().manual_seed(0)).to(served.model.device)


def _machine(device: str) -> dict[str, Any]:
    about = get_environment_info()
    return {"device": device, **{name: about[name] for name in ("cpu_model", "gpu_name", "threads", "torch_version")}}


def _table(one: BackendFindings) -> list[dict[str, Any]]:
    if one.refused:
        return [{"model": one.model, "backend": one.backend, "way": one.refused}]
    rows: dict[str, dict[str, Any]] = {}
    for serving in one.servings:
        row = rows.setdefault(serving.way, {"model": one.model, "backend": one.backend, "way": serving.way})
        row[f"batch {serving.batch_size}"] = f"{serving.latency_ms['p50']:.1f} ms ({serving.ratio:.2f})"
    return list(rows.values())
