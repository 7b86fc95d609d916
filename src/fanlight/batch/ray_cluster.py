"""An address -> a Ray to run on, and how many workers fit. Knows no rows and no model.

`local` starts one in this process's machine and ends it again: no usage statistics, no dashboard, no logs on the terminal.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from fanlight.errors import FanlightError, MissingExtra, OptionError

LOCAL = "local"
PROBE_SECONDS = 5.0
QUIET = {  # read when Ray is imported, or starts
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # CUDA_VISIBLE_DEVICES stays, and nothing is announced
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # what the cluster has to say would go to standard output
}
"""Variables that keep Ray from calling home and from writing on the terminal; who sets one has it as set."""
LOCAL_STORE_BYTES = 256 << 20  # chunks of rows and their results are small, and few are on their way


class Node(NamedTuple):
    """A living machine of the cluster."""

    id: str
    name: str
    n_cpus: int


class Pool(NamedTuple):
    """Workers, and the CPUs and threads of each."""

    n_workers: int
    n_cpus: int


def plan_pool(nodes: Sequence[Node], actors: int | None, cpus: int | None) -> Pool:
    """How to share the CPUs. actors, cpus: as asked for; None: as many as fit, each with as many CPUs as all nodes can give.

    Errors: OptionError if no node has that many CPUs, or all together have too few.
    """
    for option, value in (("--ray-actors", actors), ("--ray-cpus", cpus)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise OptionError(f"{option} must be a whole number from 1: got {value!r:.80}")
    sizes = [node.n_cpus for node in nodes if node.n_cpus > 0]
    shown = ", ".join(f"{node.name} has {node.n_cpus}" for node in nodes[:8]) + (", ..." if len(nodes) > 8 else "")
    if not sizes:
        raise OptionError(
            f"no node of the Ray cluster has a CPU to compute with: {shown or 'there is no node'}; add nodes"
        )
    if cpus is None and actors is None:
        cpus = min(sizes)
    elif cpus is None:
        cpus = next((c for c in range(max(sizes), 0, -1) if _n_fitting(sizes, c) >= (actors or 1)), None)
        if cpus is None:
            raise OptionError(
                f"--ray-actors {actors}: each needs at least 1 CPU, and the cluster has {sum(sizes)}: {shown}; ask for fewer"
            )
    n_fitting = _n_fitting(sizes, cpus)
    if n_fitting == 0:
        raise OptionError(f"--ray-cpus {cpus}: no node has that many CPUs: {shown}; ask for at most {max(sizes)}")
    if actors is not None and actors > n_fitting:
        raise OptionError(
            f"--ray-actors {actors} with {cpus} CPUs each: {n_fitting} of them fit into the cluster: {shown}; "
            "ask for fewer, or for fewer CPUs each"
        )
    return Pool(n_fitting if actors is None else actors, cpus)


def _n_fitting(sizes: Sequence[int], cpus: int) -> int:
    return sum(size // cpus for size in sizes)


def all_nodes() -> tuple[list[Node], frozenset[str]]:
    """(the living, the ids of the dead)."""
    import ray

    found = ray.nodes()
    living = [
        Node(
            node["NodeID"],
            str(node.get("NodeName") or node["NodeManagerAddress"]),
            int(node["Resources"].get("CPU", 0)),
        )
        for node in found
        if node["Alive"]
    ]
    return living, frozenset(node["NodeID"] for node in found if not node["Alive"])


@contextmanager
def connected(address: str, runtime_env: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Ray is there, and gone afterwards unless it was there before.

    address: `local`, `auto` (the cluster of this machine, or RAY_ADDRESS) or host:port. Errors: MissingExtra, OptionError,
    FanlightError.
    """
    _check_address(address)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra(f"Ray Data is not installed ({error}): pip install 'fanlight[ray]'") from error
    _hush()
    if ray.is_initialized():  # by a caller in this process, whose it stays
        yield
        return
    folder = tempfile.mkdtemp(prefix="fanlight-ray-") if address == LOCAL else None
    try:
        try:
            with _muted():
                _start(address, folder, runtime_env)
        except Exception as error:
            raise _explained(address, error) from error
        yield
    finally:
        with suppress(Exception):
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(address: str, folder: str | None, runtime_env: Mapping[str, Any] | None) -> None:
    import ray

    more: dict[str, Any] = {}
    if folder is not None:
        more = {
            "include_dashboard": False,
            "object_store_memory": LOCAL_STORE_BYTES,
            "_temp_dir": folder,
            "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "num_gpus": 0,
        }
    ray.init(
        address=address,
        runtime_env=dict(runtime_env) if runtime_env else None,
        logging_level=logging.ERROR,
        log_to_driver=False,
        **more,
    )


def _check_address(address: str) -> None:
    """What can be said before Ray is imported. Errors: OptionError; FanlightError if nothing answers there."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address in (LOCAL, "auto"):
        return
    if "://" in address:
        raise OptionError(
            f"--ray {address}: expected local, auto or host:port, found an address of Ray Client, through which Ray Data does "
            "not stream; run fanlight on a machine of the cluster with --ray auto, or with ray job submit"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise OptionError(f"--ray {address}: expected local, auto or host:port, as in 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise FanlightError(
            f"--ray {address}: nothing answers there ({error.strerror or error}); is the head node running? start it with: "
            f"ray start --head --port={port}"
        ) from error


def _explained(address: str, error: Exception) -> FanlightError:
    first = next(iter(str(error).splitlines()), "")
    if address == "auto" and isinstance(error, ConnectionError):
        return FanlightError(
            "--ray auto: no Ray runs on this machine; start or join a cluster with ray start, give host:port, or use --ray local"
        )
    if address == LOCAL:
        return FanlightError(f"--ray local: Ray did not start: {type(error).__name__}: {first}")
    return FanlightError(
        f"--ray {address}: this process cannot join the cluster: {type(error).__name__}: {first}; run it on a machine of the "
        "cluster, with the same versions of Ray and Python"
    )


@contextmanager
def _muted() -> Iterator[None]:
    """Whatever is written to standard error goes nowhere: Ray's C++ announces there that it will be quiet."""
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is none
        yield
        return
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _hush() -> None:
    """Leave Ray Data's messages in its log files: the terminal shows the job's own progress."""
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) or type(handler).__name__ == "PlainRayHandler":
                handler.setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.")
