"""BERT: an encoder; full attention both ways, LayerNorm after each sum, learned positions and segments. In: ids, segments
and a KV batch. Out: hidden states. Knows no text.

Source: Devlin et al. 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fanlight.errors import CheckpointError
from fanlight.kernels.ops import KVBatch, KVPool, Ops, Tensor
from fanlight.models.architecture import GGUF, SAFETENSORS, Architecture, Key, Layout, Source, Values
from fanlight.models.encoder import EncoderConfig
from fanlight.models.fields import Fields
from fanlight.models.weights import Slot, Weights

KEYS = (
    Key("n_layer", "num_hidden_layers", "block_count"),
    Key("n_embd", "hidden_size", "embedding_length"),
    Key("n_head", "num_attention_heads", "attention.head_count"),
    Key("n_ffn", "intermediate_size", "feed_forward_length"),
    Key("n_vocab", "vocab_size", "vocab_size"),
    Key("n_ctx", "max_position_embeddings", "context_length", default=512),
    Key("n_segments", "type_vocab_size", None, default=2),
    Key("norm_eps", "layer_norm_eps", "attention.layer_norm_epsilon", "number", 1e-12),
    Key("activation", "hidden_act", None, "activation", "gelu"),
)
HF_NAMES = {
    "embeddings.word_embeddings.weight": "embed",
    "embeddings.position_embeddings.weight": "positions",
    "embeddings.token_type_embeddings.weight": "segments",
    "embeddings.LayerNorm.weight": "embed_norm",
    "embeddings.LayerNorm.bias": "embed_norm_bias",
    "encoder.layer.{i}.attention.self.query.weight": "blocks.{i}.w_q",
    "encoder.layer.{i}.attention.self.query.bias": "blocks.{i}.b_q",
    "encoder.layer.{i}.attention.self.key.weight": "blocks.{i}.w_k",
    "encoder.layer.{i}.attention.self.key.bias": "blocks.{i}.b_k",
    "encoder.layer.{i}.attention.self.value.weight": "blocks.{i}.w_v",
    "encoder.layer.{i}.attention.self.value.bias": "blocks.{i}.b_v",
    "encoder.layer.{i}.attention.output.dense.weight": "blocks.{i}.w_o",
    "encoder.layer.{i}.attention.output.dense.bias": "blocks.{i}.b_o",
    "encoder.layer.{i}.attention.output.LayerNorm.weight": "blocks.{i}.attn_norm",
    "encoder.layer.{i}.attention.output.LayerNorm.bias": "blocks.{i}.attn_norm_bias",
    "encoder.layer.{i}.intermediate.dense.weight": "blocks.{i}.w_up",
    "encoder.layer.{i}.intermediate.dense.bias": "blocks.{i}.b_up",
    "encoder.layer.{i}.output.dense.weight": "blocks.{i}.w_down",
    "encoder.layer.{i}.output.dense.bias": "blocks.{i}.b_down",
    "encoder.layer.{i}.output.LayerNorm.weight": "blocks.{i}.mlp_norm",
    "encoder.layer.{i}.output.LayerNorm.bias": "blocks.{i}.mlp_norm_bias",
    "qa_outputs.weight": "w_span",
    "qa_outputs.bias": "b_span",
}
GGUF_NAMES = {
    "token_embd.weight": "embed",
    "position_embd.weight": "positions",
    "token_types.weight": "segments",
    "token_embd_norm.weight": "embed_norm",
    "token_embd_norm.bias": "embed_norm_bias",
    "blk.{i}.attn_q.weight": "blocks.{i}.w_q",
    "blk.{i}.attn_q.bias": "blocks.{i}.b_q",
    "blk.{i}.attn_k.weight": "blocks.{i}.w_k",
    "blk.{i}.attn_k.bias": "blocks.{i}.b_k",
    "blk.{i}.attn_v.weight": "blocks.{i}.w_v",
    "blk.{i}.attn_v.bias": "blocks.{i}.b_v",
    "blk.{i}.attn_output.weight": "blocks.{i}.w_o",
    "blk.{i}.attn_output.bias": "blocks.{i}.b_o",
    "blk.{i}.attn_output_norm.weight": "blocks.{i}.attn_norm",
    "blk.{i}.attn_output_norm.bias": "blocks.{i}.attn_norm_bias",
    "blk.{i}.ffn_up.weight": "blocks.{i}.w_up",
    "blk.{i}.ffn_up.bias": "blocks.{i}.b_up",
    "blk.{i}.ffn_down.weight": "blocks.{i}.w_down",
    "blk.{i}.ffn_down.bias": "blocks.{i}.b_down",
    "blk.{i}.layer_output_norm.weight": "blocks.{i}.mlp_norm",
    "blk.{i}.layer_output_norm.bias": "blocks.{i}.mlp_norm_bias",
}
SEGMENT_COUNT = "tokenizer.ggml.token_type_count"
"""A GGUF key without the architecture's prefix."""


