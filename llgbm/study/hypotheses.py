"""The study's three claims, tested: LoRA scores as well (H1), drifts less (H2), and costs little to serve unmerged (H3).

H1 and H2 are tested at two levels: about these trained models, and about training anew, for
which seeds are the units. H3 has no seeds, and speaks of this machine. A claim is supported where its
p-value, adjusted by Holm for testing all three at its level, is within alpha; not supported where the opposite is shown; else undecided.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, List, Number, read_as
from llgbm.errors import InputError
from llgbm.evaluation.statistics import smallest_p
from llgbm.files import read_json, write_json
from llgbm.progress import ProgressCallback
from llgbm.study.claims import Pairs, claims_of, mean
from llgbm.study.drift import ROUNDING
from llgbm.study.folder import Study
from llgbm.study.statistics import Cells, Tested, adjusted, interval, of_seeds, of_units, ratio_interval, seeds_needed

HYPOTHESES_FILE = "hypotheses.json"
Verdict = Literal["supported", "not supported", "undecided"]
Level = Literal["models", "seeds"]
LEVELS: tuple[Level, ...] = ("models", "seeds")


@dataclass(frozen=True, config=RECORD)
class Finding:
    """One claim, of one task or of all."""

    name: str
    """H1, H2, H3."""
    task: str | None
    """None: over all tasks, each of which weighs the same."""
    claim: str
    lora: Number
    """Mean score, drift, or milliseconds."""
    other: Number
    """Of full fine-tuning, or of the merged model."""
    ratio: Number | None
    """lora / other: for H3 the mean by logarithms; None where the other is zero."""
    low: Number | None
    """95% bootstrap interval of the ratio, of the level `seeds` where it has a p-value, else of `models`."""
    high: Number | None
    hoped: str
    """What the power assumes."""
    tests: dict[Level, Tested]
    holm: dict[Level, Number | None]
    """p-values adjusted for all claims over tasks; of single tasks, for all tasks of the claim."""
    bonferroni: dict[Level, Number | None]
    verdict: dict[Level, Verdict]
    why: str
    """The verdict in a sentence."""


@dataclass(frozen=True, config=RECORD)
class HypothesesFindings:
    """What `hypotheses.json` holds."""

    alpha: Number
    margins: dict[str, Number]
    findings: List[Finding]
    """The claims over all tasks first."""
    missing: dict[str, str]
    """Claim -> which step it still needs."""

    def rows(self) -> list[dict[str, Any]]:
        """One per claim, for a table."""
        return [
            {
                "claim": one.name,
                "task": one.task or "all tasks",
                "lora": round(one.lora, 4),
                "against": round(one.other, 4),
                **{f"p, {level}": _shown(one, level) for level in LEVELS},
                **{f"verdict, {level}": one.verdict.get(level, "-") for level in LEVELS},
            }
            for one in self.findings
        ] + [{"claim": name, "task": step} for name, step in self.missing.items()]


def run_hypotheses(study: Study, progress: ProgressCallback | None = None) -> HypothesesFindings:
    """Test what there is to test and write `hypotheses.json`; a claim whose step has not run is listed with that step.

    Raises:
        InputError: Nothing can be tested yet, or runs of one task were scored on different examples.
    """
    config, asked = study.config.hypotheses, claims_of(study)
    missing = {name: pairs for name, pairs in asked.items() if isinstance(pairs, str)}
    groups = [pairs for pairs in asked.values() if not isinstance(pairs, str)]
    if not groups:
        raise InputError(f"{study.folder}: nothing to test yet; {'; '.join(f'{name}: {step}' for name, step in missing.items())}")
    overall = judged([pairs[0] for pairs in groups], config.alpha)
    found = [*overall]
    for done, pairs in enumerate(groups, 1):
        found += judged(pairs[1:], config.alpha)
        if progress:
            progress(done, len(groups))
    margins = {"H1": config.accuracy_margin, "H2": config.drift_reduction, "H3": config.overhead}
    findings = HypothesesFindings(config.alpha, margins, found, missing)
    write_json(study.path(HYPOTHESES_FILE), dataclasses.asdict(findings))
    return findings


def read_hypotheses(study: Study) -> HypothesesFindings | None:
    """What `run_hypotheses` found; None where it has not run."""
    path = study.path(HYPOTHESES_FILE)
    return read_as(HypothesesFindings, read_json(path), str(path)) if path.exists() else None


def judged(claims: Sequence[Pairs], alpha: float) -> list[Finding]:
    """Test claims together: their p-values are adjusted for each other, level by level.

    A single test is planned at the level that the clearest of them has to reach.
    """
    if not claims:
        return []
    at_seeds = alpha / max(1, sum(pairs.has_seeds for pairs in claims))
    tests = [_tests(pairs, alpha / len(claims), at_seeds) for pairs in claims]
    holm, bonferroni = _adjusted(tests, "holm"), _adjusted(tests, "bonferroni")
    against = _adjusted([{level: dataclasses.replace(one, p_value=one.p_opposite) for level, one in of.items()} for of in tests], "holm")
    found = []
    for pairs, of_pairs, by_holm, by_bonferroni, by_opposite in zip(claims, tests, holm, bonferroni, against, strict=True):
        verdict: dict[Level, Verdict] = {
            level: _verdict(by_holm[level], by_opposite[level], alpha) if pairs.decidable else "undecided" for level in of_pairs
        }
        mean_of = _mean_time if pairs.logarithmic else mean
        sides = mean_of(pairs.lora), mean_of(pairs.other), *_ratio(pairs, alpha), pairs.hoped
        why = _why(pairs, of_pairs, by_holm, at_seeds)
        found.append(Finding(pairs.name, pairs.task, pairs.claim, *sides, of_pairs, by_holm, by_bonferroni, verdict, why))
    return found


def _tests(pairs: Pairs, at_models: float, at_seeds: float) -> dict[Level, Tested]:
    models = of_units(pairs.excess, pairs.unit, pairs.hoped_excess, at_models)
    return {"models": models, "seeds": of_seeds(pairs.excess, pairs.hoped_excess, at_seeds)} if pairs.has_seeds else {"models": models}


def _adjusted(tests: Sequence[dict[Level, Tested]], method: Literal["holm", "bonferroni"]) -> list[dict[Level, float | None]]:
    found: list[dict[Level, float | None]] = [{} for _ in tests]
    for level in LEVELS:
        tested = [i for i, of_claim in enumerate(tests) if level in of_claim]
        for i, p in zip(tested, adjusted([tests[i][level].p_value for i in tested], method), strict=True):
            found[i][level] = p
    return found


def _verdict(p_value: float | None, p_opposite: float | None, alpha: float) -> Verdict:
    if p_value is not None and p_value <= alpha:
        return "supported"
    return "not supported" if p_opposite is not None and p_opposite <= alpha else "undecided"


def _ratio(pairs: Pairs, alpha: float) -> tuple[float | None, float | None, float | None]:
    """lora / other with its 95% interval."""
    if pairs.logarithmic:
        longer = [lora - other for lora, other in zip(pairs.lora, pairs.other, strict=True)]
        low, high = interval(longer, seeds_too=False)
        return float(np.exp(mean(longer))), float(np.exp(low)), float(np.exp(high))
    other = mean(pairs.other)
    if other <= ROUNDING:
        return None, None, None
    found = ratio_interval(pairs.lora, pairs.other, seeds_too=len(pairs.lora[0]) >= seeds_needed(alpha))
    low, high = found or (None, None)
    return mean(pairs.lora) / other, low, high


def _why(pairs: Pairs, tests: dict[Level, Tested], holm: dict[Level, float | None], at_seeds: float) -> str:
    models, p = tests["models"], holm["models"]
    kind = "these trained models" if pairs.has_seeds else "these timings"
    parts = [pairs.caveat] if pairs.caveat else []
    parts += [f"of {kind}, over {models.n_units} {pairs.unit}s, {_p(p)}"]
    if pairs.has_seeds:
        n, p = tests["seeds"].n_units, holm["seeds"]
        least = f"the smallest p they can give is {smallest_p(n, 'greater'):.3g}, and {seeds_needed(at_seeds)} are needed"
        parts.append(f"of training anew, {n} seed{'s' * (n > 1)}: {_p(p) if p is not None else f'too few to tell, since {least}'}")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _p(p_value: float | None) -> str:
    if p_value is None:
        return "too few to tell"
    return f"p = {p_value:.2g}" if p_value >= 1e-4 else "p < 0.0001"


def _mean_time(cells: Cells) -> float:
    """Milliseconds, of logarithms of seconds."""
    return 1000 * float(np.exp(mean(cells)))


def _shown(one: Finding, level: Level) -> str:
    if level not in one.tests:
        return "-"
    p = one.holm[level]
    return "too few to tell" if p is None else f"{p:.2g}"
