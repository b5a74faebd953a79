"""Ways to serve a model with many adapters, behind one face: prompts of one length in, a fixed number of greedy tokens out.

Shapes: B requests of T tokens, N new tokens each, K adapters.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from llgbm.functional_lora import FunctionalLoRA
from llgbm.functional_lora.decoding import greedy_decode
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import write_adapter
from llgbm.vllm_engine import adapter_options, cache_bytes, check_model, load_vllm, lora_request, started

Kind = Literal["base", "merged", "adapters"]
Serve = Callable[[Int[Tensor, "B T"], Sequence[int]], Int[Tensor, "B N"]]
"""Answers prompts, each by the adapter of its number; `base` has none, `merged` has the first alone."""


@dataclass(frozen=True)
class Served:
    """A model and its adapters."""

    name: str
    model: PreTrainedModel
    """In eval mode, not modified."""
    factors: LoRAFactors
    """K adapters."""
    folder: Path
    """Each adapter as a PEFT directory, `adapter-K`; written by `prepared`."""
    new_tokens: int
    prompt_tokens: int = 32
    """Longest prompt."""
    requests: int = 16
    """Most in one batch; with the tokens of each, what backends need to know that reserve a cache."""

    @property
    def pad(self) -> int:
        """Fills nothing: prompts have one length and answers do not end early. Backends ask for it."""
        return self.model.config.get_text_config().pad_token_id or 0

    def adapter_folder(self, index: int) -> Path:
        """Where an adapter lies."""
        return self.folder / f"adapter-{index}"

    def answer(self, model: Any, prompts: Int[Tensor, "B T"], **options: Any) -> Int[Tensor, "B N"]:
        """What a model of transformers answers greedily."""
        mask = torch.ones_like(prompts)
        out = model.generate(input_ids=prompts, attention_mask=mask, max_new_tokens=self.new_tokens, **options)
        return out[:, prompts.shape[1] :]

    def merged(self, index: int) -> PreTrainedModel:
        """A copy of the model with one adapter's product added to its weights, by PEFT."""
        from peft import PeftModel

        whole: Any = PeftModel.from_pretrained(copy.deepcopy(self.model), str(self.adapter_folder(index)))
        return whole.merge_and_unload().eval()


def prepared(name: str, model: PreTrainedModel, factors: LoRAFactors, folder: Path, new_tokens: int, **room: int) -> Served:
    """A copy of the model that never stops early, and its adapters on disk; `room` as in `Served`."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    served = Served(name, model, factors, folder, new_tokens, **room)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=served.pad)
    for index in range(factors.n_adapters):
        write_adapter(served.adapter_folder(index), factors, index, base_name=name)
    return served


@runtime_checkable
class Backend(Protocol):
    """One way to serve."""

    def server(self, kind: Kind) -> Serve:
        """What answers requests of that kind; making it may take long, calling it is what is timed."""
        ...

    def weights(self, kind: Kind) -> list[Tensor]:
        """The tensors that lie in memory for it."""
        ...

    def switches(self) -> dict[str, Callable[[], Any]]:
        """Name -> one change from an adapter to another."""
        ...

    @property
    def reserved_bytes(self) -> int:
        """Memory for work that it holds outside of this process at all times, for each kind of request."""
        ...

    def close(self) -> None:
        """Give back what it holds outside of this process."""
        ...


class InProcess:
    """What backends share that hold nothing outside of this process."""

    reserved_bytes = 0

    def close(self) -> None:
        """Nothing is held."""


class PeftBackend(InProcess):
    """transformers' `generate` with its cache; adapters as PEFT modules, chosen by row in a mixed batch."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def server(self, kind: Kind) -> Serve:
        model: Any = self._models(kind)

        def serve(prompts: Int[Tensor, "B T"], adapters: Sequence[int]) -> Int[Tensor, "B N"]:
            chosen = {}
            if kind == "adapters" and len(set(adapters)) > 1:
                chosen = {"adapter_names": [str(index) for index in adapters]}
            elif kind == "adapters" and model.active_adapter != str(adapters[0]):
                model.set_adapter(str(adapters[0]))
            return self.served.answer(model, prompts, **chosen)

        return serve

    def weights(self, kind: Kind) -> list[Tensor]:
        return [*self._models(kind).parameters()]

    def switches(self) -> dict[str, Callable[[], Any]]:
        model: Any = self._models("adapters")
        turns = itertools.cycle(("1", "0"))

        def choose() -> None:
            model.set_adapter(next(turns))

        def load() -> None:
            model.load_adapter(str(self.served.adapter_folder(1)), "loaded")
            model.set_adapter("loaded")
            model.set_adapter("0")
            model.delete_adapter("loaded")

        def merge() -> None:
            model.merge_adapter([next(turns)])
            model.unmerge_adapter()

        return {"choose one in memory": choose, "read from disk, choose and drop": load, "merge one and take it out": merge}

    def _models(self, kind: Kind) -> Any:
        return {"base": lambda: self.served.model, "merged": lambda: self._merged, "adapters": lambda: self._adapted}[kind]()

    @cached_property
    def _merged(self) -> PreTrainedModel:
        return self.served.merged(0)

    @cached_property
    def _adapted(self) -> Any:
        from peft import PeftModel

        model = PeftModel.from_pretrained(copy.deepcopy(self.served.model), str(self.served.adapter_folder(0)), adapter_name="0")
        for index in range(1, self.served.factors.n_adapters):
            model.load_adapter(str(self.served.adapter_folder(index)), str(index))
        return model.eval()


