"""Folders on the Hugging Face hub: `hf://ORG/NAME`, or `hf://ORG/NAME@REVISION`, where a folder of this machine could stand.

Only names that begin so are looked for there: `outputs/delta_multi` is a folder, whether or not it exists.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llgbm.checking import shown
from llgbm.errors import InputError, first_line
from llgbm.names import relative_path

SCHEME = "hf://"
READ = ("*.json", "*.safetensors")
"""Files of a model that are fetched; no code is among them."""
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_ID = re.compile(rf"(?P<repo_id>{_PART}/{_PART})(?:@(?P<revision>{_PART}(?:/{_PART})*))?")
COMMIT_MESSAGE = "Upload with llgbm"
COMMIT = re.compile("[0-9a-f]{40}")


def on_hub(name: str | Path) -> bool:
    """Whether a name is one of the hub's."""
    return str(name).startswith(SCHEME)


def hub_name(repo_id: str | Path, revision: str) -> str:
    """A repository at a revision: branch, tag or commit."""
    return f"{SCHEME}{str(repo_id).removeprefix(SCHEME)}@{revision}"


def hub_id(name: str | Path) -> tuple[str, str | None]:
    """Repository and revision of `hf://ORG/NAME[@REVISION]`: the one place that decides which names go to the hub and into its cache.

    Raises:
        InputError: It is no such name, or one that would leave a folder or be none on some system.
    """
    found = _ID.fullmatch(str(name).removeprefix(SCHEME))
    if found is None or ".." in found[0] or "--" in found["repo_id"]:
        raise InputError(
            f"{shown(str(name))}: is no name of the hub's; give {SCHEME}ORG/NAME or {SCHEME}ORG/NAME@REVISION, with no characters but "
            "letters, digits, '-', '_' and '.'"
        )
    for part in filter(None, (found["repo_id"], found["revision"])):
        relative_path(part, "the hub's")
    return found["repo_id"], found["revision"]


def fetched(name: str, files: Sequence[str] = READ, here_first: bool = False) -> Path:
    """The folder of a model of the hub in its cache here, fetched where it is not there yet and `HF_HUB_OFFLINE` is not set.

    Args:
        name: As `hub_id` takes it.
        files: Patterns of the files that are fetched.
        here_first: Ask nothing of the hub where the cache has all of `files`, which are names then; else a branch that moved is followed.

    Returns:
        A folder that has the name of its commit.

    Raises:
        InputError: There is no such model or revision, nothing of it is here and the hub out of reach, or the name can be none.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # its httpx's  # pyright: ignore[reportPrivateImportUsage]

    repo_id, revision = hub_id(name)
    try:
        folder = _cached(repo_id, revision, files) if here_first else None
        folder = folder or Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(files)))
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            f"{name}: cannot be had from the hub ({first_line(error)}); check the name, the revision and the network, or fetch it "
            f"where there is one: hf download {repo_id}"
        ) from error
    if COMMIT.fullmatch(folder.name) is None:
        raise InputError(f"{name}: the hub's cache has it as {shown(folder.name)}, which is no commit; remove {folder.parents[1]}")
    return folder


def _cached(repo_id: str, revision: str | None, files: Sequence[str]) -> Path | None:
    """The folder in the hub's cache here, if it has all of the files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(files), local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if all((folder / file).is_file() for file in files) else None


def publish(folder: str | Path, repo_id: str, private: bool | None = None) -> str:
    """Commit every file of a folder to a model of the hub, which is made if need be; the commit's address. InputError as `committing`."""
    from huggingface_hub import HfApi

    api = HfApi()
    with committing(repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=COMMIT_MESSAGE))


@contextmanager
def committing(repo_id: str) -> Iterator[None]:
    """While inside, what keeps a commit from the hub is said in one sentence.

    Raises:
        InputError: The name can be none, nobody is logged in, or the hub is out of reach or refuses.
    """
    from huggingface_hub.errors import HTTPError  # its httpx's  # pyright: ignore[reportPrivateImportUsage]

    try:
        yield
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            f"{repo_id}: cannot be written to on the hub ({first_line(error)}); check the name, the network and 'hf auth whoami'"
        ) from error
