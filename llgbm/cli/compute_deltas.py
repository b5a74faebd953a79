"""`llgbm compute-deltas`: fingerprints of a folder of adapters, and what they say."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from llgbm.cli.options import add_config_arguments, read_base_options, read_config
from llgbm.cli.output import print_json, print_table

if TYPE_CHECKING:
    from llgbm.config import ProbeConfig
    from llgbm.delta import DeltaReport
    from llgbm.probes import ProbeSet

HELP = "Compute the delta activations of a folder of adapters into a cache."


def add_arguments(parser: ArgumentParser) -> None:
    """Folders, the probe set, and the fields of model (a zoo says which base it has), probe and delta."""
    parser.add_argument(
        "--checkpoint_dir", type=str, default="data/teacher_checkpoints", help="folder of PEFT adapters (default: %(default)s)"
    )
    parser.add_argument("--output_dir", type=str, default="deltas", help="the cache (default: %(default)s)")
    parser.add_argument("--layers", type=str, default=None, help="a layer, several with commas, or all (default: --delta.layer_idx)")
    parser.add_argument("--tokens", type=str, default=None, help="a token's number, last, mean or response (default: --delta.token_idx)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_config_arguments(parser, sections=("model", "probe", "delta"))


def run(args: Namespace) -> int:
    """Exit status 2 when an adapter could not be read; the others are done. Under torchrun the first process speaks for all."""
    from accelerate import PartialState

    from llgbm.delta import DeltaCache, compute_deltas, make_engine
    from llgbm.errors import InputError
    from llgbm.lora.peft_io import find_adapters
    from llgbm.progress import ProgressBar
    from llgbm.tracking.record import ExperimentLogger
    from llgbm.zoo.base import load_configured, load_recorded
    from llgbm.zoo.folder import TeacherZoo, is_zoo

    config = read_config(args)
    paths = find_adapters(args.checkpoint_dir)
    if not paths:
        raise InputError(f"{args.checkpoint_dir}: no adapters here (no adapter_config.json below it); 'llgbm zoo build' trains some")
    if is_zoo(args.checkpoint_dir):
        zoo = TeacherZoo.load(args.checkpoint_dir)
        base = load_recorded(f"zoo {zoo.folder}", zoo.base, read_base_options(args))
    else:
        base = load_configured(config.model)
    first = PartialState(cpu=base.model.device.type == "cpu").is_main_process
    engine = make_engine(config, args.layers, args.tokens, base=base)
    if first:
        for text, length in engine.cut_probes.items():
            print(f"llgbm: probe {text[:40]!r} is cut: {length} tokens, probe.max_length is {engine.options.max_length}", file=sys.stderr)
        _say_how_many_probes(config.probe, engine.probes)
    cache = DeltaCache(args.output_dir)
    cache.bind(engine.config)
    folder = Path(args.output_dir).resolve()
    with ExitStack() as stack:
        if first:
            stack.enter_context(ExperimentLogger(folder.parent, folder.name)).log_config(engine.config)
        progress = stack.enter_context(ProgressBar("deltas", "adapters")) if first else None
        report = compute_deltas(engine, paths, cache, progress)
    if first:
        _show(args, report)
    return 2 if report.failed else 0


def _say_how_many_probes(probe: "ProbeConfig", probes: "ProbeSet") -> None:
    there = len(probes.texts) + probes.left_out
    if there != probe.num_probes:
        used = f"{len(probes.texts)} of the {there} probes of {probe.probe_type} are used"
        hint = f"; --probe.num_probes {there} uses all" if there > probe.num_probes else f", probe.num_probes is {probe.num_probes}"
        print(f"llgbm: {used}{hint}", file=sys.stderr)


def _show(args: Namespace, report: "DeltaReport") -> None:
    """The closing tables, of this call's adapters only, and what went wrong."""
    from llgbm.delta import DeltaCache
    from llgbm.report.embeddings import summarize_deltas

    cache = DeltaCache(args.output_dir)
    deltas = {path: delta for path in (*report.computed, *report.reused) if (delta := cache.get_delta(path)) is not None}
    summary: dict[str, Any] = summarize_deltas(deltas, Path(args.checkpoint_dir))
    for fault in report.corrupt:
        print(f"llgbm: {fault}; it was computed anew", file=sys.stderr)
    for reason in report.failed.values():
        print(f"llgbm: {reason}", file=sys.stderr)
    counts = {"computed": len(report.computed), "reused": len(report.reused), "failed": len(report.failed), "corrupt": len(report.corrupt)}
    if args.json:
        print_json({"cache": args.output_dir, **counts, "failures": report.failed, **summary})
        return
    print_table(summary["domains"], title="delta norms and nearest neighbors by domain (cosine)")
    print_table([{"grouped_by": k, "silhouette": v} for k, v in summary["silhouettes"].items()], title="silhouette")
    print(f"{args.output_dir}: {', '.join(f'{n} {what}' for what, n in counts.items())}")
