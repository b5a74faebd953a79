"""PEFT directories in and out: every config form against PEFT's own logits, and every fault by its sentence."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, VeraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from tiny import padded_tokens, peft_adapter, tiny_model
from transformers import PreTrainedModel

from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.adapter_config import AdapterConfig
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import adapter_hash, find_adapters, read_adapter, read_adapters, target_shapes, write_adapter
from llgbm.lora.stored import stored_bytes

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DOMAINS = Path(__file__).parents[3] / "shared" / "data" / "adapters_gpt2_domains"
FIRST_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
FIRST_B = FIRST_A.replace("lora_A", "lora_B")
FORMS: dict[str, dict[str, Any]] = {
    "list": {"target_modules": ["q_proj", "down_proj"]},
    "full names": {"target_modules": ["model.layers.1.mlp.up_proj"]},
    "regex": {"target_modules": r".*layers\.1\.self_attn\.(q|v)_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "rank pattern": {"rank_pattern": {"q_proj": 2, "^model.layers.1.mlp.up_proj": 6}},
    "alpha pattern": {"alpha_pattern": {"layers.0.mlp.down_proj": 3, "v_proj": 32}},
    "both patterns": {"rank_pattern": {"o_proj": 3}, "alpha_pattern": {"o_proj": 5}},
    "rsLoRA": {"use_rslora": True, "r": 3, "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"k_proj": 7}},
    "some layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "layers pattern": {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
    "excluded": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
}


def logits(model: Any) -> torch.Tensor:
    ids, mask, positions = padded_tokens(2, 8, "left")
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[mask.bool()]


def functional_logits(model: PreTrainedModel, factors: LoRAFactors) -> torch.Tensor:
    ids, mask, _ = padded_tokens(2, 8, "left")
    return FunctionalLoRA(model, factors.module_names)(factors, ids, mask, logits_at=mask.bool()).logits


def assert_same_adapter(one: LoRAFactors, other: LoRAFactors) -> None:
    assert one.content_hash() == other.content_hash()
    assert one.ranks == other.ranks
    for name in one.a:
        assert torch.equal(one.a[name], other.a[name])
        assert torch.equal(one.b[name], other.b[name])
        assert torch.equal(one.scaling[name], other.scaling[name])


def to_peft_and_back(model: PreTrainedModel, peft_model: PeftModel, source: Path, target: Path) -> None:
    """PEFT's folder -> factors -> our folder -> PEFT: logits equal at each station, factors to the bit."""
    factors = read_adapter(source, target_shapes(model, "all-linear"))
    expected = logits(peft_model)
    assert (functional_logits(model, factors) - expected).abs().max() <= 1e-5
    assert (expected - logits(model)).abs().max() > 1e-3
    write_adapter(target, factors, base_name="tiny", fan_in_fan_out=model.config.model_type == "gpt2")
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), target).eval()
    assert (logits(loaded) - expected).abs().max() <= 1e-5
    assert_same_adapter(read_adapter(target), factors)


