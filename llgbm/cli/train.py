"""`llgbm train`: train a generator on a zoo's seen teachers."""

from jsonargparse import ArgumentParser, Namespace

from llgbm.cli.options import add_begin_arguments, add_config_arguments, read_begin, read_config_of_zoo
from llgbm.cli.output import print_json, print_table

HELP = "Train a generator on a zoo of teachers."


def add_arguments(parser: ArgumentParser) -> None:
    """Preset or file, any field, and whether to go on."""
    add_config_arguments(parser)
    add_begin_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: Namespace) -> int:
    """Train; print where the generator lies and how it does on the held-back tasks."""
    config = read_config_of_zoo(args)
    from llgbm.progress import ProgressBar
    from llgbm.training.behavior import train_generator

    with ProgressBar(f"train {config.experiment_name}", "steps") as progress:
        result = train_generator(config, begin=read_begin(args), progress=progress)
    summary = {
        "generator": str(result.network),
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        **{f"validation_{name}": value for name, value in result.validation.items()},
    }
    if args.json:
        print_json(summary)
    else:
        print_table([summary], title="trained; next: llgbm evaluate --checkpoint " + str(result.network))
    return 0
