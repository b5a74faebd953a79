"""Items of work on an engine: each is done once, whoever dies; results keep their names; what is wrong reaches the one who asked."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fanout_workers import Squares, Strangers, Unable
from scripted_ray import ScriptedRay

from llgbm.cli import main, make_parser
from llgbm.errors import InputError
from llgbm.fanout import hand, ray_crew
from llgbm.fanout.crew import Job
from llgbm.fanout.hand import Hand
from llgbm.fanout.local import Local
from llgbm.fanout.ray import RayEngine, Seat, make_seat
from llgbm.fanout.ray_crew import MOST_DEATHS, RayCrew

NUMBERS = [(f"number {n}", (n,)) for n in range(7)]
SQUARES = {f"number {n}": n * n for n in range(7)}


def crew(ray: ScriptedRay, job: Job | None = None, most: int = 2) -> RayCrew:
    return RayCrew(ray, job or Job(Squares), Seat(1), lambda: most)


def test_one_process_does_items_in_their_order_and_tells_how_far_it_is() -> None:
    told = []
    with Local().crew(Job(Squares)) as local:
        found = list(local.map("square", NUMBERS, lambda inside, **figures: told.append((inside, figures["number"]))))
        assert local.ask("square", 9) == 81
        assert (local.figures(), local.record()) == ({}, {})
    assert found == list(SQUARES.items())
    assert told == [(0, n) for n in range(7)]


def test_one_process_builds_its_worker_when_it_is_asked_and_once() -> None:
    built = []

    def build() -> Squares:
        built.append(1)
        return Squares()

    with Local().crew(Job(build)) as local:
        assert not list(local.map("square", []))
        assert not built
        list(local.map("square", NUMBERS))
        local.ask("square", 3)
    assert built == [1]


@pytest.mark.parametrize("seed", range(20))
def test_whoever_dies_every_item_is_finished_once_under_its_own_name(seed: int) -> None:
    rng = random.Random(seed)
    deaths = Counter()

    def dies(actor: int, method: str, arguments: tuple[Any, ...]) -> bool:
        place = (method, arguments if method == "square" else ())
        if rng.random() < 0.3 and deaths[place] < MOST_DEATHS - 1:
            deaths[place] += 1
            return True
        return False

    ray = ScriptedRay(room=3, dies=dies, order=rng.choice)
    cluster = crew(ray, most=3)
    found = list(cluster.map("square", NUMBERS))
    assert sorted(found) == sorted(SQUARES.items())
    assert Counter(arguments for _, method, arguments in ray.done if method == "square") == Counter(arguments for _, arguments in NUMBERS)
    assert cluster.lost == sum(deaths.values())
    assert len({number for number, *_ in ray.done}) > 1


def test_a_lost_item_is_the_next_to_be_done(caplog) -> None:
    victims = [0]
    ray = ScriptedRay(room=1, dies=lambda actor, method, arguments: arguments == (2,) and bool(victims) and victims.pop() == 0)
    cluster = crew(ray, most=1)
    assert [name for name, _ in cluster.map("square", NUMBERS)] == list(SQUARES)
    assert "died at number 2 (The actor died because its process was killed.); another goes on" in caplog.text
    assert cluster.figures() == {"busy": "0/1", "lost": 1}


def test_items_are_read_no_further_than_there_are_workers_for_them() -> None:
    read = []

    def items():
        for n in range(7):
            read.append(n)
            yield f"number {n}", (n,)

    results = crew(ScriptedRay(room=2)).map("square", items())
    next(results)
    assert len(read) <= 4  # one is done, two are in hand, one is next
    assert dict(results)
    assert len(read) == 7


def test_workers_without_a_place_hold_nothing_up() -> None:
    cluster = crew(ScriptedRay(room=1), most=5)
    assert dict(cluster.map("square", NUMBERS)) == SQUARES
    assert sum(member.hello is not None for member in cluster.members) == 1


def test_workers_that_come_later_get_work() -> None:
    ray = ScriptedRay(room=1)
    results = crew(ray, most=2).map("square", NUMBERS)
    next(results)
    ray.room = 2
    ray.order = lambda waiting: waiting[-1]
    assert len(dict(results)) == 6
    assert len({number for number, method, _ in ray.done if method == "square"}) == 2


def test_an_item_that_kills_its_workers_ends_the_work_by_name() -> None:
    ray = ScriptedRay(dies=lambda actor, method, arguments: arguments == (3,))
    with pytest.raises(RuntimeError, match=r"3 workers in turn died at number 3 \(The actor died because its process was killed.\); give"):
        list(crew(ray).map("square", NUMBERS))
    assert Counter(arguments for *_, arguments in ray.done)[(3,)] == 0


def test_workers_that_die_before_they_are_ready_end_the_work() -> None:
    ray = ScriptedRay(dies=lambda actor, method, arguments: method == "begin")
    with pytest.raises(RuntimeError, match="3 workers in turn died before they were ready"):
        list(crew(ray).map("square", NUMBERS))


def test_what_a_worker_refuses_is_refused_once_and_ends_the_work() -> None:
    ray = ScriptedRay()
    with pytest.raises(InputError, match=r"^-4 has no root here; give 0 or more$"):
        list(crew(ray).map("square", [("a", (-4,))]))
    assert len([1 for _, method, _ in ray.done if method == "square"]) == 1
    with pytest.raises(InputError, match=r"^no base here; bring one$"):
        list(crew(ScriptedRay(), Job(Unable)).map("square", NUMBERS))


def test_other_faults_of_a_worker_name_the_item_and_keep_the_trace() -> None:
    with pytest.raises(RuntimeError, match="a worker failed at big: ZeroDivisionError: too large") as caught:
        list(crew(ScriptedRay()).map("square", [("big", (1001,))]))
    assert "in square" in str(caught.value.__cause__)


def test_nodes_with_other_packages_end_the_work() -> None:
    ray = ScriptedRay()

    def fails(reference: Any) -> Any:
        raise ray.exceptions.RayTaskError("Traceback:\nNo module named 'llgbm'\n")

    ray.get = fails  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"does not understand this process \(No module named 'llgbm'\); install the same packages"):
        list(crew(ray).map("square", NUMBERS))


def test_workers_that_read_other_files_are_refused() -> None:
    with pytest.raises(InputError, match=r"reads other files than the first one \(hash .*; give every node the same base"):
        list(crew(ScriptedRay(order=random.Random(0).choice), Job(Strangers)).map("square", NUMBERS))


def test_warnings_of_workers_are_said_once(caplog) -> None:
    list(crew(ScriptedRay()).map("square", [("one", (13,)), ("two", (13,)), ("three", (13,))]))
    assert caplog.text.count("13 is an unlucky number") == 1 + 3  # one of the driver's, three in the worker, which is in this process
    assert Hand(1).begin(Job(Unable)).warnings == ()


def test_workers_in_other_surroundings_are_said_and_recorded(caplog, monkeypatch) -> None:
    numbers = iter(range(9))
    true = hand.Hand._begin

    def begin(self: Hand, job: Job, shared: Any) -> Any:
        number = next(numbers)
        hello = true(self, job, shared)
        return replace(hello, host=f"host{number}", environment={**hello.environment, "cpu_capability": f"kind {number}"})

    monkeypatch.setattr(hand.Hand, "_begin", begin)
    cluster = crew(ScriptedRay(order=random.Random(0).choice))
    list(cluster.map("square", NUMBERS))
    assert "workers differ in cpu_capability: kind 0 against kind 1: bits depend on who does what" in caplog.text
    differences = cluster.record()["workers"]["differences"]
    assert [found[0].split(" against ")[1] for found in differences.values()] == ["kind 0", "kind 1"]


def test_that_nobody_is_ready_is_said(caplog, monkeypatch) -> None:
    monkeypatch.setattr(ray_crew, "SAY_SECONDS", -1.0)
    ray, looks = ScriptedRay(room=0), []

    def wait(waiting: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        looks.append(timeout)
        ray.room = len(looks) > 4
        return ScriptedRay.wait(ray, waiting, num_returns, timeout)

    ray.wait = wait  # type: ignore[method-assign]
    list(crew(ray).map("square", NUMBERS))
    assert "no worker is ready yet: each asks Ray for 1 CPU; 'ray status' says what the cluster has" in caplog.text


def test_a_cluster_that_lost_every_node_is_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(ray_crew, "LOOK_SECONDS", 0.01)
    rooms = iter([0, 0, 0, 1])
    cluster = RayCrew(ScriptedRay(), Job(Squares), Seat(1), lambda: next(rooms, 1))
    assert dict(cluster.map("square", NUMBERS)) == SQUARES


def test_a_crew_is_dismissed_whole() -> None:
    ray = ScriptedRay()
    cluster = crew(ray)
    list(cluster.map("square", NUMBERS))
    assert len(ray.actors) == 2
    cluster.dismiss()
    assert not ray.actors


def test_seats_ask_for_what_a_worker_uses(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "here")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    asked = make_seat(2, "cpu", 1.5).options()
    environment = asked.pop("runtime_env")["env_vars"]
    assert asked == {"num_cpus": 2, "num_gpus": 0, "memory": int(1.5 * 2**30)}
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"], environment["PYTHONHASHSEED"]) == ("2", "2", "7")
    assert environment["PYTHONPATH"].split(":") == [str(tmp_path / "here"), str(Path(__file__).parents[2])]  # and where this package lies
    assert make_seat(1, "cuda", 20.0) == Seat(1, gpu=True)  # of the GPU's memory, of which Ray knows nothing
    node = {"CPU": 16.0, "GPU": 8.0, "memory": 4.0 * 2**30}
    assert (Seat(1).fit(node), Seat(4).fit(node), Seat(1, True).fit(node), Seat(1, False, 1.5).fit(node)) == (16, 4, 8, 2)
    assert Seat(1, True).fit({"CPU": 16.0}) == 0
    assert str(Seat(4, True, 1.5)) == "4 CPU, 1 GPU, 1.5 GiB"


def test_ray_chooses_gpus_itself() -> None:
    with pytest.raises(InputError, match="--device cuda:1: Ray chooses each worker's GPU; say --device cuda"):
        make_seat(1, "cuda:1", None)


BUILD = ("zoo", "build", "--zoo", "nowhere")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--workers", "2"), "--workers is for --engine ray; add that, or leave --workers out"),
        (("--address", "auto"), "--address is for --engine ray; add that, or leave --address out"),
        (("--engine", "ray", "--workers", "0"), "--workers is 0; give 1 or more"),
        (("--engine", "spark"), "argument --engine: invalid choice: 'spark'"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags: tuple[str, ...], sentence: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*BUILD, *flags]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("command", [("ablate", "few"), ("study", "run"), ("evaluate",)], ids=lambda words: words[0])
def test_trainings_and_evaluations_take_the_same_flags(command: tuple[str, ...], tmp_path: Path) -> None:
    flags = ["--engine", "ray", "--address", "auto", "--workers", "3", "--output", str(tmp_path)]
    args = make_parser(command[0]).parse_args([*command[1:], *flags])
    assert (args.engine, args.address, args.workers) == ("ray", "auto", 3)


def test_without_ray_a_sentence_says_what_to_install(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main([*BUILD, "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "llgbm: --engine ray needs Ray, which is not installed; pip install 'llgbm[ray]'\n"
    with pytest.raises(InputError, match="which is not installed"), RayEngine(None, None, Seat(1)):
        pass
