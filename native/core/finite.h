// Numbers in memory -> the first that is NaN or infinite. Knows no type of weights: where the numbers lie is told.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fanlight {

// `n_units` units of `stride` bytes, each with a number of `width` bytes (2, 4 or 8) at every offset. A number is not finite if all
// bits of `exponent` are set. The first unit with such a number; -1: none. Uses the threads of the ops.
int64_t first_not_finite(const uint8_t* data, size_t n_units, size_t stride, const std::vector<size_t>& offsets, int width, uint64_t exponent);

}  // namespace fanlight
