"""`llgbm visualize`: pictures of saved results."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from llgbm.cli.options import add_base_arguments, add_config_arguments, read_base_options, read_config
from llgbm.cli.output import print_table
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.config import ExperimentConfig
    from llgbm.zoo.base import BaseOptions

HELP = "Draw pictures of saved results: the space of deltas, training curves, composition."

INPUTS = {"deltas": "deltas", "training": "outputs/delta_multi", "composition": "outputs/composition"}
"""Type -> where its results are by default."""

FIGURES = "outputs/figures"


def add_arguments(parser: ArgumentParser) -> None:
    """What to draw, from where, to where."""
    parser.add_argument("--type", type=str, default="deltas", choices=[*INPUTS], help="what to draw (default: %(default)s)")
    inputs = "; ".join(f"{kind}: {folder}" for kind, folder in INPUTS.items())
    parser.add_argument(
        "--input_dir",
        type=str,
        nargs="+",
        default=[],
        help=f"what to draw from; several runs of training are compared (default: {inputs})",
    )
    parser.add_argument("--checkpoint_dir", type=str, default="data/teacher_checkpoints", help="the adapters' zoo (default: %(default)s)")
    where = f"where pictures go (default: {FIGURES}; composition: its --input_dir, where reports find them)"
    parser.add_argument("--output_dir", type=str, default=None, help=where)
    add_config_arguments(parser, sections=("probe",))
    add_base_arguments(parser, "the cache")


def run(args: Namespace) -> int:
    """Write the pictures and print their paths: PNG and SVG, curves of training as SVG."""
    inputs = args.input_dir or [INPUTS[args.type]]
    output = args.output_dir or (inputs[0] if args.type == "composition" else FIGURES)
    if len(inputs) > 1 and args.type != "training":
        raise InputError(f"--type {args.type} draws one --input_dir, {len(inputs)} were given; only training compares several")
    if args.type == "training":
        from llgbm.report.plots_training import draw_training

        paths = draw_training(inputs, output)
    elif args.type == "composition":
        from llgbm.report.plots_composition import draw_composition

        paths = draw_composition(Path(inputs[0]) / "composition.json", output)
    else:
        paths = draw_deltas(read_config(args), inputs[0], args.checkpoint_dir, output, base=read_base_options(args))
        _show_silhouettes(Path(output))
    for path in paths:
        print(path)
    return 0


def draw_deltas(
    config: "ExperimentConfig", cache_dir: str, zoo_dir: str, output_dir: str, with_umap: bool = True, base: "BaseOptions | None" = None
) -> list[Path]:
    """Every picture of a delta cache; those that need the adapters themselves are left out, with a line, when these cannot be had."""
    from llgbm.delta import DeltaCache
    from llgbm.report.deltas import draw_deltas, draw_views
    from llgbm.studies.embeddings import views_of_cache

    cache = DeltaCache(cache_dir)
    paths = draw_deltas(cache, zoo_dir, output_dir, with_umap)
    for fault in cache.faults:
        print(f"llgbm: {fault}; left out, compute-deltas computes it anew", file=sys.stderr)
    try:
        views = views_of_cache(config, cache, zoo_dir, Path(output_dir) / "delta_views.safetensors", base)
    except InputError as error:
        print(f"llgbm: the comparison with other embeddings is left out: {error}", file=sys.stderr)
        return paths
    return paths + draw_views(views, zoo_dir, output_dir)


def _show_silhouettes(folder: Path) -> None:
    from llgbm.files import read_json
    from llgbm.report.deltas import SILHOUETTES

    if (folder / SILHOUETTES).exists():
        saved = read_json(folder / SILHOUETTES)
        print_table(saved["embeddings"], title=f"mean silhouette of {saved['adapters']} adapters (cosine; by domain without mixtures)")
