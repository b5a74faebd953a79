"""`llgbm artifacts ACTION`: a store of versioned files, what was made from what, and archives to carry it elsewhere."""

from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llgbm.cli.options import add_folder, add_json
from llgbm.cli.output import print_json, print_table
from llgbm.cli.parser import CommandParser
from llgbm.errors import InputError

if TYPE_CHECKING:
    from llgbm.tracking.store import Artifact, ArtifactStore

HELP = "Keep versioned files, and what they were made from."
EXAMPLE = "llgbm artifacts put zoo-micro data/teacher_checkpoints --kind zoo"
STORE = "artifacts"
FORMATS = ("dot", "mermaid", "json", "svg")
REF = "name:v3, name:alias, or a name for its newest"


def add_arguments(parser: CommandParser) -> None:
    """One action each."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str, example: str, *, ref: bool = False) -> CommandParser:
        own = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", example=f"llgbm artifacts {example}")
        if ref:
            own.add_argument("ref", metavar="REF", help=REF)
        add_folder(own, "--store", default=STORE, help="the store")
        return own

    action("ls", "show all artifacts", "ls")
    put = action("put", "keep a file or folder as a name's next version", "put zoo-micro data/teacher_checkpoints --kind zoo")
    put.add_argument("name", metavar="NAME", help="the artifact's name")
    put.add_argument("source", metavar="PATH", help="what to keep")
    put.add_argument("--kind", default="file", metavar="K", help="what it is: dataset, zoo, model ... (default: %(default)s)")
    put.add_argument("--inputs", nargs="+", default=[], metavar="REF", help="what it was made from")
    put.add_argument("--aliases", nargs="+", default=[], metavar="A", help="names this version gets")
    action("show", "show one version: files, inputs, aliases", "show zoo-micro:v1", ref=True)
    get = action("get", "copy a version's files into a folder, each checked", "get zoo-micro:v1 --output again", ref=True)
    get.add_argument("--output", required=True, metavar="DIR", help="where to")
    alias = action("alias", "let an alias name this version", "alias model-mine:v2 best", ref=True)
    alias.add_argument("alias", metavar="ALIAS", help="the alias, taken from whichever version had it")
    action("rm", "take out a version that nothing was made from", "rm model-mine:v1", ref=True)
    action("verify", "check every record, blob, input and alias", "verify")
    lineage = action("lineage", "show what was made from what", "lineage --format mermaid")
    lineage.add_argument("--of", default=None, metavar="REF", help="only what this one was made from, and what from it")
    lineage.add_argument("--format", default="mermaid", choices=FORMATS, help="how (default: %(default)s)")
    action("gc", "free what no version needs any more, if older than an hour", "gc")
    record = action(
        "record", "keep a run with its suite, zoo, deltas, checkpoints, evaluations, report, if their hashes are its", "record outputs/run"
    )
    record.add_argument("run", metavar="RUN", help="folder of a training run")
    add_folder(record, "--zoo", default=None, help="its zoo (default: where the run found it)")
    export = action("export", "write artifacts and all they were made from into one file", "export model-mine --output mine.zip")
    export.add_argument("refs", nargs="+", metavar="REF", help=REF)
    export.add_argument("--output", required=True, metavar="FILE", help="the file, a zip")
    copy = action("mirror", "log a version and all it was made from as W&B artifacts", "mirror model-mine --project mine", ref=True)
    copy.add_argument("--project", default="llgbm", metavar="P", help="the project there (default: %(default)s)")
    bring = action("import", "take in what another store exported, each byte checked", "import mine.zip")
    bring.add_argument("archive", metavar="FILE", help="the file")
    for own in actions.choices.values():
        add_json(own)


def run(args: Namespace) -> int:
    """Run the chosen action."""
    from llgbm.tracking.store import ArtifactStore

    store = ArtifactStore(args.store)
    if args.action not in ("put", "import", "record") and not store.folder.is_dir():
        raise InputError(f"{store.folder}: no artifact store there; 'llgbm artifacts put' makes one")
    if args.action in ("verify", "lineage"):
        return _verify(store, args.json) if args.action == "verify" else _lineage(store, args)
    _show(_changed(store, args), args.json)
    return 0


def _changed(store: "ArtifactStore", args: Namespace) -> list[dict[str, Any]]:
    """What the action did or found."""
    if args.action == "ls":
        return [_row(artifact, store) for artifact in store]
    if args.action == "put":
        return [_row(store.put(args.name, args.source, args.kind, args.inputs, args.aliases), store)]
    if args.action == "record":
        from llgbm.provenance import record_run

        return [_row(artifact, store) for artifact in record_run(store, args.run, args.zoo)]
    if args.action == "show":
        artifact = store.get(args.ref)
        files = [{"path": path, **asdict(file)} for path, file in artifact.files.items()]
        return [{**_row(artifact, store), "files": files}]
    if args.action == "get":
        return [_row(store.checkout(args.ref, args.output), store)]
    if args.action == "alias":
        store.alias(args.ref, args.alias)
        return [_row(store.get(args.ref), store)]
    if args.action == "mirror":
        from llgbm.tracking.mirror import mirror

        return [_row(artifact, store) for artifact in mirror(store, args.ref, args.project)]
    if args.action == "rm":
        return [{"removed": store.remove(args.ref).ref}]
    if args.action in ("export", "import"):
        return _carried(store, args)
    files, size = store.collect()
    return [{"files_freed": files, "bytes_freed": size}]


def _carried(store: "ArtifactStore", args: Namespace) -> list[dict[str, Any]]:
    """What was exported or imported; `archived_as` names it in the archive."""
    from llgbm.tracking.archive import export_archive, import_archive

    if args.action == "export":
        return [_row(artifact, store) for artifact in export_archive(store, args.refs, args.output)]
    return [{**_row(artifact, store), "archived_as": ref} for ref, artifact in import_archive(store, args.archive).items()]


def _row(artifact: "Artifact", store: "ArtifactStore") -> dict[str, Any]:
    names = [alias for alias, version in store.aliases(artifact.name).items() if version == artifact.version]
    made_from, aliases = ", ".join(artifact.inputs) or None, ", ".join(names) or None
    row = {"artifact": artifact.ref, "kind": artifact.kind, "files": len(artifact.files), "bytes": artifact.size}
    return {**row, "made_from": made_from, "aliases": aliases, "created": artifact.created}


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows and isinstance(rows[0].get("files"), list):
        files = rows[0].pop("files")
        print_table(rows, in_parts=True)
        print_table(files, ("path", "size", "sha256"), in_parts=True)
    else:
        print_table(rows, in_parts=True)


def _verify(store: "ArtifactStore", as_json: bool) -> int:
    """Exit status 2 where something is wrong: the store is bad input to whoever reads it."""
    from llgbm.tracking.lineage import lineage, lineage_faults, orphans

    faults = [asdict(fault) for fault in store.faults()]
    alone: list[str] = []
    if not faults:  # else not every record can be read
        graph = lineage(store)
        faults, alone = [{"where": "lineage", "what": fault} for fault in lineage_faults(graph)], orphans(graph)
    if as_json:
        print_json(faults)
    elif faults:
        print_table(faults)
    if faults:
        raise InputError(f"{store.folder}: {len(faults)} faults, the first is {faults[0]['where']}: {faults[0]['what']}")
    if not as_json:
        print(f"{store.folder}: {sum(1 for _ in store)} artifacts, all as they were put")
        if alone:
            print(f"made from nothing, and nothing from them: {', '.join(alone)}")
    return 0


def _lineage(store: "ArtifactStore", args: Namespace) -> int:
    from llgbm.tracking import lineage

    graph, form = lineage.lineage(store, None if args.of is None else store.get(args.of).ref), "json" if args.json else args.format
    if form == "svg":
        from llgbm.report.plots_lineage import lineage_svg

        print(lineage_svg(graph), end="")
    else:
        print(lineage.FORMATS[form](graph), end="")
    return 0
