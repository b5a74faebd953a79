"""Every family of causal LMs against PEFT: `python scripts/sweep_families.py` tries all and writes docs/families.json and families.md.

A family agrees when adapters of random factors, written as PEFT folders and loaded by plain PEFT into a tiny random model,
give the logits and hidden states that functional LoRA gives for both at once: all linear modules together, and each half of
them; with padding on either side; in decoding. `--show` prints what is found and writes nothing; names of families limit it.
"""

import argparse
import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tiny_families import VOCABULARY, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from llgbm.errors import InputError
from llgbm.files import read_text, write_json, write_text
from llgbm.functional_lora import FunctionalLoRA, greedy_decode
from llgbm.functional_lora.families import COUNT_PADDING, ENCODERS
from llgbm.functional_lora.fused import Slot
from llgbm.lora.factors import LoRAFactors
from llgbm.lora.peft_io import target_shapes, write_adapter
from llgbm.lora.targets import suffixes

ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "docs" / "families.json", ROOT / "docs" / "families.md"
BEGIN, END = "<!-- families: written by scripts/sweep_families.py -->", "<!-- /families -->"
FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
TOLERANCE = 1e-3
"""Largest difference to PEFT, as a share of the adapters' own largest effect; a mistake is of the order of 1."""
ROUNDING = 1e-5
"""What float32 may add to that, as a share of the largest value."""
RANKS, ROWS, LENGTH, PADDING, NEW = (2, 4), 4, 9, 2, 3


@torch.no_grad()
def try_family(kind: str) -> dict[str, str]:
    """What is found of a family: `found` is agrees, refused or untried (or differs: a fault), `note` says more in a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = tiny_model(kind)
            model(input_ids=_tokens())
        except Exception as error:  # a family whose tiny config is wrong can fail in any way
            return {"found": "untried", "note": f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]}
        try:
            return _compare(kind, model)
        except InputError as error:
            return {"found": "refused", "note": str(error)}
        except Exception as error:  # a fault of ours to mend, or a family to refuse by name
            return {"found": "differs", "note": f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]}


def _compare(kind: str, model: PreTrainedModel) -> dict[str, str]:
    shapes = target_shapes(model, "all-linear")
    names = sorted({name.rpartition(".")[2] for name in shapes})
    halves = [{name: shape for name, shape in shapes.items() if names.index(name.rpartition(".")[2]) % 2 == half} for half in (0, 1)]
    faults = {fault: None for part in (shapes, *halves) if part for fault in _differences(kind, model, part)}
    if faults:
        return {"found": "differs", "note": "; ".join(faults)}
    return {"found": "agrees", "note": "; ".join(_notes(kind, model, shapes))}


def _differences(kind: str, model: PreTrainedModel, shapes: dict[str, tuple[int, int]]) -> Iterator[str]:
    """Where functional LoRA and PEFT differ, or the base does what a decoder does not."""
    factors, ids = random_factors(shapes), _tokens()
    everywhere = torch.ones_like(ids)
    functional = FunctionalLoRA(model, shapes)
    hidden, expected = _by_peft(model, factors, ids)
    plain = model(input_ids=ids).logits
    effect = float((expected - plain).abs().max())

    def differ(ours: Tensor | None, theirs: Tensor) -> bool:
        allowed = TOLERANCE * effect + ROUNDING * float(theirs.abs().max())
        return ours is None or not float((ours - theirs.view_as(ours)).abs().max()) <= allowed

    if effect <= 10 * ROUNDING * float(plain.abs().max()):
        yield "adapters hardly change logits"
    out = functional(factors, ids, everywhere, hidden_layers=tuple(hidden), logits_at=everywhere.bool())
    if differ(out.logits, expected):
        yield "logits differ"
    for layer, states in hidden.items():
        if differ(out.hidden[layer], states):
            yield f"hidden states of layer {layer} differ"
    column = torch.zeros_like(ids).bool()
    column[:, LENGTH // 2] = True
    if differ(functional(factors, ids, everywhere, logits_at=column).logits, expected[column]):
        yield "logits of few tokens differ"
    for side in ("right",) if kind in COUNT_PADDING else ("right", "left"):
        widths = (PADDING, 0) if side == "left" else (0, PADDING)
        padded, mask = nn.functional.pad(ids, widths), nn.functional.pad(everywhere, widths)
        if differ(functional(factors, padded, mask, logits_at=mask.bool()).logits, expected):
            yield f"padding on the {side} changes logits"
        if side == "right" and differ(functional(factors, padded, logits_at=mask.bool()).logits, expected):
            yield "padding on the right changes logits where no mask tells of it"
    later = torch.where(torch.arange(LENGTH) == LENGTH - 1, (ids + 1) % VOCABULARY, ids)
    if differ(model(input_ids=later).logits[:, :-1], plain[:, :-1]):
        yield "tokens see later ones"
    if not torch.equal(greedy_decode(functional, factors, ids, everywhere, NEW, {VOCABULARY}, 0), _decoded(functional, factors, ids)):
        yield "decoding with its cache differs from decoding without"


def _by_peft(model: PreTrainedModel, factors: LoRAFactors, ids: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """Hidden states of layers 0, 1 and -1, and logits, each adapter loaded by plain PEFT, one row after another."""
    outputs = []
    for k in range(factors.n_adapters):
        with tempfile.TemporaryDirectory() as folder:
            write_adapter(folder, factors, k, base_name="tiny", fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()))
            adapted = PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()
        outputs += [adapted(input_ids=row[None], output_hidden_states=True) for row in ids.chunk(factors.n_adapters)[k]]
    hidden = {layer: torch.cat([output.hidden_states[layer] for output in outputs]) for layer in (0, 1, -1)}
    return hidden, torch.cat([output.logits for output in outputs])


def _decoded(functional: FunctionalLoRA, factors: LoRAFactors, ids: Tensor) -> Tensor:
    """Greedy decoding without a cache."""
    for _ in range(NEW):
        last = nn.functional.pad(torch.ones(len(ids), 1, dtype=torch.bool), (ids.shape[1] - 1, 0))
        logits = functional(factors, ids, logits_at=last).logits
        assert logits is not None
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids[:, -NEW:]


def _notes(kind: str, model: PreTrainedModel, shapes: dict[str, tuple[int, int]]) -> Iterator[str]:
    """What a user of the family should know."""
    if kind in ENCODERS:
        yield "with is_decoder true"
    head = model.get_output_embeddings()
    linear = {name for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}
    if left_out := linear - shapes.keys():
        yield f"{len(left_out)} of {len(linear)} modules take no adapter (named {suffixes(left_out)})"
    if silent := _never_called(model, shapes):
        yield f"{silent} of {len(shapes)} targets are never called on text"
    ids = _tokens()
    if FunctionalLoRA(model, ())(None, ids, use_cache=True).past_key_values is None:
        yield "decoded without a cache"
    if kind in COUNT_PADDING:
        yield "decodes prompts of one length at a time"


def _never_called(model: PreTrainedModel, shapes: dict[str, tuple[int, int]]) -> int:
    """How many modules an adapter, ours or PEFT's, has no effect on."""
    functional = FunctionalLoRA(model, shapes)
    slots = {id(module): module for module in functional.model.modules() if isinstance(module, Slot)}
    for key, slot in list(slots.items()):
        slot.register_forward_hook(lambda *_, key=key: slots.pop(key, None) and None)
    functional(random_factors(shapes), _tokens())
    return len(slots)


