"""GPT-2: LayerNorm, learned positions, full multi-head attention, GELU. In: ids and a KV batch. Out: logits. Knows no text.

Source: Radford et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.errors import CheckpointError
from fanlight.kernels.ops import KVBatch, Linear, Tensor
from fanlight.models.architecture import (
    GGUF,
    SAFETENSORS,
    Architecture,
    Key,
    Layout,
    Source,
    Values,
    refuse_for_gguf,
)
from fanlight.models.base import DecoderConfig, Watch
from fanlight.models.decoder import DecoderBase
from fanlight.models.weights import Slot, Weights

KEYS = (
    Key("n_layer", "n_layer", "block_count"),
    Key("n_embd", "n_embd", "embedding_length"),
    Key("n_head", "n_head", "attention.head_count"),
    Key("n_ffn", "n_inner", "feed_forward_length", default=lambda values: 4 * values["n_embd"]),
    Key("n_vocab", "vocab_size", None),
    Key("n_ctx", "n_positions", "context_length", default=1024),
    Key("norm_eps", "layer_norm_epsilon", "attention.layer_norm_epsilon", "number", 1e-5),
    Key("activation", "activation_function", None, "activation", "gelu_tanh"),
)
HF_NAMES = {
    "wte.weight": "embed",
    "wpe.weight": "positions",
    "h.{i}.ln_1.weight": "blocks.{i}.attn_norm",
    "h.{i}.ln_1.bias": "blocks.{i}.attn_norm_bias",
    "h.{i}.attn.c_attn.weight": "blocks.{i}.w_qkv",
    "h.{i}.attn.c_attn.bias": "blocks.{i}.b_qkv",
    "h.{i}.attn.c_proj.weight": "blocks.{i}.w_o",
    "h.{i}.attn.c_proj.bias": "blocks.{i}.b_o",
    "h.{i}.ln_2.weight": "blocks.{i}.mlp_norm",
    "h.{i}.ln_2.bias": "blocks.{i}.mlp_norm_bias",
    "h.{i}.mlp.c_fc.weight": "blocks.{i}.w_up",
    "h.{i}.mlp.c_fc.bias": "blocks.{i}.b_up",
    "h.{i}.mlp.c_proj.weight": "blocks.{i}.w_down",
    "h.{i}.mlp.c_proj.bias": "blocks.{i}.b_down",
    "ln_f.weight": "norm",
    "ln_f.bias": "norm_bias",
    "lm_head.weight": "head",
}
GGUF_NAMES = {
    "token_embd.weight": "embed",
    "position_embd.weight": "positions",
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


def refine(source: Source, values: Values) -> None:
    """Every head has keys and values of its own; what GPT-2's class can do besides is refused."""
    f, n_embd, n_head = source.fields, values["n_embd"], values["n_head"]
    if not source.is_gguf:
        f.only("scale_attn_weights", True)
        f.only("scale_attn_by_inverse_layer_idx", False)
        f.only("add_cross_attention", False)
    if n_embd % n_head:
        raise CheckpointError(f"{source.path}: n_embd is {n_embd}, expected a multiple of n_head {n_head}")
    values.update(n_kv_head=n_head, head_dim=n_embd // n_head, qkv_bias=True, o_bias=True, mlp_bias=True)


def to_gguf(c: DecoderConfig) -> tuple[Values, dict[str, list[float]]]:
    """Nothing besides the keys."""
    refuse_for_gguf(c, {"GELU by tanh": c.activation == "gelu_tanh"})
    return {}, {}


class Block:
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        name = f"blocks.{i}."

        def matrix(short: str, n_in: int, n_out: int, activation: str = "none") -> Linear:
            return weights.matrix([Slot(f"{name}w_{short}", n_out)], n_in, bias=True, activation=activation)

        self.attn_norm = weights.vector(name + "attn_norm", c.n_embd)
        self.attn_norm_bias = weights.vector(name + "attn_norm_bias", c.n_embd)
        self.w_qkv = matrix("qkv", c.n_embd, 3 * c.n_embd)
        self.w_o = matrix("o", c.n_embd, c.n_embd)
        self.mlp_norm = weights.vector(name + "mlp_norm", c.n_embd)
        self.mlp_norm_bias = weights.vector(name + "mlp_norm_bias", c.n_embd)
        self.w_up = matrix("up", c.n_embd, c.n_ffn, c.activation)
        self.w_down = matrix("down", c.n_ffn, c.n_embd)


class GPT2(DecoderBase):
    """A decoder of the GPT-2 family. Immutable."""

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        c = config
        self.embed = weights.matrix([Slot("embed", c.n_vocab)], c.n_embd, table=not c.tied_head)
        self.positions = weights.matrix([Slot("positions", c.n_ctx_declared)], c.n_embd, table=True)
        self.blocks = [Block(weights, i, c) for i in range(c.n_layer)]
        self.norm, self.norm_bias = weights.vector("norm", c.n_embd), weights.vector("norm_bias", c.n_embd)
        self.head = self.embed if c.tied_head else weights.matrix([Slot("head", c.n_vocab)], c.n_embd)

    def embedded(self, ids: Sequence[int], batch: KVBatch) -> Tensor:
        """See `DecoderBase`, here and below."""
        return self.ops.add(self.ops.embed(self.embed, ids), self.ops.embed(self.positions, batch.positions))  # (T, E)

    def attended(
        self, layer: int, x: Tensor, batch: KVBatch, rows: Sequence[int] | None, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """x + attend(norm(x))"""
        ops, b = self.ops, self.blocks[layer]
        h = ops.layer_norm(x, b.attn_norm, b.attn_norm_bias, self.config.norm_eps)
        x, a = self.attend(layer, x, ops.linear(h, b.w_qkv), batch, None, rows, watch)  # (T, H * D)
        x = ops.linear(a, b.w_o, x)  # (T, E)
        return x, x

    def fed(self, layer: int, x: Tensor, given: Tensor) -> Tensor:
        """x + mlp(norm(x))"""
        ops, b = self.ops, self.blocks[layer]
        h = ops.layer_norm(given, b.mlp_norm, b.mlp_norm_bias, self.config.norm_eps)
        return ops.linear(ops.linear(h, b.w_up), b.w_down, x)

    def normed(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self.ops.layer_norm(x, self.norm, self.norm_bias, self.config.norm_eps)


ARCHITECTURE = Architecture(
    model_type="gpt2",
    hf_class="GPT2LMHeadModel",
    keys=KEYS,
    layouts={
        SAFETENSORS: Layout(  # matrices are stored as (n_in, n_out): its Conv1D
            names=HF_NAMES,
            transposed=frozenset(("w_qkv", "w_o", "w_up", "w_down")),
            ignored=(".attn.bias", ".attn.masked_bias"),  # the causal mask, stored by old versions
            prefixes=(
                "transformer.",
                "",
            ),  # of checkpoints saved with the language-model head; the first ones have none
        ),
        GGUF: Layout(names=GGUF_NAMES, essential=("blk.",)),
    },
    build=GPT2,
    refine=refine,
    to_gguf=to_gguf,
    tied_head=True,
)
