"""`llgbm visualize`: pictures of saved results."""

import argparse
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from llgbm.cli.options import (
    DELTAS,
    DELTAS_NAMES,
    RUN,
    ZOO,
    ZOO_NAMES,
    add_base_arguments,
    add_config_arguments,
    add_folder,
    read_base_options,
    read_config,
)
from llgbm.cli.output import print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.config import ExperimentConfig
    from llgbm.zoo.base import BaseOptions

HELP = "Draw pictures of saved results."
EXAMPLE = "llgbm visualize --type training --run outputs/one outputs/other"

INPUTS = {"deltas": DELTAS, "training": RUN, "answers": RUN, "composition": "outputs/composition", "studies": "outputs/studies/few"}
"""Type -> where its results are by default."""

FIGURES = "outputs/figures"
STEPS = 8
"""Of drawing deltas, where none is left out."""


def add_arguments(parser: CommandParser) -> None:
    """What to draw, from where, to where."""
    parser.add_argument(
        "--type", default="deltas", choices=[*INPUTS], metavar="T", help="deltas, training, answers, composition, studies (default: deltas)"
    )
    parser.add_argument("--input_dir", nargs="+", default=[], metavar="DIR", help=argparse.SUPPRESS)
    add_folder(parser, *DELTAS_NAMES, default=INPUTS["deltas"], help="deltas: the cache")
    add_folder(parser, *ZOO_NAMES, default=ZOO, help="deltas: the adapters' zoo")
    parser.add_argument("--no_umap", action="store_true", help="deltas: leave out the slow map by UMAP")
    parser.add_argument("--run", nargs="+", default=[INPUTS["training"]], metavar="RUN", help="training (one or several), answers")
    add_folder(parser, "--composition", default=INPUTS["composition"], help="composition: its findings")
    parser.add_argument("--study", nargs="+", default=[INPUTS["studies"]], metavar="DIR", help="studies: folders of such with an axis")
    parser.add_argument("--split", default="unseen_combination", metavar="S", help="studies: unseen_combination by default")
    where = f"where pictures go (default: {FIGURES}; of a composition beside it)"
    parser.add_argument("--output", "--output_dir", default=None, metavar="DIR", help=where)
    add_config_arguments(parser, sections=("probe",))
    add_base_arguments(parser, "the cache")


def run(args: Namespace) -> int:
    """Write the pictures and print their paths: PNG and SVG, curves of training as SVG."""
    if args.type == "training":
        from llgbm.report.plots_training import draw_training

        paths = draw_training(args.input_dir or args.run, args.output or FIGURES)
    elif args.type == "answers":
        from llgbm.report.plots_answers import draw_answers

        paths = draw_answers(_only(args, *args.run), args.output or FIGURES)
    elif args.type == "studies":
        from llgbm.report.plots_study import draw_studies

        paths = draw_studies(args.input_dir or args.study, args.split, args.output or FIGURES)
    elif args.type == "composition":
        from llgbm.report.plots_composition import draw_composition

        folder = _only(args, args.composition)
        paths = draw_composition(Path(folder) / "composition.json", args.output or folder)
    else:
        output = args.output or FIGURES
        paths = draw_deltas(read_config(args), _only(args, args.deltas), args.zoo, output, not args.no_umap, read_base_options(args))
        _show_silhouettes(Path(output))
    for path in paths:
        print(path)
    return 0


def _only(args: Namespace, *folders: str) -> str:
    """The one folder to draw from."""
    asked = list(args.input_dir or folders)
    if len(asked) > 1:
        raise InputError(f"--type {args.type} draws from one folder, {len(asked)} were given; only training and studies compare several")
    return asked[0]


def draw_deltas(
    config: "ExperimentConfig", cache_dir: str, zoo_dir: str, output_dir: str, with_umap: bool = True, base: "BaseOptions | None" = None
) -> list[Path]:
    """Every picture of a delta cache; those that need the adapters themselves are left out, with a line, when these cannot be had."""
    from llgbm.delta import DeltaCache
    from llgbm.progress import ProgressBar, Steps
    from llgbm.report.deltas import draw_deltas, draw_views
    from llgbm.studies.embeddings import views_of_cache

    cache = DeltaCache(cache_dir)
    with ProgressBar("pictures", "steps") as progress:
        step = Steps(STEPS, progress)
        paths = draw_deltas(cache, zoo_dir, output_dir, with_umap, step)
        for fault in cache.faults:
            print(f"llgbm: {fault}; left out, compute-deltas computes it anew", file=sys.stderr)
        try:
            views = views_of_cache(config, cache, zoo_dir, Path(output_dir) / "delta_views.safetensors", base, step)
        except InputError as error:
            print(f"llgbm: the comparison with other embeddings is left out: {error}", file=sys.stderr)
            return paths
        step("silhouettes and layers")
        paths += draw_views(views, zoo_dir, output_dir)
        step.end()
    return paths


def _show_silhouettes(folder: Path) -> None:
    from llgbm.files import read_json
    from llgbm.report.deltas import SILHOUETTES

    if (folder / SILHOUETTES).exists():
        saved = read_json(folder / SILHOUETTES)
        print_table(saved["embeddings"], title=f"mean silhouette of {saved['adapters']} adapters (cosine; by domain without mixtures)")
