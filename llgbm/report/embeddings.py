"""What a set of deltas says of its adapters: norms, neighbors, and how well they fall into groups."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.metrics import silhouette_score

from llgbm.files import absolute, read_json


def group_of(path: str, root: str | Path, level: int) -> str:
    """The domain (level 0) or task (level 1) of an adapter stored as `root/<domain>/<task>/seed<k>`; its parent folder elsewhere."""
    try:
        parts = Path(absolute(path)).relative_to(absolute(root)).parts or Path(path).parts[-1:]  # the root may itself be an adapter
    except ValueError:
        parts = Path(path).parts[-3:]
    return parts[min(level, len(parts) - 1)]


def matrix(deltas: Mapping[str, np.ndarray]) -> Float[np.ndarray, "K F"]:
    """Deltas as flattened rows, in the mapping's order."""
    return np.stack([delta.ravel() for delta in deltas.values()])


def cosine_similarities(rows: Float[np.ndarray, "K F"]) -> Float[np.ndarray, "K K"]:
    """Cosine of every pair of rows; a row of zeros is similar to nothing."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def silhouette(similarities: Float[np.ndarray, "K K"], labels: Sequence[str]) -> float | None:
    """Mean silhouette by cosine distance over groups of at least two; None without two such groups."""
    counts = Counter(labels)
    kept = [i for i, label in enumerate(labels) if counts[label] > 1]
    groups = {labels[i] for i in kept}
    if not 2 <= len(groups) < len(kept):
        return None
    distances = (1 - similarities[np.ix_(kept, kept)]).clip(0)
    np.fill_diagonal(distances, 0)
    return float(silhouette_score(distances, [labels[i] for i in kept], metric="precomputed"))


@dataclass(frozen=True)
class Labels:
    """What is known of K adapters, in their order."""

    domains: list[str]
    tasks: list[str]
    splits: list[str]
    """`adapter` where no zoo tells."""

    @staticmethod
    def of(paths: Sequence[str], root: str | Path) -> "Labels":
        """From the folders, and the split from the zoo's manifest if there is one at the root."""
        manifest = Path(root) / "manifest.json"
        rows = read_json(manifest)["teachers"] if manifest.exists() else []
        known = {absolute(Path(root) / row["path"]): row["split"] for row in rows}
        domains, tasks = ([group_of(path, root, level) for path in paths] for level in (0, 1))
        return Labels(domains, tasks, [known.get(absolute(path), "adapter") for path in paths])

    def silhouettes(self, similarities: Float[np.ndarray, "K K"]) -> dict[str, float | None]:
        """By domain, without mixtures, which belong to two, and by task."""
        single = [i for i, split in enumerate(self.splits) if split != "mixture"]
        domains = [self.domains[i] for i in single]
        return {"domain": silhouette(similarities[np.ix_(single, single)], domains), "task": silhouette(similarities, self.tasks)}


def summarize_deltas(deltas: Mapping[str, np.ndarray], root: str | Path) -> dict[str, Any]:
    """Norms and neighbors by domain, silhouettes by domain and by task, and the nearest neighbor of every adapter.

    Args:
        deltas: Adapter path -> delta.
        root: The zoo; the folders below it are domains, then tasks.
    """
    if not deltas:
        return {"domains": [], "silhouettes": {"domain": None, "task": None}, "neighbors": {}}
    rows = matrix(deltas)
    labels = Labels.of(list(deltas), root)
    domains, similar = labels.domains, cosine_similarities(rows)
    silhouettes = labels.silhouettes(similar)
    np.fill_diagonal(similar, -np.inf)
    nearest = similar.argmax(1)
    norms = np.linalg.norm(rows, axis=1)
    table = []
    for domain in sorted(set(domains)):
        members = [i for i, label in enumerate(domains) if label == domain]
        table.append(
            {
                "domain": domain,
                "adapters": len(members),
                "mean_norm": float(norms[members].mean()),
                "nearest_cosine": float(similar[members].max(1).mean()) if len(deltas) > 1 else None,
                "nearest_of_same_domain": float(np.mean([domains[nearest[i]] == domain for i in members])),
            }
        )
    paths = list(deltas)
    neighbors = {p: {"nearest": paths[k], "cosine": float(similar[i, k])} for i, (p, k) in enumerate(zip(paths, nearest, strict=True))}
    return {
        "domains": table,
        "silhouettes": silhouettes,
        "neighbors": neighbors if len(paths) > 1 else {},
    }
