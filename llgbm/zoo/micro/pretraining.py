"""How MicroZoo's base is made: a small Qwen2 pretrained on few-shot demonstrations of every task.

Each document shows one task four times, framed as a user would frame it, and never names it. The loss covers the
answers only. The model therefore learns all skills and to infer from demonstrations which one is wanted; without a
demonstration it cannot know.
"""

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from llgbm.errors import InputError
from llgbm.files import write_bytes
from llgbm.optimizer_state import optimizer_tensors, restore_optimizer
from llgbm.zoo.micro.tokenizer import CONTEXT_LENGTH, EOS_ID, PAD_ID, build_tokenizer
from llgbm.zoo.micro.world import MicroTask, micro_tasks
from llgbm.zoo.suite import ALPACA_FRAME

UNFINISHED = "unfinished.safetensors"
"""Beside the base while it is being made."""
MODEL, OPTIMIZER = "model/", "optimizer/"
"""What its tensors' names begin with; all else is in its metadata."""


@dataclass
class PretrainConfig:
    """Every choice behind the shipped base."""

    seed: int = 0
    steps: int = 8000
    documents_per_step: int = 48
    demonstrations: int = 4
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    hidden_size: int = 128
    intermediate_size: int = 320
    num_layers: int = 5
    num_heads: int = 4
    num_key_value_heads: int = 2
    log_interval: int = 100
    hold_out: int = 0
    """Percent of the pairs of operation and style that are never shown: 0, 25 or 50, as in suites micro-wild-25 and micro-wild-50."""


def build_base(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A freshly initialized base of the configured shape."""
    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=CONTEXT_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
        )
    )


def document(task: MicroTask, rng: random.Random, tokenizer: PreTrainedTokenizerFast, count: int) -> tuple[list[int], list[int]]:
    """Token ids of `count` demonstrations of one task, and labels that are -100 outside the answers."""
    ids: list[int] = []
    labels: list[int] = []
    for _ in range(count):
        example = task.example(rng, test=False)
        prompt = tokenizer(ALPACA_FRAME.replace("{input}", example.input)).input_ids
        answer = [*tokenizer(example.output).input_ids, EOS_ID]
        ids += prompt + answer
        labels += [-100] * len(prompt) + answer
    return ids, labels


def practiced_tasks(hold_out: int) -> list[MicroTask]:
    """The tasks that pretraining shows: all, or with pairs held out those of none of them."""
    return [task for task in micro_tasks(hold_out) if not hold_out or task.split == "seen"]


def batches(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, rng: random.Random | None = None, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches (ids [D, T], labels [D, T]) from step `first` on; each holds documents of one domain, so little is padding."""
    rng = rng or random.Random(config.seed)
    by_domain: dict[str, list[MicroTask]] = {}
    for task in practiced_tasks(config.hold_out):
        by_domain.setdefault(task.domain.name, []).append(task)
    pools = list(by_domain.values())
    for step in range(first, config.steps):
        tasks = rng.choices(pools[step % len(pools)], k=config.documents_per_step)
        documents = [document(task, rng, tokenizer, config.demonstrations) for task in tasks]
        longest = max(len(ids) for ids, _ in documents)
        yield (
            torch.tensor([ids + [PAD_ID] * (longest - len(ids)) for ids, _ in documents]),
            torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in documents]),
        )


def pretrain(config: PretrainConfig, output_dir: str | Path, device: str = "cpu") -> None:
    """Pretrain the base and write it as a Hugging Face directory with its configuration and log beside it.

    Goes on from `unfinished.safetensors` where an earlier run with the same configuration was interrupted; the end removes it.

    Raises:
        InputError: What was interrupted there had another configuration.
    """
    run = _Pretraining(config, Path(output_dir), device)
    for step, (ids, labels) in enumerate(batches(config, run.tokenizer, run.rng, run.step), run.step + 1):
        run.take(step, ids.to(device), labels.to(device))
    run.finish()


