"""`llgbm try`: base and adapter side by side on a few texts, or in a chat."""

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llgbm.cli.options import RUN, add_base_arguments, add_folder, add_json, read_base_options, require_at_least
from llgbm.cli.output import live_table, print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError
from llgbm.zoo.suite import Example

if TYPE_CHECKING:
    from llgbm.evaluation.side_by_side import SideBySide

HELP = "Ask base and adapter the same, side by side."
EXAMPLE = 'llgbm try my_adapter abcd 12345 --description "Reverse the string."'


def add_arguments(parser: CommandParser) -> None:
    """The adapter, the texts, and how they are asked."""
    parser.add_argument("adapter", metavar="ADAPTER", help="a PEFT folder; none asks only one made from --description")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="what to ask; with --chat it is typed")
    parser.add_argument("--description", default=None, metavar="TEXT", help="also generate an adapter from this sentence")
    add_folder(parser, "--run", "--checkpoint", default=RUN, help="the generator that writes it")
    parser.add_argument("--frame", default="auto", help="chat, alpaca, none, or auto: chat where the base has a template")
    parser.add_argument("--max_new_tokens", type=int, default=64, metavar="N", help="longest answer (default: %(default)s)")
    parser.add_argument("--chat", action="store_true", help="type texts, answered with all that was said before")
    add_json(parser)
    either = "or the generator's"
    add_base_arguments(parser, "the adapter", without=("memory_gb",), dtype=f"float32, {either}", device=f"cpu, {either}")


def run(args: Namespace) -> int:
    """Answer every text with every voice; words show as they come on a terminal."""
    if bool(args.texts) == args.chat:
        raise InputError("say what to ask: texts after the adapter, or --chat to type them")
    if args.adapter == "none" and args.description is None:
        raise InputError("nothing to try: give an adapter's folder, or --description for one generated on the spot")
    require_at_least("max_new_tokens", args.max_new_tokens)
    with tempfile.TemporaryDirectory(prefix="llgbm-try-") as folder:
        table = _load(args, Path(folder))
        if args.chat:
            return _chat(table)
        rows = _ask_all(table, args.texts, show=not args.json)
    if args.json:
        print_json({"base": table.base.name, "frame": table.frame, "answers": rows})
    return 0


def _load(args: Namespace, scratch: Path) -> "SideBySide":
    from llgbm.evaluation.side_by_side import SideBySide
    from llgbm.lora.adapter_config import base_of
    from llgbm.models.ensemble import load_generator
    from llgbm.models.export import Request, generate_adapters
    from llgbm.zoo.base import BaseOptions, load_base, load_recorded

    asked: BaseOptions = read_base_options(args)
    adapters = {} if args.adapter == "none" else {"adapter": Path(args.adapter)}
    made_for = load_generator(args.run).spec.base if args.description is not None else None
    if made_for is not None:
        base = load_recorded(f"generator {args.run}", made_for, asked)
        generate_adapters(args.run, [Request("generated", args.description)], scratch / "generated", base)
        adapters["generated"] = scratch / "generated"
    else:
        name, revision = base_of(args.adapter) if asked.name is None else (asked.name, None)
        dtype, device = asked.dtype or "float32", asked.device or "cpu"
        base = load_base(name, dtype, device, asked.revision or revision, asked.attn_implementation)
    return SideBySide(base, adapters, args.frame, args.max_new_tokens)


def _ask_all(table: "SideBySide", texts: Sequence[str], show: bool) -> list[dict[str, str]]:
    rows = [{"text": text, **dict.fromkeys(table.voices, "")} for text in texts]
    if not show or not sys.stdout.isatty():
        _fill(table, rows, lambda: None)
        if show:
            print_table(rows, title=f"base {table.base.name}")
        return rows
    with live_table(rows, title=f"base {table.base.name}") as refresh:
        _fill(table, rows, refresh)
    return rows


def _fill(table: "SideBySide", rows: list[dict[str, str]], refresh: Callable[[], None]) -> None:
    """Write the answers into the rows as they come."""
    for row in rows:
        for voice in table.voices:

            def take(piece: str, row: dict[str, str] = row, voice: str = voice) -> None:
                row[voice] += piece
                refresh()

            row[voice] = table.answer(voice, row["text"], on_text=take)
            refresh()


def _chat(table: "SideBySide") -> int:
    """One text after another until the input ends; each voice remembers what it said itself."""
    if table.frame != "chat":
        raise InputError(f"base {table.base.name} has no chat template, so it cannot chat; give texts instead")
    said: dict[str, list[Example]] = {voice: [] for voice in table.voices}
    while True:
        try:
            text = input("you> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return 0
        for voice, earlier in said.items() if text else ():
            print(f"{voice}> ", end="", flush=True)
            answer = table.answer(voice, text, earlier, lambda piece: print(piece, end="", flush=True))
            print(flush=True)
            earlier.append(Example(text, answer))
