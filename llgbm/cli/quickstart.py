"""`llgbm quickstart`: the whole way once, from a zoo of teachers to a generated adapter tried on three inputs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from llgbm.cli.options import add_config_arguments, read_config
from llgbm.cli.output import print_table

if TYPE_CHECKING:
    from llgbm.config import ExperimentConfig
    from llgbm.zoo.suite import Task
    from llgbm.zoo.teachers import TeacherZoo

HELP = "Do everything once: teachers, deltas, generator, evaluation, and an adapter from a sentence."

SHOWN_INPUTS = 3


def add_arguments(parser: ArgumentParser) -> None:
    """Any config field."""
    add_config_arguments(parser)


def run(args: Namespace) -> int:
    """Run every stage that is not done yet, then show the results and what to do next."""
    config = read_config(args)
    start = time.perf_counter()
    _Quickstart(config).run()
    print(f"\nfinished in {time.perf_counter() - start:.0f} s. Everything is kept: the same command again only shows the results.")
    print(NEXT.format(run=Path(config.output_dir) / config.experiment_name))
    return 0


NEXT = """
What to run next:
  llgbm generate --description "Reverse the string in uppercase and put it in square brackets." --output_dir my_adapter
  llgbm evaluate --checkpoint {run} --methods base few_shot teacher generated nearest
  llgbm zoo list
  llgbm visualize --type deltas
  llgbm train --config baseline"""


class _Quickstart:
    """The stages in order, with the folders they share."""

    def __init__(self, config: "ExperimentConfig") -> None:
        from llgbm.pipeline import Stages

        self.config = config
        self.folder = Path(config.output_dir) / config.experiment_name
        self.stages = Stages(Path(config.output_dir) / "quickstart.json")

    def run(self) -> None:
        zoo = self._zoo()
        inputs = {"config": self.config.get_hash(), "zoo": zoo.content_hash}
        self._stage("deltas", inputs, [Path(self.config.delta_cache_dir) / "manifest.json"], lambda: self._deltas(zoo))
        self._stage("pictures", inputs, [self.folder / "figures" / "delta_map.png"], lambda: self._pictures(zoo))
        self._stage("generator", inputs, [self.folder / "generator" / "config.json"], self._train)
        document = self.folder / "eval_main.json"
        self._stage("evaluation", inputs, [document], lambda: self._evaluate(document))
        self._show(zoo, document)

    def _stage(self, name: str, inputs: dict[str, str], outputs: list[Path], work: Callable[[], object]) -> None:
        start = time.perf_counter()
        done_now = self.stages.run(name, inputs, outputs, work)
        print(f"{name}: {f'{time.perf_counter() - start:.0f} s' if done_now else 'already there'}, {outputs[0].parent}", flush=True)

    def _zoo(self) -> "TeacherZoo":
        from llgbm.progress import ProgressBar
        from llgbm.zoo.teachers import build_zoo

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

        draw_deltas(self.config, self.config.delta_cache_dir, str(zoo.folder), str(self.folder / "figures"))

    def _train(self) -> None:
        from llgbm.progress import ProgressBar
        from llgbm.training.loop import train_generator

        with ProgressBar(f"train {self.config.experiment_name}", "steps") as progress:
            train_generator(self.config, progress=progress)

    def _evaluate(self, document: Path) -> None:
        from llgbm.artifacts import write_json
        from llgbm.evaluation.task_eval import evaluate
        from llgbm.progress import ProgressBar

        with ProgressBar("evaluate", "tasks") as progress:
            cache = Path(self.config.output_dir) / "cache"
            write_json(document, evaluate(self.folder, self.config.checkpoint_folder, cache_dir=cache, progress=progress).to_json())

    def _show(self, zoo: "TeacherZoo", document: Path) -> None:
        from llgbm.artifacts import read_json
        from llgbm.cli.evaluate import print_evaluation

        print_evaluation(read_json(document))
        task = next(iter(zoo.suite.select(split="unseen_combination")), None) or next(iter(zoo.suite))
        print_table(
            self._try(zoo, task), title=f"an adapter generated from one sentence, for a task of split {task.split}:\n  {task.description}"
        )
        print(f"the adapter: {self.folder / 'example_adapter'} (load it with plain PEFT)")

    def _try(self, zoo: "TeacherZoo", task: "Task") -> list[dict[str, Any]]:
        """Write one adapter and answer three test inputs with it, by greedy decoding."""
        from llgbm.functional_lora import FunctionalLoRA, complete
        from llgbm.lora.peft_io import read_adapter
        from llgbm.models.export import Request, generate_adapters
        from llgbm.zoo.base import load_base

        base = load_base(self.config.model.name, self.config.model.dtype, self.config.model.device, self.config.model.revision)
        adapter = generate_adapters(self.folder, [Request(task.name, task.description)], self.folder / "example_adapter", base)[0]
        factors = read_adapter(adapter)
        functional = FunctionalLoRA(base.model, factors.shapes)
        examples = task.test[:SHOWN_INPUTS]
        texts = [zoo.suite.framed(example.input) for example in examples]
        answers = [complete(functional, chosen, base.tokenizer, texts) for chosen in (None, factors)]
        return [
            {"input": example.input, "base": plain, "generated adapter": ours, "expected": example.output}
            for example, plain, ours in zip(examples, *answers, strict=True)
        ]
