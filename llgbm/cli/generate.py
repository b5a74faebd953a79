"""`llgbm generate`: adapters for tasks that are only described."""

import shlex
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from llgbm.cli.options import add_base_arguments, read_base_options
from llgbm.cli.output import print_json, print_table
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.models.export import Request

HELP = "Write adapters for tasks given by a description, unlabeled prompts, or both."


def add_arguments(parser: ArgumentParser) -> None:
    """The generator, what is asked for, and where adapters go."""
    parser.add_argument(
        "--checkpoint", type=str, default="outputs/delta_multi", help="a run folder or a generator folder (default: %(default)s)"
    )
    parser.add_argument("--description", type=str, default=None, help="one sentence that says what the adapter should do")
    parser.add_argument(
        "--prompts", type=str, default=None, metavar="FILE", help="unlabeled prompts: a text file, one per line, or a JSON list"
    )
    parser.add_argument(
        "--tasks", type=str, default=None, metavar="FILE", help="many tasks: JSONL with task, and description, prompts or both"
    )
    parser.add_argument("--name", type=str, default="generated adapter", help="title of the model card (default: %(default)s)")
    parser.add_argument(
        "--output_dir", type=str, default="outputs/generated", help="PEFT folder, or one folder per task (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the folders as JSON")
    add_base_arguments(parser, "the generator")


def run(args: Namespace) -> int:
    """Generate and write; print the folders."""
    requests = _requests(args)
    import time

    from llgbm.models.ensemble import load_generator
    from llgbm.models.export import generate_adapters
    from llgbm.zoo.base import BaseOptions, load_recorded

    spec, asked = load_generator(args.checkpoint).spec, read_base_options(args)
    made_for, reads = spec.base, spec.encoder == "base" or asked != BaseOptions()
    base = load_recorded(f"generator {args.checkpoint}", made_for, asked) if reads and made_for else None
    start = time.perf_counter()
    folders = generate_adapters(args.checkpoint, requests, args.output_dir, base)
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
