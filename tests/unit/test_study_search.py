"""Searches: within their ranges, on validation examples, in a journal that outlives kills and is shared."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
from study_world import SMALL, TASK, small_config, small_study

from llgbm.dotted import flatten
from llgbm.errors import InputError
from llgbm.files import write_text
from llgbm.study.config import LoRARanges
from llgbm.study.folder import Study
from llgbm.study.search import LOSS, TrialWorker, open_journal, run_search, suggest
from llgbm.study.settings import chosen_settings, read_best
from llgbm.study.tasks.generation import GenerationTask
from llgbm.tracking.process import this_process

TRIALS = 4
SEARCH = {"methods": ["lora"], "search__trials": TRIALS, "search__train_examples": 16, "search__startup_trials": 2}


def _trials(study: Study) -> dict[int, optuna.trial.FrozenTrial]:
    return {trial.number: trial for trial in open_journal(study, TASK, "lora").get_trials()}


def _states(study: Study) -> list[str]:
    return [trial.state.name for trial in _trials(study).values()]


def _finished(study: Study) -> int:
    """Read from the journal's text, which disturbs no one."""
    path = study.search_folder(TASK, "lora") / "journal.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return sum('"state":1' in line or '"state":2' in line for line in lines)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = small_study(tmp_path_factory.mktemp("search"), **SEARCH)
    run_search(study)
    return study


def test_a_search_makes_its_trials_once_and_writes_the_best(searched: Study) -> None:
    trials = _trials(searched)
    assert len(trials) == TRIALS
    best = read_best(searched, TASK, "lora")
    assert best is not None
    complete = [t for t in trials.values() if t.state.name == "COMPLETE"]
    assert best.score == max(t.value for t in complete if t.value is not None)
    assert best.hyperparameters == trials[best.trial].params
    assert best.trials == TRIALS
    (row,) = run_search(searched).rows()
    assert (row["task"], row["trials"], row["rank"]) == (TASK, TRIALS, best.hyperparameters["rank"])
    assert len(_trials(searched)) == TRIALS


def test_runs_take_what_was_found_best(searched: Study) -> None:
    best, settings = read_best(searched, TASK, "lora"), chosen_settings(searched, TASK, "lora")
    assert best is not None
    assert asdict(settings) == asdict(searched.config.lora) | best.hyperparameters


def test_more_trials_go_on_from_those_there_are(searched: Study) -> None:
    before = _trials(searched)
    study = small_study(searched.folder, **{**SEARCH, "search__trials": TRIALS + 1})
    run_search(study)
    after = _trials(study)
    assert len(after) == TRIALS + 1
    assert {number: after[number].params for number in before} == {number: trial.params for number, trial in before.items()}


def test_draws_stay_within_the_ranges_and_differ() -> None:
    config = small_config().search
    journal = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest(journal.ask(), config, "lora") for _ in range(50)]
    ranges = asdict(LoRARanges())
    for name, bounds in ranges.items():
        values = [one[name] for one in drawn]
        assert len(set(values)) > 1, name
        assert all(bounds[0] <= value <= bounds[-1] for value in values), name
    assert {one["rank"] for one in drawn} == {4, 8, 16, 32}
    full = suggest(optuna.create_study().ask(), config, "full")
    assert set(full) == {"learning_rate", "batch_size", "accumulation", "warmup", "weight_decay"}


def test_nothing_is_chosen_by_test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    score = GenerationTask.score
    monkeypatch.setattr(GenerationTask, "score", lambda self, model, part: scored.append(part) or score(self, model, part))
    run_search(small_study(tmp_path, **{**SEARCH, "search__trials": 1}))
    assert set(scored) == {"validation"}


def _add_good_trials(journal: optuna.Study) -> None:
    """Two, which were good from their first step on."""
    for _ in range(2):
        trial = journal.ask()
        for step in (1, 2):
            trial.report(0.9, step)
        journal.tell(trial, 0.9)


def test_bad_trials_are_pruned(tmp_path: Path) -> None:
    """A median of good trials in the journal, then one that learns nothing."""
    study = small_study(tmp_path, **{**SEARCH, "search__trials": 3, "search__lora__learning_rate": [1e-9, 1e-9]})
    journal = open_journal(study, TASK, "lora")
    _add_good_trials(journal)
    run_search(study)
    assert _states(study) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert read_best(study, TASK, "lora").trials == 3  # type: ignore[union-attr]


def test_of_equal_trials_the_one_with_the_lowest_loss_is_best(tmp_path: Path) -> None:
    study = small_study(tmp_path, **{**SEARCH, "search__trials": 4})
    journal = open_journal(study, TASK, "lora")
    for value, loss in ((0.5, 0.1), (1.0, 0.4), (1.0, 0.2), (1.0, 0.3)):
        trial = journal.ask()
        suggest(trial, study.config.search, "lora")
        trial.set_user_attr(LOSS, loss)
        journal.tell(trial, value)
    run_search(study)
    assert read_best(study, TASK, "lora").trial == 2  # type: ignore[union-attr]


def test_every_trial_says_its_loss(searched: Study) -> None:
    assert all(trial.user_attrs[LOSS] > 0 for trial in _trials(searched).values())


