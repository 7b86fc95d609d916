"""The figures of many requests are what they say: schedules, clocks and the client of a server, on peers whose times are known."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness, quiet
from benchmarks.figures import comparing, growth, long_context, lookup, many, reuse, scheduler
from benchmarks.figures.beside import Measured, plain, seen
from benchmarks.figures.growth import straight
from benchmarks.figures.traffic import EACH, FIRST, LAST_FIRST, Shape, schedule, serve, summary, with_texts
from benchmarks.lineup import Lineup
from benchmarks.peers.fanlight_slots import FanlightSlots
from benchmarks.peers.llama_server import VARIABLE, Ask, LlamaServer, _Answer, find
from fanlight import Model
from fanlight.decoding.strategies import sampling


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(quiet.Others, "share", lambda self: 0.0)


class OneAtATime:
    """A SlotsPeer that gives a token of the oldest request each step."""

    name = "one at a time"

    def __init__(self) -> None:
        self.waiting: list[list[Any]] = []
        self.submitted: dict[Hashable, float] = {}
        self.start = 0.0

    def clear(self) -> None:
        self.waiting.clear()
        self.start = time.perf_counter()

    def submit(self, key: Hashable, ids: Sequence[int], n_new: int) -> None:
        self.submitted[key] = time.perf_counter() - self.start
        self.waiting.append([key, n_new])

    @property
    def has_work(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[tuple[Hashable, int]]:
        first = self.waiting[0]
        first[1] -= 1
        if not first[1]:
            del self.waiting[0]
        return [(first[0], 5)]


# -- traffic -----------------------------------------------------------------------------------------------------------


def test_a_schedule_is_the_same_every_time_and_unequal() -> None:
    found = schedule(31)
    assert found == schedule(31)
    assert found != schedule(31, seed=7)
    assert found[0].at == 0.0
    assert [shape.at for shape in found] == sorted(shape.at for shape in found)
    assert len({shape.n_prompt for shape in found}) > 20
    mean = schedule(2001, mean_gap=0.03)[-1].at / 2000
    assert mean == pytest.approx(0.03, rel=0.1)


def test_requests_are_submitted_at_their_time_and_every_token_is_noted() -> None:
    peer = OneAtATime()
    asks = [Ask([1], 3, 0.05), Ask([1, 2], 1, 0.0), Ask([3], 2, 0.051)]
    times = serve(peer, asks)
    assert [len(came) for came in times] == [3, 1, 2]
    assert times[1][0] < 0.05 <= times[0][0]
    assert all(peer.submitted[i] >= ask.at - 1e-3 for i, ask in enumerate(asks))
    assert list(peer.submitted) == [1, 0, 2]


def test_a_summary_counts_from_the_time_at_which_a_request_came() -> None:
    asks = [Ask([1], 3, 0.0), Ask([1], 1, 1.0), Ask([1], 5, 2.0)]
    found = summary(asks, [[0.5, 0.7, 0.9], [1.25], [2.5, 2.6, 2.7, 2.8, 3.3]])
    assert found == 3.3
    assert found.beside[FIRST] == 0.5
    assert found.beside[LAST_FIRST] == pytest.approx(0.5)
    assert found.beside[EACH] == pytest.approx(200.0)  # of 200 and 200; one token has no next


def test_texts_of_a_round_have_the_lengths_of_the_schedule() -> None:
    lineup = Lineup(threads=1, rounds=1)
    lineup.__dict__["text_ids"] = list(range(31))
    shapes = [Shape(7, 1, 0.0), Shape(33, 2, 0.5), Shape(1, 3, 0.6)]
    first, second = with_texts(shapes, lineup.windows, 0), with_texts(shapes, lineup.windows, 1)
    assert [(len(ask.ids), ask.n_new, ask.at) for ask in first] == [tuple(shape) for shape in shapes]
    assert first[1].ids[:3] != first[0].ids[:3]
    assert {ask.ids[0] for ask in first}.isdisjoint(ask.ids[0] for ask in second)
    assert first[1].ids[31:] == first[1].ids[:2]  # the text again from its beginning


def test_what_was_seen_stays_with_the_run_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.0, 0.8, 0.0, 0.7, 0.0])
    monkeypatch.setattr(quiet.Others, "share", lambda self: next(shares))
    runs = iter(range(100))

    def contender(turn: int) -> float:
        value = next(runs)
        return Measured(value, {"tenfold": 10 * value})

    found = harness.race({"a": contender}, rounds=2)["a"]
    assert plain(found) == [3.0, 5.0]  # 0, 2 and 4 were disturbed, 1 was the warm-up
    assert seen(found, "tenfold") == [30.0, 50.0]


# -- llama.cpp's server ------------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = b'10\r\ndata: {"content":" a\\n\\n"}\n\n\r\n10\r\ndata: {"stop":true}\n\n\r\n0\r\n\r\n'


@pytest.fixture
def answer() -> Iterator[tuple[_Answer, socket.socket]]:
    ours, theirs = socket.socketpair()
    made = object.__new__(_Answer)
    made.connection, made.times, made._tail = ours, [], b""
    with ours, theirs:
        yield made, theirs


@pytest.mark.parametrize("size", [1, 2, 7, 31, 1000])
def test_events_are_counted_however_they_are_cut(size: int, answer: tuple[_Answer, socket.socket]) -> None:
    ours, theirs = answer
    data = HEAD + EVENTS
    ended = []
    for i, start in enumerate(range(0, len(data), size)):
        theirs.sendall(data[start : start + size])
        ended.append(ours.read(float(i)))
    assert ended == [False] * (len(ended) - 1) + [True]
    assert len(ours.times) == 2
    assert ours.times == sorted(ours.times)


def test_a_refusal_and_a_closed_connection_are_errors(answer: tuple[_Answer, socket.socket]) -> None:
    ours, theirs = answer
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nno such token")
    with pytest.raises(RuntimeError, match="no such token"):
        ours.read(0.0)
    theirs.close()
    with pytest.raises(RuntimeError, match="closed a connection after 0 events"):
        ours.read(0.0)


FAKE = """#!{python}
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
options = dict(zip(sys.argv[1:], sys.argv[2:]))
asked = []
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *what): pass
    def do_GET(self):
        asked.append(1)
        self.send_response(503 if len(asked) < 3 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["ignore_eos"] and not body["cache_prompt"] and body["stream"]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(body["n_predict"]):
            time.sleep(0.01 * len(body["prompt"]))
            event = b"data: " + json.dumps({{"content": str(i), "stop": False}}).encode() + b"\\n\\n"
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(event), event))
        self.wfile.write(b"0\\r\\n\\r\\n")
ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    found = tmp_path / "llama-server"
    found.write_text(FAKE.format(python=sys.executable), encoding="utf-8")
    found.chmod(0o755)
    return found


