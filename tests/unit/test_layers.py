"""Data flows one way: a module imports only from its own layer or from layers below it, inside functions too."""

import ast
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[2] / "llgbm"

LAYERS = (
    (
        "errors",
        "files",
        "memory",
        "metrics",
        "optimizer_state",
        "percent",
        "progress",
        "checking",
        "dotted",
        "names",
        "hub",
        "transfer",
        "bench.clock",
    ),
    ("tracking",),
    ("fanout",),
    ("config",),
    ("lora",),
    ("zoo.suite",),
    ("zoo.composed",),
    ("zoo.micro", "zoo.words"),
    ("zoo.gguf", "zoo.quantized", "zoo.attention"),
    ("zoo.named",),
    ("zoo.suites", "zoo.base", "zoo.manifest"),
    ("zoo.importing", "zoo.harness"),
    ("dataset",),
    ("framing",),
    ("functional_lora", "vllm_engine"),
    ("scoring", "probes"),
    ("zoo.folder", "matching", "judging"),
    ("zoo.trainer", "zoo.reword", "zoo.imported"),
    ("zoo.check",),
    ("zoo.teaching",),
    ("zoo.build",),
    ("delta",),
    ("retrieval", "models", "losses", "experience"),
    ("workspace",),
    ("multitask",),
    ("training",),
    ("evaluation", "compositionality"),
    ("planning", "studies", "study", "provenance", "reproducibility", "serve"),
    ("report",),
    ("bench",),
    ("cli", "__main__"),
)
"""From the bottom up; a name stands for the module or everything below the package."""


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
    assert not {other for other in _imports(_modules()[module]) if _layer(other) > _layer(module)}


def test_nobody_inside_imports_the_public_face() -> None:
    users = {module for module, path in _modules().items() if "reproducibility" in _imports(path)}
    assert not users


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.stem)
def test_commands_do_not_import_torch_at_the_top(path: Path) -> None:
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name for name in names if name.split(".")[0] in ("torch", "transformers", "peft")}


def test_no_two_modules_import_each_other() -> None:
    modules = _modules()
    graph = nx.DiGraph((name, other) for name, path in modules.items() for other in _imports(path) if other in modules)
    assert not list(nx.simple_cycles(graph))
