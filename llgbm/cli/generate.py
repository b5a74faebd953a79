"""`llgbm generate`: adapters for tasks that are only described."""

import shlex
from argparse import Namespace
from typing import TYPE_CHECKING

from llgbm.cli.options import RUN, add_base_arguments, add_folder, add_json, read_base_options
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.models.export import Request

HELP = "Write adapters for a description, prompts, or both."
EXAMPLE = 'llgbm generate --description "Reverse the string." --output my_adapter'


def add_arguments(parser: CommandParser) -> None:
    """The generator, what is asked for, and where adapters go."""
    add_folder(parser, "--run", "--checkpoint", default=RUN, help="the generator: a run, or its generator folder")
    parser.add_argument("--description", default=None, metavar="TEXT", help="one sentence that says what the adapter should do")
    parser.add_argument("--prompts", default=None, metavar="FILE", help="unlabeled prompts: one per line, or a JSON list")
    parser.add_argument("--tasks", default=None, metavar="FILE", help="many: JSONL with task, description or prompts")
    parser.add_argument("--name", default="generated adapter", help="title of the model card (default: %(default)s)")
    add_folder(parser, "--output", "--output_dir", default="outputs/generated", help="PEFT folder, or one per task")
    add_json(parser)
    add_base_arguments(parser, "the generator")


def run(args: Namespace) -> int:
    """Generate and write; print the folders."""
    requests = _requests(args)
    import time

    from llgbm.models.encoder_names import needs_base
    from llgbm.models.ensemble import load_generator
    from llgbm.models.export import generate_adapters
    from llgbm.zoo.base import BaseOptions, load_recorded

    spec, asked = load_generator(args.run).spec, read_base_options(args)
    made_for, reads = spec.base, needs_base(spec.encoder) or asked != BaseOptions()
    base = load_recorded(f"generator {args.run}", made_for, asked) if reads and made_for else None
    start = time.perf_counter()
    folders = generate_adapters(args.run, requests, args.output, base)
    seconds = time.perf_counter() - start
    rows = [{"task": request.name, "folder": str(folder)} for request, folder in zip(requests, folders, strict=True)]
    if args.json:
        print_json({"adapters": rows, "seconds": round(seconds, 2)})
    else:
        print_table(rows, title=f"{len(rows)} adapters for {made_for and made_for.name}, {seconds:.1f} s with loading")
        print(f'try it: llgbm try {shlex.quote(str(folders[0]))} "a text"')
    return 0


def _requests(args: Namespace) -> "list[Request]":
    single = args.description is not None or args.prompts is not None
    if single == (args.tasks is not None):
        raise InputError("say what to generate: --description, --prompts or both for one task, or --tasks for many")
    from llgbm.models.export import Request, read_prompts, read_requests

    if args.tasks is not None:
        return read_requests(args.tasks)
    return [Request(args.name, args.description, read_prompts(args.prompts) if args.prompts else ())]
