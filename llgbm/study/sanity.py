"""What must hold before a comparison says anything: models can learn, training starts where it should, and what has no rule teaches none.

With the scores of answers that need no training, against which trained ones are read.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass as record

from llgbm.checking import RECORD, Flag, List, Number, read_as
from llgbm.files import read_json, write_json
from llgbm.progress import ProgressCallback
from llgbm.study.config import Method
from llgbm.study.folder import CHECKS_FILE, Study
from llgbm.study.meter import Meter
from llgbm.study.settings import settings_with
from llgbm.study.task import Scored, StudyTask
from llgbm.study.tasks.named import load_tasks
from llgbm.study.training import Settings, Ticker, Validator, build_model, fit, starting_loss

START_EXAMPLES = 64
"""Train examples on which the loss at the start is measured."""
SURE = 0.999
"""A score that chance stays below with this probability is more than chance."""


@record(frozen=True, config=RECORD)
class Check:
    """One check of one task and method."""

    task: str
    method: Method
    name: str
    value: Number
    expected: str
    passed: Flag


@record(frozen=True, config=RECORD)
class Checks:
    """All checks of a study, and the baselines of its tasks."""

    checks: List[Check] = Field(default_factory=list)
    baselines: dict[str, dict[str, dict[str, Number]]] = Field(default_factory=dict)
    """Task -> baseline -> metrics on the test examples."""

    def rows(self) -> list[dict[str, Any]]:
        """One for each check and baseline, for a table."""
        rows = [{**asdict(check), "passed": "yes" if check.passed else "NO"} for check in self.checks]
        for task, found in self.baselines.items():
            rows += [
                {"task": task, "name": f"baseline {name}, {m}", "value": value} for name, ms in found.items() for m, value in ms.items()
            ]
        return rows


def run_check(study: Study, progress: ProgressCallback | None = None) -> Checks:
    """Make every check and baseline that `checks.json` does not have yet.

    Raises:
        InputError: That file is damaged, or a task cannot be read.
    """
    found = read_checks(study)
    done = {(check.task, check.method, check.name) for check in found.checks}
    config = study.config
    wanted: list[tuple[str, Method, str]] = [(task, method, name) for task in config.tasks for method in config.methods for name in CHECKS]
    pending = [entry for entry in wanted if entry not in done]
    if pending or set(config.tasks) - found.baselines.keys():
        tasks = load_tasks(config)
        meter = Meter(sum(_size(study, tasks[task], name) for task, _, name in pending), progress)
        for name in config.tasks:
            if name not in found.baselines:
                found.baselines[name] = tasks[name].baselines()
                write_json(study.path(CHECKS_FILE), asdict(found))
        for task, method, name in pending:
            meter.begin(_size(study, tasks[task], name), task=task, method=method, check=name)
            found.checks.append(CHECKS[name](study, tasks[task], method, meter))
            write_json(study.path(CHECKS_FILE), asdict(found))
    return found


def read_checks(study: Study) -> Checks:
    """What was checked before; nothing where there is no file. InputError when it is damaged."""
    path = study.path(CHECKS_FILE)
    return read_as(Checks, read_json(path), str(path)) if path.exists() else Checks()


def check_start(study: Study, task: StudyTask, method: Method, meter: Meter) -> Check:
    """Training starts with the loss of a model that knows nothing: ln(classes), or the base's own."""
    seed = study.config.seeds[0]
    model = build_model(task, method, _settings(study, method), seed)
    value, expected = starting_loss(task, model, START_EXAMPLES), task.expected_start(START_EXAMPLES)
    words = f"{expected.loss:.3f} +- {expected.tolerance:.3f}, {expected.reason}"
    return Check(task.name, method, "start", value, words, abs(value - expected.loss) <= expected.tolerance)


def check_overfit(study: Study, task: StudyTask, method: Method, meter: Meter) -> Check:
    """A model learns a few examples by heart."""
    checks, best = study.config.checks, 0.0
    few = task.with_parts(task.parts.learned_by_heart(checks.overfit_examples))

    def validated(step: int, done: int, scored: Scored) -> bool:
        nonlocal best
        best = max(best, scored.metrics[task.metric])
        return best >= checks.overfit_score

    seed = study.config.seeds[0]
    hooks = [Validator(few, max(1, round(checks.overfit_epochs)), validated), Ticker(meter.tick)]
    model, settings = build_model(few, method, _settings(study, method), seed), _settings(study, method)
    fit(few, model, settings, study.config.training, seed, epochs=checks.overfit_epochs, hooks=hooks)
    words = f"at least {checks.overfit_score:g} {task.metric} on {len(few.parts.train)} train examples, learned by heart"
    return Check(task.name, method, "overfit", best, words, best >= checks.overfit_score)


def check_shuffled(study: Study, task: StudyTask, method: Method, meter: Meter) -> Check:
    """A model trained on answers that were dealt out anew does not do better than chance on others."""
    dealt, seed, settings = task.shuffled(study.config.search.seed), study.config.seeds[0], _settings(study, method)
    fitted = fit(dealt, build_model(dealt, method, settings, seed), settings, study.config.training, seed, hooks=[Ticker(meter.tick)])
    value, chance = dealt.score(fitted.model, "validation").metrics[task.metric], task.chance()
    bound = most_by_chance(chance, len(task.parts.validation))
    words = f"at most {bound:.3f} {task.metric} on validation examples, chance ({chance:.3f}) and its noise"
    return Check(task.name, method, "shuffled", value, words, value <= bound)


def most_by_chance(chance: float, examples: int) -> float:
    """The share of right answers that chance stays at or below with probability `SURE`; a chance of zero counts as one example's."""
    from scipy.stats import binom

    return float(binom.ppf(SURE, examples, max(chance, 1 / examples))) / examples


CHECKS: dict[str, Callable[[Study, StudyTask, Method, Meter], Check]] = {
    "start": check_start,
    "overfit": check_overfit,
    "shuffled": check_shuffled,
}


def _settings(study: Study, method: Method) -> Settings:
    """Checks come before searches, and take the config's hyperparameters."""
    return settings_with(study, method, {}, "config")


def _size(study: Study, task: StudyTask, name: str) -> float:
    """Examples a check learns from at most."""
    checks, examples = study.config.checks, len(task.parts.train)
    sizes = {"overfit": checks.overfit_epochs * min(checks.overfit_examples, examples), "shuffled": study.config.training.epochs * examples}
    return sizes.get(name, 0.0)
