"""The same teachers asked for in other words: a zoo's folder with the suite of another one that has the same tasks and examples."""

from dataclasses import replace
from pathlib import Path

from llgbm.errors import InputError
from llgbm.files import link_or_copy, write_json
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.manifest import MANIFEST_FILE, Teacher, is_zoo
from llgbm.zoo.suite import Task, TaskSuite
from llgbm.zoo.suites import load_suite, suite_record


def reword_zoo(zoo_folder: str | Path, suite_source: str, output_dir: str | Path) -> TeacherZoo:
    """Make a zoo of another one's teachers and of a suite that teaches the same in other words; adapters are linked where that works.

    Descriptions, paraphrases, prompts, attributes, splits and metrics are the new suite's.

    Raises:
        InputError: A teacher's task is not in the suite or has other examples there, the frames differ, or there is a zoo already.
    """
    zoo, suite, folder = TeacherZoo.load(zoo_folder), load_suite(suite_source), Path(output_dir)
    if is_zoo(folder):
        raise InputError(f"{folder}: holds a zoo already; choose another output_dir, or remove it")
    _check_alike(zoo, suite)
    for teacher in zoo.teachers:
        place = folder / teacher.path
        place.mkdir(parents=True, exist_ok=True)
        for file in sorted((zoo.folder / teacher.path).glob("adapter_*")):
            link_or_copy(file, place / file.name)
        write_json(place / "prompts.json", list(suite[teacher.task].prompts))
    teachers = [_under(suite[teacher.task], teacher, zoo).row() for teacher in zoo.teachers]
    write_json(folder / MANIFEST_FILE, {**zoo.manifest, "suite": suite_record(suite, suite_source), "teachers": teachers})
    return TeacherZoo.load(folder)


def _under(task: Task, teacher: Teacher, zoo: TeacherZoo) -> Teacher:
    """A teacher in its task's new split; a score by another metric goes."""
    same = task.metric == zoo.suite[task.name].metric
    return replace(teacher, split=task.split, score=teacher.score if same else None)


def _check_alike(zoo: TeacherZoo, suite: TaskSuite) -> None:
    """What a teacher learned from is the same in both suites."""
    known = zoo.suite
    if suite.header != known.header:
        raise InputError(f"suite {suite.name} frames its examples otherwise than the suite of {zoo.folder}; build a zoo of its own")
    for name in dict.fromkeys(teacher.task for teacher in zoo.teachers):
        one, other = known[name], suite[name]
        if (one.domain, one.train, one.test) != (other.domain, other.train, other.test):
            raise InputError(f"task {name} of suite {suite.name} has other examples than in {zoo.folder}; build a zoo of its own")
