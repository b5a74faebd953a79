"""`llgbm compose`: do behaviors add? Fingerprints of mixtures, and adapters composed of two, scored on both tasks."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from llgbm.cli.dry_run import show_plan
from llgbm.cli.options import (
    DELTAS,
    DELTAS_NAMES,
    RUN,
    ZOO,
    ZOO_NAMES,
    add_base_arguments,
    add_config_arguments,
    add_dry_run,
    add_folder,
    add_json,
    read_base_options,
    read_config,
    require_at_least,
    require_seeds,
)
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser

HELP = "Test whether behaviors add; make one adapter of two tasks'."
EXAMPLE = "llgbm compose --run none --n_pairs 8"


def add_arguments(parser: CommandParser) -> None:
    """What to compose, how, and where the findings go."""
    add_folder(parser, *DELTAS_NAMES, default=DELTAS, help="the cache of deltas")
    add_folder(parser, *ZOO_NAMES, default=ZOO, help="the adapters' zoo")
    add_folder(parser, "--run", "--checkpoint", default=RUN, help="run of a generator, or none")
    add_folder(parser, "--output", "--output_dir", default="outputs/composition", help="where findings go")
    parser.add_argument("--methods", nargs="+", default=[], metavar="M", help="ways to compose (default: all possible)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of ways that draw (default: 0 1 2)")
    parser.add_argument("--n_pairs", type=int, default=24, metavar="N", help="random pairs, too (default: %(default)s)")
    parser.add_argument("--max_examples", type=int, default=None, metavar="N", help="test examples per task (default: all)")
    add_json(parser)
    add_dry_run(parser)
    add_config_arguments(parser, sections=("probe",))
    add_base_arguments(parser, "the zoo")


def run(args: Namespace) -> int:
    """Run every experiment, write composition.json and composition.csv, print the findings."""
    from llgbm.files import write_json, write_text
    from llgbm.progress import ProgressBar
    from llgbm.studies.composition import FILE, as_csv, compose_zoo
    from llgbm.tracking.lock import hold

    require_at_least("max_examples", args.max_examples)
    require_seeds("seeds", *args.seeds)
    require_at_least("n_pairs", args.n_pairs, low=0)
    checkpoint = None if args.run == "none" else args.run
    folder = Path(args.output)
    if args.dry_run:
        ways = " ".join(args.methods) or "every way that is possible"
        what = f"compose the zoo's mixtures and {args.n_pairs} random pairs in {ways}, with seeds {' '.join(map(str, args.seeds))}"
        return show_plan([{"what": what, "where": str(folder / FILE), "how_long": "unknown, compositions do not record it"}], args.json)
    with hold(folder), ProgressBar("compose", "pairs") as progress:
        document = compose_zoo(
            read_config(args),
            args.zoo,
            args.deltas,
            checkpoint,
            ways=args.methods,
            seeds=args.seeds,
            n_pairs=args.n_pairs,
            max_examples=args.max_examples,
            base=read_base_options(args),
            progress=progress,
        )
        write_json(folder / FILE, document)
        write_text(folder / "composition.csv", as_csv(document))
    if args.json:
        print_json(document)
        return 0
    for name, title in (("mixtures", "pairs with a mixture teacher"), ("pairs", "random pairs of seen tasks")):
        if document[name]:
            print_table([_line(row) for row in document[name]["ways"]], title=f"one adapter for two tasks: {title}")
    for line in document["findings"]:
        print(line)
    print(f"written to {folder / FILE} and composition.csv; 'llgbm visualize --type composition' draws it")
    return 0


def _line(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "way": row["way"],
        "exact_match": f"{row['exact_match']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
        "worse_task": f"{row['worse']:.3f}",
        "lost": None if row["lost"] is None else f"{row['lost']:.3f}",
        "pairs": row["n_pairs"],
        "seeds": row["n_seeds"],
    }
