"""A Hugging Face folder -> the GGUF file of the same model: names, rows and keys by the architecture's own tables.

What the tables say is checked by others who read such files: transformers in test_gguf_twins.py, llama.cpp in
llama_cpp_twins.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

from fanlight.checkpoints.gguf_quants import dequantize
from fanlight.checkpoints.safetensors import open_folder
from fanlight.models.architecture import GGUF, SAFETENSORS, Source, read_config, stored_names, write_gguf_config
from fanlight.models.registry import find_architecture
from models import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fanlight.models.architecture import Layout
    from fanlight.models.base import DecoderConfig


def twin(path: Path, folder: Path, dtype: str = "F32", **overrides: Any) -> Path:
    """dtype: of the matrices, but for those of which llama.cpp's converter keeps float32. overrides: metadata, without
    the architecture's prefix; None leaves one out.
    """
    checkpoint = open_folder(folder)
    settings = json.loads((folder / "config.json").read_text())
    arch = find_architecture(checkpoint, settings)
    config = read_config(Source(arch, checkpoint, settings))
    metadata, small = write_gguf_config(arch, config)
    found, wanted = arch.layouts[SAFETENSORS], arch.layouts[GGUF]
    names = stored_names(wanted, {})
    writer = GGUFWriter(path, arch.gguf)
    given = {f"{arch.gguf}.{key}": value for key, value in overrides.items()}
    for key, value in {**metadata, **given}.items():
        if key != "general.architecture" and value is not None:  # the first is written already
            _add(writer, key, value)
    _add_tokens(writer)
    for name, stored in stored_names(found, checkpoint.arrays).items():
        for i in range(config.n_layer if "{i}" in name else 1):
            array = checkpoint.arrays.get(stored.replace("{i}", str(i)))
            if array is None or (name == "head" and config.tied_head):
                continue
            values = _as_stored(_as_meant(dequantize(array), name, found, config), name, wanted, config)
            own = dtype if values.ndim == 2 and name != "positions" else "F32"
            kept = np.ascontiguousarray(values, np.float32)
            stored_name = names[name].replace("{i}", str(i))
            if own == "F32":
                writer.add_tensor(stored_name, kept)
            else:
                writer.add_tensor(stored_name, tiny.stored(kept, own), raw_dtype=GGMLQuantizationType[own])
    for name, numbers in small.items():
        writer.add_tensor(name, np.array(numbers, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(key, value)


def _add_tokens(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tiny.TOKENS)
    writer.add_token_types([TokenType.NORMAL] * tiny.EOS + [TokenType.CONTROL])
    writer.add_token_merges(tiny.MERGES)
    writer.add_bos_token_id(tiny.EOS)
    writer.add_eos_token_id(tiny.EOS)


def _row_order(name: str, layout: Layout, config: DecoderConfig) -> Sequence[int] | None:
    order = layout.row_order.get(name.replace("b_", "w_"))
    return None if order is None else order(config)


def _as_meant(values: NDArray[np.float32], name: str, layout: Layout, config: DecoderConfig) -> NDArray[np.float32]:
    """What a stored array means."""
    values = values.T if _short(name) in layout.transposed else values
    order = _row_order(_short(name), layout, config)
    values = values if order is None else values[list(order)]
    return values + np.float32(layout.offset.get(_short(name), 0))


def _as_stored(values: NDArray[np.float32], name: str, layout: Layout, config: DecoderConfig) -> NDArray[np.float32]:
    """The other way."""
    values = values - np.float32(layout.offset.get(_short(name), 0))
    order = _row_order(_short(name), layout, config)
    values = values if order is None else values[np.argsort(order)]
    return values.T if _short(name) in layout.transposed else values


def _short(name: str) -> str:
    return name.removeprefix("blocks.{i}.")
