"""What a page says about runs besides their scores: facts, configuration, curves, composition, files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from llgbm.percent import percent
from llgbm.report.charts import Curve, curves_chart, number
from llgbm.report.collect import Artifact, CompositionFindings, Metrics, Run
from llgbm.report.table import DASH, Cell, Table, duration, json_tables, moment, number_cell, size, words
from llgbm.tracking.record import COMPLETED, FAILED

TITLES = {
    "validation/score": "score on held-back tasks",
    "validation/nll": "NLL on held-back tasks",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "adapters_per_second": "adapters per second",
}
"""Names of figures for people, in the order of panels; any other has its own name: losses before them, the rest after."""

MACHINE = {
    "process_cpu_percent": "processor, this process, % of a core",
    "cpu_percent": "processor, whole machine, %",
    "process_memory_gib": "memory, this process, GiB",
    "memory_percent": "memory, whole machine, %",
}
"""Names of what is sampled of the machine, in the order of panels; GPUs follow."""


def standing(run: Run) -> str:
    """What to know about a run that has not ended well; empty for one that has."""
    planned = run.config.get("training.total_steps")
    reached = f"Last logged step: {run.metrics.last_step}" + (f" of {planned}." if planned else ".")
    if run.state == COMPLETED:
        return ""
    if run.unfinished:
        return f"This run has not ended: it is still going, or it was killed. {reached} What follows is what is there so far."
    if run.state == FAILED:
        return f"This run failed: {run.metadata.get('error', 'its record does not say why')}. {reached}"
    return f"This run has no metadata.json, so nobody knows whether it ended. {reached}"


def facts_table(runs: Sequence[Run]) -> Table:
    """What was run, where, from which inputs; one column per run."""
    found = [_facts(run) for run in runs]
    names = [name for name in found[0] if any(facts[name] for facts in found)]
    rows = [[Cell(name), *(Cell(facts[name] or DASH) for facts in found)] for name in names]
    return Table("What was run", [Cell("fact"), *(Cell(run.name) for run in runs)], rows)


def config_table(runs: Sequence[Run], only_differing: bool = False) -> Table | None:
    """Every configuration field, or those in which the runs differ; None when there are none."""
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    if only_differing:
        names = [name for name in names if _differs(name, runs)]
    rows = [[Cell(name, kind="code"), *(Cell(_shown(run.config.get(name))) for run in runs)] for name in names]
    caption = "Where the configurations differ" if only_differing else "Configuration"
    return Table(caption, [Cell("field"), *(Cell(run.name) for run in runs)], rows) if rows else None


@dataclass(frozen=True)
class Curves:
    """Panels of training curves, and the figures that never changed."""

    panels: list[tuple[str, Markup]]
    constant: list[str]


def training_curves(runs: Sequence[tuple[str, Metrics]], teacher: tuple[str, float] | None = None) -> Curves:
    """One panel for each figure that changes in any run, the runs overlaid.

    Args:
        runs: The name and the figures of each.
        teacher: Name and level of a line in panels of exact match.
    """
    names = list(dict.fromkeys(name for _, metrics in runs for name in metrics.figures))
    names.sort(key=_rank)
    panels, constant = [], []
    for name in names:
        curves = [Curve(run, metrics.figures[name]) for run, metrics in runs if name in metrics.figures]
        levels = {value for curve in curves for _, value in curve.points}
        if len(levels) == 1 and name not in TITLES:
            constant.append(f"{words(name)} = {number(levels.pop())}")
            continue
        title = TITLES.get(name, words(name))
        share = "score" in name
        panels.append((title, curves_chart(title, curves, percent if share else number, teacher if share else None, share)))
    return Curves(panels, constant)


def hardware_curves(runs: Sequence[tuple[str, Metrics]]) -> list[tuple[str, Markup]]:
    """One panel for each thing of the machine that was sampled in any run, over seconds."""
    names = sorted({name for _, metrics in runs for name in metrics.figures}, key=lambda name: (_machine_rank(name), name))
    panels = []
    for name in names:
        curves = [Curve(run, metrics.figures[name]) for run, metrics in runs if name in metrics.figures]
        title = MACHINE.get(name) or words(name).replace("gpu", "GPU ").replace(" percent", ", busy, %").replace(" gib", ", GiB")
        panels.append((title, curves_chart(title, curves, axis="second", from_zero=True)))
    return panels


def artifact_table(name: str, artifacts: Sequence[Artifact]) -> Table:
    """Files with sizes and hashes."""
    rows = [
        [Cell(a.path, kind="code"), Cell(size(a.size_bytes), sort=a.size_bytes, kind="number"), Cell(a.sha256, kind="code")]
        for a in artifacts
    ]
    return Table(f"Files of {name}", [Cell("file"), Cell("size"), Cell("SHA-256")], rows)


@dataclass(frozen=True)
class Composed:
    """A composition's sentences and tables."""

    findings: list[str]
    leading: list[Table]
    """Ways to compose, with their scores."""
    tables: list[Table]
    """The rest, which the page folds."""
    foreign: bool
    """Whether it was made from another zoo than any of the runs."""


