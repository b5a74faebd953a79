"""How a study's figures were made, and what they do not say: the report's last sections."""

from collections.abc import Callable, Sequence

from llgbm.percent import percent
from llgbm.report.study_parts import Section, Text, rows_table
from llgbm.study.deployment import DeploymentFindings
from llgbm.study.drift import DriftFindings
from llgbm.study.folder import RunResult, Study
from llgbm.study.hypotheses import HypothesesFindings
from llgbm.study.settings import read_best
from llgbm.study.statistics import seeds_needed


def methods(study: Study) -> Section:
    """In words, with this study's numbers."""
    config = study.config
    margins = config.hypotheses
    searched = (
        f"Hyperparameters are the best of {config.search.trials} trials per task and method (Optuna's TPE, median pruning), chosen on "
        "validation examples cut from the train split"
        if config.search.trials
        else "Hyperparameters are the config's; nothing was searched"
    )
    paragraphs = [
        f"Training. {searched}; test examples choose nothing. Every task is trained by each method with the same seeds, which set the "
        "order of examples, the new weights and dropout.",
        f"Drift. Hidden states of {config.probes.count} probe texts are recorded before training, every {config.probes.every_steps} steps "
        "and at the end. CKA is linear and unbiased (HSIC_1 of Song et al. 2012, by pytorch-cka in float64) between states pooled over "
        "real tokens and those of the same model before training; cosine is the mean over real tokens of the cosine to the same token's "
        "state. The drift of a run is 1 - likeness at its end, mean over the layers' outputs; the embeddings are drawn, not counted, since "
        "LoRA leaves them alone by construction. Intervals over probes resample what each probe brings by the jackknife, not probes "
        "themselves: a probe drawn twice would be its own twin.",
        "Serving. Prompts of random tokens, a fixed number of greedy tokens, float32. A backend counts only if its tokens are those of "
        "transformers with each adapter merged and asked alone, for the base, the merged model, one adapter, and a batch in which every "
        "request has an adapter of its own. Every round answers one batch of each size in each way, in an order drawn anew; ratios are of "
        "two times of one round, so what disturbs the machine disturbs both. Memory is counted in tensors: weights and adapters, and "
        "beyond them the most that is alive at once while a batch is answered.",
        f"Claims. H1: LoRA's mean score is above {percent(1 - margins.accuracy_margin)} of full fine-tuning's (a share of it, not points), "
        "on the tasks where that is shown to beat the best untrained answers; elsewhere there is nothing to keep, and no verdict. "
        f"H2: its drift by CKA is below {percent(1 - margins.drift_reduction)} of full fine-tuning's. H3: {margins.serving_adapters} "
        f"unmerged adapter(s) by {margins.serving_backend} take less than {percent(1 + margins.overhead)} of the merged model's time. Each "
        "is tested one-sided on differences of pairs with the margin taken off. Of these trained models: Student's test over examples or "
        "probes averaged over seeds (over rounds for H3), tasks as strata of equal weight. Of training anew: all flips of signs of whole "
        "seeds, and a bootstrap of seeds and units within them. A claim is supported where its p-value, adjusted by Holm over the claims "
        f"of its level, is at most {margins.alpha:g}; not supported where the opposite is; else undecided. Single tasks are adjusted over "
        "the tasks of their claim.",
    ]
    return Section("methods", "Methods", [Text(paragraph) for paragraph in paragraphs])


def limits(
    study: Study,
    results: Sequence[RunResult],
    drift: DriftFindings | None,
    deployment: DeploymentFindings | None,
    hypotheses: HypothesesFindings | None,
) -> Section:
    """What the figures cannot carry, as far as they show it themselves."""
    config = study.config
    needed = seeds_needed(config.hypotheses.alpha / 2)
    said = [
        f"{len(config.tasks)} task{'s' * (len(config.tasks) > 1)} and one base ({config.model.name}): nothing here speaks of other tasks "
        "or bases, however small a p-value is."
    ]
    if len(config.seeds) < needed:
        said.append(
            f"{len(config.seeds)} seeds cannot carry a claim about training anew: flipping their signs gives no p-value below "
            f"{2.0 ** -len(config.seeds):.3g}. Set seeds to {needed} or more, better 7; finished runs stay."
        )
    unfinished = len(list(study.runs())) - len(results)
    if unfinished:
        said.append(f"{unfinished} of {len(list(study.runs()))} runs are not finished; seeds without a partner do not count.")
    said.append(
        "Drift measures where training ended, not only how: a method that learned less, by a smaller learning rate or fewer steps, drifts "
        "less. Read it beside the scores; a reduction at a lower score is no merit, and more drift at a higher score no fault."
    )
    said += _unequal(results, drift)
    best = [found for task in config.tasks for method in config.methods if (found := read_best(study, task, method)) is not None]
    perfect = sum(one.score >= 1 for one in best)
    if perfect:
        said.append(
            f"In {perfect} of {len(best)} searches the best trial is right on every validation example: among trials like it the search "
            "took the one of the least loss. What depends on more than score and loss, drift above all, then depends on that choice."
        )
    if not config.search.trials:
        said.append("Without a search, one method may have the better hyperparameters by luck, and all that follows from them.")
    if deployment:
        threads = deployment.machine.get("threads")
        said.append(
            f"Times are of one machine ({deployment.machine.get('device')}, {threads} thread{'s' * (threads != 1)}) and small batches of "
            "short texts; on a GPU, kernels weigh less and memory more. Memory counts tensors, not what libraries take."
        )
    if hypotheses:
        idle = [one.name for one in hypotheses.findings if one.task is None and (one.tests["models"].power or 1) < 0.8]
        if idle:
            said.append(f"The power of {', '.join(idle)} is below 80%: an undecided verdict there says little.")
    said.append("Intervals of single figures are 95% each, not together.")
    return Section("limits", "Limits", [Text(one) for one in said])


def _unequal(results: Sequence[RunResult], drift: DriftFindings | None) -> list[str]:
    """Where the method that drifts more also scores more."""
    overall = drift.reduction.get("cka") if drift else None
    means = {method: [one.metrics[one.metric] for one in results if one.method == method] for method in ("full", "lora")}
    if overall is None or overall.reduction is None or not all(means.values()):
        return []
    full, lora = (sum(means[method]) / len(means[method]) for method in ("full", "lora"))
    more = "LoRA" if overall.reduction < 0 else "Full fine-tuning"
    if abs(full - lora) < 0.03 or (lora > full) != (overall.reduction < 0):
        return []
    return [
        f"That is so here: {more} drifts more and scores more, too (mean over tasks {percent(full, 1)} with full fine-tuning, "
        f"{percent(lora, 1)} with LoRA)."
    ]


def commands(study: Study, command: Callable[[str], str]) -> Section:
    """How to make all this again."""
    steps = ("check", "search", "run", "drift", "deploy", "hypotheses", "report")
    rows = [[step, command(step)] for step in steps]
    return Section(
        "commands",
        "Commands",
        [rows_table(f"Commands that make this report; the config is {study.folder}/study.json", ["step", "command"], rows)],
    )
