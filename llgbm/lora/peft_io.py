"""PEFT adapter directories in and out, without loss, and with a clear sentence for what LoRA factors cannot express."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import safetensors.torch
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from llgbm.checking import shown
from llgbm.errors import InputError, blame_memory, first_line
from llgbm.files import write_bytes, write_json
from llgbm.lora.adapter_config import CONFIG_FILE, read_config
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.patterns import fully_matches
from llgbm.lora.targets import linear_shape, maps_each_token, refused_by_peft, suffixes

T = TypeVar("T")
TENSOR_FILE = "adapter_model.safetensors"
PICKLED_TENSOR_FILE = "adapter_model.bin"
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
PREFIX = "base_model.model."
ALL_LINEAR = "all-linear"

FOREIGN_TENSORS = {
    "lora_embedding_": "an embedding target (lora_embedding_A, lora_embedding_B)",
    "lora_magnitude_vector": "DoRA",
    "lora_B.bias": "lora_bias",
    "modules_to_save": "modules_to_save",
    "trainable_tokens": "trainable_token_indices (trained rows of the embedding)",
}
"""Part of a tensor's name -> the feature that it belongs to."""


def read_adapter(path: str | Path, shapes: Mapping[str, tuple[int, int]] | None = None) -> LoRAFactors:
    """Read one PEFT LoRA adapter as float32 factors on the CPU.

    Args:
        path: Folder with `adapter_config.json` and `adapter_model.safetensors` (or `.bin`, read without unpickling code).
        shapes: Module name -> (d_in, d_out) of the base; when given, every module of the adapter must be among them.

    Returns:
        K = 1.

    Raises:
        InputError: A file is missing or broken, the adapter uses what LoRA factors cannot express, a tensor is missing,
            unknown, not finite, or of the wrong shape. The message names the folder and the tensor.
    """
    folder = Path(path)
    config = read_config(folder)
    factors, tensors = LoRAFactors({}, {}, {}, {}), _read_tensors(folder)
    for name, (a, b) in _paired(folder, tensors).items():
        try:
            rank, scaling = config.rank_and_scaling(name)
        except InputError as error:
            raise InputError(f"adapter {folder}: {CONFIG_FILE}: {error}") from error
        for kind, tensor in (("lora_A", a), ("lora_B", b)):
            _check_finite(folder, f"{PREFIX}{name}.{kind}.weight", tensor)
        _check_pair(folder, name, a, b, rank, shapes)
        factors.a[name], factors.b[name] = a.float()[None].contiguous(), b.float()[None].contiguous()
        factors.scaling[name] = torch.tensor([scaling])
        factors.ranks[name] = (rank,)
    return factors


def adapter_shapes(path: str | Path) -> dict[str, tuple[int, int]]:
    """Module name -> (d_in, d_out) of an adapter: by the head of its file, however large that is, where it is of safetensors.

    Raises:
        InputError: The head is broken, or a tensor is unknown or missing; what else may be wrong `read_adapter` says.
    """
    return {name: (a[-1], b[0]) for name, (a, b) in _paired(Path(path), _sizes(Path(path))).items() if a and b}


def adapter_numbers(path: str | Path) -> int:
    """How many numbers an adapter's tensors hold, found and refused as in `adapter_shapes`."""
    return sum(math.prod(size) for size in _sizes(Path(path)).values())


def read_adapters(paths: Sequence[str | Path], shapes: Mapping[str, tuple[int, int]] | None = None) -> LoRAFactors:
    """Read K adapters into one set of factors, in the given order; see `read_adapter`."""
    return LoRAFactors.stack([read_adapter(path, shapes) for path in paths])


def adapter_hash(path: str | Path) -> str:
    """SHA-256 of what an adapter does (A, B and scaling of every module); the order and wording of its config do not count."""
    return read_adapter(path).content_hash()


def write_adapter(
    path: str | Path,
    factors: LoRAFactors,
    index: int = 0,
    *,
    base_name: str,
    fan_in_fan_out: bool = False,
    extra_config: Mapping[str, Any] | None = None,
) -> None:
    """Write one adapter as an ordinary PEFT directory that plain PEFT loads to the same logits.

    The config is written last and, over an older adapter, removed first: a folder with a config is whole. Other files
    in the folder stay. The same factors give the same bytes.

    Args:
        path: Folder; made if needed.
        factors: K adapters.
        index: Which of them.
        base_name: `base_model_name_or_path` of the config.
        fan_in_fan_out: True for a base whose target modules are Conv1D (GPT-2).
        extra_config: Further config entries, which win: for example `target_modules` as short suffixes.

    Raises:
        InputError: A number is not finite, or the adapter touches no module.
    """
    folder = Path(path)
    parts = factors.adapter(index)
    if not parts:
        raise InputError(f"adapter {index} for {folder} touches no module; nothing to write")
    tensors = {}
    for name, (a, b, _) in sorted(parts.items()):
        for key, tensor in (("lora_A", a), ("lora_B", b)):
            tensor_name = f"{PREFIX}{name}.{key}.weight"
            _check_finite(folder, tensor_name, tensor)
            tensors[tensor_name] = tensor.detach().cpu().contiguous()
    config = _config(parts, base_name, fan_in_fan_out) | dict(extra_config or {})
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    write_bytes(folder / TENSOR_FILE, safetensors.torch.save(tensors, {"format": "pt"}))
    write_json(folder / CONFIG_FILE, dict(sorted(config.items())))


