// The weights with which attention sums values, for those who want to look at them.
#pragma once
#include <optional>
#include <vector>

#include "ops/attention.h"

namespace fanlight {

// (rows * heads, n): of each row of the batch the query heads named (none named: all), one after another; n is how many positions, from
// the first on, some row of the batch sees. 0 where a row sees nothing.
Tensor attention_weights(const Tensor& q, const KVBatch& batch, int layer, const AttentionRule& rule, const std::optional<std::vector<int>>& heads);

}  // namespace fanlight
