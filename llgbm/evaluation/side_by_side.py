"""Base and adapters side by side on texts a person types: plain transformers and PEFT, piece by piece.

Adapters are loaded as anyone would load them, so what is seen here is what they do outside this package.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TextStreamer

from llgbm.errors import InputError
from llgbm.framing import CHAT_FRAME, Framing, context_length
from llgbm.zoo.base import Base
from llgbm.zoo.suite import ALPACA_FRAME, Example

BASE = "base"
"""The voice without any adapter."""
FRAMES = {"chat": CHAT_FRAME, "alpaca": ALPACA_FRAME, "none": "{input}"}
"""How a text is put to the base: by its chat template, in the Alpaca layout, or as it is."""
AUTO = "auto"
"""Chat where the base has a template, else Alpaca."""


class SideBySide:
    """One base and any number of adapters, asked the same.

    Args:
        base: Taken over: PEFT puts the adapters into its model.
        adapters: Name of a voice -> PEFT folder; at least one.
        frame: A name of `FRAMES`, or auto.
        max_new_tokens: Longest answer.

    Raises:
        InputError: No adapter, an unknown frame, `chat` without a chat template, or an adapter that PEFT cannot put on this base.
    """

    def __init__(self, base: Base, adapters: Mapping[str, str | Path], frame: str = AUTO, max_new_tokens: int = 64) -> None:
        if not adapters or BASE in adapters:
            raise InputError(f"adapters are {', '.join(adapters) or 'none'}; give at least one, none of them named {BASE}")
        self.base, self.max_new_tokens, self.frame = base, max_new_tokens, chosen_frame(base, frame)
        self._framing = Framing(base.tokenizer, FRAMES[self.frame], max_length=context_length(base), cut_left=True)
        self.voices = (BASE, *adapters)
        self._model: Any = None
        for name, folder in adapters.items():
            self._load(name, folder)

    def answer(self, voice: str, text: str, said: Sequence[Example] = (), on_text: Callable[[str], None] | None = None) -> str:
        """The voice's greedy answer.

        Args:
            voice: One of `voices`.
            text: What is asked.
            said: What was asked and answered before; only a chat reads it.
            on_text: Called with each piece of the answer as it comes.
        """
        pieces: list[str] = []

        def take(piece: str) -> None:
            pieces.append(piece)
            if on_text and piece:
                on_text(piece)

        prompt, _ = self._framing.ids(Example(text, ""), said if self.frame == "chat" else ())
        ids = torch.tensor([prompt], device=self.base.model.device)
        if voice != BASE:
            self._model.set_adapter(voice)
        with self._model.disable_adapter() if voice == BASE else nullcontext(), torch.no_grad():
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                pad_token_id=self._framing.pad,
                eos_token_id=sorted(self._framing.ends),
                streamer=_Pieces(self.base.tokenizer, take),
            )
        return "".join(pieces).strip()

    def _load(self, name: str, folder: str | Path) -> None:
        try:
            if self._model is None:
                self._model = PeftModel.from_pretrained(self.base.model, str(folder), adapter_name=name).eval()
            else:
                self._model.load_adapter(str(folder), adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{folder}: PEFT cannot put this adapter on base {self.base.name} ({reason}); give a PEFT folder of it"
            ) from error


class _Pieces(TextStreamer):
    """Hands on the text of new tokens as soon as it is certain."""

    def __init__(self, tokenizer: Any, take: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._take = take

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._take(text)


def chosen_frame(base: Base, frame: str) -> str:
    """The name of a frame that suits a base. InputError for an unknown one, and for `chat` without a chat template."""
    if frame not in (AUTO, *FRAMES):
        raise InputError(f"frame {frame!r} is unknown; choose one of {AUTO}, {', '.join(FRAMES)}")
    if frame == "chat" and not base.tokenizer.chat_template:
        raise InputError(f"base {base.name} has no chat template; use --frame alpaca or none, and texts instead of a chat")
    return ("chat" if base.tokenizer.chat_template else "alpaca") if frame == AUTO else frame
