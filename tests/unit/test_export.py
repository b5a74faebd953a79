"""Generated adapters on disk: plain PEFT loads them to the same logits, and faults are named."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tolerance import assert_near, depth
from torch.testing import assert_close
from transformers import Qwen2Config, Qwen2ForCausalLM

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.peft_io import target_shapes
from llgbm.models.encoder import HashingEncoder
from llgbm.models.encoder_names import build_encoder
from llgbm.models.export import Request, generate_adapters, read_prompts, read_requests
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.zoo.base import Base, load_base
from llgbm.zoo.micro.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Base:
    torch.manual_seed(0)
    tokenizer, folder = build_tokenizer(), tmp_path_factory.mktemp("base")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_base(str(folder))


@pytest.fixture(scope="module")
def checkpoint(base, tmp_path_factory):
    encoder = HashingEncoder()
    shapes = target_shapes(base.model, ["q_proj", "down_proj"])
    spec = GeneratorSpec(shapes, 2, 4.0, encoder.dim, encoder_id=encoder.content_id, base=base.identity)
    generator = LoRAGenerator(spec, encoder)
    for head in generator.heads:
        torch.nn.init.normal_(head.write_b.weight)
    folder = tmp_path_factory.mktemp("generator")
    generator.save_pretrained(folder)
    return folder


@pytest.mark.numeric
def test_peft_loads_what_was_generated(base, checkpoint, tmp_path):
    ids = base.tokenizer("### Instruction:\nabc\n\n### Response:\n", return_tensors="pt").input_ids
    request = Request("reverse", "Reverse the string.")
    (folder,) = generate_adapters(checkpoint, [request], tmp_path / "adapter")
    factors = LoRAGenerator.from_pretrained(checkpoint).generate(description="Reverse the string.")
    functional = FunctionalLoRA(base.model, factors.module_names)
    ours = functional(factors, ids, logits_at=torch.ones_like(ids, dtype=torch.bool)).logits
    plain = load_base(base.name).model
    theirs = PeftModel.from_pretrained(plain, str(folder))(ids).logits[0]
    assert_near(ours, theirs, length=24, depth=depth(2))
    assert not torch.allclose(theirs, base.model(ids).logits[0], atol=1e-2)
    card = (folder / "README.md").read_text()
    assert "> Reverse the string." in card
    assert base.name in card


@pytest.mark.numeric
def test_many_tasks_equal_one_by_one(checkpoint, base, tmp_path):
    requests = [Request("a", "Reverse the string."), Request("b", prompts=("Sort 31", "Sort 52")), Request("c", "Sort", ("Sort 1",))]
    folders = generate_adapters(checkpoint, requests, tmp_path / "many", base)
    assert [f.name for f in folders] == ["a", "b", "c"]
    from llgbm.lora.peft_io import read_adapter

    for folder, request in zip(folders, requests, strict=True):
        (alone,) = generate_adapters(checkpoint, [request], tmp_path / "one")
        for x, y in zip(read_adapter(folder).tensors(), read_adapter(alone).tensors(), strict=True):
            assert_near(x, y, length=512, depth=12)  # of the generator, see test_generator.py


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["base", "hashing+base"])
def test_a_generator_that_reads_by_the_base_loads_it(base, name, tmp_path, capsys):
    encoder = build_encoder(name, base)
    spec = GeneratorSpec(
        *(target_shapes(base.model, ["q_proj"]), 2, 4.0, encoder.dim), encoder=name, encoder_id=encoder.content_id, base=base.identity
    )
    generator = LoRAGenerator(spec, encoder)
    torch.nn.init.normal_(generator.heads[0].write_b.weight)
    generator.save_pretrained(tmp_path / "run")
    asked = ["generate", "--run", str(tmp_path / "run"), "--description", "Reverse the string."]
    assert main([*asked, "--output", str(tmp_path / "adapter")]) == 0
    assert main([*asked, "--output", str(tmp_path / "rounded"), "--dtype", "bfloat16"]) == 0
    own, rounded = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("adapter", "rounded"))
    factors = generator.generate(description="Reverse the string.", base=base)
    module = factors.module_names[0]
    stored = f"base_model.model.{module}.lora_B.weight"
    assert_close(own[stored], factors.b[module][0])
    assert not torch.equal(own[stored], rounded[stored])
    assert_close(own[stored], rounded[stored], rtol=0.1, atol=0.1 * float(own[stored].abs().max()))
    (tmp_path / "run" / "config.json").write_text((tmp_path / "run" / "config.json").read_text().replace(encoder.content_id, "earlier"))
    for dtype in ("float32", "bfloat16"):
        assert main([*asked, "--output", str(tmp_path / "adapter"), "--dtype", dtype]) == 2
        assert "was trained with earlier; install that version of the encoder" in capsys.readouterr().err


def test_a_generator_that_names_no_base_writes_no_adapters(base, checkpoint, tmp_path):
    generator = LoRAGenerator.from_pretrained(checkpoint)
    generator.spec.base = None
    generator.save_pretrained(tmp_path / "generator")
    with pytest.raises(InputError, match="generator: does not say for which base it writes; train the generator anew"):
        generate_adapters(tmp_path / "generator", [Request("a", "x")], tmp_path / "adapter", base)
    assert not (tmp_path / "adapter").exists()


def test_requests_and_prompts_are_read(tmp_path):
    (tmp_path / "tasks.jsonl").write_text('{"task": "a", "description": "d"}\n\n{"task": "b", "prompts": ["p", "q"]}\n')
    assert read_requests(tmp_path / "tasks.jsonl") == [Request("a", "d"), Request("b", None, ("p", "q"))]
    (tmp_path / "p.txt").write_text("one\n\n two \n")
    (tmp_path / "p.json").write_text(json.dumps(["one", "two"]))
    assert read_prompts(tmp_path / "p.txt") == read_prompts(tmp_path / "p.json") == ("one", "two")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"description": "d"}', "tasks.jsonl:1: task is missing; give a string"),
        ('{"task": "a"}', "tasks.jsonl:1: task 'a' asks for nothing; give a description, prompts, or both"),
        ('{"task": "a", "prompts": "p"}', "prompts must be a list of a string, found 'p'"),
        ('{"task": "a", "prompts": [1]}', r"prompts\[0\] must be a string, found 1"),
        ('{"task": "a", "description": 3}', "description must be a string or null, found 3"),
        ("", "holds no tasks"),
    ],
)
def test_faulty_tasks_are_named(tmp_path, line, message):
    (tmp_path / "tasks.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        read_requests(tmp_path / "tasks.jsonl")


def test_faulty_prompts_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none.txt: no such file"):
        read_prompts(tmp_path / "none.txt")
    for name, text, message in (
        ("a.json", "[", "not valid JSON"),
        ("b.json", '{"a": 1}', "expected a JSON list of strings"),
        ("c.json", "[]", "holds no prompts"),
        ("d.txt", "\n\n", "holds no prompts"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_prompts(tmp_path / name)


def test_faulty_requests_are_named(checkpoint, tmp_path):
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    other = Base(Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape)), tokenizer, "other")
    for requests, base, message in (
        ([], None, "nothing to generate"),
        ([Request("a", "x"), Request("a", "y")], None, "'a' is asked for twice"),
        ([Request("../a", "x"), Request("b", "y")], None, "task '../a' holds the separator '/'"),
        ([Request("a")], None, "task 1 of 1 has no prompt|nothing to generate from"),
        ([Request("a", "x")], other, "belongs to a base with hash .*, but other has"),
    ):
        with pytest.raises(InputError, match=message):
            generate_adapters(checkpoint, requests, tmp_path, base)
