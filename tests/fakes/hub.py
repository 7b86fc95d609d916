"""A hub on this machine: repositories of bytes, served as the real one serves them, with faults on demand. Knows no client.

It answers what huggingface_hub 2.4 and Fanlight ask: the listing of a revision, HEAD and GET of a file (ranges too), redirects
of large files to another host, and refusals with their X-Error-Code. Every request is kept, so that a test can count them.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    range: str
    authorization: str
    host: str


@dataclass
class Repo:
    """A repository at one commit."""

    files: dict[str, bytes]
    revision: str = "main"
    is_gated: bool = False
    large: tuple[str, ...] = (".safetensors", ".gguf")
    """Endings of the files that are known by their SHA-256; the others by git's hash."""
    listing: dict[str, Any] = field(default_factory=dict)
    """Overrides of the answer to the listing."""
    extra_names: tuple[str, ...] = ()
    """Listed, and not there."""

    @property
    def commit(self) -> str:
        """Depends on the content alone."""
        digest = sha1(b"".join(name.encode() + sha256(data).digest() for name, data in sorted(self.files.items())))
        return digest.hexdigest()

    def etag(self, name: str) -> str:
        """What the file is called in the cache."""
        data = self.files[name]
        if name.endswith(self.large):
            return sha256(data).hexdigest()
        return sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:  # HTTPServer's asks the network for the name of this machine
        TCPServer.server_bind(self)


class FakeHub:
    """Use it as a context; `url` is what HF_ENDPOINT is set to."""

    def __init__(self, **repos: dict[str, bytes]) -> None:
        """repos: name -> files, as in FakeHub(gpt2={...}); others go into `repos`."""
        self.repos = {name: Repo(files) for name, files in repos.items()}
        self.asked: list[Asked] = []
        self.breaks: dict[str, list[int]] = {}
        """File -> after how many bytes each next answer breaks off."""
        self.always_breaks: dict[str, int] = {}
        self.stalls: dict[str, int] = {}
        """File -> after how many bytes the answer goes silent, until the hub ends."""
        self.stalled, self.ended = threading.Event(), threading.Event()
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        """A part of a path -> (status, headers, body) instead of the true answer."""
        self.lists_hashes = True
        self.knows_ranges = True
        self.token = ""
        """If set, gated repositories are open to it."""
        self.redirects_to = ""
        """Where GET of a large file is sent: "localhost" is another host than 127.0.0.1."""
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        """Chosen by the system."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetched(self, method: str = "GET") -> list[str]:
        """Names of the files that were asked for, in order."""
        return [
            unquote(a.path.split("/resolve/", 1)[1].split("/", 1)[1])
            for a in self.asked
            if a.method == method and "/resolve/" in a.path
        ]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # 40 ms an answer

            def do_GET(self) -> None:
                _Answer(hub, self).give()

            def do_HEAD(self) -> None:
                _Answer(hub, self).give()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler


class _Answer:
    def __init__(self, hub: FakeHub, request: BaseHTTPRequestHandler) -> None:
        self._hub, self._request = hub, request
        headers = request.headers
        self._range = headers.get("Range", "")
        self._token = headers.get("Authorization", "")
        hub.asked.append(Asked(request.command, request.path, self._range, self._token, headers.get("Host", "")))

    def give(self) -> None:
        parts = urlsplit(self._request.path)
        for part, (status, headers, body) in self._hub.answers.items():
            if part in parts.path:
                return self._send(status, headers, body)
        path = parts.path.strip("/")
        if path.startswith("api/models/"):
            asked = path.removeprefix("api/models/")
            if "/tree/" in asked:
                repo, _, revision = asked.partition("/tree/")
                return self._tree(repo, unquote(revision))
            repo, _, revision = asked.partition("/revision/")
            return self._list(repo, unquote(revision) or "main", "blobs" in parse_qs(parts.query))
        repo, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._file(repo, unquote(revision), unquote(file))

    def _list(self, name: str, revision: str, with_hashes: bool) -> None:
        repo = self._hub.repos.get(name)
        if repo is None:
            return self._refuse(401, "RepoNotFound" if self._token else "")
        if revision not in (repo.revision, repo.commit):
            return self._refuse(404, "RevisionNotFound")
        siblings: list[dict[str, Any]] = []
        for file, data in repo.files.items():
            entry: dict[str, Any] = {"rfilename": file}
            if with_hashes and self._hub.lists_hashes:
                entry |= {"size": len(data), "blobId": sha1(file.encode()).hexdigest()}
                if file.endswith(repo.large):
                    entry["lfs"] = {"size": len(data), "sha256": repo.etag(file), "pointerSize": 130}
                else:
                    entry["blobId"] = repo.etag(file)
            siblings.append(entry)
        siblings += [{"rfilename": file, "size": 1, "blobId": "0" * 40} for file in repo.extra_names]
        body = {"id": name, "sha": repo.commit, "private": False, "siblings": siblings, **repo.listing}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _tree(self, name: str, revision: str) -> None:
        repo = self._hub.repos[name]
        assert revision == repo.commit
        entries: list[dict[str, Any]] = []
        for file, data in repo.files.items():
            entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": repo.etag(file)[:40]}
            if file.endswith(repo.large):
                entry["lfs"] = {"oid": repo.etag(file), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        self._send(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def _file(self, name: str, revision: str, file: str) -> None:
        repo = self._hub.repos.get(name)
        if repo is None:
            return self._refuse(404, "RepoNotFound")
        if revision not in (repo.revision, repo.commit):
            return self._refuse(404, "RevisionNotFound")
        if repo.is_gated and self._token != f"Bearer {self._hub.token}":
            return self._refuse(403 if self._token else 401, "GatedRepo")
        if file not in repo.files:
            return self._refuse(404, "EntryNotFound")
        data, etag = repo.files[file], repo.etag(file)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}
        away = self._hub.redirects_to
        if away and file.endswith(repo.large) and not self._request.headers.get("Host", "").startswith(away):
            where = f"http://{away}:{self._hub.port}{self._request.path}"
            linked = {"Location": where, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            return self._send(302, headers | linked, b"")
        status, start = 200, 0
        if self._range and self._hub.knows_ranges:
            start = int(self._range.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                return self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        breaks = self._hub.breaks.get(file)
        limit = breaks.pop(0) if breaks and self._request.command == "GET" else self._hub.always_breaks.get(file)
        if file in self._hub.stalls and self._request.command == "GET":
            self._send(
                status, headers | {"Content-Length": str(len(data) - start)}, data[start : self._hub.stalls[file]]
            )
            self._hub.stalled.set()
            self._hub.ended.wait()
            self._request.close_connection = True
        else:
            self._send(status, headers, data[start:], limit)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, {"X-Error-Code": code} if code else {}, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes, limit: int | None = None) -> None:
        request = self._request
        request.send_response(status)
        length = {} if "Transfer-Encoding" in headers else {"Content-Length": str(len(body))}
        for key, value in (length | headers).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            with suppress(ConnectionError):  # who asked may have heard enough
                request.wfile.write(body if limit is None else body[:limit])
        if limit is not None:
            request.close_connection = True