def test_trials_of_processes_that_are_gone_are_made_again_and_those_of_others_are_not(tmp_path: Path) -> None:
    study = small_study(tmp_path, **{**SEARCH, "search__trials": 2})
    journal = open_journal(study, TASK, "lora")
    gone, elsewhere = journal.ask(), journal.ask()
    gone.set_user_attr("process", json.dumps({**asdict(this_process()), "started": 1.0}))
    elsewhere.set_user_attr("process", json.dumps({**asdict(this_process()), "host": "elsewhere"}))
    assert run_search(study).best == {}  # the other machine's trial is still on its way, and may be the best
    assert _states(study) == ["FAIL", "RUNNING", "COMPLETE"]
    journal.tell(elsewhere.number, 0.0)
    assert list(run_search(study).best) == [(TASK, "lora")]
    assert len(_trials(study)) == 3


def test_a_line_that_a_kill_tore_is_dropped(tmp_path: Path) -> None:
    study = small_study(tmp_path, **SEARCH)
    journal = open_journal(study, TASK, "lora")
    journal.tell(journal.ask(), 0.5)
    path = study.search_folder(TASK, "lora") / "journal.log"
    sound = path.read_bytes()
    path.write_bytes(sound + b'{"op_code":5,"worker_id":"torn')
    again = open_journal(study, TASK, "lora")
    assert b"torn" not in path.read_bytes()
    again.tell(again.ask(), 0.25)
    assert [trial.value for trial in _trials(study).values()] == [0.5, 0.25]


def test_a_fault_in_a_trial_leaves_it_failed(tmp_path: Path) -> None:
    study = small_study(tmp_path, **SEARCH, lora__target_modules=["nowhere"])
    with pytest.raises(InputError, match="PEFT finds none of them"):
        run_search(study)
    assert _states(study) == ["FAIL"]


def test_a_trial_that_is_made_again_goes_on_where_it_went_on_before(tmp_path: Path) -> None:
    """A worker died that had said how far it was: that stands, though others have done better since."""
    steps = {"search__lora__batch_size": [4], "search__lora__accumulation": [1]}  # as many as there are validations at least
    study = small_study(tmp_path, **SEARCH, **steps)
    journal = open_journal(study, TASK, "lora")
    _add_good_trials(journal)
    trial = journal.ask()
    trial.report(0.5, 1)
    drawn = suggest(trial, study.config.search, "lora")
    shares, worker = [], TrialWorker(study.config, str(study.folder))
    tried = worker.attempt(TASK, "lora", 2, drawn, 16.0, lambda share, **figures: shares.append(share))
    assert tried.score is not None
    assert _trials(study)[2].intermediate_values == {1: 0.5, 2: tried.score}
    assert (shares[0], shares[-1]) == (0.0, 16.0)


def _command(folder: Path) -> list[str]:
    values = {**{name.replace("__", "."): value for name, value in SEARCH.items()}}
    given = flatten(SMALL | values)
    return [
        sys.executable,
        "-m",
        "llgbm",
        "study",
        "search",
        "--output",
        str(folder),
        *(f"--{k}={json.dumps(v)}" for k, v in given.items()),
    ]


def _start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(_command(folder), env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.slow
def test_a_killed_search_repeats_no_finished_trial(tmp_path: Path) -> None:
    study = small_study(tmp_path, **SEARCH)
    process = _start(tmp_path)
    while _finished(study) < 2 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    journal = study.search_folder(TASK, "lora") / "journal.log"
    with journal.open("ab") as file:
        file.write(b'{"op_code":5,"worker_id":"torn')  # what a kill in the middle of a line leaves
    before = {number: trial for number, trial in _trials(study).items() if trial.state.is_finished()}
    assert 2 <= len(before) < TRIALS
    again = _start(tmp_path)
    _, said = again.communicate()
    assert again.returncode == 0, said.decode()
    after = _trials(study)
    for number, trial in before.items():
        assert (after[number].params, after[number].value, after[number].datetime_complete) == (
            trial.params,
            trial.value,
            trial.datetime_complete,
        )
    states = [trial.state.name for trial in after.values()]
    assert sum(state in ("COMPLETE", "PRUNED") for state in states) == TRIALS
    assert read_best(study, TASK, "lora") is not None


@pytest.mark.slow
def test_processes_share_a_search(tmp_path: Path) -> None:
    study = small_study(tmp_path, **SEARCH)
    processes = [_start(tmp_path) for _ in range(2)]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    finished = [trial for trial in _trials(study).values() if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(finished) == TRIALS
    assert len({json.loads(trial.user_attrs["process"])["pid"] for trial in finished}) == 2
    assert len({json.dumps(trial.params) for trial in finished}) == TRIALS
    assert read_best(study, TASK, "lora") is not None


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    study = small_study(tmp_path, **SEARCH)
    write_text(study.search_folder(TASK, "lora") / "journal.log", "no journal\nat all\n")
    with pytest.raises(InputError, match=r"journal\.log: is no journal of a search .*remove it, and the search begins anew"):
        run_search(study)


def test_a_search_without_optuna_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"a search needs optuna; pip install 'llgbm\[study\]'"):
        run_search(small_study(tmp_path, **SEARCH))


def test_a_damaged_best_is_named(tmp_path: Path) -> None:
    study = small_study(tmp_path, **SEARCH)
    write_text(study.search_folder(TASK, "lora") / "best.yaml", "trial: x")
    with pytest.raises(InputError, match=r"best\.yaml: trial must be an integer, found 'x'"):
        chosen_settings(study, TASK, "lora")
