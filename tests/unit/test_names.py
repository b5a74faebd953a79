"""Names become one folder each, below their parent, on every system; nowhere else are paths made of names."""

import ast
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from llgbm.config import build
from llgbm.errors import InputError
from llgbm.models.export import Request, generate_adapters
from llgbm.names import MOST_BYTES, path_part, refuse_twins, relative_path, twin_key
from llgbm.tracking.record import ExperimentLogger

ROOT = Path(__file__).parents[2] / "llgbm"
BAD = {
    "": "is empty",
    ".": "is a step in a path",
    "..": "is a step in a path",
    "../../x": "holds the separator '/'",
    "/etc/x": "holds the separator '/'",
    "a\\b": r"holds the separator '\\\\'",
    "C:x": "holds the separator ':'",
    "a\0b": r"holds '\\x00', a control character",
    "a\nb": r"holds '\\n', a control character",
    "a\u2028b": r"holds '\\u2028', a control character",
    "\ud800": r"holds '\\ud800', a half of a surrogate pair",
    "a.": "ends in '.'",
    "a ": "ends in ' '",
    "NUL": "is reserved on Windows",
    "con.txt": "is reserved on Windows",
    "CON .txt": "is reserved on Windows",
    "lpt\u00b9": "is reserved on Windows",
    "é" * (MOST_BYTES // 2 + 1): f"is {MOST_BYTES + 2} bytes long, at most {MOST_BYTES} are allowed",
}
GOOD = ("a", "a b", ".hidden", "increment-digits-plain", "日本語", "a..b", "console", "com10", "é" * (MOST_BYTES // 2), "😀")


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^task .* {BAD[name]}; it names a folder: choose another$"):
        path_part(name, "task")


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_a_good_name_stays_and_is_one_part(name: str, tmp_path: Path) -> None:
    assert path_part(name, "task") == name
    assert len(PurePosixPath(name).parts) == len(PureWindowsPath(name).parts) == 1
    (tmp_path / name).mkdir()


def test_a_path_of_several_parts_stays_below() -> None:
    assert relative_path("a/b/seed0", "path") == "a/b/seed0"
    for path, part in (
        (
            "a/../b",
            "..",
        ),
        ("/a", ""),
        ("a//b", ""),
        ("", ""),
        ("a/NUL", "NUL"),
    ):
        with pytest.raises(InputError, match=f"path '{path}': part '{part}' is .*; give a path below its folder"):
            relative_path(path, "path")


def test_twins_by_case_and_by_unicode_are_refused() -> None:
    refuse_twins(["a", "b", "a"], "task")
    for one, two in (("a", "A"), ("\u00e9", "e\u0301"), ("\u00c9", "e\u0301")):
        assert twin_key(one) == twin_key(two)
        with pytest.raises(InputError, match=r"task '.*' and '.*' differ only by case or Unicode spelling, and would be one folder"):
            refuse_twins([one, two], "task")


@pytest.mark.parametrize("name", ["", "../../x", "/tmp/x", "NUL"])
def test_runs_and_generated_adapters_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"experiment_name: the name .*; it names a folder: choose another"):
        build({"experiment_name": name})
    with pytest.raises(InputError, match=r"experiment_name .*; it names a folder: choose another"):
        ExperimentLogger(tmp_path, name)
    with pytest.raises(InputError, match=r"task .*; it names a folder: choose another"):
        generate_adapters(tmp_path / "none", [Request(name, "x"), Request("a", "y")], tmp_path)
    if name:
        with ExperimentLogger(tmp_path, "run") as logger, pytest.raises(InputError, match=r"evaluation 'eval_.*"):
            logger.log_evaluation(f"{name}/x", {})
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}


NAMES = ("task", "domain", "experiment_name")
"""Attributes that hold names; `x.name` does where x is one of HOLDERS."""
HOLDERS = ("task", "request", "study", "variant", "suite", "config")
MAKERS = ("path_part", "relative_path", "cell_name", "Random")
"""What may be given a name on its way into a path: checks, and a generator of random numbers, whose seed is no path."""


def _holds_name(node: ast.AST) -> bool:
    """Whether an expression uses a name that went through no check."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in MAKERS:
        return False
    if isinstance(node, ast.Attribute):
        holder = ast.unparse(node.value).rpartition(".")[2]
        if node.attr in NAMES or (node.attr == "name" and holder in HOLDERS):
            return True
    return any(map(_holds_name, ast.iter_child_nodes(node)))


def _paths_of_names(tree: ast.AST) -> list[int]:
    """Lines on which `/`, `Path`, `joinpath` or an f-string with a slash takes an unchecked name."""
    allowed = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Call | ast.Raise) for part in ast.walk(node) if _allows(node)}
    found = []
    for node in ast.walk(tree):
        is_division = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        is_call = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Path", "joinpath", "path.join", "'/'.join"))
        texts = [str(p.value) for p in node.values if isinstance(p, ast.Constant)] if isinstance(node, ast.JoinedStr) else []
        is_text = "/" in "".join(texts) and "\n" not in "".join(texts)  # a page of text is no path
        if (is_division or is_call or is_text) and id(node) not in allowed and _holds_name(node):
            found.append(node.lineno)
    return found


def _allows(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in MAKERS)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_path_is_made_of_an_unchecked_name(path: Path) -> None:
    assert not _paths_of_names(ast.parse(path.read_text()))


def test_the_search_finds_what_it_looks_for() -> None:
    for text in (
        "folder / task.name",
        'f"{task.domain}/{task.name}"',
        "Path(config.output_dir, config.experiment_name)",
        "a / f'{r.task}.x'",
    ):
        assert _paths_of_names(ast.parse(text)), text
    for text in ("folder / path_part(task.name)", "'/'.join((path_part(task.domain), path_part(task.name)))", "raise E(f'a/{task.name}')"):
        assert not _paths_of_names(ast.parse(text)), text
