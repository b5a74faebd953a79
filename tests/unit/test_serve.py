"""The server over real HTTP: answers are those of the adapters alone, whoever asks beside; what is refused, and with which status."""

import copy
import gc
import itertools
import json
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from training_world import build_world, changed

from llgbm.bench.hostile import BROKEN, PATHS, Address, bench_hostile, slow
from llgbm.bench.serve import asker, bench_serve, serving
from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA, complete
from llgbm.memory import GIB, used_bytes
from llgbm.models.reader import CONFIG_FILE
from llgbm.serve.batches import Batches
from llgbm.serve.engine import Answer, BusyError, Engine, Job
from llgbm.serve.requests import Limits, Reader, RefusedError
from llgbm.serve.server import Served, make_server
from llgbm.serve.shelf import Shelf
from llgbm.training.behavior import train_generator
from llgbm.zoo.base import BaseOptions, load_base
from llgbm.zoo.suite import Example

LIMITS = Limits(adapters=60, waiting=300, batch=16, body_bytes=4000, sentence_characters=200, new_tokens=12, seconds=300.0)
VERBS = ["Write", "sort every", "translate?", "uppercase the", "Say whether", "count", "remove", "zip", "Name a", "what is"]
SENTENCES = [f"{verb} {rest}" for verb in VERBS for rest in ("the string backwards.", "letters!", "two nouns", "xyz", "7 + 2")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    config = changed(build_world(tmp_path_factory.mktemp("world"), b_scale=3.0), training__learning_rate=0.05, training__total_steps=20)
    train_generator(config)
    return config


@pytest.fixture(scope="module")
def served(config: ExperimentConfig) -> Served:
    return Served(config.run_folder, frame="alpaca", limits=LIMITS, backend="functional")


def new_engine(served: Served, most: int, waiting: int, shelf: Shelf | None = None) -> Engine:
    """Another engine over the same base."""
    backend: Any = served.engine.backend
    shelf = served.engine.shelf if shelf is None else shelf
    return Engine(Batches(backend.functional, backend.framing, shelf, most), waiting)


class Slow(Shelf):
    """Holds up whoever takes an adapter until it may go on."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def take(self, sentences: Any, in_use: Any = ()) -> Any:
        self.begun.set()
        self.go_on.wait(60)
        return super().take(sentences, in_use)


@pytest.fixture(scope="module")
def address(served: Served) -> Iterator[str]:
    with serving(served) as address:
        yield address


def ask(address: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
    """Status and what came back: JSON where it is some."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            status, content, kind = response.status, response.read(), response.headers["content-type"]
    except urllib.error.HTTPError as error:
        status, content, kind = error.code, error.read(), error.headers["content-type"]
    return status, json.loads(content) if kind == "application/json" else content.decode()


def chat(model: str, text: str = "abcd", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def say(address: str, model: str, text: str = "abcd") -> str:
    status, found = ask(address, "/v1/chat/completions", chat(model, text))
    assert status == 200
    return found["choices"][0]["message"]["content"]


def test_answers_are_those_of_the_adapter(served: Served, address: str) -> None:
    backend: Any = served.engine.backend
    sentence = "Reverse it, please."
    expected = complete(backend.functional, backend.shelf.write(sentence), backend.framing, ["abcd"], 12)
    assert say(address, f"task: {sentence}") == expected[0].strip()
    assert say(address, f"task:   Reverse it,\n please.") == expected[0].strip()  # noqa: F541
    assert say(address, "base") == complete(backend.functional, None, backend.framing, ["abcd"], 12)[0].strip()
    assert [model["id"] for model in ask(address, "/v1/models")[1]["data"]] == ["base", f"task: {sentence}"]


def test_the_form_is_openai_s(address: str) -> None:
    status, found = ask(address, "/v1/chat/completions", chat("base", max_tokens=3))
    assert status == 200
    assert (found["object"], found["model"], found["choices"][0]["index"]) == ("chat.completion", "base", 0)
    assert found["choices"][0]["message"]["role"] == "assistant"
    assert found["choices"][0]["finish_reason"] in ("stop", "length")
    assert found["usage"]["completion_tokens"] <= 3
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]
    status, found = ask(address, "/v1/completions", {"model": "base", "prompt": "abcd", "max_tokens": 3})
    assert (status, found["object"]) == (200, "text_completion")
    status, events = ask(address, "/v1/chat/completions", chat("base", max_tokens=3, stream=True))
    first, last = events.strip().split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    assert (status, last) == (200, "data: [DONE]")


def test_earlier_turns_are_demonstrations(served: Served, address: str) -> None:
    turns = [("user", "efgh"), ("assistant", "hgfe"), ("user", "abcd")]
    body = {"model": "base", "messages": [{"role": role, "content": text} for role, text in turns], "max_tokens": 1}
    status, found = ask(address, "/v1/chat/completions", body)
    assert status == 200
    alone = ask(address, "/v1/chat/completions", chat("base", max_tokens=1))[1]
    assert found["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"] + 8


def test_a_crowd_gets_what_each_would_get_alone(served: Served, address: str) -> None:
    models = [f"task: {SENTENCES[i % 50]}" if i % 5 else "base" for i in range(200)]
    texts = ["abcdefgh"[: 1 + i % 8] for i in range(200)]
    written = served.engine.shelf.written
    with ThreadPoolExecutor(200) as pool:
        crowd = list(pool.map(lambda pair: say(address, *pair), zip(models, texts, strict=True)))
    assert served.engine.shelf.written - written == len({model for model in models if model != "base"})
    alone = [say(address, *pair) for pair in zip(models[:60], texts[:60], strict=True)]
    same = sum(one == other for one, other in zip(crowd[:60], alone, strict=True))
    assert same >= 57  # products of other shapes round otherwise, which can turn a token that was as likely as another
    assert len({one for one, text in zip(alone, texts, strict=False) if text == "ab"}) > 3  # the adapters are not one and the same
    metrics = ask(address, "/metrics")[1]
    assert "llgbm_waiting 0.0" in metrics
    assert f"llgbm_adapters {float(len(served.engine.shelf))}" in metrics
    assert 'llgbm_requests_total{path="/v1/chat/completions",status="200"}' in metrics


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the request is no JSON"),
        (b"[" * 3000, 400, "the request is no JSON"),
        (b" " * 5000, 413, "more than 4000 bytes"),
        ([], 400, "request"),
        ({"model": "base"}, 400, "messages"),
        (chat("gpt-4"), 404, "no model 'gpt-4'; give base, or task: and a sentence"),
        (chat("../../etc/passwd"), 404, "no model '../../etc/passwd'"),
        (chat("task:  "), 400, "followed by no sentence"),
        (chat("task: " + "x" * 201), 400, "the sentence has 201 characters, at most 200 are read"),
        (chat("base", max_tokens=0), 400, "max_tokens is 0; give 1 to 12"),
        (chat("base", max_tokens=13), 400, "max_tokens is 13"),
        (chat("base", max_tokens="3"), 400, "max_tokens"),
        (chat("base", temperature=0.7), 400, "temperature is 0.7"),
        ({"model": "base", "messages": []}, 400, "turns of user and assistant"),
        ({"model": "base", "messages": [{"role": "system", "content": "x"}]}, 400, "turns of user and assistant"),
        ({"model": "base", "messages": [{"role": "assistant", "content": "x"}] * 2 + chat("base")["messages"]}, 400, "turns of user"),
        (chat("base", text="half \ud800"), 400, "surrogate"),
    ],
)
def test_what_is_refused(address: str, body: Any, status: int, message: str) -> None:
    found = ask(address, "/v1/chat/completions", body)
    assert found[0] == status
    assert message in found[1]["error"]["message"]
    assert found[1]["error"]["code"] == status


