"""The one exception that means "the input is wrong" (one sentence on the command line, exit status 2), and what others' faults say."""

import errno
import re
from pickle import UnpicklingError

REMEDIES = {
    errno.ENOSPC: "free some there",
    errno.EDQUOT: "free some there, or have the quota raised",
    errno.EFBIG: "let files grow larger (ulimit -f)",
    errno.EROFS: "give a folder that can be written",
    errno.EACCES: "give this user the right, or name another place",
    errno.EMFILE: "let more files be open (ulimit -n)",
}
"""What helps where the system refuses, by its number of the fault; other faults of the system are none of the user's."""
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "annot allocate memory", "std::bad_alloc", "can't start new thread")
"""What libraries say when the system refuses memory."""


class InputError(ValueError):
    """Bad input from outside: a file, an adapter, a config. Its message names the thing, the fault and the remedy."""


def first_line(error: BaseException) -> str:
    """What another library's exception says first; never its advice to load a pickle with its code."""
    if isinstance(error, UnpicklingError):
        return "a pickle that is damaged or holds more than tensors, and code in pickles never runs here"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def system_fault(error: BaseException) -> int | None:
    """The system's number of a fault that came from it; libraries in Rust, such as safetensors, only mention it."""
    if isinstance(error, OSError | InputError):
        return getattr(error, "errno", None)
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    named = any(kind.__name__ in ("MemoryError", "OutOfMemoryError") for kind in type(error).__mro__)
    return named or any(text in str(error) for text in OUT_OF_MEMORY)


def blame_memory(error: BaseException) -> None:
    """Raise MemoryError where an exception says that memory ran out: no file that was being read is to blame."""
    if ran_out(error):
        raise MemoryError(first_line(error)) from error
