"""The sections of a study's report, from its saved results; what a step has not made yet is named with its command."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from llgbm.percent import percent
from llgbm.report.charts import number
from llgbm.report.plots_lora_study import METHODS, NAMES
from llgbm.report.study_parts import Card, Folded, Missing, Part, Picture, Section, Text, rows_table
from llgbm.report.table import DASH, MINUS, Cell, Table, duration, number_cell, percent_cell, points, size
from llgbm.study.claims import score_cells
from llgbm.study.deployment import BackendFindings, DeploymentFindings
from llgbm.study.drift import DriftFindings
from llgbm.study.folder import RunResult, Study
from llgbm.study.hypotheses import LEVELS, Finding, HypothesesFindings
from llgbm.study.sanity import Checks
from llgbm.study.serving_times import MERGED
from llgbm.study.settings import read_best
from llgbm.study.statistics import interval

Command = Callable[[str], str]
"""Step -> the command line that makes it."""
NEEDED = {"H1": "run", "H2": "drift", "H3": "deploy"}
"""Claim -> the step it rests on."""
LATENCIES = ("mean", "p50", "p95", "p99")
LEVEL_NAMES = {"models": "these models", "seeds": "training anew"}
BACKENDS = {"peft": "PEFT", "functional": "this package's functional batch", "vllm": "vLLM"}


def glance(found: HypothesesFindings | None, command: Command) -> Section:
    """The verdicts."""
    if found is None:
        return Section("glance", "Verdicts", [Missing("Verdicts are", command("hypotheses"))])
    cards: list[Part] = [_card(one) for one in found.findings if one.task is None]
    missing = [Missing(f"{name} {step.partition(';')[0]}; its verdict is", command(NEEDED[name])) for name, step in found.missing.items()]
    return Section("glance", "Verdicts", [*cards, *missing])


def _card(one: Finding) -> Card:
    anew = f"; of training anew {one.verdict['seeds']}" if "seeds" in one.verdict else ""
    about = "for these trained models" if anew else "by these timings"
    return Card(f"{one.name}. {one.claim}", one.verdict["models"].capitalize(), f"{about}{anew}. {_in_words(one)}", f"{one.why}.")


def _in_words(one: Finding) -> str:
    if one.ratio is None:
        return "There is nothing to set it beside."
    span = "" if one.low is None or one.high is None else f" [{_times(one.low)}, {_times(one.high)}]"
    said = {
        "H1": f"LoRA scores {percent(one.lora, 1)}, full fine-tuning {percent(one.other, 1)}: {_times(one.ratio)} times as much{span}.",
        "H2": f"Drift is {one.lora:.3g} with LoRA and {one.other:.3g} with full fine-tuning: {_times(one.ratio)} times as much{span}.",
        "H3": f"A batch takes {_times(one.ratio)} times as long as by the merged model{span}, geometric mean over batch sizes.",
    }
    return said[one.name]


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.3g}"


def setup(study: Study, results: Sequence[RunResult], command: Command) -> Section:
    """What was compared."""
    config, found = study.config, Section("setup", "What was compared")
    sizes = config.sizes
    limits = {"training": sizes.train_examples, "validation": sizes.validation_examples, "test": sizes.test_examples}
    own = [f"{count} for training on {task}" for task, count in sizes.train_examples_of.items() if task in config.tasks]
    facts = [
        ("Base", f"{config.model.name} ({config.architecture}, {config.model.dtype}, {config.model.device})"),
        ("Tasks", ", ".join(config.tasks)),
        ("Methods", ", ".join(NAMES[method] for method in config.methods)),
        ("Seeds", ", ".join(map(str, config.seeds))),
        ("Examples", "; ".join([", ".join(f"{'all' if n is None else n} for {name}" for name, n in limits.items()), *own])),
        ("Training", f"{config.training.epochs:g} {'pass' if config.training.epochs == 1 else 'passes'} over the training examples"),
        ("Runs finished", f"{len(results)} of {len(list(study.runs()))}, {duration(sum(one.seconds for one in results))} of training"),
    ]
    found.parts.append(rows_table("What was compared", ["", ""], facts))
    if not results:
        found.parts.append(Missing("Runs are", command("run")))
        return found
    found.parts.append(_runs_table(study, results))
    return found


def _runs_table(study: Study, results: Sequence[RunResult]) -> Table:
    """One row per task and method: what was searched, what it trains, how long it takes."""
    rows = []
    for task in study.config.tasks:
        for method in METHODS:
            runs = [one for one in results if (one.task, one.method) == (task, method)]
            if runs:
                first, best = runs[0], read_best(study, task, method)
                searched = f"best of {best.trials} trials, by {best.metric} on validation examples" if best else "from the config"
                values = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in first.hyperparameters.items())
                rows.append(
                    [
                        Cell(f"{task}, {NAMES[method]}"),
                        Cell(values, searched),
                        Cell(f"{first.trainable_parameters:,}", percent(first.trainable_parameters / first.total_parameters, 1)),
                        number_cell(first.steps),
                        Cell(duration(float(np.mean([one.seconds for one in runs]))), kind="number"),
                    ]
                )
    return rows_table(
        "Hyperparameters and training", ["task, method", "hyperparameters", "trained weights", "steps", "time of a run"], rows
    )


def checks(found: Checks, command: Command) -> Section:
    """Whether models can learn, and what needs no training scores."""
    section = Section("checks", "Sanity checks and baselines")
    if not found.checks:
        section.parts.append(Missing("Sanity checks are", command("check")))
    else:
        rows = [
            [f"{one.task}, {NAMES[one.method]}", one.name, number_cell(one.value), one.expected, "passed" if one.passed else "FAILED"]
            for one in found.checks
        ]
        section.parts.append(rows_table("Sanity checks", ["task, method", "check", "found", "expected", ""], rows))
    if found.baselines:
        rows = [
            [
                task,
                name.replace("_", " "),
                ", ".join(_metric(metric, value) for metric, value in metrics.items()),
            ]
            for task, of_task in found.baselines.items()
            for name, metrics in of_task.items()
        ]
        section.parts.append(
            rows_table("Baselines: answers that need no training, on the test examples", ["task", "answers", "score"], rows)
        )
    return section


def _metric(name: str, value: float) -> str:
    """A share in percent, a loss in nats."""
    return f"loss {value:.3g} nats a token" if name == "nll" else f"{name.replace('_', ' ')} {percent(value, 1)}"


def scores(study: Study, results: Sequence[RunResult], picture: Picture | None, command: Command) -> Section:
    """How well both methods do."""
    section, cells = Section("scores", "Scores on the test examples"), score_cells(study)
    if picture is None:
        section.parts.append(Missing("Scores of both methods with the same seed are", command("run")))
        return section
    metrics = {one.task: one.metric for one in results}
    rows = []
    for task, of_task in cells.items():
        full, lora = of_task["full"], of_task["lora"]
        low, high = interval([lora - full], seeds_too=False)
        difference = Cell(points(float((lora - full).mean())), f"[{points(low)}, {points(high)}]", kind="number")
        rows.append(
            [Cell(task, metrics[task].replace("_", " ")), _score(full), _score(lora), difference, _others(results, task, metrics[task])]
        )
    heads = ["task", NAMES["full"], NAMES["lora"], "difference, points", "other metrics, full / LoRA"]
    note = (
        "Mean over seeds and examples; in brackets the 95% bootstrap interval over test examples, seeds held fixed: it speaks of these "
        "trained models. Below a score, those of single seeds."
    )
    section.parts.extend((picture, rows_table("Scores", heads, rows, note)))
    return section


def _score(scores: np.ndarray) -> Cell:
    low, high = interval([scores], seeds_too=False)
    return percent_cell(float(scores.mean()), low, high, "seeds " + ", ".join(percent(x, 1) for x in scores.mean(1)))


def _others(results: Sequence[RunResult], task: str, metric: str) -> str:
    means: dict[str, dict[str, float]] = {}
    for method in METHODS:
        runs = [one for one in results if (one.task, one.method) == (task, method)]
        for name in (name for name in (runs[0].metrics if runs else ()) if name != metric):
            means.setdefault(name, {})[method] = float(np.mean([one.metrics[name] for one in runs if name in one.metrics]))
    return ", ".join(
        f"{name.replace('_', ' ')} {' / '.join(f'{of_method[m]:.3g}' for m in METHODS if m in of_method)}"
        for name, of_method in means.items()
    )


def drift(found: DriftFindings | None, pictures: Mapping[str, Picture], command: Command) -> Section:
    """How far hidden states moved."""
    section = Section("drift", "Drift of representations")
    if found is None:
        section.parts.append(Missing("Drift is", command("drift")))
        return section
    section.parts.extend(pictures[name] for name in ("drift_map", "drift_curves"))
    rows = []
    for name, reductions in [*((task.task, task.reduction) for task in found.tasks), ("all tasks", found.reduction)]:
        for measure, one in reductions.items():
            ratio = Cell(DASH)
            if one.reduction is not None and one.low is not None and one.high is not None:
                ratio = Cell(f"{1 - one.reduction:.3g}", f"[{1 - one.high:.3g}, {1 - one.low:.3g}]", kind="number")
            share = DASH if one.reduction is None else percent(one.reduction, 1) if one.reduction > 0 else "none, it drifts more"
            anew = f"p = {one.p_seeds:.2g}" if one.p_seeds is not None else f"{one.n_seeds} seeds are too few to tell"
            models = DASH if one.p_probes is None else f"p = {one.p_probes:.2g}" if one.p_probes >= 1e-4 else "p < 0.0001"
            drifts = [number_cell(one.full), number_cell(one.lora)]
            likeness = "CKA" if measure == "cka" else measure
            rows.append([Cell(name, f"1 - {likeness}", kind="key" * (name == "all tasks")), *drifts, ratio, share, models, anew])
    heads = ["task", "full", "LoRA", "LoRA / full", "reduction", "these models", "training anew"]
    if rows:
        over = "probes and seeds" if found.reduction and next(iter(found.reduction.values())).over_seeds else "probes, seeds held fixed"
        note = (
            f"In brackets the 95% bootstrap interval over {over}. Reduction is 1 - LoRA / full; tests are whether LoRA drifts less at all."
        )
        section.parts.append(rows_table("Drift at the end of training, mean over layers", heads, rows, note))
    left_out = [f"{task.task}: {', '.join(map(str, task.left_out))}" for task in found.tasks if task.left_out]
    if left_out:
        section.parts.append(Text(f"Layers that tell no two probes apart in some run do not count: {'; '.join(left_out)}."))
    return section


def deployment(found: DeploymentFindings | None, picture: Picture | None, command: Command) -> Section:
    """What serving costs."""
    section = Section("deployment", "Serving adapters")
    if found is None:
        section.parts.append(Missing("Times of serving are", command("deploy")))
        return section
    if picture:
        section.parts.append(picture)
    for model in found.models:
        if model.refused:
            section.parts.append(Text(f"{model.model} is not served: {model.refused}."))
        for one in model.backends:
            name = f"{model.model} ({model.parameters / 1e6:.3g} million weights), {BACKENDS[one.backend]}"
            section.parts.extend([Text(f"{name}: {one.refused}.")] if one.refused else _served(name, one, model.adapters))
    return section


def _served(name: str, one: BackendFindings, adapters: str) -> list[Part]:
    """Medians side by side; then every figure, folded."""
    sizes = sorted({serving.batch_size for serving in one.servings})
    found = {(serving.way, serving.batch_size): serving for serving in one.servings}
    ways = list(dict.fromkeys(serving.way for serving in one.servings))
    medians = [
        [way, *(Cell(f"{number(found[way, s].latency_ms['p50'])} ms", f"ratio {found[way, s].ratio:.2f}", kind="number") for s in sizes)]
        for way in ways
    ]
    merged, most = found[MERGED, sizes[-1]], max(one.servings, key=lambda serving: serving.adapters)
    note = (
        f"Adapters: {adapters}. Medians of {len(merged.seconds)} interleaved rounds; ratios are of two times of one round. "
        f"{one.compared_tokens} greedy tokens agreed with the reference; {percent(one.changed)} of its prompts are answered otherwise than "
        f"by the base. Model and adapters take {size(most.weights_bytes)}; {most.adapters} merged models would take "
        f"{size(most.adapters * merged.weights_bytes)}. "
        f"Switching: {'; '.join(f'{how} {milliseconds:.3g} ms' for how, milliseconds in one.switching_ms.items())}."
    )
    every = [
        [f"{serving.way}, batch {serving.batch_size}", *(Cell(number(serving.latency_ms[q]), kind="number") for q in LATENCIES),
         number_cell(serving.tokens_per_s), Cell(size(serving.weights_bytes)), Cell(size(serving.peak_bytes))]
        for serving in sorted(one.servings, key=lambda serving: (ways.index(serving.way), serving.batch_size))
    ]  # fmt: skip
    heads = ["way, batch", *(f"{q}, ms" for q in LATENCIES), "tokens/s", "weights", "at work"]
    return [
        rows_table(name, ["way", *(f"batch {size}" for size in sizes)], medians, note),
        Folded(rows_table(f"{name}: every figure", heads, every)),
    ]


def hypotheses(found: HypothesesFindings | None, command: Command) -> Section:
    """Every test."""
    section = Section("hypotheses", "Tests of the claims")
    if found is None:
        section.parts.append(Missing("Tests are", command("hypotheses")))
        return section
    rows = [row for one in found.findings for row in _tests(one)]
    heads = ["claim", "level", "excess", "p", "Holm", "Bonferroni", "effect", "power", "detectable", "verdict"]
    note = (
        "Excess is the mean beyond the margin (of scores, of drift, of logarithms of times), in brackets its 95% bootstrap interval; p of "
        "the one-sided test that it is above zero; effect is Cohen's d of pairs with Hedges' correction; power is the chance to find the "
        f"claim if {'; '.join(f'{one.name}: {one.hoped}' for one in found.findings if one.task is None)}; detectable is the excess that "
        "would be found with 80% power. A dash: no spread, or too few units."
    )
    section.parts.append(rows_table("Tests", heads, rows, note))
    return section


def _tests(one: Finding) -> list[list[str | Cell]]:
    def p(value: float | None) -> Cell:
        return Cell("too few" if value is None else f"{value:.2g}" if value >= 1e-4 else "< 0.0001", kind="number")

    over = one.task or ("all batch sizes" if one.name == "H3" else "all tasks")

    return [
        [
            Cell(f"{one.name}, {over}", kind="key" * (one.task is None)),
            Cell("these timings" if one.name == "H3" else LEVEL_NAMES[level], f"{test.n_units} {test.unit}s"),
            replace(number_cell(test.excess), note=f"[{number(test.low)}, {number(test.high)}]".replace("-", MINUS)),
            p(test.p_value),
            p(one.holm[level]),
            p(one.bonferroni[level]),
            number_cell(test.effect),
            DASH if test.power is None else percent(test.power),
            number_cell(test.detectable),
            one.verdict[level],
        ]
        for level in LEVELS
        if (test := one.tests.get(level)) is not None
    ]
