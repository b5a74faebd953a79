"""From a task's words to PEFT directories on disk: which tasks are asked for, the adapters, and a model card beside each."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, Text, shown
from llgbm.errors import InputError
from llgbm.files import hash_file, read_json, read_text, write_text
from llgbm.hub import publish
from llgbm.lora.adapter_config import CONFIG_FILE
from llgbm.lora.peft_io import TENSOR_FILE, read_adapter, write_adapter
from llgbm.models.cards import CARD_FILE, PublishedScore, completed
from llgbm.models.ensemble import load_generator
from llgbm.models.reader import WEIGHTS_FILE
from llgbm.models.writer import AdapterWriter, GeneratorSpec
from llgbm.names import path_part, refuse_twins
from llgbm.zoo.base import Base, BaseIdentity, check_base
from llgbm.zoo.named import loadable_name
from llgbm.zoo.suite import read_jsonl

SHOWN_PROMPTS = 8
"""Prompts a model card quotes."""


@dataclass(frozen=True)
class Request:
    """A task as a user asks for it: a description, unlabeled prompts, or both."""

    name: str
    description: str | None = None
    prompts: tuple[str, ...] = ()

    def texts(self) -> list[str]:
        """Everything the generator reads."""
        return [*([] if self.description is None else [self.description]), *self.prompts]


@dataclass(frozen=True, config=RECORD)
class RequestRow:
    """A line of a file of tasks to generate adapters for."""

    task: Text
    description: Text | None = None
    prompts: tuple[Text, ...] = ()


def generate_adapters(checkpoint: str | Path, requests: Sequence[Request], output_dir: str | Path, base: Base | None = None) -> list[Path]:
    """Write a PEFT directory with a model card for each request: `output_dir` itself for one, `output_dir/<name>` for many.

    Args:
        checkpoint: A generator's folder, a checkpoint, or a run folder.
        requests: What is asked for; generated in one pass.
        output_dir: Made if needed; adapters already there are replaced.
        base: The frozen base, for a generator whose encoder reads it.

    Raises:
        InputError: No generator there, a request without texts, two requests of one name, or a base the generator was not trained for.
    """
    _check_names(requests)
    generator = load_generator(checkpoint)
    made_for = generator.spec.base
    if made_for is None:
        raise InputError(f"{checkpoint}: does not say for which base it writes; train the generator anew")
    if base is not None:
        check_base(f"generator {checkpoint}", made_for, base, any_dtype=True)  # who loaded the base asked for its dtype
    factors = generator.generate(prompts=[request.texts() for request in requests], base=base)
    source = hash_file(AdapterWriter.folder_in(checkpoint) / WEIGHTS_FILE)
    folders = [Path(output_dir) if len(requests) == 1 else Path(output_dir) / path_part(request.name, "task") for request in requests]
    for k, (folder, request) in enumerate(zip(folders, requests, strict=True)):
        found_again = {"revision": made_for.revision}
        write_adapter(
            folder,
            factors,
            k,
            base_name=loadable_name(made_for.name),
            fan_in_fan_out=generator.spec.fan_in_fan_out,
            extra_config=found_again,
        )
        write_text(folder / CARD_FILE, model_card(folder.absolute(), generator.spec, made_for, request, source))
    return folders


def push_adapter(folder: str | Path, repo_id: str, license: str, scores: Sequence[PublishedScore] = (), private: bool | None = None) -> str:
    """Write a PEFT folder to a model of the hub, its card completed; the commit's address.

    Args:
        folder: With an adapter that can be read; other files in it stay here.
        repo_id: `ORG/NAME`.
        license: As the hub abbreviates it: mit, apache-2.0.
        scores: For the card.
        private: Whether only its owners see it; None: as their settings say.

    Raises:
        InputError: No adapter there, or as `hub.publish`.
    """
    folder = Path(folder)
    read_adapter(folder)
    base_name = str(read_json(folder / CONFIG_FILE).get("base_model_name_or_path"))
    card = read_text(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else f"# {repo_id.rpartition('/')[2]}\n\nA LoRA adapter.\n"
    card = card.replace(json.dumps(str(folder.absolute())), json.dumps(repo_id))
    with tempfile.TemporaryDirectory() as whole:
        for name in (TENSOR_FILE, CONFIG_FILE):
            shutil.copy(folder / name, whole)
        write_text(Path(whole) / CARD_FILE, completed(card, repo_id, base_name, "peft", license, scores))
        return publish(whole, repo_id, private)


def read_requests(path: str | Path) -> list[Request]:
    """Tasks from JSONL, one object per line with `task` and `description`, `prompts`, or both.

    Raises:
        InputError: A line is faulty, or there is none.
    """
    requests = []
    for where, row in read_jsonl(Path(path), RequestRow):
        if row.description is None and not row.prompts:
            raise InputError(f"{where}: task {shown(row.task)} asks for nothing; give a description, prompts, or both")
        requests.append(Request(row.task, row.description, row.prompts))
    if not requests:
        raise InputError(f"{path}: holds no tasks; write one JSON object per line")
    return requests


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Prompts of one task: a JSON list of strings (`.json`), or a text file with one prompt per line."""
    path = Path(path)
    if path.suffix != ".json":
        prompts = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    else:
        prompts = read_json(path)
        if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
            raise InputError(f"{path}: expected a JSON list of strings")
    if not prompts:
        raise InputError(f"{path}: holds no prompts; write at least one")
    return tuple(prompts)


def model_card(folder: Path, spec: GeneratorSpec, base: BaseIdentity, request: Request, generator_hash: str) -> str:
    """The README of the adapter generated into a folder; its snippet runs as it stands while the folder stays there."""
    quoted = "\n".join(f"> {' '.join(text.split())}\n" for text in request.texts()[:SHOWN_PROMPTS])
    more = len(request.texts()) - SHOWN_PROMPTS
    modules = sorted({name.rsplit(".", 1)[-1] for name in spec.shapes})
    return f"""---
base_model: {json.dumps(base.name)}
library_name: peft
tags: [lora, generated, llgbm]
---
# {request.name}

A LoRA adapter written by a generator in one forward pass; nobody trained it on examples of this task. It was asked for with:

{quoted}{f"and {more} more texts." if more > 0 else ""}

| | |
|---|---|
| base | `{base.name}`, {f"revision {base.revision}, " if base.revision else ""}{base.dtype} (content {base.hash[:16]}) |
| rank, alpha | {spec.rank}, {spec.alpha:g} |
| modules | {", ".join(f"`{m}`" for m in modules)} |
| generator | {generator_hash[:16]}, size {spec.size}, trained on {len(spec.trained_on)} tasks |
| text encoder | `{spec.encoder}` |

```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained({json.dumps(str(folder))})
```

Check it on examples of your task before you rely on it: a generator can misread a request.
"""


def _check_names(requests: Sequence[Request]) -> None:
    if not requests:
        raise InputError("nothing to generate: give a description, prompts, or a file of tasks")
    names = [path_part(request.name, "task") if len(requests) > 1 else request.name for request in requests]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"task {twice!r} is asked for twice; give each task its own name")
    refuse_twins(names, "task")
