"""The search for hyperparameters: Optuna's TPE with a median pruner, on validation examples, in a journal that processes share.

A trial that was killed counts for nothing and its place is filled; finished ones are never made again.

Source: Bergstra et al. 2011 (TPE); Akiba et al. 2019, arXiv:1907.10902 (Optuna).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.errors import InputError
from llgbm.progress import ProgressCallback
from llgbm.study.config import Method, SearchConfig
from llgbm.study.folder import Study
from llgbm.study.meter import Meter
from llgbm.study.settings import Best, read_best, settings_with, write_best
from llgbm.study.task import Scored, StudyTask
from llgbm.study.tasks.named import load_tasks
from llgbm.study.training import Ticker, Validator, build_model, fit
from llgbm.tracking.process import Holder, this_process

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
LOGARITHMIC, EVEN = ("learning_rate", "weight_decay", "alpha"), ("warmup", "dropout")
"""Hyperparameters that are drawn by their logarithm, and evenly; the others are choices."""
HOLDER, LOSS = "process", "loss"


@dataclass(frozen=True)
class Searches:
    """What every search of a study found."""

    best: dict[tuple[str, Method], Best]

    def rows(self) -> list[dict[str, Any]]:
        """One for each, for a table."""
        names = dict.fromkeys(name for best in self.best.values() for name in best.hyperparameters)
        return [
            {
                **{"task": task, "method": method, "trials": best.trials, "best": best.trial, "metric": best.metric, "score": best.score},
                **{name: best.hyperparameters.get(name) for name in names},
            }
            for (task, method), best in self.best.items()
        ]


def run_search(study: Study, progress: ProgressCallback | None = None) -> Searches:
    """Finish every search of the study that lacks trials; several processes may do so together.

    Raises:
        InputError: optuna is not installed, a journal is damaged, or a task cannot be read.
    """
    searches = {}
    asked: list[tuple[str, Method]] = [(task, method) for task in study.config.tasks for method in study.config.methods]
    pairs = asked if study.config.search.trials else []
    missing = {pair: _missing(study, *pair) for pair in pairs}
    if any(missing.values()):
        tasks = load_tasks(study.config)
        sizes = {name: _epochs(study) * len(_parts(study, task).train) for name, task in tasks.items()}
        meter = Meter(sum(sizes[task] * count for (task, _), count in missing.items()), progress)
        for (task, method), count in missing.items():
            if count:
                search_one(study, tasks[task], method, meter, sizes[task])
    for pair in pairs:
        found = read_best(study, *pair)
        if found is not None:
            searches[pair] = found
    return Searches(searches)


def search_one(study: Study, task: StudyTask, method: Method, meter: Meter, size: float) -> None:
    """Make trials until the study has as many as it is to have, and write the best of them."""
    from optuna.trial import TrialState

    journal = open_journal(study, task.name, method)
    give_up_killed(journal)
    small = task.with_parts(_parts(study, task))
    while (trial := _ask(journal, study.config.search)) is not None:
        meter.begin(size, task=task.name, method=method, trial=trial.number)
        try:
            score = _attempt(study, small, method, trial, meter)
        except BaseException:
            journal.tell(trial, state=TrialState.FAIL)
            raise
        journal.tell(trial, score, state=TrialState.COMPLETE if score is not None else TrialState.PRUNED)
    _write(study, task, method, journal)


def _attempt(study: Study, task: StudyTask, method: Method, trial: "optuna.Trial", meter: Meter) -> float | None:
    """The score on the validation examples at the end of a training; None where it was pruned."""
    config, search = study.config, study.config.search
    settings = settings_with(study, method, suggest(trial, search, method), f"trial {trial.number}")
    found: list[float] = []

    def validated(step: int, done: int, scored: Scored) -> bool:
        found.append(scored.metrics[task.metric])
        trial.set_user_attr(LOSS, scored.metrics.get("nll"))
        trial.report(found[-1], done)
        return done < config.training.evaluations and bool(trial.should_prune())

    validator = Validator(task, config.training.evaluations, validated)
    model = build_model(task, method, settings, search.seed)
    fitted = fit(task, model, settings, config.training, search.seed, _epochs(study), [validator, Ticker(meter.tick)])
    trial.set_user_attr("seconds", fitted.seconds)
    return found[-1] if validator.done >= config.training.evaluations else None


def suggest(trial: "optuna.Trial", search: SearchConfig, method: Method) -> dict[str, Any]:
    """Hyperparameters within the config's ranges."""
    drawn: dict[str, Any] = {}
    for name, bounds in asdict(search.full if method == "full" else search.lora).items():
        if name in LOGARITHMIC or name in EVEN:
            drawn[name] = trial.suggest_float(name, *bounds, log=name in LOGARITHMIC)
        else:
            drawn[name] = trial.suggest_categorical(name, bounds)
    return drawn


