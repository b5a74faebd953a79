"""`llgbm ablate`: variants of an experiment, each with several seeds, in one table and one figure."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from llgbm.cli.dry_run import plan_training, show_plan
from llgbm.cli.engine import add_engine, open_engine
from llgbm.cli.options import add_dry_run, add_folder, add_json, add_override_arguments, read_overrides
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.config import study_names

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from llgbm.config import ModelConfig
    from llgbm.fanout.crew import Engine

HELP = "Train and evaluate the variants of a study."
EXAMPLE = "llgbm ablate seen_tasks --seeds 0"


def add_arguments(parser: CommandParser) -> None:
    """Which study, which part of it, and where it goes."""
    parser.add_argument("--study", default="objectives", help="a YAML file, or one of " + ", ".join(study_names()))
    parser.bare = "study"
    parser.add_argument("--variants", nargs="+", default=[], metavar="V", help="only these variants (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], metavar="N", help="seeds (default: the study's)")
    add_folder(parser, "--output", "--study_dir", default="outputs/studies", help="holds a folder per study")
    add_engine(parser)
    add_json(parser)
    add_dry_run(parser)
    add_override_arguments(parser, without=("seed", "experiment_name", "output_dir"))


def run(args: Namespace) -> int:
    """Finish the study, write `study.json` and `study.png`, show the table."""
    from llgbm.progress import ProgressBar
    from llgbm.report.plots_study import plot_study
    from llgbm.studies.ablation import plan_cells, run_study
    from llgbm.studies.variants import RESULT_FILE, load_study

    study = load_study(args.study)
    folder = study.folder(args.output)
    cells = plan_cells(study, args.output, read_overrides(args), args.variants, args.seeds)
    if args.dry_run:
        rows = [{**plan_training(config, "go_on"), "then": "evaluate"} for config, done in cells if not done]
        done = f"{len(cells) - len(rows)} of {len(cells)} cells are done"
        return show_plan([*rows, {"what": done, "where": str(folder), "how_long": "", "then": ""}], args.json)
    with _open_engine(args, [config.model for config, _ in cells]) as engine, ProgressBar(f"study {study.name}", "steps") as progress:
        result = run_study(study, args.output, read_overrides(args), args.variants, args.seeds, progress, engine)
    plot_study(result, folder / "study.png")
    if args.json:
        print_json(result)
    else:
        print_study(result)
        print(f"written to {folder / RESULT_FILE} and study.png")
    return 0


def _open_engine(args: Namespace, models: list["ModelConfig"]) -> "AbstractContextManager[Engine]":
    """An engine whose workers can do any of the cells."""
    device = next((model.device for model in models if model.device != "cpu"), "cpu")
    given = [model.memory_gb for model in models if model.memory_gb is not None]
    return open_engine(args, device, max(given, default=None))


def print_study(result: dict[str, Any]) -> None:
    """Exact match per variant, split and method over seeds; then the reference against variants, and generated adapters against methods."""
    splits = list(dict.fromkeys(row["split"] for row in result["rows"]))
    cells = {(row["variant"], row["method"], row["split"]): row for row in result["rows"]}
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    variants = list(dict.fromkeys(row["variant"] for row in result["rows"]))
    rows = []
    for method in methods:
        shown = {variant: {split: _cell(cells[variant, method, split]) for split in splits} for variant in variants}
        alike = len({str(cell) for cell in shown.values()}) == 1  # as base and teachers are, whatever the variant
        rows += [{"method": method, "variant": "any" if alike else v, **shown[v]} for v in (variants[:1] if alike else variants)]
    print_table(rows, title=f"study {result['study']['name']}: exact match, mean and 95% interval over seeds")
    _print_comparisons(result["comparisons"], "the reference against the other variants; p by Holm within a split")
    _print_comparisons(result["method_comparisons"], "generated adapters against the other methods; p by Holm within a split")


def _print_comparisons(compared: list[dict[str, Any]], title: str) -> None:
    from llgbm.evaluation.statistics import p_text, paired_by_all

    if not compared:
        return
    rows = [
        {
            "split": row["split"],
            "variant": row["variant"],
            "minus": row["other"],
            "difference": f"{row['difference']:+.3f}",
            "interval_95%": f"[{row['low']:+.3f}, {row['high']:+.3f}]",
            "p_(Holm)": p_text(row["p_holm"]),
            **({"by_seed": " ".join(f"{value:+.3f}" for value in row["by_seed"].values())} if "by_seed" in row else {}),
        }
        for row in compared
    ]
    print_table(rows, title=title)
    for split in dict.fromkeys(row["split"] for row in compared):
        print(f"{split}: paired by {paired_by_all(row for row in compared if row['split'] == split)}")


def _cell(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{max(0, row['low']):.3f}, {min(1, row['high']):.3f}]"
    return f"{row['score']:.3f}{interval} (seeds: {row['n_seeds']})"
