"""How long a training will take, by what runs alike took where it is recorded."""

from dataclasses import asdict, dataclass
from pathlib import Path

from llgbm.config import ExperimentConfig
from llgbm.dotted import flatten
from llgbm.errors import InputError
from llgbm.training.checkpoints import complete_steps, read_state, step_folder

COSTS = (
    *("model.name", "model.dtype", "model.device", "lora.rank", "lora.target_modules"),
    *("generator.size", "generator.encoder", "generator.condition", "generator.max_prompts"),
    *("generator.attributes", "generator.slots", "generator.readers", "training.readings"),
    *("training.tasks_per_step", "training.examples_per_task", "training.batch_size", "training.delta_batch_size"),
    *("training.mixed_precision", "training.gradient_checkpointing", "training.kl_top_k"),
)
"""Fields that decide what a step costs, beside the terms of the objective."""


@dataclass(frozen=True)
class Rate:
    """What a step took."""

    run: Path
    seconds_per_step: float


def recorded_rate(config: ExperimentConfig) -> Rate | None:
    """Of a run beside this one (itself, where it was begun) whose steps cost the same; None where there is none."""
    own = config.run_folder / "config.yaml"
    for path in [own, *sorted(Path(config.output_dir).glob("*/config.yaml"))]:
        checkpoints = path.parent / "checkpoints"
        try:
            steps = complete_steps(checkpoints)
            if steps and _costs(ExperimentConfig.load(path)) == _costs(config):
                state = read_state(step_folder(checkpoints, steps[-1]))
                return Rate(path.parent, state["seconds"] / state["step"])
        except (InputError, KeyError, ZeroDivisionError):  # of another version, or damaged: it tells nothing
            continue
    return None


def _costs(config: ExperimentConfig) -> dict[str, object]:
    values = flatten(asdict(config))
    return {**{name: values[name] for name in COSTS}, **{name: bool(weight) for name, weight in vars(config.objective).items()}}
