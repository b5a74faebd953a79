"""vLLM as a server's backend: answers, token for token, of the other backend; what it loads, lets go and refuses.

Each test runs on vLLM itself where it is installed, and everywhere on a stand-in.
"""

import importlib
import json
import logging
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil
import pytest
import scripted_vllm
from training_world import build_world, changed
from transformers import BambaConfig, Qwen2Config

from llgbm.bench.serve import asker, serving
from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.serve.batches import Batches
from llgbm.serve.engine import Answer, DeadError, Engine, Job
from llgbm.serve.requests import Limits
from llgbm.serve.server import Served
from llgbm.serve.vllm import Vllm
from llgbm.training.behavior import train_generator
from llgbm.vllm_engine import adapter_options, cache_bytes, check_model, started
from llgbm.zoo.base import BaseOptions

INSTALLED = find_spec("vllm") is not None
LIMITS = Limits(adapters=4, waiting=100, batch=3, new_tokens=12)
SENTENCES = [
    "Write the string backwards.",
    "sort every letter",
    "uppercase xyz",
    "Say whether 7 + 2",
    "zip two nouns",
    "what is it?",
    "count!",
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    world = build_world(tmp_path_factory.mktemp("world"), b_scale=3.0, width=64)
    config = changed(world, training__learning_rate=0.05, training__total_steps=20)
    train_generator(config)
    return config


@pytest.fixture(
    scope="module", params=["scripted", pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.skipif(not INSTALLED, reason="no vLLM")])]
)
def served(request: pytest.FixtureRequest, config: ExperimentConfig) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "scripted":
            scripted_vllm.install(patch)
        served = Served(config.run_folder, frame="alpaca", limits=LIMITS, backend="vllm")
        yield served
        served.engine.close()


@pytest.fixture(scope="module")
def batches(config: ExperimentConfig) -> Iterator[Engine]:
    """The other backend."""
    engine = Served(config.run_folder, frame="alpaca", limits=replace(LIMITS, batch=1), backend="functional").engine
    yield engine
    engine.close()


def jobs(served: Served) -> list[Job]:
    """Of the base and of more adapters than are kept, in turn, prompts and answers of several lengths."""
    framing: Any = backend_of(served).framing
    return [Job(None if i % 4 == 0 else SENTENCES[i % 7], framing.prompt("abcdefgh"[: 1 + i % 8]), 1 + i % 12) for i in range(40)]


def answers(engine: Engine, asked: list[Job]) -> list[Answer]:
    return [answer.result(600) for answer in [engine.submit(job) for job in asked]]


def backend_of(served: Served) -> Any:
    return served.engine.backend


