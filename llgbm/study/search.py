"""The search for hyperparameters: Optuna's TPE with a median pruner, on validation examples, in a journal that processes share.

A trial that was killed counts for nothing and its place is filled; finished ones are never made again.

Source: Bergstra et al. 2011 (TPE); Akiba et al. 2019, arXiv:1907.10902 (Optuna).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.errors import InputError
from llgbm.fanout.crew import Engine, Item, Job, Tick
from llgbm.fanout.local import Local
from llgbm.progress import ProgressCallback, Tally
from llgbm.study.config import Method, SearchConfig, StudyConfig
from llgbm.study.folder import Study
from llgbm.study.settings import Best, read_best, settings_with, write_best
from llgbm.study.task import Scored, StudyTask
from llgbm.study.training import Ticker, Validator, build_model, fit
from llgbm.study.worker import StudyWorker
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


def run_search(study: Study, progress: ProgressCallback | None = None, engine: Engine | None = None) -> Searches:
    """Finish every search of the study that lacks trials; several processes may do so together.

    Args:
        study: Whose searches.
        progress: Called with the examples learned from, and all.
        engine: Where trials are trained; in this process by default. Trials are drawn and their ends written here; workers read the
            journals, and write how far a trial is.

    Raises:
        InputError: optuna is not installed, a journal is damaged, or a task cannot be read.
    """
    asked: list[tuple[str, Method]] = [(task, method) for task in study.config.tasks for method in study.config.methods]
    pairs = asked if study.config.search.trials else []
    missing = {pair: count for pair in pairs if (count := _missing(study, *pair))}
    if missing:
        job = Job(TrialWorker, (study.config, str(study.folder)), study.folder)
        with (engine or Local()).crew(job) as crew:
            surveyed = crew.ask("survey")
            sizes = {name: _epochs(study) * found.train_examples for name, found in surveyed.items()}
            tally = Tally(sum(sizes[task] * count for (task, _), count in missing.items()), progress, crew.figures)
            tally.tick()
            with _Trials(study, {name: found.metric for name, found in surveyed.items()}, sizes) as trials:
                for name, tried in crew.map("attempt", trials.items(missing), tally.tick):
                    tally.add(trials.tell(name, tried))
                for pair in missing:
                    trials.write(*pair)
    return Searches({pair: found for pair in pairs if (found := read_best(study, *pair)) is not None})


@dataclass(frozen=True)
class Tried:
    """What a trial came to."""

    score: float | None
    """On the validation examples at the end of the training; None where it was pruned."""
    loss: float | None
    """On them when they were last looked at."""
    seconds: float


class _Trials:
    """Trials on their way, drawn and ended here; a context manager that marks those FAILED that it leaves."""

    def __init__(self, study: Study, metrics: dict[str, str], sizes: dict[str, float]) -> None:
        self.study, self.metrics, self.sizes = study, metrics, sizes
        self.on_way: dict[str, tuple[str, Method, optuna.Trial]] = {}

    def __enter__(self) -> "_Trials":
        return self

    def __exit__(self, *exc: object) -> None:
        from optuna.trial import TrialState

        for _, _, trial in self.on_way.values():
            trial.study.tell(trial, state=TrialState.FAIL)

    def items(self, pairs: Iterable[tuple[str, Method]]) -> Iterator[Item]:
        """Draw trials until each search has as many as it is to have."""
        search = self.study.config.search
        for task, method in pairs:
            journal = open_journal(self.study, task, method)
            give_up_killed(journal)
            while (trial := _ask(journal, search)) is not None:
                name = f"trial {trial.number} of {task} by {method}"
                self.on_way[name] = task, method, trial
                yield name, (task, method, trial.number, suggest(trial, search, method), self.sizes[task])

    def tell(self, name: str, tried: Tried) -> float:
        """Write how a trial ended, and the best one where it was the last; the trial's size."""
        from optuna.trial import TrialState

        task, method, trial = self.on_way[name]
        trial.set_user_attr(LOSS, tried.loss)
        trial.set_user_attr("seconds", tried.seconds)
        trial.study.tell(trial, tried.score, state=TrialState.COMPLETE if tried.score is not None else TrialState.PRUNED)
        del self.on_way[name]
        self.write(task, method)
        return self.sizes[task]

    def write(self, task: str, method: Method) -> None:
        """Write the best trial, of equal ones that with the lowest loss; left to the process that finishes the last one."""
        from optuna.trial import TrialState

        journal = open_journal(self.study, task, method)
        finished = _finished(journal)
        if finished >= self.study.config.search.trials:
            # Few validation examples often cannot tell trials apart; their loss can.
            tied = [
                trial for trial in journal.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trial.value == journal.best_value
            ]
            best = min(tied, key=lambda trial: (trial.user_attrs.get(LOSS) or 0.0, trial.number))
            assert best.value is not None
            write_best(self.study, task, method, Best(best.number, finished, self.metrics[task], best.value, dict(best.params)))


class TrialWorker(StudyWorker):
    """A worker of `run_search`, on as many train examples as searches take."""

    def __init__(self, config: StudyConfig, folder: str) -> None:
        super().__init__(config, folder)
        self.tasks = {name: task.with_parts(task.parts.at_most(config.search.train_examples)) for name, task in self.tasks.items()}

    def attempt(
        self, task: str, method: Method, number: int, hyperparameters: dict[str, Any], size: float, tick: Tick | None = None
    ) -> Tried:
        """Make a trial that was drawn; made again by another worker, it says what it said before."""

        def report(share: float) -> None:
            if tick is not None:
                tick(share * size, task=task, method=method, trial=number)

        report(0.0)
        journal = open_journal(self.study, task, method)
        return attempt(self.study, self.tasks[task], method, _reopened(journal, number), hyperparameters, report)


def attempt(
    study: Study, task: StudyTask, method: Method, trial: "optuna.Trial", hyperparameters: dict[str, Any], report: Callable[[float], None]
) -> Tried:
    """Train with the drawn hyperparameters, as far as the trial is not pruned."""
    config, search = study.config, study.config.search
    settings = settings_with(study, method, hyperparameters, f"trial {trial.number}")
    said, found = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values, list[Scored]()

    def validated(step: int, done: int, scored: Scored) -> bool:
        found.append(scored)
        if done in said:  # by an attempt that was killed later
            return False
        trial.report(scored.metrics[task.metric], done)
        return done < config.training.evaluations and bool(trial.should_prune())

    validator = Validator(task, config.training.evaluations, validated)
    model = build_model(task, method, settings, search.seed)
    fitted = fit(task, model, settings, config.training, search.seed, _epochs(study), [validator, Ticker(report)])
    score = found[-1].metrics[task.metric] if validator.done >= config.training.evaluations else None
    return Tried(score, found[-1].metrics.get("nll"), fitted.seconds)


def _reopened(journal: "optuna.Study", number: int) -> "optuna.Trial":
    """A trial that another process drew."""
    import optuna

    return optuna.Trial(journal, journal.get_trials(deepcopy=False)[number]._trial_id)


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


def _epochs(study: Study) -> float:
    return study.config.search.epochs or study.config.training.epochs
