"""What kill -9 leaves: work of six kinds is killed at random moments, and what lies there then is read.

    python scripts/crash.py [--kills 200] [--seed 0] [--kinds writing store imports deltas zoo training]

Each kind works in a forked process and says on a pipe what it has done for good; when it is killed, everything on the disk has to be
readable and everything that was said has to be there. Work that ends before it is killed is begun anew and does not count. Zoo, deltas
and training go on where they were killed and have to end with the bits of work that nobody killed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from llgbm.config import ExperimentConfig, get_config
from llgbm.delta import DeltaCache, compute_deltas, make_engine
from llgbm.files import hash_tensors, read_json, write_json
from llgbm.lora.peft_io import find_adapters
from llgbm.tracking.archive import export_archive, import_archive
from llgbm.tracking.record import ExperimentLogger, read_metrics
from llgbm.tracking.store import ArtifactStore
from llgbm.training.behavior import train_generator
from llgbm.training.checkpoints import complete_steps
from llgbm.zoo.build import build_zoo
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.manifest import is_zoo
from llgbm.zoo.suites import load_suite

SHARES = {"writing": 50, "store": 50, "imports": 40, "deltas": 20, "zoo": 20, "training": 20}
"""Kinds of work, and how many of 200 kills each gets."""
ENDLESS_S = 0.5
"""Work without an end is killed within this time."""


class Work(ABC):
    """One kind of work in a folder of its own."""

    def __init__(self, place: Path) -> None:
        self.place, self.folder = place, place / "work"
        self.longest_s = ENDLESS_S

    @abstractmethod
    def run(self, say: Callable[[str], None], trial: int) -> None:
        """Work, and say each thing that is done for good."""

    @abstractmethod
    def faults(self, said: list[str]) -> list[str]:
        """What is unreadable, and what was said and is not there; `said` since the folder was begun."""

    def finish(self) -> list[str]:
        """Faults of work that went on to its end."""
        return []


class Writing(Work):
    """JSON documents that are written over and over, and lines of metrics."""

    def run(self, say: Callable[[str], None], trial: int) -> None:
        log = ExperimentLogger(self.folder, "run")
        for n in range(10_000_000):
            number = trial * 10_000_000 + n
            write_json(self.folder / f"{n % 7}.json", {"n": number, "filling": "x" * random.randrange(200_000)})
            log.log_metrics(number, {"loss": 0.5})
            say(f"{n % 7} {number}")

    def faults(self, said: list[str]) -> list[str]:
        newest = {name: int(number) for name, number in (line.split() for line in said)}
        found = {path.stem: read_json(path)["n"] for path in sorted(self.folder.glob("*.json"))}
        lost = [f"{name}.json: {n} was said, {found.get(name)} is there" for name, n in newest.items() if found.get(name, -1) < n]
        log = self.folder / "run" / "metrics.jsonl"
        steps = {row["step"] for row in read_metrics(log)} if log.exists() else set()
        return lost + [f"step {line} is lost" for line in said if int(line.split()[1]) not in steps]


class Store(Work):
    """Artifacts of new content, put one after another."""

    def run(self, say: Callable[[str], None], trial: int) -> None:
        store = ArtifactStore(self.folder)
        source = self.place / "source.bin"
        for _ in range(10_000_000):
            source.write_bytes(os.urandom(random.randrange(1, 200_000)))
            say(store.put(f"made-{trial % 5}", source).ref)

    def faults(self, said: list[str]) -> list[str]:
        store = ArtifactStore(self.folder)
        there = {artifact.ref for artifact in store}
        return [str(fault) for fault in store.faults()] + [f"{ref} is lost" for ref in said if ref not in there]


class Imports(Work):
    """An archive of three artifacts, imported into new stores."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        store, refs = ArtifactStore(place / "from"), []
        for name in ("dataset-a", "zoo-a", "model-a"):
            (place / name).write_bytes(os.urandom(1_000_000))
            refs.append(store.put(name, place / name, inputs=refs[-1:]).ref)
        export_archive(store, refs[-1:], place / "archive.zip")
        self.refs = set(refs)

    def run(self, say: Callable[[str], None], trial: int) -> None:
        for n in range(10_000_000):
            import_archive(ArtifactStore(self.folder / f"{trial}-{n}"), self.place / "archive.zip")
            say(f"{trial}-{n}")

    def faults(self, said: list[str]) -> list[str]:
        found = []
        for folder in sorted(self.folder.iterdir()) if self.folder.exists() else []:
            store = ArtifactStore(folder)
            found += [f"{folder.name}: {fault}" for fault in store.faults()]
            if folder.name in said and {artifact.ref for artifact in store} != self.refs:
                found.append(f"{folder.name} was imported and is not whole")
            import_archive(store, self.place / "archive.zip")  # again, after whatever there was
            found += [f"{folder.name}: {fault}" for fault in store.faults()]
        shutil.rmtree(self.folder, ignore_errors=True)
        return found


