"""A hub on the loopback interface: as much of the Hugging Face hub's HTTP API as a download needs."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

MAIN = "f" * 40  # the commit that the branch `main` stands at


@dataclass
class Hub:
    """Serves folders as repositories, remembers every request, and fails on demand.

    Attributes
    ----------
    repos : dict
        ``models/owner/name`` or ``datasets/owner/name`` to the commit it has and the folder with its files.
    requests : list of (method, path, range)
    fail : callable, optional
        Called with the handler, the file's bytes or None, before each answer; returns True if it has
        answered (badly) itself.
    """

    repos: dict[str, tuple[str, Path]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    fail: Callable | None = None

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def log_message(self, *args):
        pass

    def _answer(self):
        path = self.path.split("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        api = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(tree|revision)/([^/]+))?", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            self._describe(*api.groups())
        elif file:
            kind, name, revision, inside = file.groups()
            self._file(f"{kind or 'models/'}{name}", revision, inside)
        else:
            self._send(404, {}, b"")

    def _describe(self, repo, what, revision):
        if self.hub.fail and self.hub.fail(self, None):
            return
        commit, folder = self.hub.repos.get(repo, (None, None))
        if commit is None or revision not in (None, "main", commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound" if commit else "RepoNotFound"}, b"{}")
            return
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
        if what == "tree":
            body = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _git_oid(path)}
                for name, path in zip(names, paths, strict=True)
            ]
        else:
            body = {"id": repo.split("/", 1)[1], "sha": commit, "siblings": [{"rfilename": name} for name in names]}
        self._send(200, {"Content-Type": "application/json", "X-Repo-Commit": commit}, json.dumps(body).encode())

    def _file(self, repo, revision, inside):
        commit, folder = self.hub.repos.get(repo, (None, None))
        path = folder / inside if folder else None
        if path is None or not path.is_file() or revision not in ("main", commit):
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
            return
        data = path.read_bytes()
        if self.hub.fail and self.hub.fail(self, data):
            return
        headers = {"ETag": f'"{_git_oid(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin:
            start = int(begin[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, headers, data[start:])
        else:
            self._send(200, headers, data)

    def _send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def too_many_requests(handler, data) -> bool:
    """Answer every request with 429."""
    handler._send(429, {"Retry-After": "1"}, b"")
    return True


def cut_half_way(handler, data) -> bool:
    """Promise large files whole, send half of what is left, and hang up."""
    if data is None or len(data) < 10_000 or handler.command != "GET":
        return False
    start = int((re.findall(r"\d+", handler.headers.get("Range", "")) or ["0"])[0])
    rest = data[start:]
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(rest)))
    handler.end_headers()
    handler.wfile.write(rest[: len(rest) // 2])
    handler.close_connection = True
    return True


def _git_oid(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
