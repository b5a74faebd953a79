"""What a worker does that trains teachers: it holds the base, trains a batch at a time, and hands the adapters back; it writes nothing."""

from dataclasses import dataclass
from functools import cached_property

from llgbm.config import ExperimentConfig
from llgbm.fanout.crew import Tick
from llgbm.files import hash_json
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA
from llgbm.judging import Judge, judge_answers
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes
from llgbm.scoring import Score
from llgbm.tracking.environment import set_seed
from llgbm.tracking.validation import look_up
from llgbm.zoo.base import BaseIdentity, content_of, load_configured
from llgbm.zoo.check import Finding, require_fit
from llgbm.zoo.suite import Task, TaskSuite
from llgbm.zoo.trainer import adapters_at_once, make_lesson, train_adapters


@dataclass(frozen=True)
class Classroom:
    """What is known of a zoo's teachers before the first is trained."""

    base: BaseIdentity
    fan_in_fan_out: bool
    together: int
    """How many are trained in one batch."""
    points: list[dict[str, str]]
    """Whether work repeats to the bit there, see `tracking.validation`."""


@dataclass(frozen=True)
class Taught:
    """The asked-for teachers of a batch, in its order, on the CPU."""

    factors: LoRAFactors
    steps: list[int]
    scores: list[Score]
    """On the test examples of each one's task."""


class Teaching:
    """A worker of `build_zoo`.

    Args:
        config: Its sections model, lora and zoo are read, and its seed.
        suite: Its tasks, which need not lie where the worker runs; the base has to.

    Raises:
        InputError: The base cannot be loaded, or its modules take no adapters.
    """

    def __init__(self, config: ExperimentConfig, suite: TaskSuite) -> None:
        set_seed(config.seed)
        self.points = look_up(config.seed, config.model.device)
        self.config, self.suite = config, suite
        self.base = load_configured(config.model)
        self.framing = Framing.of(self.base, suite, config.zoo)

    @cached_property
    def functional(self) -> FunctionalLoRA:
        """The base with slots at the target modules."""
        return FunctionalLoRA(self.base.model, target_shapes(self.base.model, self.config.lora.target_modules), self.config.model.memory_gb)

    @property
    def identity(self) -> str:
        """Hash of base, suite and what is done with them."""
        return hash_json([content_of(self.base.identity), self.suite.content_hash, self.config.get_hash()])

    def survey(self) -> Classroom:
        """What a plan needs to know."""
        together = adapters_at_once(self.functional, self.config.lora, self.config.zoo)
        return Classroom(self.base.identity, self.functional.fan_in_fan_out, together, self.points)

    def points_again(self) -> list[dict[str, str]]:
        """The points after the work."""
        return look_up(self.config.seed, self.config.model.device, again=True)

    def require_fit(self) -> list[Finding]:
        """As `zoo.check.require_fit`."""
        return require_fit(self.base, self.framing, self.suite)

    def train(self, batch: list[tuple[Task, int]], wanted: list[int], tick: Tick | None = None) -> Taught:
        """Train a batch of (task, seed) together, and test those whose places are wanted."""

        def on_step(step: int, training: int, loss: float) -> None:
            if tick:
                tick(len(batch) - training, step=step, training=training, loss=loss)

        lessons = [make_lesson(self.framing, task, seed) for task, seed in batch]
        trained = train_adapters(self.functional, lessons, self.config.lora, self.config.zoo, self.framing.pad, on_step)
        factors = trained.factors.select(wanted)
        scores = self._test(factors, [batch[k][0] for k in wanted])
        return Taught(factors.to(device="cpu"), [trained.steps[k] for k in wanted], scores)

    def alone(self, tasks: list[Task]) -> list[float]:
        """What the base itself gets on each task's test examples."""
        return [self._test(None, [task])[0].mean_mark for task in tasks]

    def _test(self, factors: LoRAFactors | None, tasks: list[Task]) -> list[Score]:
        batches = [self.framing.batch(self.framing.of_task(task, "test")) for task in tasks]
        return judge_answers(self.functional, factors, batches, [Judge.of(self.framing, task) for task in tasks])
