"""Folders on the Hugging Face hub: `hf://ORG/NAME`, or `hf://ORG/NAME@REVISION`, where a folder of this machine could stand.

Only names that begin so are looked for there: `outputs/delta_multi` is a folder, whether or not it exists.
"""

from pathlib import Path

from llgbm.errors import InputError, first_line

SCHEME = "hf://"
READ = ("*.json", "*.safetensors")
"""Files of a model that are fetched; no code is among them."""


def on_hub(name: str | Path) -> bool:
    """Whether a name is one of the hub's."""
    return str(name).startswith(SCHEME)


def hub_name(repo_id: str | Path, revision: str) -> str:
    """A repository at a revision: branch, tag or commit."""
    return f"{SCHEME}{str(repo_id).removeprefix(SCHEME)}@{revision}"


def fetched(name: str) -> Path:
    """The folder of a model of the hub in its cache here, fetched where it is not there yet and `HF_HUB_OFFLINE` is not set.

    Raises:
        InputError: There is no such model or revision, nothing of it is here and the hub out of reach, or the name can be none.
    """
    from huggingface_hub import snapshot_download

    repo_id, _, revision = name.removeprefix(SCHEME).partition("@")
    try:
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=list(READ)))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: cannot be had from the hub ({first_line(error)}); check the name, the revision and the network, or fetch it "
            f"where there is one: hf download {repo_id}"
        ) from error


def publish(folder: str | Path, repo_id: str, private: bool | None = None) -> str:
    """Commit every file of a folder to a model of the hub, which is made if need be; the commit's address.

    Raises:
        InputError: The name can be none, nobody is logged in, or the hub is out of reach or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload with llgbm").commit_url)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{repo_id}: cannot be written to on the hub ({first_line(error)}); check the name, the network and 'hf auth whoami'"
        ) from error
