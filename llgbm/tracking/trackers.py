"""A run's entry in an experiment tracker: config, figures, pictures and tables, handed to the trackers that accelerate knows.

A run has one entry, whichever command sends to it: `tracking/<tracker>.json` in the run's folder says which. Where a tracker
keeps it is the tracker's own affair, but for tensorboard, which has no place of its own and writes beside that file.
"""

import csv
import io
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from llgbm.checking import RECORD, read_as
from llgbm.errors import InputError, first_line
from llgbm.files import read_json, write_json

PROJECT = "llgbm"
"""Under which trackers list runs."""
TRACKING = "tracking"
"""Folder in a run's folder that says what trackers know of it."""

Row = Mapping[str, Any]
"""A line of a table: column -> text, number or None; all rows have the same columns."""


@dataclass(frozen=True, config=RECORD)
class _Entry:
    run: str


@dataclass(frozen=True, config=RECORD)
class _Recorded:
    config: dict[str, Any] = Field(default_factory=dict)


class Tracker:
    """The open entry of one run, with the config of the run's record; also a context manager that closes it.

    Args:
        folder: The run's folder, after which the entry is named.

    Raises:
        InputError: The tracker does not begin, or the run's record or the file that names the entry is damaged.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers look there for the process they are in
        self.folder, self.config = folder, _recorded_config(folder)
        self._file = folder / TRACKING / f"{self.name}.json"
        known = self._known()
        options = self._begin() if known is None else self._go_on(known)
        self._inner: Any = LOGGER_TYPE_TO_CLASS[self.name](**options)
        try:
            with redirect_stdout(sys.stderr):  # trackio says there what a command's --json would have to itself
                self._inner.start()
        except Exception as error:  # each tracker has errors of its own
            said = first_line(error).rstrip(".")
            raise InputError(f"report_to {self.name}: it does not begin: {said}; mend that, or set it to none") from error
        if known is None:
            write_json(self._file, {"run": self._key()})
            if self.config:
                self._inner.store_init_configuration(self.config)

    def _known(self) -> str | None:
        if not self._file.is_file():
            return None
        return read_as(_Entry, read_json(self._file), f"{self._file}: names no run; delete it to begin another").run

    def _begin(self) -> dict[str, Any]:
        """What accelerate's tracker is made with when the run has no entry yet."""
        raise NotImplementedError

    def _go_on(self, key: str) -> dict[str, Any]:
        """The same for a run with an entry."""
        raise NotImplementedError

    def _key(self) -> str:
        """What the tracker finds the entry by."""
        raise NotImplementedError

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send a step's figures."""
        self._inner.log(dict(figures), step=step)

    def picture(self, name: str, path: Path) -> None:
        """Send a PNG file."""
        raise NotImplementedError

    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Send a table of at least one row."""
        raise NotImplementedError

    def finish(self) -> None:
        """Close the entry; what was sent is stored."""
        with redirect_stdout(sys.stderr):
            self._inner.finish()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish()


class _Tensorboard(Tracker):
    """Pictures as images, tables as text in Markdown."""

    name = "tensorboard"

    def _begin(self) -> dict[str, Any]:
        return {"run_name": self.name, "logging_dir": self.folder / TRACKING}

    def _go_on(self, key: str) -> dict[str, Any]:
        return self._begin()

    def _key(self) -> str:
        return self.name

    def picture(self, name: str, path: Path) -> None:
        from matplotlib.image import imread

        self._inner.log_images({name: imread(path)[None, :, :, :3]}, dataformats="NHWC")

    def table(self, name: str, rows: Sequence[Row]) -> None:
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
        self._inner.log({name: "\n".join(f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |" for line in lines)})


class _Wandb(Tracker):
    """Pictures and tables as its own."""

    name = "wandb"

    def _begin(self) -> dict[str, Any]:
        return {"run_name": PROJECT, "name": self.folder.name}

    def _go_on(self, key: str) -> dict[str, Any]:
        return {"run_name": PROJECT, "id": key, "resume": "allow"}

    def _key(self) -> str:
        return self._inner.tracker.id

    def picture(self, name: str, path: Path) -> None:
        self._inner.log_images({name: [str(path)]})

    def table(self, name: str, rows: Sequence[Row]) -> None:
        self._inner.log_table(name, columns=list(rows[0]), data=[list(row.values()) for row in rows])


class _Trackio(Tracker):
    """Pictures and tables as its own; it finds entries by name, so the name gets a suffix that no other has, and forgets their config."""

    name = "trackio"

    def _begin(self) -> dict[str, Any]:
        return {"run_name": PROJECT, "name": f"{self.folder.name}-{secrets.token_hex(4)}"}

    def _go_on(self, key: str) -> dict[str, Any]:
        return {"run_name": PROJECT, "name": key, "resume": "allow", "config": self.config}

    def _key(self) -> str:
        return self._inner.tracker.name

    def picture(self, name: str, path: Path) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self._inner.log({name: trackio.Image(str(path))})

    def table(self, name: str, rows: Sequence[Row]) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self._inner.log({name: trackio.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})

    def finish(self) -> None:
        """As accelerate's, but trackio is told too, or it would close the entry once more when Python ends."""
        import trackio  # pyright: ignore[reportMissingImports]

        with redirect_stdout(sys.stderr):
            trackio.finish()


class _Mlflow(Tracker):
    """Pictures and tables (CSV) as artifacts."""

    name = "mlflow"

    def _begin(self) -> dict[str, Any]:
        return {"experiment_name": PROJECT, "run_name": self.folder.name}

    def _go_on(self, key: str) -> dict[str, Any]:
        return {"experiment_name": PROJECT, "run_id": key}

    def _key(self) -> str:
        return self._inner.tracker.info.run_id

    def picture(self, name: str, path: Path) -> None:
        self._inner.log_artifact(str(path), "pictures")

    def table(self, name: str, rows: Sequence[Row]) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        mlflow.log_text(text.getvalue(), f"tables/{name}.csv")


TRACKERS: dict[str, type[Tracker]] = {kind.name: kind for kind in (_Trackio, _Tensorboard, _Wandb, _Mlflow)}


def _recorded_config(folder: Path) -> dict[str, int | float | str]:
    """A run's config as its record has it; trackers take numbers and strings only, so anything else becomes JSON."""
    from llgbm.tracking.record import RECORD_FILE  # imports torch

    record = folder / RECORD_FILE
    if not record.is_file():
        return {}
    values = read_as(_Recorded, read_json(record), f"{record}: not a run's record").config
    return {name: value if isinstance(value, int | float | str) else json.dumps(value) for name, value in values.items()}


def check_tracker(name: str) -> None:
    """InputError when a tracker is named (and not `none`) that is not installed."""
    if name == "none":
        return
    from accelerate.tracking import get_available_trackers

    if name not in [str(kind) for kind in get_available_trackers()]:
        raise InputError(f"report_to {name}: it is not installed; pip install 'llgbm[track]', or set it to none")
