"""A hub of folders on this machine, which huggingface_hub's real client talks to.

Four answers are all that a snapshot asks for: about a revision, the tree of files, and for each of
them its head and its bytes. What is asked is kept, so that a test can see that nothing was.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from d2_unsupdet.checkpoint import hub as hub_module


class FakeHub:
    """Repositories by `owner/name`; each is a folder under a commit, reached by its branches."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}  # name -> revision -> folder
        self.asked: list[str] = []
        self.url = ""

    def add(self, name: str, folder: Path, *, revision: str = "main") -> None:
        self.repositories.setdefault(name, {})[revision] = folder

    def commit(self, name: str, revision: str) -> str | None:
        """A made-up commit for each revision; a commit stands for itself."""
        commits = {hashlib.sha1(r.encode()).hexdigest(): r for r in self.repositories[name]}
        if revision in commits:
            return revision
        return next((c for c, r in commits.items() if r == revision), None)

    def folder(self, name: str, commit: str) -> Path:
        known = self.repositories[name]
        return next(known[r] for r in known if hashlib.sha1(r.encode()).hexdigest() == commit)


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def answer(self) -> None:
            hub.asked.append(self.path)
            parts = self.path.partition("?")[0].strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if api else parts[:2])
            if name not in hub.repositories:
                return self.refuse("RepoNotFound")
            revision = parts[5] if api else parts[3]
            commit = hub.commit(name, revision)
            if commit is None:
                return self.refuse("RevisionNotFound")
            folder = hub.folder(name, commit)
            if api and parts[4] == "revision":
                return self.say({"id": name, "sha": commit, "siblings": []})
            if api:
                files = [file for file in sorted(folder.iterdir()) if file.is_file()]
                return self.say([entry(file) for file in files])
            content = (folder / parts[4]).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self.send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

        def say(self, value: object) -> None:
            self.send(json.dumps(value).encode(), {"Content-Type": "application/json"})

        def refuse(self, code: str) -> None:
            self.send(b"{}", {"X-Error-Code": code}, status=404)

        def send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def entry(file: Path) -> dict[str, object]:
    """A file as the hub lists it."""
    digest = hashlib.sha1(file.read_bytes()).hexdigest()
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": digest}


@contextmanager
def asked_by_the_client(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The real client against a server of ours, with a cache of its own."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    hub_module.fetch.cache_clear()
    with serve(FakeHub()) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield server
    hub_module.fetch.cache_clear()
