"""`llgbm bench serve`: many clients with many tasks at once against the server, and one client after another."""

import json
import statistics
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from llgbm.bench.clock import timed
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError
from llgbm.serve.server import FUNCTIONAL, Served, make_server
from llgbm.vllm_engine import is_installed
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.suite import Example, Task

REQUESTS, ADAPTERS, ALONE = 200, 50, 20
"""Clients at once, the tasks they ask for between them, and requests one after another."""
TURNED = 0.02
"""Share of answers that another batch may turn: its products round otherwise, and two tokens may be as likely."""


def bench_serve(config: ExperimentConfig, requests: int = REQUESTS, adapters: int = ADAPTERS) -> dict[str, Any]:
    """Milliseconds from a request to its answer, by the clients' clocks, of every backend; the generator is the one of `config.run_folder`.

    Raises:
        InputError: There is no generator, or answers differ from round to round by more than rounding explains.
    """
    suite = TeacherZoo.load(config.checkpoint_folder).suite
    tasks = [task for task in suite if task.test][:adapters]
    asked = [
        (tasks[i % len(tasks)], tasks[i % len(tasks)].test[i // len(tasks) % len(tasks[i % len(tasks)].test)]) for i in range(requests)
    ]
    served = [Served(config.run_folder, backend=FUNCTIONAL)]
    if is_installed():
        served.append(Served(config.run_folder))  # vLLM where it takes the base
    return {"rows": [{"backend": one.backend, "adapters": len(tasks), **_figures(one, asked)} for one in served]}


def _figures(served: Served, asked: Sequence[tuple[Task, Example]]) -> dict[str, Any]:
    bodies = [_body(f"task: {task.description}", example.input) for task, example in asked]
    with serving(served) as address:
        ask = asker(address)
        first, again = _crowd(ask, bodies), _crowd(ask, bodies)
        alone = [timed(lambda body=body: ask(body)) for body in bodies[:ALONE]]
    differ = sum(one != other for (one, _), (other, _) in zip(first, again, strict=True))
    if differ > TURNED * len(asked):
        raise InputError(f"backend {served.backend}: {differ} of {len(asked)} answers differ between two rounds; the server is broken")
    return {
        "requests": len(asked),
        "lost": sum(text is None for text, _ in [*first, *again]),
        "differ": differ,
        **{f"writing_{name}_ms": value for name, value in _quantiles(first).items()},
        **{f"kept_{name}_ms": value for name, value in _quantiles(again).items()},
        "alone_p50_ms": 1000 * statistics.median(seconds for _, seconds in alone),
        "kept_requests_per_s": len(asked) / max(seconds for _, seconds in again),
        "exact_match": statistics.mean(text == example.output for (text, _), (_, example) in zip(again, asked, strict=True)),
    }


@contextmanager
def serving(served: Served, token: str | None = None) -> Iterator[str]:
    """A server on a free port in a thread of its own, for as long as the block; gives its address."""
    server, listening = make_server(served, "127.0.0.1", 0, token)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        served.engine.close()
        listening.close()


def asker(address: str) -> Callable[[bytes], str]:
    """Asks a chat and gives the answer's text; an HTTP error is raised."""

    def ask(body: bytes) -> str:
        request = urllib.request.Request(f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)["choices"][0]["message"]["content"]

    return ask


def _body(model: str, text: str) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 32}).encode()


def _crowd(ask: Callable[[bytes], str], bodies: Sequence[bytes]) -> list[tuple[str | None, float]]:
    """All at once: each one's answer, None where there came none, and seconds."""

    def answer(body: bytes) -> str | None:
        try:
            return ask(body)
        except OSError:
            return None

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: timed(lambda: answer(body)), bodies))


def _quantiles(answers: Sequence[tuple[str | None, float]]) -> dict[str, float]:
    """Milliseconds of those that were answered."""
    cuts = statistics.quantiles([1000 * seconds for text, seconds in answers if text is not None], n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98]}
