// Logits rows, summed up as they are made: linear, softcap, top, stats, gather and rank of many rows, without keeping them.
#pragma once
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "ops/linear.h"

namespace fanlight {

struct Readings {
  int n_rows, k;                            // k: at most the columns of the matrix
  std::vector<int32_t> ids;                 // (n_rows, k); -1 where fewer tokens are left
  std::vector<float> logits;                // theirs; -inf there
  std::vector<double> logsumexp, entropy;   // one a row, as the rest
  std::vector<float> token_logits;
  std::vector<int32_t> token_ranks;
};

// softcap 0: none. One token a row. Every number is, bit for bit, that of the op on this row alone.
Readings readings(const Tensor& h, const Linear& w, const std::vector<int>& tokens, int k, float softcap);

}  // namespace fanlight
