"""`llgbm zoo build | list | tasks | reword`: train teachers, look at them, look at what they are taught, ask for it in other words."""

import sys
from collections import Counter
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from llgbm.cli.options import add_config_arguments, make_parser, read_config
from llgbm.cli.output import print_json, print_table
from llgbm.zoo.suite import TASK_SPLITS

HELP = "Train a zoo of teacher adapters (build), list it (list), show a suite's tasks (tasks), or give a zoo other words (reword)."


def add_arguments(parser: ArgumentParser) -> None:
    """Four actions, each with its own flags."""
    actions = parser.add_subcommands(dest="action")
    build = make_parser("Train every missing teacher; an interrupted build goes on where it stopped.")
    add_config_arguments(build, sections=("", "model", "lora", "zoo"))
    listing = make_parser("Show the teachers of a zoo.")
    listing.add_argument("--checkpoint_folder", type=str, default="data/teacher_checkpoints", help="the zoo (default: %(default)s)")
    tasks = make_parser("Show, save or draw the tasks of a suite.")
    tasks.add_argument(
        "--suite", type=str, default="micro", help="a built-in suite, such as micro, or a folder of JSONL files (default: %(default)s)"
    )
    tasks.add_argument(
        "--import_function_vectors",
        type=str,
        default=None,
        metavar="DIR",
        help="instead of a suite: JSON files of [{input, output}], one per task",
    )
    tasks.add_argument("--split", type=str, default=None, choices=TASK_SPLITS, help="only tasks of this split")
    tasks.add_argument("--tasks", type=str, nargs="+", default=[], metavar="NAME", help="only these tasks")
    tasks.add_argument("--frame", type=str, default=None, help="another frame: a text with {input} and \\n for a new line, or chat")
    tasks.add_argument("--count", type=int, default=None, help="only so many tasks, evenly spaced")
    tasks.add_argument("--save", type=str, default=None, metavar="DIR", help="write the suite as a JSONL folder")
    tasks.add_argument("--figure", type=str, default=None, metavar="FILE", help="draw tasks by domain and split (.png or .svg)")
    reword = make_parser("Make a zoo of another one's teachers and a suite that has the same tasks and examples in other words.")
    reword.add_argument("--checkpoint_folder", type=str, default="data/teacher_checkpoints", help="the zoo (default: %(default)s)")
    reword.add_argument("--suite", type=str, required=True, help="a built-in suite, such as micro-words-0, or a folder of JSONL files")
    reword.add_argument("--output_dir", type=str, required=True, help="the new zoo; its adapters are links where that works")
    for name, action, help in (
        ("build", build, "train every missing teacher"),
        ("list", listing, "show a zoo's teachers"),
        ("tasks", tasks, "show a suite's tasks"),
        ("reword", reword, "the same teachers, asked for in a suite's words"),
    ):
        action.add_argument("--json", action="store_true", help="print JSON instead of a table")
        actions.add_subcommand(name, action, help=help)


def run(args: Namespace) -> int:
    """Run the chosen action."""
    return {"build": _build, "list": _list, "tasks": _tasks, "reword": _reword}[args.action](args[args.action])


def _build(args: Namespace) -> int:
    from llgbm.progress import ProgressBar
    from llgbm.zoo.build import build_zoo
    from llgbm.zoo.folder import TeacherZoo, is_zoo

    config = read_config(args)
    if is_zoo(config.checkpoint_folder):
        for fault in TeacherZoo.load(config.checkpoint_folder).damaged().values():
            print(f"llgbm: {fault}; that is done now", file=sys.stderr)
    with ProgressBar("zoo", "teachers") as progress:
        zoo = build_zoo(config, progress)
    _print_summary(zoo, args.json)
    return 0


def _list(args: Namespace) -> int:
    from dataclasses import asdict

    from llgbm.zoo.folder import TeacherZoo

    zoo = TeacherZoo.load(args.checkpoint_folder)
    if args.json:
        print_json({**zoo.manifest, "teachers": [asdict(t) for t in zoo.teachers]})
        return 0
    columns = ("task", "domain", "split", "seed", "steps", "exact_match")
    print_table([{name: getattr(t, name) for name in columns} for t in zoo.teachers], columns)
    _print_summary(zoo, False)
    return 0


def _tasks(args: Namespace) -> int:
    from dataclasses import replace

    from llgbm.checking import read_as
    from llgbm.zoo.importing import import_function_vectors
    from llgbm.zoo.suites import SuiteHeader, load_suite

    imported = args.import_function_vectors
    suite = load_suite(args.suite) if imported is None else import_function_vectors(imported)
    suite = suite.select(args.tasks or None, args.split)
    if args.frame is not None:
        suite = replace(suite, frame=read_as(SuiteHeader, {"frame": args.frame.replace("\\n", "\n")}, "zoo tasks").frame)
    if args.count is not None:
        suite = suite.spaced(args.count)
    if args.save:
        suite.save(args.save)
    if args.figure:
        from llgbm.report.plots import plot_suite

        plot_suite(suite, args.figure)
    rows = [
        {"task": t.name, "domain": t.domain, "split": t.split, "train": len(t.train), "test": len(t.test), "description": t.description}
        for t in suite
    ]
    if args.json:
        print_json({"name": suite.name, "hash": suite.content_hash, "tasks": rows})
    else:
        print_table(rows, title=f"suite {suite.name}: {len(suite)} tasks, hash {suite.content_hash[:8]}")
    return 0


def _reword(args: Namespace) -> int:
    from llgbm.zoo.reword import reword_zoo

    _print_summary(reword_zoo(args.checkpoint_folder, args.suite, args.output_dir), args.json)
    return 0


def _print_summary(zoo: Any, as_json: bool) -> None:
    """Teachers by split: how many, how good."""
    rows = []
    for split in (*Counter(t.split for t in zoo.teachers), None):
        scores = [t.exact_match for t in zoo.select(split)]
        rows.append(
            {
                "split": split or "all",
                "teachers": len(scores),
                "mean_exact_match": sum(scores) / len(scores),
                "share_at_least_0.9": sum(score >= 0.9 for score in scores) / len(scores),
                "worst": min(scores),
            }
        )
    if as_json:
        print_json({"folder": str(zoo.folder), "hash": zoo.content_hash, "splits": rows})
    else:
        print_table(rows, title=f"zoo {zoo.folder}: {len(zoo.teachers)} teachers of base {zoo.manifest['base']['name']}")
