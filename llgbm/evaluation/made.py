"""How an evaluation was made: what it takes to make it again, and to see that it was made of the same."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from llgbm.evaluation.setting import Setting
from llgbm.files import absolute
from llgbm.hub import on_hub
from llgbm.tracking.environment import get_environment_info

FOLDERS = ("predictor", "soft_prompt")
"""Choices that are folders."""


def how_made(setting: Setting, checkpoint: str | Path | None) -> dict[str, Any]:
    """For an evaluation's document: folders, choices, content hashes of all that was read, and the environment."""
    choices = asdict(setting.config)
    choices |= {name: absolute(choices[name]) for name in FOLDERS if choices[name] is not None}
    return {
        "run": checkpoint if checkpoint is None or on_hub(checkpoint) else absolute(checkpoint),
        "zoo": absolute(setting.zoo.folder),
        "choices": choices,
        "inputs": {"base": setting.base.content_hash, "zoo": setting.zoo.content_hash, **setting.network_hashes},
        "environment": get_environment_info(),
    }