@pytest.mark.parametrize("form", FORMS)
def test_every_config_form_survives(form: str, tmp_path: Path) -> None:
    model = tiny_model()
    to_peft_and_back(model, peft_adapter(model, tmp_path / "in", **FORMS[form]), tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("targets", [["c_attn"], ["c_attn", "c_proj", "c_fc"]])
def test_conv1d_survives(targets: list[str], tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    to_peft_and_back(model, peft_adapter(model, tmp_path / "in", target_modules=targets), tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["fan_in_fan_out"] is True


def test_half_precision_and_pickled_adapters_are_read(tmp_path: Path) -> None:
    model = tiny_model()
    peft_adapter(model, tmp_path)
    whole = read_adapter(tmp_path)
    halves = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / TENSORS).items()}
    save_file(halves, tmp_path / TENSORS)
    read = read_adapter(tmp_path)
    assert all(torch.equal(read.a[name], whole.a[name].bfloat16().float()) for name in whole.a)
    size = sum(tensor.nbytes for tensor in halves.values())
    assert stored_bytes([tmp_path]) == 2 * size == sum(tensor.nbytes for tensor in read.tensors())
    (tmp_path / TENSORS).unlink()
    torch.save(halves, tmp_path / "adapter_model.bin")
    assert_same_adapter(read_adapter(tmp_path), read)
    assert stored_bytes([tmp_path]) == 2 * size


def test_mixed_adapters_stack_and_keep_their_order(tmp_path: Path) -> None:
    model = tiny_model()
    peft_adapter(model, tmp_path / "b", r=2, target_modules=["q_proj"])
    peft_adapter(model, tmp_path / "a", seed=1, r=5)
    both = read_adapters([tmp_path / "b", tmp_path / "a"])
    assert both.content_hash(0) == adapter_hash(tmp_path / "b")
    assert both.content_hash(1) == adapter_hash(tmp_path / "a")
    write_adapter(tmp_path / "c", both, 0, base_name="tiny")
    assert adapter_hash(tmp_path / "c") == adapter_hash(tmp_path / "b")


def test_hash_ignores_wording_and_sees_content(tmp_path: Path) -> None:
    peft_adapter(tiny_model(), tmp_path, target_modules=["q_proj", "v_proj"])
    before = adapter_hash(tmp_path)
    edit_config(tmp_path, target_modules=["v_proj", "q_proj"], base_model_name_or_path="elsewhere", lora_dropout=0.5)
    assert adapter_hash(tmp_path) == before
    edit_config(tmp_path, lora_alpha=9)
    assert adapter_hash(tmp_path) != before
    edit_config(tmp_path, lora_alpha=8)
    edit_tensors(tmp_path, lambda tensors: tensors[FIRST_B].view(-1)[3].add_(1e-4))
    assert adapter_hash(tmp_path) != before


@pytest.mark.parametrize("name", ["legal", "medical", "sports"])
def test_adapters_from_the_wild_equal_peft(name: str, tmp_path: Path) -> None:
    if not DOMAINS.is_dir():
        pytest.skip(f"{DOMAINS} is not here; it holds three published GPT-2 adapters")
    model = tiny_model("gpt2", n_embd=768, n_layer=12, n_head=12, initializer_range=0.02)
    peft_model = PeftModel.from_pretrained(copy.deepcopy(model), DOMAINS / name).eval()
    factors = read_adapter(DOMAINS / name, target_shapes(model, "all-linear"))
    assert len(factors.a) == 36
    assert set(factors.scaling["transformer.h.0.attn.c_attn"].tolist()) == {2.0}
    assert (functional_logits(model, factors) - logits(peft_model)).abs().max() <= 1e-5
    write_adapter(tmp_path, factors, base_name="gpt2", fan_in_fan_out=True)
    ours, theirs = load_file(tmp_path / TENSORS), load_file(DOMAINS / name / TENSORS)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_written_bytes_depend_on_content_only(tmp_path: Path) -> None:
    factors = LoRAFactors.stack([LoRAFactors.initialize({name: (4, 3)}, rank, 4) for rank, name in enumerate(("b.q", "a.v", "a.q"), 2)])
    factors = factors.select([0])
    factors.ranks = dict.fromkeys(factors.ranks, (3,))
    fields = (factors.a, factors.b, factors.scaling, factors.ranks)
    turned = LoRAFactors(*({name: whole[name] for name in reversed(whole)} for whole in fields))
    for folder, one in (("first", factors), ("second", turned)):
        write_adapter(tmp_path / folder, one, base_name="x", extra_config={"revision": None, "auto_mapping": None})
    assert all((tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes() for file in (CONFIG, TENSORS))
    config = json.loads((tmp_path / "first" / CONFIG).read_text())
    assert list(config) == sorted(config)
    assert config["target_modules"] == ["a.q", "a.v", "b.q"]


@pytest.mark.slow
def test_written_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from llgbm.lora.factors import LoRAFactors\n"
        "from llgbm.lora.peft_io import write_adapter\n"
        "write_adapter(sys.argv[1], LoRAFactors.zeros({n: (4, 3) for n in {'b.q', 'a.v', 'a.q'}}, 2, 4), base_name='x')\n"
    )
    contents = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment)
        contents.append([(tmp_path / seed / file).read_bytes() for file in (CONFIG, TENSORS)])
    assert contents[0] == contents[1]


def test_writing_over_an_adapter_keeps_other_files_and_replaces_the_rest(tmp_path: Path) -> None:
    model = tiny_model()
    peft_adapter(model, tmp_path, r=2)
    (tmp_path / "prompts.json").write_text("[]")
    factors = LoRAFactors.initialize(target_shapes(model, ["q_proj"]), 3, 6)
    write_adapter(tmp_path, factors, base_name="tiny", extra_config={"target_modules": ["q_proj"]})
    assert_same_adapter(read_adapter(tmp_path), factors)
    assert {path.name for path in tmp_path.iterdir()} >= {"prompts.json", CONFIG, TENSORS}
    assert not list(tmp_path.glob("*.tmp"))
    assert json.loads((tmp_path / CONFIG).read_text())["target_modules"] == ["q_proj"]


