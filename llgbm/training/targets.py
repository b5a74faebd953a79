"""What the generator is trained towards: the teachers' outputs on the examples, computed once, and the scale of each term.

Rows are teacher-major: example e of teacher k is row `k * examples_per_teacher + e`. Letters: n response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from llgbm.dataset import TokenBatch, at_tokens
from llgbm.delta import Behavior, observe
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.functional_lora.measure import rows_at_once
from llgbm.lora.factors import LoRAFactors, product_inner
from llgbm.lora.stored import StoredFactors, parts_of
from llgbm.losses import OBJECTIVES, check_teachers, mean_per_adapter, token_kl, token_nll
from llgbm.progress import ProgressCallback
from llgbm.transfer import to_device

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
        teachers: LoRAFactors | StoredFactors,
        examples: TokenBatch,
        options: TargetOptions,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.functional, self.teachers, self.examples, self.options = functional, teachers, examples, options
        self.per_teacher = len(examples) // teachers.n_adapters
        self.offsets = [0, *examples.predicts.sum(1).cumsum(0).tolist()]
        self.scale = self._structural_scale()
        self._stored: Behavior | None = None
        if self.compares_outputs and self._estimated_bytes() <= options.cache_bytes:
            self._stored = self._all_outputs(progress)
        if options.needs("logits") or options.needs("states"):
            self.scale |= self._behavioral_scale()

    @property
    def compares_outputs(self) -> bool:
        """Whether a term compares what teachers do at response tokens."""
        return self.options.needs("predictions") or self.options.needs("states")

    @property
    def reads_teachers(self) -> bool:
        """Whether a step reads its teachers' weights: for what its terms compare, or for their outputs, where these are not kept."""
        return self.options.needs("teacher") or (self.compares_outputs and self._stored is None)

    def rows(self, teachers: Sequence[int], examples: Sequence[Sequence[int]]) -> Int[Tensor, " N"]:
        """Row numbers of the chosen examples of the chosen teachers."""
        return torch.tensor([k * self.per_teacher + e for k, chosen in zip(teachers, examples, strict=True) for e in chosen])

    def outputs(self, teachers: Sequence[int], rows: Int[Tensor, " N"], batch: TokenBatch) -> Behavior:
        """The teachers' outputs that terms read, at the response tokens of `batch`, which is `examples.rows(rows)` where the base is."""
        if not self.compares_outputs:
            return Behavior(None, None)
        if self._stored is None:
            return self._compute(teachers, batch)
        tokens = torch.cat([torch.arange(self.offsets[r], self.offsets[r + 1]) for r in rows.tolist()])
        return self._stored.select(to_device(tokens, self.functional.device))

    def _rows(self, index: Tensor | slice) -> TokenBatch:
        """Some examples where the base is."""
        return self.examples.rows(index).to(self.functional.device)

    @torch.no_grad()
    def _compute(self, teachers: Sequence[int], batch: TokenBatch) -> Behavior:
        options = self.options
        return observe(
            self.functional,
            self.teachers.select(list(teachers)),
            batch.input_ids,
            batch.predicts,
            layers=options.layers if options.needs("states") else (),
            predictions=options.needs("predictions"),
            top_k=options.top_k,
        )

    def _all_outputs(self, progress: ProgressCallback | None) -> Behavior:
        count, each = self.teachers.n_adapters, self.per_teacher

        def work(teachers: range, rows: range) -> Behavior:
            first = teachers.start * each + rows.start
            found = self._compute(teachers, self._rows(slice(first, first + len(teachers) * len(rows))))
            if progress is not None and rows.stop == each:
                progress(teachers.stop, count)
            return found

        return Behavior.join(self.functional.memory.run("teachers' outputs", count, each, self._rows_at_once(each), work))

    def _rows_at_once(self, per_teacher: int) -> int:
        """Rows of one forward of teachers, as many as fit."""
        answers = int(self.examples.predicts.sum(1).max())
        length, states = self.examples.input_ids.shape[1], self.options.needs("states")
        return rows_at_once(
            self.functional, "teachers' outputs", length, TEACHERS_AT_ONCE * per_teacher, answers=answers, all_layers=states
        )

    def _estimated_bytes(self) -> int:
        model = self.functional.model
        tokens = self.offsets[-1]
        width = 0
        if self.options.needs("predictions"):
            hidden, vocabulary = model.config.get_text_config().hidden_size, self.functional.vocabulary
            width += 3 * self.options.top_k or (hidden if self.functional.by_chunks(tokens) else vocabulary)
        if self.options.needs("states"):
            width += len(self.options.layers) * model.config.get_text_config().hidden_size
        return 4 * tokens * width

    def _structural_scale(self) -> dict[str, float]:
        scale: dict[str, float] = {}
        for term in sorted(self.options.terms & {"product", "weight"}):
            check_teachers(parts_of(self.teachers), term)
        if "norm" in self.options.terms:
            total = sum(float(product_inner(part, part).sum()) for part in parts_of(self.teachers))
            scale["norm"] = total / self.teachers.n_adapters / len(self.teachers.module_names) or 1.0
        if "variance" in self.options.terms:
            for name, variance in _mean_variances(self.teachers).items():
                scale[f"variance/{name}"] = variance**0.5
            if not any(scale[f"variance/{name}"] > 0 for name in self.teachers.module_names):
                raise InputError("objective variance has nothing to compare: all teachers have the same B")
        return scale

    @torch.no_grad()
    def _behavioral_scale(self) -> dict[str, float]:
        """Mean over teachers of each raw term when nothing is adapted, from a few examples of every teacher.

        A term that is zero keeps its units; a layer that no teacher changes keeps its zero, and is not compared.
        """
        totals: dict[str, float] = {}
        count, few = self.teachers.n_adapters, min(REFERENCE_EXAMPLES, self.per_teacher)
        at_once = max(1, self._rows_at_once(few) // few)

        def work(teachers: range, _: range) -> dict[str, float]:
            return self._base_distance(teachers, self.rows(teachers, [range(few)] * len(teachers)), few)

        for found in self.functional.memory.run("teachers' outputs", count, 1, at_once, work):
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + value
        return {name: total / count or float(name in OBJECTIVES) for name, total in totals.items()}

    def _base_distance(self, chosen: range, rows: Tensor, few: int) -> dict[str, float]:
        batch = self._rows(rows)
        predicts, terms = batch.predicts, self.options.terms
        layers = self.options.layers if "trajectory" in terms else ()
        out = self.functional(None, batch.input_ids, hidden_layers=layers, hidden_at=predicts, logits_at=predicts, chunked=True)
        logits = out.any_logits
        target = self.outputs(chosen, rows, batch)
        owner = owners(batch, few)
        values: dict[str, Tensor] = {}
        assert logits is not None
        if "sft" in terms:
            values["sft"] = token_nll(logits, batch.targets)
        if target.predictions is not None:
            values["kl"] = token_kl(target.predictions, logits)
        for layer in layers:
            assert target.states is not None
            values[f"trajectory/{layer}"] = (at_tokens(out.hidden[layer], predicts).float() - target.states[layer]).square().sum(-1)
        return {name: mean_per_adapter(value, owner, len(chosen)).sum().item() for name, value in values.items()}


def owners(batch: TokenBatch, rows_per_adapter: int) -> Int[Tensor, " n"]:
    """The adapter each response token belongs to, in the order in which `predicts` selects."""
    rows = torch.arange(len(batch)) // rows_per_adapter
    return to_device(rows.repeat_interleave(batch.predicts.sum(1)), batch.input_ids.device)


def _mean_variances(teachers: LoRAFactors | StoredFactors) -> dict[str, float]:
    """Module -> variance between teachers of a number of B, averaged over its numbers, ranks padded with zeros; 0 for a single teacher.

    Gone through part by part.

    Source: the merging of moments of Chan, Golub and LeVeque 1979.
    """
    seen, moments = 0, {}
    for part in parts_of(teachers):
        count, nothing = part.n_adapters, torch.zeros(1, 1, dtype=torch.double, device=part.tensors()[0].device)
        for name in teachers.module_names:
            b = part.b[name].double() if name in part.b else nothing.expand(count, 1, 1)
            mean, squares = moments.get(name, (nothing, nothing))
            rank = max(b.shape[-1], mean.shape[-1])
            b, mean, squares = (F.pad(x, (0, rank - x.shape[-1])) for x in (b, mean, squares))
            own = b.mean(0)
            moved = own - mean
            within = (b - own).square().sum(0) + moved.square() * (seen * count / (seen + count))
            moments[name] = mean + moved * (count / (seen + count)), squares + within
        seen += count
    return {name: float(total.mean() / (seen - 1)) if seen > 1 else 0.0 for name, (_, total) in moments.items()}
