"""Bases in 8 and 4 bits: adapters answer as in plain PEFT, gradients are those of the weights meant, and no forward changes any."""

import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny import peft_adapter
from torch import nn
from transformers import LlamaConfig

from llgbm.cli import main
from llgbm.config import ExperimentConfig, LoRAConfig, ModelConfig, TrainingConfig, ZooConfig
from llgbm.errors import InputError
from llgbm.files import hash_tensors
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapters, target_shapes
from llgbm.planning.costs import calibrate
from llgbm.planning.paper import paper_base
from llgbm.planning.work import on_paper
from llgbm.study.backbone import load_backbone
from llgbm.study.config import StudyConfig
from llgbm.training.setup import prepare
from llgbm.vllm_engine import check_model
from llgbm.zoo.base import Base, check_base, load_base
from llgbm.zoo.build import build_zoo
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.quantized import INT8, NF4, QUANTIZED, quantization

pytest.importorskip("bitsandbytes")
NEAR = {INT8: 0.06, NF4: 0.02}
"""Columns with outliers are not rounded in 8 bits, and which these are depends on all rows of a forward."""
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module", params=QUANTIZED)
def base(request: pytest.FixtureRequest) -> Base:
    return load_base("micro", request.param)


@pytest.fixture(scope="module")
def adapters(base: Base, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two, large enough to matter."""
    plain, place = load_base("micro").model, tmp_path_factory.mktemp("adapters")
    for seed in (0, 1):
        peft_adapter(plain, place / str(seed), seed, target_modules=TARGETS)
    return [place / "0", place / "1"]


@pytest.fixture(scope="module")
def functional(base: Base) -> FunctionalLoRA:
    return FunctionalLoRA(base.model, target_shapes(base.model, TARGETS))


def tokens(rows: int = 4) -> torch.Tensor:
    return torch.randint(5, 60, (rows, 12), generator=torch.Generator().manual_seed(0))


def everywhere(ids: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(ids, dtype=torch.bool)


def written_out(model: nn.Module) -> nn.Module:
    """The same model with each quantized layer's weight as the numbers it stands for."""
    import bitsandbytes as bnb

    model = deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            scales = module.state.SCB if module.state.SCB is not None else module.weight.SCB
            weight = module.weight.data.float() * scales[:, None] / 127
        else:
            continue
        linear = nn.Linear(module.in_features, module.out_features, module.bias is not None, dtype=torch.bfloat16)
        linear.weight, linear.bias = nn.Parameter(weight.to(torch.bfloat16), requires_grad=False), module.bias
        model.set_submodule(name, linear)
    return model


def test_what_is_loaded_is_quantized_and_says_so(base: Base) -> None:
    plain = load_base("micro", "bfloat16")
    layer = base.model.get_submodule("model.layers.0.mlp.down_proj")
    assert layer.weight.nbytes == layer.in_features * layer.out_features * (1 if base.dtype == INT8 else 0.5)
    assert base.identity.dtype == base.as_configured().dtype == base.dtype
    assert base.source_hash == plain.source_hash
    assert base.content_hash != plain.content_hash
    assert target_shapes(base.model, "all-linear") == target_shapes(plain.model, "all-linear")
    with pytest.raises(InputError, match=f"is loaded in {base.dtype}; say --dtype {base.dtype} if that is what you want"):
        check_base("this zoo", plain.identity, base)
    check_base("this zoo", plain.identity, base, any_dtype=True)


@pytest.mark.numeric
def test_adapters_side_by_side_answer_as_in_plain_peft(base: Base, functional: FunctionalLoRA, adapters: list[Path]) -> None:
    ids, before = tokens(), hash_tensors(base.model.state_dict())
    with torch.no_grad():
        together = functional(read_adapters(adapters), torch.cat([ids, ids]), logits_at=everywhere(torch.cat([ids, ids]))).logits
        bare = functional(None, ids, logits_at=everywhere(ids)).logits
        assert together is not None
        for found, folder in zip(together.view(2, -1, together.shape[-1]), adapters, strict=True):
            alone = PeftModel.from_pretrained(load_base("micro", base.dtype).model, folder).eval()(input_ids=ids).logits.flatten(0, 1)
            assert (found - alone).norm() < NEAR[base.dtype] * alone.norm()
            assert (found - bare).norm() > 0.2 * alone.norm()
    assert hash_tensors(base.model.state_dict()) == before


@pytest.mark.numeric
def test_gradients_are_those_of_the_weights_it_stands_for(base: Base, functional: FunctionalLoRA, adapters: list[Path]) -> None:
    plain, ids, found = written_out(base.model), tokens(), []
    for wrapped in (functional, FunctionalLoRA(plain, functional.shapes)):  # pyright: ignore[reportArgumentType]
        factors: LoRAFactors = read_adapters(adapters)
        trained = [tensor.requires_grad_() for tensor in (*factors.a.values(), *factors.b.values())]
        logits = wrapped(factors, ids, logits_at=everywhere(ids)).logits
        assert logits is not None
        logits.float().logsumexp(-1).sum().backward()
        found.append([tensor.grad for tensor in trained])
    for one, other in zip(*found, strict=True):
        assert one.norm() > 0
        assert torch.cosine_similarity(one.flatten(), other.flatten(), 0) > (0.999 if base.dtype == NF4 else 0.98)


def test_teachers_learn_on_it_and_go_on_with_it(base: Base, tmp_path: Path) -> None:
    micro_suite(n_train=20, n_test=4).spaced(2).save(tmp_path / "suite")
    zoo = ZooConfig(steps=20, batch_size=4, check_interval=20, suite=str(tmp_path / "suite"))
    lora = LoRAConfig(rank=4, target_modules=TARGETS)
    config = ExperimentConfig(ModelConfig(dtype=base.dtype), lora, zoo=zoo, checkpoint_folder=str(tmp_path / "zoo"))  # pyright: ignore[reportArgumentType]
    build_zoo(config)
    assert main(["compute-deltas", "--zoo", str(tmp_path / "zoo"), "--deltas", str(tmp_path / "deltas"), "--quiet"]) == 0
    sharded = replace(config, training=TrainingConfig(shard_base=True))
    with pytest.raises(InputError, match=f"model.dtype is {base.dtype}, which training.shard_base does not take"):
        prepare(sharded, "cpu")


def test_what_takes_no_quantized_base_says_so() -> None:
    with on_paper(), pytest.raises(InputError, match=r"model\.dtype is nf4, which a plan does not take; set it to bfloat16 or float32"):
        paper_base(ModelConfig(dtype="nf4"), TARGETS, "cpu", 1e9)
    with pytest.raises(InputError, match=r"model\.dtype is int8, which a plan does not take"):
        calibrate("cpu", "int8")
    for kind in ("decoder", "encoder"):
        with pytest.raises(InputError, match=r"model\.dtype is nf4, which a study does not take"):
            load_backbone(StudyConfig(model=ModelConfig(dtype="nf4"), architecture=kind))  # pyright: ignore[reportArgumentType]
    config = LlamaConfig()
    config.quantization_config = quantization(NF4)
    with pytest.raises(
        InputError, match="base it: it is quantized here, and vLLM would serve another one; the backend 'functional' takes it"
    ):
        check_model("it", config)


def test_without_bitsandbytes_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r"dtype nf4 needs bitsandbytes \(.*\); pip install 'llgbm\[quantized\]'"):
        load_base("micro", "nf4")