def test_an_interrupted_write_leaves_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    peft_adapter(model, tmp_path)
    monkeypatch.setattr("llgbm.lora.peft_io.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_adapter(tmp_path, LoRAFactors.zeros(target_shapes(model, ["q_proj"]), 2, 2), base_name="tiny")
    with pytest.raises(InputError, match=r"adapter_config.json is missing"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("targets", [["q_proj", "up_proj"], r".*\.(q|up)_proj", "all-linear", {"down_proj"}])
def test_target_shapes_are_those_peft_adapts(targets: Any, tmp_path: Path) -> None:
    model = tiny_model()
    peft_adapter(model, tmp_path, target_modules=targets)
    assert target_shapes(model, targets) == dict(_in_order(model, read_adapter(tmp_path).shapes))


def _in_order(model: PreTrainedModel, shapes: dict[str, tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
    return [(name, shapes[name]) for name, _ in model.named_modules() if name in shapes]


def test_conv1d_shapes_are_in_then_out() -> None:
    assert target_shapes(tiny_model("gpt2"), ["c_attn"])["transformer.h.0.attn.c_attn"] == (32, 96)


def test_target_faults_are_named() -> None:
    with pytest.raises(InputError, match=r"\['nothing'\] match nothing in this base; its linear modules are down_proj"):
        target_shapes(tiny_model(), ["nothing"])
    with pytest.raises(InputError, match=r"target_modules '\(' is no regular expression .*; correct it, or give a list of names"):
        target_shapes(tiny_model(), "(")
    with pytest.raises(InputError, match=r"match model.embed_tokens, a Embedding"):
        target_shapes(tiny_model(), ["q_proj", "embed_tokens"])


def test_adapters_are_found_wherever_they_lie(tmp_path: Path) -> None:
    model = tiny_model()
    for place in ("b/seed0", "a/seed1", "a"):
        write_adapter(tmp_path / place, LoRAFactors.zeros(target_shapes(model, ["q_proj"]), 2, 2), base_name="tiny")
    (tmp_path / "a" / "seed1" / CONFIG).unlink()
    (tmp_path / "empty").mkdir()
    assert find_adapters(tmp_path) == [tmp_path / "a", tmp_path / "a/seed1", tmp_path / "b/seed0"]
    assert find_adapters(tmp_path / "empty") == []
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        find_adapters(tmp_path / "nowhere")


def test_linked_adapters_are_found_and_circles_end(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    for place in (elsewhere / "x", folder / "own"):
        write_adapter(place, LoRAFactors.zeros({"q": (3, 4)}, 2, 2), base_name="tiny")
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "own" / "up").symlink_to(tmp_path / "folder")
    assert find_adapters(folder) == [folder / "linked" / "x", folder / "own"]
    assert read_adapter(folder / "linked" / "x").module_names == ("q",)


def test_patterns_match_as_in_peft() -> None:
    config = AdapterConfig(1, 2.0, dict.fromkeys(("q_proj", "^model.layers.1.up", r"layers\.\d+\.(k|v)_proj"), 7))
    for name in ("model.layers.0.q_proj", "x_q_proj", "model.layers.1.up", "a.model.layers.1.up", "layers.3.v_proj", "q_proj.z"):
        expected = config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), name), 1)
        assert config.rank_and_scaling(name) == (expected, 2 / expected)


def edit_config(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | entries))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    peft_adapter(tiny_model(), folder, target_modules=["q_proj", "v_proj"])
    return folder


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in (CONFIG, TENSORS):
        (folder / name).write_bytes((sound / name).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"use_dora": True}, "uses DoRA, which LoRA factors cannot express"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"bias": "all"}, "bias='all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"use_dora": True, "bias": "all"}, "DoRA, bias='all'"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16.*changes the base"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only LORA"),
        ({"r": 0}, "adapter_config.json: r must be at least 1, found 0"),
        ({"rank_pattern": {"q_proj": "four"}}, "adapter_config.json: rank_pattern.q_proj must be an integer, found 'four'"),
        ({"lora_alpha": None}, "adapter_config.json: lora_alpha must be a number, found None"),
        ({"lora_alpha": 6.805647135594673e38}, r"adapter_config.json: lora_alpha must be at most 3.40\d+e\+38, found 6.80\d+e\+38"),
        ({"alpha_pattern": {"q_proj": -1e39}}, r"adapter_config.json: alpha_pattern.q_proj must be at least -3.40\d+e\+38, found -1e\+39"),
        ({"r": True, "lora_alpha": "16"}, "r must be an integer, found True; lora_alpha must be a number, found '16'"),
        ({"rank_pattern": ["q_proj"]}, r"adapter_config.json: rank_pattern must be a mapping to an integer or null, found \['q_proj'\]"),
        ({"alpha_pattern": 3}, "adapter_config.json: alpha_pattern must be a mapping to a number or null, found 3"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern.q_proj must be a number, found None"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false or null, found 'yes'"),
        ({"lora_alpha": 10**400}, "lora_alpha must be a number, found 1000"),
        ({"rank_pattern": {"(": 4}}, r"rank_pattern has a pattern, '\(', that is no regular expression"),
        ({"alpha_pattern": {"*": 4}}, r"alpha_pattern has a pattern, '\*', that is no regular expression"),
        (
            {"rank_pattern": {r"(?:(?=(\w*))\w|.)*" * 5 + "q": 4}},
            r"rank_pattern has a pattern, .*, that takes over .* s on model.layers.0.self_attn.q_proj",
        ),
        ({"rank_pattern": {"(?i)Q": 4}}, "that is no regular expression .global flags not at the start"),
        (
            {"rank_pattern": {"q" * 1001: 4}},
            "rank_pattern has a pattern, .*, that is 1010 characters long, more than the 1000 that",
        ),
        ({"r": 8}, r"lora_A.weight is \(4, 32\), expected \(8, 32\) \(rank 8 by adapter_config.json\)"),
    ],
)
def test_configs_that_cannot_be_expressed_are_refused(entries: dict[str, Any], message: str, adapter: Path) -> None:
    edit_config(adapter, **entries)
    with pytest.raises(InputError, match=message) as caught:
        read_adapter(adapter)
    assert str(adapter) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[FIRST_A].view(-1)[0].fill_(float("nan")), f"tensor {FIRST_A} has 1 values that are NaN or infinite"),
        (lambda t: t.update({FIRST_A: t[FIRST_A].double() + 1e39}), f"tensor {FIRST_A} has 128 values that are NaN or infinite"),
        (lambda t: t[FIRST_B].view(-1)[:2].fill_(float("inf")), f"tensor {FIRST_B} has 2 values"),
        (lambda t: t.pop(FIRST_B), f"tensor {FIRST_B} is missing"),
        (lambda t: t.pop(FIRST_A), f"tensor {FIRST_A} is missing"),
        (lambda t: t.clear(), "holds no tensors"),
        (lambda t: t.update({FIRST_B: torch.zeros(32, 5)}), rf"{FIRST_B} is \(32, 5\), expected \(32, 4\)"),
        (lambda t: t.update({FIRST_A: torch.zeros(4, 33)}), rf"{FIRST_A} is \(4, 33\), expected \(4, 32\) .*the rest by the base"),
        (lambda t: t.update({FIRST_A: torch.zeros(())}), rf"{FIRST_A} is \(\), expected"),
        (
            lambda t: t.update({FIRST_A: torch.zeros(4, 32, dtype=torch.int8)}),
            f"dtype mismatch: tensor {FIRST_A} is torch.int8, expected one of float32",
        ),
        (lambda t: t.update({FIRST_A: torch.zeros(4, 32).to(torch.float8_e4m3fn)}), f"dtype mismatch: tensor {FIRST_A} is torch.float8"),
        (lambda t: t.update({FIRST_A.replace("A.weight", "B.bias"): torch.zeros(3)}), "lora_B.bias belongs to lora_bias"),
        (lambda t: t.update({FIRST_A.replace("lora_A.weight", "lora_magnitude_vector"): torch.zeros(3)}), "belongs to DoRA"),
        (lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(3)}), "an embedding target"),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(3)}),
            "belongs to a whole copy of the base's lm_head .save with",
        ),
        (lambda t: t.update({FIRST_A.replace(".weight", ".scale"): torch.zeros(3)}), "lora_A.scale belongs to a tensor beyond lora_A and"),
    ],
)
def test_broken_tensors_are_refused(change: Callable[[dict[str, torch.Tensor]], Any], message: str, adapter: Path) -> None:
    edit_tensors(adapter, change)
    with pytest.raises(InputError, match=message) as caught:
        read_adapter(adapter, target_shapes(tiny_model(), "all-linear"))
    assert str(adapter) in str(caught.value)


