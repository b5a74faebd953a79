"""A zoo of adapters as people have them: folders, and repositories of the hub, each checked; the others are named.

Nothing says what such adapters were taught: the zoo has no suite. Its manifest says of each where it came from, and for the hub the commit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llgbm.checking import shown
from llgbm.config import ModelConfig
from llgbm.errors import InputError
from llgbm.files import absolute, is_same_file, link_or_copy, read_json, read_text, write_json
from llgbm.hub import SCHEME, fetched, hub_id, on_hub
from llgbm.lora.adapter_config import CONFIG_FILE
from llgbm.lora.peft_io import ALL_LINEAR, TENSOR_FILE, find_adapters, read_adapter, target_shapes
from llgbm.names import relative_path, twin_key
from llgbm.progress import ProgressCallback
from llgbm.tracking.lock import hold
from llgbm.tracking.record import refuse_run
from llgbm.zoo.base import Base, BaseOptions, load_configured, load_recorded, no_bars
from llgbm.zoo.folder import TeacherZoo
from llgbm.zoo.manifest import MANIFEST_FILE, Origin, Teacher, is_zoo
from llgbm.zoo.named import name_on_hub

FILES = (TENSOR_FILE, CONFIG_FILE)
"""What is taken of an adapter, in this order: a folder with a config is whole."""
KEEP_EVERY = 50
"""Adapters between two writings of the manifest."""
SPLIT = "imported"


@dataclass
class ImportReport:
    """What one call did."""

    taken: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Those that were there already, as they were."""
    failed: dict[str, str] = field(default_factory=dict)
    """Those that are left out -> why, in a sentence that names them."""


def import_adapters(
    folder: str | Path,
    given: Sequence[str],
    options: BaseOptions | None = None,
    same_base: Sequence[str] = (),
    progress: ProgressCallback | None = None,
) -> ImportReport:
    """Take adapters into a zoo, new or imported before; what is there and sound is neither fetched nor read anew.

    Args:
        folder: The zoo's.
        given: Folders of adapters, `hf://ORG/NAME[@REVISION]`, and files that list these, one a line.
        options: The base that the adapters are for, where the zoo is new; else where it lies now.
        same_base: Further names under which the hub has this base.
        progress: Called with the adapters done and to do.

    Raises:
        InputError: Something given is none of these, the folder holds a run or trained teachers, or another process works there.
            Adapters that are broken, of another base or not to be had do not stop the rest.
    """
    refuse_run(folder, "a zoo")
    sources = dict(_sources(given))
    with hold(folder):
        zoo = TeacherZoo.load(folder) if is_zoo(folder) else None
        if zoo is not None and zoo.imported is None:
            raise InputError(f"{folder}: holds teachers that were trained there; import into another folder")
        asked = options or BaseOptions()
        base = load_recorded(f"zoo {folder}", zoo.base, asked) if zoo else load_configured(_configured(asked))
        work = _Import(Path(folder), base, zoo, same_base)
        try:
            for i, (name, place) in enumerate(sources.items(), 1):
                work.take(name, place)
                if i % KEEP_EVERY == 0:
                    work.keep()
                if progress:
                    progress(i, len(sources), failed=len(work.report.failed))
        finally:
            work.keep()
        return work.report


def _configured(asked: BaseOptions) -> ModelConfig:
    return ModelConfig(**{name: value for name, value in vars(asked).items() if value is not None})


