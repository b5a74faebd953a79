"""Pictures of a delta cache: the map, the similarities, and how its adapters look in other embeddings."""

from collections.abc import Callable
from pathlib import Path

from llgbm.delta import DeltaCache
from llgbm.errors import InputError
from llgbm.files import write_json
from llgbm.report.embeddings import Labels, matrix
from llgbm.report.plots import plot_delta_map, plot_layers, plot_silhouettes, plot_similarity
from llgbm.studies.embeddings import AdapterViews

SILHOUETTES = "delta_silhouettes.json"


def draw_deltas(
    cache: DeltaCache, root: str | Path, folder: str | Path, with_umap: bool = True, step: Callable[[str], None] = lambda name: None
) -> list[Path]:
    """Map and similarity heat map of all deltas; the paths of the pictures.

    Args:
        cache: Filled by compute-deltas.
        root: The adapters' folder: folders below it are domains, then tasks; a zoo's manifest tells the splits.
        folder: Where pictures go.
        with_umap: Whether the map shows UMAP, if installed; its first use in a process compiles for half a minute.
        step: Called with the name of the step that begins.

    Raises:
        InputError: Fewer than three deltas.
    """
    deltas = cache.get_all_deltas()
    if len(deltas) < 3:
        raise InputError(f"{cache.cache_dir}: holds {len(deltas)} deltas, a map needs at least 3; run 'llgbm compute-deltas' first")
    rows, labels = matrix(deltas), Labels.of(list(deltas), root)
    paths = [Path(folder) / "delta_map.png", Path(folder) / "delta_similarity.png"]
    step("map")
    plot_delta_map(rows, labels.domains, labels.splits, paths[0], with_umap=with_umap)
    step("similarities")
    plot_similarity(rows, labels.domains, paths[1])
    return paths


def draw_views(views: AdapterViews, root: str | Path, folder: str | Path) -> list[Path]:
    """Silhouettes of every embedding and figures by layer; `delta_silhouettes.json` gets the numbers."""
    labels = Labels.of(views.paths, root)
    rows = [{"embedding": name, **labels.silhouettes(similar)} for name, similar in views.similarities.items()]
    layers = [labels.silhouettes(similar) for similar in views.layer_similarities]
    norms = [
        {"domain": d, "norms": views.norms[[i for i, own in enumerate(labels.domains) if own == d]].mean(0).tolist()}
        for d in sorted({*labels.domains})
    ]
    write_json(Path(folder) / SILHOUETTES, {"adapters": len(views.paths), "embeddings": rows, "layers": layers, "norms": norms})
    paths = [Path(folder) / "delta_silhouettes.png", Path(folder) / "delta_layers.png"]
    plot_silhouettes(rows, paths[0])
    plot_layers(views.norms, labels.domains, layers, paths[1])
    return paths
