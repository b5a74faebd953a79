"""AdamW for weights of little precision: it moves float32 copies of them, whose small steps bfloat16 would round away."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.trainer_pt_utils import get_parameter_names

NO_DECAY = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""Parameters that weight decay leaves alone, as in transformers' Trainer."""


class MasterAdamW(torch.optim.AdamW):
    """AdamW over float32 copies of a model's trainable parameters; float32 parameters are their own.

    Source: mixed-precision training's master weights, Micikevicius et al. 2018, arXiv:1710.03740; without loss scaling, as
    bfloat16 has float32's range.
    """

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float) -> None:
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.masters = {name: p if p.dtype == torch.float32 else p.detach().float().clone() for name, p in trained.items()}
        self.copies = [(p, self.masters[name]) for name, p in trained.items() if self.masters[name] is not p]
        decayed = set(get_parameter_names(model, [nn.LayerNorm], list(NO_DECAY)))
        groups = [
            {"params": [master for name, master in self.masters.items() if (name in decayed) == decays], "weight_decay": decay}
            for decays, decay in ((True, weight_decay), (False, 0.0))
        ]
        super().__init__([group for group in groups if group["params"]], lr=learning_rate, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move the copies by the model's gradients, and round the model's weights from them."""
        for parameter, master in self.copies:
            master.grad = None if parameter.grad is None else parameter.grad.float()
        loss = super().step(closure)
        for parameter, master in self.copies:
            parameter.copy_(master)
        return loss
