"""The hub without a network: its cache as it lies on a disk, and a stand-in that answers to those who fetch."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def commit_of(text: str) -> str:
    """A commit's name, the same for the same text."""
    return hashlib.sha1(text.encode()).hexdigest()


def into_cache(cache: Path, repo_id: str, files: dict[str, bytes], branch: str = "main", commit: str | None = None) -> str:
    """Put a repository into a cache: blobs, a snapshot of links to them, and a ref; its commit."""
    commit = commit or commit_of(f"{repo_id} {branch}")
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    for folder in ("blobs", f"snapshots/{commit}", "refs"):
        (repository / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (repository / "snapshots" / commit / name).symlink_to(Path("../../blobs") / blob.name)
    (repository / "refs" / branch).write_text(commit)
    return commit


def files_of(folder: Path) -> dict[str, bytes]:
    """An adapter's folder as a repository has it, with files beside that nobody should take."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": b"# It", "code.py": b"raise SystemExit"}


class Hub:
    """Repositories that can be fetched, and what was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.cut: set[str] = set()
        """Repositories whose files end before their end."""


@contextmanager
def serve(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Let huggingface_hub find this hub, with a cache of its own."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            of_file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", self.path)
            of_list = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^?]+)(\?.*)?", self.path)
            found = (of_file or of_list or [None, None])[1]
            files = hub.repositories.get(str(found))
            if files is None:
                self.answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})
            elif of_file:
                content = files[of_file[3]]
                tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": of_file[2]}
                self.answer(content, 200, tag, cut=found in hub.cut)
            elif of_list and of_list[2] == "revision":
                self.answer(json.dumps({"id": found, "sha": commit_of(f"{found} main"), "siblings": []}).encode())
            else:
                rows = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files.items()]
                self.answer(json.dumps(rows).encode())

        def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in ({"content-type": "application/json", "content-length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:9] if cut else body)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        yield hub
        server.shutdown()
        thread.join()
