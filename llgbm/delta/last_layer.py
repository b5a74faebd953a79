"""Work that a fingerprint does not need: the last layer's feed-forward block at tokens nobody looks at.

That block works on each token alone and nothing after it mixes tokens, so where only some tokens of the last layer are
kept it may skip the others. On `micro` this saves a tenth of the time of a fingerprint.
"""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llgbm.functional_lora import FunctionalLoRA


class LastLayerAt:
    """While entered, the last layer's feed-forward block of a wrapped base computes chosen tokens only; others get zeros.

    Nothing happens for an architecture whose last layer has no block named `mlp` made of linear modules only.

    Args:
        functional: The wrapped base; plain again on exit.
        at: [rows, T] bool, the same number of tokens in every row; forwards may repeat the rows any number of times.
    """

    def __init__(self, functional: FunctionalLoRA, at: Tensor) -> None:
        self.block, self.at = _feed_forward(functional), at
        self._handles = []

    def __enter__(self) -> None:
        if self.block is not None:
            self._handles = [self.block.register_forward_pre_hook(self._narrow), self.block.register_forward_hook(self._widen)]

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _narrow(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        hidden = inputs[0]
        return (hidden[self._chosen(hidden)].unflatten(0, (len(hidden), -1)),)

    def _widen(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        whole = output.new_zeros(len(output), self.at.shape[1], output.shape[-1])
        whole[self._chosen(output)] = output.flatten(0, 1)
        return whole

    def _chosen(self, rows: Tensor) -> Tensor:
        return self.at.repeat(len(rows) // len(self.at), 1)


def _feed_forward(functional: FunctionalLoRA) -> nn.Module | None:
    """The block named `mlp` of the last layer, if all its weights are those of linear modules."""
    stacks = [m for m in functional.model.modules() if isinstance(m, nn.ModuleList) and len(m) == functional.n_layers]
    block = getattr(stacks[0][-1], "mlp", None) if len(stacks) == 1 else None
    if not isinstance(block, nn.Module):
        return None
    linear = {id(p) for module in block.modules() if isinstance(module, nn.Linear | Conv1D) for p in module.parameters()}
    mixes = any(isinstance(module, nn.ModuleList) for module in block.modules())  # experts: routed by token
    return block if not mixes and {id(p) for p in block.parameters()} == linear else None
