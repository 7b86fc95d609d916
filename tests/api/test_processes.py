"""Threads, forked children and the end of a process: a model in use takes all of them as they come."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fanlight import Model

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("The lighthouse at the end of the harbour", {}),
    ("Once", {"do_sample": True, "seed": 1, "temperature": 1.3}),
    ("def quicksort(items):\n", {"repetition_penalty": 1.2}),
    ("€ 20 für", {"do_sample": True, "seed": 2, "top_p": 0.8}),
]


def test_threads_that_share_a_model_get_the_texts_they_get_alone(smollm: Model) -> None:
    def run(request: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
        out = smollm.generate(request[0], max_new_tokens=16, **request[1])
        return out.ids, out.text, [step.record for step in out.steps]

    alone = [run(request) for request in REQUESTS]
    with ThreadPoolExecutor(4) as pool:
        for together in (list(pool.map(run, REQUESTS)) for _ in range(2)):
            assert together == alone


START = """
import os, sys, threading, time
import fanlight
model = fanlight.load(threads=2)
def text(prompt="The lighthouse"):
    return model.generate(prompt, max_new_tokens=8).text
here = text()
"""

ENDINGS = {
    "at once": "",
    "with a stream open": "stream = model.stream('The', max_new_tokens=100); next(stream)",
    "with an exit in the middle": "for step in model.stream('The'): sys.exit(0)",
    "after threads": """
threads = [threading.Thread(target=text) for _ in range(3)]
for thread in threads: thread.start()
""",
    "while a daemon thread generates": """
def for_ever():
    while True: text()
for _ in range(2): threading.Thread(target=for_ever, daemon=True).start()
time.sleep(0.1)
""",
}


def run(source: str, printed: str = "") -> float:
    """Seconds that the process took; it must end well and print nothing else."""
    started = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", START + source + "\n"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stderr, found.stdout) == (0, "", printed)
    return time.perf_counter() - started


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_at_once_and_well(ending: str) -> None:
    assert run(ENDINGS[ending]) < 15


def test_a_forked_child_generates() -> None:
    """The threads of the kernels did not come along: the child starts its own. And the parent goes on."""
    run(
        """
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if text() == here else 1)
    assert text() == here
    assert os.waitpid(child, 0)[1] == 0
print("all")
""",
        "all\n",
    )


def test_a_child_forked_while_another_thread_generates() -> None:
    run(
        """
ended = False
def busy():
    while not ended: text()
thread = threading.Thread(target=busy)
thread.start()
for _ in range(5):
    time.sleep(0.03)
    child = os.fork()
    if child == 0:
        os._exit(0 if text() == here else 1)
    assert os.waitpid(child, 0)[1] == 0
ended = True
thread.join()
print("all")
""",
        "all\n",
    )


def test_forked_workers_generate() -> None:
    run(
        """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(text, ["The lighthouse"] * 5) == [here] * 5
print("all")
""",
        "all\n",
    )