def target_shapes(model: PreTrainedModel, target_modules: str | Iterable[str]) -> dict[str, tuple[int, int]]:
    """Full name -> (d_in, d_out) of the modules that PEFT would adapt, in model order.

    Args:
        model: The base.
        target_modules: As in PEFT: module names or suffixes, a regular expression, or "all-linear": all linear modules but
            the output embedding and those whose adapter plain PEFT would not load.

    Raises:
        InputError: A regular expression is broken; nothing matches, or something that is not linear does, or that PEFT does
            not adapt there.
    """
    targets = target_modules if isinstance(target_modules, str) else sorted(set(target_modules))
    linear = {name: module for name, module in model.named_modules() if maps_each_token(module)}
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        head, refused = model.get_output_embeddings(), refused_by_peft(model, linear)
        return {name: linear_shape(module) for name, module in linear.items() if module is not head and name not in refused}
    config = LoraConfig(target_modules=targets)
    matched = [name for name, _ in model.named_modules() if name and _is_target(config, name)]
    if not matched:
        raise InputError(f"target_modules {targets!r} match nothing in this base; its linear modules are {suffixes(linear)}")
    for name in matched:
        if name not in linear:
            kind = type(model.get_submodule(name)).__name__
            raise InputError(f"target_modules {targets!r} match {name}, a {kind}; only linear modules take LoRA factors")
    for name, reason in (refused := refused_by_peft(model, matched)).items():
        usable = suffixes(linear.keys() - refused_by_peft(model, linear))
        raise InputError(f"target_modules {targets!r} match {name}, which {reason}; leave out {suffixes(refused)} (others are {usable})")
    return {name: linear_shape(linear[name]) for name in matched}


def _is_target(config: LoraConfig, name: str) -> bool:
    """PEFT's rule; a string is a regular expression for whole names."""
    targets = config.target_modules
    if not isinstance(targets, str):
        return bool(check_target_module_exists(config, name))
    try:
        return fully_matches(targets, name)
    except InputError as error:
        raise InputError(f"target_modules {shown(targets)} {error}; correct it, or give a list of names") from error


def find_adapters(folder: str | Path) -> list[Path]:
    """Adapter directories in or below a folder, linked ones too, sorted; incomplete ones too, so that reading them can say what is missing.

    Raises:
        InputError: There is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; give a folder that holds PEFT adapters")
    names = {CONFIG_FILE, TENSOR_FILE, PICKLED_TENSOR_FILE}
    return sorted(inside for inside, files in _walk(Path(folder), set()) if names & files)


def _walk(folder: Path, seen: set[Path]) -> Iterator[tuple[Path, set[str]]]:
    """Each folder below and the names in it; through links too, but through none to a folder that was already seen."""
    seen.add(folder.resolve())
    try:
        entries = sorted(folder.iterdir())
        folders = [entry for entry in entries if entry.is_dir()]
    except OSError:  # a folder that must not be read is passed over, as find and glob do
        return
    yield folder, {entry.name for entry in entries}
    for entry in folders:
        if not (entry.is_symlink() and entry.resolve() in seen):
            yield from _walk(entry, seen)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the adapter file, as stored."""
    file = folder / TENSOR_FILE
    try:
        if file.is_file():
            return safetensors.torch.load_file(file)
        file = folder / PICKLED_TENSOR_FILE
        if file.is_file():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch asks for reports of protocols it does not write itself
                return _dense(torch.load(file, map_location="cpu", weights_only=True))
    except (SafetensorError, RuntimeError, EOFError, ValueError, TypeError, OSError, UnpicklingError) as error:
        raise _broken(folder, file, error) from error
    raise InputError(f"adapter {folder}: {TENSOR_FILE} is missing; copy or train the adapter again")


def _dense(content: Any) -> dict[str, Tensor]:
    """What a pickled file holds. TypeError unless it is tensors by name that hold their numbers one by one."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise TypeError("it holds no tensors by name")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise TypeError(f"{name} is no dense tensor")
    return content


def _sizes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape."""
    file = folder / TENSOR_FILE
    if not file.is_file():
        return {name: tuple(tensor.shape) for name, tensor in _read_tensors(folder).items()}
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _broken(folder, file, error) from error


