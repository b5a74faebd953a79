"""The base of a study, a decoder or an encoder, and the copies of it that are trained."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from llgbm.errors import InputError, first_line
from llgbm.study.config import LoRAMethodConfig, StudyConfig
from llgbm.zoo.base import load_configured


@dataclass(frozen=True)
class Backbone:
    """A base as it was loaded; training works on copies."""

    model: PreTrainedModel
    """A causal LM, or an encoder without a head."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    is_encoder: bool

    def copied(self) -> PreTrainedModel:
        """A copy to train, every weight of which takes gradients."""
        return copy.deepcopy(self.model).requires_grad_(True)

    def classifier(self, n_labels: int, seed: int) -> PreTrainedModel:
        """A copy with transformers' head for classes, drawn by the seed.

        Raises:
            InputError: transformers has no such head for this kind of model.
        """
        config: Any = copy.deepcopy(self.model.config)
        config.num_labels, config.pad_token_id = n_labels, self.tokenizer.pad_token_id
        torch.manual_seed(seed)
        try:
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=self.model.dtype)
        except ValueError as error:
            raise InputError(f"base {self.name}: cannot classify ({first_line(error)}); use a model that has such a head") from error
        setattr(model, model.base_model_prefix, self.copied().base_model)
        return model.to(self.model.device)  # pyright: ignore[reportArgumentType]


def load_backbone(config: StudyConfig) -> Backbone:
    """Load the base of a study. InputError as `zoo.base.load_base`."""
    base = load_configured(config.model)
    return Backbone(base.model, base.tokenizer, base.name, is_encoder=False)


def with_lora(model: PreTrainedModel, settings: LoRAMethodConfig, head: tuple[str, ...], seed: int) -> nn.Module:
    """The model with PEFT's LoRA, in the precision of its weights; base weights are frozen, the head is trained as a whole.

    Raises:
        InputError: The model has no module of the names in `lora.target_modules`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        modules_to_save=list(head) or None,
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        names = ", ".join(settings.target_modules)
        raise InputError(f"lora.target_modules {names}: PEFT finds none of them in this base ({first_line(error)})") from error


def inner_model(model: nn.Module) -> PreTrainedModel:
    """The model without its head, LoRA left in: what has the hidden states."""
    from peft import PeftModel

    whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return whole.base_model
