"""`llgbm zoo build | import | list | tasks | reword`: train teachers or import them, look at them and their tasks, ask in other words."""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llgbm.cli.dry_run import plan_zoo, show_plan
from llgbm.cli.engine import add_engine, open_engine
from llgbm.cli.keep import add_store, keep
from llgbm.cli.options import ZOO, ZOO_NAMES, add_base_arguments, add_config_arguments, add_folder, add_json, read_base_options, read_config
from llgbm.cli.output import print_config, print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError
from llgbm.zoo.manifest import Teacher, is_zoo, load_manifest, read_manifest

if TYPE_CHECKING:
    from llgbm.zoo.folder import TeacherZoo

HELP = "Train or import teachers, list or reword them, show tasks."
EXAMPLE = "llgbm zoo list --zoo data/teacher_checkpoints"
BUILD = "Train every missing teacher; an interrupted build goes on where it stopped."
IMPORT = "Take PEFT adapters of one base into a zoo, each checked; what cannot be taken is named and left out."
IMPORTED = "llgbm zoo import ids.txt hf://org/name my_adapters"
REWORD = "Make a zoo of another one's teachers and a suite with the same tasks in other words."
REWORDED = "llgbm zoo reword --suite micro-words-0 --output reworded"
TASKS = "Show, save or draw the tasks of a suite."