def test_a_prompt_has_to_leave_room_for_an_answer(served: Served) -> None:
    short = Framing(served.base.tokenizer, "{input}", max_length=4)
    reader = Reader(short, short, LIMITS)
    assert len(reader.chat(chat("base", "abc"))[1].prompt) == 3
    with pytest.raises(RefusedError, match="takes 5 tokens, more than 4"):
        reader.chat(chat("base", "abcd"))
    with pytest.raises(RefusedError, match="the prompt takes 4 tokens; 1 to 3 can be read"):
        reader.completion({"model": "base", "prompt": "abcd"})


def test_completions_refuse_what_they_cannot_do(address: str) -> None:
    assert ask(address, "/v1/completions", {"model": "base", "prompt": "a", "stream": True})[0] == 400
    assert "the prompt is empty" in ask(address, "/v1/completions", {"model": "base", "prompt": ""})[1]["error"]["message"]
    assert ask(address, "/nowhere")[0] == 404
    assert ask(address, "/v1/chat/completions")[0] == 405


def test_with_a_token_only_who_has_it_is_answered(config: ExperimentConfig) -> None:
    served = Served(config.run_folder, frame="alpaca", limits=LIMITS, token="secret", backend="functional")
    with serving(served, "secret") as address:
        for token in (None, "secre", "secret2", "\u00e9"):
            assert ask(address, "/v1/models", token=token and token.encode().decode("latin-1"))[0] == 401
        assert "send it as 'Authorization: Bearer TOKEN'" in ask(address, "/metrics")[1]["error"]["message"]
        assert ask(address, "/v1/models", token="secret")[0] == 200
        assert ask(address, "/healthz") == (200, {"status": "ok"})
        assert "A sentence becomes an adapter" in ask(address, "/")[1]


