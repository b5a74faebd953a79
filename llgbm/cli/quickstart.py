"""`llgbm quickstart`: the whole way once, from a zoo of teachers to a generated adapter tried on three inputs."""

import shlex
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llgbm.cli.dry_run import UNKNOWN, plan_training, plan_zoo, show_plan
from llgbm.cli.keep import keep
from llgbm.cli.options import add_config_arguments, read_config
from llgbm.cli.output import print_config, print_table
from llgbm.cli.parser import CommandParser
from llgbm.names import path_part
from llgbm.tracking.trackers import check_tracker

if TYPE_CHECKING:
    from llgbm.config import ExperimentConfig
    from llgbm.training.standing import Begin
    from llgbm.zoo.base import BaseOptions
    from llgbm.zoo.folder import TeacherZoo

HELP = "Do everything once, from teachers to a report."
EXAMPLE = "llgbm quickstart --run outputs/mine --seed 1"

SHOWN_PROMPTS = 3


def add_arguments(parser: CommandParser) -> None:
    """Any config field, and whether another run's generator may go."""
    add_config_arguments(parser, whole=True)
    parser.add_argument("--overwrite", action="store_true", help="train anew over a generator of other settings, which is lost")


def run(args: Namespace) -> int:
    """Run every stage that is not done yet, then show the results and what to do next."""
    config = read_config(args)
    if args.print_config:
        return print_config(config)
    check_tracker(config.training.report_to)
    if args.dry_run:
        return show_plan(_plan(config, args.overwrite))
    start = time.perf_counter()
    asked = _Quickstart(config, args.overwrite).run()
    print(f"\nfinished in {time.perf_counter() - start:.0f} s. Everything is kept: the same command again only shows the results.")
    folders = {"run": config.run_folder, "zoo": config.checkpoint_folder, "deltas": config.delta_cache_dir}
    print(NEXT.format(asked=asked, **{name: shlex.quote(str(folder)) for name, folder in folders.items()}))
    return 0


def _plan(config: "ExperimentConfig", overwrite: bool) -> list[dict[str, Any]]:
    from llgbm.training.standing import Standing

    standing = Standing.of(config.run_folder)
    begin = "overwrite" if overwrite else "go_on" if standing.finished or standing.whole else "new"
    rest = {"what": "deltas, pictures, evaluation, answers, report, where missing", "where": str(config.run_folder), "how_long": UNKNOWN}
    return [plan_zoo(config), plan_training(config, begin), rest]


NEXT = """
What to run next:
  llgbm generate --run {run} {asked} --output my_adapter
  llgbm evaluate --run {run} --methods base few_shot teacher generated nearest --name short
  llgbm zoo list --zoo {zoo}
  llgbm visualize --type deltas --zoo {zoo} --deltas {deltas}
  llgbm train --config baseline --zoo {zoo}"""


