"""`llgbm visualize`: pictures of saved results."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

HELP = "Draw pictures of saved results: the map of deltas."

TYPES = ("deltas",)


def add_arguments(parser: ArgumentParser) -> None:
    """What to draw, from where, to where."""
    parser.add_argument("--type", type=str, default="deltas", choices=TYPES, help="what to draw (default: %(default)s)")
    parser.add_argument("--input_dir", type=str, default="deltas", help="the delta cache (default: %(default)s)")
    parser.add_argument("--checkpoint_dir", type=str, default="data/teacher_checkpoints", help="the adapters' zoo (default: %(default)s)")
    parser.add_argument("--output_dir", type=str, default="outputs/figures", help="where pictures go (default: %(default)s)")


def run(args: Namespace) -> int:
    """Write each picture as PNG and SVG and print its path."""
    for path in draw_deltas(args.input_dir, args.checkpoint_dir, args.output_dir):
        print(path)
    return 0


def draw_deltas(cache_dir: str, zoo_dir: str, output_dir: str) -> list[Path]:
    """Map and similarities of a cache's deltas; the zoo's manifest, if there, tells the splits."""
    from llgbm.artifacts import read_json
    from llgbm.delta import DeltaCache
    from llgbm.errors import InputError
    from llgbm.report.embeddings import group_of, matrix
    from llgbm.report.plots import plot_delta_map, plot_similarity

    deltas = DeltaCache(cache_dir).get_all_deltas()
    if len(deltas) < 3:
        raise InputError(f"{cache_dir}: holds {len(deltas)} deltas, a map needs at least 3; run 'llgbm compute-deltas' first")
    manifest = Path(zoo_dir) / "manifest.json"
    known = {str(Path(zoo_dir) / row["path"]): row["split"] for row in read_json(manifest)["teachers"]} if manifest.exists() else {}
    rows, domains = matrix(deltas), [group_of(path, zoo_dir, 0) for path in deltas]
    splits = [known.get(path, "adapter") for path in deltas]
    folder = Path(output_dir)
    plot_delta_map(rows, domains, splits, folder / "delta_map.png")
    plot_similarity(rows, domains, folder / "delta_similarity.png")
    return [folder / "delta_map.png", folder / "delta_similarity.png"]
