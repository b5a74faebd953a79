"""Train every task of a zoo as PEFT's users do, with transformers' Trainer, and set the test scores beside the zoo's teachers.

    python scripts/peft_trainer.py my_zoo [--output compared.json] [--tasks NAME ...]

Same examples, rank, alpha, targets, batch size, steps, peak learning rate and clipping as the zoo; the rest is Trainer's own: its
order of examples, its initial A, its linear decay. Adapters are scored as teachers are: exact match of greedy answers, as texts.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from llgbm.config import ZooConfig
from llgbm.dataset import padded
from llgbm.files import write_json
from llgbm.framing import Framing
from llgbm.lora.peft_io import read_adapter
from llgbm.matching import score_answers
from llgbm.workspace import Workspace, open_workspace
from llgbm.zoo.suite import Task


def train(opened: Workspace, framing: Framing, task: Task, zoo: ZooConfig, folder: Path) -> float:
    """Test exact match of one task's adapter."""
    lora = opened.zoo.manifest["lora"]
    model = get_peft_model(
        copy.deepcopy(opened.base.model),
        LoraConfig(r=lora["rank"], lora_alpha=round(lora["alpha"]), target_modules=lora["target_modules"], task_type="CAUSAL_LM"),
    )
    rows = [framing.ids(example) for example in framing.of_task(task, "train")]

    def collate(chosen: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        batch = padded([p + a for p, a in chosen], [[-100] * len(p) + a for p, a in chosen], framing.pad)
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=zoo.steps,
        per_device_train_batch_size=zoo.batch_size,
        learning_rate=zoo.learning_rate,
        max_grad_norm=zoo.max_grad_norm or 0.0,
        warmup_steps=round(0.05 * zoo.steps),
        weight_decay=0.0,
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=opened.base.model.device.type == "cpu",
    )
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
    model.save_pretrained(folder / "adapter")
    factors = read_adapter(folder / "adapter")
    return score_answers(opened.functional, factors, [framing.batch(framing.of_task(task, "test"))], framing)[0].exact_match


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", help="a zoo that is built")
    parser.add_argument("--output", help="where the figures go, as JSON")
    parser.add_argument("--tasks", nargs="+", default=[], help="only these tasks")
    arguments = parser.parse_args()
    opened = open_workspace(arguments.zoo)
    framing, rows = opened.zoo.framing(opened.base), []
    zoo = ZooConfig(**{k: v for k, v in opened.zoo.manifest["zoo"].items() if k in vars(ZooConfig())})
    for teacher in opened.zoo.teachers:
        if arguments.tasks and teacher.task not in arguments.tasks:
            continue
        with tempfile.TemporaryDirectory() as folder:
            exact = train(opened, framing, opened.zoo.suite[teacher.task], zoo, Path(folder))
        rows.append({"task": teacher.task, "peft_trainer": exact, "zoo": teacher.exact_match})
        print(json.dumps(rows[-1]), flush=True)
    if arguments.output:
        write_json(Path(arguments.output), rows)


if __name__ == "__main__":
    main()