def test_adapters_of_another_base_are_refused(adapter: Path) -> None:
    with pytest.raises(InputError, match=r"module model.layers.0.self_attn.q_proj is not among the base's target modules"):
        read_adapter(adapter, target_shapes(tiny_model("gpt2"), "all-linear"))
    wider = tiny_model(hidden_size=64)
    with pytest.raises(InputError, match=r"is \(4, 32\), expected \(4, 64\)"):
        read_adapter(adapter, target_shapes(wider, "all-linear"))


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_truncated_files_are_refused(kept: float, adapter: Path) -> None:
    content = (adapter / TENSORS).read_bytes()
    (adapter / TENSORS).write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(InputError, match=rf"adapter {adapter}: {TENSORS} is truncated or broken"):
        read_adapter(adapter)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("/tmp/llgbm_unpickled_code",))


SPOILED = {
    "evil": lambda tensors: {"x": _Evil()},
    "list": lambda tensors: [1, 2],
    "tensor": lambda tensors: torch.ones(2, 2),
    "numbers": lambda tensors: dict.fromkeys(tensors, 1.0),
    "nothing": dict.fromkeys,
    "integer keys": lambda tensors: dict(enumerate(tensors.values())),
    "sparse": lambda tensors: {name: tensor.to_sparse() for name, tensor in tensors.items()},
    "meta": lambda tensors: {name: tensor.to("meta") for name, tensor in tensors.items()},
}


