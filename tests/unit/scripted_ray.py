"""A cluster in this process, as much of Ray as a crew calls: actors answer when they are waited for, and die where a script says so."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any


class RayError(Exception):
    """Ray's own."""


class RayTaskError(RayError):
    """A call that could not be made."""


class exceptions:
    RayError, RayTaskError = RayError, RayTaskError


class ScriptedRay:
    """Stands for the module.

    Args:
        room: How many actors get a place; others answer nothing.
        dies: Told an actor's number, method and arguments; true kills it there.
        order: Picks which of the waiting references answers next; the first by default.
    """

    exceptions = exceptions

    def __init__(
        self,
        room: int = 2,
        dies: Callable[[int, str, tuple[Any, ...]], bool] = lambda *_: False,
        order: Callable[[Sequence[Any]], Any] = lambda waiting: waiting[0],
    ) -> None:
        self.room, self.dies, self.order = room, dies, order
        self.numbers = itertools.count()
        self.actors: list[_Actor] = []
        """Alive."""
        self.done: list[tuple[int, str, tuple[Any, ...]]] = []
        """Calls that were answered: actor, method, arguments."""

    def remote(self, kind: type) -> "_ActorClass":
        return _ActorClass(self, kind)

    def put(self, value: Any) -> Any:
        return value

    def wait(self, waiting: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        able = [reference for reference in waiting if reference.actor in self.actors[: self.room] or reference.dead]
        chosen = [self.order(able)] if able and timeout else []
        return chosen, [reference for reference in waiting if reference not in chosen]

    def get(self, reference: Any) -> Any:
        return reference.answer()

    def kill(self, actor: "_Actor") -> None:
        if actor in self.actors:
            self.actors.remove(actor)


class _ActorClass:
    def __init__(self, ray: ScriptedRay, kind: type) -> None:
        self.ray, self.kind = ray, kind

    def options(self, **options: Any) -> "_ActorClass":
        return self

    def remote(self, *arguments: Any) -> "_Actor":
        return _Actor(self.ray, self.kind(*arguments))


class _Actor:
    def __init__(self, ray: ScriptedRay, held: Any) -> None:
        self.ray, self.held, self.number = ray, held, next(ray.numbers)
        ray.actors.append(self)

    def __getattr__(self, name: str) -> Any:
        return _Method(self, name)


class _Method:
    def __init__(self, actor: _Actor, name: str) -> None:
        self.actor, self.name = actor, name

    def remote(self, *arguments: Any) -> "_Reference":
        return _Reference(self.actor, self.name, arguments)


class _Reference:
    def __init__(self, actor: _Actor, name: str, arguments: tuple[Any, ...]) -> None:
        self.actor, self.name, self.arguments = actor, name, arguments

    @property
    def dead(self) -> bool:
        return self.actor not in self.actor.ray.actors

    def answer(self) -> Any:
        ray, method, arguments = self.actor.ray, self.name, self.arguments
        if method == "do":
            method, arguments = self.arguments
        if self.dead or ray.dies(self.actor.number, method, arguments):
            ray.kill(self.actor)
            raise RayError("The actor died because its process was killed.\nmore of it")
        answer = getattr(self.actor.held, self.name)(*self.arguments)
        ray.done.append((self.actor.number, method, arguments))
        return answer
