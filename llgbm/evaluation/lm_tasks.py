"""Tasks of lm-evaluation-harness by name or file, read before the harness builds them: nothing in them runs code unasked.

A task's YAML may name Python functions (`!function`), which are imported as soon as it is built, and metrics that the
harness fetches from the hub as code; its templates are Jinja, which the harness renders without a sandbox.
"""

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import BaseLoader
from jinja2.sandbox import SandboxedEnvironment

from llgbm.errors import InputError, first_line
from llgbm.files import read_text

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

logger = logging.getLogger(__name__)
SUFFIXES = (".yaml", ".yml")
CONFIRM = "--confirm_run_unsafe_code"
"""The harness's own flag for tasks that run code."""


@dataclass(frozen=True)
class LmTasks:
    """What the harness is asked to score on."""

    manager: "TaskManager"
    names: tuple[str, ...]
    """Tasks, groups and tags by name, and task files by path, as the manager loads them."""


def open_tasks(asked: Sequence[str], include_path: str | None = None, confirmed: bool = False) -> LmTasks:
    """Find tasks, see that they run no code, and build each once.

    The harness's own 14,000 tasks are read (20 s) only where what is asked for is not all in files here.

    Args:
        asked: Names, several in one by commas as the harness takes them, or paths of YAML files.
        include_path: A folder of task files, whose names come before the harness's own.
        confirmed: Let tasks run the code they name.

    Raises:
        InputError: A file is missing or no task, a name is unknown, a task runs code or needs some from the hub, or the harness
            cannot build it: its data are not here, for example.
    """
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).is_dir():
        raise InputError(f"--include_path {include_path} is no folder; give one with task files (.yaml)")
    names = tuple(_absolute(name) for names in asked for name in names.split(",") if name)
    if not names:
        raise InputError("--tasks names no task; give names of tasks, or their YAML files")
    manager = TaskManager(include_path=include_path, include_defaults=False)
    found = _found(manager, names)
    if found.unknown:
        logger.info("reading the harness's own tasks for %s", ", ".join(sorted(found.unknown)))
        manager = TaskManager(include_path=include_path)
        found = _found(manager, names)
    unknown = next((name for name in names if name in found.unknown), None)
    if unknown is not None:
        raise InputError(_unknown(unknown, manager, include_path))
    if not confirmed:
        found.refuse_code()
    found.refuse_fetched_metrics()
    tasks = LmTasks(manager, names)
    with rendered_safely(confirmed):
        for name in names:
            _build(manager, name, confirmed)
    return tasks


@contextmanager
def rendered_safely(confirmed: bool) -> Iterator[None]:
    """Let the harness render templates in Jinja's sandbox in here, so that none reaches what Python could run; unless confirmed."""
    from lm_eval import utils

    own = utils.env
    if not confirmed:
        utils.env = SandboxedEnvironment(loader=BaseLoader(), undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline)
        utils.env.filters.update(own.filters)
    try:
        yield
    finally:
        utils.env = own


class _Code(str):
    """The name of a Python function in a task's file."""


class _TaskLoader(yaml.SafeLoader):
    """Reads `!function NAME` as the name; no other tag of Python's is known."""


_TaskLoader.add_constructor("!function", lambda loader, node: _Code(node.value))


@dataclass
class _Found:
    """The files of tasks that are asked for, with those of groups' members and what they include."""

    index: Any
    """The manager's: name -> entry."""
    files: dict[Path, list[dict[str, Any]]] = field(default_factory=dict)
    """A task's or group's file -> its values and those of every file it includes."""
    unknown: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def look(self, name: str) -> None:
        """Follow a name, or a path."""
        if name in self.seen:
            return
        self.seen.add(name)
        entry = self.index.get(name)
        if entry is None and not name.endswith(SUFFIXES):
            self.unknown.add(name)
        elif entry is not None and entry.yaml_path is None:  # a tag
            for member in sorted(entry.tags):
                self.look(member)
        else:
            self._read(Path(name) if entry is None else Path(entry.yaml_path))

    def refuse_code(self) -> None:
        """InputError at the first Python function of a file that is not the harness's own."""
        for path, parts in self.files.items():
            code = next((value for part in parts for value in _within(part) if isinstance(value, _Code)), None)
            if code is not None and not _is_own(path):
                raise InputError(f"{path}: asks for Python code (!function {code}), which would run here; read it, and give {CONFIRM}")

    def refuse_fetched_metrics(self) -> None:
        """InputError at the first metric that the harness would fetch from the hub as code."""
        from lm_eval.api import metrics as _registers_them  # noqa: F401
        from lm_eval.api.registry import METRIC_REGISTRY

        for path, parts in self.files.items():
            if any("process_results" in part for part in parts):  # its metrics are names of what that function gives
                continue
            for part in parts:
                for metric in _metrics(part):
                    name = metric.get("metric")
                    foreign = isinstance(name, str) and not isinstance(name, _Code) and name not in METRIC_REGISTRY
                    if foreign or metric.get("hf_evaluate") is True:
                        raise InputError(
                            f"{path}: metric {name!r} is not the harness's own, and would be fetched as code from the hub, which never "
                            "runs here; use one such as exact_match or acc"
                        )

    def _read(self, path: Path) -> None:
        parts = list(_parts(path))
        self.files[path] = parts
        if "group" in parts[0]:
            for value in _within(parts[0].get("task")):
                if isinstance(value, str) and value in self.index:
                    self.look(value)
                elif isinstance(value, str):
                    self.unknown.add(value)


