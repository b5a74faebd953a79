"""The command line: finds a command, parses its flags, turns faults into one sentence and an exit status."""

import difflib
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType, ModuleType
from typing import TYPE_CHECKING

from llgbm.errors import REMEDIES, InputError, first_line, ran_out, system_fault
from llgbm.progress import quietly

if TYPE_CHECKING:
    from llgbm.cli.parser import CommandParser

COMMANDS: dict[str, str] = {
    "quickstart": "llgbm.cli.quickstart",
    "verify": "llgbm.cli.verify",
    "plan": "llgbm.cli.plan",
    "zoo": "llgbm.cli.zoo",
    "compute-deltas": "llgbm.cli.compute_deltas",
    "train": "llgbm.cli.train",
    "train-delta-only": "llgbm.cli.train_delta_only",
    "ensemble": "llgbm.cli.ensemble",
    "generate": "llgbm.cli.generate",
    "push": "llgbm.cli.push",
    "try": "llgbm.cli.try_adapter",
    "serve": "llgbm.cli.serve",
    "evaluate": "llgbm.cli.evaluate",
    "retrieve": "llgbm.cli.retrieve",
    "ablate": "llgbm.cli.ablate",
    "study": "llgbm.cli.study",
    "compose": "llgbm.cli.compose",
    "visualize": "llgbm.cli.visualize",
    "report": "llgbm.cli.report",
    "artifacts": "llgbm.cli.artifacts",
    "reproduce": "llgbm.cli.reproduce",
    "bench": "llgbm.cli.bench",
    "completion": "llgbm.cli.completion",
}
"""Command -> module with `HELP`, `EXAMPLE`, `add_arguments(parser)` and `run(args) -> int`."""

BAD_INPUT, FAILURE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 1, 130, 141, 143
"""Exit statuses; the last three are 128 and the number of the signal."""

GOES_ON = "what was finished is kept, the same command goes on from there (train, train-delta-only: with --resume)"

ENDING = (
    "'llgbm COMMAND --help' shows a command's flags and an example, --version the",
    "version; --quiet shows no progress, --debug the traceback of a fault.",
)
"""Of the overview."""


class Terminated(BaseException):
    """SIGTERM arrived; raised where the program was, so that a run on its way records that it FAILED."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    It is 0, 1 for failure, 2 for bad input, a full disk and too little memory, 130 on Ctrl-C, 141 on a closed pipe, 143 on SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug, quiet = "--debug" in arguments, "--quiet" in arguments
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks transformers for it
    arguments = [a for a in arguments if a not in ("--debug", "--quiet")]
    try:
        with _sigterm_raises(), _spoken_logs(quiet), quietly() if quiet else nullcontext():
            status = _dispatch(arguments)
            sys.stdout.flush()  # here, so that a closed pipe is noticed while it can be answered
            return status
    except BrokenPipeError:
        _leave_stuck_streams()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"llgbm: interrupted; {GOES_ON}", file=sys.stderr)
        return INTERRUPTED
    except Terminated:
        print(f"llgbm: terminated; {GOES_ON}", file=sys.stderr)
        return TERMINATED
    except Exception as error:  # the last resort of a program: one sentence for the user, the traceback with --debug
        return _fail(error, debug)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in here; elsewhere than in the main thread Python takes no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated("SIGTERM")

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_stuck_streams() -> list[str]:
    """Let the last flush of streams that nobody takes any more (`llgbm ... | head`, a file on a full disk) go nowhere; which these are."""
    nowhere, stuck = os.open(os.devnull, os.O_WRONLY), []
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
            stuck.append(name)
    os.close(nowhere)
    return stuck


@contextmanager
def _spoken_logs(quiet: bool) -> Iterator[None]:
    """What the package logs, on standard error while a command runs; warnings alone if `quiet`."""
    logger, handler = logging.getLogger("llgbm"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("llgbm: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # where it is installed PEFT imports it, and it says what else there is
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"llgbm {version('llgbm')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise InputError(
            f"unknown command {name!r}" + (f" (did you mean {near[0]!r}?)" if near else "") + f"; commands: {', '.join(COMMANDS)}"
        )
    try:
        args = make_parser(name).parse_args(rest)
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else FAILURE
    return _module(name).run(args)


def make_parser(name: str) -> "CommandParser":
    """The parser of a command. KeyError for an unknown one."""
    from llgbm.cli.parser import CommandParser

    module = _module(name)
    parser = CommandParser(module.HELP, module.EXAMPLE, prog=f"llgbm {name}")
    module.add_arguments(parser)
    return parser


def _module(name: str) -> ModuleType:
    return importlib.import_module(COMMANDS[name])


def _overview() -> str:
    lines = ["usage: llgbm COMMAND [flags]", "", "Learning LoRA Generator by Behavioral Matching.", "", "commands:"]
    lines += [f"  {name:<18}{_module(name).HELP}" for name in COMMANDS]
    return "\n".join([*lines, "", *ENDING])


def _fail(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if isinstance(error, InputError):
        print(f"llgbm: {str(error) or type(error).__name__}", file=sys.stderr)
        return BAD_INPUT
    remedy = "free memory, or let less be done at once (--memory_gb)" if ran_out(error) else REMEDIES.get(system_fault(error) or 0)
    said = _sentence(error, _leave_stuck_streams() if remedy else [])
    print(f"llgbm: {said}" + (f"; {remedy}; {GOES_ON}" if remedy else ""), file=sys.stderr)
    return BAD_INPUT if remedy else FAILURE


def _sentence(error: Exception, stuck: Sequence[str]) -> str:
    """What is wrong, and where; `stuck` are the streams that take no more."""
    said = first_line(error)
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or [*stuck, "standard output, or a file"][0]
        return f"{where}: {error.strerror}"
    told = "" if said == type(error).__name__ else said
    if ran_out(error):
        return "memory ran out" + (f" ({told})" if told else "")
    return f"{type(error).__name__}: {told}" if told else said
