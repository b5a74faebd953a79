"""The ways to answer an unseen task, one function each: which adapter answers, and what the base reads before.

Every method but `teacher`, and on seen tasks the multi-task adapters, sees no labeled example of the task in its weights; only
`few_shot` and `instructed_few_shot` see any at all. Letters: Q questions, P teachers in the pool of seen tasks, E embedding width, r rank.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from llgbm.dataset import TokenBatch
from llgbm.errors import InputError
from llgbm.evaluation.foreign import ask_foreign
from llgbm.evaluation.instructed import instructed_tokens
from llgbm.evaluation.ridge import from_condition, from_read_attributes, from_true_attributes
from llgbm.evaluation.setting import Question, Setting
from llgbm.functional_lora.virtual import prefixed
from llgbm.lora.factors import LoRAFactors, combine, truncate
from llgbm.multitask import kept_under, multitask_adapter

MERGE_TEMPERATURE = 0.1
"""Of the softmax over cosine similarities that weighs merged teachers."""


@dataclass(frozen=True)
class Attempt:
    """What answers Q questions: Q adapters (None: the base alone), and the batch each of them reads."""

    factors: LoRAFactors | None
    batches: list[TokenBatch]
    virtual: Float[Tensor, "Q V D"] | None = None
    """Virtual tokens that the batches' ids beyond the vocabulary stand for."""


@dataclass(frozen=True)
class Method:
    """One registered method."""

    attempt: Callable[[Setting, Sequence[Question]], Attempt]
    needs_generator: bool
    reads_condition: bool
    """Whether the wording of a question can change the answer."""
    uses_pool: bool
    """Whether the seen teachers are part of the method."""
    source: str
    needs_teacher: bool = False
    """Whether it needs the asked task's own teacher."""
    needs_predictor: bool = False
    needs_soft_prompt: bool = False
    needs_foreign: bool = False
    needs_attributes: bool = False
    """Whether it reads the attributes of seen tasks."""
    instructs: bool = False
    """Whether the base reads the sentence at every query; unless asked for, only where the base is asked by a chat template."""
    aligns: bool = False
    """Whether it reads as a generator with `generator.alignment` does; unless asked for, only beside such a one."""
    trains: bool = False
    """Whether something is trained before the first question, and then answers all."""
    blind: bool = False
    """Whether it is another method without the sentence; unless asked for, only where that one is not tried by itself either."""

    @property
    def reads_sentence(self) -> bool:
        """Whether it reads a description, whatever the generator reads."""
        return self.instructs or self.needs_foreign

    @property
    def networks(self) -> tuple[str, ...]:
        """Which of a setting's networks answer, or say which adapter does."""
        needed = {"generator": self.needs_generator, "predictor": self.needs_predictor, "soft_prompt": self.needs_soft_prompt}
        return tuple(name for name, wanted in needed.items() if wanted)

    def is_sensible(self, chat: bool, aligned: bool) -> bool:
        """Whether it is tried unless others are asked for: by whether the base has a chat template, and the generator aligns words."""
        return chat >= self.instructs and aligned >= self.aligns and not (chat and self.blind)


