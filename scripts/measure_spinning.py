"""What waiting OpenMP threads cost: one training step by how long they spin, alone on the machine and beside another program.

    python scripts/measure_spinning.py [--rounds 3] [--spins default 10000 0]

Every figure is the median of the steps of one fresh process; settings are measured in turn, `rounds` times. `default` leaves OpenMP
as it is, a number is `GOMP_SPINCOUNT`, and 0 is also `OMP_WAIT_POLICY=PASSIVE`. The other program is the same step with OpenMP as it is.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

BASES = {"micro": 30, "100m": 3}
"""Steps to time on each base."""


def time_steps(name: str, n_steps: int | None) -> list[float]:
    """Seconds of steps on one base; without a count, steps without end."""
    from llgbm.bench.deltas import random_qwen2
    from llgbm.bench.step import encode_step, ours, prepare_step
    from llgbm.config import ExperimentConfig
    from llgbm.zoo.base import Base, load_base
    from llgbm.zoo.suites import load_suite

    base = load_base("micro")
    adapters = 16
    if name == "100m":
        base, adapters = Base(random_qwen2(len(base.tokenizer), "cpu"), base.tokenizer, "qwen2-100m"), 8
    step = prepare_step(base, ExperimentConfig(), encode_step(base, load_suite("micro"), adapters, 4), adapters)
    ours(step)
    if n_steps is None:
        print("ready", flush=True)
    seconds = []
    while n_steps is None or len(seconds) < n_steps:
        start = time.perf_counter()
        ours(step)
        seconds.append(time.perf_counter() - start)
    return seconds


def environment(spin: str) -> dict[str, str]:
    """The variables of a process whose OpenMP spins so long."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    if spin == "default":
        return kept
    return kept | {"GOMP_SPINCOUNT": spin} | ({"OMP_WAIT_POLICY": "PASSIVE"} if spin == "0" else {})


def measure(name: str, spin: str) -> float:
    """Median seconds of a step in a fresh process."""
    child = [sys.executable, __file__, "--child", name, "--steps", str(BASES[name])]
    printed = subprocess.run(child, env=environment(spin), capture_output=True, text=True, check=True).stdout
    return statistics.median(map(float, printed.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spins", nargs="+", default=["default", "10000", "0"])
    parser.add_argument("--child", choices=BASES, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(*time_steps(args.child, args.steps))
        return
    for beside in (False, True):
        other = None
        if beside:
            other = subprocess.Popen([sys.executable, __file__, "--child", "micro"], env=environment("default"), stdout=subprocess.PIPE)
            assert other.stdout is not None
            other.stdout.readline()
        for name in BASES:
            found: dict[str, list[float]] = {spin: [] for spin in args.spins}
            for _ in range(args.rounds):
                for spin in args.spins:
                    found[spin].append(measure(name, spin))
            first = found[args.spins[0]]
            for spin, seconds in found.items():
                ratio = statistics.median(mine / theirs for mine, theirs in zip(seconds, first, strict=True))
                all_seconds = " ".join(f"{value:.3f}" for value in seconds)
                print(f"{'beside another' if beside else 'alone':15} {name:6} spin {spin:8} {all_seconds}  {ratio:.2f}x", flush=True)
        if other:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()
