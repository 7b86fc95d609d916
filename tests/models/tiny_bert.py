"""Tiny BERTs with random weights -> folders with a WordPiece vocabulary, GGUF files, and hidden states: by other people's
libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, PoolingType, TokenType, get_tensor_name_map
from transformers import BertConfig, BertForMaskedLM, BertForQuestionAnswering, BertModel

from models import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = (*SPECIAL, *LETTERS, *(f"##{x}" for x in LETTERS), "##ing", "the", ".", "?", "[", "]")
N_VOCAB = len(PIECES)  # 63
N_SEGMENTS = 3


def bert(kind: type[PreTrainedModel] = BertModel, **sizes: Any) -> PreTrainedModel:
    own = {
        "hidden_size": 42,
        "intermediate_size": 52,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "max_position_embeddings": 131,
        "type_vocab_size": N_SEGMENTS,
        "layer_norm_eps": float(np.float32(1e-9)),  # what a GGUF file can hold
        "vocab_size": N_VOCAB,
    }
    model = tiny.randomised(kind, BertConfig(**{**own, **sizes}))
    assert isinstance(model, torch.nn.Module)
    return model


ZOO: dict[str, Callable[[], PreTrainedModel]] = {
    "bare": bert,
    "for question answering": lambda: bert(BertForQuestionAnswering),
    "for masked words": lambda: bert(BertForMaskedLM),
    "with GELU by tanh, and one head": lambda: bert(hidden_act="gelu_new", num_attention_heads=1),
    "with one layer and one segment": lambda: bert(num_hidden_layers=1, type_vocab_size=1, hidden_act="relu"),
}


# -- files ------------------------------------------------------------------------------------------------------------


def write_folder(folder: Path, model: PreTrainedModel) -> Path:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    model.save_pretrained(folder)
    pieces = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    pieces.add_special_tokens(list(SPECIAL))
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", PIECES.index("[CLS]")), ("[SEP]", PIECES.index("[SEP]"))],
    )
    pieces.save(str(folder / "tokenizer.json"))
    return folder


def write_gguf(path: Path, model: PreTrainedModel, dtype: str = "F32", **overrides: bool | int) -> Path:
    """What llama.cpp's converter would write; the names are those of the gguf package."""
    c = model.config
    writer = GGUFWriter(path, "bert")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(overrides.get("n_head", c.num_attention_heads))
    writer.add_layer_norm_eps(c.layer_norm_eps)
    writer.add_causal_attention(bool(overrides.get("causal", False)))
    writer.add_token_type_count(c.type_vocab_size)
    writer.add_vocab_size(c.vocab_size)
    writer.add_pooling_type(PoolingType(overrides.get("pooling", PoolingType.MEAN)))
    writer.add_tokenizer_model("bert")
    writer.add_token_list([gguf_piece(piece) for piece in PIECES])
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(PIECES) - len(SPECIAL)))
    for special, add in zip(
        SPECIAL,
        (
            writer.add_pad_token_id,
            writer.add_unk_token_id,
            writer.add_bos_token_id,
            writer.add_sep_token_id,
            writer.add_mask_token_id,
        ),
        strict=True,
    ):
        add(PIECES.index(special))
    names = get_tensor_name_map(MODEL_ARCH.BERT, c.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name.startswith("pooler."):
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        values = np.ascontiguousarray(weight.numpy())
        if dtype != "F32" and values.ndim == 2 and stored.startswith(("blk.", "token_embd.")):
            writer.add_tensor(stored, tiny.stored(values, dtype), raw_dtype=GGMLQuantizationType[dtype])
        else:
            writer.add_tensor(stored, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_piece(piece: str) -> str:
    """The beginning of a word has a mark, what continues it has none."""
    return piece if piece in SPECIAL else piece[2:] if piece.startswith("##") else f"\u2581{piece}"


# -- states -----------------------------------------------------------------------------------------------------------


def states_of(
    model: PreTrainedModel, inputs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[list[NDArray[np.float32]]]:
    """Of every input: the embeddings' states and those after each block, (n_ids, n_embd) each."""
    encoder = getattr(model, "bert", model)
    return [[x[0].numpy() for x in run(encoder, *each, output_hidden_states=True).hidden_states] for each in inputs]


def run(model: PreTrainedModel, ids: Sequence[int], segments: Sequence[int], **options: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor([list(ids)]), token_type_ids=torch.tensor([list(segments)]), **options)
