"""Data flows one way: a module imports only from its own layer or from layers below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "llgbm"

LAYERS = (
    ("errors", "artifacts", "progress", "pipeline", "schema"),
    ("config",),
    ("reproducibility",),
    ("zoo.suite", "zoo.micro"),
    ("dataset",),
    ("lora",),
    ("zoo.base", "last_layer", "functional_lora"),
    ("scoring", "probes"),
    ("zoo.teachers",),
    ("delta", "retrieval"),
    ("models", "losses"),
    ("training",),
    ("evaluation", "compositionality"),
    ("report",),
    ("bench",),
    ("cli", "__main__"),
)
"""From the bottom up; a name stands for the module or everything below the package."""

UPWARD = {
    ("reproducibility", "evaluation.task_eval"),  # verify_reproducibility reruns an evaluation
    ("zoo.suite", "zoo.micro.world"),  # the built-in suite is loaded by name
}
"""Imports that may point upwards, inside a function."""


def _layer(module: str) -> int:
    for height, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return height
    raise AssertionError(f"llgbm.{module} has no layer; add it to LAYERS")


def _modules() -> dict[str, Path]:
    paths = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(ROOT.rglob("*.py"))}
    return {name.removesuffix(".__init__"): path for path, name in paths.items() if name != "__init__" and name not in ("zoo.__init__",)}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("llgbm."):
            found.add(node.module.removeprefix("llgbm."))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("llgbm.") for alias in node.names if alias.name.startswith("llgbm.")}
    return found


@pytest.mark.parametrize("module", sorted(_modules()))
def test_no_import_points_upwards(module: str) -> None:
    upward = {other for other in _imports(_modules()[module]) if _layer(other) > _layer(module)}
    assert not {other for other in upward if (module, other) not in UPWARD}


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.stem)
def test_commands_do_not_import_torch_at_the_top(path: Path) -> None:
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name for name in names if name.split(".")[0] in ("torch", "transformers", "peft")}
