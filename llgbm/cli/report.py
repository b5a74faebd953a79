"""`llgbm report`: one HTML page about one or several runs, from saved results."""

from jsonargparse import ArgumentParser, Namespace

HELP = "Write one HTML page about one or several runs, from saved results."


def add_arguments(parser: ArgumentParser) -> None:
    """Which runs, and where the page goes."""
    parser.add_argument(
        "runs", type=str, nargs="*", default=["outputs/delta_multi"], metavar="RUN", help="run folders (default: %(default)s)"
    )
    parser.add_argument("--output", type=str, default=None, metavar="FILE", help="the page (default: report.html in the only run's folder)")
    parser.add_argument(
        "--composition_dir", type=str, default="outputs/composition", help="results of llgbm compose, if there (default: %(default)s)"
    )


def run(args: Namespace) -> int:
    """Write the page and print its path."""
    from llgbm.report.html import write_report

    print(write_report(args.runs or ["outputs/delta_multi"], args.output, args.composition_dir))
    return 0
