"""Pieces in folders of their own: held until their result is written, left to whoever works there, refused where the disk is another."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fanout_workers import Squares
from scripted_ray import ScriptedRay

from llgbm.errors import InputError
from llgbm.fanout.claims import Claims, Piece
from llgbm.fanout.crew import Crew, Job
from llgbm.fanout.local import LocalCrew
from llgbm.fanout.ray import Seat
from llgbm.fanout.ray_crew import RayCrew
from llgbm.fanout.shared import SharedFolder, marked
from llgbm.tracking.lock import LOCK_FILE, BusyError, hold


class Squared:
    """Pieces that end with a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.locked_at_commit: list[bool] = []

    def piece(self, number: int) -> Piece:
        place = self.folder / str(number)

        def commit(found: int) -> None:
            self.locked_at_commit.append((place / LOCK_FILE).exists())
            place.mkdir(exist_ok=True)
            (place / "found").write_text(str(found))

        return Piece(f"number {number}", 1.0, (place,), (number,), (place / "found").exists, commit)

    def found(self) -> dict[str, str]:
        return {path.parent.name: path.read_text() for path in sorted(self.folder.glob("*/found"))}

    def locks(self) -> list[Path]:
        return list(self.folder.rglob(LOCK_FILE))


def local() -> LocalCrew:
    return LocalCrew(Job(Squares))


def cluster() -> RayCrew:
    return RayCrew(ScriptedRay(), Job(Squares), Seat(1), lambda: 2)


def perform(crew: Crew, pieces: Sequence[Piece], after: Callable[[Piece], Any] = str) -> list[str]:
    names = []
    with Claims() as claims:
        for piece in claims.perform(crew, "square", pieces):
            names.append(piece.name)
            after(piece)
    return names


@pytest.mark.parametrize("crew", [local, cluster])
def test_folders_are_held_until_results_are_written(tmp_path: Path, crew: Callable[[], Crew]) -> None:
    work = Squared(tmp_path)
    assert sorted(perform(crew(), [work.piece(n) for n in range(4)])) == [f"number {n}" for n in range(4)]
    assert work.found() == {"0": "0", "1": "1", "2": "4", "3": "9"}
    assert work.locked_at_commit == [True] * 4
    assert not work.locks()


def test_a_piece_that_another_process_works_at_is_left_to_it_and_the_others_are_done(tmp_path: Path) -> None:
    work = Squared(tmp_path)
    with hold(tmp_path / "1"), pytest.raises(BusyError, match=f"{tmp_path / '1'}: process .* has worked there since"):
        perform(local(), [work.piece(n) for n in range(3)])
    assert work.found() == {"0": "0", "2": "4"}


@pytest.mark.parametrize("while_it_is_held", [True, False])
def test_what_another_process_finishes_meanwhile_is_not_done_again(tmp_path: Path, while_it_is_held: bool) -> None:
    work = Squared(tmp_path)
    pieces = [work.piece(n) for n in range(3)]

    def another(piece: Piece) -> None:
        if piece.name == "number 0":
            (tmp_path / "2" / "found").write_text("another's")

    (tmp_path / "2").mkdir()
    if while_it_is_held:
        with hold(tmp_path / "2"):
            names = perform(local(), pieces, another)
    else:
        names = perform(local(), pieces, another)
    assert names == ["number 0", "number 1", "number 2"]
    assert work.found() == {"0": "0", "1": "1", "2": "another's"}
    assert not work.locks()


def test_what_a_worker_refuses_leaves_no_lock(tmp_path: Path) -> None:
    work = Squared(tmp_path)
    with pytest.raises(InputError, match="-4 has no root here"):
        perform(cluster(), [work.piece(-4), work.piece(2)])
    assert not work.locks()


def test_a_worker_begins_where_the_driver_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    with marked("out") as shared:
        monkeypatch.chdir(tmp_path / "elsewhere")
        shared.enter()
        assert Path.cwd() == tmp_path / "start"
        assert shared.folder == tmp_path / "start" / "out"
    assert not list(shared.folder.iterdir())


def test_workers_that_see_another_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with marked(tmp_path / "out") as shared:
        other = SharedFolder(shared.folder, ".seen-by-others", shared.start)
        away = SharedFolder(shared.folder, shared.mark, tmp_path / "none")
        for seen, message in (
            (other, f"the worker on {socket.gethostname()} does not see {tmp_path / 'out'}, .*; choose a folder on a disk that all nodes"),
            (
                away,
                f"the worker on {socket.gethostname()} has no folder {tmp_path / 'none'}, in which the command was given; give it in one",
            ),
        ):
            crew = RayCrew(ScriptedRay(), Job(Squares), Seat(1), lambda: 2, seen)
            with pytest.raises(InputError, match=message):
                list(crew.map("square", [("one", (1,))]))
        assert dict(RayCrew(ScriptedRay(), Job(Squares), Seat(1), lambda: 2, shared).map("square", [("two", (2,))])) == {"two": 4}
