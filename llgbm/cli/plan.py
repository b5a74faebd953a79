"""`llgbm plan`: what an experiment takes on devices of a kind, memory, time and money, before anything of it runs."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.cli.options import add_config_arguments, add_json, read_config, require_at_least
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.planning.costs import UnitCosts
    from llgbm.planning.plan import Plan

HELP = "Say what an experiment will take: memory, time, money."
EXAMPLE = "llgbm plan --config qwen2.5-7b --costs h100 --gpus 8 --adapters 10000"


def add_arguments(parser: CommandParser) -> None:
    """The experiment, the devices, and what they cost."""
    parser.add_argument("--gpus", "--devices", type=int, default=1, metavar="N", help="devices that share the work (default: %(default)s)")
    costs = "unit costs: a file of --calibrate, or h100 (default: measured here)"
    parser.add_argument("--costs", default=None, metavar="X", help=costs)
    parser.add_argument("--calibrate", default=None, metavar="FILE", help="measure this machine's unit costs into a JSON file, and stop")
    parser.add_argument(
        "--device_gb", type=float, default=None, metavar="GIB", help="memory of a device (default: as the costs say, or free)"
    )
    parser.add_argument("--price", type=float, default=None, metavar="X", help="of a device for an hour, in any currency")
    parser.add_argument("--adapters", type=int, default=None, metavar="N", help="as many teachers, each of a task (default: the suite's)")
    parser.add_argument("--tokens", type=int, default=None, metavar="N", help="length of an example (default: the suite's, else 128)")
    add_json(parser)
    add_config_arguments(parser, preset="delta_multi")


def run(args: Namespace) -> int:
    """Plan, and print a row for each stage; exit status 2 where it cannot fit."""
    from llgbm.planning.costs import load_costs
    from llgbm.planning.plan import Devices, make_plan, workload
    from llgbm.report.table import size

    for name in ("gpus", "adapters", "tokens"):
        require_at_least(name, getattr(args, name))
    for name in ("device_gb", "price"):
        if getattr(args, name) is not None and getattr(args, name) <= 0:
            raise InputError(f"--{name} is {getattr(args, name)}; it must be above 0")
    config = read_config(args)
    if args.calibrate is not None:
        costs = _measured(config.model.device, config.model.dtype)
        costs.save(args.calibrate)
        print_table([_costs_row(costs)], title=f"unit costs of {costs.device}, {costs.dtype}")
        print(f"written to {Path(args.calibrate)}")
        return 0
    costs = load_costs(args.costs) if args.costs else _measured(config.model.device, config.model.dtype)
    load, known_lengths = workload(config, args.adapters, args.tokens)
    plan = make_plan(config, load, Devices(args.gpus, _memory(args.device_gb, costs), costs))
    rows = [_row(plan, stage) for stage in plan.stages]
    cost = None if args.price is None else plan.device_hours * args.price
    if args.json:
        total = {"device_hours": plan.device_hours, "cost": cost, "measured": costs.measured, "lengths_measured": known_lengths}
        total |= {"adapters": load.adapters, "adapter_bytes": plan.adapter_bytes}
        print_json({"stages": rows, **total, "device": costs.device, "devices": args.gpus})
        return 0
    print_table(rows, title=f"{config.model.name} in {config.model.dtype} on {args.gpus} x {costs.device}", in_parts=True)
    print(f"in all {plan.device_hours:.2f} device hours" + ("" if cost is None else f", {cost:.2f} at {args.price:g} an hour"))
    one, all_of_them = size(plan.adapter_bytes), size(load.adapters * plan.adapter_bytes)
    print(f"{load.adapters} adapters of {one} take {all_of_them} on disk; writing and reading them is not in these hours")
    if not costs.measured:
        print("unit costs are assumed by a data sheet; measure yours with 'llgbm plan --calibrate FILE' on such a device")
    if not known_lengths and args.tokens is None:
        print(f"the base's tokenizer is not here: examples are taken to have {load.tokens} tokens, or say --tokens")
    return 0


def _measured(device: str, dtype: str) -> "UnitCosts":
    from llgbm.planning.costs import calibrate
    from llgbm.progress import ProgressBar
    from llgbm.zoo.base import check_usable

    try:
        check_usable(device)
    except InputError as error:
        raise InputError(f"{error}; to plan for one that is elsewhere give --costs: h100, or what --calibrate wrote there") from error
    with ProgressBar("calibrate", "samples") as progress:
        return calibrate(device, dtype, progress)


def _memory(asked: float | None, costs: "UnitCosts") -> float:
    """Bytes of a device."""
    import torch

    from llgbm.memory import GIB, free_bytes

    stated = asked or costs.memory_gb
    return stated * GIB if stated else free_bytes(torch.device("cpu"))


def _row(plan: "Plan", stage: Any) -> dict[str, Any]:
    from llgbm.memory import GIB

    return {
        "stage": stage.name,
        "what": stage.what,
        "devices": stage.devices,
        "GiB_each": round(stage.bytes / GIB, 2),
        "at_least": round(stage.least_bytes / GIB, 2),
        "hours": round(plan.seconds(stage) / 3600, 4),
    }


def _costs_row(costs: "UnitCosts") -> dict[str, Any]:
    return {
        "operation_us": costs.operations * 1e6,
        "wide_products_GFLOP/s": 1e-9 / costs.wide_flops if costs.wide_flops else None,
        "batched_GFLOP/s": 1e-9 / costs.batched_flops if costs.batched_flops else None,
        "GB/s": 1e-9 / costs.moved_bytes if costs.moved_bytes else None,
    }
