"""A transformers model -> a GGUF file by the tables of its architecture's declaration, as an exporter would write it.

What the tables say is checked elsewhere, against the gguf package and other readers. Knows no architecture.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGUFWriter

from fanlight.checkpoints.safetensors import open_folder
from fanlight.models.architecture import GGUF, SAFETENSORS, Source, read_config, stored_names, write_gguf_config
from fanlight.models.registry import find_architecture
from fanlight.models.weights import short
from models import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from fanlight.models.architecture import Architecture
    from fanlight.models.base import DecoderConfig


def twin(path: Path, model: PreTrainedModel, **overrides: Any) -> Path:
    """The file, beside the model's folder: path without ".gguf". overrides: metadata without prefix; None leaves one out."""
    folder = tiny.write_folder(path.with_suffix(""), model)
    arch, c, arrays = opened(folder)
    metadata, small = write_gguf_config(arch, c)
    given = {f"{arch.gguf}.{key}": value for key, value in overrides.items()}
    kept = {key: value for key, value in {**metadata, **given}.items() if value is not None}
    writer = GGUFWriter(path, str(kept.pop("general.architecture")))
    tiny.add_metadata(writer, kept)
    tiny.add_tokenizer(writer)
    vectors = {name: np.array(values, np.float32) for name, values in small.items()}
    for name, values in {**gguf_arrays(arch, c, arrays), **vectors}.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def opened(folder: Path) -> tuple[Architecture, DecoderConfig, dict[str, NDArray[np.float32]]]:
    """A folder of float32: its architecture, its sizes, its arrays under stored names."""
    checkpoint, config = open_folder(folder), json.loads((folder / "config.json").read_text())
    arch = find_architecture(checkpoint, config)
    arrays = {
        name: np.frombuffer(found.data, np.float32).reshape(found.shape) for name, found in checkpoint.arrays.items()
    }
    return arch, read_config(Source(arch, checkpoint, config)), arrays


def gguf_arrays(
    arch: Architecture, c: DecoderConfig, arrays: dict[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Under GGUF's names, and as GGUF stores them."""
    hf, gguf = arch.layouts[SAFETENSORS], arch.layouts[GGUF]
    theirs = stored_names(gguf, {})
    found = {}
    for name, stored in stored_names(hf, arrays).items():
        for i in range(c.n_layer if "{i}" in name else 1):
            values = arrays.get(stored.replace("{i}", str(i)))
            if values is not None:
                found[theirs[name].replace("{i}", str(i))] = _restored(arch, c, short(name.replace("{i}", "0")), values)
    return found


def _restored(arch: Architecture, c: DecoderConfig, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    hf, gguf = arch.layouts[SAFETENSORS], arch.layouts[GGUF]
    if name in hf.transposed:
        values = values.T
    if name.replace("b_", "w_", 1) in gguf.row_order:
        rows = np.empty_like(values)
        rows[list(gguf.row_order[name.replace("b_", "w_", 1)](c))] = values
        values = rows
    return np.ascontiguousarray(values + np.float32(hf.offset.get(name, 0) - gguf.offset.get(name, 0)))
