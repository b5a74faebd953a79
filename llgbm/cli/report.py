"""`llgbm report`: one HTML page about one or several runs, from saved results."""

from argparse import Namespace

from llgbm.cli.keep import add_store, keep
from llgbm.cli.options import RUN, add_folder
from llgbm.cli.parser import CommandParser

HELP = "Write one HTML page about one or several runs."
EXAMPLE = "llgbm report outputs/delta_multi outputs/baseline --output both.html"


def add_arguments(parser: CommandParser) -> None:
    """Which runs, and where the page goes."""
    parser.add_argument("--run", nargs="+", default=[RUN], metavar="RUN", help=f"run folders (default: {RUN})")
    parser.bare = "run"
    parser.add_argument("--output", default=None, metavar="FILE", help="the page (default: report.html in the only run's folder)")
    add_folder(parser, "--composition", "--composition_dir", default="outputs/composition", help="results of llgbm compose, if there")
    add_store(parser)


def run(args: Namespace) -> int:
    """Write the page and print its path; a store gets the runs, and with them the page of a run in its folder."""
    from llgbm.provenance import record_run
    from llgbm.report.html import write_report

    print(write_report(args.run, args.output, args.composition))
    for folder in args.run:
        keep(args.store, lambda store, folder=folder: record_run(store, folder))
    return 0
