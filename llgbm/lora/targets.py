"""Which modules of a base take LoRA factors, by PEFT's own rules: an adapter of them must load in plain PEFT to the same outputs."""

from collections.abc import Collection, Iterable

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

REFUSED_BY_PEFT = {
    **dict.fromkeys(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), ("out_proj", "conv1d")),
    "laguna": ("shared_experts",),
}
"""`model_type` -> parts of names of modules that PEFT 0.21 refuses (Mamba) or whose tensors it renames and loses (Laguna)."""

COMPUTED_IN = torch.bfloat16
"""Dtype of what flows through a module whose weight is kept in 8 or 4 bits."""


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of an `nn.Linear` or a Conv1D, which stores its weight transposed."""
    if isinstance(module, nn.Linear):  # a weight of 4 bits is packed, and says nothing of its shape
        return module.in_features, module.out_features
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return rows, columns


def computed_in(module: nn.Module) -> torch.dtype:
    """Dtype of what a linear module reads and gives: its weight's, or `COMPUTED_IN`."""
    assert isinstance(module.weight, Tensor)
    return module.weight.dtype if module.weight.dtype.is_floating_point else COMPUTED_IN


def maps_each_token(module: nn.Module) -> bool:
    """Whether a module is linear and turns [..., d_in] into [..., d_out]; linear classes with a forward of their own may not.

    Routers return tuples, grouped projections want further dimensions; PEFT fails on both in the forward.
    """
    if not isinstance(module, nn.Linear | Conv1D):
        return False
    if type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    d_in, d_out = linear_shape(module)
    try:
        with torch.no_grad():
            out = module(torch.zeros(1, 3, d_in, dtype=computed_in(module), device=module.weight.device))
    except Exception:  # whatever it wants is not a tensor of tokens
        return False
    return isinstance(out, Tensor) and out.shape == (1, 3, d_out)


def refused_by_peft(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """Module name -> why PEFT would not put a plain adapter there; modules it takes are left out.

    A mixture of experts keeps them in one tensor per layer; PEFT reads the names of their former modules (`gate_proj`) as
    that tensor, also where another module has such a name.
    """
    kind = model.config.model_type
    reasons = {}
    for name in names:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model, None)
            kept = name in (config.target_modules or ())
        except ValueError:
            kept = False
        if not kept:
            reasons[name] = f"PEFT takes for the fused experts of a {kind}"
        elif set(name.split(".")) & set(REFUSED_BY_PEFT.get(kind, ())):
            reasons[name] = f"PEFT does not load in a {kind}"
    return reasons


def suffixes(names: Collection[str]) -> str:
    """The last parts of module names, once each, for a sentence."""
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))
