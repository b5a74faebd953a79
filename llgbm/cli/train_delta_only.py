"""`llgbm train-delta-only`: behavior alone, as a generator (b1) or as a predictor of fingerprints to retrieve by (b2)."""

from jsonargparse import ArgumentParser, Namespace

from llgbm.cli.options import add_begin_arguments, add_override_arguments, read_begin, read_config_of_zoo
from llgbm.cli.output import print_json, print_table

HELP = "Train on behavior alone: a generator (b1), or a predictor of fingerprints to retrieve by (b2)."
PRESETS = {"b1": "delta_only", "b2": "delta_predictor"}
NEXT = {
    "b1": "llgbm evaluate --checkpoint {folder}",
    "b2": "llgbm evaluate --predictor {folder}, or llgbm retrieve --predictor {folder} --description ...",
}


def add_arguments(parser: ArgumentParser) -> None:
    """The variant, preset or file, any field, and whether to go on."""
    parser.add_argument("--variant", type=str, default="b1", help="b1 or b2 (default: %(default)s)")
    parser.add_argument(
        "--config", type=str, default=None, metavar="NAME", help="preset (default: delta_only for b1, delta_predictor for b2)"
    )
    parser.add_argument("--config_file", type=str, default=None, metavar="FILE", help="YAML config file, instead of a preset")
    add_begin_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_override_arguments(parser)


def run(args: Namespace) -> int:
    """Train; print where the result lies and how it does on the held-back tasks."""
    args.config = args.config or PRESETS.get(args.variant, PRESETS["b1"])
    config = read_config_of_zoo(args)
    from llgbm.progress import ProgressBar
    from llgbm.training.delta_only import train_delta_only

    with ProgressBar(f"train {config.experiment_name}", "steps") as progress:
        result = train_delta_only(config, args.variant, begin=read_begin(args), progress=progress)
    summary = {
        "run": str(result.folder),
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        **{f"validation_{name}": value for name, value in result.validation.items()},
    }
    if args.json:
        print_json(summary)
    else:
        print_table([summary], title="trained; next: " + NEXT[args.variant].format(folder=result.folder))
    return 0
