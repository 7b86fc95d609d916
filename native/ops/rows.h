// What decoding does to one row of logits: (1, n) -> (1, n) or a few numbers. fanlight/kernels/reference_rows.py defines each.
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

int argmax(const Tensor& row);
Tensor temperature(const Tensor& row, float t);
Tensor repetition_penalty(const Tensor& row, const std::vector<int>& ids, float penalty);
Tensor top_k(const Tensor& row, int k);
Tensor top_p(const Tensor& row, double p);
Tensor min_p(const Tensor& row, double p);
Stats stats(const Tensor& row);
std::pair<std::vector<int>, std::vector<float>> top(const Tensor& row, int n);
std::vector<float> gather(const Tensor& row, const std::vector<int>& ids);
int rank(const Tensor& row, int token);
std::vector<double> gumbel(uint64_t seed, uint64_t position, const std::vector<int>& ids);
std::pair<int, double> gumbel_argmax(const Tensor& row, uint64_t seed, uint64_t position);

}  // namespace fanlight
