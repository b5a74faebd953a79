"""`llgbm study STEP`: LoRA against full fine-tuning, step by step; every step goes on where it stopped."""

import importlib
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.checking import type_name
from llgbm.cli.engine import add_engine, open_engine
from llgbm.cli.options import add_folder, add_json, parse_value, show_value
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.dotted import merge
from llgbm.errors import InputError
from llgbm.files import read_yaml
from llgbm.study.config import build_study, describe_study, study_presets, study_values
from llgbm.study.folder import CONFIG_FILE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from llgbm.fanout.crew import Engine
    from llgbm.study.config import StudyConfig
    from llgbm.study.folder import Study

HELP = "Compare LoRA with full fine-tuning, step by step."
EXAMPLE = "llgbm study run --config micro --search.trials 0"
OUTPUT = "outputs/study"
PRESET = "micro"


@dataclass(frozen=True)
class Step:
    """A step of a study."""

    module: str
    function: str
    """Takes a study and a progress callback; what it returns has `rows()`, for a table."""
    unit: str
    """What its progress counts."""
    help: str
    fans_out: bool = False
    """Whether its pieces run on an engine."""


STEPS: dict[str, Step] = {
    "check": Step("llgbm.study.sanity", "run_check", "examples", "see that models learn, and what untrained answers score"),
    "search": Step("llgbm.study.search", "run_search", "examples", "search hyperparameters on validation examples", True),
    "run": Step("llgbm.study.runs", "run_runs", "examples", "train every task by every method with every seed", True),
    "drift": Step("llgbm.study.drift", "run_drift", "runs", "measure how far each run moved from the base"),
    "deploy": Step("llgbm.study.deployment", "run_deploy", "rounds", "time what serving adapters costs against a merged model"),
    "hypotheses": Step("llgbm.study.hypotheses", "run_hypotheses", "claims", "test accuracy, drift and overhead against their margins"),
    "report": Step("llgbm.report.study", "run_report", "figures", "write report.html, report.md and figures"),
}
"""In their order."""


def add_arguments(parser: CommandParser) -> None:
    """Which step of which study."""
    steps = "; ".join(f"{name}: {step.help}" for name, step in STEPS.items())
    parser.add_argument("step", choices=[*STEPS, "all"], metavar="STEP", help=f"all, in this order, or one: {steps}")
    presets = ", ".join(study_presets())
    parser.add_argument(
        "--config",
        default=None,
        metavar="CONFIG",
        help=f"a YAML file, or one of {presets}; by default what --output was begun with, else {PRESET}",
    )
    add_folder(parser, "--output", default=None, help=f"the study's folder, by default {OUTPUT}/<config>")
    add_engine(parser)
    add_json(parser)
    groups: dict[str, Any] = {}
    for name, (kind, default, text) in describe_study().items():
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_config_group(f"{section or 'study'} config")
        groups[section].add_field(f"--{name}", f"{text.rstrip('.')} ({type_name(kind)}; default: {show_value(default)})", hidden=False)


def run(args: Namespace) -> int:
    """Do the step, show what it found."""
    from llgbm.study.folder import Study

    study = Study.open(read_study_config(args), args.output or Path(OUTPUT) / Path(args.config or PRESET).stem)
    found, steps = {}, [*STEPS] if args.step == "all" else [args.step]
    with _open_engine(args, study, steps) as engine:
        for name in steps:
            found[name] = _rows(study, name, engine)
            if not args.json:
                print_table(found[name], title=f"study {name}: {STEPS[name].help}")
    if args.json:
        print_json(found if args.step == "all" else found[args.step])
    else:
        print(f"written to {study.folder}")
    return 0


def read_study_config(args: Namespace) -> "StudyConfig":
    """The config that flags ask for: preset, file, or what the folder was begun with, first; single fields on top."""
    values, source = _read_config(args)
    kinds = {name: kind for name, (kind, _, _) in describe_study().items()}
    given = {name: parse_value(name, text, kinds[name]) for name, text in vars(args).items() if name in kinds and text is not None}
    return build_study(merge(values, given), source)


def _read_config(args: Namespace) -> tuple[dict[str, Any], str]:
    """Values, and what they are called."""
    from llgbm.study.folder import Study

    if args.config is None and args.output and (Path(args.output) / CONFIG_FILE).exists():
        return asdict(Study.load(args.output).config), str(args.output)
    name = args.config or PRESET
    return (read_yaml(name), name) if name.endswith((".yaml", ".yml")) else (study_values(name), f"config {name}")


def _open_engine(args: Namespace, study: "Study", steps: list[str]) -> "AbstractContextManager[Engine]":
    """The engine that flags ask for. InputError where none of the steps has work for it."""
    able = [name for name, step in STEPS.items() if step.fans_out]
    if args.engine != "local" and not {*able} & {*steps}:
        raise InputError(f"study {args.step} runs in this process; leave out --engine, which is for {', '.join(able)} and all")
    return open_engine(args, study.config.model.device, study.config.model.memory_gb)


def _rows(study: "Study", name: str, engine: "Engine") -> list[dict[str, Any]]:
    from llgbm.progress import ProgressBar

    step = STEPS[name]
    with ProgressBar(f"study {name}", step.unit) as progress:
        where = {"engine": engine} if step.fans_out else {}
        return getattr(importlib.import_module(step.module), step.function)(study, progress, **where).rows()