class _Pretraining:
    """Model, optimizer and what has been done so far."""

    def __init__(self, config: PretrainConfig, output_dir: Path, device: str) -> None:
        self.config, self.output_dir, self.file = config, output_dir, output_dir / UNFINISHED
        self.tokenizer, self.rng = build_tokenizer(), random.Random(config.seed)
        self.model = build_base(config, self.tokenizer)
        torch.nn.Module.to(self.model, device)  # transformers' own is typed as a function of the class
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
        )
        self.step, self.seconds, self.log = 0, 0.0, []
        self.totals: dict[str, list[float]] = {}
        if self.file.is_file():
            self._restore(device)
        self.start = time.perf_counter() - self.seconds

    def take(self, step: int, ids: Tensor, labels: Tensor) -> None:
        """One update, logged and kept where it is due."""
        position = labels[:, 1:] != -100
        logits = self.model.lm_head(self.model.model(input_ids=ids).last_hidden_state[:, :-1][position])
        targets = labels[:, 1:][position]
        losses = F.cross_entropy(logits, targets, reduction="none")
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * _learning_rate_factor(step - 1, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        _tally(self.totals, step, labels, losses, logits.argmax(-1) == targets, self.config)
        if step % self.config.log_interval == 0:
            self._report(step)
            self._keep(step)

    def finish(self) -> None:
        """Write the base."""
        self.model.cpu().save_pretrained(self.output_dir)
        self.tokenizer.save_pretrained(self.output_dir)
        (self.output_dir / "pretraining.json").write_text(json.dumps({"config": asdict(self.config), "log": self.log}, indent=1) + "\n")
        self.file.unlink(missing_ok=True)

    def _report(self, step: int) -> None:
        row = {"step": step, "seconds": round(time.perf_counter() - self.start, 1)}
        row |= {name: round(sum(values) / len(values), 4) for name, values in self.totals.items()}
        self.totals.clear()
        self.log.append(row)
        print(json.dumps(row), flush=True)

    def _keep(self, step: int) -> None:
        """What going on needs; the tallies are empty now."""
        state = {"config": asdict(self.config), "step": step, "seconds": time.perf_counter() - self.start, "log": self.log}
        tensors = {f"{MODEL}{name}": tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        tensors |= {f"{OPTIMIZER}{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        write_bytes(self.file, save(tensors, metadata={"state": json.dumps({**state, "rng": self.rng.getstate()})}))

    def _restore(self, device: str) -> None:
        with safe_open(self.file, framework="pt", device=device) as stored:
            state, tensors = json.loads(stored.metadata()["state"]), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        if state["config"] != asdict(self.config):
            raise InputError(f"{self.file}: of a base with another configuration ({state['config']}); remove it, or choose another folder")
        self.model.load_state_dict({name.removeprefix(MODEL): t for name, t in tensors.items() if name.startswith(MODEL)})
        restore_optimizer(self.optimizer, {name.removeprefix(OPTIMIZER): t for name, t in tensors.items() if name.startswith(OPTIMIZER)})
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]


def _learning_rate_factor(step: int, config: PretrainConfig) -> float:
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _tally(totals: dict[str, list[float]], step: int, labels: Tensor, losses: Tensor, right: Tensor, config: PretrainConfig) -> None:
    """Add this step's loss and, for the last demonstration of each document, exact match, under the batch's domain."""
    domain = ("math", "code", "commonsense")[(step - 1) % 3]
    totals.setdefault("loss", []).append(losses.mean().item())
    is_right = torch.ones_like(labels, dtype=torch.bool)
    is_right[:, 1:][labels[:, 1:] != -100] = right
    is_answer = labels != -100
    starts = is_answer & ~F.pad(is_answer, (1, 0))[:, :-1]
    number = starts.cumsum(1) * is_answer
    for shown in (1, config.demonstrations):
        exact = (is_right | (number != shown)).all(1).float().mean().item()
        totals.setdefault(f"{domain}_after_{shown - 1}", []).append(exact)
