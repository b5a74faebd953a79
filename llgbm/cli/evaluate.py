"""`llgbm evaluate`: a generator against the teachers and the controls, on every split of a zoo."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llgbm.cli.dry_run import show_plan
from llgbm.cli.engine import add_engine, open_engine
from llgbm.cli.evaluate_lm import add_lm_eval_arguments, is_lm_eval, run_lm_eval
from llgbm.cli.keep import add_store, keep
from llgbm.cli.options import (
    RUN,
    ZOO,
    ZOO_NAMES,
    add_base_arguments,
    add_dry_run,
    add_folder,
    add_json,
    add_tracker,
    read_base_options,
    require_at_least,
    require_seeds,
)
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.hub import on_hub
from llgbm.names import path_part
from llgbm.percent import percent
from llgbm.zoo.manifest import read_manifest

HELP = "Score a generator against teachers and controls."
EXAMPLE = "llgbm evaluate --methods base teacher generated --splits seen"


def add_arguments(parser: CommandParser) -> None:
    """What to evaluate, on what, and where the result goes."""
    add_folder(parser, "--run", "--checkpoint", default=RUN, help="run, generator or checkpoint folder, or none")
    add_folder(parser, *ZOO_NAMES, default=None, help="the zoo (default: the run's, if it has one)")
    parser.add_argument("--output", default=None, metavar="PATH", help=".json file, or folder (default: the run's)")
    parser.add_argument("--name", default="main", help="the file is eval_<name>.json (default: %(default)s)")
    add_folder(parser, "--predictor", default=None, help="run of b2, for nearest_predicted and merged_predicted")
    add_folder(parser, "--soft_prompt", default=None, help="run of 'train --network soft_prompt'")
    parser.add_argument("--method", default=None, metavar="M:F", help="somebody else's generator, module:function to import")
    parser.add_argument("--splits", nargs="+", default=[], metavar="S", help="splits, such as seen or unseen_combination+one_typo")
    parser.add_argument("--methods", nargs="+", default=[], metavar="M", help="methods to score (default: all that make sense)")
    parser.add_argument("--max_examples", type=int, default=None, metavar="N", help="test examples per task (default: all)")
    parser.add_argument("--demonstrations", type=int, default=3, metavar="N", help="of few_shot (default: %(default)s)")
    parser.add_argument("--top_k", type=int, default=3, metavar="K", help="of the merged methods (default: %(default)s)")
    parser.add_argument("--teacher_seed", type=int, default=None, metavar="N", help="of the teachers (default: the first)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws demonstrations and shuffles (default: 0)")
    add_folder(parser, "--scores", "--cache_dir", default="outputs/cache", help="keeps what methods scored")
    parser.add_argument("--example_answers", type=int, default=0, metavar="N", help="tasks to write answers for")
    add_store(parser)
    add_tracker(parser)
    add_engine(parser, page=True)
    add_lm_eval_arguments(parser)
    add_json(parser)
    add_dry_run(parser)
    add_base_arguments(parser, "the zoo")


def run(args: Namespace) -> int:
    """Evaluate, write `eval_<name>.json`, show it."""
    from llgbm.evaluation.answers import ANSWERS_FILE
    from llgbm.evaluation.task_eval import evaluate, run_folder
    from llgbm.files import write_json
    from llgbm.progress import ProgressBar
    from llgbm.provenance import record_evaluation
    from llgbm.report.tracked import send_evaluation
    from llgbm.tracking.lock import hold
    from llgbm.tracking.trackers import check_tracker
    from llgbm.zoo.folder import TeacherZoo

    checkpoint = None if args.run == "none" else args.run
    args.zoo = args.zoo or _zoo_of(checkpoint)
    if is_lm_eval(args):
        return run_lm_eval(args, checkpoint, _choices(args), _output(args.output, checkpoint, f"lm_{args.name}"))
    output = _output(args.output, checkpoint, args.name)
    choices = _choices(args)
    tracker = args.report_to or "none"
    check_tracker(tracker)
    if args.dry_run:
        return show_plan([_plan(args, output)], args.json)
    with hold(output.parent, f".{output.name}.lock"):
        answers = _answer(checkpoint, args.zoo, choices, args.example_answers) if args.example_answers else None
        device = choices.base.device or TeacherZoo.load(args.zoo).base.device
        with open_engine(args, device, choices.base.memory_gb) as engine, ProgressBar("evaluate", "tasks") as progress:
            document = evaluate(checkpoint, args.zoo, choices, args.scores, progress, engine).to_json()
        write_json(output, document)
        if answers is not None:
            write_json(output.parent / ANSWERS_FILE, answers)
    run = None if checkpoint is None else run_folder(checkpoint)
    keep(args.store, lambda store: record_evaluation(store, output, run or checkpoint, args.zoo))
    send_evaluation(tracker, run or output.parent, output.stem, document["splits"])
    if args.json:
        print_json(document)
    else:
        print_evaluation(document)
        print(f"written to {output}")
    return 0


def _zoo_of(checkpoint: str | None) -> str:
    """The zoo that the checkpoint's run was trained on, by its config."""
    from llgbm.config import ExperimentConfig
    from llgbm.evaluation.task_eval import run_folder
    from llgbm.hub import on_hub

    run = None if checkpoint is None or on_hub(checkpoint) else run_folder(checkpoint)
    return ZOO if run is None else ExperimentConfig.load(run / "config.yaml").checkpoint_folder


