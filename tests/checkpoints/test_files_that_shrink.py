"""Files that lose their end, or their pages, while they are read: a typed error, where the system would end the process."""

from __future__ import annotations

import builtins
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from checkpoints import gguf_builder as b
from fanlight.checkpoints.files import map_file
from fanlight.checkpoints.gguf import open_gguf
from fanlight.checkpoints.safetensors import INDEX, open_folder, open_safetensors
from fanlight.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLUMNS = 2000, 96  # 750 KB: many pages
N_BYTES = ROWS * COLUMNS * 4
CUT = 5000  # bytes left, in the second page

LOAD_SOURCE = """
import os, sys
from fanlight.checkpoints.{module} import {open_it} as open_it
from fanlight.errors import CheckpointError
from fanlight.kernels import load_ops
from fanlight.kernels.ops import Part
path, kind, cut = sys.argv[1], sys.argv[2], int(sys.argv[3])
checkpoint = open_it(path)
data = checkpoint.arrays["w"].data
os.truncate(path, cut)
if kind == "bytes":
    assert bytes(data)[-4096:] == bytes(4096)
elif kind == "numpy":
    import numpy
    assert numpy.frombuffer(data, numpy.float32)[-1] == 0
elif kind == "tensor":
    load_ops("native").tensor(data, {columns})
else:
    ops = load_ops("native")
    ops.set_threads(int(kind))  # 1: packed by the background's thread; 3: by the pool's, too
    ops.pack({columns}, [Part(data, {rows}, "F32")], mapped=True)
    ops.finish_packing()
try:
    checkpoint.check_unchanged()
except CheckpointError as error:
    print(error)
"""


def gguf(path: Path) -> None:
    path.write_bytes(b.build(tensors=[b.Tensor(b"w", (COLUMNS, ROWS), 0, b"\1" * N_BYTES)]))


