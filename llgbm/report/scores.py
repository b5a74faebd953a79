"""Evaluations of one or several runs as tables and charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from llgbm.evaluation.methods import METHODS
from llgbm.evaluation.statistics import p_text, paired_by
from llgbm.evaluation.task_eval import REFERENCE, measure
from llgbm.percent import percent
from llgbm.report.charts import Estimate, estimates_chart
from llgbm.report.collect import Run
from llgbm.report.table import MINUS, Cell, Table, number_cell, percent_cell, points, words


@dataclass(frozen=True)
class Scores:
    """One evaluation, with the name it has on the page."""

    label: str
    run: Run
    document: dict[str, Any]

    @property
    def splits(self) -> dict[str, dict[str, dict[str, Any]]]:
        return self.document["splits"]

    @property
    def is_of_run(self) -> bool:
        """Whether the run's configuration is the one that was evaluated."""
        own = self.run.metadata.get("config_hash")
        return own is None or own == self.document["config_hash"]

    def cell(self, split: str, method: str) -> Cell:
        """The score, its interval and the gain recovered."""
        summary = self.splits.get(split, {}).get(method)
        if summary is None:
            return percent_cell(None)
        gain = summary.get("gain_recovered")
        shown = "" if gain is None or method in ("base", "teacher") else f"gain {percent(gain)}".replace("-", MINUS)
        return percent_cell(summary["score"], summary["low"], summary["high"], note=shown)

    def estimate(self, split: str, method: str) -> Estimate | None:
        """The same for a chart."""
        summary = self.splits.get(split, {}).get(method)
        if summary is None:
            return None
        return Estimate(self.label, summary["score"], summary["low"], summary["high"])


def scores_of(runs: Sequence[Run]) -> list[Scores]:
    """Every evaluation of every run, named after the run, and after itself where a run has several."""
    several = any(len(run.evaluations) > 1 for run in runs)
    found = ((run, name, document) for run in runs for name, document in run.evaluations.items())
    return [Scores(f"{run.name}, {name}" if several else run.name, run, document) for run, name, document in found]


def headlines(scores: Scores) -> list[tuple[str, Cell, str]]:
    """For each split: its name, what generated adapters reach, and what base and teacher do."""
    found = []
    for split, methods in scores.splits.items():
        if REFERENCE in methods:
            others = [f"{words(name)} {percent(methods[name]['score'], 1)}" for name in ("base", "teacher") if name in methods]
            found.append((words(split), scores.cell(split, REFERENCE), ", ".join(others)))
    return found


def score_tables(columns: Sequence[Scores]) -> list[Table]:
    """One evaluation: methods by split. Several: for each split, methods by evaluation."""
    splits = list(dict.fromkeys(split for one in columns for split in one.splits))
    if len(columns) == 1:
        heads = [Cell("method"), *(_split_head(columns[0], split) for split in splits)]
        rows = [[_method_head(m), *(columns[0].cell(split, m) for split in splits)] for m in _methods(columns, splits)]
        return [Table(f"{_measure(columns)} of each method, by split", heads, rows)]
    tables = []
    for split in splits:
        rows = [[_method_head(m), *(one.cell(split, m) for one in columns)] for m in _methods(columns, [split])]
        tables.append(Table(f"{_measure(columns)}, {words(split)}", [Cell("method"), *(_run_head(one, split) for one in columns)], rows))
    return tables


def score_charts(columns: Sequence[Scores]) -> list[tuple[str, Markup]]:
    """For each split, every method's score with its interval."""
    charts = []
    for split in dict.fromkeys(split for one in columns for split in one.splits):
        rows = [(words(m), [one.estimate(split, m) for one in columns]) for m in _methods(columns, [split])]
        charts.append((words(split), estimates_chart(f"{_measure(columns)}, {words(split)}", rows, emphasis=words(REFERENCE))))
    return charts


def comparison_table(scores: Scores) -> Table | None:
    """Generated adapters minus each other method, by split; None without comparisons."""
    rows = {(row["other"], row["split"]): row for row in scores.document.get("comparisons", [])}
    splits, others = (list(dict.fromkeys(key[i] for key in rows)) for i in (1, 0))
    cells = [[Cell(words(other)), *(_difference(rows.get((other, split))) for split in splits)] for other in others]
    caption = f"{scores.label}: generated adapters against the others"
    return Table(caption, [Cell("generated minus"), *(_split_head(scores, split) for split in splits)], cells) if rows else None