def composition_tables(composition: CompositionFindings, runs: Sequence[Run]) -> Composed:
    """Whatever the documents hold: lists of sentences named `findings`, the rest as tables."""
    zoos = {(run.metadata.get("inputs") or {}).get("zoo") for run in runs} - {None}
    objects = [document for document in composition.documents.values() if isinstance(document, dict)]
    composed_from = {str(zoo.get("hash")) for document in objects if isinstance(zoo := document.get("zoo"), dict)}
    findings: list[str] = []
    tables: list[Table] = []
    for stem, document in composition.documents.items():
        if isinstance(document, dict):
            said = document.get("findings", [])
            findings += [str(line) for line in ([said] if isinstance(said, str) else said)]
            document = {name: value for name, value in document.items() if name != "findings"}
        tables += json_tables(document, words(stem))
    leading = [table for table in tables if table.caption.endswith(": ways")]
    rest = [table for table in tables if table not in leading]
    return Composed(findings, leading, rest, foreign=bool(zoos and composed_from) and not zoos & composed_from)


def zoo_table(run: Run) -> Table | None:
    """The zoo's teachers by domain and split."""
    if run.zoo is None or not isinstance(run.zoo.get("teachers"), list):
        return None
    groups: dict[tuple[str, str], list[float | None]] = {}
    for teacher in run.zoo["teachers"]:
        value = teacher.get("score", teacher.get("exact_match"))
        groups.setdefault((str(teacher.get("domain")), str(teacher.get("split"))), []).append(value)
    rows = []
    for (domain, split), values in sorted(groups.items()):
        known = [value for value in values if value is not None]
        mean = percent(sum(known) / len(known), 1) if known else DASH
        rows.append([Cell(words(domain)), Cell(words(split)), number_cell(len(values)), Cell(mean, kind="number")])
    metric = "score, each task by its metric," if any("score" in teacher for teacher in run.zoo["teachers"]) else "exact match"
    heads = [Cell("domain"), Cell("split"), Cell("teachers"), Cell(f"{metric} in validation")]
    return Table(f"Teachers of {run.zoo['folder']}", heads, rows)


def _facts(run: Run) -> dict[str, str]:
    """Facts by name, every run's in the same order; empty where nothing is recorded."""
    seen = run.metadata
    git, machine, inputs = (seen.get(name) or {} for name in ("git", "environment", "inputs"))
    packages = machine.get("packages") or {}
    dirty = ", with uncommitted changes" if git.get("dirty") else ""
    zoo = f"{len(run.zoo.get('teachers', []))} teachers in {run.zoo['folder']}, " if run.zoo else ""
    return {
        "state": run.state,
        "folder": str(run.folder),
        "started": moment(str(seen.get("started", ""))),
        "took": duration(seen["seconds"]) if "seconds" in seen else "",
        "steps": _steps(run),
        "git": f"{git['commit'][:12]} on {git.get('branch')}{dirty}" if git.get("commit") else "",
        "configuration": str(seen.get("config_hash", "")),
        "seed": _shown(run.config.get("seed")),
        "base": " ".join(filter(None, (str(run.config.get("model.name", "")), str(inputs.get("base", ""))[:16]))),
        "zoo": zoo + str(inputs.get("zoo", ""))[:16],
        "text encoder": " ".join(filter(None, (str(run.config.get("generator.encoder", "")), str(inputs.get("encoder", ""))[:32]))),
        "machine": ", ".join(
            str(part)
            for part in (machine.get("platform"), machine.get("cpu_capability"), machine.get("gpu_name"), _threads(machine.get("threads")))
            if part
        ),
        "software": ", ".join(
            f"{name} {version}" for name, version in {"Python": machine.get("python_version"), **packages}.items() if version
        ),
    }


def _steps(run: Run) -> str:
    done = run.training.get("steps", run.metrics.last_step or None)
    best = run.training.get("best_step")
    return "" if done is None else f"{done}" + (f", the best was {best}" if best is not None else "")


def _machine_rank(figure: str) -> int:
    return list(MACHINE).index(figure) if figure in MACHINE else len(MACHINE)


def _threads(threads: object) -> str:
    return f"{threads} threads" if threads else ""


def _differs(name: str, runs: Sequence[Run]) -> bool:
    """Whether a field that decides results has two values among the runs."""
    return name not in ("experiment_name", "output_dir") and any(
        _shown(run.config.get(name)) != _shown(runs[0].config.get(name)) for run in runs
    )


def _rank(figure: str) -> int:
    if figure in TITLES:
        return list(TITLES).index(figure)
    return -1 if figure.startswith("loss") else len(TITLES)


def teacher_level(runs: Sequence[Run]) -> tuple[str, float] | None:
    """The teachers' exact match on the held-back tasks, where all runs agree on it."""
    levels = {run.training.get("teacher_score") for run in runs}
    level = levels.pop()
    return None if levels or level is None else (f"teacher {percent(level, 1)}", float(level))


def _shown(value: Any) -> str:
    if value is None:
        return DASH
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