class Resumed(Work):
    """Work that has an end, and goes on after a kill; what it makes is compared with what uninterrupted work made."""

    def __init__(self, place: Path, config: ExperimentConfig) -> None:
        super().__init__(place)
        self.config = config
        begun = time.perf_counter()
        self.run(lambda _: None, 0)
        self.longest_s = time.perf_counter() - begun
        self.whole = self.made()
        shutil.rmtree(self.folder)

    @abstractmethod
    def made(self) -> Any:
        """Hashes of what is there."""

    def finish(self) -> list[str]:
        self.run(lambda _: None, 0)
        return [] if self.made() == self.whole else ["other bits than uninterrupted work has"]


class Deltas(Resumed):
    """Deltas of a zoo's teachers, two by two."""

    def run(self, say: Callable[[str], None], trial: int) -> None:
        engine = make_engine(self.config)
        engine.adapters_at_once = 2
        adapters = find_adapters(self.config.checkpoint_folder)
        compute_deltas(engine, adapters, DeltaCache(self.folder), lambda done, *_, **__: say(str(done)))

    def made(self) -> dict[str, str]:
        return {path: delta.tobytes().hex() for path, delta in DeltaCache(self.folder).get_all_deltas().items()}

    def faults(self, said: list[str]) -> list[str]:
        cache = DeltaCache(self.folder)
        there, most = len(cache.get_all_deltas()), max(map(int, said), default=0)
        return cache.faults + ([f"{most} deltas were said, {there} are there"] if there < most else [])


class Zoo(Resumed):
    """Teachers, one in a batch."""

    def run(self, say: Callable[[str], None], trial: int) -> None:
        config = replace(self.config, checkpoint_folder=str(self.folder))
        build_zoo(config, lambda done, _, **within: None if within else say(str(done)))

    def made(self) -> dict[str, str]:
        return {teacher.path: teacher.hash for teacher in TeacherZoo.load(self.folder).teachers}

    def faults(self, said: list[str]) -> list[str]:
        most = max(map(int, said), default=0)
        if not is_zoo(self.folder):
            return [f"{most} teachers were said, and there is no zoo"] if most else []
        zoo = TeacherZoo.load(self.folder)
        there = len(zoo.teachers)
        return [*zoo.damaged().values(), *([f"{most} teachers were said, {there} are there"] if there < most else [])]


