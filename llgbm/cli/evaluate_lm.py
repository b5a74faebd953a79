"""`llgbm evaluate --backend lm-eval`: the same models on tasks of lm-evaluation-harness."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.cli.dry_run import show_plan
from llgbm.cli.options import require_at_least
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.evaluation.setting import EvaluationConfig

OWN, LM_EVAL = "own", "lm-eval"
FLAGS = ("tasks", "include_path", "description", "zoo_tasks", "num_fewshot", "batch_size", "apply_chat_template", "confirm_run_unsafe_code")
"""What is asked of the harness alone."""
NOT_HERE = ("soft_prompt", "demonstrations", "scores", "example_answers", "store", "report_to", "engine", "address", "workers")
"""What the harness has no use for."""


def add_lm_eval_arguments(parser: CommandParser) -> None:
    """Add `--backend`, and a page of flags for the harness, which has them under the same names."""
    text = "own, or lm-eval; its flags: --help_lm_eval"
    parser.add_argument("--backend", default=OWN, choices=(OWN, LM_EVAL), metavar="B", help=text)
    page = parser.add_page("--help_lm_eval", f"with --backend {LM_EVAL}, whose tasks are asked instead of the zoo's own")
    page.add_argument("--tasks", nargs="+", default=[], metavar="T", help="names of the harness's tasks, or YAML files")
    page.add_argument("--include_path", default=None, metavar="DIR", help="a folder of further task files")
    page.add_argument("--description", nargs="+", default=[], metavar="TEXT", help="sentences to generate adapters for")
    text = "tasks of the zoo, whose teachers and generated adapters are scored too (or all of --splits)"
    page.add_argument("--zoo_tasks", nargs="+", default=[], metavar="T", help=text)
    page.add_argument("--num_fewshot", type=int, default=None, metavar="N", help="examples shown before each (default: the task's)")
    page.add_argument("--batch_size", default=None, metavar="N", help="requests at once, or auto (default: 1)")
    page.add_argument("--apply_chat_template", action="store_true", help="put prompts into the tokenizer's chat template")
    text = "let tasks run Python code: functions that their files name, and what models answer"
    page.add_argument("--confirm_run_unsafe_code", action="store_true", help=text)
    parser.set_defaults(unless_said={name: parser.get_default(name) for name in (*FLAGS, *NOT_HERE)})


def is_lm_eval(args: Namespace) -> bool:
    """Whether the harness is asked; InputError for a flag that does not go with the backend."""
    asked = args.backend == LM_EVAL
    for name in NOT_HERE if asked else FLAGS:
        if getattr(args, name) != args.unless_said[name]:
            raise InputError(
                f"--{name} does not go with --backend {args.backend}; leave it out" + ("" if asked else f", or say --backend {LM_EVAL}")
            )
    return asked


def run_lm_eval(args: Namespace, checkpoint: str | None, config: "EvaluationConfig", output: Path) -> int:
    """Score, write `eval_lm_<name>.json`, show it."""
    from llgbm.evaluation.lm_eval import HarnessConfig, evaluate_lm
    from llgbm.files import write_json
    from llgbm.progress import ProgressBar
    from llgbm.tracking.lock import hold

    require_at_least("num_fewshot", args.num_fewshot, 0)
    if args.batch_size not in (None, "auto") and not (args.batch_size.isdecimal() and int(args.batch_size) > 0):
        raise InputError(f"--batch_size is {args.batch_size}; give 1 or more, or auto")
    harness = HarnessConfig(
        tasks=tuple(args.tasks),
        include_path=args.include_path,
        num_fewshot=args.num_fewshot,
        batch_size=args.batch_size or "1",
        apply_chat_template=args.apply_chat_template,
        confirm_run_unsafe_code=args.confirm_run_unsafe_code,
    )
    if args.dry_run:
        what = f"score {' '.join(config.methods) or 'base, teachers and generated adapters'} on {', '.join(harness.tasks)}"
        return show_plan([{"what": what, "where": str(output), "how_long": "unknown, evaluations do not record it"}], args.json)
    with hold(output.parent, f".{output.name}.lock"), ProgressBar("evaluate", "models") as progress:
        document = evaluate_lm(checkpoint, args.zoo, config, harness, args.description, args.zoo_tasks, progress)
        write_json(output, document)
    if args.json:
        print_json(document)
    else:
        _print(document)
        print(f"written to {output}")
    return 0


def _print(document: dict[str, Any]) -> None:
    """A row for each model, task and metric."""
    rows = []
    for score in document["scores"]:
        metric = score["metric"] + ("" if score["filter"] == "none" else f" ({score['filter']})")
        error = "" if score["stderr"] is None else f" ± {score['stderr']:.3f}"
        row = {"model": score["model"], "asked_for": score["asked"], "task": score["task"], "metric": metric}
        rows.append({**row, "value": f"{score['value']:.3f}{error}", "n": score["n"]})
    print_table(rows, title=f"lm-eval {document['lm_eval']}, value ± standard error over n examples")
