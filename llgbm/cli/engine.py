"""Where a command's independent pieces of work run: in this process, or on a Ray cluster."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llgbm.cli.options import require_at_least
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.fanout.crew import Engine

ENGINES = ("local", "ray")


def add_engine(parser: CommandParser, page: bool = False) -> None:
    """Add `--engine`, `--address` and `--workers`, the last two on a page of their own where that is asked for."""
    text = "local, or ray; its flags: --help_engine" if page else "where work runs: local or ray (default: local)"
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], metavar="E", help=text)
    place = parser.add_page("--help_engine", "with --engine ray") if page else parser
    place.add_argument("--address", default=None, metavar="A", help="of a Ray cluster, such as auto (default: $RAY_ADDRESS, else here)")
    place.add_argument("--workers", type=int, default=None, metavar="N", help="Ray processes at most (default: all that fit)")


@contextmanager
def open_engine(args: Namespace, device: str, memory_gb: float | None) -> Iterator["Engine"]:
    """The engine that flags ask for.

    Args:
        args: With what `add_engine` adds.
        device: Of a worker's base.
        memory_gb: What a worker may take there.

    Raises:
        InputError: Flags of Ray without it, or what `RayEngine` and `make_seat` refuse.
    """
    require_at_least("workers", args.workers)
    if args.engine == "ray":
        import torch

        from llgbm.fanout.ray import RayEngine, make_seat

        with RayEngine(args.address, args.workers, make_seat(torch.get_num_threads(), device, memory_gb)) as engine:
            yield engine
        return
    for flag, value in (("address", args.address), ("workers", args.workers)):
        if value is not None:
            raise InputError(f"--{flag} is for --engine ray; add that, or leave --{flag} out")
    from llgbm.fanout.local import Local

    yield Local()