def test_a_server_is_waited_for_asked_on_time_and_ended(program: Path) -> None:
    with LlamaServer(program, Path("a.gguf"), threads=1, n_slots=3, n_ctx=64) as server:
        times = server.ask([Ask([1, 2], 3, 0.15), Ask([1], 5), Ask([1, 2, 3], 1, 0.05), Ask([1], 2, 0.05)])
        process = server._process
    assert [len(came) for came in times] == [3, 5, 1, 2]
    assert times[0][0] > 0.15
    assert times[1][0] < times[0][0]
    assert all(came == sorted(came) for came in times)
    assert process.poll() is not None


def test_a_program_that_ends_at_once_is_an_error_with_its_command(tmp_path: Path) -> None:
    broken = tmp_path / "llama-server"
    broken.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"ended at once with 3: .*--parallel 2"):
        LlamaServer(broken, Path("a.gguf"), threads=1, n_slots=2, n_ctx=64)


def test_the_server_is_found_by_variable_path_or_build(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find(tmp_path / "no-root") is None
    built = tmp_path / "root" / "build" / "llama-server" / "bin" / "llama-server"
    built.parent.mkdir(parents=True)
    os.link(program, built)
    assert find(tmp_path / "root") == built
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find(tmp_path / "root") == program
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match=f"{VARIABLE}=.*missing"):
        find(tmp_path)
    monkeypatch.setenv(VARIABLE, str(built))
    assert find(tmp_path) == built


# -- clocks, lines, memory ---------------------------------------------------------------------------------------------


def test_points_on_a_line_lie_on_it_and_others_do_not() -> None:
    line = straight([1, 7, 31], [5.0, 17.0, 65.0])
    assert (line.start, line.slope) == pytest.approx((3.0, 2.0))
    assert line.furthest == pytest.approx(0.0, abs=1e-9)
    assert straight([1, 2, 3, 4], [1.0, 4.0, 9.0, 16.0]).furthest > 0.3


