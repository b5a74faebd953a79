"""How a run's folder stands, and whether a command may begin there: finished work is never touched unasked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.models.reader import CONFIG_FILE
from llgbm.tracking.record import is_interrupted
from llgbm.training.checkpoints import KINDS, MARKER, complete_steps, read_state, step_folder, steps_of

Begin = Literal["new", "resume", "go_on", "overwrite"]
"""What a command asks for: a run that begins here, one that goes on here, whichever of the two the folder asks for (a
finished run is left as it is: what studies do), or one that begins here whatever was here before."""

MANIFEST = "manifest.json"
"""What zoos and caches have, and no run."""
ELSE = "give --overwrite to begin anew, or another --experiment_name"


@dataclass(frozen=True)
class Standing:
    """What of a run lies in a folder."""

    folder: Path
    finished: tuple[str, ...]
    """Kinds of the results that are there."""
    whole: tuple[int, ...]
    """Steps of the checkpoints that are as they were written, oldest first."""
    damaged: tuple[int, ...]
    """Steps of those that once were; a checkpoint that was never written to its end is none."""
    interrupted: bool
    """Whether it was begun and did not come to its end, though its result may be there already."""

    @classmethod
    def of(cls, folder: Path) -> "Standing":
        """Look at a folder, which need not exist."""
        checkpoints = folder / "checkpoints"
        whole = complete_steps(checkpoints)
        damaged = [step for step in steps_of(checkpoints) if step not in whole and (step_folder(checkpoints, step) / MARKER).exists()]
        finished = tuple(kind for kind in KINDS if (folder / kind / CONFIG_FILE).exists())
        return cls(folder, finished, tuple(whole), tuple(damaged), is_interrupted(folder))

    def missing_best(self) -> int | None:
        """The step of the best checkpoint so far, where that one is not whole any more: the run would end without it."""
        if not self.whole:
            return None
        best = read_state(step_folder(self.folder / "checkpoints", self.whole[-1])).get("best_step", 0)
        return best if best and best not in self.whole else None


def check_begin(folder: Path, begin: Begin) -> None:
    """See that what is asked for costs no finished work and has something to go on from.

    Raises:
        InputError: It would, or has not; says how the run stands, what is left of it, and what to do.
    """
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder}: holds a zoo or a cache of deltas, with which a run would be mixed up; give another --experiment_name")
    if begin == "overwrite":
        return
    standing = Standing.of(folder)
    if standing.finished and not (standing.whole and (begin == "go_on" or standing.interrupted)):
        nothing = ", there is nothing to resume" if begin == "resume" else ""
        raise InputError(
            f"run {folder} is finished ({_result(standing)}){nothing}; give another --experiment_name, "
            "or --overwrite to train it anew, which removes its result and evaluations"
        )
    if begin == "new":
        _refuse_begun(standing)
    if begin == "resume":
        _refuse_nothing(standing)
    _refuse_damaged(standing, strict=begin == "resume")


def _result(standing: Standing) -> str:
    path = standing.folder / "training.json"
    steps = read_json(path).get("steps") if path.is_file() else None
    return f"a {' and a '.join(standing.finished)}" + (f" of {steps} steps" if steps else "")


def _refuse_begun(standing: Standing) -> None:
    if standing.whole:
        damage = f" and {_damage(standing)}" if standing.damaged else ""
        raise InputError(f"run {standing.folder} stands at step {standing.whole[-1]}{damage}; give --resume to go on from there; or {ELSE}")


def _refuse_nothing(standing: Standing) -> None:
    if not standing.whole and not standing.damaged:
        there = "has no checkpoint yet" if (standing.folder / "metadata.json").exists() else "was never begun"
        raise InputError(f"run {standing.folder} {there}, there is nothing to resume; leave out --resume to begin it")


def _refuse_damaged(standing: Standing, strict: bool) -> None:
    """Where the newest checkpoint is damaged, an older one that is whole serves as well, but not unseen if `strict`."""
    checkpoints, best = standing.folder / "checkpoints", standing.missing_best()
    if standing.damaged and not standing.whole:
        raise InputError(f"run {standing.folder} was not finished and {_damage(standing)}, none is whole; {ELSE}")
    if best is not None:
        raise InputError(
            f"run {standing.folder} stands at step {standing.whole[-1]}, but its best checkpoint so far, that of step {best}, "
            f"is damaged or gone, and the run cannot end with it; {ELSE}"
        )
    if strict and standing.damaged:
        newest = checkpoints / f"step_{standing.damaged[-1]}"
        raise InputError(
            f"run {standing.folder}: {_damage(standing)}; what is left is whole at step {standing.whole[-1]}: "
            f"remove {newest} to go on from there; or {ELSE}"
        )


def _damage(standing: Standing) -> str:
    plural = len(standing.damaged) > 1
    return f"its checkpoint{'s' if plural else ''} of step {', '.join(map(str, standing.damaged))} {'are' if plural else 'is'} damaged"
