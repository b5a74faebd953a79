"""A base too large for one device: its layers are spread over the processes that run together, each gathered while it is computed.

Embeddings, the last norm and the output embedding stay whole everywhere. Processes must make the same forwards in the same order, since
each of them waits for all.

Source: FSDP2, `torch.distributed.fsdp.fully_shard`, of which everything here is made.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from llgbm.errors import InputError
from llgbm.functional_lora.last_layer import layer_stack
from llgbm.functional_lora.wrap import FunctionalLoRA
from llgbm.memory import MemoryPlan


def shard_layers(functional: FunctionalLoRA, base: PreTrainedModel, device: torch.device, field: str) -> None:
    """Keep this process's share of every layer alone, on the device, and let go of the rest.

    Args:
        functional: The wrapped base, wherever it is.
        base: The model that was wrapped, whose layers hold no numbers afterwards.
        device: Where it is to run.
        field: What asked for it, for messages.

    Raises:
        InputError: There is one process, or the base's layers are not one list.
    """
    if not dist.is_initialized():
        raise InputError(f"{field} spreads the base over processes, and there is one; start several with torchrun, or set it to false")
    stack, whole = layer_stack(functional.model, functional.n_layers), layer_stack(base, functional.n_layers)
    if stack is None or whole is None:
        raise InputError(f"{field} is not supported by {type(base).__name__}, whose layers are not one list; set it to false")
    functional.prepare_head()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in stack:
        fully_shard(layer, mesh=mesh)
    in_layers = {id(parameter) for parameter in stack.parameters()}
    for module in functional.model.modules():
        _move_own(module, device, but=in_layers)
    fully_shard(functional.model, mesh=mesh, ignored_params={p for p in functional.model.parameters() if id(p) not in in_layers})
    whole.to("meta")
    functional.shares_forwards = True
    functional.memory = MemoryPlan(device, functional.memory.memory_gb)
    functional.memory.agree = partial(_least, device=device)


def shared_bytes(functional: FunctionalLoRA, processes: int) -> tuple[int, int]:
    """Bytes of a base's weights that each of several processes keeps with `shard_layers`, and of what it gathers while it computes.

    Of each parameter in a layer the first process has the largest share. Two layers are whole at once, the one that is computed and the
    one after it, whose numbers are on their way.
    """
    stack = layer_stack(functional.model, functional.n_layers)
    layers = [] if stack is None else [list(layer.parameters()) for layer in stack]
    in_layers = {id(parameter): parameter for layer in layers for parameter in layer}
    kept = sum(parameter.nbytes for parameter in functional.model.parameters() if id(parameter) not in in_layers)
    kept += sum(-(-p.shape[0] // processes) * (p.nbytes // p.shape[0]) for p in in_layers.values())
    return kept, 2 * max((sum(parameter.nbytes for parameter in layer) for layer in layers), default=0)


def _move_own(module: nn.Module, device: torch.device, but: set[int]) -> None:
    """Move what a module holds itself, in place, so that whoever shares it finds it moved."""
    for parameter in module.parameters(recurse=False):
        if id(parameter) not in but:
            parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = buffer.to(device)


def _least(number: int, device: torch.device) -> int:
    """Of the numbers of all processes."""
    told = torch.tensor(number, device=device)
    dist.all_reduce(told, dist.ReduceOp.MIN)
    return int(told)
