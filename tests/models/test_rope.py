"""Rotary positions against transformers' formulas, through both file formats and back, and the numbers that are refused."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from fanlight.errors import CheckpointError
from fanlight.models.rope import (
    FREQS,
    KINDS,
    LONG,
    SHORT,
    RopeConfig,
    rope_from_gguf,
    rope_from_hf,
    rope_to_gguf,
    rope_to_hf,
)

N_CTX = 112  # of every small configuration, unless it says otherwise
HEAD_DIM = 14
PATH = "model/config.json"


def factors(n: int, slope: float = 0.37) -> list[float]:
    return [1 + slope * i for i in range(n)]


SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.5},
    "dynamic": {"rope_type": "dynamic", "factor": 2.5},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 28},
    "yarn untruncated": {
        "rope_type": "yarn",
        "factor": 7.0,
        "original_max_position_embeddings": 1900,
        "truncate": False,
        "beta_fast": 17.0,
        "beta_slow": 1.5,
    },
    "yarn attention": {
        "rope_type": "yarn",
        "factor": 4.0,
        "attention_factor": 0.83,
        "original_max_position_embeddings": 900,
    },
    "yarn mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "mscale": 0.707,
        "mscale_all_dim": 1.3,
        "original_max_position_embeddings": 4096,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": factors(7, 0.02),
        "long_factor": factors(7, 3.1),
        "original_max_position_embeddings": 28,
    },
    "longrope attention": {
        "rope_type": "longrope",
        "factor": 32.0,
        "short_factor": factors(7, 0.02),
        "long_factor": factors(7, 3.1),
        "attention_factor": 1.19,
        "original_max_position_embeddings": 28,
    },
}


def llama(rope: dict[str, Any], theta: float = 10000.0, n_ctx: int = N_CTX, head_dim: int = HEAD_DIM) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=3 * head_dim,
        num_attention_heads=3,
        head_dim=head_dim,
        max_position_embeddings=n_ctx,
        rope_parameters={"rope_theta": theta, **rope},
    )


def saved(config: Any) -> dict[str, Any]:
    """As it stands in config.json."""
    return dict(json.loads(config.to_json_string(use_diff=False)))


def read(config: dict[str, Any], head_dim: int = HEAD_DIM, n_ctx: int = N_CTX, **more: Any) -> RopeConfig:
    return rope_from_hf(config, PATH, head_dim=head_dim, n_ctx=n_ctx, **more)


def assert_same(rope: RopeConfig, n_ctx: int, expected: Any, attention: float, rtol: float = 2e-5) -> None:
    """Twenty units of float32, in which transformers raises theta to a power."""
    rows, found = rope.inv_freq(n_ctx)
    assert len(rows) == 1
    np.testing.assert_allclose(rows[0], np.asarray(expected), rtol=rtol)
    assert found == pytest.approx(attention, rel=1e-6)


# -- against transformers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("theta", [10000.0, 512.5])
def test_frequencies_are_those_of_transformers(name: str, theta: float) -> None:
    config = llama(SCALINGS[name], theta)
    module = LlamaRotaryEmbedding(config)
    assert_same(read(saved(config)), 1, module.inv_freq, module.attention_scaling)


@pytest.mark.parametrize("name", ["longrope", "longrope attention"])
def test_longrope_takes_the_long_factors_in_a_window_longer_than_the_original(name: str) -> None:
    config = llama(SCALINGS[name])
    rope = read(saved(config))
    for n_ctx in (28, 29, 112):
        assert_same(rope, n_ctx, *ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=n_ctx))
    assert rope.inv_freq(28)[0] != rope.inv_freq(29)[0]


@settings(max_examples=80, deadline=None)
@given(
    theta=st.floats(2, 5e6),
    factor=st.floats(1, 32),
    n_original=st.integers(7, 10**5),
    beta_slow=st.floats(0.1, 4),
    beta_more=st.floats(4, 60),
    truncate=st.booleans(),
    half=st.integers(2, 40),
)
def test_any_yarn_is_that_of_transformers(
    theta: float, factor: float, n_original: int, beta_slow: float, beta_more: float, truncate: bool, half: int
) -> None:
    rope = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": n_original,
        "beta_fast": beta_slow + beta_more,
        "beta_slow": beta_slow,
        "truncate": truncate,
    }
    config = llama(rope, theta, head_dim=2 * half)
    expected, attention = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    # on a steep ramp, float32 loses digits
    assert_same(read(config.to_dict(), head_dim=2 * half), N_CTX, expected, attention, rtol=1e-3)


@settings(max_examples=80, deadline=None)
@given(
    theta=st.floats(2, 5e6),
    factor=st.floats(1, 32),
    low=st.floats(0.1, 9),
    more=st.floats(1, 30),
    n_original=st.integers(2, 10**5),
    half=st.integers(1, 40),
)
def test_any_llama3_is_that_of_transformers(
    theta: float, factor: float, low: float, more: float, n_original: int, half: int
) -> None:
    rope = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": low + more,
        "original_max_position_embeddings": n_original,
    }
    config = llama(rope, theta, head_dim=2 * half)
    expected, attention = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    assert_same(read(config.to_dict(), head_dim=2 * half), N_CTX, expected, attention, rtol=1e-3)


def test_a_dynamic_position_turns_as_the_last_of_a_text_that_ends_there() -> None:
    config = llama(SCALINGS["dynamic"], n_ctx=31)
    rows, attention = read(saved(config), n_ctx=31).inv_freq(77)
    assert len(rows) == 77
    assert attention == 1.0
    for position in (0, 30, 31, 32, 60, 76):
        expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=position + 1)
        np.testing.assert_allclose(rows[position], np.asarray(expected), rtol=2e-5)
    assert rows[30] != rows[31]


def test_dynamic_needs_one_row_inside_the_original_window() -> None:
    rope = RopeConfig(n_rotated=6, theta=10000.0, kind="dynamic", factor=2.0, n_original=33)
    plain = RopeConfig(n_rotated=6, theta=10000.0)
    assert rope.inv_freq(33) == plain.inv_freq(33)
    assert rope.inv_freq(33)[0][0] == rope.inv_freq(34)[0][32]


def test_a_dynamic_pair_alone_always_turns_by_one() -> None:
    rope = RopeConfig(n_rotated=2, theta=10000.0, kind="dynamic", factor=2.0, n_original=3)
    assert rope.inv_freq(5) == ([[1.0]] * 5, 1.0)


def test_a_dynamic_table_of_a_large_model_is_quick() -> None:
    rope = RopeConfig(n_rotated=128, theta=10000.0, kind="dynamic", factor=4.0, n_original=2)
    seconds = math.inf
    for _ in range(5):
        started = time.perf_counter()
        rows, _ = rope.inv_freq(8192)
        seconds = min(seconds, time.perf_counter() - started)
    assert (len(rows), len(rows[-1])) == (8192, 64)
    assert seconds < 0.15  # a third of it on a quiet machine


def test_phi3_has_its_window_on_the_first_level_and_turns_a_part() -> None:
    scaling = {"type": "longrope", "short_factor": factors(6, 0.1), "long_factor": factors(6)}
    config = Phi3Config(
        hidden_size=48,
        num_attention_heads=3,
        partial_rotary_factor=0.75,
        rope_scaling=dict(scaling),
        rope_theta=7000.0,
        max_position_embeddings=131,
        original_max_position_embeddings=44,
        pad_token_id=0,
    )
    old = {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "rope_scaling": scaling,
        "rope_theta": 7000.0,
        "max_position_embeddings": 131,
        "original_max_position_embeddings": 44,
    }
    module = Phi3RotaryEmbedding(config)
    for values in (old, saved(config)):
        rope = read(values, head_dim=16, n_ctx=131)
        assert (rope.n_rotated, rope.n_original) == (12, 44)
        assert_same(rope, 44, module.inv_freq, module.attention_scaling)
        assert_same(rope, 45, *ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=45))


@pytest.mark.parametrize("word", ["su", "yarn", "longrope"])
def test_old_phi3_files_call_longrope_by_other_names(word: str) -> None:
    scaling = {"type": word, "short_factor": factors(7), "long_factor": factors(7, 2)}
    rope = read({"model_type": "phi3", "rope_scaling": scaling})
    assert rope.kind == "longrope"
    assert rope.n_original == Phi3Config(pad_token_id=0).original_max_position_embeddings


def test_phimoe_states_its_factors_of_cosines() -> None:
    rope = read({"rope_parameters": {**SCALINGS["longrope attention"], "short_mscale": 1.1, "long_mscale": 1.3}})
    assert (rope.inv_freq(28)[1], rope.inv_freq(29)[1]) == (1.1, 1.3)


@pytest.mark.parametrize("old", [True, False])
def test_gpt_neox_turns_a_part_under_its_own_names(old: bool) -> None:
    config = GPTNeoXConfig(
        hidden_size=60, num_attention_heads=3, rotary_pct=0.3, rotary_emb_base=5000, max_position_embeddings=99
    )
    values = {"rotary_pct": 0.3, "rotary_emb_base": 5000} if old else saved(config)
    rope = read(values, head_dim=20, n_ctx=99, partial=0.25)
    assert (rope.n_rotated, rope.head_dim) == (6, 20)
    assert_same(rope, 99, GPTNeoXRotaryEmbedding(config).inv_freq, 1.0)


def test_the_architecture_names_what_a_file_leaves_out() -> None:
    rope = read({}, head_dim=24, theta=2e6, partial=0.25)
    assert (rope.n_rotated, rope.theta, rope.kind) == (6, 2e6, "default")


@pytest.mark.parametrize("old", [True, False])
def test_gemma3_turns_its_two_types_of_layers_differently(old: bool) -> None:
    config = Gemma3TextConfig(
        hidden_size=48,
        num_attention_heads=3,
        head_dim=16,
        num_hidden_layers=7,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 9000.0},
        },
    )
    old_form = {
        "rope_theta": 3e5,
        "rope_local_base_freq": 9000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    module = Gemma3RotaryEmbedding(config)
    for layer_type in ("full_attention", "sliding_attention"):
        rope = read(old_form if old else saved(config), head_dim=16, layer_type=layer_type)
        assert_same(rope, N_CTX, getattr(module, f"{layer_type}_inv_freq"), 1.0)


def test_the_old_form_reads_as_the_new_one() -> None:
    scaling = dict(SCALINGS["llama3"])
    new = read({"rope_parameters": {**scaling, "rope_theta": 5e5}})
    scaling["type"] = scaling.pop("rope_type")
    assert read({"rope_scaling": scaling, "rope_theta": 5e5, "rope_parameters": None}) == new


def test_the_original_window_of_the_first_level_counts_first() -> None:
    scaling = {**SCALINGS["yarn"], "original_max_position_embeddings": 2800}
    values = {"rope_scaling": scaling, "original_max_position_embeddings": 440, "head_dim": HEAD_DIM}
    module = LlamaRotaryEmbedding(
        LlamaConfig.from_dict({**json.loads(json.dumps(values)), "max_position_embeddings": 9000})
    )
    assert_same(read(values), 1, module.inv_freq, module.attention_scaling)


# -- out and in again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("part", [1.0, 4 / 7])
def test_config_json_keeps_every_kind(name: str, part: float) -> None:
    n_rotated = int(HEAD_DIM * part)
    scaling = {key: v[: n_rotated // 2] if isinstance(v, list) else v for key, v in SCALINGS[name].items()}
    rope = read({"rope_parameters": {**scaling, "rope_theta": 777.0, "partial_rotary_factor": part}})
    assert rope.n_rotated == n_rotated
    assert read(json.loads(json.dumps({"rope_parameters": rope_to_hf(rope)}))) == rope


@given(head_dim=st.integers(2, 300), data=st.data())
def test_config_json_keeps_every_part(head_dim: int, data: st.DataObject) -> None:
    rope = RopeConfig(n_rotated=2 * data.draw(st.integers(1, head_dim // 2)), head_dim=head_dim, theta=100.0)
    assert read({"rope_parameters": rope_to_hf(rope)}, head_dim=head_dim) == rope


@pytest.mark.parametrize("name", SCALINGS)
def test_gguf_keeps_the_angles_of_every_kind(name: str) -> None:
    rope = read({"rope_parameters": {**SCALINGS[name], "rope_theta": 777.0}})
    metadata, tensors = rope_to_gguf(rope)
    again = from_gguf({f"phi3.{key}": value for key, value in metadata.items()}, tensors)
    for n_ctx in (28, N_CTX):
        assert_same(again, n_ctx, rope.inv_freq(n_ctx)[0][0], rope.inv_freq(n_ctx)[1], rtol=1e-12)


@pytest.mark.parametrize("name", SCALINGS)
def test_what_gguf_says_can_be_said_in_config_json(name: str) -> None:
    """Frequency factors become longrope with equal lists, which transformers computes to the same."""
    metadata, tensors = rope_to_gguf(read({"rope_parameters": {**SCALINGS[name], "rope_theta": 777.0}}))
    rope = from_gguf({f"phi3.{key}": value for key, value in metadata.items()}, tensors)
    written = rope_to_hf(rope)
    for n_ctx in (28, N_CTX):
        assert_same(read({"rope_parameters": written}), n_ctx, *(lambda rows, a: (rows[0], a))(*rope.inv_freq(n_ctx)))
    if written["rope_type"] != "default":
        expected, attention = ROPE_INIT_FUNCTIONS[written["rope_type"]](llama(written), "cpu")
        assert_same(rope, 28, expected, attention)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_factors_of_llama_3_1_are_recognised(factor: float) -> None:
    rope = RopeConfig(n_rotated=64, theta=5e5, kind="llama3", factor=factor, n_original=8192)
    _, tensors = rope_to_gguf(rope)
    assert list(tensors) == [FREQS]
    stored = tuple(float(f) for f in np.float32(tensors[FREQS]))
    assert rope_to_hf(RopeConfig(n_rotated=64, theta=5e5, freq_factors=stored)) == rope_to_hf(rope)
    other = (*stored[:-1], stored[-1] * 1.01)
    assert rope_to_hf(RopeConfig(n_rotated=64, theta=5e5, freq_factors=other))["rope_type"] == "longrope"


# -- GGUF ---------------------------------------------------------------------------------------------------------------


def from_gguf(metadata: dict[str, Any], tensors: dict[str, Any] | None = None, **more: Any) -> RopeConfig:
    return rope_from_gguf(metadata, "phi3", "m.gguf", head_dim=HEAD_DIM, n_ctx=N_CTX, factors=tensors or {}, **more)


def test_gguf_without_a_word_on_positions_is_the_default() -> None:
    assert from_gguf({}) == RopeConfig(n_rotated=HEAD_DIM, head_dim=HEAD_DIM, theta=10000.0)


@pytest.mark.parametrize(
    ("metadata", "kind", "factor"),
    [
        ({"scaling.factor": 4.0}, "linear", 4.0),  # without a type llama.cpp scales linearly
        ({"scale_linear": 4.0}, "linear", 4.0),
        ({"scaling.factor": 2.0, "scale_linear": 4.0}, "linear", 2.0),
        ({"scaling.type": "none", "scaling.factor": 4.0}, "default", 1.0),
        ({"scaling.type": "linear", "scaling.factor": 1.0}, "default", 1.0),
        ({"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.finetuned": True}, "yarn", 4.0),
    ],
)
def test_gguf_scaling_is_read_as_llama_cpp_reads_it(metadata: dict[str, Any], kind: str, factor: float) -> None:
    rope = from_gguf({f"phi3.rope.{key}": value for key, value in metadata.items()})
    assert (rope.kind, rope.factor) == (kind, factor)


def test_gguf_attention_factor_multiplies_that_of_yarn() -> None:
    metadata = {
        "scaling.type": "yarn",
        "scaling.factor": 4.0,
        "scaling.attn_factor": 0.5,
        "scaling.yarn_beta_fast": 16.0,
    }
    rope = from_gguf({f"phi3.rope.{key}": value for key, value in metadata.items()})
    assert rope.inv_freq(1)[1] == pytest.approx(0.5 * (1 + 0.1 * math.log(4)))
    assert (rope.beta_fast, rope.beta_slow) == (16.0, 1.0)
    plain = from_gguf({"phi3.rope.scaling.attn_factor": 0.5})
    assert plain.inv_freq(1)[1] == 0.5


def test_gguf_frequency_factors_divide() -> None:
    rope = from_gguf({"phi3.rope.dimension_count": 6}, {FREQS: np.float32([1, 2, 1e30])})
    plain = from_gguf({"phi3.rope.dimension_count": 6})
    expected = np.array(plain.inv_freq(1)[0][0]) / np.float32([1, 2, 1e30]).astype(float)
    np.testing.assert_allclose(rope.inv_freq(1)[0][0], expected, rtol=1e-12)


def test_gguf_sliding_layers_have_a_theta_of_their_own() -> None:
    metadata = {"phi3.rope.freq_base": 1e6, "phi3.rope.scaling.type": "linear", "phi3.rope.scaling.factor": 8.0}
    rope = from_gguf(metadata, layer_type="sliding_attention")
    assert (rope.theta, rope.kind) == (10000.0, "default")
    rope = from_gguf(metadata | {"phi3.rope.freq_base_swa": 5000.0}, layer_type="sliding_attention")
    assert rope.theta == 5000.0
    assert from_gguf(metadata, layer_type="full_attention").factor == 8.0


# -- refusals -----------------------------------------------------------------------------------------------------------

NUMBER_KEYS = [
    (name, key)
    for name, scaling in SCALINGS.items()
    for key, value in {**scaling, "rope_theta": 1e4, "partial_rotary_factor": 1.0}.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
    and not (name == "default" and key == "factor")
    and not (name == "dynamic" and key == "original_max_position_embeddings")
]  # fmt: skip


def refused(message: str, *words: str) -> None:
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


@pytest.mark.parametrize("bad", [0, -1.5, math.nan, math.inf, "8", True, [1.0], 1e300])
@pytest.mark.parametrize(("name", "key"), NUMBER_KEYS)
def test_a_number_that_is_none_is_refused(name: str, key: str, bad: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        read({"rope_parameters": {**SCALINGS[name], key: bad}})
    refused(
        str(caught.value),
        PATH,
        key.replace("rope_theta", "theta").replace("original_max_position_embeddings", "origin"),
    )


@pytest.mark.parametrize("key", ["short_factor", "long_factor"])
@pytest.mark.parametrize(
    "bad", [None, 3.0, "1234567", [], factors(6), factors(8), [*factors(6), math.nan], [*factors(6), 0]]
)
def test_lists_of_factors_are_checked(key: str, bad: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        read({"rope_scaling": {**SCALINGS["longrope"], key: bad}})
    refused(str(caught.value), PATH, "rope_scaling", key)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rope_parameters": {"rope_type": "mrope"}}, ["rope_type", "'mrope'", *KINDS]),
        ({"rope_scaling": {"type": ["yarn"]}}, ["rope_scaling", "type", "['yarn']"]),
        ({"rope_scaling": "linear"}, ["rope_scaling", "'linear'", "object"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor is missing"]),
        ({"rope_scaling": {**SCALINGS["llama3"], "high_freq_factor": 1.0}}, ["high_freq_factor", "low_freq_factor"]),
        ({"rope_scaling": {**SCALINGS["yarn"], "beta_fast": 0.5}}, ["beta_fast", "beta_slow"]),
        ({"rope_scaling": {**SCALINGS["yarn"], "truncate": 1}}, ["truncate", "true or false"]),
        ({"rope_scaling": SCALINGS["yarn"], "rope_theta": 1.0}, ["theta", "over 1"]),
        (
            {"rope_scaling": {**SCALINGS["longrope"], "original_max_position_embeddings": 1}},
            ["n_original", "at least 2"],
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0, "alpha": 1000}}, ["alpha"]),
        ({"rope_parameters": {"full_attention": {}, "sliding_attention": {}}}, ["rope_parameters", "layers"]),
        ({"partial_rotary_factor": 1.2}, ["partial_rotary_factor", "1.2"]),
        ({"partial_rotary_factor": 0.5}, ["7 dimensions", "even"]),
        ({"partial_rotary_factor": 0.01}, ["0 dimensions", "from 2 to 14"]),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(config)
    refused(str(caught.value), PATH, *words)


def test_layers_of_different_types_need_an_object_each() -> None:
    with pytest.raises(CheckpointError, match="full_attention"):
        read({"rope_parameters": {"rope_type": "default"}}, layer_type="full_attention")


@pytest.mark.parametrize(
    ("metadata", "tensors", "words"),
    [
        ({"scaling.type": "ntk"}, {}, ["scaling.type", "'ntk'", "'yarn'"]),
        ({"scaling.factor": 0.0}, {}, ["scaling.factor", "0.0"]),
        ({"freq_base": math.nan}, {}, ["freq_base", "nan"]),
        ({"dimension_count": 15}, {}, ["15", "14"]),
        ({"dimension_count": 5}, {}, ["5", "even"]),
        ({"scaling.yarn_log_multiplier": 0.1}, {}, ["yarn_log_multiplier"]),
        ({}, {FREQS: factors(6)}, [FREQS, "6", "7"]),
        ({}, {FREQS: [*factors(6), math.nan]}, [FREQS, "nan"]),
        ({}, {LONG: factors(7)}, [LONG, SHORT]),
        ({}, {LONG: factors(7), SHORT: factors(7), FREQS: factors(7)}, [FREQS]),
        ({"scaling.type": "longrope"}, {}, ["longrope", "none", LONG]),
        ({"scaling.type": "yarn", "scaling.factor": 2.0}, {LONG: factors(7), SHORT: factors(7)}, ["yarn", LONG]),
        ({"scaling.factor": 2.0}, {LONG: factors(7), SHORT: factors(7)}, ["2.0", LONG]),
    ],
)
def test_gguf_that_means_nothing_is_refused(
    metadata: dict[str, Any], tensors: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_gguf({f"phi3.rope.{key}": value for key, value in metadata.items()}, tensors)
    refused(str(caught.value), "m.gguf", *words)


def test_gguf_has_no_place_for_two_mscales() -> None:
    rope = read({"rope_parameters": {**SCALINGS["longrope"], "short_mscale": 1.1, "long_mscale": 1.3}})
    with pytest.raises(CheckpointError, match=r"1\.1.*1\.3"):
        rope_to_gguf(rope)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "ntk"},
        {"kind": "longrope", "n_original": 9, "short_factors": (1.0, 1.0, 1.0)},
        {"kind": "dynamic", "n_original": 9, "attention_factor": 1.1},
        {"kind": "dynamic", "n_original": 9, "freq_factors": (1.0, 1.0, 1.0)},
        {"kind": "dynamic"},
        {"freq_factors": (1.0, 1.0)},
        {"theta": 0.0},
    ],
)
def test_a_config_cannot_contradict_itself(values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="rotary"):
        RopeConfig(**{"n_rotated": 6, "theta": 10000.0, **values})