@pytest.mark.parametrize("content", [b"", b"garbage", *SPOILED])
def test_bad_pickles_are_refused_and_never_run(content: Any, adapter: Path) -> None:
    tensors = load_file(adapter / TENSORS)
    (adapter / TENSORS).unlink()
    file = adapter / "adapter_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(SPOILED[content](tensors), file)
    with pytest.raises(InputError, match=r"adapter_model.bin is truncated or broken"):
        read_adapter(adapter)
    assert not Path("/tmp/llgbm_unpickled_code").exists()


def test_missing_and_broken_files_are_named(adapter: Path) -> None:
    (adapter / TENSORS).rename(adapter / "elsewhere")
    with pytest.raises(InputError, match=r"adapter_model.safetensors is missing"):
        read_adapter(adapter)
    (adapter / CONFIG).write_text("[1]")
    with pytest.raises(InputError, match=r"holds a list, expected an object"):
        read_adapter(adapter)
    (adapter / CONFIG).write_text('{"r": 4,')
    with pytest.raises(InputError, match=r"adapter_config.json: not valid JSON"):
        read_adapter(adapter)
    with pytest.raises(InputError, match=r"nowhere: no such folder; give a PEFT adapter directory"):
        read_adapter(adapter / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head.base_layer.weight belongs to a whole copy of the base's lm_head"),
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            "embed_tokens.base_layer.weight belongs to a whole copy of the base's model.embed",
        ),
        ({"trainable_token_indices": [1, 2]}, "uses trainable_token_indices .trained rows of the embedding., which LoRA factors cannot"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
    ],
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_adapters_of_embeddings_are_refused_as_peft_saves_them(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    get_peft_model(tiny_model("llama"), LoraConfig(**{"target_modules": ["q_proj"], "r": 2} | settings)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("target", "message"), [("embed_tokens", "embed_tokens.lora_embedding_A belongs to an embedding target"), ("lm_head", "module lm_head")]
)
def test_so_they_are_without_the_base_weights(target: str, message: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    peft_adapter(model, tmp_path, target_modules=["q_proj", target])
    with pytest.raises(InputError, match=message):
        read_adapter(tmp_path, target_shapes(model, "all-linear"))
    if target == "lm_head":
        assert "lm_head" in read_adapter(tmp_path, target_shapes(model, ["q_proj", "lm_head"])).a


def test_other_peft_methods_are_refused_as_saved(tmp_path: Path) -> None:
    get_peft_model(tiny_model(), VeraConfig(target_modules=["q_proj"], r=2)).save_pretrained(tmp_path / "vera")
    with pytest.raises(InputError, match=r"peft_type is 'VERA'"):
        read_adapter(tmp_path / "vera")
    get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], use_dora=True)).save_pretrained(tmp_path / "dora")
    with pytest.raises(InputError, match=r"DoRA"):
        read_adapter(tmp_path / "dora")


def test_unsound_factors_are_not_written(tmp_path: Path) -> None:
    factors = LoRAFactors.zeros({"x": (3, 4)}, 2, 2)
    factors.b["x"][0, 1, 1] = float("nan")
    with pytest.raises(InputError, match=r"x.lora_B.weight has 1 values that are NaN"):
        write_adapter(tmp_path / "x", factors, base_name="tiny")
    factors.ranks["x"] = (0,)
    with pytest.raises(InputError, match=r"adapter 0 for .* touches no module"):
        write_adapter(tmp_path / "x", factors, base_name="tiny")
    assert not (tmp_path / "x").exists()
