"""`report.html`: one page about one or several runs that needs nothing but itself, made from saved results only.

The same files give the same bytes: the page holds no time of its own, and every number in it stands in a file of the run.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llgbm.errors import InputError
from llgbm.files import hash_json, write_text
from llgbm.report import scores, sections
from llgbm.report.charts import STYLES
from llgbm.report.collect import REPORT_FILE, CompositionFindings, Run, collect_composition, collect_run
from llgbm.report.table import moment, words

MEDIA_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
CAPTIONS = {
    "delta_map": "Each point is one adapter of the zoo, placed by what it does to the base's hidden states on generic probes",
    "delta_similarity": "Cosine similarity of every two adapters' delta fingerprints, ordered by domain: a square on the diagonal is "
    "a domain, and the redder it is beside its surroundings, the more its adapters do alike",
    "delta_silhouettes": "How well each embedding of the adapters sets domains and tasks apart: 1 means groups lie far from each other, "
    "0 that they overlap",
    "delta_layers": "Left: how far adapters of each domain move the hidden states, layer by layer, beside the base's own; right: at "
    "which layer these moves tell domains and tasks apart",
    "composition_additivity": "Each row is an adapter trained on two tasks: how far its fingerprint is from the sum, the mean and either "
    "of its parts'; dark is far",
    "composition_interpolation": "From one adapter to another: what happens to both tasks (left), and to the likeness with the adapter "
    "trained on both (right)",
    "composition_ways": "Exact match over both tasks of adapters made of two, method by method; gray are bounds, not methods",
    "composition_map": "Fingerprints in a plane: teachers by domain, teachers of two tasks as squares, and adapters composed of two",
}
"""What pictures show."""


def write_report(
    folders: Sequence[str | Path], output: str | Path | None = None, composition_dir: str | Path = "outputs/composition"
) -> Path:
    """Write the page; returns its path.

    Args:
        folders: Run folders, at least one; several are set side by side.
        output: The file; by default `report.html` in the only run's folder.
        composition_dir: Results of `llgbm compose`, shown if they are there.

    Raises:
        InputError: No folder or one twice, several without an output, or a folder whose files are not a run's.
    """
    if len({Path(folder).resolve() for folder in folders}) < max(1, len(folders)):
        raise InputError(f"runs are {', '.join(map(str, folders)) or 'none'}; give at least one, each once")
    if output is None and len(folders) > 1:
        raise InputError(f"{len(folders)} runs in one report; say where it goes with --output FILE")
    runs = [collect_run(folder) for folder in folders]
    path = Path(output) if output is not None else Path(folders[0]) / REPORT_FILE
    write_text(path, render(runs, collect_composition(composition_dir)))
    return path


def source_hash(folder: str | Path, composition_dir: str | Path) -> str:
    """Hash of everything a page about one run is made from, the page's own code included."""
    run, composition = collect_run(folder), collect_composition(composition_dir)
    artifacts = [*run.artifacts, *(composition.artifacts if composition else [])]
    zoo = run.zoo["manifest_hash"] if run.zoo else None
    assets = [asset(name) for name in ("report.html", "parts.html", "chart.css", "report.css", "report.js")]
    return hash_json([[[a.path, a.sha256] for a in artifacts], zoo, *assets])


def render(runs: Sequence[Run], composition: CompositionFindings | None = None) -> str:
    """The page as text."""
    environment, script = page_environment(), asset("report.js")
    environment.filters["moment"] = moment
    environment.globals["captions"] = CAPTIONS
    columns = scores.scores_of(runs)
    return environment.get_template("report.html").render(
        title=", ".join(run.name for run in runs),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **_about_runs(runs),
        **_about_scores(columns),
        composition=composition,
        composed=sections.composition_tables(composition, runs) if composition else None,
    )


def page_environment() -> Environment:
    """Templates of the page's look, with its style; what is undefined is a fault."""
    environment = Environment(
        loader=PackageLoader("llgbm.report", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = words
    environment.globals |= {"picture": picture, "style": Markup(asset("chart.css") + asset("report.css"))}
    return environment


def picture(path: Path) -> str:
    """A picture as a data URI. As an image, not inline: a script in an SVG file does not run."""
    return f"data:{MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _about_runs(runs: Sequence[Run]) -> dict[str, Any]:
    zoos = {run.zoo["manifest_hash"]: sections.zoo_table(run) for run in runs if run.zoo}
    return {
        "runs": runs,
        "styles": STYLES,
        "standing": {run.folder: sections.standing(run) for run in runs},
        "facts": sections.facts_table(runs),
        "config": sections.config_table(runs),
        "differences": sections.config_table(runs, only_differing=True),
        "zoos": [zoo for zoo in zoos.values() if zoo],
        "curves": sections.training_curves([(run.name, run.metrics) for run in runs], sections.teacher_level(runs)),
        "hardware": sections.hardware_curves([(run.name, run.hardware) for run in runs]),
        "delta_pictures": _delta_pictures(runs),
        "artifacts": [sections.artifact_table(run.name, run.artifacts) for run in runs],
    }


def _about_scores(columns: Sequence[scores.Scores]) -> dict[str, Any]:
    return {
        "columns": columns,
        "headlines": scores.headlines(columns[0]) if len(columns) == 1 else [],
        "score_charts": scores.score_charts(columns),
        "score_tables": scores.score_tables(columns) if columns else [],
        "comparisons": [table for one in columns if (table := scores.comparison_table(one))],
        "all_figures": [table for one in columns for table in (scores.figures_table(one), scores.paired_table(one)) if table],
        "tasks": scores.task_table(columns),
        "legend": scores.legend(columns),
    }


def _delta_pictures(runs: Sequence[Run]) -> list[tuple[str, str, Path]]:
    """(name, what it shows, file), a picture that several runs share once."""
    found: dict[bytes, tuple[str, str, Path]] = {}
    order = {name: i for i, name in enumerate(CAPTIONS)}
    for run in runs:
        for name in sorted(run.pictures, key=lambda name: (order.get(name, len(order)), name)):
            if name.startswith("delta"):
                path = run.pictures[name]
                found.setdefault(path.read_bytes(), (name, CAPTIONS.get(name, words(name)), path))
    return list(found.values())


def asset(name: str) -> str:
    """A file of the page's look."""
    return files("llgbm.report").joinpath("page", name).read_text(encoding="utf-8")
