"""Workers of one job on a Ray cluster: who has which item, who is lost, and what is done again.

An item belongs to at most one living worker. It is finished when its result has arrived here, and is never given out again; when its
worker dies before that, it goes first in the queue, and a new worker is asked for. Workers that have no place yet hold no items.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llgbm.errors import InputError, first_line
from llgbm.fanout.crew import Item, Job, Tick
from llgbm.fanout.hand import Hand, Hello, Outcome
from llgbm.fanout.shared import SharedFolder
from llgbm.tracking.environment import get_environment_info
from llgbm.tracking.validation import environment_differences

MOST_DEATHS = 3
"""An item, or the building of workers, ends the work when so many workers in turn died of it."""
LOOK_SECONDS = 5.0
"""How long to wait for a result before the cluster is looked at again."""
SAY_SECONDS = 60.0
"""How long nobody may work before that is said."""
logger = logging.getLogger(__name__)


@dataclass
class Task:
    """An item on its way."""

    name: str
    arguments: tuple[Any, ...]
    deaths: int = 0


@dataclass
class Member:
    """An actor; a `hello` says that it is ready."""

    actor: Any
    waits_for: Any
    """The reference to what it does now; None when it is idle."""
    task: Task | None = None
    hello: Hello | None = None


class RayCrew:
    """See `Crew`.

    Args:
        ray: The module, connected.
        job: What each worker is built from.
        seat: What each asks Ray for, with `options()` and `threads`.
        most: Tells how many workers there may be now.
        shared: The job's folder, marked.
    """

    def __init__(self, ray: Any, job: Job, seat: Any, most: Callable[[], int], shared: SharedFolder | None = None) -> None:
        self.ray, self.seat, self.most, self.shared = ray, seat, most, shared
        self.actor_class = ray.remote(Hand)
        self.job = ray.put(job)
        self.members: list[Member] = []
        self.hosts: dict[str, dict[str, Any]] = {}
        """Host -> environment of a worker there."""
        self.identity: str | None = None
        self.lost = self.failed_starts = 0
        self._warned: set[str] = set()
        self._last_work = time.monotonic()

    def ask(self, method: str, *arguments: Any) -> Any:
        """As `Crew.ask`."""
        return next(iter(dict(self.map(method, [(method, arguments)])).values()))

    def map(self, method: str, items: Iterable[Item], tick: Tick | None = None) -> Iterator[tuple[str, Any]]:
        """As `Crew.map`; `tick` is never called."""
        source, queue = iter(items), deque[Task]()
        while True:
            self._give_out(method, source, queue)
            if not queue and not any(member.task for member in self.members):
                return
            done = [found for member in self._wait() if (found := self._settle(member, queue)) is not None]
            self._give_out(method, source, queue)  # before whoever asked writes results, so that nobody is idle meanwhile
            yield from done

    def figures(self) -> dict[str, Any]:
        """As `Crew.figures`."""
        ready = [member for member in self.members if member.hello]
        busy = sum(member.task is not None for member in ready)
        return {"busy": f"{busy}/{len(ready)}", **({"lost": self.lost} if self.lost else {})}

    def record(self) -> dict[str, Any]:
        """As `Crew.record`."""
        here = get_environment_info()
        hosts = {host: environment_differences(here, there) for host, there in sorted(self.hosts.items())}
        return {"workers": {"engine": "ray", "lost": self.lost, "differences": hosts}}

    def dismiss(self) -> None:
        """End every worker."""
        while self.members:
            self._leave(self.members[0])

    def _give_out(self, method: str, source: Iterator[Item], queue: deque[Task]) -> None:
        """Read as many items as there are free seats (one at least, to know whether there is any), hand them to whoever is idle, and
        ask for workers for the rest."""
        most = self.most()
        free = max(1, most - sum(member.task is not None for member in self.members))
        queue.extend(Task(name, arguments) for name, arguments in islice(source, max(0, free - len(queue))))
        for member in self.members:
            if queue and member.hello and member.task is None:
                member.task = queue.popleft()
                member.waits_for = member.actor.do.remote(method, member.task.arguments)
        starting = sum(member.hello is None for member in self.members)
        for _ in range(min(len(queue) - starting, most - len(self.members))):
            self._hire()

    def _hire(self) -> None:
        actor = self.actor_class.options(**self.seat.options()).remote(self.seat.threads)
        self.members.append(Member(actor, actor.begin.remote(self.job, self.shared)))

    def _wait(self) -> list[Member]:
        """Members that have an answer, or are lost; perhaps none after a while."""
        waiting = {member.waits_for: member for member in self.members if member.waits_for is not None}
        if not waiting:  # every node is gone
            time.sleep(LOOK_SECONDS)
            return []
        ready, _ = self.ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not ready:
            ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=LOOK_SECONDS)
        self._say_if_nobody_works()
        return [waiting[reference] for reference in ready]

    def _settle(self, member: Member, queue: deque[Task]) -> tuple[str, Any] | None:
        """Take a member's answer: the name and result of an item, or None where it has begun to work or is lost."""
        try:
            outcome: Outcome = self.ray.get(member.waits_for)
        except self.ray.exceptions.RayTaskError as error:  # what was sent or is to be sent back cannot be read
            last = str(error).strip().splitlines()[-1]
            raise RuntimeError(f"a worker does not understand this process ({last}); install the same packages on every node") from error
        except self.ray.exceptions.RayError as error:
            self._bury(member, error, queue)
            return None
        member.waits_for, task, member.task = None, member.task, None
        for text in outcome.warnings:
            self._warn(text)
        if task is None:
            self._welcome(member, outcome)
            return None
        return task.name, outcome.unwrapped(task.name)

    def _welcome(self, member: Member, outcome: Outcome) -> None:
        """A worker is built, and like the others. InputError where it is not."""
        hello: Hello = outcome.unwrapped("its start")
        self.failed_starts, member.hello = 0, hello
        self.identity = self.identity or hello.identity
        if hello.identity != self.identity:
            raise InputError(
                f"the worker on {hello.host} reads other files than the first one (hash {hello.identity[:8]}, the first has "
                f"{self.identity[:8]}); give every node the same base, zoo and suite"
            )
        known = next(iter(self.hosts.values()), hello.environment)
        for difference in environment_differences(known, hello.environment):
            self._warn(f"workers differ in {difference}: bits depend on who does what")
        self.hosts.setdefault(hello.host, hello.environment)

    def _bury(self, member: Member, error: Exception, queue: deque[Task]) -> None:
        """Forget a lost worker; its item is the next to be done. RuntimeError when too many were lost to the same thing."""
        self._leave(member)
        self.lost += 1
        task, who = member.task, f"on {member.hello.host}, process {member.hello.pid}" if member.hello else "that was starting"
        if task is None and member.hello is None:
            self.failed_starts += 1
            deaths, what = self.failed_starts, "before they were ready"
        elif task is not None:
            task.deaths += 1
            deaths, what = task.deaths, f"at {task.name}"
            queue.appendleft(task)
        else:
            return
        reason = first_line(error)
        if deaths >= MOST_DEATHS:
            raise RuntimeError(f"{deaths} workers in turn died {what} ({reason}); give workers more memory, or look into Ray's logs")
        logger.warning("a worker %s died %s (%s); another goes on", who, what.replace("they were", "it was"), reason)

    def _leave(self, member: Member) -> None:
        self.members.remove(member)
        self.ray.kill(member.actor)

    def _warn(self, text: str) -> None:
        """Once, however many workers say it."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)

    def _say_if_nobody_works(self) -> None:
        now = time.monotonic()
        if any(member.hello for member in self.members):
            self._last_work = now
        elif now - self._last_work > SAY_SECONDS:
            self._last_work = now
            logger.warning("no worker is ready yet: each asks Ray for %s; 'ray status' says what the cluster has", self.seat)