def test_who_waits_too_long_is_told(config: ExperimentConfig) -> None:
    served = Served(config.run_folder, frame="alpaca", limits=replace(LIMITS, seconds=0.5), backend="functional")
    backend: Any = served.engine.backend
    backend.shelf = slow_shelf = Slow(backend.shelf.write, 2)
    with serving(served) as address:
        status, found = ask(address, "/v1/chat/completions", chat("task: x"))
        assert (status, "no answer within 0.5 seconds" in found["error"]["message"]) == (504, True)
        slow_shelf.go_on.set()


def test_clients_that_stop_half_way_are_told_or_left_and_hold_up_nobody(config: ExperimentConfig) -> None:
    with serving(Served(config.run_folder, frame="alpaca", limits=replace(LIMITS, seconds=1.0), backend="functional")) as address:
        to = Address("127.0.0.1", int(address.rpartition(":")[2]), psutil.Process())
        found = Counter[int]()
        with suppress(TimeoutError):  # a client that is held without end
            found.update(slow(to, 20))
        assert found == {200: 20, 0: 20, 408: 20}
        with to.begin(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea") as dripping:
            said = b"".join(iter(lambda: dripping.recv(1000), b""))
            assert said.count(b"200 OK") == 1


def test_a_connection_on_which_nothing_comes_is_closed(config: ExperimentConfig) -> None:
    with serving(Served(config.run_folder, frame="alpaca", limits=replace(LIMITS, seconds=1.0), backend="functional")) as address:
        to = Address("127.0.0.1", int(address.rpartition(":")[2]), psutil.Process())
        with to.begin(b"") as silent:
            assert select.select([silent], [], [], 60)[0]
            assert silent.recv(1) == b""


def test_of_more_connections_than_a_server_holds_one_that_rests_is_closed(config: ExperimentConfig) -> None:
    limits = replace(LIMITS, waiting=1, batch=1, resting=3)
    with serving(Served(config.run_folder, frame="alpaca", limits=limits, backend="functional")) as address, ExitStack() as stack:
        to = Address("127.0.0.1", int(address.rpartition(":")[2]), psutil.Process())
        asking = stack.enter_context(to.begin(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"))
        assert ask(address, "/healthz")[0] == 200  # the request before this one has begun
        resting = [stack.enter_context(to.begin(b"")) for _ in range(limits.connections)]
        assert select.select([resting[0]], [], [], 60)[0]
        assert resting[0].recv(1) == b""
        assert ask(address, "/healthz")[0] == 200  # which takes the place of another
        assert resting[1].recv(1) == b""
        assert select.select([asking, *resting[2:]], [], [], 0)[0] == []


def test_who_asks_where_nothing_is_answered_any_more_is_told_at_once(config: ExperimentConfig) -> None:
    served = Served(config.run_folder, frame="alpaca", limits=LIMITS, backend="functional")
    with serving(served) as address:
        served.engine.close()
        found = ask(address, "/healthz")
        assert found == (503, {"status": "failed", "reason": "what computes answers has ended"})
        status, said = ask(address, "/v1/chat/completions", chat("base"))
        assert (status, "the server has to be started again" in said["error"]["message"]) == (503, True)


def test_a_server_with_a_client_that_never_ends_its_request_can_be_stopped(config: ExperimentConfig) -> None:
    served = Served(config.run_folder, frame="alpaca", limits=replace(LIMITS, seconds=2.0), backend="functional")
    with serving(served) as address:
        to = Address("127.0.0.1", int(address.rpartition(":")[2]), psutil.Process())
        held = to.begin(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert ask(address, "/healthz")[0] == 200
        start = time.monotonic()
    assert time.monotonic() - start < 60
    held.close()


def test_prompts_leave_nothing_in_memory(served: Served, address: str) -> None:
    def examples() -> int:
        gc.collect()
        return sum(type(held) is Example for held in gc.get_objects())

    say(address, "base", "ab")
    before = examples()
    for i in range(40):
        say(address, "base", f"ab{i}")
    assert examples() == before


def test_no_more_adapters_are_kept_than_half_of_the_memory_takes(config: ExperimentConfig) -> None:
    budget = (used_bytes(torch.device("cpu")) + (1 << 28)) / GIB
    limits = replace(LIMITS, adapters=10**9, batch=10**9)
    found = Served(config.run_folder, BaseOptions(memory_gb=budget), "alpaca", limits, backend="functional")
    size = sum(tensor.nbytes for tensor in found.engine.shelf.take(["x"])["x"].tensors())
    assert 1 < found.limits.batch == found.limits.adapters == found.engine.shelf.most <= (1 << 28) // (2 * size)
    found.engine.close()


def test_a_batch_that_memory_does_not_take_is_answered_in_parts(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []
    decode = Batches._decode_part

    def refusing(self: Batches, jobs: Any) -> Any:
        parts.append(len(jobs))
        if len(jobs) > 2:
            torch.empty(1 << 60, dtype=torch.uint8)  # the system refuses this
        return decode(self, jobs)

    monkeypatch.setattr(Batches, "_decode_part", refusing)
    own: Any = served.engine.backend
    batches = Batches(FunctionalLoRA(load_base(served.base.name).model, own.functional.shapes), own.framing, own.shelf, 8)
    jobs = [Job(None, [5] * (1 + i % 3), 2) for i in range(8)]
    for job in jobs:
        batches.take(job)
    answers = [answer for _, answer in batches.step()]
    assert parts[0] == 8
    assert [isinstance(answer, Answer) and answer.prompt_tokens for answer in answers] == [len(job.prompt) for job in jobs]


@pytest.mark.slow
def test_hostile_requests_get_their_status_and_leave_the_memory_as_it_was(config: ExperimentConfig) -> None:
    """The figures of `llgbm bench hostile`, with fewer requests."""
    rows = {row["requests"]: row for row in bench_hostile(config, adapters=300, clients=20)["rows"]}
    statuses = {name: row["statuses"] for name, row in rows.items()}
    assert statuses.pop("a header of 1 MB") in ("400: 1", "0: 1")
    assert statuses == {
        "a sentence of 10 MB": "413: 1",
        "a body without end": "413: 1",
        "a prompt of 200 kB": "400: 1",
        "4,001 turns": "200: 1",  # they fit into the context of this base
        "paths as names of models": f"404: {len(PATHS)}",
        "a path as a sentence": "200: 1",
        "broken JSON": f"400: {len(BROKEN)}",
        "JSON 100,000 deep": "400: 1",
        "max_tokens of 10 and 5,000 digits": "400: 2",
        "20 clients that stop in the header, as many in the body": "0: 20 200: 20 408: 20",
        "300 adapters, one after another": "200: 300",
        "300 prompts to the base": "200: 300",
    }
    rows.pop("4,001 turns")  # reading so much takes memory
    grown = {name: row["mib_after"] - row["mib_before"] for name, row in rows.items()}
    assert grown.pop("a prompt of 200 kB") < 150, grown  # its spelling leaves something with the allocator
    assert max(grown.values()) < 30, grown


def test_a_full_queue_refuses(served: Served) -> None:
    shelf = Slow(served.engine.shelf.write, 2)
    engine = new_engine(served, 1, 1, shelf)
    engine.submit(Job("x", [5], 1))
    assert shelf.begun.wait(60)
    engine.submit(Job(None, [5], 1))
    with pytest.raises(BusyError, match="1 requests wait already"):
        engine.submit(Job(None, [5], 1))
    shelf.go_on.set()
    engine.close()


def test_a_fault_of_one_batch_is_told_and_the_next_is_answered(served: Served) -> None:
    class Broken(Shelf):
        def take(self, sentences: Any, in_use: Any = ()) -> Any:
            if list(sentences):
                raise RuntimeError("out of memory")
            return {}

    engine = new_engine(served, 4, 10, Broken(served.engine.shelf.write, 2))
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.submit(Job("x", [5], 1)).result(60)
    assert isinstance(engine.submit(Job(None, [5], 1)).result(60), Answer)
    engine.close()


def test_the_adapter_unused_for_longest_goes(served: Served) -> None:
    shelf = Shelf(served.engine.shelf.write, 2)
    first = shelf.take(["a", "b"])
    shelf.take(["a"])
    shelf.take(["c"])
    assert shelf.sentences == ["a", "c"]
    assert shelf.written == 3
    again = shelf.take(["b", "a", "c"])  # more than are kept, in one batch
    assert shelf.sentences == ["a", "c"]
    assert all(one.equal(other) for one, other in zip(first["b"].tensors(), again["b"].tensors(), strict=True))


def test_an_answer_that_fills_the_context_is_cut_there_beside_longer_ones(served: Served) -> None:
    backend: Any = served.engine.backend
    framing = copy.copy(backend.framing)
    framing.max_length = 12
    engine = Engine(Batches(backend.functional, framing, backend.shelf, 2), 50)
    prompts = ([5] * 10, [5] * 3)
    together = [job.result(60) for job in [engine.submit(Job(None, prompt, 9)) for prompt in prompts]]
    assert together == [engine.submit(Job(None, prompt, 9)).result(60) for prompt in prompts]
    assert [answer.new_tokens for answer in together] == [2, 9]
    engine.close()


def test_bases_that_count_padding_get_prompts_of_one_length(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[set[int]] = []
    decode = Batches._decode
    monkeypatch.setattr("llgbm.serve.batches.COUNT_PADDING", (served.base.model.config.model_type,))
    monkeypatch.setattr(Batches, "_decode", lambda self, jobs: lengths.append({len(job.prompt) for job in jobs}) or decode(self, jobs))
    engine = new_engine(served, 8, 50)
    jobs = [Job(None, [5] * (1 + i % 3), 2) for i in range(12)]
    for answer in [engine.submit(job) for job in jobs]:
        answer.result(60)
    engine.close()
    assert all(len(found) == 1 for found in lengths)


def test_figures_of_a_small_crowd(config: ExperimentConfig) -> None:
    figures = bench_serve(config, requests=12, adapters=4)["rows"][0]
    assert (figures["requests"], figures["adapters"], figures["lost"]) == (12, 4, 0)
    assert figures["backend"] == "functional"
    assert 0 < figures["kept_p50_ms"] <= figures["kept_p99_ms"]


def test_requests_without_an_answer_are_counted_as_lost(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = itertools.count()

    def unreliable(address: str) -> Any:
        ask = asker(address)

        def answer(body: bytes) -> str:
            if next(asked) in (1, 13, 14):
                raise ConnectionResetError("gone")
            return ask(body)

        return answer

    monkeypatch.setattr("llgbm.bench.serve.asker", unreliable)
    monkeypatch.setattr("llgbm.bench.serve.TURNED", 1.0)
    assert bench_serve(config, requests=12, adapters=4)["rows"][0]["lost"] == 3


def test_bad_flags_are_named(config: ExperimentConfig, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["serve", "--run", str(config.run_folder), "--port", "0"]
    assert main([*run, "--host", "0.0.0.0"]) == 2
    assert "--host 0.0.0.0 lets others in; give a token by --token_file" in capsys.readouterr().err
    assert main([*run[:-1], address.rpartition(":")[2]]) == 2
    assert "cannot listen on 127.0.0.1 port" in capsys.readouterr().err
    assert main([*run, "--adapters", "0"]) == 2
    assert "--adapters is 0; give a number above 0" in capsys.readouterr().err
    assert main(["serve", "--run", str(tmp_path)]) == 2
    assert "no generator there" in capsys.readouterr().err
    (tmp_path / "token").write_text("\n")
    assert main([*run, "--token_file", str(tmp_path / "token")]) == 2
    assert "is empty; write a token into it" in capsys.readouterr().err


def test_a_generator_whose_sentences_cannot_be_read_is_not_served(config: ExperimentConfig, tmp_path: Path) -> None:
    generator = shutil.copytree(config.run_folder / "generator", tmp_path / "generator")
    file = generator / CONFIG_FILE
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "encoder": f"sentence-transformers:{tmp_path / 'no-such-encoder'}"}))
    with pytest.raises(InputError, match=r"text encoder .*no-such-encoder: no such folder"):
        Served(generator, frame="alpaca", limits=LIMITS, backend="functional")


def test_others_are_not_let_in_without_a_token(served: Served) -> None:
    with pytest.raises(InputError, match=r"--host 0\.0\.0\.0 lets others in; give a token by --token_file"):
        make_server(served, "0.0.0.0", 0, None)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(config: ExperimentConfig) -> None:
    command = [sys.executable, "-m", "llgbm", "serve", "--run", str(config.run_folder), "--port", "0", "--frame", "alpaca"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split(": ", 1)[1].split()[0]
        assert say(address, "base") is not None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_shows_three_answers(address: str) -> None:
    shown = ""
    for _ in range(3):  # a loaded machine may be slow to draw
        command = ["chromium", "--headless", "--no-sandbox", "--virtual-time-budget=20000", "--dump-dom", f"{address}/#ask"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        if len(re.findall(r"\d tokens read", shown)) == 3:
            break
        time.sleep(1)
    assert len(re.findall(r"\d tokens read", shown)) == 3
    assert 'class="fault"' not in shown
