"""`llgbm bench`: our way and the reference way of the same work, side by side in one process."""

import importlib
from argparse import Namespace
from pathlib import Path
from typing import Any

from llgbm.cli.options import add_config_arguments, add_folder, add_json, read_config
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser

HELP = "Measure our way against the reference way."
EXAMPLE = "llgbm bench step"

BENCHMARKS: dict[str, tuple[str, str]] = {
    "teachers": ("llgbm.bench.teachers", "bench_teachers"),
    "forward": ("llgbm.bench.forward", "bench_forward"),
    "compile": ("llgbm.bench.compiled", "bench_compile"),
    "dtypes": ("llgbm.bench.dtypes", "bench_dtypes"),
    "deltas": ("llgbm.bench.deltas", "bench_deltas"),
    "deltas-100m": ("llgbm.bench.deltas", "bench_deltas_100m"),
    "step": ("llgbm.bench.step", "bench_step"),
    "step-100m": ("llgbm.bench.step", "bench_step_100m"),
    "fanout": ("llgbm.bench.fanout", "bench_fanout"),
    "generate": ("llgbm.bench.generate", "bench_generate"),
    "retrieve": ("llgbm.bench.retrieve", "bench_retrieve"),
    "broken": ("llgbm.bench.broken", "bench_broken"),
    "cache": ("llgbm.bench.cache", "bench_cache"),
    "evaluate": ("llgbm.bench.evaluate", "bench_evaluate"),
    "queries": ("llgbm.bench.queries", "bench_queries"),
    "serve": ("llgbm.bench.serve", "bench_serve"),
    "hostile": ("llgbm.bench.hostile", "bench_hostile"),
    "tracking": ("llgbm.bench.tracking", "bench_tracking"),
    "store": ("llgbm.bench.tracking", "bench_store"),
    "memory-500m": ("llgbm.bench.memory", "bench_memory_500m"),
    "plan": ("llgbm.bench.plan", "bench_plan"),
}
"""Name -> module and function; the function takes a config and returns figures."""


def add_arguments(parser: CommandParser) -> None:
    """Which benchmark, and where its figures go."""
    parser.add_argument("name", choices=[*BENCHMARKS, "all"], metavar="NAME", help=f"all, or one of {', '.join(BENCHMARKS)}")
    add_folder(parser, "--output", "--result_dir", default="outputs/bench", help="where bench_<name>.json goes")
    add_json(parser)
    add_config_arguments(parser, sections=("", "model", "lora", "zoo", "probe", "delta", "training"))


def run(args: Namespace) -> int:
    """Run, write the JSON with the machine it ran on and a picture of the seconds, show the figures."""
    from llgbm.files import write_json
    from llgbm.tracking.environment import get_environment_info, get_git_info

    config, results = read_config(args), {}
    for name in BENCHMARKS if args.name == "all" else [args.name]:
        module, function = BENCHMARKS[name]
        results[name] = getattr(importlib.import_module(module), function)(config)
        record = {"figures": results[name], "environment": get_environment_info(), "git": get_git_info()}
        write_json(Path(args.output) / f"bench_{name}.json", record)
        _draw(name, results[name], Path(args.output))
        if not args.json:
            _show(name, results[name])
    if args.json:
        print_json(results)
    return 0


def _draw(name: str, figures: dict[str, Any], folder: Path) -> None:
    """Bars of every way's seconds, where the benchmark gives them as `<way>_s`."""
    from llgbm.report.plots import plot_seconds

    seconds = {key.removesuffix("_s"): value for key, value in figures.items() if key.endswith("_s")}
    if len(seconds) > 1:
        plot_seconds(seconds, f"bench {name}", folder / f"bench_{name}.png")


def _show(name: str, figures: dict[str, Any]) -> None:
    rows = figures.get("rows") or [{"figure": key, "value": value} for key, value in figures.items() if not isinstance(value, dict | list)]
    print_table(rows, title=f"bench {name}")
