"""A generator of somebody else as a method: a function that is imported by name and hands out adapters.

    def generate(descriptions: list[str | None], prompts: list[list[str]], base: str) -> list[str | Path | LoRAFactors]: ...

One entry of `descriptions` and of `prompts` for each task that is asked for, in the words of the split; `base` names the base as
transformers loads it. It returns one adapter per task: a PEFT folder, or LoRAFactors of one adapter. It is called with at most
`adapters_at_once` tasks at a time.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llgbm.errors import InputError, first_line
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import read_adapter

Generate = Callable[[list[str | None], list[list[str]], str], Any]


def load_foreign(name: str) -> Generate:
    """Import what is named `module:function`; modules are looked for in the current folder, too.

    Raises:
        InputError: The name is not of that form, the module cannot be imported, or has no such function.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise InputError(f"method {name!r} is no function to import; give module:function, such as my_module:generate")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module of the user's does when it is imported
        raise InputError(f"method {name}: module {module_name} cannot be imported ({first_line(error)}); is it in {here}?") from error
    finally:
        sys.path.remove(here)
    found = getattr(module, function_name, None)
    if not callable(found):
        raise InputError(
            f"method {name}: module {module_name} ({module.__file__}) has no function {function_name}; see evaluation/foreign.py"
        )
    return found


def ask_foreign(
    name: str,
    generate: Generate,
    conditions: Sequence[tuple[str | None, Sequence[str]]],
    base: str,
    shapes: dict[str, tuple[int, int]],
) -> LoRAFactors:
    """The adapters a foreign generator hands out, checked.

    Args:
        shapes: Module name -> (d_in, d_out) that adapters may touch.

    Raises:
        InputError: It gives another number of things than it was asked for, something that is no adapter, or an adapter of another base.
    """
    given = generate([description for description, _ in conditions], [list(prompts) for _, prompts in conditions], base)
    if not isinstance(given, Sequence) or len(given) != len(conditions):
        count = f"{len(given)}" if isinstance(given, Sequence) else f"a {type(given).__name__}"
        raise InputError(f"method {name} was asked for {len(conditions)} adapters and gave {count}; return a list with one for each task")
    return LoRAFactors.stack([_adapter(name, k, one, shapes) for k, one in enumerate(given)])


def _adapter(name: str, k: int, given: Any, shapes: dict[str, tuple[int, int]]) -> LoRAFactors:
    if isinstance(given, str | Path):
        return read_adapter(given, shapes)
    if not isinstance(given, LoRAFactors) or given.n_adapters != 1:
        kind = f"LoRAFactors of {given.n_adapters} adapters" if isinstance(given, LoRAFactors) else f"a {type(given).__name__}"
        raise InputError(f"method {name}: adapter {k} is {kind}; return the folder of a PEFT adapter, or LoRAFactors of one")
    for module, shape in given.shapes.items():
        if shapes.get(module) != shape:
            raise InputError(
                f"method {name}: adapter {k} has {module} of (d_in, d_out) = {shape}, here is {shapes.get(module, 'no such module')}; "
                "adapt the modules that the zoo's teachers adapt"
            )
    return given
