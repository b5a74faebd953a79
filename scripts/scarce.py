"""What commands do where the system gives too little: a disk that is full, files that may not grow, memory that is refused.

    python scripts/scarce.py [--of disk files memory] [--kinds zoo import deltas training ...] [--growth 0.3]

Each command is given too little at first and a random bit more every time (up to `--growth` of it), until it ends well. Until then it has
to end with exit status 2 and one sentence that says what was refused, where, and what helps; nothing half-written may lie there; what was
done for good has to stay; and the last run's result has to be that of a run that had enough. A full disk is a real one, in memory, in a
mount namespace of its own (Linux, `unshare`).
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from llgbm.cli import GOES_ON
from llgbm.cli import main as llgbm
from llgbm.config import get_config
from llgbm.delta import DeltaCache
from llgbm.files import hash_file, hash_tensors, read_json
from llgbm.tracking.store import ArtifactStore
from llgbm.training.checkpoints import complete_steps
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.manifest import is_zoo
from llgbm.zoo.suites import load_suite

KIB = 1 << 10
INSIDE = "LLGBM_SCARCE_INSIDE"
"""Set in the process that may mount."""
FIRST, MOST_TRIES = 16, 200
"""KiB that are given at first, and how often more is given at most."""


class Scarcity:
    """One thing there is too little of.

    Args:
        place: A folder on a disk with enough room.
    """

    said: str
    """What the sentence has to say."""
    names_place = True
    """Whether the sentence has to name a file."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "room"
        self.folder.mkdir(parents=True)

    def begin(self) -> None:
        """Before anything runs."""

    def give(self, amount: int) -> None:
        """Set how much there is, for all processes."""

    def limit(self, amount: int) -> None:
        """Set how much there is, for this process."""

    def end(self) -> None:
        """When everything is done."""


