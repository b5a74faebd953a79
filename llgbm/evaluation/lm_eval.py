"""Base, teachers and generated adapters on tasks of lm-evaluation-harness: `eval_lm_<name>.json`.

The harness's own model of transformers scores the loaded base; adapters are put into it by PEFT, and taken out again. So a
score is what the harness gives when it is called by hand on the base and the adapter's folder, in the same precision and batches:
`lm_eval --model hf --model_args pretrained=BASE,peft=ADAPTER --tasks TASK`.
"""

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from peft import PeftModel
from transformers.pytorch_utils import Conv1D

from llgbm.errors import InputError, first_line
from llgbm.evaluation.lm_models import candidates
from llgbm.evaluation.lm_tasks import LmTasks, open_tasks, rendered_safely
from llgbm.evaluation.setting import EvaluationConfig
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import write_adapter
from llgbm.progress import ProgressCallback
from llgbm.zoo.base import Base
from llgbm.zoo.named import loadable_name

logger = logging.getLogger(__name__)
BACKEND = "lm-eval"
EXPECTED = ("`pretrained` model kwarg is not", "Passed an already-initialized model")
"""What the harness warns of because the model is loaded already."""
ONE_PROCESS = "DISABLE_MULTIPROC"
"""The harness's own variable."""


@dataclass(frozen=True)
class HarnessConfig:
    """What the harness is asked, in its own terms."""

    tasks: tuple[str, ...]
    """Names of tasks, groups or tags, or paths of YAML files."""
    include_path: str | None = None
    """A folder of further task files."""
    num_fewshot: int | None = None
    """Examples shown before each; the task's own number by default."""
    batch_size: str = "1"
    """Requests at once, or auto."""
    apply_chat_template: bool = False
    """Put prompts into the chat template of the base's tokenizer."""
    confirm_run_unsafe_code: bool = False
    """Let tasks run the Python code they name, and what models answer."""


def evaluate_lm(
    checkpoint: str | Path | None,
    zoo_folder: str | Path,
    config: EvaluationConfig,
    harness: HarnessConfig,
    descriptions: Sequence[str] = (),
    zoo_tasks: Sequence[str] = (),
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Score models on tasks of the harness.

    Args:
        checkpoint: A generator's run folder, `generator/` folder or checkpoint; None: no generator.
        zoo_folder: The zoo; opened only where its tasks or splits are named, or there is no generator.
        config: Its splits say for which of the zoo's tasks adapters are scored, its methods which (all that make one can be; by
            default base, teacher and generated, as far as there are any); `max_examples` bounds the examples of each task of the harness.
        harness: What is asked.
        descriptions: Sentences to generate adapters for.
        zoo_tasks: Only these of the zoo's tasks; without splits, in their own ones.
        progress: Told of each model.

    Returns:
        The document of `eval_lm_<name>.json`: backend, lm_eval (its version), base, choices, tasks (name -> version, n_shot), models,
        and scores: one row for each model, task and metric, with value, stderr (None where the harness gives none) and n.

    Raises:
        InputError: lm-eval is not installed; as `open_tasks`; as `load_setting`; something is asked for that cannot be, or a
            task's examples do not suit the harness.
    """
    heard = _Heard()
    with _alone(heard):
        harness_version = _version()
        tasks = open_tasks(harness.tasks, harness.include_path, harness.confirm_run_unsafe_code)
    base, asked = candidates(checkpoint, zoo_folder, config, descriptions, zoo_tasks)
    if harness.apply_chat_template and not base.tokenizer.chat_template:
        raise InputError(f"base {base.name} has no chat template; leave out --apply_chat_template")
    models, scores, seen = [], [], {}
    for done, candidate in enumerate(asked):
        if progress is not None:
            progress(done, len(asked), now=candidate.model)
        factors = candidate.make() if candidate.make else None
        with _adapted(base, factors) as model, _alone(heard), rendered_safely(harness.confirm_run_unsafe_code):
            results = _ask(model, base, tasks, harness, config.max_examples)
        of = {"model": candidate.model, "asked": candidate.asked}
        models.append({**of, "adapter": None if factors is None else factors.content_hash()})
        scores += [{**of, **row} for row in _rows(results)]
        seen = {name: {"version": results["versions"].get(name), "n_shot": results["n-shot"].get(name)} for name in results["n-samples"]}
    if progress is not None:
        progress(len(asked), len(asked))
    choices = {**asdict(harness), "max_examples": config.max_examples}
    document = {"backend": BACKEND, "lm_eval": harness_version, "base": asdict(base.identity), "choices": choices, "tasks": seen}
    return {**document, "models": models, "scores": scores}


@contextmanager
def _adapted(base: Base, factors: LoRAFactors | None) -> Iterator[Any]:
    """The base's model with an adapter put in by PEFT, as from a folder; without it again at the end."""
    if factors is None:
        yield base.model
        return
    with tempfile.TemporaryDirectory() as folder:
        transposed = any(isinstance(base.model.get_submodule(name), Conv1D) for name in factors.shapes)
        write_adapter(folder, factors, base_name=loadable_name(base.name), fan_in_fan_out=transposed)
        adapted = PeftModel.from_pretrained(base.model, folder)
        try:
            yield adapted
        finally:
            adapted.unload()