def refine(source: Source, values: Values) -> None:
    """Every head has keys and values of its own; what BERT's class can do besides is refused."""
    f, n_embd, n_head = source.fields, values["n_embd"], values["n_head"]
    if source.is_gguf:
        f.only("attention.causal", False)
        values["n_segments"] = Fields(source.config, source.path).size(SEGMENT_COUNT, values["n_segments"])
    else:
        f.only("position_embedding_type", "absolute")
        f.only("is_decoder", False)
        f.only("add_cross_attention", False)
        values["has_span_head"] = source.stores("w_span")
    if n_embd % n_head:
        raise CheckpointError(f"{source.path}: hidden size is {n_embd}, expected a multiple of the {n_head} heads")
    values.update(n_kv_head=n_head, head_dim=n_embd // n_head, tied_head=False, norm_first=False)
    values.update(qkv_bias=True, o_bias=True, mlp_bias=True)


class Block:
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: EncoderConfig) -> None:
        name = f"blocks.{i}."
        self.w_qkv = weights.matrix([Slot(f"{name}w_{x}", c.n_embd) for x in "qkv"], c.n_embd, bias=True)
        self.w_o = weights.matrix([Slot(name + "w_o", c.n_embd)], c.n_embd, bias=True)
        self.attn_norm = weights.vector(name + "attn_norm", c.n_embd)
        self.attn_norm_bias = weights.vector(name + "attn_norm_bias", c.n_embd)
        self.w_up = weights.matrix([Slot(name + "w_up", c.n_ffn)], c.n_embd, bias=True, activation=c.activation)
        self.w_down = weights.matrix([Slot(name + "w_down", c.n_embd)], c.n_ffn, bias=True)
        self.mlp_norm = weights.vector(name + "mlp_norm", c.n_embd)
        self.mlp_norm_bias = weights.vector(name + "mlp_norm_bias", c.n_embd)


class Bert:
    """An encoder of the BERT family, with the head for answers if the checkpoint has it. Immutable."""

    def __init__(self, config: EncoderConfig, weights: Weights) -> None:
        self.config = c = config
        self.ops: Ops = weights.ops
        self.cache_dtype = weights.cache_dtype
        self.embed = weights.matrix([Slot("embed", c.n_vocab)], c.n_embd, table=True)
        self.segments = weights.matrix([Slot("segments", c.n_segments)], c.n_embd, table=True)
        self.positions = weights.matrix([Slot("positions", c.n_ctx)], c.n_embd, table=True)
        self.embed_norm = weights.vector("embed_norm", c.n_embd)
        self.embed_norm_bias = weights.vector("embed_norm_bias", c.n_embd)
        self.blocks = [Block(weights, i, c) for i in range(c.n_layer)]
        self.w_span = weights.matrix([Slot("w_span", 2)], c.n_embd, bias=True) if c.has_span_head else None
        self.scale = c.head_dim**-0.5

    def new_pool(self) -> KVPool:
        """See `models.encoder.BidirectionalEncoder`, here and below."""
        return self.ops.kv_pool(1, self.config.n_head, self.config.head_dim, self.cache_dtype)

    def forward(self, ids: Sequence[int], segments: Sequence[int], batch: KVBatch) -> Tensor:
        """States after the last block: (T, E)."""
        for x in self._states(ids, segments, batch):
            last = x
        return last

    def every_state(self, ids: Sequence[int], segments: Sequence[int], batch: KVBatch) -> list[Tensor]:
        """The embeddings' states and those after each block."""
        return list(self._states(ids, segments, batch))

    def weights(self, ids: Sequence[int], segments: Sequence[int], batch: KVBatch) -> list[Tensor]:
        """Of each block, what attention weighs with."""
        found: list[Tensor] = []
        for _ in self._states(ids, segments, batch, found):
            pass
        return found

    def _states(
        self, ids: Sequence[int], segments: Sequence[int], batch: KVBatch, weights: list[Tensor] | None = None
    ) -> Iterator[Tensor]:
        ops, eps = self.ops, self.config.norm_eps
        x = ops.add(ops.embed(self.embed, ids), ops.embed(self.segments, segments))  # (T, E)
        x = ops.add(x, ops.embed(self.positions, batch.positions))
        x = ops.layer_norm(x, self.embed_norm, self.embed_norm_bias, eps)
        yield x
        for b in self.blocks:
            q = ops.store_kv(ops.linear(x, b.w_qkv), batch, 0, None)  # layer 0: no later pass needs these keys
            if weights is not None:
                weights.append(ops.attention_weights(q, batch, 0, self.scale, causal=False))
            x = ops.linear(ops.attention(q, batch, 0, self.scale, causal=False), b.w_o, x)  # norm(x + attend(x))
            x = ops.layer_norm(x, b.attn_norm, b.attn_norm_bias, eps)
            x = ops.linear(ops.linear(x, b.w_up), b.w_down, x)  # norm(x + mlp(x))
            x = ops.layer_norm(x, b.mlp_norm, b.mlp_norm_bias, eps)
            yield x

    def span_logits(self, states: Tensor) -> Tensor:
        """(T, E) -> (T, 2): an answer's first token, its last."""
        assert self.w_span is not None, "config.has_span_head says so"
        return self.ops.linear(states, self.w_span)


ARCHITECTURE = Architecture(
    model_type="bert",
    hf_class="BertModel",
    config=EncoderConfig,
    keys=KEYS,
    layouts={
        SAFETENSORS: Layout(
            names=HF_NAMES,
            ignored=(".position_ids",),  # 0, 1, 2, ...: stored by old versions
            essential=tuple(prefix + part for prefix in ("bert.", "") for part in ("embeddings.", "encoder.")),
            prefixes=("bert.", ""),  # of checkpoints saved with a head; without one they have none
            bare=frozenset(("w_span", "b_span")),
            older={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
        ),
        GGUF: Layout(names=GGUF_NAMES, essential=("blk.", "token_", "position_")),
    },
    build=Bert,
    refine=refine,
)
