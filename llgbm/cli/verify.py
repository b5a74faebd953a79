"""`llgbm verify`: is this installation whole, and does it compute what it should?"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from llgbm.cli.options import add_json
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

HELP = "Check the installation, or a base of your own for a suite."
EXAMPLE = "llgbm verify --base my_base --suite my_suite"

TOLERANCE = 1e-5
OF_BASE = ("dtype", "device", "revision", "suite", "end_token", "max_length")
"""Flags that say how a base is checked; the device is also that of `--deterministic`."""


def add_arguments(parser: CommandParser) -> None:
    """A base to check instead of the installation, and how to print."""
    base = "a base to check for --suite instead: padding, end token, lengths"
    parser.add_argument("--base", "--model.name", default=None, metavar="X", help=base)
    for flag, about in (
        ("dtype", "float32, bfloat16, float16, int8 or nf4"),
        ("device", "cpu, cuda, cuda:1 or mps"),
        ("revision", "of a hub id"),
    ):
        parser.add_argument(f"--{flag}", f"--model.{flag}", default=None, metavar="X", help=f"of that base: {about}")
    suite = "for that base: micro, words, or a folder of JSONL files (default: micro)"
    parser.add_argument("--suite", "--zoo.suite", default=None, metavar="X", help=suite)
    parser.add_argument("--end_token", "--zoo.end_token", default=None, metavar="X", help="what ends an answer (default: the base's)")
    parser.add_argument("--max_length", "--zoo.max_length", type=int, default=None, metavar="N", help="longest example in tokens")
    seven = "instead: seven points that decide whether runs repeat to the bit"
    parser.add_argument("--deterministic", action="store_true", help=seven)
    parser.add_argument("--strict", action="store_true", help="with it: exit status 1 when a point fails")
    parser.add_argument("--recorded", default=None, metavar="DIR", help="with it: compare versions with this run or zoo")
    add_json(parser)


def run(args: Namespace) -> int:
    """Exit status 1 when a check fails; every check runs all the same."""
    _refuse_unread(args)
    if args.deterministic:
        return _deterministic(args)
    if args.strict or args.recorded is not None:
        raise InputError("--strict and --recorded are about the points of --deterministic; give it too")
    installation = args.base is None
    rows = [*_packages(), *(_checked(name, check) for name, check in CHECKS.items())] if installation else _base_rows(args)
    if args.json:
        print_json({"ok": all(row["ok"] for row in rows), "checks": rows})
    else:
        print_table([{**row, "ok": "ok" if row["ok"] else "FAILED"} for row in rows], title="llgbm verify")
    return 0 if all(row["ok"] for row in rows) else 1


def _refuse_unread(args: Namespace) -> None:
    """InputError for flags of a base where none is checked."""
    if args.deterministic and args.base is not None:
        raise InputError("--base and --deterministic check different things; give one of them")
    read = {"device"} if args.deterministic else set(OF_BASE) if args.base is not None else set()
    unread = next((name for name in OF_BASE if name not in read and getattr(args, name) is not None), None)
    if unread is not None:
        raise InputError(f"--{unread} says how a base is checked; give that as --base, or leave --{unread} out")


def _deterministic(args: Namespace) -> int:
    """The seven points of this process, seeded as every stage seeds itself; exit status 1 when one fails and `--strict` asks for it."""
    from dataclasses import asdict

    from llgbm.tracking.environment import set_seed
    from llgbm.tracking.validation import FAIL, recorded_environment, validate

    set_seed(0)
    found = validate(0, args.device or "cpu", recorded=recorded_environment(args.recorded) if args.recorded else None)
    failed = any(point.status == FAIL for point in found)
    if args.json:
        print_json({"ok": not failed, "points": [asdict(point) for point in found]})
    else:
        print_table([asdict(point) for point in found], title="llgbm verify --deterministic")
    return int(failed and args.strict)


def _base_rows(args: Namespace) -> list[dict[str, Any]]:
    """What `zoo build` asks of a base first."""
    from llgbm.config import build
    from llgbm.framing import Framing
    from llgbm.zoo.base import load_configured
    from llgbm.zoo.check import check_base
    from llgbm.zoo.suites import load_suite

    given = {name: getattr(args, name) for name in OF_BASE if getattr(args, name) is not None}
    model = {name: given.pop(name) for name in ("dtype", "device", "revision") if name in given}
    config = build({"model": {"name": args.base, **model}, "zoo": given}, source="verify")
    zoo, base, suite = config.zoo, load_configured(config.model), load_suite(config.zoo.suite)
    found = check_base(base, Framing.of(base, suite, zoo), suite)
    return [{"check": finding.check, "ok": finding.ok, "found": finding.found} for finding in found]


def _checked(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "found": check()}
    except Exception as error:  # a broken installation can fail in any way; the table says how
        return {"check": name, "ok": False, "found": f"{type(error).__name__}: {error}"}


def _packages() -> Iterator[dict[str, Any]]:
    """Each runtime dependency, its version, and whether that is what the package asks for."""
    from llgbm.tracking.environment import get_requirements

    for name, version, asked in get_requirements():
        if version is None:
            yield {"check": name, "ok": False, "found": f"not installed, needs {asked or 'any version'}"}
            continue
        fits = asked.contains(version, prereleases=True)
        yield {"check": name, "ok": fits, "found": version if fits else f"{version}, needs {asked}"}


def _base_hash() -> str:
    from llgbm.files import hash_file
    from llgbm.zoo.named import MICRO_FOLDER

    expected = (MICRO_FOLDER / "SHA256").read_text(encoding="utf-8").split()[0]
    found = hash_file(MICRO_FOLDER / "model.safetensors")
    if found != expected:
        raise ValueError(f"weights have SHA-256 {found[:16]}, expected {expected[:16]}; install the package again")
    return f"SHA-256 {found[:16]}"


def _forward() -> str:
    import torch

    from llgbm.zoo.base import load_base

    base = load_base("micro")
    inputs = base.tokenizer("### Instruction:\nabc\n\n### Response:\n", return_tensors="pt")
    with torch.no_grad():
        logits = base.model(**inputs).logits
    if not bool(logits.isfinite().all()):
        raise ValueError("logits are not finite")
    return f"{sum(p.numel() for p in base.model.parameters()):,} parameters, logits {tuple(logits.shape)}"


def _against_peft() -> str:
    from llgbm.bench.forward import bench_forward
    from llgbm.config import get_config

    figures = bench_forward(get_config(), n_adapters=2, sequences=2, repeats=1)
    difference, effect = figures["max_difference_to_peft"], figures["largest_effect_of_an_adapter"]
    if difference > TOLERANCE or effect < 100 * TOLERANCE:
        raise ValueError(
            f"functional LoRA differs from PEFT by {difference:.1e} (at most {TOLERANCE:.0e} is right) at an effect of {effect:.1e}"
        )
    return f"logits differ by {difference:.1e}, adapters change them by up to {effect:.1e}"


CHECKS: dict[str, Callable[[], str]] = {"shipped base": _base_hash, "forward": _forward, "functional vs PEFT": _against_peft}
