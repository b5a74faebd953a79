"""vLLM as a backend: each sentence's adapter becomes a PEFT folder that vLLM loads while it runs, and requests join and leave its batch.

The base is asked through an adapter of zeros: where only some requests of a step have adapters, vLLM's CPU build (0.32) answers the
others by the adapter in its last place.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import write_adapter
from llgbm.memory import MemoryPlan
from llgbm.models.writer import AdapterWriter
from llgbm.serve.engine import Answer, Job
from llgbm.serve.shelf import Shelf
from llgbm.vllm_engine import adapter_options, cache_bytes, check_model, device_type, end_of, load_vllm, lora_request, started
from llgbm.zoo.base import Base
from llgbm.zoo.named import loadable_name, name_on_hub

MOST_TOKENS = 4096
"""Prompt and answer together, where neither the base nor its tokenizer says how many it reads."""
USUAL_TOKENS = 1024
"""Of a request, for which the cache has room beside all others; where many are longer, some wait."""


class Vllm:
    """Answers the jobs it has step by step.

    Args:
        generator: Writes adapters for this base.
        base: Read by vLLM once more, from where it lies.
        framing: What ends an answer, and how tokens become text.
        most: Most requests, and adapters, in a step.
        adapters: Most adapters that are kept, in host memory and as folders.
        memory_gb: As `MemoryPlan` takes it, for the device that vLLM runs on.

    Raises:
        InputError: vLLM is not installed, or does not serve such a base or such adapters.
    """

    def __init__(
        self, generator: AdapterWriter, base: Base, framing: Framing, most: int, adapters: int, memory_gb: float | None = None
    ) -> None:
        self._vllm = load_vllm()
        check_model(base.name, base.model.config)
        self.generator, self.base, self.framing, self.most = generator, base, framing, most
        options = adapter_options(generator.spec.rank, most + 1, adapters + 2)  # that of zeros, and one that is about to go
        self.shelf: Shelf[Any] = Shelf(self._write, adapters, self._drop)
        self._numbers, self._requests = itertools.count(1), itertools.count()
        self._running: dict[str, Job] = {}
        self._failed: list[tuple[Job, Exception]] = []
        self._place, self._engine = tempfile.TemporaryDirectory(prefix="llgbm-adapters-"), None
        zeros = LoRAFactors.zeros(generator.spec.shapes, generator.spec.rank, 1.0)
        try:
            self._engine: Any = started(base.name, lambda: self._start(options, memory_gb))
            self._zeros = started(base.name, lambda: self._load(zeros, "zeros"))
        except InputError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._running) + len(self._failed)

    @property
    def fault(self) -> str | None:
        return end_of(self._engine)

    def take(self, job: Job) -> None:
        try:
            number = str(next(self._requests))
            self._engine.add_request(number, {"prompt_token_ids": job.prompt}, self._sampling(job), lora_request=self._adapter(job))
        except Exception as error:  # the engine has to outlive whatever one job holds; who asked gets the reason
            self._failed.append((job, error))
        else:
            self._running[number] = job

    def step(self) -> Iterable[tuple[Job, Answer | Exception]]:
        """One token of every job; what vLLM itself fails at fails all of them."""
        failed, self._failed = self._failed, []
        if failed:
            return failed
        try:
            self._give_up([number for number, job in self._running.items() if job.answer.cancelled()])
            outputs = self._engine.step() if self._running else []
        except Exception as error:  # as above
            lost, self._running = self._running, {}
            return [(job, error) for job in lost.values()]
        return [self._answered(output) for output in outputs if output.finished and output.request_id in self._running]

    def close(self) -> None:
        """End vLLM's processes and remove the folders."""
        if self._engine is not None:
            self._engine.engine_core.shutdown()
        self._place.cleanup()

    def _start(self, options: dict[str, Any], memory_gb: float | None) -> Any:
        vllm, model, length = self._vllm, self.base.model, self.framing.max_length or MOST_TOKENS
        wanted = ((self.most, min(length, USUAL_TOKENS)), (1, length))
        needed = max(cache_bytes(model.config, *each, model.dtype.itemsize) for each in wanted)
        slots = (self.most + 1) * self.generator.spec.emitted() * model.dtype.itemsize
        held = slots + sum(parameter.nbytes for parameter in model.parameters())
        room = MemoryPlan(device_type(), memory_gb).free_bytes() - held
        arguments = vllm.EngineArgs(
            loadable_name(self.base.name),
            revision=self.base.revision if name_on_hub(self.base.name) else None,
            dtype=self.base.dtype,
            max_model_len=length,
            max_num_seqs=self.most,
            kv_cache_memory_bytes=max(1, min(needed, room)),
            skip_tokenizer_init=True,
            disable_log_stats=True,
            **options,
        )
        return vllm.LLMEngine.from_engine_args(arguments)

    def _sampling(self, job: Job) -> Any:
        ends = sorted(self.framing.ends)
        return self._vllm.SamplingParams(temperature=0.0, max_tokens=job.max_tokens, stop_token_ids=ends, ignore_eos=True, detokenize=False)

    def _adapter(self, job: Job) -> Any:
        if job.sentence is None:
            return self._zeros
        in_use = {running.sentence for running in self._running.values()}
        return self.shelf.take([job.sentence], in_use)[job.sentence]

    def _answered(self, output: Any) -> tuple[Job, Answer | Exception]:
        job, found = self._running.pop(output.request_id), output.outputs[0]
        if found.finish_reason not in ("stop", "length"):
            return job, RuntimeError(f"vLLM gave the answer up ({found.finish_reason})")
        return job, Answer.read(self.framing, job.prompt, list(found.token_ids))

    def _give_up(self, numbers: Sequence[str]) -> None:
        if numbers:
            self._engine.abort_request(numbers)
        for number in numbers:
            del self._running[number]

    def _write(self, sentence: str) -> Any:
        """Write a sentence's adapter and have vLLM load it, or take the one that does the same."""
        factors = self.generator.generate(description=sentence, base=self.base)
        content = factors.content_hash()
        known = next((request for request in self.shelf.kept if request.lora_name == content), None)
        return known or self._load(factors, content)

    def _load(self, factors: LoRAFactors, name: str) -> Any:
        folder = Path(self._place.name) / name
        write_adapter(folder, factors, base_name=loadable_name(self.base.name), fan_in_fan_out=self.generator.spec.fan_in_fan_out)
        request = lora_request(name, next(self._numbers), str(folder))
        self._engine.add_lora(request)
        return request

    def _drop(self, request: Any) -> None:
        """Let an adapter go that no sentence on the shelf has any more."""
        if request not in self.shelf.kept:
            self._engine.remove_lora(request.lora_int_id)
            shutil.rmtree(request.lora_path)
