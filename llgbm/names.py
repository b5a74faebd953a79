"""Names that become parts of paths: the one place that decides which may.

Tasks, domains, experiments, runs, studies' cells and adapters are named by files and flags, and each name becomes a
folder. `path_part` lets through what is one folder below its parent on every system, and nothing else.
"""

import re
import unicodedata
from collections.abc import Iterable

from llgbm.checking import shown
from llgbm.errors import InputError

MOST_BYTES = 200
"""Bytes of a name in UTF-8: file systems take 255, and names get suffixes."""
SEPARATORS = "/\\:"
"""Of paths, and of drives: on Windows `C:x` leaves the folder too."""
_WRONG = re.compile(r"[/\\:\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.IGNORECASE | re.DOTALL)


def path_part(name: str, what: str = "the name") -> str:
    """The name, when it can be one folder or file on every system.

    Args:
        name: From a file or flag.
        what: What it names, for the message: "task", "--experiment_name".

    Raises:
        InputError: It is empty, `.` or `..`, reserved or over-long, ends in a dot or space, or holds a separator, a control
            character or half a surrogate pair.
    """
    fault = _fault(name)
    if fault:
        raise InputError(f"{what} {shown(name)} {fault}; it names a folder: choose another")
    return name


def relative_path(path: str, what: str = "the path") -> str:
    """A path of one or more parts with slashes, each a `path_part`: it stays below the folder it is joined to."""
    for part in path.split("/"):
        fault = _fault(part)
        if fault:
            raise InputError(f"{what} {shown(path)}: part {shown(part)} {fault}; give a path below its folder")
    return path


def refuse_twins(names: Iterable[str], what: str) -> None:
    """InputError when two different names are one on systems that ignore case or Unicode's spellings."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(twin_key(name), name)
        if other != name:
            raise InputError(
                f"{what} {shown(name)} and {shown(other)} differ only by case or Unicode spelling, and would be one folder; rename one"
            )


def twin_key(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _fault(name: str) -> str:
    """What keeps a name from being a folder; empty when nothing does."""
    if not name:
        return "is empty"
    if name in (".", ".."):
        return "is a step in a path"
    wrong = _WRONG.search(name)
    if wrong:
        character = wrong[0]
        kind = "half of a surrogate pair" if "\ud800" <= character <= "\udfff" else "control character"
        return f"holds the separator {character!r}" if character in SEPARATORS else f"holds {character!r}, a {kind}"
    if name[-1] in ". ":
        return f"ends in {name[-1]!r}"
    if _RESERVED.fullmatch(name):
        return "is reserved on Windows"
    if len(name.encode()) > MOST_BYTES:
        return f"is {len(name.encode())} bytes long, at most {MOST_BYTES} are allowed"
    return ""
