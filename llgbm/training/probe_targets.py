"""What probes say in training: teachers' delta fingerprints for `delta`, the base's predictions for `tether`."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from llgbm.config import DeltaConfig, ExperimentConfig
from llgbm.dataset import TokenBatch
from llgbm.delta import DeltaOptions, aggregate, encode_probes, token_states
from llgbm.functional_lora import ChunkedLogits, FunctionalLoRA, Logits
from llgbm.functional_lora.measure import rows_at_once
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import OBJECTIVES, Evidence, check_fingerprints
from llgbm.probes import load_probes
from llgbm.training.plan import StepPlan
from llgbm.training.setup import Setup
from llgbm.transfer import to_device

TEACHERS_AT_ONCE = 16


@dataclass
class ProbeTargets:
    """The configured probes as tokens, with what base and teachers do on them."""

    functional: FunctionalLoRA
    probes: TokenBatch
    """On the host."""
    delta: DeltaConfig
    adapters_per_step: int
    """How many of a step's adapters are probed: probes are long, and each adapter reads all of them."""
    fingerprints: Float[Tensor, "K F"] | None = None
    """Every teacher's fingerprint, if `delta` is trained."""
    base_logits: Float[Tensor, "p V"] | ChunkedLogits | None = None
    """The base's logits at every probe token, if `tether` is trained."""
    _bases: dict[int, Float[Tensor, "K P D"]] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def build(cls, setup: Setup, config: ExperimentConfig, terms: frozenset[str]) -> "ProbeTargets | None":
        """Prepare what the terms need; None when none of them reads probes."""
        needed = frozenset().union(*(OBJECTIVES[term].needs for term in terms))
        if not needed & {"fingerprints", "probe_logits"}:
            return None
        chosen = load_probes(config.probe.probe_type).at_most(config.probe.num_probes)
        functional = setup.functional
        probes, _ = encode_probes(setup.base, chosen, DeltaOptions.from_config(config.delta, config.probe.max_length))
        targets = cls(functional, probes, config.delta, config.training.delta_batch_size)
        if functional.shares_forwards:  # a part of a step may probe any number, and all processes have to make the same forwards
            for k in range(1, targets.adapters_per_step + 1):
                targets._base(k)
        if "probe_logits" in needed:
            ids, at = to_device(probes.input_ids, functional.device), probes.attention_mask.bool()
            targets.base_logits = functional(None, ids, logits_at=at, chunked=True).any_logits
        if "fingerprints" in needed:
            teachers = setup.train.factors
            tokens, each = probes.input_ids.shape[1], len(probes)
            at_once = rows_at_once(functional, "teachers' fingerprints", tokens, TEACHERS_AT_ONCE * each) // each
            parts = functional.memory.run(
                "teachers' fingerprints",
                teachers.n_adapters,
                1,
                max(1, at_once),
                lambda some, _: targets.run(teachers.select(some), False)[0],
            )
            targets.fingerprints = torch.cat(parts)
            check_fingerprints(targets.fingerprints)
        return targets

    def fill(self, evidence: Evidence, plan: StepPlan) -> None:
        """Probe the plan's adapters that are among the whole step's first ones, and put the results beside the teachers'.

        A part of a step that holds none of them still probes one, with weight zero, so that every part has the same terms.
        """
        probed = min(self.adapters_per_step, len(plan.whole))
        here = min(max(0, probed - plan.start), len(plan))
        count = max(1, here)
        evidence.probe_weight = here / probed * len(plan.whole) / len(plan)
        own, logits = self.run(evidence.generated.select(range(count)), self.base_logits is not None)
        if self.fingerprints is not None:
            chosen = to_device(torch.tensor(plan.teachers[:count]), self.fingerprints.device)
            evidence.fingerprints, evidence.teacher_fingerprints = own, self.fingerprints[chosen]
        if self.base_logits is not None:
            evidence.probe_logits, evidence.base_probe_logits = logits, self.base_logits.repeat(count, 1)

    def run(self, factors: LoRAFactors, with_logits: bool) -> tuple[Float[Tensor, "K F"], Logits | None]:
        """Delta fingerprints of K adapters, and their logits at every probe token."""
        states, logits = self._run(factors, factors.n_adapters, with_logits)
        return aggregate(states - self._base(factors.n_adapters), self.delta.aggregation).flatten(1), logits

    @torch.no_grad()
    def _base(self, k: int) -> Float[Tensor, "K P D"]:
        """The base's states from a forward of K adapters' shape, so that rounding is no difference; few shapes occur, all are kept."""
        if k not in self._bases:
            self._bases[k] = self._run(None, k, False)[0]
        return self._bases[k]

    def _run(self, factors: LoRAFactors | None, k: int, with_logits: bool) -> tuple[Float[Tensor, "K P D"], Logits | None]:
        """States of K adapted models, or of the base K times, and their logits at every probe token."""
        probes, layer = self.probes.repeat(k), self.delta.layer_idx
        at = probes.attention_mask.bool() if with_logits else None
        ids = to_device(probes.input_ids, self.functional.device)
        out = self.functional(factors, ids, hidden_layers=(layer,), logits_at=at, chunked=True)
        return token_states(out.hidden[layer], probes, self.delta.token_idx).unflatten(0, (k, -1)), out.any_logits
