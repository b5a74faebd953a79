"""Several generators as one: each misreads other phrases, and the mean of what they write follows the majority.

Source: deep ensembles, Lakshminarayanan et al. 2017, arXiv:1612.01474; here weight changes are averaged instead of predictions.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors, combine, truncate
from llgbm.models.attribute_generator import AttributeGenerator
from llgbm.models.encoder import TextEncoder
from llgbm.models.generator import LoRAGenerator
from llgbm.models.reader import CONFIG_FILE
from llgbm.models.writer import AdapterWriter, GeneratorSpec
from llgbm.zoo.base import content_of

OWN = ("trained_on", "validated_on", "base")
"""What generators of one ensemble may differ in."""


class GeneratorEnsemble(AdapterWriter):
    """Writes the mean of its members' weight changes, cut back to their rank; saved, loaded and asked like one generator."""

    def __init__(self, spec: GeneratorSpec, encoder: TextEncoder | None = None) -> None:
        super().__init__(spec, encoder)
        alone = dataclasses.replace(spec, members=1)
        self.members = nn.ModuleList(one_generator(alone, encoder) for _ in range(spec.members))

    @torch.no_grad()
    def forward(self, embeddings: Float[Tensor, "K N E"], mask: Bool[Tensor, "K N"]) -> LoRAFactors:
        """One adapter per row, float32; no gradients: members are trained alone."""
        mean = mean_change([member(embeddings, mask) for member in self.members])
        cut, scaling = truncate(mean, self.spec.rank), self.spec.alpha / self.spec.rank
        return LoRAFactors(
            a=cut.a,
            b={name: b / scaling for name, b in cut.b.items()},
            scaling={name: s * scaling for name, s in cut.scaling.items()},
            ranks=cut.ranks,
        )


def mean_change(written: Sequence[LoRAFactors]) -> LoRAFactors:
    """K adapters whose weight changes are the exact means of M times K given ones; scaling 1, rank the sum of the ranks."""
    k, share = written[0].n_adapters, [1 / len(written)] * len(written)
    together = LoRAFactors.stack(written)
    return LoRAFactors.stack([combine(together.select(range(i, together.n_adapters, k)), share) for i in range(k)])


def load_generator(checkpoint: str | Path, encoder: TextEncoder | None = None) -> AdapterWriter:
    """One generator or an ensemble, whichever lies there, in eval mode.

    Raises:
        InputError: None there, or it cannot be read (see `ConditionReader.from_pretrained`).
    """
    spec = AdapterWriter.read_spec(AdapterWriter.folder_in(checkpoint) / CONFIG_FILE)
    return (GeneratorEnsemble if spec.members > 1 else _class_of(spec)).from_pretrained(checkpoint, encoder)


def one_generator(spec: GeneratorSpec, encoder: TextEncoder | None = None) -> LoRAGenerator | AttributeGenerator:
    """A generator of the kind its spec asks for, not trained yet."""
    return _class_of(spec)(spec, encoder)


def _class_of(spec: GeneratorSpec) -> type[LoRAGenerator] | type[AttributeGenerator]:
    return AttributeGenerator if spec.attributes else LoRAGenerator


def unite(checkpoints: Sequence[str | Path]) -> GeneratorEnsemble:
    """Make one generator of several, trained apart with different seeds.

    Args:
        checkpoints: Run folders, generator folders or checkpoints; two or more.

    Raises:
        InputError: Fewer than two, an ensemble among them, or generators that differ in base, modules, rank, encoder or size.
    """
    if len(checkpoints) < 2:
        raise InputError(f"{len(checkpoints)} generators given; an ensemble needs two or more")
    found = [load_generator(checkpoint) for checkpoint in checkpoints]
    first = found[0].spec
    for checkpoint, generator in zip(checkpoints, found, strict=True):
        if generator.spec.members > 1:
            raise InputError(f"{checkpoint}: is an ensemble already; give the generators it was made of")
        for name, value in dataclasses.asdict(generator.spec).items():
            aligned = name == "known_words" and value > 0 and first.known_words > 0
            if name not in OWN and not aligned and value != getattr(first, name):
                raise InputError(f"{checkpoint}: its {name} is not that of {checkpoints[0]}; give generators of one kind")
        if (first.base and content_of(first.base)) != (generator.spec.base and content_of(generator.spec.base)):
            raise InputError(
                f"{checkpoint}: writes for {generator.spec.base}, {checkpoints[0]} for {first.base}; give generators of one base"
            )
    trained = {task for generator in found for task in generator.spec.trained_on}
    held = {task for generator in found for task in generator.spec.validated_on} - trained
    words = max(generator.spec.known_words for generator in found)
    spec = dataclasses.replace(first, members=len(found), known_words=words, trained_on=sorted(trained), validated_on=sorted(held))
    ensemble = GeneratorEnsemble(spec)
    for member, generator in zip(ensemble.members, found, strict=True):
        if isinstance(generator, AttributeGenerator) and generator.alignment is not None:
            generator.alignment = generator.alignment.with_room(words)
        member.load_state_dict(generator.state_dict())
    return ensemble.eval()
