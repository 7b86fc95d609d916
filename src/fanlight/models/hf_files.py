"""A Hugging Face folder -> a model of transformers, its sizes, and what was read. Knows no cache and no decoding.

Files are checked by Fanlight's own reader first, then read by transformers, which is handed in: nothing here imports it.
Nothing comes from the net, no code from the folder runs, nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fanlight.checkpoints.arrays import Checkpoint
from fanlight.checkpoints.safetensors import open_folder
from fanlight.errors import CheckpointError
from fanlight.models.base import DecoderConfig
from fanlight.models.weights import LoadReport

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Fanlight's name of a type -> torch's."""
NO_LIMIT = 1 << 20  # positions, for models that do not say


def read_folder(transformers: Any, path: Path, dtype: Any) -> tuple[Any, LoadReport]:
    """A folder -> the model, and what was read. Files are checked by Fanlight's reader first; nothing is unpickled."""
    checkpoint = open_folder(path)
    if (
        path / "adapter_config.json"
    ).exists():  # which transformers leaves out without a word where PEFT is not installed
        raise CheckpointError(
            f"{path}: holds adapter_config.json, weights that are to be added to a model's; expected a whole model: merge them "
            "with PEFT's merge_and_unload, and save the result"
        )
    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(path, **safely)
        check_kind(str(path), config)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **safely,
        )
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # of many classes, and from many libraries
        raise CheckpointError(f"{path}: transformers does not load it: {one_line(error)}") from error
    for name, found, expected in sorted(info["mismatched_keys"], key=str):
        raise CheckpointError(
            f"{path}: tensor {name!r} has shape {tuple(found)}, expected {tuple(expected)}; "
            "the configuration does not match the weights"
        )
    if info["missing_keys"]:
        names = sorted(map(repr, info["missing_keys"]))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise CheckpointError(
            f"{path}: expected tensors that are missing: {', '.join(names[:3])}{more}; the files are incomplete or of another "
            "architecture"
        )
    return model, _report(checkpoint, info["unexpected_keys"], model)


def check_kind(where: str, config: Any) -> None:
    """Refuse what is known not to write from left to right by itself. Errors: CheckpointError."""
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"{where}: a model of type {config.model_type} is an encoder with a decoder; Fanlight runs decoders alone: get a "
            "causal language model"
        )
    if getattr(config, "is_decoder", None) is False and hasattr(config, "add_cross_attention"):
        raise CheckpointError(
            f"{where}: a model of type {config.model_type} reads in both directions unless config.json has is_decoder true; "
            "expected a causal language model"
        )


def _report(checkpoint: Checkpoint, unread: Sequence[str], model: Any) -> LoadReport:
    report = LoadReport(path=checkpoint.path, format=checkpoint.format, unread=sorted(unread))
    for stored in checkpoint.arrays.values():
        report.dtypes[stored.dtype] = report.dtypes.get(stored.dtype, 0) + stored.data.nbytes
    computed = next(
        (name for name, of_torch in DTYPES.items() if str(model.dtype) == f"torch.{of_torch}"), str(model.dtype)
    )
    for dtype in sorted(report.dtypes):
        n = sum(stored.dtype == dtype for stored in checkpoint.arrays.values())
        if dtype != computed and dtype in (*DTYPES, "F64"):
            report.conversions.append(f"{n} arrays: {dtype} -> {computed}")
    return report


def account(report: LoadReport, model: Any, model_type: str) -> None:
    """What the model takes in memory."""
    parameters = list(model.parameters())  # a tied one comes once
    report.model_type = model_type
    report.n_parameters = sum(p.numel() for p in parameters)
    report.packed_bytes = sum(p.numel() * p.element_size() for p in parameters)
    if report.format == "transformers":
        for p in parameters:
            name = str(p.dtype).removeprefix("torch.")
            name = next((ours for ours, theirs in DTYPES.items() if theirs == name), name)
            report.dtypes[name] = report.dtypes.get(name, 0) + p.numel() * p.element_size()


def config_of(model: Any, n_vocab: int) -> DecoderConfig:
    """Sizes, as far as transformers tells them under one of its names; 0: not told, or the architecture has no such thing."""
    told = model.config.get_text_config(decoder=True)

    def first(default: Any, *names: str) -> Any:
        values = (getattr(told, name, None) for name in names)
        return next(
            (value for value in values if isinstance(value, int | float) and not isinstance(value, bool)), default
        )

    n_embd = int(first(0, "hidden_size", "n_embd", "d_model"))
    n_head = int(first(0, "num_attention_heads", "n_head", "n_heads"))
    n_kv_head = 1 if getattr(told, "multi_query", False) else n_head
    head = model.get_output_embeddings()
    return DecoderConfig(
        model_type=str(model.config.model_type),
        n_layer=int(first(0, "num_hidden_layers", "n_layer", "n_layers", "num_layers")),
        n_head=n_head,
        n_kv_head=int(first(n_kv_head, "num_key_value_heads", "num_kv_heads")) if n_kv_head != 1 else 1,
        n_embd=n_embd,
        head_dim=int(first(n_embd // n_head if n_head else 0, "head_dim")),
        n_ffn=int(first(4 * n_embd, "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "dff")),
        n_vocab=n_vocab,
        n_ctx=int(
            first(
                NO_LIMIT,
                "max_position_embeddings",
                "n_positions",
                "max_seq_len",
                "seq_length",
                "context_length",
                "n_ctx",
            )
        ),
        norm_eps=float(first(0.0, "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")),
        tied_head=head is not None and head.weight is model.get_input_embeddings().weight,
    )


def one_line(error: BaseException) -> str:
    """An error of another library on one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."
