// The functions that exist once for each instruction set, and how they are chosen. Knows arrays; knows no tensor and no thread.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fanlight {

constexpr int kTile = 16;   // output rows interleaved in a weight tile: one lane each
constexpr int kGroup = 32;  // weights, and activations, that share a scale

// Activations of one call as a tile sees them: floats in rows, or int8 in panels.
//
// A panel holds the rows of one tile call, `max_rows` of them (fewer in the last), group after group, so that a tile walks one
// pointer: for T rows, each group is T x 32 bytes q, T floats scale, T floats scale * sum(q), T ints sum(q), with
// value ~ scale * q. The second is what a weight's minimum is multiplied with, the third undoes an offset of the weights.
struct Activations {
  const float* rows;
  size_t stride;
  const uint8_t* panels;
};
constexpr int kPanelBytes = kGroup + 3 * 4;  // of one row and group

constexpr int kPageTokens = 64;  // positions in a page of the KV cache
constexpr int kStretch = 256;    // positions whose softmax and values are summed up together; whole pages

// `n_rows` query rows that share one key/value head, over the stretches [first_stretch, end_stretch) of positions. Page p holds
// positions p * kPageTokens ...
struct AttentionJob {
  static constexpr int kMaxRows = 8;
  const float* q[kMaxRows];
  float* out[kMaxRows];
  int first_key[kMaxRows], n_keys[kMaxRows];  // positions first_key .. n_keys - 1 are visible
  int n_rows;
  const uint8_t* const* pages;
  size_t k_offset, v_offset, value_bytes;  // of this layer and head: bytes into a page, and how many its values take
  const uint8_t* ahead;                    // what will be read after this job, to be asked for meanwhile; any address will do
  int head_dim;
  float scale, softcap;  // softcap > 0: scores become softcap * tanh(score / softcap)
  int first_stretch, end_stretch;
  float* parts;      // what each stretch adds: [stretch][n_rows][part_floats(head_dim)], from first_stretch on
  int16_t* q_codes;  // room for n_rows * (head_dim + 16), of int8 caches
};

// The largest score, the sum of exp(score - largest), a weight, and from kPartHead on the values so weighted.
constexpr int kPartHead = 16;
inline size_t part_floats(int head_dim) { return static_cast<size_t>(kPartHead + (head_dim + 15) / 16 * 16); }

struct RowStats {
  int n_kept;
  float max;
  double sum_exp;       // of exp(x - max)
  double sum_x_exp;     // of (x - max) * exp(x - max)
  bool has_nan;
};

constexpr int kPeak = 256;  // columns of a row that share a peak

struct RowMass {
  int count;
  double sum_exp;
};

struct RowMoments {
  int count;
  double sum, sum_of_squares;  // of x - shift, over x > -inf
};

// Logits between two intervals: outer_low <= x <= outer_high, without inner_low <= x <= inner_high.
struct RowRing {
  float outer_low, inner_low, inner_high, outer_high;
};

// Bytes that will be wanted soon: a tile's loop asks for them bit by bit.
struct Ahead {
  const uint8_t* at = nullptr;
  size_t bytes = 0;
};

using TileFn = void (*)(const uint8_t* w, int n_in, const Activations& a, int row, int n_rows, Ahead ahead, float* out);

struct Kernels {
  const char* name;
  int max_rows, max_float_rows;  // rows per tile call: of int8 and of float activations
  int max_attn_rows;

  TileFn tile_f32, tile_f16, tile_bf16, tile_q4_1, tile_q8_0;

