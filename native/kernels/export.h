// The table of this instruction set. Included last.
#include "kernels/table.h"

namespace fanlight::FANLIGHT_ISA {

inline const Kernels* table() {
  static const Kernels k = {
      .name = kName, .max_rows = kMaxRows, .max_float_rows = kMaxFloatRows, .max_attn_rows = kMaxAttnRows,
      .tile_f32 = tile_f32, .tile_f16 = tile_f16, .tile_bf16 = tile_bf16, .tile_q4_1 = tile_q4_1, .tile_q8_0 = tile_q8_0,
      .quantize = quantize, .extremes = extremes, .round_bytes = round_bytes, .round_nibbles = round_nibbles,
      .half_to_float = half_to_float, .add = add_rows, .silu = silu, .gelu_tanh = gelu_tanh, .gelu = gelu,
      .relu = relu, .tanh = tanh_rows, .scale = scale_rows, .softcap = softcap_rows, .silu_mul = silu_mul, .gelu_mul = gelu_mul,
      .rms_norm = rms_norm, .span_norm = span_norm, .layer_norm = layer_norm, .rope = rope,
      .store_kv_f16 = store_kv_f16, .store_kv_f32 = store_kv_f32, .store_kv_i8 = store_kv_i8,
      .attention_f16 = attention_f16, .attention_f32 = attention_f32, .attention_i8 = attention_i8, .join_stretches = join_stretches,
      .attention_weights_f16 = attention_weights_f16, .attention_weights_f32 = attention_weights_f32, .attention_weights_i8 = attention_weights_i8,
      .row_stats = row_stats, .row_peaks = row_peaks, .row_sums = row_sums, .row_mass = row_mass, .row_argmax = row_argmax, .row_divide = row_divide, .row_keep = row_keep, .row_drop = row_drop,
      .row_count_above = row_count_above, .row_collect = row_collect, .row_collect_ring = row_collect_ring, .row_gumbel = row_gumbel,
      .row_mass_within = row_mass_within, .row_weights = row_weights, .row_moments = row_moments, .row_mask = row_mask, .row_bias_mask = row_bias_mask,
      .row_finite = row_finite, .row_subtract = row_subtract, .row_blend = row_blend, .row_smooth = row_smooth,
      .row_near_target = row_near_target,
  };
  return &k;
}

}  // namespace fanlight::FANLIGHT_ISA
