"""`llgbm evaluate`: a generator against the teachers and the controls, on every split of a zoo."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from llgbm.cli.options import add_base_arguments, read_base_options, require_at_least, require_seeds
from llgbm.cli.output import print_json, print_table
from llgbm.names import path_part
from llgbm.percent import percent

HELP = "Score a generator against teachers and controls: exact match, NLL, gain recovered, per split and task."


def add_arguments(parser: ArgumentParser) -> None:
    """What to evaluate, on what, and where the result goes."""
    number = int | None
    parser.add_argument(
        "--checkpoint",
        type=str,
        default="outputs/delta_multi",
        help="run, generator or checkpoint folder, or none (default: %(default)s)",
    )
    parser.add_argument("--data_dir", type=str, default="data/teacher_checkpoints", help="the zoo (default: %(default)s)")
    parser.add_argument("--output", type=str, default=None, help=".json file, or folder for eval_<name>.json (default: the run's folder)")
    parser.add_argument("--name", type=str, default="main", help="name of the evaluation (default: %(default)s)")
    parser.add_argument(
        "--predictor",
        type=str,
        default=None,
        metavar="RUN",
        help="run of 'train-delta-only --variant b2', for the methods nearest_predicted and merged_predicted",
    )
    parser.add_argument(
        "--splits",
        type=str,
        nargs="+",
        default=[],
        help="splits to report, such as seen or unseen_combination+one_typo (default: all, each in its own words)",
    )
    parser.add_argument("--methods", type=str, nargs="+", default=[], help="methods to score (default: all that are possible)")
    parser.add_argument("--max_examples", type=number, default=None, help="test examples per task (default: all)")
    parser.add_argument("--demonstrations", type=int, default=3, help="solved examples in few_shot (default: %(default)s)")
    parser.add_argument("--top_k", type=int, default=3, help="teachers merged by merged_topk and merged_predicted (default: %(default)s)")
    parser.add_argument("--teacher_seed", type=number, default=None, help="seed of the teachers (default: the zoo's first)")
    parser.add_argument("--seed", type=int, default=0, help="draws demonstrations and shuffles (default: %(default)s)")
    parser.add_argument("--cache_dir", type=str, default="outputs/cache", help="keeps the controls' scores (default: %(default)s)")
    text = "tasks to write answers beside the truth for, into example_answers.json (default: none)"
    parser.add_argument("--example_answers", type=int, default=0, metavar="N", help=text)
    parser.add_argument("--json", action="store_true", help="print the document instead of tables")
    add_base_arguments(parser, "the zoo")


def run(args: Namespace) -> int:
    """Evaluate, write `eval_<name>.json`, show it."""
    from llgbm.evaluation.answers import ANSWERS_FILE
    from llgbm.evaluation.task_eval import evaluate
    from llgbm.files import write_json
    from llgbm.progress import ProgressBar
    from llgbm.tracking.lock import hold

    checkpoint = None if args.checkpoint == "none" else args.checkpoint
    output = _output(args.output, checkpoint, args.name)
    choices = _choices(args)
    with hold(output.parent, f".{output.name}.lock"):
        answers = _answer(checkpoint, args.data_dir, choices, args.example_answers) if args.example_answers else None
        with ProgressBar("evaluate", "tasks") as progress:
            document = evaluate(checkpoint, args.data_dir, choices, args.cache_dir, progress).to_json()
        write_json(output, document)
        if answers is not None:
            write_json(output.parent / ANSWERS_FILE, answers)
    if args.json:
        print_json(document)
    else:
        print_evaluation(document)
        print(f"written to {output}")
    return 0


def print_evaluation(document: dict[str, Any]) -> None:
    """Exact match of each method by split, and how the generated adapters compare with the others."""
    from llgbm.evaluation.statistics import p_text, paired_by_all

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
    rows = [{"method": method, **{heads[split]: _cell(of_split.get(method)) for split, of_split in splits.items()}} for method in methods]
    print_table(rows, title="exact match ± standard error over n tasks (share of the teachers' gain)")
    compared = [
        {
            "split": row["split"],
            "generated_minus": row["other"],
            "difference": f"{row['difference']:+.3f}",
            "interval_95%": f"[{row['low']:+.3f}, {row['high']:+.3f}]",
            "p_(Holm)": p_text(row["p_holm"]),
        }
        for row in document["comparisons"]
    ]
    if compared:
        print_table(compared, title="generated adapters against the others")
        for split in splits:
            print(f"{split}: paired by {paired_by_all(row for row in document['comparisons'] if row['split'] == split)}")


def _answer(checkpoint: str | None, data_dir: str, choices: Any, n_tasks: int) -> dict[str, Any]:
    from llgbm.evaluation.answers import answer_examples
    from llgbm.evaluation.setting import load_setting

    return answer_examples(load_setting(checkpoint, data_dir, choices), n_tasks)


def _cell(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "-"
    error = "" if summary["exact_match_stderr"] is None else f" ± {summary['exact_match_stderr']:.3f}"
    gain = "" if summary["gain_recovered"] is None else f" ({percent(summary['gain_recovered'])})"
    worst = f", worst {summary['exact_match_worst']:.3f}" if "exact_match_worst" in summary else ""
    return f"{summary['exact_match']:.3f}{error}{gain}{worst}"


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
        teacher_seed=args.teacher_seed,
        seed=args.seed,
        base=read_base_options(args),
    )


def _output(given: str | None, checkpoint: str | None, name: str) -> Path:
    """The file to write; unless given, in the run's folder, else in the checkpoint's, else in outputs/."""
    if given is not None and given.endswith(".json"):
        return Path(given)
    if given is None and checkpoint is not None:
        from llgbm.evaluation.task_eval import run_folder

        given = str(run_folder(checkpoint) or checkpoint)
    return Path(given or "outputs") / path_part(f"eval_{name}.json", "evaluation")
