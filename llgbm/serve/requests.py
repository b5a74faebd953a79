"""What clients send, in OpenAI's forms, checked: a fault is one sentence with the status that goes with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic.dataclasses import dataclass as record

from llgbm.checking import RECORD, Flag, Integer, List, Number, Text, read_as
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.serve.engine import Job
from llgbm.zoo.suite import Example

BASE = "base"
TASK = "task:"
"""What the name of a model begins with that is a sentence: `task: Reverse the string.`"""


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP's.
        message: For the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may ask for."""

    adapters: int = 256
    """Adapters kept in memory."""
    waiting: int = 1024
    """Requests that wait."""
    resting: int = 256
    """Connections beyond those of requests that wait or are answered."""
    batch: int = 32
    """Requests answered together."""
    body_bytes: int = 1 << 18
    """Size of a request."""
    sentence_characters: int = 2000
    """Length of a sentence that names a task."""
    new_tokens: int = 256
    """Longest answer."""
    seconds: float = 60.0
    """A request that was not answered until then is given up."""

    @property
    def connections(self) -> int:
        """Connections that are open at a time."""
        return self.waiting + self.batch + self.resting


@record(frozen=True, config=RECORD)
class Message:
    """A turn of a chat."""

    role: str
    content: Text


@record(frozen=True, config=RECORD)
class Completion:
    """A request for a text to be continued."""

    model: Text
    prompt: Text
    max_tokens: Integer | None = None
    temperature: Number = 0.0
    stream: Flag = False


@record(frozen=True, config=RECORD)
class Chat:
    """A request for the next turn of a chat."""

    model: Text
    messages: List[Message]
    max_tokens: Integer | None = None
    max_completion_tokens: Integer | None = None
    temperature: Number = 0.0
    stream: Flag = False


class Reader:
    """From requests to jobs.

    Args:
        framing: How chats become tokens.
        bare: How texts that are only continued do.
        limits: What is refused.
    """

    def __init__(self, framing: Framing, bare: Framing, limits: Limits) -> None:
        self.framing, self.bare, self.limits = framing, bare, limits

    def chat(self, values: Any) -> tuple[Chat, Job]:
        """A chat's turns; earlier ones are demonstrations. RefusedError when something is wrong with them."""
        asked = _read(Chat, values)
        *said, (role, last) = [(message.role, message.content) for message in asked.messages] or [("nobody", "")]
        pairs = list(zip(said[::2], said[1::2], strict=False))
        if role != "user" or len(said) % 2 or any((one[0], other[0]) != ("user", "assistant") for one, other in pairs):
            raise RefusedError(400, "messages have to be turns of user and assistant, the last one of user; the task is said by model")
        shown = [Example(question, answer) for (_, question), (_, answer) in pairs]
        tokens = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        return asked, self._job(asked.model, self._ids(Example(last, ""), shown), tokens)

    def completion(self, values: Any) -> tuple[Completion, Job]:
        """A text to be continued. RefusedError when something is wrong with it."""
        asked = _read(Completion, values)
        return asked, self._job(asked.model, self.bare.prompt(asked.prompt), asked.max_tokens)

    def sentence(self, model: str) -> str | None:
        """What a model's name asks for; None is the base. RefusedError when it is no name of one."""
        if model == BASE:
            return None
        if not model.startswith(TASK):
            raise RefusedError(404, f"no model {model[:80]!r}; give {BASE}, or {TASK} and a sentence that describes the task")
        sentence = " ".join(model.removeprefix(TASK).split())
        if not sentence:
            raise RefusedError(400, f"{TASK} is followed by no sentence; describe the task")
        if len(sentence) > self.limits.sentence_characters:
            raise RefusedError(400, f"the sentence has {len(sentence)} characters, at most {self.limits.sentence_characters} are read")
        return sentence

    def _ids(self, example: Example, shown: Sequence[Example]) -> list[int]:
        try:
            return self.framing.ids(example, shown)[0]
        except InputError as error:
            raise RefusedError(400, str(error)) from error

    def _job(self, model: str, prompt: list[int], asked_tokens: int | None) -> Job:
        tokens = self.limits.new_tokens if asked_tokens is None else asked_tokens
        if not 1 <= tokens <= self.limits.new_tokens:
            raise RefusedError(400, f"max_tokens is {tokens}; give 1 to {self.limits.new_tokens}")
        context = self.framing.max_length
        if not prompt or (context and len(prompt) >= context):
            raise RefusedError(
                400, f"the prompt takes {len(prompt)} tokens; 1 to {(context or 1) - 1} can be read" if prompt else "the prompt is empty"
            )
        return Job(self.sentence(model), prompt, tokens)


def _read(kind: Any, values: Any) -> Any:
    try:
        found = read_as(kind, values, "request")
    except InputError as error:
        raise RefusedError(400, str(error)) from error
    if found.temperature:
        raise RefusedError(400, f"temperature is {found.temperature:g}; answers are the most likely ones, give 0")
    return found
