"""What other libraries' faults say is passed on, but never the advice to run a pickle's code."""

import os
from pathlib import Path

import pytest
import torch
from tiny import peft_adapter, tiny_model

from llgbm.errors import InputError, first_line
from llgbm.lora.peft_io import read_adapter
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
