"""`adapter_config.json` of a PEFT folder: known to describe plain LoRA, of the right shape, with patterns that can be matched."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from llgbm.checking import Integer, read_as, shown
from llgbm.errors import InputError
from llgbm.files import read_json
from llgbm.lora.patterns import fully_matches
from llgbm.names import relative_path

CONFIG_FILE = "adapter_config.json"

UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save (whole trained modules)",
    "lora_bias": "lora_bias (a trained bias on B)",
    "trainable_token_indices": "trainable_token_indices (trained rows of the embedding)",
    "layer_replication": "layer_replication",
    "target_parameters": "target_parameters",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
"""Config keys that, when set, change the model beyond W + scaling * B A."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values (or beginnings) of `init_lora_weights` that make PEFT subtract something from the base's own weights."""

Rank = Annotated[Integer, Field(ge=1, le=1_000_000)]
LARGEST = float.fromhex("0x1.fffffep127")
"""Of float32, which the scaling of an adapter is kept in."""
Alpha = Annotated[float, Strict(), Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]


@dataclass(config=ConfigDict(extra="ignore"))
class AdapterConfig:
    """The entries that decide what an adapter does; the others do not matter here."""

    r: Rank
    lora_alpha: Alpha
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    use_rslora: Annotated[bool, Strict()] | None = None

    def rank_and_scaling(self, name: str) -> tuple[int, float]:
        """Of one module: its rank, and alpha / rank or, for rsLoRA, alpha / sqrt(rank).

        Raises:
            InputError: A pattern is broken or cannot be matched.
        """
        rank = self._of("rank_pattern", name, self.r)
        alpha = self._of("alpha_pattern", name, self.lora_alpha)
        return rank, alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def _of(self, field: str, name: str, default: Any) -> Any:
        patterns = getattr(self, field) or {}
        return next((patterns[pattern] for pattern in patterns if _matches(field, pattern, name)), default)


def read_config(folder: Path) -> AdapterConfig:
    """The adapter's config, once it is known to describe plain LoRA.

    Raises:
        InputError: The folder or file is missing or broken, the adapter is more than LoRA, or entries have the wrong type.
    """
    if not folder.is_dir():
        raise InputError(f"adapter {folder}: no such folder; give a PEFT adapter directory")
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"adapter {folder}: {CONFIG_FILE} is missing; a PEFT adapter directory has one, save the adapter again")
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict):
        raise InputError(f"adapter {folder}: {CONFIG_FILE} holds a {type(config).__name__}, expected an object; save the adapter again")
    if config.get("peft_type") != "LORA":
        raise InputError(f"adapter {folder}: peft_type is {shown(config.get('peft_type'))}, only LORA can be read; train a LoRA adapter")
    if features := list(_features(config)):
        raise InputError(f"adapter {folder}: uses {', '.join(features)}, which LoRA factors cannot express; train it without")
    return read_as(AdapterConfig, config, f"adapter {folder}: {CONFIG_FILE}")


def base_of(folder: str | Path) -> tuple[str, str | None]:
    """The base an adapter names, and its revision if it says one; InputError when it names none, or a revision that leads elsewhere."""
    config = read_json(Path(folder) / CONFIG_FILE) if read_config(Path(folder)) else {}
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise InputError(f"adapter {folder}: its {CONFIG_FILE} names no base; give one with --base")
    if not isinstance(revision, str) or not revision:
        return name, None
    return name, relative_path(revision, f"adapter {folder}: revision")  # the hub's library keeps it as a file of that name


def _features(config: dict[str, Any]) -> Iterable[str]:
    """What the config asks for beyond W + scaling * B A."""
    yield from (label for key, label in UNSUPPORTED.items() if config.get(key))
    if config.get("bias", "none") != "none":
        yield f"bias={shown(config['bias'])}"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        yield f"init_lora_weights={shown(start)} (changes the base; convert it to plain LoRA when saving)"


def _matches(field: str, pattern: str, name: str) -> bool:
    """PEFT's rule (`get_pattern_key`)."""
    try:
        return fully_matches(rf"(.*\.)?({pattern})", name)
    except InputError as error:
        raise InputError(f"{field} has a pattern, {shown(pattern)}, that {error}; correct it") from error
