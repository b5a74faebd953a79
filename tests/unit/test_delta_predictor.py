"""The predictor of fingerprints: a function of a set, in residual units, that comes back from disk as it went."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from tolerance import assert_near

from llgbm.config import DeltaConfig, ProbeConfig
from llgbm.delta import DeltaCache, DeltaEngine, DeltaOptions
from llgbm.errors import InputError
from llgbm.files import write_json
from llgbm.models.delta_predictor import DeltaPredictor, PredictorSpec
from llgbm.models.encoder import HashingEncoder
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.probes import load_probes
from llgbm.zoo.base import Base
from llgbm.zoo.micro.tokenizer import build_tokenizer

ENCODER = HashingEncoder(32)
PROBE, DELTA = {"probe_type": "math", "num_probes": 2, "max_length": 64}, {"layer_idx": -1, "token_idx": -1, "aggregation": "mean"}
WIDTHS = {"length": 512, "depth": 10}
"""Of size s: projection, value and score, their sum, two blocks of two layers, head."""
TEXTS = ["double each digit", "reverse the list", "name its color"]


@pytest.fixture(scope="module")
def base() -> Base:
    tokenizer = build_tokenizer()
    return Base(tiny_model(vocab_size=len(tokenizer), max_position_embeddings=256), tokenizer, "tiny")


def make(dim: int = 5, seed: int = 0, delta_config: dict | None = None) -> DeltaPredictor:
    """A predictor whose head is not zero any more."""
    torch.manual_seed(seed)
    spec = PredictorSpec(dim, ENCODER.dim, delta_config or {"base": "b", "layers": -1}, PROBE, DELTA, encoder_id=ENCODER.content_id)
    predictor = DeltaPredictor(spec, ENCODER)
    torch.nn.init.normal_(predictor.head.weight, std=0.3)
    predictor.fit_scale(torch.randn(7, dim) * torch.tensor([1.0, 10.0, 0.1, 3.0, 0.0])[:dim])
    return predictor.eval()


def test_it_starts_at_the_mean_of_the_training_deltas_in_their_units():
    torch.manual_seed(0)
    deltas = torch.randn(9, 4) * 50 + 7
    predictor = DeltaPredictor(PredictorSpec(4, ENCODER.dim, {}, PROBE, DELTA), ENCODER)
    predictor.fit_scale(deltas)
    torch.testing.assert_close(predictor.predict(description=TEXTS), deltas.mean(0).expand(3, 4))
    torch.testing.assert_close(predictor.scale.double(), deltas.double().std(0, correction=0))


def test_a_number_that_never_varies_keeps_a_small_spread():
    predictor = make()
    assert 0 < predictor.scale[4] < 0.01 * predictor.scale[:4].max()
    assert DeltaPredictor.fit_scale(predictor, torch.ones(3, 5)) is None
    assert predictor.scale.min() > 0


@pytest.mark.numeric
def test_the_order_of_prompts_does_not_matter():
    predictor = make()
    assert_near(predictor.predict(prompts=TEXTS), predictor.predict(prompts=TEXTS[::-1]), **WIDTHS)


@pytest.mark.numeric
def test_many_tasks_at_once_equal_one_at_a_time_whatever_the_padding():
    predictor, conditions = make(), [TEXTS[:1], TEXTS, TEXTS[1:]]
    alone = torch.cat([predictor.predict(prompts=texts) for texts in conditions])
    assert_near(predictor.predict(prompts=conditions), alone, **WIDTHS)
    assert not torch.allclose(alone[0], alone[1])


@pytest.mark.numeric
def test_a_description_is_one_more_text_of_the_set():
    predictor = make()
    assert_near(predictor.predict(TEXTS[1:], TEXTS[0]), predictor.predict(prompts=TEXTS), **WIDTHS)


def test_predicting_leaves_training_mode_and_keeps_no_graph():
    predictor = make().train()
    assert not predictor.predict(description="say a").requires_grad
    assert predictor.training


def test_reload_equals_save_to_the_bit(tmp_path):
    predictor = make()
    predictor.save_pretrained(tmp_path / "predictor")
    for folder in (tmp_path, tmp_path / "predictor"):
        again = DeltaPredictor.from_pretrained(folder, ENCODER)
        assert again.spec == predictor.spec
        assert torch.equal(again.predict(description=TEXTS), predictor.predict(description=TEXTS))


def test_its_engine_measures_what_was_learned(base):
    options = DeltaOptions.from_config(DeltaConfig(**DELTA), 64)
    engine = DeltaEngine(base, load_probes("math").first(2), options)
    predictor = make(delta_config=json.loads(json.dumps(engine.config)))
    assert predictor.engine(base).config == engine.config
    predictor.spec.probe = vars(ProbeConfig(**{**PROBE, "num_probes": 3}))
    with pytest.raises(InputError, match=r"base tiny: its deltas have probes .* the predictor learned .*train a predictor on these"):
        predictor.engine(base)


def test_a_cache_of_other_deltas_is_refused(tmp_path):
    predictor, cache = make(delta_config={"base": "b", "layers": -1}), DeltaCache(tmp_path)
    cache.save_base_activation(np.ones(3), {"base": "b", "layers": -1})
    predictor.check_cache(cache)
    other = DeltaCache(tmp_path / "other")
    other.bind({"base": "b", "layers": 2})
    with pytest.raises(InputError, match="other: its deltas have layers 2, the predictor learned -1; use what it was trained with"):
        predictor.check_cache(other)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no predictor there; give a run folder of 'llgbm train-delta-only --variant b2', its predictor/"):
        DeltaPredictor.from_pretrained(tmp_path)
    LoRAGenerator(GeneratorSpec({"q": (4, 4)}, 2, 4.0, 8), ENCODER).save_pretrained(tmp_path / "generator")
    with pytest.raises(InputError, match="key 'delta_dim' is missing, so this is no predictor"):
        DeltaPredictor.from_pretrained(tmp_path / "generator")
    write_json(tmp_path / "old" / "config.json", {"format": 0})
    with pytest.raises(InputError, match="predictor format 0, this version reads 4; train the predictor anew"):
        DeltaPredictor.from_pretrained(tmp_path / "old")


def _without(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"torn")


def _other_layout(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "mean": torch.zeros(4)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(_without, "cannot be read .*; save the predictor again"), (_other_layout, r"mean is \(4,\), the config asks for \(5,\)")],
)
def test_damaged_weights_are_refused(tmp_path, damage, message):
    make().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        DeltaPredictor.from_pretrained(tmp_path)


def test_bad_input_is_refused(tmp_path):
    predictor = make()
    with pytest.raises(InputError, match="give prompts, a description, or both"):
        predictor.predict()
    with pytest.raises(InputError, match="prompt 1 of 1 is empty"):
        predictor.predict(description=" ")
    with pytest.raises(InputError, match="size 'xl' is unknown"):
        DeltaPredictor(replace(predictor.spec, size="xl"))
    predictor.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="hashing is hashing-2-512, the predictor was trained with hashing-2-32"):
        DeltaPredictor.from_pretrained(tmp_path).predict(description="say a")
