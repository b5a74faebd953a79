"""K adapters through one frozen base in one forward, by `torch.func.functional_call`."""

from llgbm.functional_lora.beginning import answer_logits
from llgbm.functional_lora.decoding import complete, greedy_decode
from llgbm.functional_lora.head import ChunkedLogits, Logits, by_token
from llgbm.functional_lora.recompute import can_recompute, recompute_layers
from llgbm.functional_lora.sharding import shard_layers
from llgbm.functional_lora.wrap import FunctionalLoRA, FunctionalOutput

__all__ = [
    "ChunkedLogits",
    "FunctionalLoRA",
    "FunctionalOutput",
    "Logits",
    "answer_logits",
    "by_token",
    "can_recompute",
    "complete",
    "greedy_decode",
    "recompute_layers",
    "shard_layers",
]
