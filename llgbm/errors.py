"""The one exception that means "the input is wrong" (one sentence on the command line, exit status 2), and what others' faults say."""

from pickle import UnpicklingError


class InputError(ValueError):
    """Bad input from outside: a file, an adapter, a config. Its message names the thing, the fault and the remedy."""


def first_line(error: BaseException) -> str:
    """What another library's exception says first; never its advice to load a pickle with its code."""
    if isinstance(error, UnpicklingError):
        return "a pickle that is damaged or holds more than tensors, and code in pickles never runs here"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
