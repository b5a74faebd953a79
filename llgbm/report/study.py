"""`llgbm study report`: report.html, one page that needs nothing but itself, report.md for a PDF, and figures, from saved results alone."""

import dataclasses
from pathlib import Path
from typing import Any

from llgbm.files import write_text
from llgbm.progress import ProgressCallback
from llgbm.report.html import page_environment
from llgbm.report.plots_lora_study import plot_drift_curves, plot_drift_map, plot_latency, plot_scores
from llgbm.report.study_methods import commands, limits, methods
from llgbm.report.study_parts import Picture, Section, as_markdown
from llgbm.report.study_sections import checks, deployment, drift, glance, hypotheses, scores, setup
from llgbm.study.claims import score_cells
from llgbm.study.deployment import DeploymentFindings, read_deployment
from llgbm.study.drift import DriftFindings, read_drift
from llgbm.study.folder import RunResult, Study
from llgbm.study.hypotheses import read_hypotheses
from llgbm.study.sanity import Checks, read_checks

PAGE, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
CAPTIONS = {
    "drift_map": "Likeness (unbiased linear CKA) of hidden states to the base's, by layer and optimizer step, mean over seeds; dark is far",
    "drift_curves": "Drift over training, mean over layers (above), and by layer at its end (below); bands are the range over seeds",
    "scores": "Mean score with its 95% interval over test examples; small dots are single seeds",
    "latency": "Median time of a batch, whiskers up to the 95th percentile; over the bars the median ratio to the merged model's time",
}


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written."""

    files: list[Path]

    def rows(self) -> list[dict[str, Any]]:
        """One per file, for a table."""
        return [{"file": str(path)} for path in self.files]


def run_report(study: Study, progress: ProgressCallback | None = None) -> Written:
    """Write the report from what is there; what is missing is named with the step that makes it.

    Raises:
        InputError: A file of results is damaged.
    """
    results = [found for run in study.runs() if (found := study.result(*run)) is not None]
    found_drift, found_deployment, found_checks = read_drift(study), read_deployment(study), read_checks(study)
    pictures = _pictures(study, results, found_drift, found_deployment, found_checks, progress)
    found = read_hypotheses(study)

    def command(step: str) -> str:
        return f"llgbm study {step} --output {study.folder}"

    sections = [
        glance(found, command),
        setup(study, results, command),
        checks(found_checks, command),
        scores(study, results, pictures.get("scores"), command),
        drift(found_drift, pictures, command),
        deployment(found_deployment, pictures.get("latency"), command),
        hypotheses(found, command),
        methods(study),
        limits(study, results, found_drift, found_deployment, found),
        commands(study, command),
    ]
    title = f"LoRA against full fine-tuning: {study.config.model.name}"
    write_text(study.path(PAGE), as_page(title, sections))
    write_text(study.path(MARKDOWN), as_markdown(title, sections, study.folder))
    return Written([study.path(PAGE), study.path(MARKDOWN), *(one.path for one in pictures.values())])


def as_page(title: str, sections: list[Section]) -> str:
    """The report as HTML, its pictures within."""
    environment = page_environment()
    environment.tests["of"] = lambda part, name: type(part).__name__ == name
    return environment.get_template("study.html").render(title=title, sections=sections)


def _pictures(
    study: Study,
    results: list[RunResult],
    found_drift: DriftFindings | None,
    found_deployment: DeploymentFindings | None,
    found_checks: Checks,
    progress: ProgressCallback | None,
) -> dict[str, Picture]:
    """Draw what there is to draw; name -> picture."""
    drawn: dict[str, Picture] = {}
    cells = score_cells(study)
    backends = [one for model in found_deployment.models for one in model.backends if one.servings] if found_deployment else []
    metrics = {one.task: one.metric for one in results}
    baselines = {task: best for task, metric in metrics.items() if (best := _best(found_checks, task, metric)) is not None}
    drawings = {
        "scores": (cells, lambda path: plot_scores(cells, metrics, baselines, path)),
        "drift_map": (found_drift, lambda path: plot_drift_map(found_drift.tasks, path)),  # pyright: ignore[reportOptionalMemberAccess]
        "drift_curves": (found_drift, lambda path: plot_drift_curves(found_drift.tasks, path)),  # pyright: ignore[reportOptionalMemberAccess]
        "latency": (backends, lambda path: plot_latency(backends, path)),
    }
    for done, (name, (there, draw)) in enumerate(drawings.items(), 1):
        if there:
            path = study.path(FIGURES, f"{name}.png")
            draw(path)
            drawn[name] = Picture(path, CAPTIONS[name])
        if progress:
            progress(done, len(drawings))
    return drawn


def _best(found: Checks, task: str, metric: str) -> float | None:
    """The best score of answers that need no training."""
    return max((metrics[metric] for metrics in found.baselines.get(task, {}).values() if metric in metrics), default=None)
