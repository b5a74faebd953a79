"""Controls without a gradient step: ridge regression from what is asked to the seen teachers' weight changes.

An answer is a weighted sum of the pool's weight changes, cut to the teachers' rank. Kernel and strength are chosen on tasks of the
pool that are held out in turn, by what their predicted adapters do on train examples.

Letters: P teachers in the pool, n rows (texts or tasks), E their width, Q questions.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from llgbm.evaluation.setting import Question, Setting
from llgbm.judging import judge_answers
from llgbm.lora.blend import Blender
from llgbm.lora.factors import LoRAFactors
from llgbm.models.alignment import WordAlignment
from llgbm.models.effects import levels_of, one_hot
from llgbm.models.kernel_ridge import KERNELS, STRENGTHS, KernelRidge, folds, known_without
from llgbm.models.reader import embed_conditions
from llgbm.models.reading import CERTAINTY, TEXTS, TEXTS_IN_CHOICE, fit_reading, homes_of, in_one_domain, likeliest, spread
from llgbm.zoo.suite import Task

VALIDATION_TASKS, VALIDATION_EXAMPLES = 30, 8
"""Tasks of the pool that are held out, in turn, and train examples of each that judge a choice."""


@dataclass(frozen=True)
class Rows:
    """What is known: rows, the teacher each belongs to, and for each teacher the row that asks for it when it is held out."""

    known: Float[Tensor, "n E"]
    owners: Int[Tensor, " n"]
    asking: Float[Tensor, "P E"]

    def ridge(self, kernel: str, strength: float, held: Sequence[int] = ()) -> KernelRidge:
        """From a row to the weights of the teachers; those held out have weight 0."""
        kept = known_without(self.owners, held)
        weights = F.one_hot(self.owners[kept], len(self.asking)).double()
        return KernelRidge(self.known[kept], weights, kernel, strength)


@dataclass(frozen=True)
class Fitted:
    """A ridge from rows to teachers' weights, and how it was chosen."""

    ridge: KernelRidge
    blender: Blender
    rank: int
    kernel: str
    strength: float
    fitted_on: tuple[str, ...]
    """Tasks whose teachers it sums."""
    chosen_on: tuple[str, ...]
    """Tasks whose train examples chose kernel and strength."""

    def write(self, weights: Float[Tensor, "Q P"]) -> LoRAFactors:
        """The adapters."""
        return self.blender.blend(weights.float(), self.rank)


def from_condition(setting: Setting, questions: Sequence[Question]) -> LoRAFactors:
    """Adapters from the embedded texts of each question, whose predictions are averaged."""
    fitted: Fitted = setting.keep("ridge", lambda: _fit(setting, _text_rows(setting, TEXTS), _text_rows(setting, TEXTS_IN_CHOICE)))
    rows = setting.embed_each([question.texts(*setting.condition_kind) for question in questions])
    return fitted.write(torch.stack([fitted.ridge(asked).mean(0) for asked in rows]))


def from_true_attributes(setting: Setting, questions: Sequence[Question]) -> LoRAFactors:
    """Adapters from the tasks' own attributes."""
    return _from_attributes(setting, [question.task.attributes for question in questions])


def from_read_attributes(setting: Setting, questions: Sequence[Question], *, aligned: bool) -> LoRAFactors:
    """Adapters from attributes that are read from each question's texts, by which words their levels bring too where `aligned`."""
    reader: AttributeReader = setting.keep("attribute_reader", lambda: AttributeReader(setting))
    return _from_attributes(setting, [reader.read(question.texts(*setting.condition_kind), aligned) for question in questions])


