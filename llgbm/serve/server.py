"""A server on a port, from a generator's folder."""

import math
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from llgbm.errors import InputError
from llgbm.evaluation.side_by_side import FRAMES, chosen_frame
from llgbm.framing import Framing, context_length
from llgbm.functional_lora import FunctionalLoRA
from llgbm.memory import MemoryPlan
from llgbm.models.ensemble import load_generator
from llgbm.serve.app import Gateway
from llgbm.serve.engine import Engine
from llgbm.serve.requests import Limits, Reader
from llgbm.serve.shelf import Shelf
from llgbm.zoo.base import BaseOptions, load_recorded

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Served:
    """An application and the engine behind it.

    Args:
        run: A generator: a run, or its generator folder.
        options: Another place, precision or device of its base.
        frame: As `llgbm try` takes it: chat, alpaca, none, or auto.
        limits: Of requests.
        token: What clients have to send.

    Raises:
        InputError: No generator there, its base cannot be loaded, or it has no chat template and chat is asked for.
    """

    def __init__(
        self,
        run: str | Path,
        options: BaseOptions | None = None,
        frame: str = "auto",
        limits: Limits | None = None,
        token: str | None = None,
    ) -> None:
        limits, generator = limits or Limits(), load_generator(run)
        if generator.spec.base is None:
            raise InputError(f"{run}: does not say for which base it writes; train it anew with 'llgbm train'")
        self.base = load_recorded(f"generator {run}", generator.spec.base, options)
        functional = FunctionalLoRA(self.base.model, generator.spec.shapes, (options or BaseOptions()).memory_gb)
        self.frame = chosen_frame(self.base, frame)
        context = context_length(self.base)
        framing, bare = (Framing(self.base.tokenizer, FRAMES[name], max_length=context, remember=False) for name in (self.frame, "none"))
        size = sum(4 * generator.spec.rank * (d_in + d_out) for d_in, d_out in generator.spec.shapes.values())
        memory = functional.memory if functional.device.type == "cpu" else MemoryPlan("cpu")
        kept = memory.at_once("adapters that are kept", 2 * size, limits.adapters)  # half of the memory is for answers
        limits = replace(limits, adapters=kept, batch=min(limits.batch, kept))
        self.engine = Engine(functional, framing, Shelf(generator, self.base, limits.adapters), limits.batch, limits.waiting)
        self.limits = limits
        self.app: Starlette = Gateway(self.engine, Reader(framing, bare, limits), limits, token).app()


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
        http=_impatient(served.limits.seconds),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(served.limits.seconds),
    )
    return uvicorn.Server(config), listening


def _impatient(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which also closes connections whose next request has not begun after so long, be it drop by drop."""

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            self.loop.call_later(seconds, self._give_up, self.cycle)

        def _give_up(self, last: Any) -> None:
            if self.cycle is last and (last is None or last.response_complete):
                self.timeout_keep_alive_handler()

    return Impatient
