"""`llgbm train-delta-only`: behavior alone, as a generator (b1) or as a predictor of fingerprints to retrieve by (b2)."""

from argparse import Namespace

from llgbm.cli.dry_run import plan_training, show_plan
from llgbm.cli.keep import keep
from llgbm.cli.options import add_begin_arguments, add_config_arguments, add_json, read_begin, read_config_of_zoo, read_config_to_print
from llgbm.cli.output import print_config, print_json, print_table
from llgbm.cli.parser import CommandParser

HELP = "Train on behavior alone: a generator (b1) or predictor (b2)."
EXAMPLE = "llgbm train-delta-only --variant b2 --run outputs/delta_predictor"
PRESETS = {"b1": "delta_only", "b2": "delta_predictor"}
KINDS = {"b1": "generator", "b2": "predictor"}
NEXT = {
    "b1": "llgbm evaluate --run {folder}",
    "b2": "llgbm evaluate --predictor {folder}, or llgbm retrieve --predictor {folder} --description ...",
}


def add_arguments(parser: CommandParser) -> None:
    """The variant, preset or file, any field, and whether to go on."""
    parser.add_argument(
        "--variant", default="b1", choices=PRESETS, metavar="V", help="b1: a generator; b2: a predictor (default: %(default)s)"
    )
    add_config_arguments(parser, preset=None, whole=True)
    add_begin_arguments(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    """Train; print where the result lies and how it does on the held-back tasks."""
    args.preset = PRESETS[args.variant]
    if args.print_config:
        return print_config(read_config_to_print(args))
    config = read_config_of_zoo(args)
    if args.dry_run:
        return show_plan([plan_training(config, read_begin(args), KINDS[args.variant])], args.json)
    from llgbm.progress import ProgressBar
    from llgbm.provenance import record_run
    from llgbm.report.tracked import send_training
    from llgbm.training.delta_only import train_delta_only

    with ProgressBar(f"train {config.experiment_name}", "steps") as progress:
        result = train_delta_only(config, args.variant, begin=read_begin(args), progress=progress)
    keep(config.tracking.store, lambda store: record_run(store, result.folder))
    send_training(config.training.report_to, result.folder)
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
        print_table(
            [{"of the run": name, "found": value} for name, value in summary.items()],
            title="trained; next: " + NEXT[args.variant].format(folder=result.folder),
        )
    return 0