def random_factors(shapes: dict[str, tuple[int, int]]) -> LoRAFactors:
    """Two adapters of different rank."""
    generator = torch.Generator().manual_seed(0)
    parts = [LoRAFactors.zeros(shapes, rank, 8) for rank in RANKS]
    return LoRAFactors.stack([part.map(lambda tensor: torch.randn(tensor.shape, generator=generator) * 0.1) for part in parts])


def _tokens() -> Tensor:
    return torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))


def section(table: dict[str, dict[str, str]]) -> str:
    """The lines between the markers."""
    by_found = {found: [kind for kind in sorted(table) if table[kind]["found"] == found] for found in ("agrees", "refused", "untried")}
    agrees = by_found.pop("agrees")
    counts = ", ".join(f"{len(kinds)} are {found}" for found, kinds in by_found.items())
    rows = [f"| {kind} | {table[kind]['note']} |" for kind in agrees if table[kind]["note"]]
    rows += [f"| {kind} | {found}: {table[kind]['note'].replace('|', ' ')} |" for found, kinds in by_found.items() for kind in kinds]
    return "\n".join(
        [
            f"{len(agrees)} of the {len(table)} families of causal LMs in transformers agree with PEFT, {counts}",
            "(tiny random models; `python scripts/sweep_families.py` tries all and writes this list).",
            "",
            f"Agree as they are: {', '.join(kind for kind in agrees if not table[kind]['note'])}.",
            "",
            "| family | agrees, and what to know; or why not |",
            "|---|---|",
            *rows,
        ]
    )


def with_section(page: str, table: dict[str, dict[str, str]]) -> str:
    """The page with its list of families made anew."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{section(table)}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Try families; write the table and the page's list, or only show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="model types; all by default")
    parser.add_argument("--show", action="store_true", help="write nothing")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    table: dict[str, Any] = {} if not TABLE.is_file() else json.loads(read_text(TABLE))
    for kind in args.families or FAMILIES:
        table[kind] = try_family(kind)
        print(f"{kind}: {table[kind]['found']} {table[kind]['note']}", flush=True)
    if not args.show:
        write_json(TABLE, {kind: table[kind] for kind in sorted(table) if kind in FAMILIES})
        write_text(PAGE, with_section(read_text(PAGE), table))


if __name__ == "__main__":
    main()
