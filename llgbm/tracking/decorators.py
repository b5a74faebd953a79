"""For scripts of your own: a function whose calls are recorded, whose files become artifacts, or whose loop goes on after a crash.

Thin covers of the run's record (`record`), the artifact store (`store`) and states written whole (`states`).
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from llgbm.checking import shown
from llgbm.errors import InputError
from llgbm.files import hash_json
from llgbm.tracking.context import Level
from llgbm.tracking.environment import set_seed
from llgbm.tracking.process import is_first_process
from llgbm.tracking.record import ExperimentLogger
from llgbm.tracking.states import Checkpoint, StateFolder
from llgbm.tracking.store import DEFAULT_STORE, Artifact, ArtifactStore

P = ParamSpec("P")
R = TypeVar("R")
_run: ContextVar[ExperimentLogger | None] = ContextVar("run", default=None)


def current_run() -> ExperimentLogger:
    """The record of the `reproducible` function that is running. InputError outside of one."""
    run = _run.get()
    if run is None:
        raise InputError("no function decorated with @reproducible is running, so there is no record to write to")
    return run


def reproducible(
    name: str, capture_level: Level = "standard", output_dir: str | Path = "outputs", seed: int = 42
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Record each call as a run under `output_dir/name`: arguments, surroundings, state, and a result that is a mapping of figures.

    Args:
        name: The run's folder.
        capture_level: How much of its surroundings is recorded: basic, standard, complete.
        output_dir: Where runs are.
        seed: Of Python, numpy and torch, set before the call; an argument named `seed` replaces it.

    Raises:
        InputError: When called: the name cannot be a folder, or an argument is no JSON.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = _arguments(function, args, kwargs)
            used = {"seed": seed, **given}
            set_seed(used["seed"])
            with ExperimentLogger(output_dir, name, capture_level, Path(inspect.getfile(function)).parent) as run:
                run.log_config({"function": function.__qualname__, **used})
                token = _run.set(run)
                try:
                    result = function(*args, **kwargs)
                finally:
                    _run.reset(token)
                run.finalize(result if isinstance(result, Mapping) else None)
            return result

        return call

    return decorate


def track_artifacts(
    inputs: Sequence[str] | Mapping[str, str] = (), outputs: Sequence[str] | Mapping[str, str] = (), store: str | Path = DEFAULT_STORE
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keep what a function reads, before the call, and what it writes, after it, made from the former.

    Args:
        inputs: Files or folders; `{argument}` in them is that argument of the call. A mapping gives them names, else each has its file's.
            What is no path is a reference to what is in the store, `name:v3`.
        outputs: Files or folders, as above.
        store: The store's folder.

    Raises:
        InputError: When called: an input is not there, or the function has not written an output.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given, keeper = _arguments(function, args, kwargs), ArtifactStore(store)
            if not is_first_process():
                return function(*args, **kwargs)
            read = [_input(keeper, name, path) for name, path in _named(inputs, given)]
            result = function(*args, **kwargs)
            sources = [artifact.ref for artifact in read]
            made = [keeper.put(name, path, inputs=sources) for name, path in _named(outputs, given)]
            run = _run.get()
            if run is not None:
                run.log_details(artifacts={"inputs": sources, "outputs": [artifact.ref for artifact in made]})
            return result

        return call

    return decorate


def checkpoint(
    folder: str | Path,
    frequency: int = 1,
    save_best: bool = True,
    metric: str = "loss",
    mode: Literal["min", "max"] = "min",
) -> Callable[[Callable[..., Iterator[Checkpoint]]], Callable[..., Checkpoint]]:
    """Run a loop, a function that yields a `Checkpoint` after each step, to its end; its last checkpoint is the result.

    The loop's argument `resume` is the newest whole checkpoint of an earlier call with the same arguments, or None. Of what is written
    the newest stays, and the best. Metrics go into the record of a `reproducible` function that is running.

    Args:
        folder: Where checkpoints are written; `{argument}` in it is that argument of the call.
        frequency: Steps from one to the next; the last step's is written whatever its number.
        save_best: Also write and keep the one with the best metric.
        metric: Which one.
        mode: Whether small is good, or large.

    Raises:
        InputError: The frequency is below 1; when called: the folder's checkpoints are of other arguments, a metric is missing or not
            finite, or the loop yields nothing.
    """
    if frequency < 1:
        raise InputError(f"frequency is {frequency}; give the number of steps between two checkpoints, from 1")

    def decorate(function: Callable[..., Iterator[Checkpoint]]) -> Callable[..., Checkpoint]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Checkpoint:
            given = {name: value for name, value in _arguments(function, args, kwargs).items() if name != "resume"}
            keeper = _Keeper(StateFolder(str(folder).format(**given), hash_json(given)), frequency, metric if save_best else None, mode)
            state = keeper.begun
            for state in function(*args, **{**kwargs, "resume": keeper.begun}):
                keeper.see(state)
            if state is None:
                raise InputError(f"{function.__qualname__} yielded no step, so there is nothing to keep")
            keeper.write(state)
            return state

        return call

    return decorate


class _Keeper:
    """Writes what is due of a loop's states, and removes what is not needed any more."""

    def __init__(self, states: StateFolder, frequency: int, metric: str | None, mode: str) -> None:
        self.states, self.frequency, self.metric, self.sign = states, frequency, metric, -1 if mode == "max" else 1
        known = states.figures(metric) if metric else {}
        self.best = min(((self.sign * value, step) for step, value in known.items()), default=None)
        self.begun = states.newest()
        self.written = self.begun.step if self.begun else None

    def see(self, state: Checkpoint) -> None:
        """After a step."""
        run = _run.get()
        if run is not None:
            run.log_metrics(state.step, state.metrics)
        if self._improves(state) or state.step % self.frequency == 0:
            self.written = None
            self.write(state)

    def write(self, state: Checkpoint) -> None:
        """Unless it is there."""
        if state.step != self.written and is_first_process():
            self.states.write(state)
            self.states.keep({state.step, *([self.best[1]] if self.best else [])})
        self.written = state.step

    def _improves(self, state: Checkpoint) -> bool:
        if self.metric is None:
            return False
        if self.metric not in state.metrics:
            raise InputError(f"step {state.step} has no metric {self.metric!r}; it has {', '.join(state.metrics) or 'none'}")
        found = self.sign * state.metrics[self.metric], state.step
        if self.best is None or found < self.best:
            self.best = found
            return True
        return False


def _arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of a call, defaults too, paths as text. InputError when one cannot be recorded."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    given = {name: str(value) if isinstance(value, Path) else value for name, value in bound.arguments.items()}
    for name, value in given.items():
        try:
            hash_json(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"argument {name} of {function.__qualname__} is {shown(value)}, which cannot be recorded as JSON") from error
    return given


def _named(paths: Sequence[str] | Mapping[str, str], given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(artifact's name, path with arguments put in)."""
    if isinstance(paths, Mapping):
        return [(name, path.format(**given)) for name, path in paths.items()]
    written = [path.format(**given) for path in paths]
    return [(Path(path).name, path) for path in written]


def _input(store: ArtifactStore, name: str, path: str) -> Artifact:
    """What is read: the version of these very files, which may be another function's output, or a new one; or a reference's."""
    if Path(path).exists():
        return store.find(name, path) or store.put(name, path)
    try:
        return store.get(path)
    except InputError as error:
        raise InputError(f"input {path}: neither a file nor a folder, nor an artifact of {store.folder}; make it first") from error
