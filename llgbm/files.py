"""Files that are either whole or absent: atomic writes, hashes, and reading with a sentence for what is wrong."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from llgbm.errors import InputError, system_fault

if TYPE_CHECKING:
    from torch import Tensor


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file as `whole_file` does."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the place of `path` when the block ends well.

    Readers, and a crash at any moment, see the old content or the new, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with names_its_faults(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends well: readers see it whole or not at all.

    Where another process was first, its folder stays and this one is dropped, so what is written must depend on the name alone.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        with names_its_faults(folder):
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            temporary.chmod(0o777 & ~_umask())
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def names_its_faults(path: str | Path) -> Iterator[None]:
    """Let a fault of the system inside (disk full, file too large, no permission) name the file that was to be written.

    Raises:
        OSError: The same fault, with `path` as its file name; the system leaves it out, or names a temporary file, and safetensors makes
            a fault of its own of it.
    """
    try:
        yield
    except Exception as error:
        number = system_fault(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """`write_bytes` for a JSON document, indented, keys in the given order, NaN refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def link_or_copy(file: str | Path, place: str | Path) -> None:
    """A hard link, or a copy where the file system has none; a link that is replaced later leaves the first file alone."""
    if is_same_file(file, place):
        return
    Path(place).unlink(missing_ok=True)
    try:
        os.link(file, place)
    except OSError:
        with Path(file).open("rb") as source, whole_file(place) as target:
            shutil.copyfileobj(source, target)


def is_same_file(file: str | Path, place: str | Path) -> bool:
    """Whether something lies at a place, and it is this file: removing it there may remove it for good."""
    return Path(place).exists() and Path(place).samefile(file)


def read_text(path: str | Path) -> str:
    """Read a UTF-8 text file, without the byte order mark some editors put first; InputError names the file and the fault."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def read_json(path: str | Path) -> Any:
    """Read a JSON document; InputError names the file and the fault."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """The JSON document a text holds; InputError names the place and the fault."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON ({error.msg} at {_place(error)})") from error
    except (RecursionError, ValueError) as error:  # nested too deep, or an integer of thousands of digits
        raise InputError(f"{where}: JSON that cannot be read ({error}); write it flatter and shorter") from error


def _place(error: json.JSONDecodeError) -> str:
    return f"line {error.lineno}" if error.doc.count("\n") > 0 else f"column {error.colno}"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file; InputError for a missing file, bad syntax or a key that stands twice."""
    text = read_text(path)
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader
    except RecursionError as error:
        raise InputError(f"{path}: not valid YAML (nested too deeply)") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:  # its constructors raise the others
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of config fields, found {type(values).__name__}")
    return values or {}


def hash_json(value: Any) -> str:
    """SHA-256 of canonical JSON: keys sorted, no spaces; 1 and 1.0 differ."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tensors(tensors: "Mapping[str, Tensor]") -> str:
    """SHA-256 over name, dtype, shape and bytes of named tensors, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        if tensor.numel():
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where what can be made again is kept for every folder one works in: `llgbm` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llgbm"


def absolute(path: str | Path) -> str:
    """One spelling for every way to write a path; links are not followed."""
    return os.path.abspath(path)  # noqa: PTH100


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
