"""K adapters through one frozen base in one forward, by `torch.func.functional_call`."""

from llgbm.functional_lora.decoding import complete, greedy_decode
from llgbm.functional_lora.recompute import recompute_layers
from llgbm.functional_lora.wrap import FunctionalLoRA, FunctionalOutput

__all__ = ["FunctionalLoRA", "FunctionalOutput", "complete", "greedy_decode", "recompute_layers"]
