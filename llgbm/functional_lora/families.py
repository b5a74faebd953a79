"""Families of causal LMs that need more than the rule: those refused, and those that count positions in their own way.

What was tried and found of every family is in `docs/families.json`, written by `scripts/sweep_families.py`.
"""

from transformers import PreTrainedModel

from llgbm.errors import InputError

REFUSED: dict[str, str] = {
    "cpmant": "its tokens see later ones, as a prompt's do",
    "gemma3n": "it keeps several hidden states of each token",
    "gemma3n_text": "it keeps several hidden states of each token",
    "prophetnet": "its output embedding predicts several next tokens at once",
    "reformer": "its reversible layers keep no hidden states of their own",
    "xlm": "its tokens see later ones",
    "xlnet": "its tokens see later ones",
}
"""`model_type` -> why functional LoRA does not follow such a model."""

ENCODERS = (
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""`model_type` of encoders, whose tokens see later ones unless the config says `is_decoder`."""

COUNT_PADDING = (
    "bart",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "marian",
    "mbart",
    "mvp",
    "pegasus",
    "plbart",
    "rwkv",
    "trocr",
    "whisper",
)
"""`model_type` of models that number or read padded columns, so that padding on the left changes the result."""


def check_family(model: PreTrainedModel) -> None:
    """Refuse a model of a family that functional LoRA cannot follow, by a sentence that names it and why.

    Raises:
        InputError: The family is in `REFUSED`, or an encoder used as one.
    """
    kind = model.config.model_type
    if kind in REFUSED:
        raise InputError(f"a base of family {kind} is not supported: {REFUSED[kind]}; use another causal language model")
    if kind in ENCODERS and not model.config.is_decoder:
        raise InputError(
            f"a base of family {kind} is an encoder: its tokens see later ones; use a causal language model, or one whose config has "
            "is_decoder true"
        )


def counts_positions_itself(model: PreTrainedModel) -> bool:
    """Whether the model numbers positions by its padding tokens, from another start than 0 (RoBERTa and its kin)."""
    return any(hasattr(module, "create_position_ids_from_input_ids") for module in model.modules())
