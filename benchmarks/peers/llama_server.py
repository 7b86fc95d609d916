"""llama.cpp's own server, a process that is asked over HTTP by streaming requests on open connections.

The client is one thread over raw sockets that only counts events and notes when they came, so that it takes as little as it
can of the processors that the server computes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

VARIABLE = "LLAMA_SERVER"
BUILT = Path("build") / "llama-server" / "bin" / "llama-server"
"""Where `make llama-server` puts it."""
START_SECONDS = 120.0
SILENT_SECONDS = 120.0
ACCEPTED = b"HTTP/1.1 200"
END_OF_EVENT, END_OF_ANSWER = b"\n\n", b"\r\n0\r\n\r\n"
"""Of server-sent events, and of a body in chunks. Neither is in an event: JSON writes both characters otherwise."""


class Ask(NamedTuple):
    """One request: prompt ids, how many tokens are wanted, and when it is sent, in seconds after the first."""

    ids: Sequence[int]
    n_new: int
    at: float = 0.0


def find(root: Path) -> Path | None:
    """The server's program: what LLAMA_SERVER names, else one in PATH, else the one that was built under `root`."""
    named = os.environ.get(VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"{VARIABLE}={named}: not a program; name the llama-server, or unset the variable")
        return Path(named)
    found = shutil.which("llama-server")
    if found:
        return Path(found)
    return root / BUILT if os.access(root / BUILT, os.X_OK) else None


class LlamaServer:
    """A server with one model; leaving the `with` block ends it."""

    def __init__(
        self, program: Path, model: Path, *, threads: int, n_slots: int, n_ctx: int, unified: bool = False
    ) -> None:
        """Start it, and wait until it answers. n_ctx: positions of each slot. unified: one buffer for all."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        options: dict[str, object] = {
            "--model": model,
            "--host": "127.0.0.1",
            "--port": self._port,
            "--parallel": n_slots,
            "--ctx-size": n_slots * n_ctx,
            "--batch-size": 512,
            "--ubatch-size": 512,
            "--threads": threads,
            "--threads-batch": threads,
            "--threads-http": 2 * n_slots + 2,  # a connection keeps one
            "--flash-attn": "on",
            "--cache-ram": 0,
        }
        flags = ["--kv-unified" if unified else "--no-kv-unified", "--no-ui", "--log-disable"]
        self._command = [str(program), *(str(part) for option in options.items() for part in option), *flags]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, asks: Sequence[Ask]) -> list[list[float]]:
        """Send each request at its time, and wait for all; when the events of each came, in seconds after the first was sent.

        An event is a token, or several where one alone is no whole character; the last is the end. Connections are open before
        the clock starts. RuntimeError if a request is refused or nothing comes any more.
        """
        to_send = deque(sorted(range(len(asks)), key=lambda i: asks[i].at))
        requests = [self._request(ask) for ask in asks]
        answers = [_Answer(("127.0.0.1", self._port)) for _ in asks]
        n_open = len(asks)
        try:
            with selectors.DefaultSelector() as selector:
                start = time.perf_counter()
                while n_open:
                    now = time.perf_counter() - start
                    while to_send and asks[to_send[0]].at <= now:
                        which = to_send.popleft()
                        answers[which].connection.sendall(requests[which])
                        selector.register(answers[which].connection, selectors.EVENT_READ, answers[which])
                    ready = selector.select(max(0.0, asks[to_send[0]].at - now) if to_send else SILENT_SECONDS)
                    if not ready and not to_send:
                        raise RuntimeError(f"llama-server: nothing came for {SILENT_SECONDS:.0f} s; {n_open} are open")
                    now = time.perf_counter() - start
                    for key, _ in ready:
                        if key.data.read(now):
                            selector.unregister(key.data.connection)
                            n_open -= 1
        finally:
            for answer in answers:
                answer.connection.close()
        return [answer.times for answer in answers]

    def _request(self, ask: Ask) -> bytes:
        body = json.dumps(
            {
                "prompt": list(ask.ids),
                "n_predict": ask.n_new,
                "temperature": 0,
                "samplers": ["temperature"],
                "ignore_eos": True,
                "cache_prompt": False,
                "stream": True,
                "response_fields": ["content", "stop"],
            }
        ).encode()
        head = (
            f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"llama-server ended at once with {self._process.returncode}: {' '.join(self._command)}"
                )
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if connection.recv(64).startswith(b"HTTP/1.1 200"):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"llama-server did not answer within {START_SECONDS:.0f} s: {' '.join(self._command)}")


class _Answer:
    """One connection, and when the events on it came."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.connection = socket.create_connection(address)
        self.times: list[float] = []
        self._tail = b""

    def read(self, now: float) -> bool:
        """Note the events in what has come; whether the answer has ended."""
        chunk = self.connection.recv(1 << 16)
        data = self._tail + chunk
        if not chunk:
            raise RuntimeError(f"llama-server closed a connection after {len(self.times)} events")
        if not self.times and len(data) >= len(ACCEPTED) and data[:9] == ACCEPTED[:9] and data[:12] != ACCEPTED:
            raise RuntimeError(f"llama-server refused a request: {data[:500]!r}")
        whole, separator, self._tail = data.rpartition(END_OF_EVENT)
        self.times += [now] * (whole + separator).count(END_OF_EVENT)
        return self._tail.endswith(END_OF_ANSWER)
