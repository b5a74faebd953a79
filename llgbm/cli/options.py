"""Flags that several commands share, each under one name: folders, the base, and any field of a config by dotted name."""

import json
from argparse import SUPPRESS, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llgbm.checking import type_name
from llgbm.cli.parser import CommandParser
from llgbm.config import CONFIGS, LARGEST_SEED, ExperimentConfig, build, describe_fields, preset_values
from llgbm.dotted import flatten, merge
from llgbm.errors import InputError
from llgbm.files import read_yaml
from llgbm.tracking.trackers import TRACKERS
from llgbm.zoo.manifest import is_zoo

if TYPE_CHECKING:
    from llgbm.training.standing import Begin
    from llgbm.zoo.base import BaseOptions

ZOO, DELTAS, RUN = "data/teacher_checkpoints", "deltas", "outputs/delta_multi"
"""Where `llgbm quickstart` puts them, and where every command looks unless told otherwise."""

DEFAULTS = ("checkpoint_folder", "delta_cache_dir", "zoo.suite", "seed")
"""Fields whose default stands in the help."""

ZOO_NAMES = ("--zoo", "--checkpoint_folder", "--checkpoint_dir", "--data_dir")
DELTAS_NAMES = ("--deltas", "--delta_cache_dir", "--cache_dir")
"""The names of a flag: the first is shown, the others are understood."""

SHOWN: dict[str, tuple[str, str]] = {
    "checkpoint_folder": ("--zoo", "the zoo of teachers"),
    "delta_cache_dir": ("--deltas", "the cache of deltas"),
    "zoo.suite": ("--suite", "micro, words, or a folder of JSONL"),
    "probe.probe_type": ("--probe_type", "probes: generic, math, code ... (--help_config)"),
    "seed": ("--seed", "seed of everything random"),
    "tracking.store": ("--store", "artifact store that gets what is made, and its inputs"),
    "training.report_to": ("--report_to", "tracker: trackio, tensorboard, wandb, mlflow"),
    "model.name": ("--base", "Hugging Face folder or hub id, or micro, built in"),
    "model.revision": ("--revision", "branch, tag or commit of a hub id"),
    "model.device": ("--device", "runs on: cpu, cuda, cuda:1, mps"),
    "model.dtype": ("--dtype", "float32, bfloat16, float16, int8 or nf4"),
    "model.memory_gb": ("--memory_gb", "memory that may be taken there, in GiB"),
}
"""Fields with a short flag, which stand in a command's help."""


def add_config_arguments(
    parser: CommandParser, preset: str | None = "delta_multi", sections: tuple[str, ...] | None = None, whole: bool = False
) -> None:
    """Add `--config` and a flag for every config field.

    Args:
        parser: Where to add.
        preset: The preset used when none is given; None leaves that to the command.
        sections: Only fields of these sections (`""` for top-level ones) get a flag; None means all.
        whole: The command is about a whole experiment: its config may stand without `--config`, can be printed, and has a run.
    """
    text = f"a YAML file, or one of {', '.join(CONFIGS)}" + (f" (default: {preset})" if preset else "")
    parser.add_argument("--config", "--config_file", default=None, metavar="CONFIG", help=text)
    parser.set_defaults(preset=preset)
    if whole:
        parser.bare = "config"
        parser.add_argument("--print_config", action="store_true", help="print the whole config as YAML, and do nothing")
        add_dry_run(parser)
    if sections is None:
        parser.add_argument("--run", default=None, metavar="DIR", help="the run's folder (default: outputs/<the config's name>)")
    add_override_arguments(parser, sections, preset=preset)


def add_override_arguments(
    parser: CommandParser, sections: tuple[str, ...] | None = None, without: tuple[str, ...] = (), preset: str | None = None
) -> None:
    """Add a flag for every config field of the sections, but those in `without`; help shows a preset's value as the default."""
    groups: dict[str, Any] = {}
    values, label = (flatten(preset_values(preset)), "default") if preset else ({}, "default without a preset")
    for name, (kind, default, text) in describe_fields().items():
        section = name.rpartition(".")[0]
        if name in without or (sections is not None and section not in sections):
            continue
        if name in SHOWN:
            value = values.get(name, default)
            _add_shown(parser, name, f" (default: {value})" if name in DEFAULTS else "")
        if section not in groups:
            groups[section] = parser.add_config_group(f"{section or 'experiment'} config")
        shown = f"{text.rstrip('.')} ({type_name(kind)}; {label}: {show_value(values.get(name, default))})"
        groups[section].add_field(f"--{name}", shown, hidden=name in SHOWN)


def _add_shown(parser: CommandParser, name: str, more: str = "") -> None:
    flag, text = SHOWN[name]
    others = {"checkpoint_folder": ZOO_NAMES, "delta_cache_dir": DELTAS_NAMES}.get(name, (flag, f"--{name}"))
    parser.add_argument(*dict.fromkeys((flag, *others)), dest=name, default=None, metavar="X", help=text + more)


def add_base_arguments(parser: CommandParser, made: str, without: tuple[str, ...] = (), **others: str) -> None:
    """Add a flag for every field of section model, which (but for memory and attention) is as recorded in what was `made` unless given.

    Args:
        parser: Where to add.
        made: What the default is of, in the help.
        without: Fields of that section that get no flag.
        others: Field -> its default in words, where it is not as recorded.
    """
    for name in describe_fields():
        section, _, field = name.partition(".")
        if section != "model" or field in without:
            continue
        if name in SHOWN:
            default = others.get(field, f"{made}'s")
            _add_shown(parser, name, "" if field == "memory_gb" else f" (default: {default})")
        else:
            parser.add_argument(f"--{name}", dest=name, default=None, help=SUPPRESS)


