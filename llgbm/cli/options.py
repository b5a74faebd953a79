"""Flags that several commands share: a config by preset or file, and any of its fields by dotted name."""

import argparse
import difflib
import json
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from llgbm.checking import type_name
from llgbm.config import LARGEST_SEED, ExperimentConfig, build, describe_fields, preset_values
from llgbm.dotted import flatten, merge
from llgbm.errors import InputError
from llgbm.files import read_yaml

if TYPE_CHECKING:
    from llgbm.training.standing import Begin
    from llgbm.zoo.base import BaseOptions

SHORT = {
    "probe.probe_type": ("--probe_type",),
    "training.report_to": ("--report_to",),
    "model.name": ("--base",),
    "model.dtype": ("--dtype",),
    "model.device": ("--device",),
    "model.revision": ("--revision",),
    "model.memory_gb": ("--memory_gb",),
}
"""Fields with a second, shorter flag."""


def make_parser(description: str, **options: Any) -> ArgumentParser:
    """A parser whose faults are exceptions and whose help is as written."""
    return ArgumentParser(description=description, exit_on_error=False, formatter_class=argparse.HelpFormatter, **options)


def add_config_arguments(parser: ArgumentParser, preset: str = "delta_multi", sections: tuple[str, ...] | None = None) -> None:
    """Add `--config`, `--config_file` and a flag for every config field.

    Args:
        parser: Where to add.
        preset: The preset used when neither is given.
        sections: Only fields of these sections (`""` for top-level ones) get a flag; None means all.
    """
    parser.add_argument("--config", type=str, default=preset, metavar="NAME", help="preset: a file of configs/ (default: %(default)s)")
    parser.add_argument("--config_file", type=str, default=None, metavar="FILE", help="YAML config file, instead of a preset")
    add_override_arguments(parser, sections, preset=preset)


def add_override_arguments(
    parser: ArgumentParser, sections: tuple[str, ...] | None = None, without: tuple[str, ...] = (), preset: str | None = None
) -> None:
    """Add a flag for every config field of the sections, but those in `without`; help shows a preset's value as the default."""
    groups: dict[str, Any] = {}
    values, label = (flatten(preset_values(preset)), "default") if preset else ({}, "default without a preset")
    for name, (kind, default, text) in describe_fields().items():
        section = name.rpartition(".")[0]
        if name in without or (sections is not None and section not in sections):
            continue
        group = groups.setdefault(section, parser.add_argument_group(f"{section or 'experiment'} config"))
        help = f"{text.rstrip('.')} ({type_name(kind)}; {label}: {_shown(values.get(name, default))})".replace("%", "%%")
        group.add_argument(f"--{name}", *SHORT.get(name, ()), type=str, default=None, metavar="VALUE", help=help)


def add_begin_arguments(parser: ArgumentParser) -> None:
    """Add `--resume` and `--overwrite`, of which one may be given."""
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of a run that was not finished")
    parser.add_argument("--overwrite", action="store_true", help="begin anew in a folder that holds a run, which is lost")


def read_begin(args: Namespace) -> "Begin":
    """What these two ask for; InputError when both are given."""
    if args.resume and args.overwrite:
        raise InputError("--resume goes on with a run, --overwrite begins it anew; give one of them")
    return "resume" if args.resume else "overwrite" if args.overwrite else "new"


def add_base_arguments(parser: ArgumentParser, made: str) -> None:
    """Add a flag for every field of section model, which (but for memory) is as recorded in what was `made` unless given."""
    group = parser.add_argument_group("base config")
    for name, (kind, _, text) in describe_fields().items():
        if name.startswith("model."):
            default = "" if name == "model.memory_gb" else f"; default: as {made} was made with"
            help = f"{text.rstrip('.')} ({type_name(kind)}{default})"
            group.add_argument(f"--{name}", *SHORT.get(name, ()), type=str, default=None, metavar="VALUE", help=help)


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


def read_given(args: Namespace, prefix: str = "") -> dict[str, Any]:
    """The config fields (those whose names begin so) given in so many words, in a file or as flags, by dotted name."""
    file = args.get("config_file")
    written = flatten(read_yaml(file)) if file else {}
    return {**{name: value for name, value in written.items() if name.startswith(prefix)}, **read_overrides(args, prefix)}


def read_config(args: Namespace) -> ExperimentConfig:
    """The config that flags ask for: preset or file first, single fields on top, whatever their order."""
    values = read_yaml(args.config_file) if args.config_file else preset_values(args.config)
    return build(merge(values, read_overrides(args)), source=args.config_file or f"config {args.config}")


def read_overrides(args: Namespace, prefix: str = "") -> dict[str, Any]:
    """The config fields (those whose names begin so) given as flags, by dotted name."""
    given, fields = args.as_flat(), {name: field for name, field in describe_fields().items() if name.startswith(prefix)}
    return {name: _parsed(name, getattr(given, name), fields[name][0]) for name in fields if getattr(given, name, None) is not None}


def require_at_least(flag: str, value: int | None, low: int = 1) -> None:
    """InputError when a flag's number is given and too small."""
    if value is not None and value < low:
        raise InputError(f"--{flag} is {value}; give {low} or more")


def require_seeds(flag: str, *values: int | None) -> None:
    """InputError when a flag's seed is given and is none that every random generator takes."""
    for value in values:
        if value is not None and not 0 <= value <= LARGEST_SEED:
            raise InputError(f"--{flag} is {value}; give a seed from 0 to {LARGEST_SEED}")


def suggest_field(message: str) -> str:
    """For a fault about an unknown flag, the config field that was probably meant."""
    _, unrecognized, flags = message.partition("unrecognized arguments: --")
    near = difflib.get_close_matches(flags.split()[0].split("=")[0], describe_fields(), n=1) if unrecognized else []
    return f" (did you mean --{near[0]}?)" if near else ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parsed(name: str, text: str, kind: Any) -> Any:
    """A flag's text as YAML, unless the field is text itself."""
    if kind is str:
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"--{name} {text!r} is not valid YAML; expected {type_name(kind)}") from error
