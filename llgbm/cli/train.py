"""`llgbm train`: train a generator on a zoo's seen teachers."""

from argparse import Namespace

from llgbm.cli.dry_run import plan_training, show_plan
from llgbm.cli.keep import keep
from llgbm.cli.options import add_begin_arguments, add_config_arguments, add_json, read_begin, read_config_of_zoo, read_config_to_print
from llgbm.cli.output import print_config, print_json, print_table
from llgbm.cli.parser import CommandParser

HELP = "Train a generator on a zoo of teachers."
NEXT = {"generator": "--run", "soft_prompt": "--run none --soft_prompt"}
"""What can be trained, and how it is evaluated; a soft prompt is a control that writes virtual tokens instead of adapters."""
EXAMPLE = "llgbm train delta_multi --run outputs/mine --objective.sft 0.5"


def add_arguments(parser: CommandParser) -> None:
    """Preset or file, any field, and whether to go on."""
    add_config_arguments(parser, whole=True)
    add_begin_arguments(parser)
    parser.add_argument("--network", default="generator", choices=tuple(NEXT), help="what is trained (default: %(default)s)")
    add_json(parser)


def run(args: Namespace) -> int:
    """Train; print where the generator lies and how it does on the held-back tasks."""
    if args.print_config:
        return print_config(read_config_to_print(args))
    config = read_config_of_zoo(args)
    if args.dry_run:
        return show_plan([plan_training(config, read_begin(args), args.network)], args.json)
    from llgbm.progress import ProgressBar
    from llgbm.provenance import record_run
    from llgbm.report.tracked import send_training
    from llgbm.training.behavior import train_generator
    from llgbm.training.soft_prompt import train_soft_prompt

    train = {"generator": train_generator, "soft_prompt": train_soft_prompt}[args.network]
    with ProgressBar(f"train {config.experiment_name}", "steps") as progress:
        result = train(config, begin=read_begin(args), progress=progress)
    keep(config.tracking.store, lambda store: record_run(store, result.folder))
    send_training(config.training.report_to, result.folder)
    summary = {
        args.network: str(result.network),
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
            title=f"trained; next: llgbm evaluate {NEXT[args.network]} {result.network}",
        )
    return 0