class _Quickstart:
    """The stages in order, with the folders they share."""

    def __init__(self, config: "ExperimentConfig", overwrite: bool) -> None:
        from llgbm.tracking.stages import Stages

        self.config, self.overwrite = config, overwrite
        self.folder = config.run_folder
        self.stages = Stages(Path(config.output_dir) / f"quickstart-{path_part(config.experiment_name)}.json")

    def run(self) -> str:
        """Every stage; returns how `llgbm generate` is asked for the task that is shown."""
        from llgbm.files import hash_file
        from llgbm.provenance import record_run, record_zoo
        from llgbm.training.checkpoints import origin
        from llgbm.training.standing import check_begin
        from llgbm.workspace import settle

        zoo = self._zoo()
        keep(self.config.tracking.store, lambda store: record_zoo(store, zoo.folder))
        self.config = settle(self.config, zoo, {"model.device": self.config.model.device})
        inputs = origin(self.config, zoo)
        generator = [self.folder / "generator" / name for name in ("config.json", "model.safetensors")]
        self._forget_foreign_generator(zoo)
        if not self.stages.is_done("generator", inputs, generator):
            check_begin(self.folder, self._begin(zoo))  # before anything is written there
        self._stage("deltas", inputs, [Path(self.config.delta_cache_dir) / "manifest.json"], lambda: self._deltas(zoo))
        self._stage("pictures", inputs, [self.folder / "figures" / "delta_map.png"], lambda: self._pictures(zoo))
        self._stage("generator", inputs, generator, lambda: self._train(zoo))
        trained = {**inputs, "generator": hash_file(generator[-1])}
        document = self.folder / "eval_main.json"
        self._stage("evaluation", trained, [document], lambda: self._evaluate(document))
        answers = self.folder / "example_answers.json"
        self._stage("answers", trained, [answers, self.folder / "example_adapter"], lambda: self._answer(answers))
        asked = self._show(document, answers)
        self._report(trained)
        keep(self.config.tracking.store, lambda store: record_run(store, self.folder, zoo.folder))
        return asked

    def _stage(self, name: str, inputs: dict[str, str], outputs: list[Path], work: Callable[[], object]) -> None:
        start = time.perf_counter()
        done_now = self.stages.run(name, inputs, outputs, work)
        print(f"{name}: {f'{time.perf_counter() - start:.0f} s' if done_now else 'already there'}, {outputs[0].parent}", flush=True)

    def _forget_foreign_generator(self, zoo: "TeacherZoo") -> None:
        """Train anew where another command has put a generator of other settings, or of another zoo, into the run's folder."""
        from llgbm.config import ExperimentConfig
        from llgbm.errors import InputError
        from llgbm.files import read_json

        if not (self.folder / "generator").exists():
            return
        try:
            settings = ExperimentConfig.load(self.folder / "config.yaml").get_hash()
            source = read_json(self.folder / "metadata.json")["inputs"]["zoo"]
        except (InputError, KeyError, TypeError):
            settings = source = None
        if (settings, source) != (self.config.get_hash(), zoo.content_hash):
            self.stages.forget("generator")

    def _zoo(self) -> "TeacherZoo":
        from llgbm.progress import ProgressBar
        from llgbm.zoo.build import build_zoo

        start = time.perf_counter()
        with ProgressBar("zoo", "teachers") as progress:
            zoo = build_zoo(self.config, progress)
        print(f"zoo: {len(zoo.teachers)} teachers, {time.perf_counter() - start:.0f} s, {zoo.folder}", flush=True)
        return zoo

    def _deltas(self, zoo: "TeacherZoo") -> None:
        from llgbm.delta import DeltaCache, compute_deltas, make_engine
        from llgbm.progress import ProgressBar

        with ProgressBar("deltas", "adapters") as progress:
            paths = [zoo.folder / teacher.path for teacher in zoo.teachers]
            compute_deltas(make_engine(self.config), paths, DeltaCache(self.config.delta_cache_dir), progress)

    def _pictures(self, zoo: "TeacherZoo") -> None:
        from llgbm.cli.visualize import draw_deltas

        draw_deltas(self.config, self.config.delta_cache_dir, str(zoo.folder), str(self.folder / "figures"), False, self._place())

    def _place(self) -> "BaseOptions":
        from llgbm.zoo.base import BaseOptions

        return BaseOptions.place(self.config.model)

    def _begin(self, zoo: "TeacherZoo") -> "Begin":
        """Go on from a run of the same settings on the same zoo; another one's is not touched unless that was asked for."""
        from llgbm.training.checkpoints import is_origin, origin

        same = is_origin(self.folder / "checkpoints", origin(self.config, zoo))
        return "go_on" if same else "overwrite" if self.overwrite else "new"

    def _train(self, zoo: "TeacherZoo") -> None:
        from llgbm.progress import ProgressBar
        from llgbm.report.tracked import send_training
        from llgbm.training.behavior import train_generator

        with ProgressBar(f"train {self.config.experiment_name}", "steps") as progress:
            train_generator(self.config, begin=self._begin(zoo), progress=progress)
        send_training(self.config.training.report_to, self.folder)

    def _evaluate(self, document: Path) -> None:
        from llgbm.evaluation.setting import EvaluationConfig
        from llgbm.evaluation.task_eval import evaluate
        from llgbm.files import write_json
        from llgbm.progress import ProgressBar
        from llgbm.report.tracked import send_evaluation
        from llgbm.tracking.lock import hold

        with hold(document.parent, f".{document.name}.lock"), ProgressBar("evaluate", "tasks") as progress:
            cache = Path(self.config.output_dir) / "cache"
            choices = EvaluationConfig(base=self._place())
            found = evaluate(self.folder, self.config.checkpoint_folder, choices, cache, progress).to_json()
            write_json(document, found)
        send_evaluation(self.config.training.report_to, self.folder, document.stem, found["splits"])

    def _answer(self, path: Path) -> None:
        """Save answers of adapters generated for unseen tasks, and the first of these adapters."""
        from llgbm.evaluation.answers import answer_examples
        from llgbm.evaluation.setting import EvaluationConfig, load_setting
        from llgbm.files import write_json
        from llgbm.models.export import Request, generate_adapters

        setting = load_setting(self.folder, self.config.checkpoint_folder, EvaluationConfig(base=self._place()))
        document = answer_examples(setting)
        first = document["tasks"][0]
        request = Request(first["task"], first["description"], tuple(first["prompts"]))
        generate_adapters(self.folder, [request], self.folder / "example_adapter", setting.base)
        write_json(path, document)

    def _show(self, document: Path, answers: Path) -> str:
        from llgbm.cli.evaluate import print_evaluation
        from llgbm.evaluation.answers import read_answers
        from llgbm.files import read_json

        print_evaluation(read_json(document))
        task = read_answers(answers)["tasks"][0]
        asked = "\n  ".join([task["description"]] if task["description"] else task["prompts"][:SHOWN_PROMPTS])
        rows = [
            {
                "input": row["input"],
                "base": row["answers"]["base"],
                "generated adapter": row["answers"]["generated"],
                "expected": row["expected"],
            }
            for row in task["examples"]
        ]
        print_table(rows, title=f"an adapter generated from one sentence, for a task of split {task['split']}:\n  {asked}")
        print(f"the adapter: {self.folder / 'example_adapter'} (load it with plain PEFT)")
        return f"--description {shlex.quote(task['description'])}" if task["description"] else "--prompts my_prompts.txt"

    def _report(self, inputs: dict[str, str]) -> None:
        """The page, made anew when anything it shows has changed."""
        from llgbm.report.html import source_hash, write_report

        composition = Path(self.config.output_dir) / "composition"
        read = {**inputs, "results": source_hash(self.folder, composition)}
        page = self.folder / "report.html"
        self._stage("report", read, [page], lambda: write_report([self.folder], page, composition))
