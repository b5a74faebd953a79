"""`llgbm completion`: commands and flags at the press of a key, by a script for one's shell."""

from argparse import Namespace

from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

HELP = "Print a completion script for a shell's start-up file."
EXAMPLE = "llgbm completion bash"
SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: CommandParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or tcsh")


def run(args: Namespace) -> int:
    """Print it; InputError where shtab, which writes it, is not installed."""
    try:
        import shtab
    except ImportError as error:
        raise InputError("completion scripts are written by shtab, which is not installed; pip install 'llgbm[completion]'") from error
    print(shtab.complete(whole_parser(), shell=args.shell))
    return 0


def whole_parser() -> CommandParser:
    """All commands under one parser, as no call needs it."""
    from llgbm.cli import COMMANDS, make_parser

    whole = CommandParser(prog="llgbm")
    commands = whole.add_subparsers(dest="command")
    for name in COMMANDS:
        own = make_parser(name)
        commands.add_parser(name, help=own.description, add_help=False, parents=[own])
    return whole
