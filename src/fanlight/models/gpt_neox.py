"""GPT-NeoX, Pythia: attention beside the feed-forward, heads that turn in part. In: ids and a KV batch. Out: logits. Knows no text.

Sources: Black et al. 2022 (GPT-NeoX-20B); Biderman et al. 2023 (Pythia). Names and meaning of the GGUF form are llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.errors import CheckpointError
from fanlight.kernels.ops import KVBatch, Linear, Tensor
from fanlight.models import llama
from fanlight.models.architecture import (
    GGUF,
    ROPE_ARRAYS,
    SAFETENSORS,
    Architecture,
    Key,
    Layout,
    Source,
    Values,
    gguf_rope,
    refuse_for_gguf,
)
from fanlight.models.base import DecoderConfig, Watch
from fanlight.models.decoder import DecoderBase, make_rope
from fanlight.models.rope import rope_from_hf, rope_to_gguf, rope_to_hf
from fanlight.models.weights import Slot, Weights

PART_ROTATED = 0.25
"""Of a head, where config.json does not say it."""
KEYS = (
    Key("n_layer", "num_hidden_layers", "block_count"),
    Key("n_embd", "hidden_size", "embedding_length"),
    Key("n_head", "num_attention_heads", "attention.head_count"),
    Key("n_ffn", "intermediate_size", "feed_forward_length"),
    Key("n_vocab", "vocab_size", "vocab_size"),
    Key("n_ctx", "max_position_embeddings", "context_length", default=2048),
    Key("norm_eps", "layer_norm_eps", "attention.layer_norm_epsilon", "number", 1e-5),
    Key("activation", "hidden_act", None, "activation", "gelu"),
    Key("parallel_residual", "use_parallel_residual", "use_parallel_residual", "flag", True),
)
HF_NAMES = {
    "embed_in.weight": "embed",
    "layers.{i}.input_layernorm.weight": "blocks.{i}.attn_norm",
    "layers.{i}.input_layernorm.bias": "blocks.{i}.attn_norm_bias",
    "layers.{i}.attention.query_key_value.weight": "blocks.{i}.w_qkv",
    "layers.{i}.attention.query_key_value.bias": "blocks.{i}.b_qkv",
    "layers.{i}.attention.dense.weight": "blocks.{i}.w_o",
    "layers.{i}.attention.dense.bias": "blocks.{i}.b_o",
    "layers.{i}.post_attention_layernorm.weight": "blocks.{i}.mlp_norm",
    "layers.{i}.post_attention_layernorm.bias": "blocks.{i}.mlp_norm_bias",
    "layers.{i}.mlp.dense_h_to_4h.weight": "blocks.{i}.w_up",
    "layers.{i}.mlp.dense_h_to_4h.bias": "blocks.{i}.b_up",
    "layers.{i}.mlp.dense_4h_to_h.weight": "blocks.{i}.w_down",
    "layers.{i}.mlp.dense_4h_to_h.bias": "blocks.{i}.b_down",
    "final_layer_norm.weight": "norm",
    "final_layer_norm.bias": "norm_bias",
    "embed_out.weight": "head",
}
GGUF_NAMES = {
    "token_embd.weight": "embed",
    "blk.{i}.attn_norm.weight": "blocks.{i}.attn_norm",
    "blk.{i}.attn_norm.bias": "blocks.{i}.attn_norm_bias",
    "blk.{i}.attn_qkv.weight": "blocks.{i}.w_qkv",
    "blk.{i}.attn_qkv.bias": "blocks.{i}.b_qkv",
    "blk.{i}.attn_output.weight": "blocks.{i}.w_o",
    "blk.{i}.attn_output.bias": "blocks.{i}.b_o",
    "blk.{i}.ffn_norm.weight": "blocks.{i}.mlp_norm",
    "blk.{i}.ffn_norm.bias": "blocks.{i}.mlp_norm_bias",
    "blk.{i}.ffn_up.weight": "blocks.{i}.w_up",
    "blk.{i}.ffn_up.bias": "blocks.{i}.b_up",
    "blk.{i}.ffn_down.weight": "blocks.{i}.w_down",
    "blk.{i}.ffn_down.bias": "blocks.{i}.b_down",
    "output_norm.weight": "norm",
    "output_norm.bias": "norm_bias",
    "output.weight": "head",
}


def head_by_head(c: DecoderConfig) -> list[int]:
    """Its checkpoints store (q, k, v) of one head after the other; here, and in GGUF files, stand all q, all k, all v."""
    d = c.head_dim
    return [(3 * head + part) * d + j for part in range(3) for head in range(c.n_head) for j in range(d)]


def refine(source: Source, values: Values) -> None:
    """Rotation and biases; every head has keys and values of its own."""
    f, n_embd, n_head = source.fields, values["n_embd"], values["n_head"]
    if n_embd % n_head:
        raise CheckpointError(f"{source.path}: n_embd is {n_embd}, expected a multiple of n_head {n_head}")
    values.update(n_kv_head=n_head, head_dim=n_embd // n_head, mlp_bias=True)
    if source.is_gguf:
        values["rope"] = gguf_rope(source, values)
        values.update(qkv_bias=source.stores("blocks.{i}.b_qkv"), o_bias=source.stores("blocks.{i}.b_o"))
    else:
        sizes = {"head_dim": values["head_dim"], "n_ctx": values["n_ctx"]}
        values["rope"] = rope_from_hf(source.config, source.path, partial=PART_ROTATED, **sizes)
        bias = f.flag("attention_bias", True)
        values.update(qkv_bias=bias, o_bias=bias)
    llama.stretch(values)


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    assert c.rope is not None
    rope = {"partial_rotary_factor": 1.0, **rope_to_hf(c.rope)}  # unsaid, it would be a quarter
    return {"rope_parameters": rope, "attention_bias": c.qkv_bias}


def to_gguf(c: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """Metadata besides the keys, and the factors of rotation."""
    assert c.rope is not None
    refuse_for_gguf(c, {"GELU": c.activation == "gelu"})
    return rope_to_gguf(c.rope)


class Block:
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        name = f"blocks.{i}."

        def matrix(short: str, n_in: int, n_out: int, bias: bool, activation: str = "none") -> Linear:
            return weights.matrix([Slot(f"{name}w_{short}", n_out)], n_in, bias=bias, activation=activation)

        self.attn_norm = weights.vector(name + "attn_norm", c.n_embd)
        self.attn_norm_bias = weights.vector(name + "attn_norm_bias", c.n_embd)
        self.w_qkv = matrix("qkv", c.n_embd, 3 * c.n_embd, c.qkv_bias)
        self.w_o = matrix("o", c.n_embd, c.n_embd, c.o_bias)
        self.mlp_norm = weights.vector(name + "mlp_norm", c.n_embd)
        self.mlp_norm_bias = weights.vector(name + "mlp_norm_bias", c.n_embd)
        self.w_up = matrix("up", c.n_embd, c.n_ffn, c.mlp_bias, c.activation)
        self.w_down = matrix("down", c.n_ffn, c.n_embd, c.mlp_bias)


class GPTNeoX(DecoderBase):
    """A decoder of the GPT-NeoX family. Immutable."""

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        c = config
        self.embed = weights.matrix([Slot("embed", c.n_vocab)], c.n_embd, table=not c.tied_head)
        self.blocks = [Block(weights, i, c) for i in range(c.n_layer)]
        self.norm, self.norm_bias = weights.vector("norm", c.n_embd), weights.vector("norm_bias", c.n_embd)
        self.head = self.embed if c.tied_head else weights.matrix([Slot("head", c.n_vocab)], c.n_embd)
        assert c.rope is not None
        self.rope = make_rope(self.ops, c.rope, c.n_ctx)

    def embedded(self, ids: Sequence[int], batch: KVBatch) -> Tensor:
        """See `DecoderBase`, here and below."""
        return self.ops.embed(self.embed, ids)  # (T, E)

    def attended(
        self, layer: int, x: Tensor, batch: KVBatch, rows: Sequence[int] | None, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """x + attend(norm(x)); the feed-forward network reads x itself where the two stand side by side."""
        ops, b, c = self.ops, self.blocks[layer], self.config
        h = ops.layer_norm(x, b.attn_norm, b.attn_norm_bias, c.norm_eps)
        x, a = self.attend(layer, x, ops.linear(h, b.w_qkv), batch, self.rope, rows, watch)  # (T, H * D)
        attended = ops.linear(a, b.w_o, x)  # (T, E)
        return attended, x if c.parallel_residual else attended

    def fed(self, layer: int, x: Tensor, given: Tensor) -> Tensor:
        """x + mlp(norm(given))"""
        ops, b = self.ops, self.blocks[layer]
        h = ops.layer_norm(given, b.mlp_norm, b.mlp_norm_bias, self.config.norm_eps)
        return ops.linear(ops.linear(h, b.w_up), b.w_down, x)

    def normed(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.ops.layer_norm(x, self.norm, self.norm_bias, self.config.norm_eps)


ARCHITECTURE = Architecture(
    model_type="gpt_neox",
    hf_class="GPTNeoXForCausalLM",
    keys=KEYS,
    layouts={
        SAFETENSORS: Layout(
            names=HF_NAMES,
            row_order={"w_qkv": head_by_head},
            ignored=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),  # of old versions
            prefixes=("gpt_neox.", ""),  # with and without the language-model head
        ),
        GGUF: Layout(names=GGUF_NAMES, ignored=ROPE_ARRAYS, essential=("blk.",)),
    },
    build=GPTNeoX,
    refine=refine,
    to_hf=to_hf,
    to_gguf=to_gguf,
    gguf_name="gptneox",
    gguf_head=True,
)