class Disk(Scarcity):
    """A file system in memory of a few KiB."""

    said = "No space left on device; free some there"

    def begin(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(self.folder)], check=True)

    def give(self, amount: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={amount}k", str(self.folder)], check=True)

    def end(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


class Files(Scarcity):
    """Files may have a few KiB."""

    said = "File too large; let files grow larger (ulimit -f)"

    def limit(self, amount: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (amount * KIB, resource.RLIM_INFINITY))


class Memory(Scarcity):
    """The process may map a little more than it has mapped: 64 KiB for each that is given, since a process maps in large pieces."""

    said = "memory ran out"
    names_place = False

    def limit(self, amount: int) -> None:
        limit = psutil.Process().memory_info().vms + 64 * amount * KIB
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


SCARCITIES: dict[str, type[Scarcity]] = {"disk": Disk, "files": Files, "memory": Memory}


@dataclass(frozen=True)
class Kind:
    """A command on a folder, and what one sees of it there."""

    command: Callable[[Path], list[str]]
    done: Callable[[Path], set[str]]
    """What is there for good, whole."""
    result: Callable[[Path], Any]
    """What a whole run left."""


@dataclass
class Tally:
    """What came of one kind."""

    of: str
    kind: str
    refused: int = 0
    """Runs that had too little."""
    done: int = 0
    """Things they did for good all the same."""
    faults: int = 0


def starve(of: str, name: str, kind: Kind, place: Path, grown: Callable[[int], int]) -> tuple[Tally, list[str]]:
    """Give a command more and more until it ends well; the count, and what was wrong."""
    place.mkdir(parents=True)
    enough = place / "enough"
    status, said = run(kind.command(enough), place, lambda: None)
    if status:
        return Tally(of, name, faults=1), [f"{name} with enough of everything: {said}"]
    scarcity, tally, found = SCARCITIES[of](place), Tally(of, name), []
    scarcity.begin()
    try:
        folder, before, amount = scarcity.folder / "work", set[str](), FIRST
        for _ in range(MOST_TRIES):
            amount = grown(amount)
            scarcity.give(amount)
            status, said = run(kind.command(folder), place, lambda amount=amount: scarcity.limit(amount))
            where = f"{of}, {name}, {amount}"
            if status == 0:
                break
            tally.refused += 1
            done = kind.done(folder)
            found += [f"{where}: {fault}" for fault in (*wrong(scarcity, status, said), *(f"{it} is lost" for it in sorted(before - done)))]
            before = done
        else:
            found.append(f"{of}, {name}: {MOST_TRIES} tries were not enough")
        tally.done = len(before)
        if status == 0 and kind.result(folder) != kind.result(enough):
            found.append(f"{of}, {name}: another result than that of a run that had enough")
    finally:
        scarcity.end()
    tally.faults = len(found)
    return tally, found


def wrong(scarcity: Scarcity, status: int, said: str) -> list[str]:
    """What is not as it should be after a run that had too little."""
    *_, last = ["", *said.splitlines()]
    found = [] if status == 2 else [f"exit status {status}: {said[-600:]}"]
    if scarcity.said not in last or GOES_ON not in last or "Traceback" in said:
        found.append(f"it said: {said[-600:]}")
    elif scarcity.names_place and str(scarcity.folder) not in last:
        found.append(f"the sentence names no file: {last}")
    return found + [f"{path} was left" for path in scarcity.folder.rglob("*.tmp")]


def run(command: Sequence[str], place: Path, limit: Callable[[], None]) -> tuple[int, str]:
    """Run a command in a process of its own; its exit status, negative by a signal, and what it said on standard error."""
    heard = place / "heard"
    with heard.open("wb") as file, (place / "shown").open("wb") as shown:
        child = os.fork()
        if not child:
            os.dup2(shown.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
            status = 99
            try:
                limit()
                status = llgbm(command)
                sys.stdout.flush()
            finally:
                os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), heard.read_text()


def make_kinds(world: Path) -> dict[str, Kind]:
    """Commands over a small zoo, its deltas and a generator, which are made here."""
    suite = load_suite("micro")
    suite.select([task.name for task in suite.select(split="seen").spaced(6)]).save(world / "suite")
    config = get_config("smoke")
    zoo = replace(config.zoo, suite=str(world / "suite"), steps=4, adapters_per_batch=1)
    training = replace(config.training, total_steps=4, save_interval=1, log_interval=1)
    replace(config, zoo=zoo, training=training).save(world / "config.yaml")
    own = ["--config", str(world / "config.yaml"), "--quiet"]
    zoo_flag, run_flag, deltas_flag = (f"--{name}={world / name}" for name in ("zoo", "run", "deltas"))
    for command in (
        ["zoo", "build", *own, zoo_flag],
        ["compute-deltas", zoo_flag, deltas_flag, "--quiet"],
        ["train", *own, zoo_flag, run_flag],
    ):
        assert llgbm(command) == 0, command
    scored = ["evaluate", run_flag, zoo_flag, "--methods", "base", "teacher", "generated", "--max_examples", "2", "--quiet"]
    train = ["train", *own, zoo_flag]
    artifact = ["artifacts", "put", "zoo-small", str(world / "zoo")]
    description = ["--description", "Write the string backwards."]
    return {
        "zoo": Kind(lambda at: ["zoo", "build", *own, f"--zoo={at}"], _teachers, _teachers),
        "import": Kind(lambda at: ["zoo", "import", str(world / "zoo"), f"--zoo={at}"], _teachers, _teachers),
        "deltas": Kind(lambda at: ["compute-deltas", zoo_flag, f"--deltas={at}", "--quiet"], _deltas, _deltas),
        "training": Kind(lambda at: [*train, f"--run={at}", *(["--resume"] if _steps(at) else [])], _steps, _trained),
        "evaluation": Kind(lambda at: [*scored, f"--scores={at / 'scores'}", f"--output={at}"], _scores, _evaluated),
        "store": Kind(lambda at: [*artifact, f"--store={at}"], _artifacts, _artifacts),
        "generate": Kind(lambda at: ["generate", run_flag, *description, f"--output={at}"], _nothing, _files),
        "pictures": Kind(
            lambda at: ["visualize", "--type=deltas", f"--input_dir={world / 'deltas'}", f"--output_dir={at}", "--no_umap"],
            _nothing,
            _names,
        ),
        "report": Kind(lambda at: ["report", str(world / "run"), f"--output={at / 'report.html'}"], _nothing, _names),
    }


def _nothing(folder: Path) -> set[str]:
    return set()


def _teachers(folder: Path) -> set[str]:
    if not is_zoo(folder):
        return set()
    zoo = TeacherZoo.load(folder)
    damaged = zoo.damaged()
    return {f"{teacher.path} {teacher.hash}" for teacher in zoo.teachers if teacher.path not in damaged}


def _deltas(folder: Path) -> set[str]:
    return {f"{path} {delta.tobytes().hex()}" for path, delta in DeltaCache(folder).get_all_deltas().items()}


def _steps(folder: Path) -> set[str]:
    """The newest checkpoint; earlier ones go."""
    return {f"step {step}" for step in range(1, max(complete_steps(folder / "checkpoints"), default=0) + 1)}


def _trained(folder: Path) -> Any:
    figures = read_json(folder / "training.json")
    rows = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return hash_tensors(load_file(folder / "generator" / "model.safetensors")), figures["steps"], rows


def _scores(folder: Path) -> set[str]:
    return {path.name for path in (folder / "scores").rglob("*.json")}


def _evaluated(folder: Path) -> Any:
    return read_json(folder / "eval_main.json")["splits"]


def _artifacts(folder: Path) -> set[str]:
    store = ArtifactStore(folder)
    faults = store.faults()
    assert not faults, faults
    return {artifact.ref for artifact in store}


def _files(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path) for path in folder.iterdir() if path.name != "README.md"}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.stat().st_size > 0}


def _may_mount(arguments: Sequence[str]) -> None:
    """Go on in a namespace where one may mount; SystemExit where the system has none."""
    if INSIDE in os.environ:
        return
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--map-root-user", "--mount", sys.executable, __file__, *arguments])


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 where anything was not as it should be."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", nargs="+", choices=[*SCARCITIES], default=[*SCARCITIES])
    parser.add_argument("--kinds", nargs="+", default=None)
    parser.add_argument("--growth", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(given)
    torch.set_num_threads(1)  # a fork has none of its parent's threads and would wait for them for ever
    if "disk" in args.of:
        _may_mount(given)
    found, rng = [], random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="llgbm-scarce-") as name:
        kinds = make_kinds(Path(name) / "world")
        for of in args.of:
            for kind in args.kinds or kinds:
                tally, faults = starve(
                    of, kind, kinds[kind], Path(name) / of / kind, lambda now: now + 1 + int(rng.uniform(0, args.growth * now))
                )
                found += faults
                print(json.dumps(vars(tally)), flush=True)
                for fault in faults:
                    print(fault, file=sys.stderr, flush=True)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