def _found(manager: "TaskManager", names: Sequence[str]) -> _Found:
    found = _Found(manager.task_index)
    for name in names:
        found.look(name)
    return found


def _absolute(name: str) -> str:
    return str(Path(name).absolute()) if name.endswith(SUFFIXES) else name


def _is_own(path: Path) -> bool:
    """Whether a file came with the harness."""
    import lm_eval.tasks

    return path.resolve().is_relative_to(Path(lm_eval.tasks.__file__).resolve().parent)


def _parts(path: Path, above: tuple[Path, ...] = ()) -> Iterator[dict[str, Any]]:
    """The values of a task's file, then those of the files it includes. InputError when one is no mapping, or includes itself."""
    if path in above:
        raise InputError(f"{path}: includes itself; take that out")
    try:
        values = yaml.load(read_text(path), Loader=_TaskLoader)  # a SafeLoader
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # its constructors raise the others
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not valid YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(values, dict) or not (above or {"task", "group"} & values.keys()):
        raise InputError(f"{path}: is no task of lm-eval; it needs a mapping with task or group")
    yield values
    included = values.get("include", [])
    for name in included if isinstance(included, list) else [included]:
        yield from _parts(path.parent / str(name), (*above, path))


def _within(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Every value in nested lists and mappings, each of these once."""
    seen = set() if seen is None else seen
    if isinstance(value, dict | list):
        if id(value) not in seen:
            seen.add(id(value))
            for item in value.values() if isinstance(value, dict) else value:
                yield from _within(item, seen)
    else:
        yield value


def _metrics(part: dict[str, Any]) -> list[dict[str, Any]]:
    listed = part.get("metric_list") or []
    return [metric for metric in listed if isinstance(metric, dict)] if isinstance(listed, list) else []


def _unknown(name: str, manager: "TaskManager", include_path: str | None) -> str:
    """What to say of a name that nobody knows; a file that the harness passed over may have been meant to hold it."""
    broken = ""
    for path in sorted(Path(include_path).rglob("*.yaml")) if include_path else ():
        try:
            list(_parts(path))
        except InputError as error:
            broken = f" ({error})"
            break
    near = difflib.get_close_matches(name, manager.all_tasks, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"task {name!r} is unknown to lm-eval{broken}; {hint}give its YAML file, or the folder of it as --include_path"


def _build(manager: "TaskManager", name: str, confirmed: bool) -> None:
    """See that the harness can build what has a name. InputError when it cannot, or a text model cannot answer it."""
    try:
        loaded = manager.load([name])
    except Exception as error:  # whatever a file makes the harness, its data sets or its templates raise
        if isinstance(error, OSError):
            raise InputError(
                f"task {name}: its data or prompts cannot be had ({first_line(error)}); give data as files here (dataset_path: json, with "
                "data_files as seen from the current folder), or see to the network"
            ) from error
        raise InputError(f"task {name}: lm-eval cannot build it ({type(error).__name__}: {first_line(error)}); mend its file") from error
    for task in loaded["tasks"].values():
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"task {task.task_name}: shows pictures or sounds, which a language model does not take; leave it out")
        if getattr(task, "UNSAFE_CODE", False) and not confirmed:
            raise InputError(f"task {task.task_name}: runs what models answer as code; give {CONFIRM} if that may run here")