def _sources(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name of each adapter and the folder it gets in the zoo; of the hub's, what follows its commit's."""
    for name in given:
        if on_hub(name):
            yield name, ""
        elif Path(name).is_dir():
            root = Path(absolute(name))
            found = find_adapters(root)
            if not found:
                raise InputError(f"{name}: no adapters here (no {CONFIG_FILE} below it); give a folder of PEFT adapters")
            yield from ((str(path), "/".join((root.name, *path.relative_to(root).parts))) for path in found)
        elif Path(name).is_file():
            lines = (line.partition("#")[0].strip() for line in read_text(name).splitlines())
            yield from ((SCHEME + line.removeprefix(SCHEME), "") for line in lines if line)
        else:
            raise InputError(f"{shown(name)}: no such file or folder; give a folder of adapters, a list of hub ids, or {SCHEME}ORG/NAME")


class _Import:
    """Takes adapters into one zoo."""

    def __init__(self, folder: Path, base: Base, zoo: TeacherZoo | None, same_base: Sequence[str]) -> None:
        self.folder, self.base, self.report = folder, base, ImportReport()
        self.identity = zoo.base if zoo else base.identity
        self.shapes = target_shapes(base.model, ALL_LINEAR)
        self.names = {name.casefold() for name in (name_on_hub(base.name), *same_base) if name}
        known = {teacher.path: teacher for teacher in zoo.teachers} if zoo else {}
        damaged = zoo.damaged() if zoo else {}
        self.teachers = {path: teacher for path, teacher in known.items() if path not in damaged}
        self.damaged = {path: known[path] for path in damaged}
        self.origins = dict(zoo.imported or {}) if zoo else {}
        self.modules = set(zoo.manifest["lora"]["target_modules"]) if zoo else set()
        self.places = {twin_key(path): path for path in known}

    def take(self, name: str, place: str) -> None:
        """Take one, unless it is there, or say why not."""
        origin = self.origins.get(name)
        if origin is not None and origin.path in self.teachers:
            self.report.kept.append(name)
            return
        try:
            self.origins[name] = self._taken(name, place)
            self.report.taken.append(name)
        except InputError as error:
            said = str(error)
            self.report.failed[name] = said if name in said else f"{name}: {said}"

    def keep(self) -> None:
        """Write the manifest, if there is anything to say; a teacher that is damaged stays in it, with where it can be had again."""
        if not self.teachers:
            return
        teachers = self.damaged | self.teachers
        origins = {name: asdict(origin) for name, origin in self.origins.items() if origin.path in teachers}
        lora = {"target_modules": sorted(self.modules)}
        rows = [teacher.row() for _, teacher in sorted(teachers.items())]
        head = {"base": asdict(self.identity), "suite": None, "lora": lora, "zoo": {}, "imported": dict(sorted(origins.items()))}
        write_json(self.folder / MANIFEST_FILE, {**head, "teachers": rows})

    def _taken(self, name: str, place: str) -> Origin:
        """Check an adapter and put it into the zoo."""
        if on_hub(name):
            with no_bars():
                found = fetched(name, FILES, here_first=True)
            task = hub_id(name)[0]
            origin = Origin(f"{task}/{found.name}", found.name)
        else:
            found, task, origin = Path(name), place, Origin(relative_path(place, "adapter"))
        missing = next((file for file in reversed(FILES) if not (found / file).is_file()), None)
        if missing is not None:
            raise InputError(f"{name}: has no {missing}; only adapters in safetensors are imported, save it so with PEFT")
        factors = read_adapter(found, self.shapes)
        self._check_base(name, read_json(found / CONFIG_FILE).get("base_model_name_or_path"))
        other = self.places.setdefault(twin_key(origin.path), origin.path)
        if other != origin.path or (origin.commit is None and other in self.teachers):
            raise InputError(f"{name}: would stand at {origin.path}, where {other} stands already; rename its folder")
        self._write(found, self.folder / origin.path)
        split, domain = SPLIT, task.partition("/")[0]
        self.teachers[origin.path] = Teacher(origin.path, task, domain, split, 0, None, None, factors.content_hash())
        self.modules |= set(factors.module_names)
        return origin

    def _check_base(self, name: str, stated: object) -> None:
        """InputError when the hub knows the stated base under another name; a folder of somebody's machine says nothing."""
        known = name_on_hub(stated) if isinstance(stated, str) else None
        if known is not None and known.casefold() not in self.names:
            raise InputError(
                f"{name}: was trained on base {shown(known)}, this zoo is of {self.base.name}; leave it out, or give --same_base {known} "
                "if that is the same under another name"
            )

    def _write(self, found: Path, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        new = [file for file in FILES if not is_same_file(found / file, place / file)]
        for file in reversed(new):
            (place / file).unlink(missing_ok=True)
        for file in new:
            link_or_copy((found / file).resolve(), place / file)