def base(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The base alone, zero-shot."""
    return Attempt(None, _plain(setting, questions))


def few_shot(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The base after a few solved train examples, drawn anew for each query."""
    return Attempt(None, [setting.demonstrated(question.task) for question in questions])


def teacher(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The task's own trained adapter: what a generator is measured against."""
    return Attempt(setting.zoo.factors([setting.teachers[q.task.name] for q in questions]), _plain(setting, questions))


def generated(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The adapter the generator writes for the question's condition."""
    return Attempt(_generate(setting, questions), _plain(setting, questions))


def foreign(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The adapter that somebody else's generator hands out."""
    assert setting.foreign is not None
    assert setting.config.foreign is not None
    conditions = [question.condition("both", setting.condition_kind[1]) for question in questions]
    factors = ask_foreign(setting.config.foreign, setting.foreign, conditions, setting.base.name, setting.functional.shapes)
    return Attempt(factors, _plain(setting, questions))


def shuffled_condition(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The adapter the generator writes for another task of the split: what is left when the condition says nothing."""
    others = {split: setting.shuffled(split) for split in {q.split for q in questions}}
    return Attempt(
        _generate(setting, [replace(others[q.split][q.task.name], wording=q.wording) for q in questions]), _plain(setting, questions)
    )


def nearest(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The seen teacher whose task is asked for most alike. On `seen` that is mostly the task's own: a look-up."""
    return _nearest(setting, questions, _similarities(setting, questions))


def nearest_predicted(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The seen teacher whose fingerprint is most like the one predicted from the condition."""
    return _nearest(setting, questions, _fingerprint_similarities(setting, setting.predict(questions)))


def mean_adapter(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The mean weight change of all seen teachers, at the teachers' rank; the same for every question."""
    pool = setting.pool_factors
    mean = setting.keep("mean_adapter", lambda: truncate(combine(pool, [1 / pool.n_adapters] * pool.n_adapters), _rank(pool)))
    return Attempt(mean.select([0] * len(questions)), _plain(setting, questions))


def merged_topk(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The exact weighted sum of the weight changes of the k nearest seen teachers."""
    return _merged(setting, questions, _similarities(setting, questions))


def merged_predicted(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """`merged_topk` by the fingerprint predicted from the condition."""
    return _merged(setting, questions, _fingerprint_similarities(setting, setting.predict(questions)))


def nearest_fingerprint(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """`nearest_predicted` with the fingerprint of the task's own teacher: as if the prediction were perfect."""
    own = setting.fingerprints([setting.teachers[q.task.name] for q in questions])
    return _nearest(setting, questions, _fingerprint_similarities(setting, own))


def instructed(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The base, told the sentence before every input."""
    return Attempt(None, [instructed_tokens(setting, question) for question in questions])


def instructed_few_shot(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The base, told the sentence and shown a few solved train examples, drawn anew for each query."""
    return Attempt(None, [instructed_tokens(setting, question, demonstrated=True) for question in questions])


def multitask_blind(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """One LoRA of the teachers' rank trained on all seen tasks together. Blind: it reads the input alone, so it cannot know the task."""
    adapter = _multitask(setting, instructed=False)
    return Attempt(adapter.select([0] * len(questions)), _plain(setting, questions))


def multitask_instructed(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """One LoRA of the teachers' rank that reads the sentence before every input, trained on as many examples as all teachers together."""
    batches = [instructed_tokens(setting, question) for question in questions]
    adapter = _multitask(setting, instructed=True)
    return Attempt(adapter.select([0] * len(questions)), batches)


def ridge(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """Kernel ridge from the embedded condition to the weight changes of the seen teachers: no network, no gradient step."""
    return Attempt(from_condition(setting, questions), _plain(setting, questions))


def ridge_attributes(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """Two ridges: from the condition to the task's attributes, which it is told of seen tasks, and from these to weight changes."""
    return Attempt(from_read_attributes(setting, questions, aligned=False), _plain(setting, questions))


def ridge_aligned(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """`ridge_attributes` whose reader also knows which words each level brings, as a generator with `generator.alignment` does."""
    return Attempt(from_read_attributes(setting, questions, aligned=True), _plain(setting, questions))


def ridge_true_attributes(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The second of these ridges with the task's true attributes: an oracle that has nothing to read."""
    return Attempt(from_true_attributes(setting, questions), _plain(setting, questions))


def soft_prompt(setting: Setting, questions: Sequence[Question]) -> Attempt:
    """The base after virtual tokens that the generator's reader writes, trained by the answers alone: no adapter."""
    prompts = setting.prompted(questions)
    device, per_task = setting.functional.device, prompts.shape[1]
    batches = [tokens.to(device) for tokens in _plain(setting, questions)]
    shown = [prefixed(setting.functional, batch, [k] * len(batch), per_task) for k, batch in enumerate(batches)]
    return Attempt(None, shown, prompts)


METHODS: dict[str, Method] = {
    "base": Method(base, False, False, False, "zero-shot"),
    "few_shot": Method(few_shot, False, False, False, "in-context learning, arXiv:2005.14165"),
    "instructed": Method(instructed, False, True, False, "zero-shot, told the task", instructs=True),
    "instructed_few_shot": Method(
        instructed_few_shot, False, True, False, "in-context learning, arXiv:2005.14165, told the task", instructs=True
    ),
    "teacher": Method(teacher, False, False, False, "LoRA, arXiv:2106.09685", needs_teacher=True),
    "generated": Method(generated, True, True, False, "this package"),
    "foreign": Method(foreign, False, True, False, "the one given", needs_foreign=True),
    "shuffled_condition": Method(shuffled_condition, True, True, False, "control"),
    "nearest": Method(nearest, False, True, True, "retrieval by condition; LoraRetriever, arXiv:2402.09997"),
    "merged_topk": Method(merged_topk, False, True, True, "LoraHub, arXiv:2307.13269, with similarities as weights"),
    "nearest_predicted": Method(
        nearest_predicted, False, True, True, "Delta Activations, arXiv:2509.04442, predicted", needs_predictor=True
    ),
    "merged_predicted": Method(
        merged_predicted, False, True, True, "LoraHub, arXiv:2307.13269, by predicted fingerprint", needs_predictor=True
    ),
    "nearest_fingerprint": Method(
        nearest_fingerprint,
        False,
        False,
        True,
        "Delta Activations, arXiv:2509.04442; an upper bound",
        needs_teacher=True,
        needs_predictor=True,
    ),
    "mean_adapter": Method(mean_adapter, False, False, True, "model soups, arXiv:2203.05482, on weight changes"),
    "ridge": Method(ridge, False, True, True, "kernel ridge regression, doi:10.5555/645527.657464"),
    "ridge_attributes": Method(ridge_attributes, False, True, True, "the same, twice", needs_attributes=True),
    "ridge_aligned": Method(
        ridge_aligned, False, True, True, "the same, and IBM Model 1, aclanthology.org/J93-2003", needs_attributes=True, aligns=True
    ),
    "ridge_true_attributes": Method(ridge_true_attributes, False, False, True, "the same; an upper bound", needs_attributes=True),
    "soft_prompt": Method(soft_prompt, False, True, False, "prompt tuning, arXiv:2104.08691, from a reader", needs_soft_prompt=True),
    "multitask_instructed": Method(
        multitask_instructed,
        False,
        True,
        True,
        "multi-task LoRA, a baseline of Text-to-LoRA, arXiv:2506.06105",
        instructs=True,
        trains=True,
    ),
    "multitask_blind": Method(
        multitask_blind, False, False, True, "the same without the sentence; what it cannot know", trains=True, blind=True
    ),
}
"""Every method `evaluate` can score, in the order tables show them."""


def choose_methods(setting: Setting) -> list[str]:
    """The configured methods, or all that are possible and make sense.

    Raises:
        InputError: A configured method is unknown, or needs a generator, a predictor, teachers or sentences that are not there.
    """
    for name in setting.config.methods:
        if name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"unknown method {name!r}; {hint}choose from {', '.join(METHODS)}")
        if METHODS[name].needs_generator and setting.generator is None:
            raise InputError(f"method {name} needs a generator; give --run, or leave the method out")
        if METHODS[name].needs_predictor and setting.predictor is None:
            raise InputError(f"method {name} needs a predictor of fingerprints; give --predictor, or leave the method out")
        if METHODS[name].needs_soft_prompt and setting.soft_prompt is None:
            raise InputError(f"method {name} needs a trained writer of soft prompts; give --soft_prompt, or leave the method out")
        if METHODS[name].needs_foreign and setting.foreign is None:
            raise InputError(f"method {name} needs a generator to import; give --method module:function, or leave the method out")
        if METHODS[name].needs_teacher and setting.untaught:
            raise InputError(
                f"method {name} needs the teachers of the tasks that are asked for, and zoo {setting.zoo.folder} has none of split "
                f"{setting.untaught[0]}; build them, or leave the method out"
            )
        if METHODS[name].reads_sentence and setting.undescribed:
            raise InputError(
                f"method {name} reads sentences, and suite {setting.zoo.suite.name} has tasks without unseen_paraphrases in split "
                f"{setting.undescribed[0]}; add them, or leave the method or the split out"
            )
        if METHODS[name].needs_attributes and not setting.has_attributes:
            raise InputError(
                f"method {name} needs the attributes of tasks, and suite {setting.zoo.suite.name} has none; "
                "add them, or leave the method out"
            )
    without = {flag for flag in ("generator", "predictor", "soft_prompt", "foreign") if getattr(setting, flag) is None}
    without |= set() if setting.has_attributes else {"attributes"}
    without |= {"teacher"} if setting.untaught else set()
    aligned = setting.generator is not None and setting.generator.spec.known_words > 0
    sensible = [name for name, method in METHODS.items() if method.is_sensible(setting.framing.is_chat, aligned)]
    if setting.undescribed:
        sensible = [name for name in sensible if not METHODS[name].reads_sentence]
    possible = [name for name in sensible if not any(getattr(METHODS[name], f"needs_{flag}") for flag in without)]
    return list(setting.config.methods) or possible


def _multitask(setting: Setting, instructed: bool) -> LoRAFactors:
    """The LoRA for all tasks of the pool, trained once."""
    size, cache = setting.config.multitask_batch_size, setting.cache_dir
    folder = cache and kept_under(cache, setting, setting.pool, instructed, size)
    return setting.keep(f"multitask/{instructed}", lambda: multitask_adapter(setting, setting.pool, instructed, size, folder))


def _plain(setting: Setting, questions: Sequence[Question]) -> list[TokenBatch]:
    return [setting.tokens(question.task) for question in questions]


def _generate(setting: Setting, questions: Sequence[Question]) -> LoRAFactors:
    assert setting.generator is not None
    conditions = [q.condition(*setting.condition_kind) for q in questions]
    descriptions = [description for description, _ in conditions if description is not None]
    prompts = [list(shown) for _, shown in conditions]
    return setting.generator.generate(prompts if any(prompts) else None, descriptions or None, setting.base)


def _similarities(setting: Setting, questions: Sequence[Question]) -> Float[Tensor, "Q P"]:
    """Cosine of each question's condition to the pool's tasks."""
    return setting.embed([q.texts(*setting.condition_kind) for q in questions]) @ setting.pool_embeddings.T


def _fingerprint_similarities(setting: Setting, wanted: Float[Tensor, "Q F"]) -> Float[Tensor, "Q P"]:
    """Cosine of the wanted fingerprints to the pool's; a zero fingerprint has 0 to all."""
    return F.normalize(wanted, dim=1) @ F.normalize(setting.fingerprints(setting.pool), dim=1).T


def _nearest(setting: Setting, questions: Sequence[Question], similarities: Float[Tensor, "Q P"]) -> Attempt:
    """The most similar teacher of the pool."""
    return Attempt(setting.pool_factors.select(similarities.argmax(1)), _plain(setting, questions))


def _merged(setting: Setting, questions: Sequence[Question], similarities: Float[Tensor, "Q P"]) -> Attempt:
    """The most similar teachers of the pool, merged on weight changes."""
    values, indices = similarities.topk(min(setting.config.top_k, similarities.shape[1]), dim=1)
    weights = (values / MERGE_TEMPERATURE).softmax(1)
    merged = [combine(setting.pool_factors.select(chosen), w) for chosen, w in zip(indices, weights, strict=True)]
    return Attempt(LoRAFactors.stack(merged), _plain(setting, questions))


def _rank(factors: LoRAFactors) -> int:
    return max(max(ranks) for ranks in factors.ranks.values())
