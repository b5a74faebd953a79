"""`--store DIR`: a stage keeps what it made, and what that was made from, in an artifact store."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from llgbm.cli.options import SHOWN, add_folder
from llgbm.cli.parser import CommandParser

if TYPE_CHECKING:
    from llgbm.tracking.store import Artifact, ArtifactStore


def add_store(parser: CommandParser) -> None:
    """Add `--store` to a command that takes no config; the others have it as `tracking.store`."""
    add_folder(parser, "--store", default=None, help=SHOWN["tracking.store"][1])


def keep(store: str | None, record: Callable[["ArtifactStore"], list["Artifact"]]) -> None:
    """Let the first process record in the store, if one is given, and say on standard error what is there now."""
    from llgbm.tracking.process import is_first_process
    from llgbm.tracking.store import ArtifactStore

    if store is not None and is_first_process():
        made = record(ArtifactStore(store))
        print(f"llgbm: kept in {store}: {', '.join(artifact.ref for artifact in made)}", file=sys.stderr)
