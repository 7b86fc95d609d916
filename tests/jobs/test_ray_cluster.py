"""How workers are shared out over nodes, what is said of addresses, and what the driver says of errors: without Ray."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest

from fanlight.batch.ray_cluster import Node, Pool, connected, plan_pool
from fanlight.batch.ray_desk import Trouble
from fanlight.batch.ray_job import RayOptions, RayRows, explained, refused
from fanlight.errors import FanlightError, MissingExtra, ModelNotFound, OptionError


def nodes(*n_cpus: int) -> list[Node]:
    return [Node(f"id{i}", f"node{i}", n) for i, n in enumerate(n_cpus)]


@pytest.mark.parametrize(
    ("n_cpus", "actors", "cpus", "pool"),
    [
        ((2,), None, None, Pool(1, 2)),  # all threads of the machine
        ((0, 8, 8), None, None, Pool(2, 8)),  # a head without CPUs
        ((7, 16), None, None, Pool(3, 7)),  # as many as the smallest has
        ((7, 16), 2, None, Pool(2, 8)),  # both on the larger
        ((7, 16), 3, None, Pool(3, 7)),
        ((7, 16), 4, None, Pool(4, 5)),
        ((3, 5), 8, None, Pool(8, 1)),
        ((7, 16), None, 3, Pool(7, 3)),
        ((7, 16), 4, 5, Pool(4, 5)),
    ],
)
def test_cpus_are_shared_out(n_cpus: tuple[int, ...], actors: int | None, cpus: int | None, pool: Pool) -> None:
    assert plan_pool(nodes(*n_cpus), actors, cpus) == pool


@pytest.mark.parametrize(
    ("n_cpus", "actors", "cpus", "message"),
    [
        ((3, 5), None, 6, "--ray-cpus 6: no node has that many CPUs: node0 has 3, node1 has 5; ask for at most 5"),
        ((3, 5), 9, None, "--ray-actors 9: each needs at least 1 CPU, and the cluster has 8: .*; ask for fewer"),
        ((3, 5), 3, 3, "--ray-actors 3 with 3 CPUs each: 2 of them fit into the cluster: .*; ask for fewer"),
        (
            (0, 0),
            None,
            None,
            "no node of the Ray cluster has a CPU to compute with: node0 has 0, node1 has 0; add nodes",
        ),
        ((), None, None, "no node of the Ray cluster has a CPU to compute with: there is no node; add nodes"),
        ((3,), 0, None, "--ray-actors must be a whole number from 1: got 0"),
        ((3,), None, True, "--ray-cpus must be a whole number from 1: got True"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    n_cpus: tuple[int, ...], actors: int | None, cpus: int | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        plan_pool(nodes(*n_cpus), actors, cpus)


@pytest.mark.parametrize("address", ["", "somewhere", ":6379", "host:", "host:port", "host:99999"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with (
        pytest.raises(OptionError, match=r"expected local, auto or host:port, as in 10\.0\.0\.5:6379"),
        connected(address),
    ):
        pass


def test_ray_client_is_refused_with_what_to_do_instead() -> None:
    with (
        pytest.raises(OptionError, match="run fanlight on a machine of the cluster with --ray auto"),
        connected("ray://h:1"),
    ):
        pass


def test_an_address_in_the_environment_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:1")
    with pytest.raises(OptionError, match="--ray ray://h:1: expected local, auto or host:port"), connected("auto"):
        pass


def test_an_address_where_nothing_answers_is_said_at_once() -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(FanlightError, match=f"nothing answers there .*ray start --head --port={port}"):
            RayRows(f"127.0.0.1:{port}", _no_model, options=RayOptions()).start({})


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fanlight\[ray\]'"):
        RayRows("local", _no_model).start({})


def _no_model(**_options: Any) -> Any:
    raise AssertionError("a model is read where there is no worker")


def test_a_workers_error_keeps_its_class_and_says_where() -> None:
    found = refused(Trouble("10.0.0.7", "ModelNotFound", "a.gguf: no such file"))
    assert isinstance(found, ModelNotFound)
    assert (
        str(found)
        == "worker on 10.0.0.7: a.gguf: no such file; every node of the cluster needs the model under this name"
    )
    assert (
        str(refused(Trouble("10.0.0.7", "PermissionError", "denied"))) == "worker on 10.0.0.7: PermissionError: denied"
    )
    assert type(refused(Trouble("n", "__doc__", "x"))) is FanlightError


def test_what_ended_the_stream_is_said_in_a_line() -> None:
    lost = explained(RuntimeError("traceback\n  deep\nModuleNotFoundError: No module named 'fanlight'\n"))
    assert str(lost).startswith("a worker cannot import fanlight: install it on every node")
    inner = ValueError("first\nlast words\n\n")
    outer = RuntimeError("around it")
    outer.__cause__ = inner
    assert "Ray ended the job: ValueError: last words; what is done is written" in str(explained(outer))
    kept = OptionError("as it is")
    assert explained(kept) is kept
