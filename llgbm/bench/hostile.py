"""`llgbm bench hostile`: requests that nobody should send to a server: the statuses they get, and its memory before and after.

The server is a process of its own, that of `llgbm serve` with the generator of `config.run_folder`.
"""

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil

from llgbm.bench.clock import timed
from llgbm.config import ExperimentConfig
from llgbm.errors import InputError

MIB = 1 << 20
KEPT = 64
"""Adapters that the server keeps."""
PATIENCE_S = 15.0
"""How long it waits for clients."""
CHAT = "/v1/chat/completions"
PATHS = ("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "hf://org/name", "task", "base/../base", "C:\\base", "%2e%2e/base")
"""Names of models that are none."""
BROKEN = (b"{", b"", b"null", b"[]", b"\xff\xfe", b'{"model": "base", "messages": ', b'{"model": NaN}', b"1e999", b'"base"')
"""Bodies that are no request."""


@dataclass(frozen=True)
class Address:
    """A server, and the process it runs in."""

    host: str
    port: int
    process: psutil.Process

    def post(self, body: bytes | Iterator[bytes]) -> int:
        """Status of a chat's answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        try:
            connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def begin(self, text: bytes) -> socket.socket:
        """A connection on which only this was sent."""
        connection = socket.create_connection((self.host, self.port), timeout=60)
        with suppress(ConnectionError):  # the server has read enough
            connection.sendall(text)
        return connection


def bench_hostile(config: ExperimentConfig, adapters: int = 10_000, clients: int = 100) -> dict[str, Any]:
    """A row for each kind of request: how many, the statuses of the answers (0: the connection was closed), seconds, the server's MiB."""
    rows = []
    with served(config) as address:
        ask(address, "base")
        for i in range(2 * KEPT):  # what is made once, and a full shelf
            ask(address, f"task: Warm up, number {i}.")
        for name, work in attacks(adapters, clients).items():
            before = _mib(address)
            answered, seconds = timed(partial(work, address))
            found = Counter(answered)
            after = _mib(address)
            statuses = " ".join(f"{status}: {count}" for status, count in sorted(found.items()))
            rows.append(
                {
                    "requests": name,
                    "sent": found.total(),
                    "statuses": statuses,
                    "seconds": seconds,
                    "mib_before": before,
                    "mib_after": after,
                }
            )
            if ask(address, "base") != 200:
                raise InputError(f"after {name!r} the server answers no more; it is broken")
    return {"kept": KEPT, "rows": rows}


@contextmanager
def served(config: ExperimentConfig) -> Iterator[Address]:
    """`llgbm serve` on a free port; interrupted at the end, when it has to stop by itself."""
    flags = ["--port=0", f"--adapters={KEPT}", f"--seconds={PATIENCE_S}", "--frame=alpaca"]
    command = [sys.executable, "-m", "llgbm", "serve", f"--run={config.run_folder}", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise InputError(f"'{' '.join(command)}' does not begin; try it by hand")
        host, _, port = line.rsplit("http://", 1)[1].split()[0].rpartition(":")
        try:
            yield Address(host, int(port), psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def attacks(adapters: int, clients: int) -> dict[str, Callable[[Address], list[int]]]:
    """Name -> what sends the requests and gives the statuses."""
    deep = b'{"model": "base", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    user, assistant = {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}
    turns = json.dumps({"model": "base", "messages": [*[user, assistant] * 2000, user]}).encode()
    return {
        "a sentence of 10 MB": lambda to: [ask(to, "task: " + "x" * (10 * MIB))],
        "a body without end": lambda to: [to.post(b"x" * MIB for _ in range(100))],
        "a prompt of 200 kB": lambda to: [ask(to, "base", "1 " * 100_000)],
        "4,001 turns": lambda to: [to.post(turns)],
        "paths as names of models": lambda to: [ask(to, name) for name in PATHS],
        "a path as a sentence": lambda to: [ask(to, "task: ../../etc/passwd")],
        "broken JSON": lambda to: [to.post(body) for body in BROKEN],
        "JSON 100,000 deep": lambda to: [to.post(deep)],
        "max_tokens of 10 and 5,000 digits": lambda to: [ask(to, "base", max_tokens="9" * digits) for digits in (10, 5000)],
        "a header of 1 MB": lambda to: [_status(to.begin(b"POST / HTTP/1.1\r\nx: " + b"x" * MIB))],
        f"{clients} clients that stop in the header, as many in the body": lambda to: slow(to, clients),
        f"{adapters} adapters, one after another": lambda to: [ask(to, f"task: Task number {i}, please.") for i in range(adapters)],
        f"{adapters} prompts to the base": lambda to: [ask(to, "base", f"{i}") for i in range(adapters)],
    }


def ask(to: Address, model: str, text: str = "123", max_tokens: str = "1") -> int:
    """Status of a chat of one turn."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]})
    return to.post(f'{body[:-1]}, "max_tokens": {max_tokens}}}'.encode())


def slow(to: Address, clients: int) -> list[int]:
    """Connections left half-way, between which others are answered; then what comes on them: 0 where they were closed without a word."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n".encode()
    with ExitStack() as stack:
        begun = [stack.enter_context(to.begin(text)) for text in (head, head + b"\r\n{") for _ in range(clients)]
        answered = [_status(to.begin(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")) for _ in range(20)]
        return answered + [_status(connection) for connection in begun]


def _status(connection: socket.socket) -> int:
    """Of the answer on a connection; 0 where it is closed without one."""
    with connection:
        try:
            line = connection.makefile("rb").readline()
        except ConnectionResetError:
            return 0
    return int(line.split()[1]) if line else 0


def _mib(of: Address) -> float:
    return of.process.memory_info().rss / MIB
