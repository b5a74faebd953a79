"""Workers of tests, in a module that other processes can import."""

import logging
import os
from typing import Any

import torch

from llgbm.errors import InputError


class Squares:
    """Squares numbers."""

    def __init__(self, identity: str = "squares") -> None:
        self.identity = identity

    def square(self, number: int, tick: Any = None) -> int:
        if tick:
            tick(0, number=number)
        if number < 0:
            raise InputError(f"{number} has no root here; give 0 or more")
        if number > 1000:
            raise ZeroDivisionError("too large")
        if number == 13:
            logging.getLogger("llgbm.tests").warning("13 is an unlucky number")
        return number * number

    def surroundings(self) -> dict[str, Any]:
        names = ("OMP_NUM_THREADS", "PYTHONHASHSEED", "GOMP_SPINCOUNT")
        return {"threads": torch.get_num_threads(), **{name: os.environ.get(name) for name in names}}


class Strangers(Squares):
    """No two are of one kind."""

    def __init__(self) -> None:
        super().__init__(f"{id(self)}-of-its-own")


class Unable:
    """Cannot be built."""

    def __init__(self) -> None:
        raise InputError("no base here; bring one")
