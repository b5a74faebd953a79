"""One thread that answers whoever waits, many requests and adapters in one batch."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA, greedy_decode
from llgbm.functional_lora.decoding import padded_left
from llgbm.functional_lora.families import COUNT_PADDING
from llgbm.functional_lora.measure import rows_at_once
from llgbm.lora.factors import LoRAFactors
from llgbm.serve.shelf import Shelf


class BusyError(Exception):
    """So many requests wait already that one more would wait too long."""


@dataclass(frozen=True)
class Answer:
    """What a request gets."""

    text: str
    prompt_tokens: int
    new_tokens: int
    """The end token included."""
    ended: bool
    """Whether the model came to an end by itself."""


@dataclass(frozen=True)
class Job:
    """A request that waits."""

    sentence: str | None
    """Names the adapter; None asks the base."""
    prompt: list[int]
    max_tokens: int
    answer: "Future[Answer]" = field(default_factory=Future)


class Engine:
    """Answers jobs greedily, in the order they come.

    Args:
        functional: The wrapped base; only this engine may use it while it runs.
        framing: What ends an answer, and how tokens become text.
        shelf: The adapters.
        batch: Most requests in one batch.
        waiting: Most requests that wait.
    """

    def __init__(self, functional: FunctionalLoRA, framing: Framing, shelf: Shelf, batch: int, waiting: int) -> None:
        self.functional, self.framing, self.shelf, self.batch = functional, framing, shelf, batch
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._held: list[Job] = []
        """Taken from the queue, and not yet answered."""
        self._none = LoRAFactors.zeros(functional.shapes, 1, 1.0)
        self._thread = threading.Thread(target=self._work, name="llgbm-serve", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait, about."""
        return self._jobs.qsize() + len(self._held)

    def submit(self, job: Job) -> "Future[Answer]":
        """Let a job wait for its turn. BusyError when too many wait."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full as error:
            raise BusyError(f"{self._jobs.maxsize} requests wait already; try again later") from error
        return job.answer

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        going = True
        while going or self._held:
            going = self._fill(going)
            jobs = self._next_batch()
            if jobs:
                self._answer(jobs)

    def _fill(self, going: bool) -> bool:
        """Take what waits, and wait where nothing does; whether more may come."""
        while going and len(self._held) < self.batch:
            try:
                job = self._jobs.get(block=not self._held)
            except queue.Empty:
                break
            if job is None:
                return False
            self._held.append(job)
        return going

    def _next_batch(self) -> list[Job]:
        """The first jobs; where the base counts padding as tokens, those with prompts as long as the first one's."""
        counts = self.functional.model.config.model_type in COUNT_PADDING
        jobs = [job for job in self._held if not counts or len(job.prompt) == len(self._held[0].prompt)][: self.batch]
        taken = {id(job) for job in jobs}
        self._held = [job for job in self._held if id(job) not in taken]
        return [job for job in jobs if job.answer.set_running_or_notify_cancel()]

    def _answer(self, jobs: Sequence[Job]) -> None:
        try:
            answers = self._decode(jobs)
        except Exception as error:  # the thread has to outlive whatever one batch holds; who asked gets the reason
            for job in jobs:
                job.answer.set_exception(error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)

    def _decode(self, jobs: Sequence[Job]) -> list[Answer]:
        """Answers of a batch, as many together as memory takes."""
        longest = max(len(job.prompt) + job.max_tokens for job in jobs)
        rows = rows_at_once(self.functional, "decoding", longest, len(jobs), answers=1)
        parts = self.functional.memory.run("decoding", len(jobs), 1, rows, lambda part, _: self._decode_part([jobs[i] for i in part]))
        return [answer for part in parts for answer in part]

    def _decode_part(self, jobs: Sequence[Job]) -> list[Answer]:
        known = self.shelf.take([job.sentence for job in jobs if job.sentence is not None])
        factors = LoRAFactors.stack([self._none if job.sentence is None else known[job.sentence] for job in jobs])
        device, framing = self.functional.device, self.framing
        ids, mask = (part.to(device) for part in padded_left([job.prompt for job in jobs], framing.pad))
        new = greedy_decode(
            self.functional,
            factors.to(device=device),
            ids,
            mask,
            max(job.max_tokens for job in jobs),
            framing.ends,
            framing.pad,
            framing.max_length,
            hopeless=lambda row, tokens: len(tokens) >= jobs[row].max_tokens,
        )
        return [self._read(job, row) for job, row in zip(jobs, new.tolist(), strict=True)]

    def _read(self, job: Job, row: list[int]) -> Answer:
        row = row[: job.max_tokens]
        ended = next((place for place, token in enumerate(row) if token in self.framing.ends), None)
        own = row if ended is None else row[: ended + 1]
        return Answer(self.framing.text(own).strip(), len(job.prompt), len(own), ended is not None)
