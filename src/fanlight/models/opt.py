"""OPT and Galactica: LayerNorm, learned positions, ReLU or GELU. In: ids and a KV batch. Out: logits. Knows no text.

Source: Zhang et al. 2022 (OPT). The model of 350 million parameters is a post-norm Transformer with a narrow embedding. There is
no GGUF form of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fanlight.errors import CheckpointError
from fanlight.kernels.ops import KVBatch, Tensor
from fanlight.models.architecture import SAFETENSORS, Architecture, Key, Layout, Source, Values
from fanlight.models.base import DecoderConfig, Watch
from fanlight.models.decoder import DecoderBase
from fanlight.models.weights import Slot, Weights

FIRST_POSITION = 2
"""The row of position 0 in the array of positions."""
KEYS = (
    Key("n_layer", "num_hidden_layers"),
    Key("n_embd", "hidden_size"),
    Key("n_embed_in", "word_embed_proj_dim", default=lambda values: values["n_embd"]),
    Key("n_head", "num_attention_heads"),
    Key("n_ffn", "ffn_dim"),
    Key("n_vocab", "vocab_size"),
    Key("n_ctx", "max_position_embeddings", default=2048),
    Key("norm_eps", kind="number", default=1e-5),
    Key("activation", "activation_function", kind="activation", default="relu"),
    Key("norm_first", "do_layer_norm_before", kind="flag", default=True),
    Key("mlp_bias", "enable_bias", kind="flag", default=True),
)
HF_NAMES = {
    "embed_tokens.weight": "embed",
    "embed_positions.weight": "positions",
    "project_in.weight": "w_in",
    "project_out.weight": "w_out",
    "layers.{i}.self_attn_layer_norm.weight": "blocks.{i}.attn_norm",
    "layers.{i}.self_attn_layer_norm.bias": "blocks.{i}.attn_norm_bias",
    "layers.{i}.self_attn.q_proj.weight": "blocks.{i}.w_q",
    "layers.{i}.self_attn.q_proj.bias": "blocks.{i}.b_q",
    "layers.{i}.self_attn.k_proj.weight": "blocks.{i}.w_k",
    "layers.{i}.self_attn.k_proj.bias": "blocks.{i}.b_k",
    "layers.{i}.self_attn.v_proj.weight": "blocks.{i}.w_v",
    "layers.{i}.self_attn.v_proj.bias": "blocks.{i}.b_v",
    "layers.{i}.self_attn.out_proj.weight": "blocks.{i}.w_o",
    "layers.{i}.self_attn.out_proj.bias": "blocks.{i}.b_o",
    "layers.{i}.final_layer_norm.weight": "blocks.{i}.mlp_norm",
    "layers.{i}.final_layer_norm.bias": "blocks.{i}.mlp_norm_bias",
    "layers.{i}.fc1.weight": "blocks.{i}.w_up",
    "layers.{i}.fc1.bias": "blocks.{i}.b_up",
    "layers.{i}.fc2.weight": "blocks.{i}.w_down",
    "layers.{i}.fc2.bias": "blocks.{i}.b_down",
    "final_layer_norm.weight": "norm",
    "final_layer_norm.bias": "norm_bias",
    "lm_head.weight": "head",
}


def refine(source: Source, values: Values) -> None:
    """Every head has keys and values of its own; one switch gives all matrices of the blocks a bias."""
    f, n_embd, n_head = source.fields, values["n_embd"], values["n_head"]
    f.only("layer_norm_elementwise_affine", True)
    if n_embd % n_head:
        raise CheckpointError(f"{source.path}: n_embd is {n_embd}, expected a multiple of n_head {n_head}")
    values.update(n_kv_head=n_head, head_dim=n_embd // n_head)
    values.update(qkv_bias=values["mlp_bias"], o_bias=values["mlp_bias"])
    values["final_norm"] = values["norm_first"] and not f.flag("_remove_final_layer_norm", False)
    if values["n_embed_in"] == n_embd:
        values["n_embed_in"] = None


def to_hf(c: DecoderConfig) -> Values:
    """What config.json holds besides the keys."""
    removed = c.norm_first and not c.final_norm
    return {"word_embed_proj_dim": c.n_embed_in or c.n_embd, "_remove_final_layer_norm": removed}


class Block:
    """The weights of one layer."""

    def __init__(self, weights: Weights, i: int, c: DecoderConfig) -> None:
        name = f"blocks.{i}."
        self.attn_norm = weights.vector(name + "attn_norm", c.n_embd)
        self.attn_norm_bias = weights.vector(name + "attn_norm_bias", c.n_embd)
        qkv = [Slot(f"{name}w_{part}", c.n_embd) for part in "qkv"]
        self.w_qkv = weights.matrix(qkv, c.n_embd, bias=c.qkv_bias)
        self.w_o = weights.matrix([Slot(name + "w_o", c.n_embd)], c.n_embd, bias=c.o_bias)
        self.mlp_norm = weights.vector(name + "mlp_norm", c.n_embd)
        self.mlp_norm_bias = weights.vector(name + "mlp_norm_bias", c.n_embd)
        up = [Slot(name + "w_up", c.n_ffn)]
        self.w_up = weights.matrix(up, c.n_embd, bias=c.mlp_bias, activation=c.activation)
        self.w_down = weights.matrix([Slot(name + "w_down", c.n_embd)], c.n_ffn, bias=c.mlp_bias)


class OPT(DecoderBase):
    """A decoder of the OPT family. Immutable."""

    def __init__(self, config: DecoderConfig, weights: Weights) -> None:
        super().__init__(config, weights)
        c = config
        n_in = c.n_embed_in or c.n_embd
        self.embed = weights.matrix([Slot("embed", c.n_vocab)], n_in, table=not c.tied_head)
        positions = Slot("positions", c.n_ctx, FIRST_POSITION, FIRST_POSITION + c.n_ctx_declared)
        self.positions = weights.matrix([positions], c.n_embd, table=True)
        self.w_in = weights.matrix([Slot("w_in", c.n_embd)], n_in) if c.n_embed_in else None
        self.blocks = [Block(weights, i, c) for i in range(c.n_layer)]
        if c.final_norm:
            self.norm, self.norm_bias = weights.vector("norm", c.n_embd), weights.vector("norm_bias", c.n_embd)
        self.w_out = weights.matrix([Slot("w_out", n_in)], c.n_embd) if c.n_embed_in else None
        self.head = self.embed if c.tied_head else weights.matrix([Slot("head", c.n_vocab)], n_in)

    def embedded(self, ids: Sequence[int], batch: KVBatch) -> Tensor:
        """See `DecoderBase`, here and below."""
        ops = self.ops
        x = ops.embed(self.embed, ids)  # (T, E_in)
        if self.w_in is not None:
            x = ops.linear(x, self.w_in)  # (T, E_in) -> (T, E)
        return ops.add(x, ops.embed(self.positions, batch.positions))

    def attended(
        self, layer: int, x: Tensor, batch: KVBatch, rows: Sequence[int] | None, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        """x + attend(norm(x)), or norm(x + attend(x))."""
        ops, b, c = self.ops, self.blocks[layer], self.config

        def norm(x: Tensor) -> Tensor:
            return ops.layer_norm(x, b.attn_norm, b.attn_norm_bias, c.norm_eps)

        h = norm(x) if c.norm_first else x
        x, a = self.attend(layer, x, ops.linear(h, b.w_qkv), batch, None, rows, watch)  # (T, H * D)
        x = ops.linear(a, b.w_o, x)  # (T, E)
        x = x if c.norm_first else norm(x)
        return x, x

    def fed(self, layer: int, x: Tensor, given: Tensor) -> Tensor:
        """x + mlp(norm(x)), or norm(x + mlp(x))."""
        ops, b, c = self.ops, self.blocks[layer], self.config

        def norm(x: Tensor) -> Tensor:
            return ops.layer_norm(x, b.mlp_norm, b.mlp_norm_bias, c.norm_eps)

        h = norm(given) if c.norm_first else given
        x = ops.linear(ops.linear(h, b.w_up), b.w_down, x)
        return x if c.norm_first else norm(x)

    def normed(self, x: Tensor) -> Tensor:
        """The final norm, where there is one."""
        if not self.config.final_norm:
            return x
        return self.ops.layer_norm(x, self.norm, self.norm_bias, self.config.norm_eps)

    def before_head(self, h: Tensor) -> Tensor:
        """Small OPT has a projection before its head."""
        return h if self.w_out is None else self.ops.linear(h, self.w_out)  # (T, E) -> (T, E_in)


ARCHITECTURE = Architecture(
    model_type="opt",
    hf_class="OPTForCausalLM",
    keys=KEYS,
    layouts={SAFETENSORS: Layout(names=HF_NAMES, prefixes=("model.decoder.", "decoder."))},
    build=OPT,
    refine=refine,
    to_hf=to_hf,
    tied_head=True,
)
