"""A server on a port, from a generator's folder."""

import logging
import math
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from llgbm.errors import InputError
from llgbm.evaluation.side_by_side import FRAMES, chosen_frame
from llgbm.framing import Framing, context_length
from llgbm.functional_lora import FunctionalLoRA
from llgbm.memory import MemoryPlan
from llgbm.models.encoder_names import needs_base
from llgbm.models.ensemble import load_generator
from llgbm.models.writer import AdapterWriter
from llgbm.serve.app import Gateway
from llgbm.serve.batches import Batches
from llgbm.serve.engine import Backend, Engine
from llgbm.serve.requests import Limits, Reader
from llgbm.serve.shelf import Shelf
from llgbm.serve.vllm import Vllm
from llgbm.vllm_engine import device_type, is_installed, load_vllm
from llgbm.zoo.base import Base, BaseOptions, load_recorded

LOOPBACK = ("127.0.0.1", "::1", "localhost")
AUTO, FUNCTIONAL, VLLM = "auto", "functional", "vllm"
BACKENDS = (AUTO, FUNCTIONAL, VLLM)
logger = logging.getLogger(__name__)


class Served:
    """An application and the engine behind it.

    Args:
        run: A generator: a run, or its generator folder.
        options: Another place, precision or device of its base.
        frame: As `llgbm try` takes it: chat, alpaca, none, or auto.
        limits: Of requests.
        token: What clients have to send.
        backend: functional: this package's batch; vllm; auto: vLLM where it is installed and takes base and adapters.

    Raises:
        InputError: No generator there, its base cannot be loaded, it has no chat template and chat is asked for, or vLLM is asked
            for and is not installed, runs elsewhere than `options.device`, or does not take base or adapters.
    """

    def __init__(
        self,
        run: str | Path,
        options: BaseOptions | None = None,
        frame: str = "auto",
        limits: Limits | None = None,
        token: str | None = None,
        backend: str = AUTO,
    ) -> None:
        limits, asked, generator = limits or Limits(), options or BaseOptions(), load_generator(run)
        if generator.spec.base is None:
            raise InputError(f"{run}: does not say for which base it writes; train it anew with 'llgbm train'")
        device = asked.device or generator.spec.base.device
        by_vllm = backend == VLLM or (backend == AUTO and is_installed())
        if backend == VLLM:
            load_vllm()  # before a base is loaded for nothing
        self.base = load_recorded(f"generator {run}", generator.spec.base, replace(asked, device="cpu" if by_vllm else device))
        generator.encoder(self.base)  # whoever asks first must not be the one who learns that no sentence can be read
        self.frame = chosen_frame(self.base, frame)
        context = context_length(self.base)
        framing, bare = (Framing(self.base.tokenizer, FRAMES[name], max_length=context, remember=False) for name in (self.frame, "none"))
        limits = replace(limits, batch=min(limits.batch, limits.adapters))
        try:
            made = _vllm(generator, self.base, framing, limits, asked) if by_vllm else None
        except InputError as error:
            if backend == VLLM:
                raise
            logger.warning("%s (answers come by the backend '%s')", error, FUNCTIONAL)
            made = None
        self.backend = FUNCTIONAL if made is None else VLLM
        if made is None:
            self.base.model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
            functional = FunctionalLoRA(self.base.model, generator.spec.shapes, asked.memory_gb)
            limits = _within_memory(limits, functional, generator.spec.emitted())
            made = _functional(generator, self.base, functional, framing, limits)
        self.engine, self.limits = Engine(made, limits.waiting), limits
        self.app: Starlette = Gateway(self.engine, Reader(framing, bare, limits), limits, token).app()


def _within_memory(limits: Limits, functional: FunctionalLoRA, numbers: int) -> Limits:
    """No more adapters, of so many numbers each, kept than half of the memory takes; the other half is for answers."""
    memory = functional.memory if functional.device.type == "cpu" else MemoryPlan("cpu")
    kept = memory.at_once("adapters that are kept", 2 * 4 * numbers, limits.adapters)
    return replace(limits, adapters=kept, batch=min(limits.batch, kept))


def _functional(generator: AdapterWriter, base: Base, functional: FunctionalLoRA, framing: Framing, limits: Limits) -> Backend:
    shelf = Shelf(lambda sentence: generator.generate(description=sentence, base=base), limits.adapters)
    return Batches(functional, framing, shelf, limits.batch)


def _vllm(generator: AdapterWriter, base: Base, framing: Framing, limits: Limits, asked: BaseOptions) -> Backend:
    load_vllm()
    if asked.device not in (None, device_type()):
        raise InputError(f"--device is {asked.device}, but the vLLM that is installed runs on {device_type()}; leave it out")
    made = Vllm(generator, base, framing, limits.batch, limits.adapters, asked.memory_gb)
    if not needs_base(generator.spec.encoder):
        base.model.to("meta")  # pyright: ignore[reportArgumentType]  # vLLM has weights of its own
    return made


def make_server(served: Served, host: str, port: int, token: str | None) -> tuple[uvicorn.Server, socket.socket]:
    """A server that listens already; `server.run([socket])` answers.

    Raises:
        InputError: The port is taken, or others could reach it and there is no token.
    """
    if host not in LOOPBACK and not token:
        raise InputError(f"--host {host} lets others in; give a token by --token_file, or listen on 127.0.0.1")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host} port {port} ({error}); give another --port") from error
    config = uvicorn.Config(
        served.app,
        http=_impatient(served.limits.seconds, served.limits.connections),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(served.limits.seconds),
    )
    return uvicorn.Server(config), listening


def _impatient(seconds: float, most: int) -> type[H11Protocol]:
    """uvicorn's protocol, which also closes connections whose next request has not begun after so long, be it drop by drop.

    Of more connections than `most` the oldest without a request goes at once; with a request on every one, the newest.
    """
    opened: dict[Any, None] = {}

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            opened[self] = None
            if len(opened) > most:
                next(connection for connection in opened if connection._rests()).timeout_keep_alive_handler()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            opened.pop(self, None)
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            self.loop.call_later(seconds, self._give_up, self.cycle)

        def _rests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _give_up(self, last: Any) -> None:
            if self.cycle is last and self._rests():
                self.timeout_keep_alive_handler()

    return Impatient