def test_a_clock_counts_calls_that_fail_too() -> None:
    clock = scheduler.Clock()

    def slow(fails: bool) -> int:
        time.sleep(0.01)
        if fails:
            raise ValueError("no")
        return 7

    timed = clock.around(slow)
    assert timed(False) == 7
    once = clock.seconds
    with contextlib.suppress(ValueError):
        timed(True)
    assert 0.01 <= once < clock.seconds


def part(done: int, resident: int) -> many.Part:
    return {"done": done, "tokens": 160, "seconds": 0.5, "resident": resident}


@pytest.mark.parametrize(("growing", "lost"), [(0, 0), (9_000_000, 0), (0, 3)])
def test_memory_that_grows_or_a_lost_prompt_misses_the_goal(
    growing: int, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [part(10 * (i + 1), 300_000_000 + growing * i) for i in range(20)]
    parts[-1]["done"] -= lost
    parts[0]["resident"] = 100_000_000  # the start does not count
    monkeypatch.setattr(many, "in_its_own_process", lambda *what: parts)
    memory, errors = many.run(Lineup(threads=1, rounds=1), prompts=200).goals
    assert (memory.met, errors.met) == (not growing, not lost)
    assert errors.found == lost


# -- on the default model, small ---------------------------------------------------------------------------------------


def test_a_batch_that_is_raced_writes_what_each_prompt_gives_alone(smollm: Model) -> None:
    peer = FanlightSlots(smollm, name="ours", n_slots=3)
    prompts = [[1, 504, 335], [1, 9, 28, 216, 31], [260]]
    peer.begin(prompts)
    found = peer.advance(6)
    alone = [smollm.generate(ids, do_sample=False, ignore_eos=True, max_new_tokens=16).ids for ids in prompts]
    assert [len(ids) for ids in found] == [6, 6, 6]
    for mine, whole in zip(found, alone, strict=True):
        assert any(
            tuple(mine) == whole[at : at + 6] for at in range(1, 4)
        )  # the first ones came while others were read
    peer.clear()
    assert not peer.has_work
    peer.submit("x", prompts[1], 4)
    chosen = []
    while peer.has_work:
        chosen += peer.step()
    assert chosen == [("x", token) for token in alone[1][:4]]


@pytest.fixture(scope="module")
def lineup() -> Lineup:
    return Lineup(threads=2, rounds=1)


FIGURES: dict[str, Callable[[Lineup, Path], harness.Outcome]] = {
    "compare": lambda lineup, folder: comparing.run(lineup, tokens=3),
    "long-context": lambda lineup, folder: long_context.run(lineup, long=193, tokens=2),
    "growth": lambda lineup, folder: growth.run(lineup, contexts=(31, 65, 130), picture=folder / "context.png"),
    "lookup": lambda lineup, folder: lookup.run(lineup, tokens=9),
    "many": lambda lineup, folder: many.run(lineup, prompts=33),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_runs_and_its_samples_can_be_saved(name: str, lineup: Lineup, tmp_path: Path) -> None:
    outcome = FIGURES[name](lineup, tmp_path)
    assert outcome.figure == name
    assert outcome.goals
    assert all(value >= 0 for values in outcome.samples.values() for value in values)
    harness.save(outcome, tmp_path / "results.jsonl", others=None)
    assert (tmp_path / "results.jsonl").stat().st_size > 0


def test_the_clocks_see_the_whole_step_and_leave_nothing_behind(lineup: Lineup) -> None:
    before = sampling.decide
    samples = scheduler.run(lineup, sequences=3, tokens=3).samples
    assert sampling.decide is before
    parts = [samples[what][0] for what in (scheduler.LOOP, scheduler.FORWARD, scheduler.DECIDE, scheduler.TEXT)]
    assert sum(parts) == pytest.approx(100)
    assert all(share > 0 for share in parts)


def test_what_a_second_turn_reuses_is_counted(lineup: Lineup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "FIRST_ANSWER", 5)
    samples = reuse.run(lineup, characters=300).samples
    assert samples[f"{reuse.REUSED}, {reuse.WITHOUT}"] == [0]
    assert samples[f"{reuse.REUSED}, {reuse.WITH}"][0] > samples[f"{reuse.COMPUTED}, {reuse.WITH}"][0] > 0
