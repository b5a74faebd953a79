"""A world small enough to train in: a random base, a suite of four tasks, and random teachers."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from llgbm.config import ExperimentConfig, GeneratorConfig, LoRAConfig, ModelConfig, ObjectiveConfig, TrainingConfig
from llgbm.files import read_json, write_json
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import adapter_hash, target_shapes, write_adapter
from llgbm.zoo.base import load_base
from llgbm.zoo.micro.tokenizer import build_tokenizer
from llgbm.zoo.micro.world import micro_suite
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.suites import load_suite

TARGETS = ["q_proj", "down_proj"]


def build_world(
    folder: Path, n_tasks: int = 6, b_scale: float = 0.3, n_unseen: int = 0, attributes: bool = True, width: int = 16
) -> ExperimentConfig:
    """Write base, suite and zoo below `folder`; the config that trains on them in a second.

    Asked for, there are teachers of unseen combinations and of a mixture beside those of seen tasks.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    shape = {"hidden_size": width, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape, **ends)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    whole = micro_suite(n_train=12, n_test=4)
    seen, unseen, mixed = (list(whole.select(split=split).tasks) for split in ("seen", "unseen_combination", "mixture"))
    suite = whole.select([*seen[:n_tasks], *unseen[:n_unseen], *(mixed[:1] if n_unseen else [])])
    without = {"parts": ()} if attributes else {"parts": (), "attributes": {}}  # its parts may be left out
    suite = TaskSuite(suite.name, {task.name: replace(task, **without) for task in suite}, suite.frame)
    suite.save(folder / "suite")
    _build_zoo(folder, suite, b_scale)
    return ExperimentConfig(
        model=ModelConfig(name=str(folder / "base")),
        lora=LoRAConfig(rank=2, alpha=4, target_modules=TARGETS),
        generator=GeneratorConfig(encoder="hashing"),
        objective=ObjectiveConfig(product=1.0, kl=1.0),
        training=TrainingConfig(
            batch_size=2,
            learning_rate=3e-3,
            total_steps=6,
            warmup_steps=1,
            lambda_warmup_steps=0,
            log_interval=1,
            save_interval=2,
            eval_interval=3,
            tasks_per_step=4,
            examples_per_task=2,
            train_examples=6,
            validation_fraction=0.2,
        ),
        experiment_name="run",
        output_dir=str(folder / "outputs"),
        checkpoint_folder=str(folder / "zoo"),
    )


def changed(config: ExperimentConfig, **values) -> ExperimentConfig:
    """The config with fields replaced; `training__total_steps=3` reaches into a section."""
    for key, value in values.items():
        section, _, name = key.partition("__")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value}) if name else value})
    return config


def retrain(folder: Path, task: str) -> None:
    """Put another adapter in the place of a task's teacher, as if it had been trained anew."""
    manifest = read_json(folder / "zoo" / "manifest.json")
    row = next(row for row in manifest["teachers"] if row["task"] == task)
    base = load_base(str(folder / "base"))
    factors = LoRAFactors.initialize(target_shapes(base.model, TARGETS), 2, 4.0, 1, torch.Generator().manual_seed(5))
    for b in factors.b.values():
        b.normal_(generator=torch.Generator().manual_seed(6))
    write_adapter(folder / "zoo" / row["path"], factors, base_name=base.name)
    row["hash"] = adapter_hash(folder / "zoo" / row["path"])
    write_json(folder / "zoo" / "manifest.json", manifest)


def suited_world(folder: Path) -> ExperimentConfig:
    """`build_world`, whose config names the suite, too."""
    config = build_world(folder)
    config.zoo.suite = str(folder / "suite")
    return config


def _build_zoo(folder: Path, suite: TaskSuite, b_scale: float) -> None:
    base = load_base(str(folder / "base"))
    shapes = target_shapes(base.model, TARGETS)
    teachers = []
    for i, task in enumerate(suite):
        generator = torch.Generator().manual_seed(i)
        factors = LoRAFactors.initialize(shapes, 2, 4.0, 1, torch.Generator().manual_seed(99))
        for b in factors.b.values():
            b.normal_(std=b_scale, generator=generator)
        path = f"{task.domain}/{task.name}/seed0"
        write_adapter(folder / "zoo" / path, factors, base_name=base.name)
        row = {"path": path, "task": task.name, "domain": task.domain, "split": task.split, "seed": 0, "steps": 1, "exact_match": 1.0}
        teachers.append({**row, "hash": adapter_hash(folder / "zoo" / path)})
    source = str(folder / "suite")
    header = {"base": asdict(base.identity), "suite": {"source": source, "hash": load_suite(source).content_hash}}
    lora = {"rank": 2, "alpha": 4.0, "target_modules": TARGETS}
    write_json(folder / "zoo" / "manifest.json", {**header, "lora": lora, "zoo": {}, "teachers": teachers})
