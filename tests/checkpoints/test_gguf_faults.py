"""GGUF files that are wrong: each fault is one CheckpointError, on one line, that says where, what, and what to do."""

from __future__ import annotations

import os
import re
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoints import gguf_builder as b
from fanlight.checkpoints.arrays import Checkpoint
from fanlight.checkpoints.gguf import open_gguf
from fanlight.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

HUGE = 2**64 - 1
T = b.Tensor(b"t", (4,), 0, b"z" * 16)


def fault(path: Path) -> str:
    """The message, which must name the file and be one line that ends in what to do."""
    with pytest.raises(CheckpointError) as caught:
        open_gguf(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert ";" in message
    assert len(message) < 700 + len(str(path))
    return message


def nested(depth: int) -> b.Entry:
    return b.Entry(b"deep", b.ARRAY, (b.u32(b.ARRAY) + b.u64(1)) * (depth - 1) + b.u32(b.U8) + b.u64(1) + b"\x07")


def big_endian() -> bytes:
    return b"GGUF" + struct.pack(">IQQ", 3, 0, 0)


FAULTS: dict[str, tuple[bytes, str]] = {
    # the container
    "empty file": (b"", "expected a GGUF file, found an empty file; download"),
    "three bytes": (b"GGU", "found 3 bytes, too short"),
    "foreign bytes": (b"\x7fELF" + b"x" * 60, r"b'GGUF' at byte 0.*found bytes b'\\x7fELFxxxx'.*right file"),
    "safetensors": (b"\x40" + b"\0" * 7 + b'{"a": 1}', "found a safetensors file; open it as one"),
    "zip": (b"PK\x03\x04" + b"x" * 60, "found a ZIP archive, as PyTorch saves; it is not opened, .*convert"),
    "pickle": (
        b"\x80\x02\x8a\nl\xfc\x9cF" + b"x" * 60,
        "found a Python pickle, as PyTorch saves; it is not opened, .*convert",
    ),
    "web page": (b"\n<!DOCTYPE html><html>", "found a web page.*download the file itself"),
    "html": (b"<HTML><head>", "found a web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer.*git lfs pull"),
    "old ggml": (b"tjgg" + b"x" * 60, "before GGUF; convert"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras saves; convert"),
    "gzip": (b"\x1f\x8b\x08\0", "a gzip archive; unpack"),
    "zeros": (b"\0" * 64, "found zeros; .*download it again"),
    "json": (b'{"architectures": []}', "a JSON text; pass the file that holds the weights"),
    "big-endian": (big_endian(), "version at byte 4 shows a big-endian GGUF file, expected a little-endian one; get"),
    "version 0": (b.build(version=0), "GGUF version 0 at byte 4, expected version 2 or 3"),
    "version 1": (b.build(version=1), "GGUF version 1 at byte 4, expected version 2 or 3; convert"),
    "version 4": (b.build(version=4), "GGUF version 4 at byte 4, expected version 2 or 3; get a newer Fanlight"),
    "magic only": (b"GGUF", "the version at byte 4 takes 4 bytes, but the file ends at byte 4; .*incomplete"),
    "no counts": (b.build()[:12], "the number of tensors at byte 8 takes 8 bytes, but the file ends at byte 12"),
    "too many tensors": (
        b.build(n_tensors=HUGE),
        rf"byte 8 that there are {HUGE} tensors, but the 8 bytes left of the file hold at",
    ),
    "too many entries": (
        b.build(n_entries=HUGE),
        rf"byte 16 that there are {HUGE} metadata entries, but the 8 bytes left",
    ),
    "one tensor too many": (
        b.build(tensors=[T], n_tensors=2),
        r"a tensor's name at byte 65 claims to be \d+ bytes long, but 31 are left",
    ),
    # metadata
    "key past the end": (
        b.build([b.Entry(b"abc", b.U8, b"\0")]).replace(b.u64(3) + b"abc", b.u64(HUGE) + b"abc"),
        rf"key of metadata entry 0 at byte 32 claims to be {HUGE} bytes long, but \d+ are left",
    ),
    "key not UTF-8": (b.build([b.Entry(b"\xff", b.U8, b"\0")]), "key of metadata entry 0 at byte 24 is not UTF-8"),
    "unknown value type": (
        b.build([b.Entry(b"k", 13, b"\0" * 8)]),
        "value 'k' at byte 37 has type 13, expected a type",
    ),
    "unknown element type": (
        b.build([b.Entry(b"k", b.ARRAY, b.u32(99) + b.u64(1))]),
        "value 'k' at byte 37 has elements of type 99, expected a type from 0 to 12",
    ),
    "bool 2": (b.build([b.number("k", b.BOOL, 2)]), "value 'k' at byte 37 is the bool 2, expected 0 or 1"),
    "bools with 2": (
        b.build([b.numbers("k", b.BOOL, [0, 1, 2])]),
        "value 'k' at byte 49 holds the bool 2, expected 0 or",
    ),
    "string past the end": (
        b.build([b.Entry(b"k", b.STRING, b.u64(1000) + b"abc")]),
        "value 'k' at byte 45 claims to be 1000 bytes long, but 19 are left",
    ),
    "too many strings": (
        b.build([b.Entry(b"k", b.ARRAY, b.u32(b.STRING) + b.u64(2**40))]),
        f"byte 41 that there are {2**40} strings in metadata value 'k', but the 15 bytes left of the file hold at most 1",
    ),
    "too many numbers": (
        b.build([b.Entry(b"k", b.ARRAY, b.u32(b.F64) + b.u64(2**61))]),
        f"there are {2**61} numbers in metadata value 'k'",
    ),
    "too many arrays": (
        b.build([b.Entry(b"k", b.ARRAY, b.u32(b.ARRAY) + b.u64(HUGE))]),
        f"there are {HUGE} arrays in metadata value 'k'",
    ),
    "string of an array past the end": (
        b.build([b.Entry(b"k", b.ARRAY, b.u32(b.STRING) + b.u64(3) + b.string("ab") + b.u64(2**33) + b"c" * 40)]),
        rf"string 1 of metadata value 'k' at byte 67 claims to be {2**33} bytes long",
    ),
    "short string of an array past the end": (
        b.build([b.Entry(b"k", b.ARRAY, b.u32(b.STRING) + b.u64(2) + b.string("ab") + b.u64(200) + b"c" * 40)]),
        "string 1 of metadata value 'k' at byte 67 claims to be 200 bytes long",
    ),
    "the last string of the file cut short": (
        b.build()[:16] + b.u64(1) + b.string("k") + b.u32(b.ARRAY) + b.u32(b.STRING) + b.u64(1) + b.u64(41) + b"c" * 40,
        "string 0 of metadata value 'k' at byte 57 claims to be 41 bytes long, but 40 are left",
    ),
    "description cut short": (
        b.build(tensors=[T])[:45] + b"\xff" * 9,
        "the description of tensor 't' at byte 37 takes 20 bytes, but the file ends at byte 54",
    ),
    "arrays nested too deep": (b.build([nested(5)]), "value 'deep' nests arrays more than 4 deep at byte"),
    "duplicate key": (b.build([b.text("k", "a"), b.text("k", "b")]), "key 'k' at byte 46 occurs twice, expected once"),
    "alignment 0": (
        b.build([b.number("general.alignment", b.U32, 0)]),
        "'general.alignment' is 0, expected a power of",
    ),
    "alignment 48": (
        b.build([b.number("general.alignment", b.U32, 48)]),
        "'general.alignment' is 48, expected a power",
    ),
    "alignment 4": (b.build([b.number("general.alignment", b.U32, 4)]), "'general.alignment' is 4, expected a power"),
    "alignment huge": (
        b.build([b.number("general.alignment", b.U64, 2**63)]),
        "'general.alignment' is 9223372036854775808",
    ),
    "alignment text": (b.build([b.text("general.alignment", "32")]), "'general.alignment' is '32', expected a power"),
    "alignment array": (
        b.build([b.numbers("general.alignment", b.U8, [32])]),
        "'general.alignment' is an array, expected",
    ),
    "one of several parts": (
        b.build([b.number("split.count", b.U16, 3)]),
        "one of 3 parts .*expected a whole model; join",
    ),
    # tensors
    "name not UTF-8": (b.build(tensors=[T._replace(name=b"\xc3(")]), "a tensor's name at byte 24 is not UTF-8"),
    "name past the end": (
        b.build(tensors=[T]).replace(b.u64(1) + b"t", b.u64(5000) + b"t"),
        "a tensor's name at byte 32 claims to be 5000 bytes long",
    ),
    "five dims": (b.build(tensors=[T._replace(dims=(1,) * 5)]), "tensor 't' at byte 24 has 5 dims, expected at most 4"),
    "many dims": (
        b.build(tensors=[T._replace(n_dims=2**32 - 1)]),
        "tensor 't' at byte 24 has 4294967295 dims, expected",
    ),
    "a dim of zero": (
        b.build(tensors=[T._replace(dims=(4, 0))]),
        r"tensor 't' at byte 24 has the dims \[4, 0\], expected",
    ),
    "dims that overflow": (
        b.build(tensors=[T._replace(dims=(2**32, 2**32))]),
        r"tensor 't' at byte 24 has the dims \[4294967296, 4294967296\], expected 1 to",
    ),
    "dims that wrap around to a small number": (
        b.build(tensors=[T._replace(dims=(2**62, 4, 1, 1))]),
        "tensor 't' at byte 24 has the dims .*expected 1 to",
    ),
    "unknown tensor type": (
        b.build(tensors=[T._replace(type=77)]),
        r"'t' at byte 24 has type number 77 \(not known here\)",
    ),
    "withdrawn tensor type": (b.build(tensors=[T._replace(type=31)]), r"type number 31 \(Q4_0_4_4, a withdrawn type\)"),
    "a row of part of a block": (
        b.build(tensors=[T._replace(dims=(48, 2), type=8)]),
        "tensor 't' at byte 24 has rows of 48 weights, expected a multiple of 32 as Q8_0 stores",
    ),
    "offset not aligned": (
        b.build(tensors=[T._replace(offset=8)]),
        "'t' has offset 8, expected a multiple of the alignment 32",
    ),
    "offset past the end": (
        b.build(tensors=[T._replace(offset=2**40)]),
        "tensor 't' ends at byte .*download is incomplete",
    ),
    "offset at the end of numbers": (
        b.build(tensors=[T._replace(offset=2**64 - 32)]),
        "tensor 't' ends at byte 18446744073709551",
    ),
    "overlap": (
        b.build(tensors=[T._replace(dims=(16,), data=b"z" * 64), T._replace(name=b"u", offset=32)]),
        "tensor 't' ends at byte 160, but tensor 'u' begins at byte 128, expected no overlap",
    ),
    "same place": (
        b.build(tensors=[T, T._replace(name=b"u", offset=0)]),
        "tensor '[tu]' ends at byte .*expected no overlap",
    ),
    "duplicate tensor": (b.build(tensors=[T, T]), "tensor 't' occurs twice, expected once"),
    "data cut short": (
        b.build(tensors=[T])[:79],
        "'t' ends at byte 80, but the file has 79 bytes; the download is incomplete; download",
    ),
    "no data at all": (
        b.build(tensors=[T])[:60],
        "tensor 't' ends at byte 80, but the file has 60 bytes; .*incomplete",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(tmp_path: Path, name: str) -> None:
    data, expected = FAULTS[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    message = fault(path)
    assert re.search(expected, message), message


def test_arrays_nested_four_deep_are_read(tmp_path: Path) -> None:
    path = tmp_path / "deep.gguf"
    path.write_bytes(b.build([nested(4)]))
    assert open_gguf(path).metadata["deep"][0][0][0].tolist() == [7]


def test_long_and_ugly_names_stay_on_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    for name in (b"x" * 100_000, b"\n\r\x1b[31m\x7f" * 50, "\u2028\u202e".encode() * 50):
        path.write_bytes(b.build(tensors=[T._replace(name=name, type=77)]))
        message = fault(path)
        assert message.isprintable()


def test_no_such_file(tmp_path: Path) -> None:
    assert "found nothing at this path; check its spelling" in fault(tmp_path / "none.gguf")


def test_a_folder(tmp_path: Path) -> None:
    assert "expected a GGUF file, found a folder; pass the path of the file in it" in fault(tmp_path)


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert "cannot open it (Not a directory); check path and rights" in fault(tmp_path / "file" / "model.gguf")


def test_a_nul_in_the_path() -> None:
    with pytest.raises(
        CheckpointError, match=r"'a\\x00b': expected a GGUF file, cannot open it \(embedded null byte\)"
    ):
        open_gguf("a\0b")


if hasattr(os, "mkfifo"):

    def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
        path = tmp_path / "pipe.gguf"
        os.mkfifo(path)
        assert "found a device or a pipe; pass the path of a file on disk" in fault(path)


# -- any damage at all -------------------------------------------------------------------------------------------------

GOOD = b.build(
    [
        b.text("general.architecture", "llama"),
        b.number("general.alignment", b.U32, 32),
        b.number("flag", b.BOOL, 1),
        b.texts("tokens", ["<s>", "a", "", "Ġthe", b"\xff", "x" * 300]),
        b.numbers("types", b.I32, [3, 1, 1, 1, 6, 1]),
        b.array("lists", b.ARRAY, [b.u32(b.U8) + b.u64(2) + b"\x01\x02", b.u32(b.F32) + b.u64(0)]),
    ],
    [
        b.Tensor(b"m", (5, 3), 0, b"m" * 60),
        b.Tensor(b"q", (64, 2), 3, b"q" * 80),
        b.Tensor(b"v", (7,), 30, b"v" * 14),
    ],
)
DATA_START = GOOD.index(b"m" * 60)

VALUES = st.sampled_from([0, 1, 7, 8, 9, 12, 13, 255, 256, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, HUGE])
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.integers(0, DATA_START), st.integers(0, 255)),
        st.tuples(st.just("u32"), st.integers(0, DATA_START), VALUES),
        st.tuples(st.just("u64"), st.integers(0, DATA_START), VALUES),
        st.tuples(st.just("insert"), st.integers(0, DATA_START), st.integers(0, 40)),
        st.tuples(st.just("delete"), st.integers(0, DATA_START), st.integers(1, 40)),
        st.tuples(st.just("truncate"), st.integers(0, len(GOOD)), st.just(0)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(edits: list[tuple[str, int, int]]) -> bytes:
    data = bytearray(GOOD)
    for kind, at, value in edits:
        if kind == "byte":
            data[at : at + 1] = bytes([value])
        elif kind == "u32":
            data[at : at + 4] = b.u32(value & 0xFFFFFFFF)
        elif kind == "u64":
            data[at : at + 8] = b.u64(value)
        elif kind == "insert":
            data[at:at] = b"\0\x01\xff\x08" * (value // 4)
        elif kind == "delete":
            del data[at : at + value]
        else:
            del data[at:]
    return bytes(data)


def check_any(path: Path, data: bytes, *, measured: bool = True) -> None:
    """A CheckpointError or a sound Checkpoint, and no more memory than the file justifies."""
    path.unlink(missing_ok=True)  # a new file: the old one may still be mapped
    path.write_bytes(data)
    if measured:
        tracemalloc.start()
    try:
        result: Any = open_gguf(path)
    except CheckpointError as error:
        result = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1] if measured else 0
        tracemalloc.stop()
    assert peak < 200_000 + 32 * len(data)
    if isinstance(result, Checkpoint):
        for array in result.arrays.values():
            assert array.data.nbytes <= len(data)
            assert all(dim > 0 for dim in array.shape)
            bytes(array.data)
    else:
        assert result.startswith(str(path))
        assert result.isprintable()


def test_the_file_that_damage_starts_from_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(GOOD)
    assert list(open_gguf(path).arrays) == ["m", "q", "v"]


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EDITS)
def test_any_damage_gives_an_error_or_a_sound_checkpoint(tmp_path: Path, edits: list[tuple[str, int, int]]) -> None:
    check_any(tmp_path / "damaged.gguf", damaged(edits))


@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic_give_an_error_or_a_sound_checkpoint(tmp_path: Path, tail: bytes) -> None:
    check_any(tmp_path / "noise.gguf", b"GGUF" + b.u32(3) + tail)


def test_every_truncation_gives_an_error_or_a_sound_checkpoint(tmp_path: Path) -> None:
    for size in range(len(GOOD)):
        check_any(tmp_path / "short.gguf", GOOD[:size])


@pytest.mark.parametrize("at", range(4, 24))
def test_every_header_byte_set_to_all_ones(tmp_path: Path, at: int) -> None:
    check_any(tmp_path / "ones.gguf", damaged([("byte", at, 255)]))


def test_every_number_of_the_header_at_its_limits(tmp_path: Path) -> None:
    """Wherever a count, a length, a dim, a type or an offset stands, and everywhere else."""
    limits = [("u32", 0), ("u32", 2**31), ("u32", 2**32 - 1), ("u64", 2**31), ("u64", 2**63), ("u64", HUGE)]
    for at in range(4, DATA_START):
        for kind, value in limits:
            check_any(tmp_path / "limits.gguf", damaged([(kind, at, value)]), measured=False)


@pytest.mark.parametrize("alignment", [0, 1, 3, 4, 12, 2**31 + 1, 2**32, 2**63, HUGE])
def test_an_alignment_that_is_none(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b.build([b.number("general.alignment", b.U64, alignment)], [T]))
    assert f"'general.alignment' is {alignment}, expected a power of two from 8 on" in fault(path)


def test_an_alignment_beyond_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b.build([b.number("general.alignment", b.U32, 2**31)], [T]))
    assert f"tensor 't' ends at byte {2**31 + 16}, but the file has " in fault(path)
    path.write_bytes(b.build([b.number("general.alignment", b.U32, 2**31)]))
    assert not open_gguf(path).arrays


LARGE = 1 << 36  # bytes of a file that is a hole but for its header


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            b.build(n_tensors=2**32),
            r"there are 4294967296 tensors, but the \d+ bytes left of the header \(at most 67108864",
        ),
        (b.build(n_entries=2**32), r"there are 4294967296 metadata entries, but the \d+ bytes left of the header"),
        (
            b.build(n_entries=1)[:24] + b.string("k") + b.u32(b.ARRAY) + b.u32(b.STRING) + b.u64(2**31),
            r"there are 2147483648 strings in metadata value 'k', but the \d+ bytes left of the header",
        ),
        (
            b.build(n_entries=1)[:24] + b.string("k") + b.u32(b.ARRAY) + b.u32(b.U8) + b.u64(2**31),
            r"there are 2147483648 numbers in metadata value 'k', but the \d+ bytes left of the header",
        ),
        (
            b.build(n_entries=1)[:24] + b.string("k") + b.u32(b.STRING) + b.u64(2**31),
            r"metadata value 'k' at byte 45 claims to be 2147483648 bytes long, but \d+ are left of the header",
        ),
        (
            b.build(n_entries=1)[:24] + b.u64(2**31),
            r"the key of metadata entry 0 at byte 32 claims to be 2147483648 bytes",
        ),
    ],
)
def test_a_large_file_does_not_justify_a_large_header(tmp_path: Path, header: bytes, expected: str) -> None:
    path = tmp_path / "large.gguf"
    path.write_bytes(header)
    os.truncate(path, LARGE)
    tracemalloc.start()
    started = time.monotonic()
    try:
        message = fault(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 2
    assert re.search(expected, message), message


def test_a_large_file_of_tensors_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    tensors = [b.Tensor(b"t", (2**30,), 0, b""), b.Tensor(b"u", (2**33,), 0, b"", offset=2**32)]
    path.write_bytes(b.build(tensors=tensors))
    os.truncate(path, LARGE)
    arrays = open_gguf(path).arrays
    assert [array.data.nbytes for array in arrays.values()] == [2**32, 2**35]
    assert bytes(arrays["u"].data[-4:]) == bytes(4)
