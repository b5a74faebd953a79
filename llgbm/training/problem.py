"""What a run of the training loop is about: the network it trains, the loss of a step's part, and how a checkpoint is judged."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from llgbm.models.reader import ConditionReader
from llgbm.training.plan import StepPlan


class Problem(ABC):
    """One thing to train; the loop asks it and knows nothing else about it.

    What it says of a step is a function of the step's number, the network's weights and its `state` alone, so that resuming needs no more.
    """

    kind: ClassVar[str]
    """What is trained; the result lies in the run's folder under this name."""
    network: ConditionReader
    """Built on the device, before its first step."""
    hashes: Mapping[str, str]
    """What the run is made of (`config_hash`, `zoo_hash` ...), as its checkpoints record it."""
    inputs: Mapping[str, str]
    """Content hashes of what it reads, for the run's log."""
    at_once: int
    """Adapters of one part of a step."""

    @abstractmethod
    def plan(self, step: int) -> StepPlan:
        """What a step, counted from 0, trains on."""

    def ready(self, say: Callable[[str], None]) -> None:  # noqa: B027 (most have nothing to prepare)
        """Prepare what only training needs, and say what is being done; called once before the first step."""

    def expect(self, part: StepPlan) -> None:  # noqa: B027 (most have nothing to read)
        """Begin to read what the loss of this part will need; called before that of the part before it."""

    @abstractmethod
    def loss(self, model: Callable[..., Any], part: StepPlan, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a part of a step's adapters, averaged over them, and its unweighted terms, detached.

        Args:
            model: The network as it is called: wrapped, where several processes share the step.
            part: Some of the step's adapters.
            step: Its number, counted from 0.
        """

    def settings(self, step: int) -> dict[str, float]:
        """What else the log says of a step."""
        return {}

    def state(self) -> dict[str, Any]:
        """What it knows beside the network's weights, as JSON has it; a checkpoint keeps it."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027 (most know nothing else)
        """Know what a checkpoint kept; called before `ready`."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """How the network does on held-back tasks; empty where none are held back."""

    @staticmethod
    @abstractmethod
    def rank(found: Mapping[str, float]) -> tuple[float, ...]:
        """What of `validate` decides between two checkpoints; higher is better."""

    @abstractmethod
    def shown(self, best: Mapping[str, float]) -> dict[str, float]:
        """The figure of the best validation so far that a progress bar shows."""

    def references(self) -> dict[str, float]:
        """Figures to read the validation's beside."""
        return {}