def add_folder(parser: CommandParser, *names: str, default: str | None, help: str) -> None:
    """Add a flag for a folder: its name, and older names for it."""
    parser.add_argument(*names, default=default, metavar="DIR", help=help + (" (default: %(default)s)" if default else ""))


def add_json(parser: CommandParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def add_tracker(parser: CommandParser) -> None:
    """Add `--report_to` to a command that takes no config."""
    flag, text = SHOWN["training.report_to"]
    parser.add_argument(flag, default=None, choices=tuple(TRACKERS), metavar="X", help=text)


def add_dry_run(parser: CommandParser) -> None:
    """Add `--dry_run`."""
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, where, how long; do nothing")


def add_begin_arguments(parser: CommandParser) -> None:
    """Add `--resume` and `--overwrite`, of which one may be given."""
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of an unfinished run")
    parser.add_argument("--overwrite", action="store_true", help="begin anew in a folder that holds a run, which is lost")


def read_begin(args: Namespace) -> "Begin":
    """What these two ask for; InputError when both are given."""
    if args.resume and args.overwrite:
        raise InputError("--resume goes on with a run, --overwrite begins it anew; give one of them")
    return "resume" if args.resume else "overwrite" if args.overwrite else "new"


def read_base_options(args: Namespace) -> "BaseOptions":
    """What flags ask of a recorded base: another place, precision, device or memory."""
    from llgbm.zoo.base import BaseOptions

    given = read_given(args, "model.")
    build(merge({}, given), source="flags")
    return BaseOptions(**{name.removeprefix("model."): value for name, value in given.items()})


def read_config_of_zoo(args: Namespace) -> ExperimentConfig:
    """`read_config`, with what its zoo decides as the zoo has it; InputError where a flag or the file asks for something else."""
    from llgbm.workspace import settle
    from llgbm.zoo.folder import TeacherZoo

    config = read_config(args)
    return settle(config, TeacherZoo.load(config.checkpoint_folder), read_given(args))


def read_config_to_print(args: Namespace) -> ExperimentConfig:
    """`read_config_of_zoo`, or `read_config` where there is no zoo yet."""
    config = read_config(args)
    return read_config_of_zoo(args) if is_zoo(config.checkpoint_folder) else config


def read_given(args: Namespace, prefix: str = "") -> dict[str, Any]:
    """The config fields (those whose names begin so) given in so many words, in a file or as flags, by dotted name."""
    source = getattr(args, "config", None)
    written = flatten(read_yaml(source)) if source and _is_path(source) else {}
    return {**{name: value for name, value in written.items() if name.startswith(prefix)}, **read_overrides(args, prefix)}


def read_config(args: Namespace) -> ExperimentConfig:
    """The config that flags ask for: preset or file first, single fields on top, whatever their order."""
    source = args.config or args.preset
    values = read_yaml(source) if _is_path(source) else preset_values(source)
    return build(merge(values, read_overrides(args)), source=source if _is_path(source) else f"config {source}")


def _is_path(source: str) -> bool:
    """Whether a config is a file's; what is neither a preset nor a file's is for `preset_values` to name."""
    return source not in list(CONFIGS) and (source.endswith((".yaml", ".yml")) or "/" in source or Path(source).is_file())


def read_overrides(args: Namespace, prefix: str = "") -> dict[str, Any]:
    """The config fields (those whose names begin so) given as flags, by dotted name."""
    given, fields = vars(args), {name: field for name, field in describe_fields().items() if name.startswith(prefix)}
    values = {name: parse_value(name, given[name], fields[name][0]) for name in fields if given.get(name) is not None}
    return {**values, **(_of_run(given, prefix) if "output_dir" in given else {})}


def _of_run(given: dict[str, Any], prefix: str) -> dict[str, str]:
    """What `--run DIR` says of a training's folder."""
    if given.get("run") is None or prefix:
        return {}
    twice = next((name for name in ("output_dir", "experiment_name") if given[name] is not None), None)
    if twice is not None:
        raise InputError(f"--run {given['run']} says where the run goes; leave out --{twice}")
    folder = Path(given["run"])
    return {"output_dir": str(folder.parent), "experiment_name": folder.name}


def require_at_least(flag: str, value: int | None, low: int = 1) -> None:
    """InputError when a flag's number is given and too small."""
    if value is not None and value < low:
        raise InputError(f"--{flag} is {value}; give {low} or more")


def require_seeds(flag: str, *values: int | None) -> None:
    """InputError when a flag's seed is given and is none that every random generator takes."""
    for value in values:
        if value is not None and not 0 <= value <= LARGEST_SEED:
            raise InputError(f"--{flag} is {value}; give a seed from 0 to {LARGEST_SEED}")


def show_value(value: Any) -> str:
    """A field's value as a help shows it."""
    return value if isinstance(value, str) else json.dumps(value)


def parse_value(name: str, text: str, kind: Any) -> Any:
    """A flag's text as YAML, unless the field is text itself. InputError when it is no YAML."""
    if kind is str:
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"--{name} {text!r} is not valid YAML; expected {type_name(kind)}") from error
