"""`llgbm ensemble`: several trained generators as one."""

from jsonargparse import ArgumentParser, Namespace

HELP = "Make one generator of several that were trained with different seeds; it misreads fewer requests."


def add_arguments(parser: ArgumentParser) -> None:
    """Which generators, and where the ensemble goes."""
    parser.add_argument("--checkpoints", type=str, nargs="+", required=True, metavar="G", help="run or generator folders, two or more")
    parser.add_argument("--output_dir", type=str, default="outputs/ensemble", help="the ensemble's folder (default: %(default)s)")


def run(args: Namespace) -> int:
    """Unite and save; say how to go on."""
    from llgbm.models.ensemble import unite

    ensemble = unite(args.checkpoints)
    ensemble.save_pretrained(args.output_dir)
    print(f"{args.output_dir}: {ensemble.spec.members} generators as one; next: llgbm evaluate --checkpoint {args.output_dir}")
    return 0