def _broken(folder: Path, file: Path, error: Exception) -> InputError:
    """What is to be said of a file that cannot be read; too little memory is no fault of the file's, and is raised."""
    blame_memory(error)
    return InputError(f"adapter {folder}: {file.name} is truncated or broken ({first_line(error)}); copy or train it again")


def _paired(folder: Path, tensors: Mapping[str, T]) -> dict[str, tuple[T, T]]:
    """Module name -> what there is of A and of B, sorted; every name must be that of an A or a B and have its other half."""
    halves: dict[str, dict[str, T]] = {}
    for name, tensor in tensors.items():
        module, _, kind = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if not name.startswith(PREFIX) or not name.endswith(".weight") or kind not in ("lora_A", "lora_B"):
            feature = next((label for part, label in FOREIGN_TENSORS.items() if part in name), _whole(name))
            raise InputError(f"adapter {folder}: tensor {name} belongs to {feature}, which LoRA factors cannot express; train it without")
        halves.setdefault(module, {})[kind] = tensor
    if not halves:
        raise InputError(f"adapter {folder}: holds no tensors; train the adapter again")
    for module, half in halves.items():
        for kind in {"lora_A", "lora_B"} - half.keys():
            raise InputError(f"adapter {folder}: tensor {PREFIX}{module}.{kind}.weight is missing, its partner is there; save it again")
    return {module: (half["lora_A"], half["lora_B"]) for module, half in sorted(halves.items())}


def _whole(name: str) -> str:
    """A tensor that is no part of LoRA: what PEFT saves of the base itself, of an adapted embedding or lm_head by default."""
    if ".lora_" in name or not name.endswith((".weight", ".bias")):
        return "a tensor beyond lora_A and lora_B"
    module = name.removeprefix(PREFIX).rpartition(".")[0].removesuffix(".base_layer")
    return f"a whole copy of the base's {module} (save with save_embedding_layers=False unless it was trained)"


def _check_finite(folder: Path, name: str, tensor: Tensor) -> None:
    """InputError for a type that is not read, or a number that float32 does not hold."""
    if tensor.dtype not in DTYPES:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise InputError(f"adapter {folder}: dtype mismatch: tensor {name} is {tensor.dtype}, expected one of {expected}; save it again so")
    finite = torch.isfinite(tensor.float())
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise InputError(f"adapter {folder}: tensor {name} has {count} values that are NaN or infinite, expected none; train it again")


def _check_pair(folder: Path, name: str, a: Tensor, b: Tensor, rank: int, shapes: Mapping[str, tuple[int, int]] | None) -> None:
    """A is [rank, d_in] and B [d_out, rank], and both fit the base if its shapes are known."""
    if shapes is not None and name not in shapes:
        raise InputError(
            f"adapter {folder}: module {name} is not among the base's target modules (linear ones but the output "
            "embedding, often lm_head); use an adapter of this base, trained without it"
        )
    d_in, d_out = shapes[name] if shapes is not None else (a.shape[-1] if a.ndim else 0, b.shape[0] if b.ndim else 0)
    for kind, tensor, expected in (("lora_A", a, (rank, d_in)), ("lora_B", b, (d_out, rank))):
        if tuple(tensor.shape) != expected:
            raise InputError(
                f"adapter {folder}: tensor {PREFIX}{name}.{kind}.weight is {tuple(tensor.shape)}, expected {expected} "
                f"(rank {rank} by {CONFIG_FILE}{'' if shapes is None else ', the rest by the base'}); "
                "train it for this base or correct the rank"
            )


def _config(parts: Mapping[str, tuple[Tensor, Tensor, float]], base_name: str, fan_in_fan_out: bool) -> dict[str, Any]:
    """PEFT's config: the commonest rank and alpha as defaults, the others by exact name in the patterns."""
    ranks = {name: a.shape[0] for name, (a, _, _) in sorted(parts.items())}
    alphas = {name: _alpha(parts[name][2], rank) for name, rank in ranks.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "alpha_pattern": {_exactly(name): value for name, value in alphas.items() if value != alpha},
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {_exactly(name): value for name, value in ranks.items() if value != rank},
        "target_modules": list(ranks),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _alpha(scaling: float, rank: int) -> int | float:
    """scaling * rank; a whole number where float32 rounding of the scaling is all that keeps it from one."""
    alpha = scaling * rank
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-6) else alpha


def _exactly(name: str) -> str:
    """A pattern that PEFT (`(.*\\.)?(pattern)$`) matches with this full name only."""
    return "^" + name.replace(".", r"\.")
