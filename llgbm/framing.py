"""How a base reads examples: the one place where a suite's inputs and answers become tokens.

A sequence is `[start] [demonstration, end]* prompt answer end`. A plain frame is a text with `{input}`, the answer follows
it directly; the frame `chat` is the tokenizer's chat template, demonstrations are earlier turns of it. What the tokenizer
puts before a text (BOS) stands once, at the start; of what it puts after a text nothing is kept.

The answer is spelled as the tokenizer spells it after this prompt, on top of the prompt's own tokens, since those are what
the base has read when it answers: a piece that would reach across both is never used.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from llgbm.config import ZooConfig
from llgbm.dataset import TokenBatch, answered, eos_id, pad_id
from llgbm.errors import InputError, first_line
from llgbm.zoo.base import Base
from llgbm.zoo.suite import ALPACA_FRAME, CHAT_FRAME, Example, Task, TaskSuite

ANCHOR = "\n"
"""A text before which nothing is merged: what follows it is spelled as in the middle of a text."""
NO_LIMIT = 1 << 24
"""What tokenizers without a limit state is larger than any context."""
ANSWER = "the answer"


def context_length(base: Base) -> int | None:
    """Most tokens the base reads: what its config says, else its tokenizer; None where neither does."""
    config = base.model.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None) or base.tokenizer.model_max_length
    return int(stated) if stated and stated < NO_LIMIT else None


class Framing:
    """From examples to tokens and back, for one tokenizer and one frame."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        frame: str = ALPACA_FRAME,
        system: str | None = None,
        *,
        ends: Collection[int] = (),
        end_token: str | None = None,
        max_length: int | None = None,
        cut_left: bool = False,
        remember: bool = True,
    ) -> None:
        """Args:
            tokenizer: Needs a padding token and an end token (or `end_token`).
            frame: A text with `{input}`, or `chat`.
            system: The chat's system prompt.
            ends: Tokens that end an answer besides the trained one and the tokenizer's end token.
            end_token: What is put after an answer instead of the tokenizer's end token (of a chat: the template's); one token.
            max_length: Longest sequence in tokens; None sets no limit.
            cut_left: Cut what is too long on the left (after BOS) instead of leaving it out.
            remember: Keep what examples were spelled as; not where ever new ones come, which would fill the memory.

        Raises:
            InputError: No end token, one of several tokens, no chat template, or one that fails or refuses the system prompt.
        """
        self.tokenizer, self.frame, self.system = tokenizer, frame, system
        self.max_length, self.cut_left = max_length, cut_left
        self.is_chat = frame == CHAT_FRAME
        self.start = self._start()
        self.end = self._end(end_token)
        own = tokenizer.eos_token_id
        self.ends: frozenset[int] = frozenset([self.end, *ends, *([own] if isinstance(own, int) else [])])
        self._known: dict[Example, tuple[list[int], list[int]]] | None = {} if remember else None

    @classmethod
    def of(cls, base: Base, suite: TaskSuite, zoo: ZooConfig | None = None, remember: bool = True) -> "Framing":
        """The framing of a base and a suite; `zoo` says how long examples may be and what ends an answer.

        Raises:
            InputError: `zoo.max_length` is beyond the base's context, or as in `Framing`.
        """
        zoo, context = zoo or ZooConfig(), context_length(base)
        if zoo.max_length and context and zoo.max_length > context:
            raise InputError(f"zoo.max_length is {zoo.max_length}, base {base.name} reads at most {context} tokens; lower it")
        generation: Any = base.model.generation_config
        stated = getattr(generation, "eos_token_id", None)
        ends = [stated] if isinstance(stated, int) else stated or []
        return cls(
            base.tokenizer,
            suite.frame,
            suite.system,
            ends=ends,
            end_token=zoo.end_token,
            max_length=zoo.max_length or context,
            cut_left=zoo.too_long == "cut_left",
            remember=remember,
        )

    @property
    def pad(self) -> int:
        """The padding token's id."""
        return pad_id(self.tokenizer)

    def batch(self, examples: Sequence[Example], demonstrations: Sequence[Sequence[Example]] | None = None) -> TokenBatch:
        """Frame each example, append its answer and the end token, pad on the right.

        Args:
            examples: N labeled examples.
            demonstrations: For each example, solved examples shown before it (few-shot), each ended by the end token; see `shown`.

        Raises:
            InputError: A sequence is longer than `max_length` and is not to be cut (see `fitting`), or an answer contains the end token.
        """
        shown = demonstrations or [()] * len(examples)
        return answered((self.ids(example, before) for example, before in zip(examples, shown, strict=True)), self.pad)

    def of_task(self, task: Task, part: Literal["train", "test"]) -> list[Example]:
        """A task's train or test examples that fit. InputError when none does."""
        examples = task.train if part == "train" else task.test
        kept = self.fitting(examples)
        if not kept:
            raise InputError(
                f"task {task.name}: none of its {len(examples)} {part} examples fits into {self.max_length} tokens; "
                "raise zoo.max_length (a base's context is the limit), set zoo.too_long to cut_left, or leave the task out"
            )
        return kept

    def fitting(self, examples: Iterable[Example]) -> list[Example]:
        """The examples that are short enough; with `cut_left` those whose answer and one token of the prompt are."""
        return [example for example in examples if self._fits(*self._whole(example))]

    def shown(self, example: Example, demonstrations: Sequence[Example]) -> Sequence[Example]:
        """As many of the demonstrations, the last ones, as fit before the example."""
        for start in range(len(demonstrations)):
            prompt, answer = self._spell(example, demonstrations[start:])
            if self.max_length is None or len(prompt) + len(answer) <= self.max_length:
                return demonstrations[start:]
        return ()

    def ids(self, example: Example, demonstrations: Sequence[Example] = ()) -> tuple[list[int], list[int]]:
        """What the base reads, and what it is to answer, with the end token; raises as in `batch`."""
        prompt, answer = self._spell(example, demonstrations) if demonstrations else self._whole(example)
        if self.end in answer[:-1]:
            end = self.tokenizer.decode([self.end])
            raise InputError(f"the answer {example.output[:40]!r} contains the end token {end!r}; choose another zoo.end_token")
        if self.max_length is None or len(prompt) + len(answer) <= self.max_length:
            return prompt, answer
        if not (self.cut_left and self._fits(prompt, answer)):
            raise InputError(
                f"example {example.input[:40]!r} takes {len(prompt) + len(answer)} tokens, more than {self.max_length}; "
                "leave it out, shorten it, or set zoo.max_length or zoo.too_long"
            )
        return self.cut(prompt, self.max_length - len(answer)), answer

    def prompt(self, input: str) -> list[int]:
        """What the base reads before it answers."""
        text = self._render(input) if self.is_chat else self._framed(input)
        return self._started(self._ids(text))

    def answer(self, example: Example) -> list[int]:
        """The tokens of an example's answer with the end, however long the prompt is that they are spelled after."""
        return self._whole(example)[1]

    def cut(self, prompt: list[int], length: int) -> list[int]:
        """The start (BOS) and the last tokens of a prompt."""
        if len(prompt) <= length:
            return prompt
        kept = length - len(self.start)
        return [*self.start, *prompt[len(prompt) - kept :]]

    def roomy_prompt(self, input: str) -> list[int]:
        """`prompt`, cut on the left where it would leave no room for an answer."""
        prompt = self.prompt(input)
        return prompt if self.max_length is None else self.cut(prompt, self.max_length - 1)

    def room(self, prompt: Sequence[int], wanted: int) -> int:
        """How many tokens may follow a prompt: as many as are wanted, or as the context has left."""
        return wanted if self.max_length is None else min(wanted, self.max_length - len(prompt))

    def text(self, answer: Sequence[int]) -> str:
        """What an answer's tokens say, up to the first end token."""
        ended = next((i for i, token in enumerate(answer) if token in self.ends), len(answer))
        text = self.tokenizer.decode(list(answer[:ended]))
        assert isinstance(text, str)
        return text

    def _whole(self, example: Example) -> tuple[list[int], list[int]]:
        if self._known is None:
            return self._spell(example, ())
        if example not in self._known:
            self._known[example] = self._spell(example, ())
        return self._known[example]

    def _spell(self, example: Example, demonstrations: Sequence[Example]) -> tuple[list[int], list[int]]:
        """Prompt and answer of whatever length."""
        if self.is_chat:
            text = self._render(example.input, demonstrations)
            prompt = self._ids(text)
            return prompt, [*self._answer(text, prompt, example.output), self.end]
        before: list[int] = []
        for one in demonstrations:
            before += [token for part in self._piece(one, first=not before) for token in part]
        prompt, answer = self._piece(example, first=not before)
        return before + prompt, answer

    def _piece(self, example: Example, first: bool) -> tuple[list[int], list[int]]:
        """One framed example, as the first in a sequence or after others."""
        text = self._framed(example.input)
        spelled = self._ids(text)
        answer = [*self._answer(text, spelled, example.output), self.end]
        return (self._started(spelled) if first else self._continued(text)), answer

    def _answer(self, text: str, prompt: list[int], answer: str) -> list[int]:
        """The answer's tokens after the prompt's."""
        together = self._ids(text + answer)
        if together[: len(prompt)] == prompt:
            return together[len(prompt) :]
        return self._continued(answer)

    def _continued(self, text: str) -> list[int]:
        """A text spelled as in the middle of another; as it stands where the tokenizer has no token for a new line."""
        anchor, together = self._ids(ANCHOR), self._ids(ANCHOR + text)
        return together[len(anchor) :] if anchor and together[: len(anchor)] == anchor else self._ids(text)

    def _fits(self, prompt: list[int], answer: list[int]) -> bool:
        needed = len(self.start) + 1 + len(answer) if self.cut_left else len(prompt) + len(answer)
        return self.max_length is None or needed <= self.max_length

    def _framed(self, input: str) -> str:
        return self.frame.replace("{input}", input)

    def _started(self, ids: list[int]) -> list[int]:
        return ids if ids[: len(self.start)] == self.start else [*self.start, *ids]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _start(self) -> list[int]:
        """What the tokenizer puts before a text; of a chat, the BOS that its template begins with."""
        if self.is_chat:
            first = self._ids(self._render("a"))[:1]
            return first if first == [self.tokenizer.bos_token_id] else []
        whole, bare = self.tokenizer("a").input_ids, self._ids("a")
        return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(bare)] == bare), [])

    def _end(self, end_token: str | None) -> int:
        """The token put after an answer."""
        if end_token is not None:
            ids = self._continued(end_token.replace("\\n", "\n"))
            if len(ids) != 1:
                raise InputError(f"zoo.end_token {end_token!r} takes {len(ids)} tokens of this tokenizer; give one that is a single token")
            return ids[0]
        if not self.is_chat:
            return eos_id(self.tokenizer)
        closing = self._ids(self._template([*self._messages("a"), {"role": "assistant", "content": ANSWER}], False).rpartition(ANSWER)[2])
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        return next((token for token in closing if token in special), None) or eos_id(self.tokenizer)

    def _messages(self, input: str, demonstrations: Sequence[Example] = ()) -> list[dict[str, str]]:
        turns = [{"role": "system", "content": self.system}] if self.system is not None else []
        for one in demonstrations:
            turns += [{"role": "user", "content": one.input}, {"role": "assistant", "content": one.output}]
        return [*turns, {"role": "user", "content": input}]

    def _render(self, input: str, demonstrations: Sequence[Example] = ()) -> str:
        return self._template(self._messages(input, demonstrations), True)

    def _template(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        name = self.tokenizer.name_or_path
        if not self.tokenizer.chat_template:
            raise InputError(f"the frame is chat, but the tokenizer {name} has no chat template; give suite.json a frame with {{input}}")
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:  # it is a program of its own
            remedy = (
                "mend it, or give suite.json a frame with {input}" if self.system is None else "leave out system in suite.json, or mend it"
            )
            raise InputError(f"the chat template of {name} refuses the suite's turns ({first_line(error)}); {remedy}") from error
        assert isinstance(text, str)
        return text
