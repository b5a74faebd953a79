"""`llgbm reproduce`: run a recorded stage again in fresh processes, and say whether it comes out the same to the bit."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from llgbm.cli.options import add_json
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.tracking.comparison import Comparison, RunRecord

HELP = "Run a stage again, and compare to the bit."
EXAMPLE = "llgbm reproduce outputs/delta_multi --runs 4"
CORE = ("train_loss", "train_perplexity", "validation_loss", "validation_perplexity", "exact_match")
"""Figures of a training that stand in the table, where they exist."""
SHOWN = 12
"""Differences that are printed for a run; JSON has all."""


def add_arguments(parser: CommandParser) -> None:
    """What to run again, how often and how, and what to compare with."""
    parser.add_argument("folder", metavar="RUN", help="a zoo, a run, a cache of deltas, or an eval_<name>.json")
    parser.add_argument("--runs", type=int, default=4, metavar="N", help="how often (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="threads of each process (default: as recorded)")
    parser.add_argument("--record", default=None, metavar="FILE", help="write the new runs to a file, for --against elsewhere")
    parser.add_argument("--against", default=None, metavar="FILE", help="compare with the first run of such a file instead")
    add_json(parser)


def run(args: Namespace) -> int:
    """Exit status 0 where everything is identical, else 1."""
    for flag in ("runs", "threads"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag} {value}: give a number from 1")
    from llgbm.progress import ProgressBar
    from llgbm.studies.reproduce import read_records, rerun, write_records
    from llgbm.studies.stages import read_stage
    from llgbm.tracking.comparison import IDENTICAL, compare, overall

    stage = read_stage(args.folder)
    recorded = stage.read(stage.folder, "recorded")
    reference = read_records(args.against, stage)[0] if args.against else recorded
    with ProgressBar("reproduce", "runs") as progress:
        made = list(rerun(stage, args.runs, args.threads, progress))
    if args.record:
        write_records(args.record, stage, made)
    rows = [(run, compare(reference, run)) for run in ([recorded, *made] if args.against else made)]
    verdict = overall([found for _, found in rows])
    if args.json:
        print_json({"verdict": verdict, "against": args.against or args.folder, "runs": [_whole(*row) for row in rows]})
    else:
        _print(stage.kind, args.against or args.folder, reference, rows, verdict)
    return 0 if verdict == IDENTICAL else 1


def _whole(run: "RunRecord", found: "Comparison") -> dict[str, Any]:
    from dataclasses import asdict

    return {"run": run.name, **asdict(found), "metrics": run.metrics, "artifacts": run.artifacts}


def _print(kind: str, against: str, reference: "RunRecord", rows: list[tuple["RunRecord", "Comparison"]], verdict: str) -> None:
    table = [_row(reference, reference, "reference", None), *(_row(run, reference, f.verdict, f.first_step) for run, f in rows)]
    print_table(table, title=f"{kind} against {against}: {verdict}")
    for run, found in rows:
        for reason in found.reasons[:SHOWN]:
            print(f"{run.name}: {reason}")
        if len(found.reasons) > SHOWN:
            print(f"{run.name}: and {len(found.reasons) - SHOWN} more; --json has all")


def _row(run: "RunRecord", reference: "RunRecord", verdict: str, parted: int | None) -> dict[str, Any]:
    """One line of the table: counts of what is the same as in the reference, and the run's figures where they are few."""
    from llgbm.files import hash_json

    same = sum(run.artifacts.get(path) == value for path, value in reference.artifacts.items())
    few = {name: run.metrics[name] for name in CORE if name in run.metrics}
    exact = [v for k, v in run.metrics.items() if k.startswith("exact_match ")]
    scores = sum(run.metrics.get(name) == value for name, value in reference.metrics.items())
    tensors = {"artifacts_same": f"{same} of {len(reference.artifacts)}", "all_tensors": hash_json(run.artifacts)[:12]}
    return {
        "run": run.name,
        "verdict": verdict,
        **(tensors if reference.artifacts else {}),
        "curves_part_at": parted,
        "threads": run.environment.get("threads"),
        **{k: f"{v!r}" for k, v in few.items()},
        **({} if few or exact or not reference.metrics else {"scores_same": f"{scores} of {len(reference.metrics)}"}),
        **({"mean_exact_match": f"{sum(exact) / len(exact)!r}"} if exact else {}),
    }
