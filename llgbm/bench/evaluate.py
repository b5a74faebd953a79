"""`llgbm bench evaluate`: exact match of K teachers in batches, against PEFT one after another.

Two references: `decode` loads each adapter, lets `generate` answer greedily and unloads it, which is the usual way;
`forced` does the same with one forward over the gold answers, which isolates what batching over adapters gains. The floor is
the bare base on the same tokens.
"""

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from llgbm.bench.clock import now
from llgbm.config import ExperimentConfig
from llgbm.dataset import NO_LABEL, TokenBatch
from llgbm.errors import InputError
from llgbm.functional_lora import FunctionalLoRA
from llgbm.scoring import score_each
from llgbm.zoo.base import Base, load_configured
from llgbm.zoo.folder import Teacher, TeacherZoo


def bench_evaluate(config: ExperimentConfig, n_adapters: int = 40, examples: Sequence[int] = (8, 40), repeats: int = 3) -> dict:
    """Time all ways for each number of test examples per adapter: seconds, ratios, and how many of PEFT's answers differ.

    All start from adapters on disk. Loading the base and tokenizing the examples is counted for none. What batching
    saves is fixed work per adapter, so the ratio falls as examples per adapter grow; `base` shows how near the floor it is.

    Raises:
        InputError: The zoo has fewer teachers than `n_adapters`.
    """
    zoo = TeacherZoo.load(config.checkpoint_folder)
    teachers = zoo.select(seed=zoo.teachers[0].seed)[:n_adapters]
    if len(teachers) < n_adapters:
        raise InputError(f"zoo {zoo.folder} has {len(teachers)} teachers, fewer than the {n_adapters} to evaluate; ask for fewer")
    base = load_configured(replace(config.model, name=zoo.base.name, revision=zoo.base.revision))
    return {"n_adapters": n_adapters, "rows": [{"examples": n, **_measure(zoo, teachers, base, n, repeats)} for n in examples]}


@torch.no_grad()
def _measure(zoo: TeacherZoo, teachers: Sequence[Teacher], base: Base, examples: int, repeats: int) -> dict:
    """Median seconds of each way, run in turn."""
    pad = base.tokenizer.pad_token_id
    assert isinstance(pad, int)  # loading sees to it
    framing = zoo.framing(base)
    batches = [framing.batch(zoo.suite[t.task].test[:examples]).to(base.model.device) for t in teachers]
    paths = [zoo.folder / teacher.path for teacher in teachers]
    functional = FunctionalLoRA(base.model, zoo.factors(teachers[:1]).module_names)
    model = copy.deepcopy(base.model)
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "batched": lambda: [score.exact for score in score_each(functional, zoo.factors(teachers), batches, pad)],
        "peft_decode": lambda: _one_by_one(model, paths, batches, lambda adapted, batch: _decoded(adapted, batch, base)),
        "peft_forced": lambda: _one_by_one(model, paths, batches, lambda adapted, batch: _forced(adapted, batch)),
        "base": lambda: [score.exact for score in score_each(functional, None, batches, pad)],
    }
    exact = {name: torch.cat(run()) for name, run in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = now()
            run()
            seconds[name].append(now() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        **{f"{name}_s": value for name, value in median.items()},
        "speedup_over_peft_decode": median["peft_decode"] / median["batched"],
        "speedup_over_peft_forced": median["peft_forced"] / median["batched"],
        "times_the_floor": median["batched"] / median["base"],
        "exact_match": exact["batched"].double().mean().item(),
        "differing_answers": int((torch.stack([exact["peft_decode"], exact["peft_forced"]]) != exact["batched"]).sum()),
    }


def _one_by_one(
    model: torch.nn.Module, paths: Sequence[Path], batches: Sequence[TokenBatch], answer: Callable[[PeftModel, TokenBatch], Tensor]
) -> list[Tensor]:
    results = []
    for path, batch in zip(paths, batches, strict=True):
        adapted = PeftModel.from_pretrained(model, path)  # type: ignore[arg-type]
        results.append(answer(adapted, batch).cpu())
        adapted.unload()
    return results


def _forced(adapted: PeftModel, batch: TokenBatch) -> Tensor:
    logits = adapted(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    labels = batch.labels[:, 1:].to(logits.device)
    return ((logits[:, :-1].argmax(-1) == labels) | (labels == NO_LABEL)).all(1)


def _decoded(adapted: PeftModel, batch: TokenBatch, base: Base) -> Tensor:
    """Greedy decoding from the left-padded prompts, as many tokens as the longest answer has."""
    answers = [row[row != NO_LABEL] for row in batch.labels]
    prompts = [ids[: int(mask.sum()) - len(a)] for ids, mask, a in zip(batch.input_ids, batch.attention_mask, answers, strict=True)]
    padded = base.tokenizer.pad({"input_ids": [p.tolist() for p in prompts]}, padding_side="left", return_tensors="pt")
    padded = padded.to(base.model.device)
    longest = max(map(len, answers))
    out = adapted.generate(**padded, max_new_tokens=longest, do_sample=False, pad_token_id=base.tokenizer.pad_token_id)
    new = out[:, padded["input_ids"].shape[1] :]
    return torch.tensor([torch.equal(row[: len(answer)], answer) for row, answer in zip(new, answers, strict=True)])
