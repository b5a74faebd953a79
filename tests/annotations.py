"""What every annotated function of the package is held to while tests run: `--jaxtyping-packages=llgbm,annotations.check`."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that raises for arguments and results other than it says; a method that says `Self` stays as it is: it comes alone."""
    try:
        return _checked(function)
    except BeartypeDecorHintPep673Exception:
        return function
