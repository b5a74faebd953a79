"""A server on a port, from a generator's folder."""

import socket
from dataclasses import replace
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from llgbm.errors import InputError
from llgbm.evaluation.side_by_side import FRAMES, chosen_frame
from llgbm.framing import Framing, context_length
from llgbm.functional_lora import FunctionalLoRA
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
        framing, bare = (Framing(self.base.tokenizer, FRAMES[name], max_length=context_length(self.base)) for name in (self.frame, "none"))
        limits = replace(limits, batch=min(limits.batch, limits.adapters))
        self.engine = Engine(functional, framing, Shelf(generator, self.base, limits.adapters), limits.batch, limits.waiting)
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
    config = uvicorn.Config(served.app, log_level="warning", access_log=False, server_header=False)
    return uvicorn.Server(config), listening