  void (*quantize)(const float* x, size_t stride, int n_rows, int n_groups, uint8_t* panel);
  bool (*extremes)(const float* x, float* low, float* high);                  // of 32; false: not all are finite
  void (*round_bytes)(const float* x, float factor, int8_t* q);               // 32 numbers to -127 .. 127
  void (*round_nibbles)(const float* x, float low, float factor, int8_t* q);  // 32 numbers to 0 .. 15
  void (*half_to_float)(const uint16_t* x, float* y, int n);  // n % 16 == 0, as in the ten below
  void (*add)(const float* a, const float* b, float* y, int n);
  void (*silu)(float* x, int n);
  void (*gelu_tanh)(float* x, int n);
  void (*gelu)(float* x, int n);
  void (*relu)(float* x, int n);
  void (*tanh)(float* x, int n);
  void (*scale)(const float* x, float by, float* y, int n);
  void (*softcap)(const float* x, float cap, float* y, int n);
  void (*silu_mul)(const float* gate, const float* up, float* y, int n);
  void (*gelu_mul)(const float* gate, const float* up, float* y, int n);
  void (*rms_norm)(const float* x, const float* w, float eps, int n, int stride, float* y);
  void (*span_norm)(const float* x, const float* w, float eps, int n, float* y);  // any n
  void (*layer_norm)(const float* x, const float* w, const float* b, float eps, int n, int stride, float* y);
  void (*rope)(const float* x, const float* cos, const float* sin, int head_dim, float* y);

  void (*store_kv_f16)(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values);
  void (*store_kv_f32)(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values);
  void (*store_kv_i8)(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values);
  void (*attention_f16)(const AttentionJob& job);  // fills parts
  void (*attention_f32)(const AttentionJob& job);
  void (*attention_i8)(const AttentionJob& job);
  void (*join_stretches)(const AttentionJob& job);  // parts to out
  // The weights alone, of every position that a row sees: to out, rows of n_padded floats (a multiple of 16), 0 where it sees none.
  // Of the job, stretches and parts are not read.
  void (*attention_weights_f16)(const AttentionJob& job, int n_padded);
  void (*attention_weights_f32)(const AttentionJob& job, int n_padded);
  void (*attention_weights_i8)(const AttentionJob& job, int n_padded);

  RowStats (*row_stats)(const float* x, int n);
  bool (*row_peaks)(const float* x, int n, float* peaks);     // the largest of each kPeak numbers; whether there is NaN
  RowStats (*row_sums)(const float* x, int n, float max);     // the rest of row_stats, where the largest is known
  RowMass (*row_mass)(const float* x, int n, float max, float limit);  // of exp(x - max) over x >= limit
  int (*row_argmax)(const float* x, int n, bool* has_nan);
  void (*row_divide)(const float* x, int n, float by, float* y);
  int (*row_keep)(const float* x, int n, float limit, float* y);   // y = x < limit ? -inf : x; how many are > -inf
  void (*row_drop)(const float* x, int n, float limit, float* y);  // y = x >= limit ? -inf : x
  int (*row_count_above)(const float* x, int n, float limit);
  // Indices in [begin, end) with x > limit, until `capacity` are found; *next is where to go on.
  int (*row_collect)(const float* x, int begin, int end, float limit, int32_t* found, int capacity, int* next);
  int (*row_collect_ring)(const float* x, int begin, int end, const RowRing& ring, int32_t* found, int capacity, int* next);
  // Indices whose logit + noise may exceed `best`: see rows.h.
  int (*row_gumbel)(const float* x, int begin, int end, uint32_t k0, uint32_t k1, double best, int32_t* found, int capacity, int* next);
  RowMass (*row_mass_within)(const float* x, int n, float max, float low, float high);  // of exp(x - max) over low <= x <= high
  void (*row_weights)(const float* x, int n, float max, double* y);  // exp(x - max) for x - max from -700 to 0, to a few units in the last place
  RowMoments (*row_moments)(const float* x, int n, float shift);
  // One row to another; reference_logits.py says what each does. `bits` may lie at any address.
  void (*row_mask)(const float* x, int n, const uint8_t* bits, float* y);
  void (*row_bias_mask)(const float* x, int n, const uint8_t* bits, float amount, float* y);
  void (*row_finite)(const float* x, int n, float* y);
  void (*row_subtract)(const float* x, int n, double by, float* y);
  void (*row_blend)(const float* a, const float* b, int n, float weight_a, float weight_b, float* y);
  void (*row_smooth)(const float* x, int n, float max, float square, float cube, float* y);
  void (*row_near_target)(const float* x, int n, float logsumexp, float target, float* y);
};

const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* neon_kernels();
const Kernels* generic_kernels();

const Kernels& kernels();                 // the ones in use
const char* use_kernels(const char* name);  // "" for the best that this machine has; nullptr if it cannot run `name`

}  // namespace fanlight
