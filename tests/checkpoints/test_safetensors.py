"""safetensors files and Hugging Face folders, right and wrong: what is read, and that each fault names its place."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from fanlight.checkpoints.arrays import Checkpoint
from fanlight.checkpoints.safetensors import BITS, INDEX, ONE_FILE, open_folder, open_safetensors
from fanlight.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable


def raw(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: object, begin: object, end: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def fault(open_it: Callable[[Path], Checkpoint], path: Path) -> str:
    """The message, which must name the path and be one line that ends in what to do."""
    with pytest.raises(CheckpointError) as caught:
        open_it(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert ";" in message
    assert len(message) < 800 + 3 * len(str(path))
    return message


# -- one file ----------------------------------------------------------------------------------------------------------


def test_a_file_of_the_safetensors_package_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    rng = np.random.default_rng(5)
    arrays: dict[str, Any] = {
        "f64": rng.standard_normal((2, 3)),
        "f32": rng.standard_normal((3, 5), dtype=np.float32),
        "f16": rng.standard_normal((7,)).astype(np.float16),
        "i64": np.arange(6).reshape(1, 2, 3),
        "bool": np.array([True, False, True]),
        "none": np.zeros((0, 4), dtype=np.float32),
        "scalar": np.array(2.5, dtype=np.float32),
        "naïve/名": np.arange(3, dtype=np.uint8),
    }
    save_file(arrays, path, metadata={"format": "np", "é": "ü"})
    checkpoint = open_safetensors(path)
    assert checkpoint.format == "safetensors"
    assert checkpoint.path == str(path)
    assert dict(checkpoint.metadata) == {"format": "np", "é": "ü"}
    assert checkpoint.arrays.keys() == arrays.keys()
    for name, expected in arrays.items():
        array = checkpoint.arrays[name]
        assert (array.name, array.shape, bytes(array.data)) == (name, expected.shape, expected.tobytes())
        assert array.data.readonly
    assert {name: a.dtype for name, a in checkpoint.arrays.items()} == {
        "f64": "F64",
        "f32": "F32",
        "f16": "F16",
        "i64": "I64",
        "bool": "BOOL",
        "none": "F32",
        "scalar": "F32",
        "naïve/名": "U8",
    }


def test_bfloat16_and_eight_bit_floats_of_torch_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    save_torch_file({"b": x.bfloat16(), "e": x.to(torch.float8_e4m3fn)}, path)
    checkpoint = open_safetensors(path)
    assert {name: (a.dtype, a.shape, a.data.nbytes) for name, a in checkpoint.arrays.items()} == {
        "b": ("BF16", (3, 4), 24),
        "e": ("F8_E4M3", (3, 4), 12),
    }
    assert bytes(checkpoint.arrays["b"].data) == x.bfloat16().view(torch.int16).numpy().tobytes()


@pytest.mark.parametrize("dtype", BITS)
def test_every_type_has_its_size(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "d.safetensors"
    n_bytes = 8 * BITS[dtype] // 8
    path.write_bytes(raw({"x": entry([8], 0, n_bytes, dtype)}, b"\1" * n_bytes))
    assert open_safetensors(path).arrays["x"].data.nbytes == n_bytes
    path.unlink()
    path.write_bytes(raw({"x": entry([8], 0, n_bytes + 1, dtype)}, b"\1" * (n_bytes + 1)))
    assert f"hold {n_bytes + 1} bytes, expected {n_bytes} for shape [8] of {dtype}" in fault(open_safetensors, path)


def test_no_arrays_and_spaces_after_the_header_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(raw(b"{}      "))
    assert dict(open_safetensors(path).arrays) == {}


X = entry([3], 0, 12)
FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected a safetensors file, found an empty file; download"),
    "short": (b"\2\0\0\0\0\0\0\0{", "found 9 bytes, too short"),
    "gguf": (b"GGUF" + b"\0" * 60, r"\(b'{' at byte 8\), found a GGUF file; open it as one"),
    "zip": (b"PK\x03\x04" + b"\0" * 60, "found a ZIP archive, as PyTorch saves; it is not opened, .*convert"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer"),
    "web page": (b"<!doctype html><html lang=en>", "found a web page"),
    "not an object": (raw(b"[1, 2]"), r"b'{' at byte 8\), found bytes"),
    "header too long": (
        raw(b"{}", length=100_000_001),
        "header length at byte 0 is 100000001, expected at most 100000000",
    ),
    "header huge": (raw(b"{}", length=2**64 - 1), f"header length at byte 0 is {2**64 - 1}, expected at most"),
    "header past the end": (
        raw(b"{}", length=50),
        "the header ends at byte 58, but the file has 10 bytes; .*incomplete",
    ),
    "broken JSON": (raw(b'{"x": '), "header at byte 8 is not JSON that can be read .*char 6"),
    "two values": (raw(b"{}{}"), "header at byte 8 is not JSON that can be read .*Extra data"),
    "not UTF-8": (raw(b'{"\xff": 1}'), r"header at byte 8 is not UTF-8 \(invalid start byte at 2\)"),
    "UTF-16": (raw("{}".encode("utf-16-le")), "header at byte 8 is not JSON that can be read"),
    "deep JSON": (raw(b'{"x":' + b"[" * 100_000), "header at byte 8 is not JSON that can be read"),
    "long number": (raw(b'{"x":' + b"9" * 5000 + b"}"), "header at byte 8 is not JSON that can be read .*digits"),
    "duplicate name": (
        raw(b'{"x": %s, "x": %s}' % ((json.dumps(X).encode(),) * 2), b"\0" * 12),
        "header at byte 8 has the key 'x' twice, expected once",
    ),
    "duplicate field": (raw(b'{"x": {"dtype": "F32", "dtype": "F16"}}'), "has the key 'dtype' twice"),
    "metadata is a list": (raw({"__metadata__": []}), "'__metadata__' in the header, expected names with texts"),
    "metadata holds a number": (raw({"__metadata__": {"a": 1}}), "'__metadata__' in the header, expected names with"),
    "entry is a number": (raw({"x": 7}), "array 'x': expected an entry with dtype, shape and data_offsets"),
    "entry without shape": (raw({"x": {"dtype": "F32", "data_offsets": [0, 4]}}), "array 'x': expected an entry with"),
    "unknown dtype": (raw({"x": entry([1], 0, 4, "F31")}), "array 'x': dtype is 'F31', expected one of F4,"),
    "dtype is a list": (raw({"x": entry([1], 0, 4, [])}), "array 'x': dtype is a list, expected one of F4,"),
    "shape is a number": (raw({"x": entry(3, 0, 12)}), "array 'x': shape is a int, expected a list of whole numbers"),
    "negative dim": (raw({"x": entry([-3], 0, 12)}), r"array 'x': shape is \[-3\], expected a list of whole numbers"),
    "float dim": (raw({"x": entry([3.0], 0, 12)}), "array 'x': shape is a list, expected a list of whole numbers"),
    "bool dim": (raw({"x": entry([True], 0, 4)}), r"array 'x': shape is \[True\], expected a list of whole numbers"),
    "large dim": (raw({"x": entry([2**63], 0, 4)}), r"shape is \[9223372036854775808\], expected a list of whole"),
    "dims that overflow": (
        raw({"x": entry([2**40] * 20, 0, 4)}),
        r"array 'x': shape \[1099511627776, .*\.\.\.\], expected at most",
    ),
    "one offset": (
        raw({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}),
        r"data_offsets is \[0\], expected two",
    ),
    "offset as text": (raw({"x": entry([1], 0, "4")}), "array 'x': data_offsets is a list, expected two whole numbers"),
    "negative offset": (raw({"x": entry([1], -4, 0)}), r"array 'x': data_offsets is \[-4, 0\], expected two whole"),
    "offsets swapped": (
        raw({"x": entry([3], 12, 0)}, b"\0" * 12),
        r"data_offsets \[12, 0\] hold -12 bytes, expected 12",
    ),
    "wrong size": (
        raw({"x": entry([3], 0, 8)}, b"\0" * 8),
        r"'x': data_offsets \[0, 8\] hold 8 bytes, expected 12 for shape \[3\]",
    ),
    "part of a byte": (
        raw({"x": entry([3], 0, 2, "F4")}, b"\0" * 2),
        r"hold 2 bytes, expected 1.5 for shape \[3\] of F4",
    ),
    "cut short": (
        raw({"x": X}, b"\0" * 11),
        r"'x' ends at byte \d+, but the file has \d+ bytes; the download is incomplete",
    ),
    "trailing bytes": (
        raw({"x": X}, b"\0" * 13),
        r"arrays end at byte \d+, but the file at byte \d+, expected no bytes after",
    ),
    "hole": (
        raw({"x": X, "y": entry([1], 16, 20)}, b"\0" * 20),
        "'y' begins at byte .* and leaves a hole before it, expected",
    ),
    "hole at the start": (
        raw({"x": entry([1], 4, 8)}, b"\0" * 8),
        "array 'x' begins at byte .* leaves a hole before it",
    ),
    "overlap": (
        raw({"x": X, "y": entry([1], 8, 12)}, b"\0" * 12),
        "'y' begins at byte .* and overlaps the array before it",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(tmp_path: Path, name: str) -> None:
    data, expected = FAULTS[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    message = fault(open_safetensors, path)
    assert re.search(expected, message), message


def test_long_and_ugly_names_stay_on_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    for name in ("x" * 100_000, "\n\x1b[31m" * 50, "\ud800" * 200):
        path.write_bytes(raw({name: 1}))
        fault(open_safetensors, path)
        path.write_bytes(raw({"x": entry([1], 0, 4, name)}))
        fault(open_safetensors, path)


def test_nested_lists_where_numbers_belong_are_refused_whatever_their_depth(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    for depth in (10, 500, 900, 940, 960, 980, 990):
        path.write_bytes(
            raw(b'{"x": {"dtype": "F32", "data_offsets": [0, 4], "shape": %s1%s}}' % (b"[" * depth, b"]" * depth))
        )
        assert re.search(r"shape is a list|not JSON that can be read", fault(open_safetensors, path))


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    assert "found nothing at this path; check its spelling" in fault(open_safetensors, tmp_path / "none")
    assert "expected a safetensors file, found a folder" in fault(open_safetensors, tmp_path)


GOOD = raw(
    {"__metadata__": {"a": "b"}, "x": X, "y": entry([2, 3], 12, 24, "BF16"), "z": entry([], 24, 32, "I64")}, b"\5" * 32
)


def check_any(path: Path, data: bytes) -> None:
    """A CheckpointError or a sound Checkpoint, and no more memory than the file justifies."""
    path.unlink(missing_ok=True)  # a new file: the old one may still be mapped
    path.write_bytes(data)
    tracemalloc.start()
    try:
        result: Any = open_safetensors(path)
    except CheckpointError as error:
        result = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200_000 + 32 * len(data)
    if isinstance(result, Checkpoint):
        assert sum(array.data.nbytes for array in result.arrays.values()) <= len(data)
    else:
        assert result.startswith(str(path))
        assert result.isprintable()


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(GOOD) - 1),
            st.integers(0, 4),
            st.sampled_from([b"", b"0", b"9", b'"', b"{", b"}", b"\xff", b"-1", b"[", b"1e9", b"null"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_damage_gives_an_error_or_a_sound_checkpoint(tmp_path: Path, edits: list[tuple[int, int, bytes]]) -> None:
    data = bytearray(GOOD)
    for at, n_bytes, new in edits:
        data[at : at + n_bytes] = new
    header_length = data.rfind(b"}") - 7
    check_any(tmp_path / "a.safetensors", bytes(data))
    if header_length > 0:  # and again under a length that fits, so that the header is read
        check_any(tmp_path / "b.safetensors", header_length.to_bytes(8, "little") + data[8:])


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    for size in range(len(GOOD)):
        path.unlink(missing_ok=True)
        path.write_bytes(GOOD[:size])
        fault(open_safetensors, path)


# -- folders -----------------------------------------------------------------------------------------------------------


def write_shards(folder: Path) -> dict[str, Any]:
    """Two shards and the index that lists them."""
    save_file({"a": np.ones(3, np.float32)}, folder / "model-1-of-2.safetensors", metadata={"format": "pt"})
    save_file({"b": np.zeros((2, 5), np.float32), "c": np.ones(1)}, folder / "model-2-of-2.safetensors")
    index = {
        "metadata": {"total_size": 60},
        "weight_map": {
            "a": "model-1-of-2.safetensors",
            "b": "model-2-of-2.safetensors",
            "c": "model-2-of-2.safetensors",
        },
    }
    (folder / INDEX).write_text(json.dumps(index))
    return index


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, tmp_path / ONE_FILE)
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_folder(tmp_path)
    assert checkpoint.arrays["a"].shape == (3,)
    assert checkpoint.path == str(tmp_path / ONE_FILE)


def test_a_folder_with_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    checkpoint = open_folder(tmp_path)
    assert {name: a.shape for name, a in checkpoint.arrays.items()} == {"a": (3,), "b": (2, 5), "c": (1,)}
    assert dict(checkpoint.metadata) == {"total_size": 60, "format": "pt"}
    assert (checkpoint.path, checkpoint.format) == (str(tmp_path), "safetensors")
    assert bytes(checkpoint.arrays["a"].data) == np.ones(3, np.float32).tobytes()


def test_shards_that_transformers_writes(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=32, n_embd=24, n_layer=2, n_head=3))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / INDEX).exists()
    arrays = open_folder(tmp_path).arrays
    for name, expected in model.state_dict().items():
        if name != "lm_head.weight":  # tied to wte, so not written
            assert arrays[name].shape == tuple(expected.shape)
            assert bytes(arrays[name].data) == expected.numpy().tobytes()


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-2-of-2.safetensors").unlink()
    message = fault(open_folder, tmp_path)
    assert f"1 of the 2 files that {INDEX} expects are missing: 'model-2-of-2.safetensors'; download" in message


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    path = tmp_path / "model-2-of-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert re.search(r"model-2-of-2\.safetensors: array '.' ends at byte", fault(open_folder, tmp_path))


def test_an_array_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    index["weight_map"]["d"] = "model-1-of-2.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert "model-1-of-2.safetensors: array 'd' is not in it, expected as" in fault(open_folder, tmp_path)


def test_an_array_in_two_shards_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"a": np.ones(3), "b": np.ones(1), "c": np.ones(1)}, tmp_path / "model-2-of-2.safetensors")
    assert "model-2-of-2.safetensors: array 'a' is in another file too" in fault(open_folder, tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b", "..", "", "c:x", "a\\b", "a\0b"])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert f"'weight_map' names the file {name!r}, expected one in this folder" in fault(open_folder, tmp_path)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (b"{", "is not JSON that can be read"),
        (b"[]", "is a JSON list, expected an object"),
        (b"{}", "'weight_map', expected names of arrays with names of files"),
        (b'{"weight_map": {}}', "'weight_map', expected names of arrays"),
        (b'{"weight_map": {"a": 1}}', "'weight_map', expected names of arrays"),
        (b'{"weight_map": {"a": "f", "a": "g"}}', "has the key 'a' twice"),
        (b"", "expected a JSON index, found an empty file"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, index: bytes, expected: str) -> None:
    (tmp_path / INDEX).write_bytes(index)
    message = fault(open_folder, tmp_path)
    assert INDEX in message
    assert expected in message


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "found an empty folder; download the model into it"),
        (
            ["config.json", "pytorch_model.bin"],
            r"found PyTorch weights .*; convert them to safetensors: python -c .*save_pretrained",
        ),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "found PyTorch weights"),
        (["adapter_model.safetensors"], "found an adapter without its model; merge both"),
        (["tf_model.h5"], r"found TensorFlow weights; .*\(tf_model\.h5\)"),
        (["flax_model.msgpack"], "found Flax weights; "),
        (["a.gguf", "b.gguf"], "found 'a.gguf', 'b.gguf'; pass the path of the file itself"),
        (["consolidated.safetensors"], "found 'consolidated.safetensors'; pass the path of the file itself"),
        (list("abcdefg"), "found 'a', 'b', 'c', 'd', 'e' and 2 more; pass a folder that holds weights"),
    ],
)
def test_a_folder_without_safetensors_says_what_is_there(tmp_path: Path, names: list[str], expected: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    message = fault(open_folder, tmp_path)
    assert f"expected {ONE_FILE} or {INDEX}" in message
    assert re.search(expected, message), message


def test_no_folder_and_a_file(tmp_path: Path) -> None:
    assert "found nothing at this path; check its spelling" in fault(open_folder, tmp_path / "none")
    (tmp_path / "file").write_bytes(b"x")
    assert "expected a model folder, found a file; pass the folder that holds it" in fault(
        open_folder, tmp_path / "file"
    )


def test_a_snapshot_of_links_is_read_as_a_hub_cache_lays_it_out(tmp_path: Path) -> None:
    """Links in a snapshot lead to ../../blobs: outside of the folder, and in order."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_shards(blobs)
    for number, file in enumerate(sorted(blobs.iterdir())):
        blob = file.rename(blobs / f"blob{number}")
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
    assert sorted(open_folder(snapshot).arrays) == ["a", "b", "c"]
    (blobs / "blob0").unlink()
    assert "model-1-of-2.safetensors: expected a safetensors file, found nothing at this path" in fault(
        open_folder, snapshot
    )


def test_a_link_round_in_circles_is_named(tmp_path: Path) -> None:
    (tmp_path / ONE_FILE).symlink_to(ONE_FILE)
    assert "cannot open it (Too many levels of symbolic links); check path and rights" in fault(open_folder, tmp_path)


@pytest.mark.parametrize("unit", [b"[],", b'{"":1},', b"[[[]]],"])
def test_a_header_of_brackets_takes_no_memory(tmp_path: Path, unit: bytes) -> None:
    path = tmp_path / "dense.safetensors"
    path.write_bytes(raw(b'{"x": [' + unit * ((3 << 20) // len(unit)) + b"0]}"))
    tracemalloc.start()
    try:
        assert "opening brackets in 31457" in fault(open_safetensors, path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_large_honest_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    n = 25_000
    path.write_bytes(raw({f"w{i}": entry([1], 4 * i, 4 * i + 4) for i in range(n)}, bytes(4 * n)))
    assert path.stat().st_size > 1 << 20
    assert len(open_safetensors(path).arrays) == n