def add_arguments(parser: CommandParser) -> None:
    """Five actions, each with its own flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser(
        "build", help="train every missing teacher", description=BUILD, example="llgbm zoo build --zoo my_zoo --suite my_suite"
    )
    add_engine(build)
    add_config_arguments(build, sections=("", "model", "lora", "zoo", "tracking"), whole=True)
    imports = actions.add_parser("import", help="a zoo of adapters from folders and the hub", description=IMPORT, example=IMPORTED)
    given = "a folder of adapters, hf://ORG/NAME[@REVISION], or a file with such ids, one a line, # for comments"
    imports.add_argument("sources", nargs="+", metavar="SOURCE", help=given)
    add_folder(imports, *ZOO_NAMES, default="data/imported", help="the zoo; what it holds already is not fetched again")
    names = "other names by which the hub has the base"
    imports.add_argument("--same_base", nargs="+", default=[], metavar="NAME", help=names)
    add_base_arguments(imports, "the zoo")
    add_store(imports)
    listing = actions.add_parser("list", help="show a zoo's teachers", description="Show the teachers of a zoo.", example="llgbm zoo list")
    add_folder(listing, *ZOO_NAMES, default=ZOO, help="the zoo")
    tasks = actions.add_parser("tasks", help="show a suite's tasks", description=TASKS, example="llgbm zoo tasks --split seen --count 10")
    suites = "micro, words, or a folder of JSONL files (default: %(default)s)"
    tasks.add_argument("--suite", default="micro", metavar="X", help=suites)
    files = "instead: a folder of public tasks, as function_vectors, instruction_induction or natural_instructions publish them"
    tasks.add_argument("--import", dest="imported", nargs=2, default=None, metavar=("FORMAT", "DIR"), help=files)
    table = "what tasks want: YAML of task: {texts: [...], family: ...}"
    tasks.add_argument("--descriptions", default=None, metavar="FILE", help=table)
    held = "put N seen tasks, families whole, into split unseen_task"
    tasks.add_argument("--hold_out", type=int, default=None, metavar="N", help=held)
    tasks.add_argument("--draw", type=int, default=None, metavar="D", help="which N, by chance (default: 0)")
    tasks.add_argument("--split", default=None, metavar="S", help="only tasks of this split, such as seen")
    tasks.add_argument("--count", type=int, default=None, metavar="N", help="only so many tasks, evenly spaced")
    tasks.add_argument("--tasks", nargs="+", default=[], metavar="NAME", help="only these tasks")
    frame = "another frame: a text with {input} and \\n for a new line, or chat"
    tasks.add_argument("--frame", default=None, metavar="X", help=frame)
    tasks.add_argument("--save", default=None, metavar="DIR", help="write the suite as a JSONL folder")
    harness = "write its tasks as YAML for lm-evaluation-harness, with a group of the suite's name"
    tasks.add_argument("--save_lm_eval", default=None, metavar="DIR", help=harness)
    tasks.add_argument("--figure", default=None, metavar="FILE", help="draw tasks by domain and split (.png or .svg)")
    reword = actions.add_parser("reword", help="the same teachers, in other words", description=REWORD, example=REWORDED)
    add_folder(reword, *ZOO_NAMES, default=ZOO, help="the zoo")
    reword.add_argument("--suite", required=True, metavar="X", help="a built-in suite, or a folder of JSONL files")
    linked = "the new zoo; its adapters are links where that works"
    reword.add_argument("--output", "--output_dir", required=True, metavar="DIR", help=linked)
    for action in (build, imports, listing, tasks, reword):
        add_json(action)


def run(args: Namespace) -> int:
    """Run the chosen action."""
    return {"build": _build, "import": _import, "list": _list, "tasks": _tasks, "reword": _reword}[args.action](args)


def _build(args: Namespace) -> int:
    config = read_config(args)
    if args.print_config:
        return print_config(config)
    if args.dry_run:
        return show_plan([plan_zoo(config)], args.json)
    from llgbm.progress import ProgressBar
    from llgbm.provenance import record_zoo
    from llgbm.zoo.build import build_zoo
    from llgbm.zoo.folder import TeacherZoo

    if is_zoo(config.checkpoint_folder):
        for fault in TeacherZoo.load(config.checkpoint_folder).damaged().values():
            print(f"llgbm: {fault}; that is done now", file=sys.stderr)
    with open_engine(args, config.model.device, config.model.memory_gb) as engine, ProgressBar("zoo", "teachers") as progress:
        zoo = build_zoo(config, progress, engine)
    keep(config.tracking.store, lambda store: record_zoo(store, zoo.folder))
    _print_built(zoo, args.json)
    return 0


def _import(args: Namespace) -> int:
    """Exit status 2 when an adapter was left out; the others are in the zoo."""
    from llgbm.progress import ProgressBar
    from llgbm.provenance import record_zoo
    from llgbm.zoo.folder import TeacherZoo
    from llgbm.zoo.imported import import_adapters

    with ProgressBar("import", "adapters") as progress:
        report = import_adapters(args.zoo, args.sources, read_base_options(args), args.same_base, progress)
    for reason in report.failed.values():
        print(f"llgbm: {reason}", file=sys.stderr)
    if not is_zoo(args.zoo):
        raise InputError(f"{args.zoo}: none of {len(report.failed)} adapters could be imported, as is said above")
    keep(args.store, lambda store: record_zoo(store, args.zoo))
    counts = {"imported": len(report.taken), "kept": len(report.kept), "failed": len(report.failed)}
    _print_built(TeacherZoo.load(args.zoo), args.json, {**counts, "failures": report.failed})
    if not args.json:
        print(f"{args.zoo}: {', '.join(f'{n} {what}' for what, n in counts.items())}")
    return 2 if report.failed else 0


def _list(args: Namespace) -> int:
    if args.json:
        print_json(load_manifest(args.zoo))
        return 0
    manifest = read_manifest(args.zoo)
    scored = ["score"] if any(t.score is not None for t in manifest.teachers) else []
    columns = ["task", "domain", "split", "seed", "steps", "exact_match", *scored]
    print_table([{name: getattr(t, name) for name in columns} for t in manifest.teachers], columns)
    _print_summary(args.zoo, manifest.teachers, manifest.base.name)
    return 0


def _tasks(args: Namespace) -> int:
    from dataclasses import replace

    from llgbm.checking import read_as
    from llgbm.zoo.importing import describe, hold_out, import_suite
    from llgbm.zoo.suites import SuiteHeader, load_suite

    suite = load_suite(args.suite) if args.imported is None else import_suite(*args.imported)
    if args.descriptions is not None:
        suite = describe(suite, args.descriptions)
    if args.hold_out is not None:
        suite = hold_out(suite, args.hold_out, args.draw or 0)
    elif args.draw is not None:
        raise InputError("--draw says which tasks are held out; give --hold_out N too")
    if args.split not in (None, *suite.task_splits):
        raise InputError(f"--split: suite {suite.name} has no tasks of split {args.split!r}; it has {', '.join(suite.task_splits)}")
    suite = suite.select(args.tasks or None, args.split)
    if args.frame is not None:
        suite = replace(suite, frame=read_as(SuiteHeader, {"frame": args.frame.replace("\\n", "\n")}, "zoo tasks").frame)
    if args.count is not None:
        suite = suite.spaced(args.count)
    if args.save:
        suite = suite.with_whole_mixtures()
        suite.save(args.save)
    if args.save_lm_eval:
        from llgbm.zoo.harness import save_harness_tasks

        save_harness_tasks(suite, args.save_lm_eval)
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

    _print_built(reword_zoo(args.zoo, args.suite, args.output), args.json)
    return 0


def _print_built(zoo: "TeacherZoo", as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    if as_json:
        print_json({"folder": str(zoo.folder), "hash": zoo.content_hash, "splits": _summary(zoo.teachers), **(more or {})})
    else:
        _print_summary(str(zoo.folder), zoo.teachers, zoo.base.name)


def _summary(teachers: Sequence[Teacher]) -> list[dict[str, Any]]:
    """Teachers by split: how many, how good."""
    rows = []
    for split in (*Counter(t.split for t in teachers), None):
        of_split = [t for t in teachers if split in (None, t.split)]
        scores = [t.value for t in of_split if t.value is not None]
        rows.append(
            {
                "split": split or "all",
                "teachers": len(of_split),
                "mean_score": sum(scores) / len(scores) if scores else None,
                "share_at_least_0.9": sum(score >= 0.9 for score in scores) / len(scores) if scores else None,
                "worst": min(scores, default=None),
            }
        )
    return rows


def _print_summary(folder: str, teachers: Sequence[Teacher], base: str) -> None:
    print_table(_summary(teachers), title=f"zoo {folder}: {len(teachers)} teachers of base {base}")