class FunctionalBackend(InProcess):
    """This package's batch: one base GEMM for all rows, two small batched ones for their adapters."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.factors = served.factors.to(served.model.device, served.model.dtype)

    def server(self, kind: Kind) -> Serve:
        model = self._merged if kind == "merged" else self.served.model
        functional = FunctionalLoRA(model, self.factors.module_names if kind == "adapters" else ())

        def serve(prompts: Int[Tensor, "B T"], adapters: Sequence[int]) -> Int[Tensor, "B N"]:
            order, chosen = _grouped(adapters)
            factors = self.factors.select(chosen) if kind == "adapters" else None
            rows = prompts[order]
            new = greedy_decode(functional, factors, rows, torch.ones_like(rows), self.served.new_tokens, (), self.served.pad)
            return torch.empty_like(new).index_copy_(0, torch.tensor(order, device=new.device), new)

        return serve

    def weights(self, kind: Kind) -> list[Tensor]:
        model = self._merged if kind == "merged" else self.served.model
        return [*model.parameters(), *(self.factors.tensors() if kind == "adapters" else ())]

    def switches(self) -> dict[str, Callable[[], Any]]:
        return {"choose one in memory": lambda: self.factors.select([1])}

    @cached_property
    def _merged(self) -> PreTrainedModel:
        return self.served.merged(0)


def _grouped(adapters: Sequence[int]) -> tuple[list[int], list[int]]:
    """Rows in the order of their adapters, and these once each if all have as many rows, else one for every row."""
    order = sorted(range(len(adapters)), key=lambda row: adapters[row])
    chosen = sorted(set(adapters))
    if len({list(adapters).count(index) for index in chosen}) > 1:
        chosen = [adapters[row] for row in order]
    return order, chosen


class VllmBackend:
    """vLLM with resident adapters, greedy, in float32 as the others; each kind of request has an engine, and so a process, of its own."""

    def __init__(self, served: Served) -> None:
        self._vllm = load_vllm()
        check_model(served.name, served.model.config)
        self.served = served
        self._engines: dict[Kind, Any] = {}

    def server(self, kind: Kind) -> Serve:
        engine, new_tokens = self._engine(kind), self.served.new_tokens
        sampling = self._vllm.SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)

        def serve(prompts: Int[Tensor, "B T"], adapters: Sequence[int]) -> Int[Tensor, "B N"]:
            given = [{"prompt_token_ids": row} for row in prompts.tolist()]
            chosen = [self._request(index) for index in adapters] if kind == "adapters" else None
            out = engine.generate(given, sampling, lora_request=chosen, use_tqdm=False)
            return torch.tensor([list(one.outputs[0].token_ids) for one in out])

        return serve

    def weights(self, kind: Kind) -> list[Tensor]:
        return [*self.served.model.parameters(), *(self.served.factors.tensors() if kind == "adapters" else ())]

    def switches(self) -> dict[str, Callable[[], Any]]:
        engine, more = self._engine("adapters").llm_engine, self._request(1, self.served.factors.n_adapters)

        def load() -> None:
            engine.add_lora(more)
            engine.remove_lora(more.lora_int_id)

        return {"read from disk, choose and drop": load}

    @property
    def reserved_bytes(self) -> int:
        """Its cache."""
        served = self.served
        return cache_bytes(served.model.config, served.requests, served.prompt_tokens + served.new_tokens, 4)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.llm_engine.engine_core.shutdown()
        self._engines.clear()

    def _request(self, index: int, number: int | None = None) -> Any:
        """Asks for an adapter, under a number of its own or another one."""
        number = index if number is None else number
        return lora_request(str(number), number + 1, str(self.served.adapter_folder(index)))

    def _engine(self, kind: Kind) -> Any:
        if kind not in self._engines:
            self._engines[kind] = started(self.served.name, lambda: self._start(kind))
        return self._engines[kind]

    def _start(self, kind: Kind) -> Any:
        served, folder = self.served, self.served.folder / f"vllm-{kind}"
        (served.merged(0) if kind == "merged" else served.model).save_pretrained(folder)
        ranks = [rank for of_module in served.factors.ranks.values() for rank in of_module]
        count = served.factors.n_adapters
        return self._vllm.LLM(
            str(folder),
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=served.prompt_tokens + served.new_tokens,
            max_num_seqs=served.requests,
            kv_cache_memory_bytes=self.reserved_bytes,
            enable_prefix_caching=False,
            **(adapter_options(max(ranks), count, count + 1) if kind == "adapters" else {}),
        )


BACKENDS: dict[str, Callable[[Served], Backend]] = {"peft": PeftBackend, "functional": FunctionalBackend, "vllm": VllmBackend}
"""Name -> what serves that way, or says in a sentence why it does not here."""