def _plan(args: Namespace, output: Path) -> dict[str, Any]:
    asked = args.splits or ["all splits"]
    n_tasks = len({teacher.task for teacher in read_manifest(args.zoo).teachers})
    methods = " ".join(args.methods) or "all methods that are possible"
    what = f"score {methods} on {', '.join(asked)} of {n_tasks} tasks"
    return {"what": what, "where": str(output), "how_long": "unknown, evaluations do not record it"}


def print_evaluation(document: dict[str, Any]) -> None:
    """The score of each method by split, and how the generated adapters compare with the others."""
    from llgbm.evaluation.statistics import paired_by_all
    from llgbm.evaluation.task_eval import measure

    splits = document["splits"]
    for split, shown in document.get("demonstrations", {}).items():
        if shown["examples_with_fewer"]:
            print(
                f"few_shot, {split}: the context has no room for all {shown['asked']} demonstrations of {shown['examples_with_fewer']} "
                f"examples; {shown['mean_shown']:.1f} were shown on average"
            )
    if document.get("fingerprints"):
        print_table(
            [{"split": split, **found} for split, found in document["fingerprints"].items()],
            title="cosine to the teachers' fingerprints, mean over tasks",
        )
    methods = dict.fromkeys(method for of_split in splits.values() for method in of_split)
    heads = {split: f"{split} (n={next(iter(of_split.values()))['n_tasks']})" for split, of_split in splits.items()}
    rows = [
        {
            "method": method,
            **{heads[split]: _cell(of_split.get(method)) for split, of_split in splits.items()},
            "tokens_read": _tokens_read([of_split[method] for of_split in splits.values() if method in of_split]),
        }
        for method in methods
    ]
    title = f"{measure(document)} ± standard error over n tasks (share of the teachers' gain); tokens read before an answer, mean"
    print_table(rows, title=title, in_parts=True)
    for split in splits:
        compared = [row for row in document["comparisons"] if row["split"] == split]
        if compared:
            print_table([_compared(row) for row in compared], title=f"{compared[0]['method']} adapters against the others, {split}")
            print(f"{split}: paired by {paired_by_all(compared)}")


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    from llgbm.evaluation.statistics import p_text

    return {
        f"{row['method']}_minus": row["other"],
        "difference": f"{row['difference']:+.3f}",
        "interval_95%": f"[{row['low']:+.3f}, {row['high']:+.3f}]",
        "p_(Holm)": p_text(row["p_holm"]),
    }


def _answer(checkpoint: str | None, data_dir: str, choices: Any, n_tasks: int) -> dict[str, Any]:
    from llgbm.evaluation.answers import answer_examples
    from llgbm.evaluation.setting import load_setting

    return answer_examples(load_setting(checkpoint, data_dir, choices), n_tasks)


def _cell(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "-"
    error = "" if summary["score_stderr"] is None else f" ± {summary['score_stderr']:.3f}"
    gain = "" if summary["gain_recovered"] is None else f" ({percent(summary['gain_recovered'])})"
    worst = f", worst {summary['score_worst']:.3f}" if "score_worst" in summary else ""
    return f"{summary['score']:.3f}{error}{gain}{worst}"


def _tokens_read(summaries: Sequence[dict[str, Any]]) -> float | None:
    """Mean over splits; evaluations of before did not count."""
    counts = [summary["tokens_read"] for summary in summaries if "tokens_read" in summary]
    return round(sum(counts) / len(counts), 1) if counts else None


def _choices(args: Namespace) -> Any:
    from llgbm.evaluation.setting import EvaluationConfig

    for name in ("max_examples", "demonstrations", "top_k"):
        require_at_least(name, getattr(args, name))
    require_seeds("seed", args.seed)
    return EvaluationConfig(
        splits=tuple(args.splits),
        methods=tuple(args.methods),
        max_examples=args.max_examples,
        demonstrations=args.demonstrations,
        top_k=args.top_k,
        predictor=args.predictor,
        soft_prompt=args.soft_prompt,
        foreign=args.method,
        teacher_seed=args.teacher_seed,
        seed=args.seed,
        base=read_base_options(args),
    )


def _output(given: str | None, checkpoint: str | None, name: str) -> Path:
    """The file to write; unless given, in the run's folder, else in the checkpoint's, else in outputs/."""
    if given is not None and given.endswith(".json"):
        return Path(given)
    if given is None and checkpoint is not None and not on_hub(checkpoint):
        from llgbm.evaluation.task_eval import run_folder

        given = str(run_folder(checkpoint) or checkpoint)
    return Path(given or "outputs") / path_part(f"eval_{name}.json", "evaluation")