def _ask(model: Any, base: Base, tasks: LmTasks, harness: HarnessConfig, limit: int | None) -> dict[str, Any]:
    """What the harness finds. InputError when an example of a task does not suit it."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    simple_evaluate: Any = lm_eval.simple_evaluate  # its decorator hides its parameters from type checkers
    try:
        results: Any = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=base.tokenizer, batch_size=harness.batch_size),  # type: ignore[arg-type]
            tasks=list(tasks.names),
            task_manager=tasks.manager,
            num_fewshot=harness.num_fewshot,
            limit=limit,
            apply_chat_template=harness.apply_chat_template,
            confirm_run_unsafe_code=harness.confirm_run_unsafe_code,
            log_samples=False,
        )
    except (TemplateError, AssertionError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(
            f"lm-eval cannot score tasks {', '.join(tasks.names)} ({type(error).__name__}: {first_line(error)}); mend the one meant"
        ) from error
    return results


def _rows(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each task (or group) and metric."""
    for task, found in {**results["results"], **results.get("groups", {})}.items():
        n = results["n-samples"].get(task, {}).get("effective", found.get("sample_len"))
        for key, value in found.items():
            metric, comma, kind = key.partition(",")
            if comma and not metric.endswith("_stderr") and _number(value) is not None:
                stderr = _number(found.get(f"{metric}_stderr,{kind}"))
                yield {"task": task, "metric": metric, "filter": kind, "value": _number(value), "stderr": stderr, "n": n}


def _number(value: Any) -> float | None:
    """A finite number as Python's; None for what the harness writes where it has none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _version() -> str:
    """The harness's; InputError where it is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"--backend {BACKEND} needs {error.name}, which is not installed; pip install 'llgbm[eval]'") from error
    return version("lm_eval")


@contextmanager
def _alone(heard: "_Heard") -> Iterator[None]:
    """Let the harness print nothing, show no bars and fork no processes in here; what it warns of is heard.

    It would fork to draw resamples, and a fork of a process with threads now and then stands still for ever; the draws are the same.
    """
    harness, before = logging.getLogger("lm_eval"), os.environ.get(ONE_PROCESS)
    harness.addHandler(heard)
    os.environ[ONE_PROCESS] = "1"
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        harness.removeHandler(heard)
        del os.environ[ONE_PROCESS]
        os.environ.update({} if before is None else {ONE_PROCESS: before})


class _Heard(logging.Handler):
    """Says what the harness warns of once, as this package says its own warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if said not in self.said and not said.startswith(EXPECTED):
            self.said.add(said)
            logger.warning("lm-eval: %s", said)