def safetensors(path: Path) -> None:
    entry = {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": [0, N_BYTES]}
    header = json.dumps({"w": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\1" * N_BYTES)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("reader", ["bytes", "numpy", "tensor", "1", "3"])
def test_a_file_cut_short_while_it_is_read_is_an_error_and_no_signal(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "m.gguf"
    gguf(path)
    size = path.stat().st_size
    script = LOAD_SOURCE.format(module="gguf", open_it="open_gguf", rows=ROWS, columns=COLUMNS)
    done = run(script, path, reader, CUT)
    assert (done.returncode, done.stderr) == (0, "")
    expected = f"{path}: the file was cut short while it was read: it had {size} bytes, expected to keep them, and has {CUT} now; "
    assert done.stdout.startswith(expected)


def test_safetensors_too_and_down_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    script = LOAD_SOURCE.format(module="safetensors", open_it="open_safetensors", rows=ROWS, columns=COLUMNS)
    for cut in (0, 1, 4096, N_BYTES):  # the last within the last page: no signal, and no zeros to be silent about
        path.unlink(missing_ok=True)
        safetensors(path)
        done = run(script, path, "1" if cut < N_BYTES else "tensor", cut)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"and has {cut} now; wait until nothing writes to it" in done.stdout


REWRITTEN = """
import os, sys
from fanlight.checkpoints.gguf import open_gguf
path = sys.argv[1]
checkpoint = open_gguf(path)
whole = open(path, "rb").read()
os.truncate(path, 4096)
bytes(checkpoint.arrays["w"].data)
with open(path, "r+b") as file:  # as long as before
    file.write(whole)
try:
    checkpoint.check_unchanged()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_file_that_has_its_length_back_is_an_error_too(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    gguf(path)
    done = run(REWRITTEN, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"CheckpointError {path}: a part of the file could not be read, expected all ")


def test_a_file_that_stays_as_it_is_passes(tmp_path: Path) -> None:
    gguf(tmp_path / "m.gguf")
    safetensors(tmp_path / "model-1.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "model-1.safetensors"}}))
    for checkpoint in (open_gguf(tmp_path / "m.gguf"), open_folder(tmp_path)):
        assert len(checkpoint.files) == 1
        assert bytes(checkpoint.arrays["w"].data) == b"\1" * N_BYTES
        checkpoint.check_unchanged()


def test_a_folder_watches_every_shard(tmp_path: Path) -> None:
    safetensors(tmp_path / "1.safetensors")
    other = (tmp_path / "1.safetensors").read_bytes().replace(b'"w"', b'"v"')
    (tmp_path / "2.safetensors").write_bytes(other)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "1.safetensors", "v": "2.safetensors"}}))
    checkpoint = open_folder(tmp_path)
    with (tmp_path / "2.safetensors").open("r+b") as file:
        file.truncate(N_BYTES)
    with pytest.raises(CheckpointError, match=r"2\.safetensors: the file was cut short"):
        checkpoint.check_unchanged()


SHRINKS_WHILE_IT_IS_OPENED = """
import os, sys
from fanlight.checkpoints import gguf
path = sys.argv[1]
start = gguf._read_start
def cut(cursor):
    os.truncate(path, 0)
    return start(cursor)
gguf._read_start = cut
try:
    gguf.open_gguf(path)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_the_header_may_go_as_well(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    gguf(path)
    done = run(SHRINKS_WHILE_IT_IS_OPENED, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"CheckpointError {path}: the file was cut short while it was read")


# -- without the native module, and other people's signals --------------------------------------------------------------


def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "fanlight.kernels._native":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_where_nothing_can_guard_a_mapping_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_native(monkeypatch)
    gguf(tmp_path / "m.gguf")
    safetensors(tmp_path / "m.safetensors")
    for checkpoint in (open_gguf(tmp_path / "m.gguf"), open_safetensors(tmp_path / "m.safetensors")):
        path = tmp_path / ("m." + checkpoint.format)
        path.write_bytes(b"")
        assert checkpoint.arrays["w"].data.readonly
        assert bytes(checkpoint.arrays["w"].data) == b"\1" * N_BYTES
        checkpoint.check_unchanged()


def test_what_is_read_is_a_mapping_otherwise(tmp_path: Path) -> None:
    gguf(tmp_path / "m.gguf")
    assert not isinstance(map_file(tmp_path / "m.gguf", "a file").data, bytes)


FOREIGN = """
import faulthandler, mmap, os, signal, sys
from fanlight.checkpoints.files import map_file
path, kind, order = sys.argv[1:4]
open(path, "wb").write(bytes(100_000))
if order == "before" and kind == "faulthandler":
    faulthandler.enable()
if kind == "ignored":
    signal.signal(signal.SIGBUS, signal.SIG_IGN)
kept = [map_file(path, "a file"), map_file(path, "a file")]
if order == "after" and kind == "faulthandler":
    faulthandler.enable()
if order == "gone":
    kept.clear()
if kind in ("sent", "ignored"):
    os.kill(os.getpid(), signal.SIGBUS)
    print("alive")
else:
    foreign = mmap.mmap(os.open(path, os.O_RDONLY), 0, access=mmap.ACCESS_READ)
    os.truncate(path, 0)
    foreign[90_000]
"""


@pytest.mark.parametrize("order", ["before", "after", "gone"])
@pytest.mark.parametrize("kind", ["plain", "faulthandler", "sent"])
def test_bus_errors_elsewhere_end_the_process_as_ever(tmp_path: Path, kind: str, order: str) -> None:
    done = run(FOREIGN, tmp_path / "f", kind, order)
    assert done.returncode == -signal.SIGBUS
    assert ("Fatal Python error: Bus error" in done.stderr) == (kind == "faulthandler" and order != "gone")
    assert "alive" not in done.stdout


@pytest.mark.parametrize("order", ["before", "gone"])
def test_an_ignored_signal_stays_ignored(tmp_path: Path, order: str) -> None:
    assert run(FOREIGN, tmp_path / "f", "ignored", order).stdout == "alive\n"