def test_answers_are_those_of_the_other_backend_token_for_token(served: Served, batches: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    backends: tuple[Any, ...] = (served.engine.backend, batches.backend)
    for backend in backends:
        monkeypatch.setattr(backend.framing, "ends", frozenset(range(0, 100, 6)))  # so that some answers end by themselves
    expected = answers(batches, jobs(served))
    assert answers(served.engine, jobs(served)) == expected
    assert len({answer.text for answer in expected}) > 5
    assert {answer.ended for answer in expected} == {True, False}


def test_the_base_is_the_base_beside_adapters(served: Served, batches: Engine) -> None:
    """vLLM's CPU build would answer it by the adapter that came last."""
    prompt = backend_of(served).framing.prompt("abcdefg")
    alone = answers(batches, [Job(None, prompt, 12)])[0]
    found = answers(served.engine, [Job(sentence, prompt, 12) for sentence in (None, *SENTENCES[:4], None, *SENTENCES[4:], None)])
    assert [found[0], found[5], found[9]] == [alone] * 3
    assert alone not in found[1:5]


def test_no_more_adapters_are_kept_than_were_asked_for(served: Served) -> None:
    answers(served.engine, jobs(served))
    backend = backend_of(served)
    kept = {request.lora_name: request.lora_int_id for request in backend.shelf.kept}
    assert len(backend.shelf) == 4
    assert {folder.name for folder in Path(backend._place.name).iterdir()} == {"zeros", *kept}
    answers(served.engine, [Job(None, [5], 1)])  # so that the engine's thread is done with those before
    assert set(backend._engine.list_loras()) == {1, *kept.values()}


def test_sentences_whose_adapters_do_the_same_share_one(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(served)
    generate = backend.generator.generate
    monkeypatch.setattr(backend.generator, "generate", lambda description, base: generate(description="The same.", base=base))
    answers(served.engine, [Job(f"same {i}", [5], 1) for i in range(2)])
    one, other = list(backend.shelf.kept)[-2:]
    assert one is other
    waiting = [served.engine.submit(Job(f"same {i}", [5], 1)) for i in (0, 2, 3, 4)]  # one of the two goes
    assert [answer.exception(600) for answer in waiting] == [None] * 4
    assert Path(one.lora_path).is_dir()


def test_adapters_that_are_read_stay(served: Served) -> None:
    dropped: list[Any] = []
    shelf = backend_of(served).shelf
    other = type(shelf)(lambda sentence: sentence, 2, dropped.append)
    other.take(["a", "b"])
    assert other.take(["c"], in_use={"a"}) == {"c": "c"}
    assert (other.sentences, dropped) == (["a", "c"], ["b"])


def test_an_answer_nobody_waits_for_is_given_up(served: Served) -> None:
    backend, prompt = backend_of(served), [5]
    gone = Job(None, prompt, 400)
    answer = served.engine.submit(gone)
    answer.cancel()
    assert answers(served.engine, [Job(None, prompt, 2)])[0].new_tokens <= 2
    assert len(backend) == 0


def test_a_faulty_request_is_told_and_the_next_is_answered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(served)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no room on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(backend.generator, "generate", fail)
        with pytest.raises(RuntimeError, match="no room on the disk"):
            answers(served.engine, [Job("a new sentence", [5], 1)])
    assert answers(served.engine, [Job("a new sentence", [5], 1)])[0].new_tokens == 1


def test_the_gateway_is_the_same(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_vllm.install(monkeypatch)
    served = Served(config.run_folder, frame="alpaca", limits=LIMITS, backend="auto")
    assert served.backend == "vllm"
    assert served.base.model.device.type == "meta"
    framing = backend_of(served).framing
    with serving(served) as address:
        body = {"model": f"task: {SENTENCES[0]}", "messages": [{"role": "user", "content": "abcd"}], "max_tokens": 12}
        said = asker(address)(json.dumps(body).encode())
        assert served.engine.shelf.sentences == [SENTENCES[0]]
        assert said == answers(served.engine, [Job(SENTENCES[0], framing.prompt("abcd"), 12)])[0].text
    assert not Path(backend_of(served)._place.name).exists()


def test_a_base_that_reads_sentences_stays(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_vllm.install(monkeypatch)
    reads = changed(config, experiment_name="reads", generator__encoder="hashing+base", training__total_steps=1)
    train_generator(reads)
    served = Served(reads.run_folder, frame="alpaca", limits=LIMITS, backend="auto")
    assert served.backend == "vllm"
    assert served.base.model.device.type == "cpu"
    assert answers(served.engine, [Job(SENTENCES[0], [5], 1)])[0].new_tokens == 1
    served.engine.close()


def test_what_vllm_gave_up_is_told(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_vllm.install(monkeypatch)
    served = Served(config.run_folder, frame="alpaca", limits=LIMITS, backend="vllm")
    monkeypatch.setattr(scripted_vllm.LLMEngine, "reason", "error")
    with pytest.raises(RuntimeError, match=r"vLLM gave the answer up \(error\)"):
        served.engine.submit(Job(None, [5], 3)).result(60)
    assert served.engine.fault is None
    served.engine.close()


def test_a_dead_engine_fails_who_waits_and_takes_nobody_on(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_vllm.install(monkeypatch)
    served = Served(config.run_folder, frame="alpaca", limits=LIMITS, backend="vllm")
    step = scripted_vllm.LLMEngine.step

    def last(engine: scripted_vllm.LLMEngine) -> Any:
        monkeypatch.setattr(scripted_vllm.LLMEngine, "dies", True)
        return step(engine)

    monkeypatch.setattr(scripted_vllm.LLMEngine, "step", last)
    with pytest.raises(scripted_vllm.EngineDeadError):
        served.engine.submit(Job(None, [5], 3)).result(60)
    with pytest.raises(DeadError, match="nothing is answered any more"):
        served.engine.submit(Job(None, [5], 3))
    served.engine.close()


def test_an_engine_that_was_killed_is_noticed_though_no_step_of_it_ends(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_vllm.install(monkeypatch)
    served = Served(config.run_folder, frame="alpaca", limits=replace(LIMITS, seconds=2.0), backend="vllm")
    with serving(served) as address:
        monkeypatch.setattr(scripted_vllm.LLMEngine, "killed", True)
        with pytest.raises(HTTPError, match="503"):
            urllib.request.urlopen(f"{address}/healthz", timeout=60)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="no vLLM")
def test_the_end_of_a_real_engine_is_noticed(config: ExperimentConfig) -> None:
    before = set(psutil.Process().children(recursive=True))
    served = Served(config.run_folder, frame="alpaca", limits=replace(LIMITS, seconds=30.0), backend="vllm")
    with serving(served) as address:
        ask = asker(address)
        body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "abcd"}], "max_tokens": 3}).encode()
        ask(body)
        for process in set(psutil.Process().children(recursive=True)) - before:
            process.kill()
        with pytest.raises(HTTPError, match=r"50[034]"):
            ask(body)  # which may have begun before vLLM noticed
        for path in ("/healthz", "/v1/chat/completions"):
            with pytest.raises(HTTPError, match="503"):
                urllib.request.urlopen(urllib.request.Request(address + path, body if "chat" in path else None), timeout=60)


def test_auto_answers_without_vllm_what_vllm_does_not_take(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_vllm.install(monkeypatch)
    monkeypatch.setattr(scripted_vllm._Attention, "get_supported_head_sizes", lambda: [64, 128])
    with caplog.at_level(logging.WARNING):
        served = Served(config.run_folder, frame="alpaca", limits=LIMITS)
    served.engine.close()
    assert served.backend == "functional"
    assert isinstance(served.engine.backend, Batches)
    assert "has no attention for heads of size 32, only 64, 128" in caplog.text


def test_auto_answers_without_a_vllm_that_does_not_load(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_vllm.install(monkeypatch)
    load = importlib.import_module

    def broken(name: str, *args: Any) -> Any:
        if name == "vllm":
            raise ImportError("_C.abi3.so: undefined symbol: _ZN3c10\nmore")
        return load(name, *args)

    monkeypatch.setattr("llgbm.vllm_engine.importlib.import_module", broken)
    with monkeypatch.context() as patch:
        patch.setattr("llgbm.serve.server.load_recorded", lambda *_: pytest.fail("a base is loaded for nothing"))
        with pytest.raises(
            InputError, match=r"vLLM does not load \(_C.abi3.so: undefined symbol: _ZN3c10\); install a build of it for torch"
        ):
            Served(config.run_folder, frame="alpaca", limits=LIMITS, backend="vllm")
    with caplog.at_level(logging.WARNING):
        served = Served(config.run_folder, frame="alpaca", limits=LIMITS)
    served.engine.close()
    assert served.backend == "functional"
    assert "vLLM does not load" in caplog.text


def test_refusals_name_the_reason(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_vllm.install(monkeypatch)
    with pytest.raises(InputError, match="vLLM takes adapters up to rank 16, these have 17; the backend 'functional' takes it"):
        adapter_options(17, 2, 4)
    assert [adapter_options(rank, 2, 4)["max_lora_rank"] for rank in (1, 9, 16)] == [1, 16, 16]
    with pytest.raises(InputError, match="base some: vLLM's BambaForCausalLM takes no adapters"):
        check_model("some", BambaConfig(architectures=["BambaForCausalLM"]))
    with pytest.raises(InputError, match="vLLM on the CPU has no attention for heads of size 8, only 32, 64, 128"):
        check_model("some", Qwen2Config(hidden_size=32, num_attention_heads=4))
    with pytest.raises(InputError, match="--device is cuda, but the vLLM that is installed runs on cpu"):
        Served(config.run_folder, BaseOptions(device="cuda"), "alpaca", LIMITS, backend="vllm")

    def broken() -> None:
        raise RuntimeError("Engine core initialization failed.\nFailed core proc(s): {}")

    with pytest.raises(InputError, match=r"base some: vLLM does not serve it \(Engine core initialization failed\.\)"):
        started("some", broken)


def test_what_vllm_does_not_load_ends_the_start_and_leaves_nothing(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_vllm.install(monkeypatch)
    places: list[str] = []
    load = Vllm._load

    def refused(self: Vllm, factors: Any, name: str) -> Any:
        places.append(self._place.name)
        load(self, factors, name)
        raise ValueError("expected target modules in {'qkv_proj'}")

    monkeypatch.setattr(Vllm, "_load", refused)
    with pytest.raises(InputError, match=r"vLLM does not serve it \(expected target modules"):
        Served(config.run_folder, frame="alpaca", limits=LIMITS, backend="vllm")
    assert not Path(places[0]).exists()


def test_the_cache_holds_whole_blocks() -> None:
    config = Qwen2Config(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3)
    per_token = 2 * 3 * 1 * 32 * 4
    assert cache_bytes(config, 2, 129, 4) == (2 * 2 + 1) * 128 * per_token


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed")
def test_the_command_says_that_vllm_is_not_installed(
    config: ExperimentConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "vllm", raising=False)  # the stand-in of tests before
    assert main(["serve", "--run", str(config.run_folder), "--port", "0", "--backend", "vllm"]) == 2
    assert "vLLM is not installed; pip install vllm where there is a build for it" in capsys.readouterr().err
