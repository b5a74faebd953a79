"""Hooks of mkdocs: the README as the first page, a page of the API for each package, and the repository's files that pages link to."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llgbm"
PRIVATE = ("cli", "bench", "report")
"""Packages that nobody imports: what they do is a command."""
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")
"""A link from a page to a file of the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README, the API's pages, and every file outside docs/ that a page links to."""
    texts = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](").replace('src="docs/', 'src="')
    added = {"index.md": readme, **{f"api/{name}.md": page for name, page in api_pages().items()}}
    for name, content in added.items():
        files.append(File.generated(config, name, content=content))
    for target in sorted({match for text in texts for match in OUTSIDE.findall(text)}):
        files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Files of the repository lie beside the pages."""
    return OUTSIDE.sub(r"](\1", markdown)


def api_pages() -> dict[str, str]:
    """Package, or `llgbm` for the modules of none -> its page: every public module with what its docstrings say."""
    pages: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        *packages, _ = path.relative_to(PACKAGE).parts
        if path.name.startswith("_") or packages[:1] in [[name] for name in PRIVATE]:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        pages.setdefault(packages[0] if packages else "llgbm", []).append(f"::: {module}")
    return {name: "\n\n".join([f"# {name if name == 'llgbm' else f'llgbm.{name}'}", *modules]) + "\n" for name, modules in pages.items()}
