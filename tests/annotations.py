"""What annotated functions of the package are held to while tests run: `annotations.check` among pytest's `--jaxtyping-packages`."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that raises for arguments and results other than it says, unless torch compiles it.

    A method that says `Self` stays as it is: methods come without their class.
    """
    try:
        checked = _checked(function)
    except BeartypeDecorHintPep673Exception:
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if torch.compiler.is_compiling() else checked)(*args, **kwargs)

    return call
