"""Artifacts copied to Weights & Biases, when that is asked for; the store is complete without it."""

import importlib
import tempfile
from typing import Any

import networkx as nx

from llgbm.errors import InputError
from llgbm.tracking.lineage import lineage
from llgbm.tracking.store import Artifact, ArtifactStore


def mirror(store: ArtifactStore, ref: str, project: str) -> list[Artifact]:
    """Log an artifact, and before it all it was made from, as W&B artifacts of one run; `WANDB_MODE=offline` sends nothing.

    Versions keep their aliases; what they were made from is in their metadata, and the run uses nothing it did not log itself.

    Raises:
        InputError: wandb is not installed, there is no such artifact, or an artifact it was made from is gone.
    """
    try:
        wandb: Any = importlib.import_module("wandb")
    except ImportError as error:
        raise InputError("artifacts are mirrored by wandb, which is not installed; pip install 'llgbm[track]'") from error
    top = store.get(ref)
    graph = lineage(store)
    order = nx.lexicographical_topological_sort(graph.subgraph({top.ref, *nx.ancestors(graph, top.ref)}))
    artifacts = [store.get(each) for each in order]
    with wandb.init(project=project, job_type="llgbm-artifacts", settings=wandb.Settings(silent=True)) as run:
        for artifact in artifacts:
            copy = wandb.Artifact(artifact.name, type=artifact.kind, metadata=_described(artifact))
            with tempfile.TemporaryDirectory() as folder:
                store.checkout(artifact.ref, folder)
                copy.add_dir(folder)
                names = [alias for alias, version in store.aliases(artifact.name).items() if version == artifact.version]
                run.log_artifact(copy, aliases=["latest", *names])
    return artifacts


def _described(artifact: Artifact) -> dict[str, Any]:
    return {"ref": artifact.ref, "made_from": list(artifact.inputs), "created": artifact.created, **artifact.metadata}
