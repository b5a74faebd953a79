"""As much of vLLM as a server calls, answered by transformers and PEFT in this process: for machines without vLLM.

It keeps to what vLLM 0.32 does, its CPU build's fault included: a request without an adapter, in a step where others have some, is
answered by the adapter in the last place. The same tests run on vLLM itself where it is installed.
"""

import sys
import threading
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class EngineDeadError(Exception):
    """Its process is gone."""


@dataclass
class Options:
    """What an engine, or a request, is asked for by name."""

    model: str = ""
    rest: dict[str, Any] = field(default_factory=dict)


def options(model: str = "", **rest: Any) -> Options:
    return Options(model, rest)


@dataclass
class _Request:
    number: str
    tokens: list[int]
    sampling: dict[str, Any]
    adapter: LoRARequest | None
    new: list[int] = field(default_factory=list)


class LLMEngine:
    """Decodes one token of every request in a step, without a cache."""

    dies = False
    """Whether the next step fails, as one does whose process ends by a fault."""
    killed = False
    """Whether no step ends, as happens where the process was killed."""
    reason = "length"
    """Why answers end; vLLM says `stop` too, and `abort` or `error` of those it gave up."""

    def __init__(self, asked: Options) -> None:
        self.asked = asked.rest
        self.model: Any = AutoModelForCausalLM.from_pretrained(asked.model, dtype=asked.rest["dtype"]).eval()
        self.adapters: dict[int, LoRARequest] = {}
        self.requests: list[_Request] = []
        self.given_up: list[str] = []
        self.engine_core = SimpleNamespace(shutdown=lambda: None, ensure_alive=self._ensure_alive)

    @classmethod
    def from_engine_args(cls, asked: Options) -> "LLMEngine":
        return cls(asked)

    def add_lora(self, request: LoRARequest) -> bool:
        if PeftConfig.from_pretrained(request.lora_path).r > self.asked["max_lora_rank"]:
            raise ValueError("LoRA rank is greater than max_lora_rank")
        if len(self.adapters) >= self.asked["max_cpu_loras"]:
            self.remove_lora(next(iter(self.adapters)))
        self._load(request)
        self.adapters[request.lora_int_id] = request
        return True

    def _load(self, request: LoRARequest) -> None:
        name = str(request.lora_int_id)
        if isinstance(self.model, PeftModel):
            self.model.load_adapter(request.lora_path, name)
        else:
            self.model = PeftModel.from_pretrained(self.model, request.lora_path, adapter_name=name).eval()

    def remove_lora(self, number: int) -> bool:
        self.model.delete_adapter(str(number))
        return self.adapters.pop(number, None) is not None

    def list_loras(self) -> set[int]:
        return set(self.adapters)

    def add_request(self, number: str, prompt: dict[str, list[int]], sampling: Options, lora_request: LoRARequest | None) -> str:
        if len(self.requests) >= self.asked["max_num_seqs"]:
            raise ValueError("one more request than vLLM was told of")
        if lora_request is not None and not Path(lora_request.lora_path).is_dir():
            raise ValueError("the adapter's folder is gone")
        self.requests.append(_Request(number, prompt["prompt_token_ids"], sampling.rest, lora_request))
        return number

    def abort_request(self, numbers: list[str]) -> None:
        self.given_up += numbers
        self.requests = [request for request in self.requests if request.number not in numbers]

    @torch.no_grad()
    def step(self) -> list[Any]:
        if self.killed:
            threading.Event().wait()
        if self.dies:
            self.requests = []
        self._ensure_alive()
        used = {request.adapter.lora_int_id for request in self.requests if request.adapter}
        assert len(used) <= self.asked["max_loras"]
        done = []
        for request in self.requests:
            number = request.adapter.lora_int_id if request.adapter else max(used, default=None)
            done += [request] * self._further(request, number)
        self.requests = [request for request in self.requests if request not in done]
        return [
            SimpleNamespace(request_id=one.number, finished=True, outputs=[SimpleNamespace(token_ids=one.new, finish_reason=self.reason)])
            for one in done
        ]

    def _ensure_alive(self) -> None:
        if self.dies or self.killed:
            raise EngineDeadError("EngineCore encountered an issue")

    def _further(self, request: _Request, adapter: int | None) -> bool:
        if adapter is not None:
            self.model.set_adapter(str(adapter))
            self.adapters[adapter] = self.adapters.pop(adapter)  # the one used last goes last
        ids = torch.tensor([request.tokens + request.new])
        request.new.append(int(self.model(input_ids=ids).logits[0, -1].argmax()))
        full = ids.shape[1] + 1 >= self.asked["max_model_len"]
        return full or len(request.new) >= request.sampling["max_tokens"] or request.new[-1] in request.sampling["stop_token_ids"]


class _Attention:
    @staticmethod
    def get_supported_head_sizes() -> list[int]:
        return [32, 64, 128]

    @classmethod
    def supports_head_size(cls, size: int) -> bool:
        return size in cls.get_supported_head_sizes()


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import vllm` find this."""
    registry = SimpleNamespace(models={"BambaForCausalLM": SimpleNamespace(load_model_cls=lambda: None)})
    parts: dict[str, dict[str, Any]] = {
        "vllm": {"EngineArgs": options, "SamplingParams": options, "LLMEngine": LLMEngine},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.config.lora": {"MaxLoRARanks": Literal[1, 8, 16]},
        "vllm.v1.engine.exceptions": {"EngineDeadError": EngineDeadError},
        "vllm.platforms": {"current_platform": SimpleNamespace(device_type="cpu")},
        "vllm.model_executor.models": {"ModelRegistry": registry, "supports_lora": lambda model: model is not None},
        "vllm.v1.attention.backends.cpu_attn": {"CPUAttentionBackend": _Attention},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
