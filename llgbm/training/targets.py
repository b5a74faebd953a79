"""What the generator is trained towards: the teachers' outputs on the examples, computed once, and the scale of each term.

Rows are teacher-major: example e of teacher k is row `k * examples_per_teacher + e`. Letters: n response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from llgbm.dataset import TokenBatch
from llgbm.delta import Behavior, observe
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors, product_inner
from llgbm.losses import OBJECTIVES, mean_per_adapter, token_kl
from llgbm.progress import ProgressCallback

TEACHERS_AT_ONCE = 16
REFERENCE_EXAMPLES = 4
"""Examples per teacher on which the base is compared, to scale the terms."""


@dataclass(frozen=True)
class TargetOptions:
    """Which outputs are kept."""

    terms: frozenset[str]
    layers: tuple[int, ...]
    """Hidden states compared by `trajectory`."""
    top_k: int = 0
    """Keep the teachers' k most likely tokens; 0 keeps the whole vocabulary."""
    cache_bytes: int = 4 * 2**30
    """Above this size outputs are computed anew in each step."""

    def needs(self, what: str) -> bool:
        return any(what in OBJECTIVES[term].needs for term in self.terms)


class TeacherTargets:
    """Teachers' outputs on their examples, from memory where they fit, and each term's value for the zero adapter."""

    def __init__(
        self,
        functional: FunctionalLoRA,
        teachers: LoRAFactors,
        examples: TokenBatch,
        options: TargetOptions,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.functional, self.teachers, self.examples, self.options = functional, teachers, examples, options
        self.per_teacher = len(examples) // teachers.n_adapters
        self.offsets = [0, *examples.predicts.sum(1).cumsum(0).tolist()]
        self.scale = self._structural_scale()
        self._stored: Behavior | None = None
        if (options.needs("predictions") or options.needs("states")) and self._estimated_bytes() <= options.cache_bytes:
            self._stored = self._all_outputs(progress)
        if options.needs("logits") or options.needs("states"):
            self.scale |= self._behavioral_scale()

    def rows(self, teachers: Sequence[int], examples: Sequence[Sequence[int]]) -> Int[Tensor, " N"]:
        """Row numbers of the chosen examples of the chosen teachers."""
        return torch.tensor([k * self.per_teacher + e for k, chosen in zip(teachers, examples, strict=True) for e in chosen])

    def outputs(self, teachers: Sequence[int], rows: Int[Tensor, " N"], batch: TokenBatch) -> Behavior:
        """The teachers' outputs at the response tokens of `batch`, which is `examples.rows(rows)`."""
        if self._stored is None:
            return self._compute(teachers, batch)
        device = self.examples.input_ids.device
        return self._stored.select(torch.cat([torch.arange(self.offsets[r], self.offsets[r + 1]) for r in rows.tolist()]).to(device))

    @torch.no_grad()
    def _compute(self, teachers: Sequence[int], batch: TokenBatch) -> Behavior:
        options = self.options
        return observe(
            self.functional,
            self.teachers.select(list(teachers)),
            batch.input_ids,
            batch.attention_mask,
            batch.predicts,
            layers=options.layers if options.needs("states") else (),
            predictions=options.needs("predictions"),
            top_k=options.top_k,
        )

    def _all_outputs(self, progress: ProgressCallback | None) -> Behavior:
        count, found = self.teachers.n_adapters, []
        for start in range(0, count, TEACHERS_AT_ONCE):
            chosen = range(start, min(start + TEACHERS_AT_ONCE, count))
            batch = self.examples.rows(slice(start * self.per_teacher, chosen.stop * self.per_teacher))
            found.append(self._compute(chosen, batch))
            if progress is not None:
                progress(chosen.stop, count)
        return Behavior.join(found)

    def _estimated_bytes(self) -> int:
        model = self.functional.model
        tokens = self.offsets[-1]
        width = 0
        if self.options.needs("predictions"):
            width += 3 * self.options.top_k or model.config.get_text_config().vocab_size
        if self.options.needs("states"):
            width += len(self.options.layers) * model.config.get_text_config().hidden_size
        return 4 * tokens * width

    def _structural_scale(self) -> dict[str, float]:
        scale: dict[str, float] = {}
        if "norm" in self.options.terms:
            mean = product_inner(self.teachers, self.teachers).mean().item() / len(self.teachers.module_names)
            scale["norm"] = mean or 1.0
        if "variance" in self.options.terms:
            for name in self.teachers.module_names:
                b = self.teachers.b[name].float().flatten(1)
                scale[f"variance/{name}"] = b.var(0).mean().sqrt().item() if len(b) > 1 else 0.0
            if not any(scale[f"variance/{name}"] > 0 for name in self.teachers.module_names):
                raise InputError("objective variance has nothing to compare: all teachers have the same B")
        return scale

    @torch.no_grad()
    def _behavioral_scale(self) -> dict[str, float]:
        """Mean over teachers of each raw term when nothing is adapted, from a few examples of every teacher."""
        totals: dict[str, float] = {}
        count, few = self.teachers.n_adapters, min(REFERENCE_EXAMPLES, self.per_teacher)
        for start in range(0, count, TEACHERS_AT_ONCE):
            chosen = range(start, min(start + TEACHERS_AT_ONCE, count))
            rows = self.rows(chosen, [range(few)] * len(chosen))
            for name, value in self._base_distance(chosen, rows, few).items():
                totals[name] = totals.get(name, 0.0) + value
        return {name: total / count or 1.0 for name, total in totals.items()}

    def _base_distance(self, chosen: range, rows: Tensor, few: int) -> dict[str, float]:
        batch = self.examples.rows(rows)
        predicts, terms = batch.predicts, self.options.terms
        layers = self.options.layers if "trajectory" in terms else ()
        out = self.functional(None, batch.input_ids, batch.attention_mask, hidden_layers=layers, hidden_at=predicts, logits_at=predicts)
        target = self.outputs(chosen, rows, batch)
        owner = owners(batch, few)
        values: dict[str, Tensor] = {}
        assert out.logits is not None
        if "sft" in terms:
            values["sft"] = torch.nn.functional.cross_entropy(out.logits.float(), batch.targets, reduction="none")
        if target.predictions is not None:
            values["kl"] = token_kl(target.predictions, out.logits)
        for layer in layers:
            assert target.states is not None
            values[f"trajectory/{layer}"] = (out.hidden[layer][predicts].float() - target.states[layer]).square().sum(-1)
        return {name: mean_per_adapter(value, owner, len(chosen)).sum().item() for name, value in values.items()}


def owners(batch: TokenBatch, rows_per_adapter: int) -> Int[Tensor, " n"]:
    """The adapter each response token belongs to, in the order in which `predicts` selects."""
    rows = torch.arange(len(batch), device=batch.input_ids.device) // rows_per_adapter
    return rows.repeat_interleave(batch.predicts.sum(1), output_size=len(batch.targets))
