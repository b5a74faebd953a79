"""`llgbm ensemble`: several trained generators as one."""

from argparse import Namespace

from llgbm.cli.options import add_folder
from llgbm.cli.parser import CommandParser

HELP = "Make one generator of several that differ by their seeds."
EXAMPLE = "llgbm ensemble --run outputs/seed0 outputs/seed1 outputs/seed2"


def add_arguments(parser: CommandParser) -> None:
    """Which generators, and where the ensemble goes."""
    parser.add_argument("--run", "--checkpoints", nargs="+", required=True, metavar="RUN", help="runs or generator folders, two or more")
    add_folder(parser, "--output", "--output_dir", default="outputs/ensemble", help="the ensemble's folder")


def run(args: Namespace) -> int:
    """Unite and save; say how to go on."""
    from llgbm.models.ensemble import unite
    from llgbm.tracking.record import refuse_run

    refuse_run(args.output, "an ensemble")
    ensemble = unite(args.run)
    ensemble.save_pretrained(args.output)
    print(f"{args.output}: {ensemble.spec.members} generators as one; next: llgbm evaluate --run {args.output}")
    return 0
