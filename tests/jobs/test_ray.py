"""The batch job on a real Ray, with two nodes on this machine: the same results as here, whatever dies."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import run as run_process
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from fanlight.api import load
from fanlight.batch.ray_job import RayOptions, RayRows
from fanlight.batch.rows import Row
from fanlight.batch.worker import Worker
from fanlight.errors import ModelNotFound, OptionError
from jobs.troubled import POISON, Troubled

ray = pytest.importorskip("ray")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.cluster_utils import Cluster

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src"
BASE = {"seed": 20}
BATCH = 3
STORE_BYTES = 100 << 20
FAST_CHECKS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


class Running(NamedTuple):
    """A cluster of a head without CPUs and nodes of one CPU each, to which this process is connected."""

    cluster: Cluster
    nodes: list[Any]


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from models import tiny

    return str(tiny.write_folder(tmp_path_factory.mktemp("model") / "tiny", tiny.llama()))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
        "_system_config": FAST_CHECKS,
    }
    with pytest.MonkeyPatch.context() as patch:  # workers import the models of these tests
        patch.setenv("PYTHONPATH", os.pathsep.join([str(SOURCE), str(TESTS)]))
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(2)]
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield Running(cluster, nodes)
    finally:
        ray.shutdown()
        cluster.shutdown()


def rows_of(count: int, **at: Any) -> list[Row]:
    """Rows of unequal lengths and settings. at: other prompts, by "row_3"."""
    return [
        Row(
            index,
            f"row {index}",
            at.get(f"row_{index}", f"the thing {index}" * (1 + index % 3)),
            {"max_new_tokens": 3 + index % 7, **({"do_sample": True, "temperature": 1.5} if index % 2 else {})},
            {"kept": index} if index % 5 == 0 else None,
        )
        for index in range(count)
    ]


def collected(results: Iterator[tuple[Row, dict[str, Any]]]) -> dict[int, dict[str, Any]]:
    """By index, each once; without what depends on what ran beside it."""
    found: dict[int, dict[str, Any]] = {}
    for row, result in results:
        assert row.index == result["index"]
        assert row.index not in found, f"row {row.index} came twice"
        found[row.index] = {key: value for key, value in result.items() if key != "usage"}
    return found


def here(folder: str, rows: list[Row]) -> dict[int, dict[str, Any]]:
    """What the same rows give in this process, without Ray."""
    return collected(Worker(load(folder), BASE, BATCH).run(iter(rows)))


def test_results_are_those_of_this_process_but_for_the_row_that_kills_its_worker(
    running: Running, tiny_folder: str
) -> None:
    rows = rows_of(29, row_4="x" * 900, row_20=POISON)  # longer than the window: an error of its row
    rows[6] = replace(rows[6], settings={"temperature": -3.0})
    notes: list[str] = []
    with RayRows(
        running.cluster.address, partial(Troubled, tiny_folder), max_batch=BATCH, on_note=notes.append
    ) as ray_rows:
        run = ray_rows.start(BASE)
        found = collected(run(iter(rows[:11]))) | collected(run(iter(rows[11:])))  # one pool for both
        assert collected(run(iter([]))) == {}
    killer, expected = found.pop(20), here(tiny_folder, rows)
    del expected[20]
    assert found == expected
    assert [found[i]["error"]["type"] for i in (4, 6)] == ["ContextOverflow", "OptionError"]
    assert (killer["id"], killer["metadata"]) == ("row 20", {"kept": 20})
    assert "died each of the 2 times that this row ran" in killer["error"]["message"]
    assert notes[0] == "2 workers of 1 CPU on Ray"
    assert ray.is_initialized()  # whose the connection is keeps it


def test_a_model_that_is_not_on_a_worker_ends_the_job_and_says_where(running: Running, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.gguf")
    with (
        RayRows(running.cluster.address, partial(load, missing), max_batch=BATCH) as ray_rows,
        pytest.raises(ModelNotFound, match=r"worker on .*missing\.gguf.*every node of the cluster needs the model"),
    ):
        collected(ray_rows.start(BASE)(iter(rows_of(2))))


def test_more_workers_than_fit_are_refused_with_both_numbers(running: Running, tiny_folder: str) -> None:
    ray_rows = RayRows(running.cluster.address, partial(load, tiny_folder), options=RayOptions(actors=3))
    with pytest.raises(OptionError, match="--ray-actors 3: each needs at least 1 CPU, and the cluster has 2"):
        ray_rows.start(BASE)


def test_a_node_killed_mid_way_loses_no_row_and_repeats_none(running: Running, tiny_folder: str) -> None:
    """The other node has no room for its worker: Ray alone would wait for ever with the rows that this one had."""
    rows = rows_of(60)
    notes: list[str] = []
    found: dict[int, dict[str, Any]] = {}
    with RayRows(
        running.cluster.address, partial(Troubled, tiny_folder, 0.05), max_batch=BATCH, on_note=notes.append
    ) as ray_rows:
        for row, result in ray_rows.start(BASE)(iter(rows)):
            found |= {row.index: result} if row.index not in found else pytest.fail(f"row {row.index} came twice")
            if len(found) == 13:
                running.cluster.remove_node(running.nodes[0], allow_graceful=False)
    assert collected((rows[index], result) for index, result in found.items()) == here(tiny_folder, rows)
    assert "1 worker died; what it had is computed again" in notes


def test_the_command_with_ray_local_writes_the_file_of_the_command_without(tmp_path: Path, tiny_folder: str) -> None:
    """And goes on where another run ended, and leaves neither words nor files of Ray behind."""
    lines = [{"id": row.id, "prompt": row.prompt, **row.settings} for row in rows_of(11)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "no row\n")
    alone = command(tmp_path, tiny_folder, "in.jsonl", "-o", "alone.jsonl")
    command(tmp_path, tiny_folder, "in.jsonl", "-o", "on_ray.jsonl", "--limit", "4")
    began = time.time()
    on_ray = command(tmp_path, tiny_folder, "in.jsonl", "-o", "on_ray.jsonl", "--resume", "--ray", "local")
    assert (tmp_path / "on_ray.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert on_ray.stdout == alone.stdout == ""
    assert [line for line in on_ray.stderr.splitlines() if "ray" in line.lower().replace("on_ray.jsonl", "")] == [
        f"note: 1 worker of {len(os.sched_getaffinity(0))} CPU{'s' * (len(os.sched_getaffinity(0)) > 1)} on Ray"
    ]
    assert not [
        path for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("fanlight-ray-*") if path.stat().st_mtime > began
    ]


def command(folder: Path, model: str, *words: str) -> Any:
    """`fanlight batch ...`, one row of which fails."""
    own = [
        sys.executable,
        "-m",
        "fanlight",
        "batch",
        *words,
        "--model",
        model,
        "--seed",
        "20",
        "--max-batch",
        str(BATCH),
    ]
    paths = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    for name in ("RAY_ADDRESS", "FANLIGHT_MODEL"):
        environment.pop(name, None)
    done = run_process(own, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode in (0, 3), done.stderr
    return done
