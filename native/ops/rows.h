// What decoding does to one row of logits: (1, n) -> (1, n) or a few numbers. reference_rows.py,
// reference_filters.py and reference_logits.py in fanlight/kernels/ define each.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace fanlight {

struct Stats {
  int n_kept;
  double max, logsumexp, entropy;
};

// rows.cpp: reading
int argmax(const Tensor& row);
Stats stats(const Tensor& row);
double deviation(const Tensor& row);
std::pair<std::vector<int>, std::vector<float>> top(const Tensor& row, int n);
std::vector<float> gather(const Tensor& row, const std::vector<int>& ids);
int rank(const Tensor& row, int token);
Stats stats_of(const RowStats& sums);
int rank_of(const float* x, int n, int token);  // of a whole row without NaN at the token

// logits.cpp: other logits. Bits of tokens, `n_bytes` of them: bit i % 8 of byte i / 8.
Tensor temperature(const Tensor& row, float t);
Tensor repetition_penalty(const Tensor& row, const std::vector<int>& ids, float penalty);
Tensor bias(const Tensor& row, const std::vector<int>& ids, const std::vector<float>& amounts);
Tensor bias_mask(const Tensor& row, const uint8_t* bits, size_t n_bytes, float amount);
Tensor finite(const Tensor& row);
Tensor log_softmax(const Tensor& row);
Tensor blend(const Tensor& a, const Tensor& b, float weight_a, float weight_b);
Tensor smooth(const Tensor& row, double factor, double curve);
Tensor near_target(const Tensor& row, float target);
Tensor mask(const Tensor& row, const uint8_t* bits, size_t n_bytes);

// filters.cpp: fewer tokens
Tensor top_k(const Tensor& row, int k);
Tensor top_p(const Tensor& row, double p, int min_keep);
Tensor keep_above(const Tensor& row, double limit, int min_keep);
Tensor drop_above(const Tensor& row, double limit);
Tensor typical_p(const Tensor& row, double mass, int min_keep);
Tensor tail_free(const Tensor& row, double z, int min_keep);
Tensor top_h(const Tensor& row, double h, int min_keep);
Tensor keep(const Tensor& row, const std::vector<int>& ids);

// noise.cpp: chance
std::vector<double> gumbel(uint64_t seed, uint64_t position, const std::vector<int>& ids);
std::pair<int, double> gumbel_argmax(const Tensor& row, uint64_t seed, uint64_t position);
std::pair<std::vector<int>, std::vector<double>> gumbel_top(const Tensor& row, uint64_t seed, uint64_t position, int n_wanted);
std::vector<uint8_t> green_list(uint32_t seed, int n_vocab, int n_green);

}  // namespace fanlight
