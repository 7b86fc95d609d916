#include "core/finite.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/check.h"
#include "core/pool.h"

namespace fanlight {
namespace {

constexpr size_t kChunkBytes = size_t{256} * 1024;

// Whether any of `n` numbers, `stride` bytes apart, has all bits of the exponent. No way out of the loop, so that it runs in lanes.
template <class T>
bool any(const uint8_t* data, size_t n, size_t stride, T exponent) {
  T found = 0;
  for (size_t i = 0; i < n; i++) {
    T x;
    std::memcpy(&x, data + i * stride, sizeof(T));
    found |= static_cast<T>((x & exponent) == exponent);
  }
  return found != 0;
}
template <class T>
bool any_in(const uint8_t* data, size_t n, size_t stride, const std::vector<size_t>& offsets, uint64_t exponent) {
  for (const size_t offset : offsets)
    if (stride == sizeof(T) ? any<T>(data, n, sizeof(T), static_cast<T>(exponent)) : any<T>(data + offset, n, stride, static_cast<T>(exponent)))
      return true;
  return false;
}

}  // namespace

int64_t first_not_finite(const uint8_t* data, size_t n_units, size_t stride, const std::vector<size_t>& offsets, int width, uint64_t exponent) {
  check(width == 2 || width == 4 || width == 8, "first_not_finite: a number has ", width, " bytes");
  check(!offsets.empty() && stride > 0, "first_not_finite: no numbers to look at");
  for (const size_t offset : offsets) check(offset < stride && static_cast<size_t>(width) <= stride - offset, "first_not_finite: offset ", offset, " in ", stride);
  const auto bad = [&](size_t first, size_t n) {
    const uint8_t* at = data + first * stride;
    if (width == 2) return any_in<uint16_t>(at, n, stride, offsets, exponent);
    if (width == 4) return any_in<uint32_t>(at, n, stride, offsets, exponent);
    return any_in<uint64_t>(at, n, stride, offsets, exponent);
  };
  const size_t chunk = std::max<size_t>(1, kChunkBytes / stride), n_chunks = (n_units + chunk - 1) / chunk;
  check(n_chunks < (size_t{1} << 31), "first_not_finite: ", n_units, " units are too many");
  std::atomic<int> first_bad{static_cast<int>(n_chunks)};
  pool()->run(static_cast<int>(n_chunks), 4, [&](int begin, int end) {
    for (int c = begin; c < end && c < first_bad.load(std::memory_order_relaxed); c++) {
      const size_t first = static_cast<size_t>(c) * chunk;
      if (!bad(first, std::min(chunk, n_units - first))) continue;
      int before = first_bad.load();
      while (c < before && !first_bad.compare_exchange_weak(before, c)) {
      }
    }
  });
  if (first_bad.load() == static_cast<int>(n_chunks)) return -1;
  size_t unit = static_cast<size_t>(first_bad.load()) * chunk;
  while (!bad(unit, 1)) unit++;
  return static_cast<int64_t>(unit);
}

}  // namespace fanlight