class AttributeReader:
    """Kernel ridge from a text to one number per level of each attribute, and perhaps an alignment of its words: the largest counts, of
    levels that one domain has."""

    def __init__(self, setting: Setting) -> None:
        self.encoder, self._known = setting.encoder, setting.pool_texts
        tasks = pool_tasks(setting)
        attributes = [task.attributes for task in tasks]
        self.levels = levels_of(attributes)
        self.counts = [len(levels) for levels in self.levels.values()]
        self.homes = homes_of(attributes, [task.domain for task in tasks], self.levels)
        self._labels = one_hot(attributes, self.levels)
        reading = fit_reading(_few(setting, TEXTS), self._labels, self.counts)
        self.ridge, self.chosen_on = reading.ridge, tuple(tasks[k].name for k in reading.chosen_on)

    @cached_property
    def alignment(self) -> WordAlignment | None:
        """Which words each level brings; none with an encoder whose vectors are no words."""
        words = self.encoder.words
        return None if words is None else WordAlignment.fitted([*map(words.encode, self._known)], self._labels, words.dim, self.counts)

    def read(self, texts: Sequence[str], aligned: bool) -> dict[str, str]:
        """The level of each attribute that the texts together say."""
        said = CERTAINTY * self.ridge(self.encoder.embed(texts)).mean(0, keepdim=True)
        if aligned and (words := self.encoder.words) is not None and self.alignment is not None:
            said += self.alignment.say(*embed_conditions(words, [texts]))
        places = likeliest(in_one_domain(said, self.counts, self.homes), self.counts)
        named = [(name, level) for name, levels in self.levels.items() for level in levels]
        return dict(named[int(place)] for place in places[0])


def _from_attributes(setting: Setting, attributes: Sequence[dict[str, str]]) -> LoRAFactors:
    tasks = pool_tasks(setting)
    levels = levels_of([task.attributes for task in tasks])

    def fit() -> Fitted:
        rows = one_hot([task.attributes for task in tasks], levels)
        known = Rows(rows, torch.arange(len(rows)), rows)
        return _fit(setting, known, known)

    fitted: Fitted = setting.keep("attribute_writer", fit)
    return fitted.write(fitted.ridge(one_hot(attributes, levels)))


def _fit(setting: Setting, rows: Rows, few: Rows) -> Fitted:
    """Choose kernel and strength on tasks held out, then fit on all of the pool."""
    tasks, pool = pool_tasks(setting), setting.pool_factors
    blender, rank = Blender(pool.to(device=setting.functional.device)), max(max(ranks) for ranks in pool.ranks.values())
    held_out = folds(len(tasks), VALIDATION_TASKS)

    def judged(choice: tuple[str, float]) -> tuple[float, float]:
        weights = torch.cat([few.ridge(*choice, held=held)(few.asking[held]) for held in held_out])
        return _behavior(setting, blender.blend(weights.float(), rank), chosen_on)

    chosen_on = [tasks[k] for held in held_out for k in held]
    kernel, strength = max(itertools.product(KERNELS, STRENGTHS), key=judged)
    names = tuple(task.name for task in tasks), tuple(task.name for task in chosen_on)
    return Fitted(rows.ridge(kernel, strength), blender, rank, kernel, strength, *names)


def _behavior(setting: Setting, factors: LoRAFactors, tasks: Sequence[Task]) -> tuple[float, float]:
    """Mean mark and mean log-likelihood of adapters on train examples of their tasks; higher is better."""
    framing = setting.framing
    batches = [framing.batch(framing.of_task(task, "train")[:VALIDATION_EXAMPLES]) for task in tasks]
    scores = judge_answers(setting.functional, factors, batches, [setting.judge(task) for task in tasks])
    return sum(score.mean_mark for score in scores) / len(scores), -sum(score.nll for score in scores) / len(scores)


def pool_tasks(setting: Setting) -> list[Task]:
    """The tasks of the pool's teachers."""
    return [setting.zoo.suite[teacher.task] for teacher in setting.pool]


def _text_rows(setting: Setting, most: int) -> Rows:
    """The embedded texts that ask for the pool's tasks; the first of a task asks when it is held out."""
    texts = _few(setting, most)
    owners = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(rows) for rows in texts]))
    return Rows(torch.cat(texts), owners, torch.stack([rows[0] for rows in texts]))


def _few(setting: Setting, most: int) -> list[Float[Tensor, "_ E"]]:
    """At most so many embedded texts of each teacher of the pool, evenly spread over its own."""
    return [rows[spread(len(rows), most)] for rows in setting.pool_rows]
