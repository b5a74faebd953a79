"""The backend that is always there: this package's batch of adapters, in this process."""

from collections.abc import Iterable, Sequence

from llgbm.framing import Framing
from llgbm.functional_lora import FunctionalLoRA, greedy_decode
from llgbm.functional_lora.decoding import padded_left
from llgbm.functional_lora.families import COUNT_PADDING
from llgbm.functional_lora.measure import rows_at_once
from llgbm.lora.factors import LoRAFactors
from llgbm.serve.engine import Answer, Job
from llgbm.serve.shelf import Shelf


class Batches:
    """Answers the jobs it has batch by batch, each with an adapter of its own.

    Args:
        functional: The wrapped base; nobody else may use it meanwhile.
        framing: What ends an answer, and how tokens become text.
        shelf: The adapters, as factors in this process.
        most: Most requests in one batch.
    """

    def __init__(self, functional: FunctionalLoRA, framing: Framing, shelf: Shelf[LoRAFactors], most: int) -> None:
        self.functional, self.framing, self.shelf, self.most = functional, framing, shelf, most
        self.fault: str | None = None
        self._held: list[Job] = []
        self._none = LoRAFactors.zeros(functional.shapes, 1, 1.0)

    def __len__(self) -> int:
        return len(self._held)

    def take(self, job: Job) -> None:
        self._held.append(job)

    def step(self) -> Iterable[tuple[Job, Answer | Exception]]:
        """One batch, from prompts to answers."""
        jobs = self._next_batch()
        if not jobs:
            return []
        try:
            return zip(jobs, self._decode(jobs), strict=True)
        except Exception as error:  # the engine has to outlive whatever one batch holds; who asked gets the reason
            return [(job, error) for job in jobs]

    def close(self) -> None:
        """Nothing is held outside this process."""

    def _next_batch(self) -> list[Job]:
        """The first jobs; where the base counts padding as tokens, those with prompts as long as the first one's."""
        counts = self.functional.model.config.model_type in COUNT_PADDING
        jobs = [job for job in self._held if not counts or len(job.prompt) == len(self._held[0].prompt)][: self.most]
        self._held = [job for job in self._held if job not in jobs]
        return [job for job in jobs if not job.answer.cancelled()]

    def _decode(self, jobs: Sequence[Job]) -> list[Answer]:
        """Answers of a batch, as many together as memory takes."""
        longest = max(len(job.prompt) + job.max_tokens for job in jobs)
        rows = rows_at_once(self.functional, "decoding", longest, len(jobs), answers=1)
        parts = self.functional.memory.run("decoding", len(jobs), 1, rows, lambda part, _: self._decode_part([jobs[i] for i in part]))
        return [answer for part in parts for answer in part]

    def _decode_part(self, jobs: Sequence[Job]) -> list[Answer]:
        known = self.shelf.take(job.sentence for job in jobs if job.sentence is not None)
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
        rows = zip(jobs, new.tolist(), strict=True)
        return [Answer.read(framing, job.prompt, row[: framing.room(job.prompt, job.max_tokens)]) for job, row in rows]
