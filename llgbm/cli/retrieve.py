"""`llgbm retrieve`: the adapters of a cache that do most nearly the same, and one adapter merged from them."""

import functools
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.cli.options import (
    DELTAS,
    DELTAS_NAMES,
    add_base_arguments,
    add_config_arguments,
    add_folder,
    add_json,
    read_base_options,
    read_config,
    require_at_least,
)
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from llgbm.delta import DeltaCache, DeltaEngine

HELP = "Find the adapters that do most nearly the same."
EXAMPLE = "llgbm retrieve --adapter my_adapter --k 3"


def add_arguments(parser: CommandParser) -> None:
    """The query, the cache, the merge, and the base and probes that the cache was computed with."""
    add_folder(parser, "--adapter", default=None, help="a PEFT adapter; it is not among its own hits")
    parser.add_argument("--delta", default=None, metavar="FILE", help="a safetensors file with a tensor named delta")
    parser.add_argument("--description", default=None, metavar="TEXT", help="one sentence that says what the adapter should do")
    parser.add_argument("--prompts", default=None, metavar="FILE", help="unlabeled prompts: one per line, or a JSON list")
    add_folder(parser, "--predictor", default="outputs/delta_predictor", help="run of b2, for a description or prompts")
    add_folder(parser, *DELTAS_NAMES, default=DELTAS, help="the cache of deltas")
    parser.add_argument("--k", type=int, default=5, help="hits (default: %(default)s)")
    parser.add_argument("--approximate", action="store_true", help="search a graph (HNSW) instead of every delta")
    add_folder(parser, "--index", "--index_dir", default=None, help="keep the index here")
    parser.add_argument("--merge", default=None, metavar="METHOD", help="merge the hits by cosine: product, ties ...")
    parser.add_argument("--density", type=float, default=None, metavar="D", help="share of entries a pruning merge keeps")
    parser.add_argument("--rank", type=int, default=None, metavar="R", help="rank of the merged adapter (product, svd)")
    add_folder(parser, "--output", "--output_dir", default=None, help="PEFT folder of the merged adapter")
    add_json(parser)
    add_config_arguments(parser, sections=("probe",))
    add_base_arguments(parser, "the cache")


def run(args: Namespace) -> int:
    """Search; merge and write if asked."""
    described = args.description is not None or args.prompts is not None
    if (args.adapter is not None) + (args.delta is not None) + described != 1:
        raise InputError("say what to look for: --adapter DIR or --delta FILE, or a task by --description or --prompts; one of them")
    if (args.merge is None) != (args.output is None):
        raise InputError("--merge METHOD and --output DIR belong together; give both or neither")
    require_at_least("k", args.k)
    import sys

    from llgbm.delta import DeltaCache, engine_of_cache
    from llgbm.retrieval import AdapterIndex

    cache = DeltaCache(args.deltas)
    kind = {"approximate": args.approximate}
    index = AdapterIndex.kept(args.index, cache, **kind) if args.index else AdapterIndex(cache, **kind)
    for fault in cache.faults:
        print(f"llgbm: {fault}; left out, compute-deltas computes it anew", file=sys.stderr)
    engine = functools.cache(lambda: engine_of_cache(read_config(args), cache, read_base_options(args)))  # loaded where it is needed
    delta = _predict(args, cache) if described else _read_delta(args.delta) if args.delta else _measure(engine(), args.adapter)
    own = Path(args.adapter).resolve() if args.adapter else None
    hits = [hit for hit in index.search(delta, args.k + (own is not None)) if Path(hit[0]).resolve() != own][: args.k]
    merged = _merge(args, engine, hits) if args.merge else None
    rows = [{"adapter": path, "cosine": cosine} for path, cosine in hits]
    if args.json:
        print_json({"hits": rows, **({"merged": merged} if merged else {})})
        return 0
    print_table(rows, ("adapter", "cosine"))
    print(f"{args.deltas}: nearest of {len(index.paths)} adapters")
    if merged:
        print(f"{merged['output']}: {args.merge} of {len(merged['weights'])} adapters")
    return 0


def _measure(engine: "DeltaEngine", adapter: str) -> "np.ndarray":
    from llgbm.lora.peft_io import read_adapter

    return engine.deltas(read_adapter(adapter, engine.functional.shapes))[0]


def _predict(args: Namespace, cache: "DeltaCache") -> "np.ndarray":
    """The delta that an adapter for the described task would have, as the predictor sees it."""
    from llgbm.models.delta_predictor import DeltaPredictor
    from llgbm.models.encoder_names import needs_base
    from llgbm.models.export import read_prompts
    from llgbm.zoo.base import load_recorded

    predictor = DeltaPredictor.from_pretrained(args.predictor)
    predictor.check_cache(cache)
    made_with = predictor.spec.base
    reads = needs_base(predictor.spec.encoder)
    base = load_recorded(f"predictor {args.predictor}", made_with, read_base_options(args)) if reads and made_with else None
    return predictor.predict(read_prompts(args.prompts) if args.prompts else None, args.description, base)[0].numpy()


def _read_delta(file: str) -> "np.ndarray":
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(file)["delta"]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{file}: cannot be read ({error}); give a safetensors file with a tensor named delta") from error


def _merge(args: Namespace, engine_of: "Callable[[], DeltaEngine]", hits: list[tuple[str, float]]) -> dict[str, Any]:
    """Write the merged adapter; hits of cosine 0 or below have no part in it."""
    from llgbm.lora.merging import AdapterMerger
    from llgbm.lora.peft_io import write_adapter
    from llgbm.zoo.named import loadable_name

    alike = [(path, cosine) for path, cosine in hits if cosine > 0]
    if not alike:
        raise InputError("no hit has a cosine above 0, so there is nothing alike to merge; raise --k or look for something else")
    engine = engine_of()
    total = sum(cosine for _, cosine in alike)
    weights = [cosine / total for _, cosine in alike]
    merger = AdapterMerger(engine.functional.shapes)
    factors = merger.merge([path for path, _ in alike], weights, args.merge, density=args.density, rank=args.rank)
    write_adapter(args.output, factors, base_name=loadable_name(engine.base.name), fan_in_fan_out=engine.functional.fan_in_fan_out)
    return {"method": args.merge, "output": args.output, "weights": {path: w for (path, _), w in zip(alike, weights, strict=True)}}