def open_journal(study: Study, task: str, method: Method) -> "optuna.Study":
    """The search of a task and method, begun where there is none.

    Raises:
        InputError: optuna is not installed, or the journal holds what it did not write.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    except ImportError as error:
        raise InputError("a search needs optuna; pip install 'llgbm[study]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search, path = study.config.search, study.search_folder(task, method) / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(str(path))
    with _locked(lock):
        _drop_torn_line(path)
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path), lock)),
            study_name=f"{task}/{method}",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=search.startup_trials),
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: is no journal of a search ({error}); remove it, and the search begins anew") from error


@contextmanager
def _locked(lock: Any) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _drop_torn_line(path: Path) -> None:
    """Cut what a process was writing when it was killed; optuna would take the next line for a part of it, and read no further."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def give_up_killed(journal: "optuna.Study") -> None:
    """Mark trials FAILED whose process is gone, so that others take their place."""
    from optuna.trial import TrialState

    for trial in journal.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        holder = Holder.of(json.loads(trial.user_attrs.get(HOLDER, "{}")))
        if holder is None or (holder.is_here and not holder.lives):
            journal.tell(trial.number, state=TrialState.FAIL)


def _ask(journal: "optuna.Study", search: SearchConfig) -> "optuna.Trial | None":
    """A new trial; None when there are enough, those on their way in other processes too."""
    import optuna
    from optuna.trial import TrialState

    if _standing(journal) >= search.trials:
        return None
    trial = journal.ask()
    trial.set_user_attr(HOLDER, json.dumps(asdict(this_process())))
    if _standing(journal, before=trial.number) >= search.trials:  # another process asked at the same moment
        journal.tell(trial, state=TrialState.FAIL)
        return None
    # A seed for each number: processes draw differently, and a search that was stopped goes on as if it had not been.
    seed = search.seed * 100_003 + trial.number
    journal.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=search.startup_trials)
    return trial


def _standing(journal: "optuna.Study", before: int | None = None) -> int:
    """Trials that are finished or on their way, perhaps only those asked for before one."""
    from optuna.trial import TrialState

    trials = journal.get_trials(deepcopy=False)
    return sum(t.state != TrialState.FAIL for t in trials if before is None or t.number < before)


def _finished(journal: "optuna.Study") -> int:
    from optuna.trial import TrialState

    return len(journal.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _missing(study: Study, task: str, method: Method) -> int:
    """Trials that a search lacks; one where only its best is to be written yet."""
    journal, wanted = open_journal(study, task, method), study.config.search.trials
    best, lacking = read_best(study, task, method), wanted - _finished(journal)
    return max(lacking, int(best is None or best.trials < min(wanted, _finished(journal))))


def _write(study: Study, task: StudyTask, method: Method, journal: "optuna.Study") -> None:
    """Write the best trial, of equal ones that with the lowest loss; left to the process that finishes the last one."""
    from optuna.trial import TrialState

    finished = _finished(journal)
    if finished >= study.config.search.trials:
        # Few validation examples often cannot tell trials apart; their loss can.
        tied = [trial for trial in journal.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trial.value == journal.best_value]
        best = min(tied, key=lambda trial: (trial.user_attrs.get(LOSS) or 0.0, trial.number))
        assert best.value is not None
        write_best(study, task.name, method, Best(best.number, finished, task.metric, best.value, dict(best.params)))


def _epochs(study: Study) -> float:
    return study.config.search.epochs or study.config.training.epochs


def _parts(study: Study, task: StudyTask) -> Any:
    return task.parts.at_most(study.config.search.train_examples)
