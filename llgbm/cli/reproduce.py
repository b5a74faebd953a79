"""`llgbm reproduce`: run a recorded stage, or the study of LoRA, in fresh processes, and say whether it comes out the same to the bit."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.cli.options import add_folder, add_json, require_at_least
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.studies.stage import Stage
    from llgbm.tracking.comparison import Comparison, RunRecord

HELP = "Run a stage again, and compare to the bit."
EXAMPLE = "llgbm reproduce lora --base micro --runs 4"
LORA = "lora"
OF_LORA = ("base", "task", "steps", "examples", "rank", "seed", "once")
"""Flags of the study alone."""
CORE = ("train_loss", "train_perplexity", "eval_loss", "eval_perplexity", "exact_match")
"""Figures of a training that stand in the table, where they exist."""
SHOWN = 12
"""Differences that are printed for a run; JSON has all."""
FEW = 3
"""Artifacts of which each has a column with its hash."""


def add_arguments(parser: CommandParser) -> None:
    """What to run again, how often and how, and what to compare with."""
    place = "a zoo, a run, a cache of deltas, an eval_<name>.json, or lora: fine-tune one adapter"
    parser.add_argument("folder", metavar="RUN", help=place)
    parser.add_argument("--runs", type=int, default=4, metavar="N", help="how often (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="threads of each process (default: as recorded, else 1)")
    parser.add_argument("--record", default=None, metavar="FILE", help="write the new runs to a file, for --against elsewhere")
    parser.add_argument("--against", default=None, metavar="FILE", help="compare with the first run of such a file instead")
    passes = "exit status 0 also where environments differ and the new runs do not"
    parser.add_argument("--or_incomparable", action="store_true", help=passes)
    parser.add_argument("--base", default=None, metavar="X", help="of lora: micro or smollm2 (default: smollm2 where it is installed)")
    parser.add_argument("--task", default=None, metavar="T", help="of lora: a task of micro, or of words for smollm2")
    for flag, about in (
        ("steps", "optimizer steps"),
        ("examples", "train examples (200)"),
        ("rank", "of the adapter (8)"),
        ("seed", "(42)"),
    ):
        parser.add_argument(f"--{flag}", type=int, default=None, metavar="N", help=f"of lora: {about}")
    add_folder(parser, "--once", default=None, help="of lora: run once in this process, into a new folder")
    add_json(parser)


def run(args: Namespace) -> int:
    """Exit status 0 where everything is identical, else 1."""
    for flag in ("runs", "threads"):
        require_at_least(flag, getattr(args, flag))
    stage = _stage(args)
    if args.once is not None:
        return _once(args, stage)
    from llgbm.progress import ProgressBar
    from llgbm.studies.reproduce import read_records, rerun, write_records
    from llgbm.tracking.comparison import DIFFERS, IDENTICAL, INCOMPARABLE, VARIES, compare, overall

    recorded = stage.read(stage.folder, "recorded") if stage.environment else None
    given = read_records(args.against, stage)[0] if args.against else recorded
    with ProgressBar("reproduce", "runs") as progress:
        made = list(rerun(stage, args.runs, args.threads, progress))
    if args.record:
        write_records(args.record, stage, made)
    reference = given or made[0]
    compared = [*([recorded] if recorded and args.against else []), *(made if given else made[1:])]
    rows = [(run, compare(reference, run)) for run in compared]
    among = overall([compare(made[0], run) for run in made])
    verdict = overall([found for _, found in rows] or [compare(reference, reference)])
    verdict = DIFFERS if among == DIFFERS else verdict
    against = args.against or (args.folder if recorded else made[0].name)
    if args.json:
        whole = {"verdict": verdict, "against": against, "new_runs_among_themselves": among, "expected_to_vary": VARIES}
        print_json({**whole, "runs": [_whole(*row) for row in rows]})
    else:
        _print(f"{stage.kind} against {against}: {verdict}; the new runs among themselves: {among}", reference, rows)
        print_table([{"expected_to_vary": what, "why": why} for what, why in VARIES.items()])
    return int(verdict not in ((IDENTICAL, INCOMPARABLE) if args.or_incomparable else (IDENTICAL,)))


def _stage(args: Namespace) -> "Stage":
    given = {name: getattr(args, name) for name in OF_LORA if getattr(args, name) is not None}
    if args.folder != LORA:
        if given:
            raise InputError(f"--{next(iter(given))} is about the study of LoRA: llgbm reproduce {LORA}; {args.folder} runs as recorded")
        from llgbm.studies.stages import read_stage

        return read_stage(args.folder)
    from llgbm.studies.lora import LoraStage, make_study

    return LoraStage.of(make_study(**{name: value for name, value in given.items() if name != "once"}))


def _once(args: Namespace, stage: "Stage") -> int:
    """One run of the study of LoRA; its points say whether this process was set to repeat itself."""
    from llgbm.progress import ProgressBar
    from llgbm.studies.lora import LoraStage, train_lora

    assert isinstance(stage, LoraStage)  # the flag is refused elsewhere
    with ProgressBar("fine-tune", "steps") as progress:
        train_lora(stage.study, args.once, progress)
    made = stage.read(Path(args.once), "run")
    if args.json:
        print_json({"folder": args.once, "metrics": made.metrics, "artifacts": made.artifacts, "points": made.points})
    else:
        _print(f"{args.once}: llgbm reproduce {args.once} runs it again", made, [])
    return 0


def _whole(run: "RunRecord", found: "Comparison") -> dict[str, Any]:
    from dataclasses import asdict

    return {"run": run.name, **asdict(found), "metrics": run.metrics, "artifacts": run.artifacts, "points": run.points}


def _print(title: str, reference: "RunRecord", rows: list[tuple["RunRecord", "Comparison"]]) -> None:
    from llgbm.tracking.validation import failed_points

    table = [_row(reference, reference, "reference", None), *(_row(run, reference, f.verdict, f.first_step) for run, f in rows)]
    print_table(table, title=title, in_parts=True)
    for run, found in rows:
        for reason in found.reasons[:SHOWN]:
            print(f"{run.name}: {reason}")
        if len(found.reasons) > SHOWN:
            print(f"{run.name}: and {len(found.reasons) - SHOWN} more; --json has all")
    for run in (reference, *(run for run, _ in rows)):
        for point in failed_points(run.points):
            print(f"{run.name}: {point}")


def _row(run: "RunRecord", reference: "RunRecord", verdict: str, parted: int | None) -> dict[str, Any]:
    """One line of the table: what is the same as in the reference, and the run's figures where they are few."""
    from llgbm.files import hash_json

    same = sum(run.artifacts.get(path) == value for path, value in reference.artifacts.items())
    exact = [v for k, v in run.metrics.items() if k.startswith("exact_match ")]
    figures: dict[str, Any] = {name: f"{run.metrics[name]!r}" for name in CORE if name in run.metrics}
    if exact:
        figures = {"mean_exact_match": f"{sum(exact) / len(exact)!r}"}
    elif not figures and reference.metrics:
        scores = sum(run.metrics.get(name) == value for name, value in reference.metrics.items())
        figures = {"scores_same": f"{scores} of {len(reference.metrics)}"}
    tensors = {"artifacts_same": f"{same} of {len(reference.artifacts)}", "all_tensors": hash_json(run.artifacts)[:12]}
    if len(reference.artifacts) <= FEW:
        tensors = {path: run.artifacts.get(path, "absent")[:12] for path in reference.artifacts}
    threads = run.environment.get("threads")
    return {"run": run.name, "verdict": verdict, **tensors, "curves_part_at": parted, "threads": threads, **figures}