class Training(Resumed):
    """A generator, with a checkpoint after each step."""

    @property
    def own(self) -> ExperimentConfig:
        return replace(self.config, output_dir=str(self.folder), experiment_name="run")

    def run(self, say: Callable[[str], None], trial: int) -> None:
        begun = bool(complete_steps(self.folder / "run" / "checkpoints"))
        train_generator(self.own, "go_on" if begun else "overwrite", lambda step, _, **__: say(str(step)) if step else None)

    def made(self) -> str:
        return hash_tensors(load_file(self.folder / "run" / "generator" / "model.safetensors"))

    def faults(self, said: list[str]) -> list[str]:
        run, most = self.folder / "run", max(map(int, said), default=0)
        newest = max(complete_steps(run / "checkpoints"), default=0)
        steps = {row["step"] for row in read_metrics(run / "metrics.jsonl")} if (run / "metrics.jsonl").exists() else set()
        if (run / "metadata.json").exists():
            read_json(run / "metadata.json")
        lost = [f"step {most} was said, the newest checkpoint is {newest}"] if newest < most else []
        return lost + [f"step {step} is not in the metrics" for step in range(1, most + 1) if step not in steps]


@dataclass
class Tally:
    """What came of one kind."""

    kind: str
    kills: int = 0
    ended_before: int = 0
    said: int = 0
    """Things done for good before a kill."""
    faults: int = 0


def crash(kind: str, kills: int, place: Path, rng: random.Random) -> tuple[Tally, list[str]]:
    """Kill one kind of work so often, look after every kill; the count and the faults."""
    place.mkdir(parents=True)
    work, tally, found, trial = make(kind, place), Tally(kind), [], 0
    said: list[str] = []
    while tally.kills < kills:
        trial += 1
        new, killed = run_and_kill(work, trial, rng.uniform(0, work.longest_s))
        said += new
        tally.said += len(new)
        tally.kills += killed
        tally.ended_before += not killed
        found += [f"{kind}, trial {trial}: {fault}" for fault in work.faults(said)]
        if not killed:
            found += [f"{kind}, trial {trial}: {fault}" for fault in work.finish()]
            shutil.rmtree(work.folder, ignore_errors=True)
            said = []
    found += [f"{kind}, at the end: {fault}" for fault in work.finish()]
    tally.faults = len(found)
    return tally, found


def run_and_kill(work: Work, trial: int, after_s: float) -> tuple[list[str], bool]:
    """Fork, let it work, kill it; what it said, and whether it was killed (else it had ended). RuntimeError where it failed by itself."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            random.seed(trial)
            work.run(lambda text: os.write(writing, f"{text}\n".encode()), trial)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    os.set_blocking(reading, False)
    end, heard = time.monotonic() + after_s, b""
    while time.monotonic() < end:
        heard += _read(reading)
        time.sleep(min(0.002, max(0.0, end - time.monotonic())))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while more := _read(reading):
        heard += more
    os.close(reading)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"{type(work).__name__}: the work failed by itself in trial {trial}; its error stands above")
    lines = heard.decode().split("\n")
    return lines[:-1], os.WIFSIGNALED(status)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return b""


def make(kind: str, place: Path) -> Work:
    """A kind of work, with what it needs."""
    plain = {"writing": Writing, "store": Store, "imports": Imports}
    if kind in plain:
        return plain[kind](place)
    suite = load_suite("micro")
    suite.select([task.name for task in suite.select(split="seen").spaced(6)]).save(place / "suite")
    config = get_config("smoke")
    zoo = replace(config.zoo, suite=str(place / "suite"), steps=4, adapters_per_batch=1)
    training = replace(config.training, total_steps=12, save_interval=1, log_interval=1)
    config = replace(config, zoo=zoo, training=training, checkpoint_folder=str(place / "zoo"))
    if kind == "zoo":
        return Zoo(place, config)
    build_zoo(config)
    return Deltas(place, config) if kind == "deltas" else Training(place, config)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 where anything was unreadable or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=[*SHARES], default=[*SHARES])
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a fork has none of its parent's threads and would wait for them for ever
    rng, whole, faults = random.Random(args.seed), sum(SHARES[kind] for kind in args.kinds), []
    with tempfile.TemporaryDirectory(prefix="llgbm-crash-") as folder:
        for kind in args.kinds:
            tally, found = crash(kind, max(1, round(args.kills * SHARES[kind] / whole)), Path(folder) / kind, rng)
            faults += found
            print(json.dumps(vars(tally)), flush=True)
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
