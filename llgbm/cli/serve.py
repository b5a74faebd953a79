"""`llgbm serve`: a sentence as the name of a model, over HTTP."""

import os
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from llgbm.cli.options import RUN, add_base_arguments, add_folder, read_base_options
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError
from llgbm.files import read_text

HELP = "Serve generated adapters over HTTP, by OpenAI's paths."
EXAMPLE = "llgbm serve --port 8000"
TOKEN = "LLGBM_SERVE_TOKEN"
BACKENDS = ("auto", "functional", "vllm")


def add_arguments(parser: CommandParser) -> None:
    """The generator, where to listen, who may ask, and how much."""
    add_folder(parser, "--run", "--checkpoint", default=RUN, help="the generator: a run, or its generator folder")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; others than this machine need a token (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0: any that is free (default: %(default)s)")
    parser.add_argument("--token_file", default=None, metavar="FILE", help=f"its text has to come with requests; or set {TOKEN}")
    parser.add_argument("--frame", default="auto", help="chat, alpaca, none, or auto: chat where the base has a template")
    backend = "functional: this package's batch; vllm; auto: vLLM where it is installed and takes the base (default: %(default)s)"
    parser.add_argument("--backend", default="auto", choices=BACKENDS, metavar="X", help=backend)
    parser.add_argument("--adapters", type=int, default=256, metavar="N", help="adapters kept in memory (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="requests answered together (default: %(default)s)")
    parser.add_argument("--waiting", type=int, default=1024, metavar="N", help="requests that may wait (default: %(default)s)")
    parser.add_argument("--new_tokens", type=int, default=256, metavar="N", help="longest answer (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="S", help="a request is given up after so long (default: %(default)s)"
    )
    add_base_arguments(parser, "the generator")


def run(args: Namespace) -> int:
    """Serve until interrupted."""
    try:
        from llgbm.serve.requests import Limits
        from llgbm.serve.server import Served, make_server
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}, which is not installed; pip install 'llgbm[serve]'") from error

    given = {field.name: getattr(args, field.name) for field in fields(Limits) if hasattr(args, field.name)}
    small = next((name for name, value in given.items() if value <= 0), None)
    if small is not None:
        raise InputError(f"--{small} is {given[small]}; give a number above 0")
    token = read_text(Path(args.token_file)).strip() if args.token_file else os.environ.get(TOKEN)
    if args.token_file and not token:
        raise InputError(f"{args.token_file}: is empty; write a token into it")
    served = Served(args.run, read_base_options(args), args.frame, Limits(**given), token, args.backend)
    server, listening = make_server(served, args.host, args.port, token)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"base {served.base.name}, frame {served.frame}, backend {served.backend}: http://{shown}:{port} (Ctrl-C ends it)", flush=True)
    try:
        server.run([listening])
    finally:
        served.engine.close()
    return 0