def paired_table(scores: Scores) -> Table | None:
    """Every figure of the same comparisons, one per row."""
    names = ("split", "generated minus", "difference, points", "95% interval", "p", "p (Holm)", "paired by")
    rows = [
        [
            Cell(words(str(row["split"]))),
            Cell(words(str(row["other"]))),
            Cell(points(row["difference"]), sort=row["difference"], kind="number"),
            Cell(f"[{points(row['low'])}, {points(row['high'])}]", kind="number"),
            _p_cell(row["p_value"]),
            _p_cell(row["p_holm"]),
            Cell(paired_by(row)),
        ]
        for row in scores.document.get("comparisons", [])
    ]
    return Table(f"{scores.label}: every paired comparison", [Cell(name) for name in names], rows) if rows else None


def figures_table(scores: Scores) -> Table:
    """Every figure of an evaluation, one row per split and method."""
    names = ("split", "method", measure(scores.document), "standard error", "gain recovered", "NLL per token", "tasks", "examples")
    rows = [
        [
            Cell(words(split)),
            Cell(words(method)),
            percent_cell(summary["score"]),
            number_cell(summary.get("score_stderr")),
            number_cell(summary.get("gain_recovered")),
            number_cell(summary.get("nll")),
            number_cell(summary.get("n_tasks")),
            number_cell(summary.get("n_examples")),
        ]
        for split, methods in scores.splits.items()
        for method, summary in methods.items()
    ]
    return Table(f"{scores.label}: every figure", [Cell(name) for name in names], rows)


def task_table(columns: Sequence[Scores]) -> Table | None:
    """The score on each task: of every method, or of the generated adapters where several evaluations stand side by side."""
    shown = [(one, m) for one in columns for m in _methods([one], list(one.splits)) if len(columns) == 1 or m == REFERENCE]
    tasks: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for i, one in enumerate(columns):
        for row in one.document["tasks"]:
            tasks.setdefault((row["split"], row["task"]), {})[i] = row
    order = {id(one): i for i, one in enumerate(columns)}
    rows = []
    for (split, task), by_column in tasks.items():
        scored = [by_column.get(order[id(one)], {}).get("score", {}).get(method) for one, method in shown]
        domain = str(next(iter(by_column.values())).get("domain", ""))
        rows.append([Cell(task), Cell(domain), Cell(words(split)), *(percent_cell(value, short=True) for value in scored)])
    heads = [Cell(words(m) if len(columns) == 1 else one.label) for one, m in shown]
    return (
        Table(f"{_measure(columns)} on each task", [Cell("task"), Cell("domain"), Cell("split"), *heads], rows) if rows and shown else None
    )


def _measure(columns: Sequence[Scores]) -> str:
    """What scores of several evaluations are."""
    metrics = list(dict.fromkeys(name for one in columns for name in one.document["metrics"]))
    text = measure({"metrics": metrics})
    return text[:1].upper() + text[1:]


def legend(columns: Sequence[Scores]) -> list[tuple[str, str]]:
    """What each scored method is, in the words of its registry."""
    methods = _methods(columns, list(dict.fromkeys(split for one in columns for split in one.splits)))
    return [(words(m), (METHODS[m].attempt.__doc__ or "").strip()) for m in methods if m in METHODS]


def _methods(columns: Sequence[Scores], splits: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(m for one in columns for split in splits for m in one.splits.get(split, {})))


def _method_head(method: str) -> Cell:
    return Cell(words(method), kind="key" if method == REFERENCE else "")


def _split_head(scores: Scores, split: str) -> Cell:
    return Cell(words(split), _counted(scores, split))


def _run_head(scores: Scores, split: str) -> Cell:
    return Cell(scores.label, _counted(scores, split) if split in scores.splits else "")


def _counted(scores: Scores, split: str) -> str:
    summary = next(iter(scores.splits[split].values()), {})
    return f"{summary['n_tasks']} tasks, {summary['n_examples']:,} examples" if {"n_tasks", "n_examples"} <= summary.keys() else ""


def _difference(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return number_cell(None)
    note = f"[{points(row['low'])}, {points(row['high'])}], p {p_text(row['p_holm'])}"
    return Cell(points(row["difference"]), note, sort=row["difference"], kind="number")


def _p_cell(value: float | None) -> Cell:
    return Cell(p_text(value), sort=value, kind="number")
