"""The soft prompt as a problem: virtual tokens written from conditions, judged by the answers the frozen base gives after them."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.config import ExperimentConfig
from llgbm.functional_lora.recompute import recompute_layers
from llgbm.functional_lora.virtual import prefixed, virtual_tokens
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import Evidence, agreement_loss, mean_per_adapter, token_nll
from llgbm.models.soft_prompt import SoftPromptSpec, SoftPromptWriter
from llgbm.progress import ProgressCallback
from llgbm.scoring import Score
from llgbm.training.checkpoints import origin
from llgbm.training.loop import TrainingResult, train
from llgbm.training.plan import StepPlan, plan_step
from llgbm.training.problem import Problem
from llgbm.training.setup import Setup, TeacherSet, prepare, spec_of_reader
from llgbm.training.standing import Begin
from llgbm.training.step import VALIDATION_WORDINGS, generate
from llgbm.training.targets import owners
from llgbm.workspace import settle
from llgbm.zoo.folder import TeacherZoo


def train_soft_prompt(
    config: ExperimentConfig, begin: Begin = "new", progress: ProgressCallback | None = None, held: bool = False
) -> TrainingResult:
    """Train a writer of soft prompts on the seen tasks' examples, with the steps, tasks and reader a generator would have.

    Args:
        config: Of its objective, `agreement` counts; the answers' cross-entropy has weight 1.
        begin: Whether the run begins in its folder or goes on there.
        progress: Called with the step, the number of steps, and the current figures.
        held: As `train`.

    Raises:
        InputError: A setting, the zoo or a checkpoint does not fit.
        DivergedError: The loss is not finite.
    """
    config = settle(config, TeacherZoo.load(config.checkpoint_folder))
    return train(config, lambda device: SoftPromptProblem(config, device), begin, progress, held)


class SoftPromptProblem(Problem):
    """Base, examples and writer of one run; the teachers only say which tasks are seen."""

    kind = "soft_prompt"

    def __init__(self, config: ExperimentConfig, device: torch.device) -> None:
        self.config = config
        self.at_once = config.training.batch_size
        setup: Setup = prepare(config, str(device))
        self.setup, self.functional = setup, setup.functional
        if config.training.gradient_checkpointing:
            recompute_layers(self.functional)
        self.network: SoftPromptWriter = new_writer(config, setup).to(device)
        self.hashes = origin(config, setup.zoo)
        self.inputs = {"base": setup.base.content_hash, "zoo": setup.zoo.content_hash, "encoder": setup.encoder.content_id}

    def plan(self, step: int) -> StepPlan:
        training, tasks = self.config.training, self.setup.train
        return plan_step(self.config.seed, step, len(tasks), training.tasks_per_step, tasks.per_teacher, training.examples_per_task)

    def loss(self, model: Callable[..., Any], part: StepPlan, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the answers after each task's prompt, and how well wordings of a task agree."""
        setup, weight = self.setup, self.config.objective.agreement
        written = generate(model, part, setup.train, setup.conditions, self.functional.device, weight > 0)
        rows = [k * setup.train.per_teacher + e for k, chosen in zip(part.teachers, part.examples, strict=True) for e in chosen]
        each = len(rows) // len(part)
        prompts: Tensor = written.pop("generated")
        examples = setup.train.examples.rows(rows).to(self.functional.device)
        batch = prefixed(self.functional, examples, _owners(len(part), each), prompts.shape[1])
        with virtual_tokens(self.functional, prompts):
            out = self.functional(None, batch.input_ids, logits_at=batch.predicts, chunked=True)
            assert out.any_logits is not None
            nll = token_nll(out.any_logits, batch.targets)
        terms = {"sft": mean_per_adapter(nll, owners(batch, each), len(part)).mean()}
        loss = terms["sft"]
        if weight:
            terms["agreement"] = agreement_loss(Evidence(LoRAFactors({}, {}, {}, {}), **written))
            loss = loss + weight * terms["agreement"]
        return loss, {name: value.detach() for name, value in terms.items()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Score by the tasks' metrics and NLL after prompts for held-back tasks, over several wordings."""
        held = self.setup.validation
        if held is None:
            return {}
        training = self.network.training
        self.network.eval()
        places = itertools.product(range(0, len(held), self.at_once), range(VALIDATION_WORDINGS))
        found = Score.join([self._score(held, range(start, min(start + self.at_once, len(held))), wording) for start, wording in places])
        self.network.train(training)
        return {"score": found.mean_mark, "nll": found.nll}

    def _score(self, held: TeacherSet, chosen: range, wording: int) -> Score:
        conditions = self.setup.conditions.fixed([held.tasks[k].name for k in chosen], wording)
        prompts: Float[Tensor, "K V D"] = self.network(*(x.to(self.functional.device) for x in conditions))
        batch = prefixed(self.functional, held.rows_of(chosen), _owners(len(chosen), held.per_teacher), prompts.shape[1])
        with virtual_tokens(self.functional, prompts):
            return held.score(self.functional, None, chosen, batch)

    @staticmethod
    def rank(found: Mapping[str, float]) -> tuple[float, ...]:
        """Higher score, or the same with lower NLL."""
        return found["score"], -found["nll"]

    def shown(self, best: Mapping[str, float]) -> dict[str, float]:
        return {"validation": best["score"]}


def new_writer(config: ExperimentConfig, setup: Setup) -> SoftPromptWriter:
    """A writer that says the same prompt to every task so far."""
    model: Any = setup.functional.model
    embeddings = model.get_input_embeddings().weight
    spec = SoftPromptSpec(
        hidden_size=embeddings.shape[1],
        **spec_of_reader(config, setup),
    )
    writer = SoftPromptWriter(spec, setup.encoder)
    writer.fit_scale(embeddings)
    return writer


def _owners(n_tasks: int, each: int) -> list[int]:
    return [k for k in range(n_tasks) for _ in range(each)]
