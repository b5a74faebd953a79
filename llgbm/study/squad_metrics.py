"""Exact match and F1 of SQuAD 2.0's answers, by the rules of its official script.

Source: Rajpurkar, Jia, Liang 2018, arXiv:1806.03822, and `evaluate-v2.0.py` of https://rajpurkar.github.io/SQuAD-explorer/: lower case,
no ASCII punctuation, no English articles, one space between words; the best over the reference answers. Written anew.
"""

from collections.abc import Sequence
from statistics import fmean

from llgbm.metrics import normalize_answer, token_f1

NO_ANSWER = ""
"""What a prediction, and the reference of a question without an answer, says."""


def score_answer(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of one prediction, each in [0, 1] and the best over the references.

    Args:
        prediction: NO_ANSWER where the model says that there is none.
        answers: References; those of which nothing is left when normalized do not count, and none at all asks for NO_ANSWER.
    """
    predicted = normalize_answer(prediction)
    references = [normalized for answer in answers if (normalized := normalize_answer(answer))] or [NO_ANSWER]
    return max(float(predicted == reference) for reference in references), max(token_f1(predicted, reference) for reference in references)


def squad_metrics(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over questions: `exact`, `f1`, and of each where there is an answer and where there is none, and how often that was told.

    Returns:
        Fractions in [0, 1]; `has_answer_*` and `no_answer_exact` are left out where there is no such question. `answerability` is the share
        of questions where the model gives an answer if and only if there is one.

    Raises:
        ValueError: There is no question, or not one prediction for each.
    """
    if not answers or len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} questions")
    scores = [score_answer(*pair) for pair in zip(predictions, answers, strict=True)]
    there = [any(map(normalize_answer, references)) for references in answers]
    given = [bool(prediction.strip()) for prediction in predictions]
    metrics = {"exact": fmean(exact for exact, _ in scores), "f1": fmean(f1 for _, f1 in scores)}
    metrics["answerability"] = fmean(a == b for a, b in zip(given, there, strict=True))
    answered = [score for score, has in zip(scores, there, strict=True) if has]
    if answered:
        metrics |= {"has_answer_exact": fmean(exact for exact, _ in answered), "has_answer_f1": fmean(f1 for _, f1 in answered)}
    if not all(there):
        metrics["no_answer_exact"] = fmean(exact for (exact, _), has in zip(scores, there, strict=True) if not has)
    return metrics
