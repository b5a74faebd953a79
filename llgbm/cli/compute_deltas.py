"""`llgbm compute-deltas`: fingerprints of a folder of adapters, and what they say."""

import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.cli.dry_run import UNKNOWN, show_plan
from llgbm.cli.engine import add_engine, open_engine
from llgbm.cli.keep import keep
from llgbm.cli.options import (
    DELTAS,
    DELTAS_NAMES,
    ZOO,
    ZOO_NAMES,
    add_config_arguments,
    add_dry_run,
    add_folder,
    add_json,
    read_base_options,
    read_config,
)
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llgbm.config import ExperimentConfig, ProbeConfig
    from llgbm.delta import DeltaReport
    from llgbm.fanout.crew import Crew
    from llgbm.probes import ProbeSet

HELP = "Measure what adapters do to hidden states, into a cache."
EXAMPLE = "llgbm compute-deltas --layers all --deltas all_layers"


def add_arguments(parser: CommandParser) -> None:
    """Folders, the probe set, and the fields of model (a zoo says which base it has), probe and delta."""
    add_folder(parser, *ZOO_NAMES, default=None, help=f"a zoo, or any folder of PEFT adapters (default: the config's, as a rule {ZOO})")
    add_folder(parser, *DELTAS_NAMES, "--output_dir", default=None, help=f"the cache (default: the config's, as a rule {DELTAS})")
    parser.add_argument("--layers", default=None, metavar="L", help="a layer, several with commas, or all")
    parser.add_argument("--tokens", default=None, metavar="T", help="a token's number, last, mean or response")
    add_json(parser)
    add_dry_run(parser)
    add_engine(parser)
    add_config_arguments(parser, sections=("model", "probe", "delta", "tracking"))


def run(args: Namespace) -> int:
    """Exit status 2 when an adapter could not be read; the others are done. Under torchrun the first process speaks for all."""
    from dataclasses import replace

    from llgbm.delta import Measuring, Recorded
    from llgbm.errors import InputError
    from llgbm.fanout.crew import Job
    from llgbm.lora.peft_io import find_adapters
    from llgbm.probes import load_probes
    from llgbm.tracking.record import refuse_run
    from llgbm.zoo.folder import TeacherZoo
    from llgbm.zoo.manifest import is_zoo
    from llgbm.zoo.named import from_anywhere

    config = read_config(args)
    args.zoo, args.deltas = args.zoo or config.checkpoint_folder, args.deltas or config.delta_cache_dir
    if args.dry_run:
        return show_plan([_plan(args)], args.json)
    refuse_run(args.deltas, "a cache of deltas")
    paths = find_adapters(args.zoo)
    if not paths:
        raise InputError(f"{args.zoo}: no adapters here (no adapter_config.json below it); 'llgbm zoo build' trains some")
    config = replace(config, model=replace(config.model, name=from_anywhere(config.model.name)))
    recorded = device = None
    if is_zoo(args.zoo):
        zoo, options = TeacherZoo.load(args.zoo), read_base_options(args)
        options = replace(options, name=options.name and from_anywhere(options.name))
        recorded, device = Recorded(f"zoo {zoo.folder}", zoo.base, options), options.device or zoo.base.device
    probes = load_probes(config.probe.probe_type).at_most(config.probe.num_probes)
    job = Job(Measuring.load, (config, probes, args.layers, args.tokens, recorded))
    with open_engine(args, device or config.model.device, config.model.memory_gb) as engine, engine.crew(job) as crew:
        return _fill(args, config, paths, probes, crew)


def _fill(args: Namespace, config: "ExperimentConfig", paths: "Sequence[Path]", probes: "ProbeSet", crew: "Crew") -> int:
    from dataclasses import replace

    from accelerate import PartialState

    from llgbm.config import content
    from llgbm.delta import DeltaCache, fill_cache
    from llgbm.files import absolute
    from llgbm.progress import ProgressBar
    from llgbm.provenance import record_deltas
    from llgbm.tracking.record import ExperimentLogger

    measure = crew.ask("survey")
    first = PartialState(cpu=measure.config["base"]["device"] == "cpu").is_main_process
    if first:
        for text, length in measure.cut_probes.items():
            print(f"llgbm: probe {text[:40]!r} is cut: {length} tokens, probe.max_length is {measure.max_length}", file=sys.stderr)
        _say_how_many_probes(config.probe, probes)
    cache = DeltaCache(args.deltas)
    cache.bind(measure.config)
    folder, record = Path(args.deltas).resolve(), None
    with ExitStack() as stack:
        if first:
            record = stack.enter_context(ExperimentLogger(folder.parent, folder.name, config.tracking.level))
            record.log_config(content(replace(config, model=measure.model)))
            record.log_details(call={"adapters": absolute(args.zoo), "layers": args.layers, "tokens": args.tokens})
        progress = stack.enter_context(ProgressBar("deltas", "adapters")) if first else None
        report = fill_cache(crew, paths, cache, progress, measure)
        if record is not None:
            record.log_details(**crew.record())
    if first:
        _show(args, report)
        if not report.failed:
            keep(config.tracking.store, lambda store: record_deltas(store, args.deltas, args.zoo))
    return 2 if report.failed else 0


def _plan(args: Namespace) -> dict[str, Any]:
    from llgbm.delta import DeltaCache
    from llgbm.lora.peft_io import find_adapters

    paths = find_adapters(args.zoo)
    known = len({str(path) for path in paths} & DeltaCache(args.deltas).manifest["adapters"].keys()) if Path(args.deltas).exists() else 0
    what = f"compute the deltas of {len(paths)} adapters, but of those among {known} kept ones that have not changed"
    return {"what": what, "where": args.deltas, "how_long": UNKNOWN}


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

    cache = DeltaCache(args.deltas)
    deltas = {path: delta for path in (*report.computed, *report.reused) if (delta := cache.get_delta(path)) is not None}
    summary: dict[str, Any] = summarize_deltas(deltas, Path(args.zoo))
    for fault in report.corrupt:
        print(f"llgbm: {fault}; it was computed anew", file=sys.stderr)
    for reason in report.failed.values():
        print(f"llgbm: {reason}", file=sys.stderr)
    counts = {"computed": len(report.computed), "reused": len(report.reused), "failed": len(report.failed), "corrupt": len(report.corrupt)}
    if args.json:
        print_json({"cache": args.deltas, **counts, "failures": report.failed, **summary})
        return
    print_table(summary["domains"], title="delta norms and nearest neighbors by domain (cosine)")
    print_table([{"grouped_by": k, "silhouette": v} for k, v in summary["silhouettes"].items()], title="silhouette")
    print(f"{args.deltas}: {', '.join(f'{n} {what}' for what, n in counts.items())}")
