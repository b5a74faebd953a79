"""`llgbm bench memory-500m`: peak memory of every stage that runs a base, under a budget, on a random Qwen2 of 494M parameters.

Each stage is the command a user would give, in a process of its own, so its peak is that of the process, whatever it is made of: on
the CPU its resident memory (libraries, base and all), on a GPU what torch reserved there. The proportions are Qwen2-0.5B's, with its
vocabulary of 151,936.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from llgbm.config import ExperimentConfig
from llgbm.dataset import eos_id, pad_id
from llgbm.memory import GIB
from llgbm.zoo.base import load_base
from llgbm.zoo.suite import TaskSuite
from llgbm.zoo.suites import load_suite

BUDGET_GB = 6.0
"""GiB, where `--memory_gb` asks for no other."""
N_TASKS, N_TRAIN, N_TEST = 8, 16, 4
"""Tasks, and how many examples each has to train and to test on."""
LORA = ("--lora.rank=8", "--lora.target_modules=[q_proj, v_proj]")
STEPS = ("--training.total_steps=1", "--training.warmup_steps=0", "--training.eval_interval=1")
ROWS = ("--training.batch_size=64", "--training.tasks_per_step=8", "--training.examples_per_task=8", "--training.train_examples=16")
STAGES = {
    "teacher training": ["zoo", "build", *LORA, "--zoo.steps=1", "--zoo.check_interval=1", "--zoo.batch_size=16"],
    "training": ["train", *STEPS, *ROWS, "--training.validation_fraction=0"],
    "scoring": ["evaluate", "--methods", "base", "teacher", "generated", "--splits", "seen"],
}
"""Stage -> the command, but for folders, device and budget; later ones need what earlier ones left."""
CHILD = """
import json, resource, sys
from pathlib import Path
import torch
from llgbm.cli import main
status = main(sys.argv[2:])
peaks = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
host = 1024 * int(peaks[0]) if sys.platform == "linux" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
device = torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else 0
Path(sys.argv[1]).write_text(json.dumps({"host": host, "device": device}))
sys.exit(status)
"""


def bench_memory_500m(config: ExperimentConfig) -> dict:
    """Peak GiB of every stage, and the budget.

    Raises:
        RuntimeError: A stage failed; its last words are in the message.
    """
    budget = config.model.memory_gb or BUDGET_GB
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = save_base(folder / "base")
        few_examples(load_suite("micro")).save(folder / "suite")
        rows = []
        for stage, command in STAGES.items():
            peaks = run_stage([*command, *_places(stage, folder), f"--device={config.model.device}", f"--memory_gb={budget}"])
            rows.append({"stage": stage, "budget_gib": budget, **{f"{where}_peak_gib": peak / GIB for where, peak in peaks.items()}})
    return {"parameters": parameters, "device": config.model.device, "budget_gib": budget, "rows": rows}


def save_base(folder: Path) -> int:
    """Write random weights in Qwen2-0.5B's proportions beside the built-in tokenizer; how many parameters they are."""
    tokenizer = load_base("micro").tokenizer
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=pad_id(tokenizer),
        eos_token_id=eos_id(tokenizer),
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def few_examples(suite: TaskSuite) -> TaskSuite:
    """Evenly spaced seen tasks with few examples each."""
    kept = suite.select(split="seen").spaced(N_TASKS)
    cut = {task.name: replace(task, train=task.train[:N_TRAIN], test=task.test[:N_TEST]) for task in kept}
    return replace(kept, tasks=cut)


def run_stage(command: Sequence[str]) -> dict[str, int]:
    """Peak bytes of one command in a process of its own: in host memory and on the GPU.

    Args:
        command: What follows `llgbm`.

    Raises:
        RuntimeError: The command failed.
    """
    done, peaks = run_measured(command)
    if done.returncode:
        raise RuntimeError(f"llgbm {' '.join(command)} ended with status {done.returncode}: {done.stderr[-2000:].strip()}")
    return peaks


def run_measured(command: Sequence[str]) -> tuple[subprocess.CompletedProcess[str], dict[str, int]]:
    """How one command ended in a process of its own, and its peak bytes as `run_stage` gives them.

    Raises:
        RuntimeError: It ended before it could say its peaks.
    """
    home = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "peaks.json"
        child = f"import sys; sys.path.insert(0, {home!r})\n{CHILD}"
        done = subprocess.run([sys.executable, "-c", child, str(record), *command], capture_output=True, text=True)
        if not record.exists():
            raise RuntimeError(f"llgbm {' '.join(command)} ended with status {done.returncode}: {done.stderr[-2000:].strip()}")
        return done, json.loads(record.read_text())


def _places(stage: str, folder: Path) -> list[str]:
    """The flags that say where a stage reads and writes."""
    zoo, runs = folder / "zoo", folder / "runs"
    if stage == "scoring":
        return [f"--checkpoint={runs / 'small'}", f"--data_dir={zoo}"]
    there = [f"--model.name={folder / 'base'}", f"--checkpoint_folder={zoo}", f"--output_dir={runs}", "--experiment_name=small"]
    return [*there, f"--zoo.suite={folder / 'suite'}"] if stage == "teacher training" else there
