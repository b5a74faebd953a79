"""The command line: finds a command, parses its flags, turns faults into one sentence and an exit status."""

import difflib
import importlib
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType

from llgbm.errors import InputError

COMMANDS: dict[str, str] = {
    "quickstart": "llgbm.cli.quickstart",
    "verify": "llgbm.cli.verify",
    "zoo": "llgbm.cli.zoo",
    "compute-deltas": "llgbm.cli.compute_deltas",
    "train": "llgbm.cli.train",
    "train-delta-only": "llgbm.cli.train_delta_only",
    "ensemble": "llgbm.cli.ensemble",
    "generate": "llgbm.cli.generate",
    "evaluate": "llgbm.cli.evaluate",
    "retrieve": "llgbm.cli.retrieve",
    "ablate": "llgbm.cli.ablate",
    "compose": "llgbm.cli.compose",
    "visualize": "llgbm.cli.visualize",
    "report": "llgbm.cli.report",
    "bench": "llgbm.cli.bench",
}
"""Command -> module with `HELP`, `add_arguments(parser)` and `run(args) -> int`."""

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for failure, 2 for bad input, 130 on Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks transformers for it
    arguments = [a for a in arguments if a != "--debug"]
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # --help and the parser's own faults
        return stop.code if isinstance(stop.code, int) else FAILURE
    except KeyboardInterrupt:
        print(
            "llgbm: interrupted; what was finished is kept, the same command goes on from there (train, train-delta-only: with --resume)",
            file=sys.stderr,
        )
        return INTERRUPTED
    except InputError as error:
        return _fail(error, BAD_INPUT, debug)
    except Exception as error:  # the last resort of a program: one sentence for the user, the traceback with --debug
        return _fail(error, FAILURE, debug)


def _dispatch(arguments: list[str]) -> int:
    from jsonargparse import ArgumentError

    from llgbm.cli.options import make_parser, suggest_field

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
    module = _module(name)
    parser = make_parser(module.HELP, prog=f"llgbm {name}")
    module.add_arguments(parser)
    try:
        args = parser.parse_args(rest)
    except ArgumentError as error:
        raise InputError(f"{error.message}{suggest_field(error.message)}; 'llgbm {name} --help' shows the flags") from error
    return module.run(args)


def _module(name: str) -> ModuleType:
    return importlib.import_module(COMMANDS[name])


def _overview() -> str:
    lines = ["usage: llgbm COMMAND [flags]", "", "Learning LoRA Generator by Behavioral Matching.", "", "commands:"]
    lines += [f"  {name:<18}{_module(name).HELP.splitlines()[0]}" for name in COMMANDS]
    return "\n".join([*lines, "", "'llgbm COMMAND --help' shows a command's flags; --debug adds the traceback of a fault."])


def _fail(error: Exception, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    kind = "" if isinstance(error, InputError) or not str(error) else f"{type(error).__name__}: "
    print(f"llgbm: {kind}{str(error) or type(error).__name__}", file=sys.stderr)
    return status
