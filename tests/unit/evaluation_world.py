"""A zoo whose answers are known: task `say x` answers the letter x, and its teacher has really learned that."""

import random
from pathlib import Path

import torch

from llgbm.config import ExperimentConfig, LoRAConfig, ModelConfig, ZooConfig
from llgbm.lora.factors import LoRAFactors
from llgbm.models.encoder import HashingEncoder
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.zoo.base import load_base
from llgbm.zoo.build import build_zoo
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.micro.pretraining import PretrainConfig, build_base
from llgbm.zoo.micro.tokenizer import build_tokenizer
from llgbm.zoo.suite import Example, Task, TaskSuite

SPLIT_OF = {"a": "seen", "b": "seen", "c": "seen", "d": "seen", "e": "unseen_combination", "f": "unseen_combination", "g": "mixture"}


def build_evaluation_world(folder: Path) -> Path:
    """Write base, suite and zoo below `folder`; the zoo's folder."""
    config = PretrainConfig(hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4)
    tokenizer = build_tokenizer()
    build_base(config, tokenizer).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    TaskSuite("letters", {f"say {x}": _task(x, 3 + i % 3) for i, x in enumerate(SPLIT_OF)}).save(folder / "suite")
    build_zoo(
        ExperimentConfig(
            model=ModelConfig(name=str(folder / "base")),
            lora=LoRAConfig(rank=2, alpha=4, target_modules=["q_proj", "o_proj", "down_proj"]),
            zoo=ZooConfig(suite=str(folder / "suite"), steps=60, batch_size=4, learning_rate=3e-2, check_interval=10),
            checkpoint_folder=str(folder / "zoo"),
        )
    )
    return folder / "zoo"


def _task(letter: str, n_test: int) -> Task:
    rng = random.Random(letter)

    def examples(count: int) -> tuple[Example, ...]:
        return tuple(Example("".join(rng.choices("klmnop", k=rng.randint(2, 6))), letter) for _ in range(count))

    return Task(
        name=f"say {letter}",
        domain="letters",
        split=SPLIT_OF[letter],
        description=f"Always say {letter}.",
        paraphrases=(f"Answer {letter}, whatever is asked.",),
        unseen_paraphrases=(f"{letter.upper()} is all I want to hear.",),
        prompts=tuple(f"say {letter} to {e.input}" for e in examples(6)),
        unseen_prompts=(f"{letter.upper()} please",),
        train=examples(20),
        test=examples(n_test),
    )


class PerfectGenerator(LoRAGenerator):
    """Finds the letter in a condition and hands out that task's teacher: what an ideal generator would write."""

    def __init__(self, zoo: TeacherZoo, condition: str = "description") -> None:
        teachers = {t.task[-1]: t for t in zoo.teachers}
        self.teachers = {letter: zoo.factors([t]) for letter, t in teachers.items()}
        encoder = HashingEncoder()
        base, first = load_base(zoo.manifest["base"]["name"]), self.teachers["a"]
        spec = GeneratorSpec(first.shapes, 2, 4.0, encoder.dim, condition=condition, base=base.identity)
        spec.trained_on = ["say a", "say b", "say c"]
        spec.encoder_id = encoder.content_id
        torch.manual_seed(0)
        super().__init__(spec, encoder)
        self.asked: list[str] = []

    def generate(self, prompts=None, description=None, base=None) -> LoRAFactors:
        texts = [shown[0] for shown in prompts] if description is None else list(description)
        self.asked += texts
        return LoRAFactors.stack([self.teachers[_letter(text)] for text in texts])


def _letter(text: str) -> str:
    words = text.lower().replace(".", " ").replace(",", " ").split()
    return next(word for word in words if len(word) == 1)
