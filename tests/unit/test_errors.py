"""What other libraries' faults say is passed on, but never the advice to run a pickle's code."""

import os
import resource
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny import peft_adapter, tiny_model

from llgbm.errors import InputError, blame_memory, first_line
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapter, write_adapter
from llgbm.zoo.base import load_base
from llgbm.zoo.micro.tokenizer import build_tokenizer


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("true",)


def test_first_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("\n one")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_an_adapter_that_is_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    peft_adapter(tiny_model(), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save({"x": Evil()}, tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match="holds more than tensors, and code in pickles never runs here") as caught:
        read_adapter(tmp_path)
    assert "weights_only" not in str(caught.value)


def test_a_base_that_is_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    torch.save({"x": Evil()}, tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"weights cannot be loaded .*code in pickles never runs here") as caught:
        load_base(str(tmp_path / "base"))
    assert "weights_only" not in str(caught.value)


def test_an_adapter_is_not_to_blame_where_memory_is_refused(tmp_path: Path) -> None:
    factors = LoRAFactors.initialize({"model.layers.0.q_proj": (1 << 16, 16)}, 512, 1.0)
    factors.b["model.layers.0.q_proj"].fill_(1.0)
    write_adapter(tmp_path, factors, base_name="x")
    stored = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(stored), tmp_path / "adapter_model.bin")
    stored.unlink()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (1 << 24), limits[1]))
    try:
        with pytest.raises(MemoryError, match="can't allocate memory"):
            read_adapter(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert read_adapter(tmp_path).n_adapters == 1


def test_only_faults_of_memory_are_blamed_on_it() -> None:
    blame_memory(OSError(28, "No space left on device"))
    with pytest.raises(MemoryError, match=r"^std::bad_alloc$"):
        blame_memory(RuntimeError("std::bad_alloc\n at ..."))
