#include "ops/row_parts.h"

#include <algorithm>
#include <cstring>

namespace fanlight {

float at_least(double limit) {
  constexpr double largest = std::numeric_limits<float>::max();
  if (std::fabs(limit) > largest) return limit > 0 ? kInfinity : std::isinf(limit) ? kRemoved : -std::numeric_limits<float>::max();
  const float x = static_cast<float>(limit);
  return static_cast<double>(x) < limit ? next_above(x) : x;
}
float at_most(double limit) { return -at_least(-limit); }

const float* values(const Tensor& row, const char* op) {
  check(row.n_rows() == 1 && row.n_columns() > 0, op, ": takes one row, got ", row.n_rows(), " x ", row.n_columns());
  return row.row(0);
}

Numbers numbers(const Tensor& row, const char* op) {
  check(row.n_rows() == 1 && row.n_columns() > 0, op, ": takes one row, got ", row.n_rows(), " x ", row.n_columns());
  return {row.stored(), row.n_stored(), row.ids() ? row.ids()->data() : nullptr};
}

int Numbers::place(int id) const {
  if (!ids) return id;
  const int32_t* found = std::lower_bound(ids, ids + n, id);
  return found != ids + n && *found == id ? static_cast<int>(found - ids) : -1;
}

Tensor few(Tensor row) {
  constexpr int kFew = 512;
  if (row.ids() || row.n_columns() < 4 * kFew) return row;
  const float* x = row.stored();
  int32_t found[kFew + 16];
  int next = 0;
  const int count = kernels().row_collect(x, 0, row.n_columns(), kRemoved, found, kFew + 16, &next);
  bool has_nan = false;
  if (next < row.n_columns() || count == 0 || count > kFew) return row;
  kernels().row_argmax(x, row.n_columns(), &has_nan);  // NaN is not above -inf, and must not be lost
  if (has_nan) return row;
  Tensor y = Tensor::of_few(row.n_columns(), std::make_shared<const std::vector<int32_t>>(found, found + count));
  for (int i = 0; i < count; i++) y.stored()[i] = x[found[i]];
  return y;
}

Tensor like(const Tensor& row) {
  if (row.ids()) return Tensor::of_few(row.n_columns(), row.ids());
  Tensor y(1, row.n_columns());
  std::fill(y.row(0) + y.n_columns(), y.row(0) + y.stride(), 0.f);
  return y;
}

Tensor copy_of(const Tensor& row) {
  Tensor y = like(row);
  std::memcpy(y.stored(), row.stored(), static_cast<size_t>(row.n_stored()) * sizeof(float));
  return y;
}

void check_id(const char* op, int id, int n) { check(id >= 0 && id < n, op, ": token ", id, " is outside 0 to ", n - 1); }
void check_min_keep(const char* op, int min_keep) { check(min_keep >= 1, op, ": min_keep is ", min_keep, ", must be at least 1"); }
bool is_sound(const RowStats& stats) { return !stats.has_nan && std::isfinite(stats.max); }

void check_largest(const char* op, float largest, bool has_nan) {
  const std::string name = op;
  if (has_nan) throw NumericError(name + ": the logits hold NaN; the model's weights may be damaged");
  if (largest == kInfinity) throw NumericError(name + ": a token has the logit +inf; the model's arithmetic overflowed");
  if (largest == kRemoved) throw NumericError(name + ": no token is left: all logits are -inf; loosen the filters");
}

RowStats checked_stats(const Tensor& row, const char* op) {
  numbers(row, op);
  const RowStats r = row.row_stats();
  check_largest(op, r.max, r.has_nan);
  return r;
}

int checked_argmax(const Tensor& row, const char* op) {
  const Numbers r = numbers(row, op);
  bool has_nan = false;
  const int place = kernels().row_argmax(r.x, r.n, &has_nan);
  check_largest(op, r.x[place], has_nan);
  return r.id(place);
}

// A buffer of candidates above a rising threshold, cut back when it is full.
std::vector<Scored>& select(const float* x, int n, int k) {
  static thread_local std::vector<Scored> kept;
  static thread_local std::vector<int32_t> found(4096);
  kept.clear();
  const size_t limit = static_cast<size_t>(k) * 4 + 256;
  float threshold = kRemoved;
  auto cut = [&] {
    if (kept.size() <= static_cast<size_t>(k)) return;
    std::nth_element(kept.begin(), kept.begin() + (k - 1), kept.end(), before);
    kept.resize(static_cast<size_t>(k));
    threshold = kept.back().logit;  // a later token that equals it has a higher id, so it comes after
  };
  for (int i = 0; i < n;) {
    // Small bites at first, so that the threshold rises early.
    const int bite = kept.size() < static_cast<size_t>(k) ? std::max(256, k) : 4096;
    const int count = kernels().row_collect(x, i, std::min(n, i + bite), threshold, found.data(), static_cast<int>(found.size()), &i);
    for (int j = 0; j < count; j++) kept.push_back({x[found[static_cast<size_t>(j)]], found[static_cast<size_t>(j)]});
    if (kept.size() >= limit || (threshold == kRemoved && kept.size() > static_cast<size_t>(k))) cut();
  }
  cut();
  return kept;
}

std::vector<int32_t>& collect(const float* x, int n, const RowRing& ring, int count) {
  static thread_local std::vector<int32_t> found;
  found.resize(static_cast<size_t>(count) + 32);
  int next = 0;
  found.resize(static_cast<size_t>(kernels().row_collect_ring(x, 0, n, ring, found.data(), count + 32, &next)));
  return found;
}

void keep_first(const float* x, int n, int k, float limit, float* y) {
  int surplus = kernels().row_keep(x, n, limit, y) - k;
  for (int i = n - 1; surplus > 0 && i >= 0; i--)  // of equal ones, the lowest ids stay
    if (x[i] == limit) y[i] = kRemoved, surplus--;
}

void keep_first(const float* x, int n, int k, float* y) {
  float limit = kRemoved;
  if (k < n) {
    const auto& kept = select(x, n, k);
    if (kept.size() == static_cast<size_t>(k)) limit = std::max_element(kept.begin(), kept.end(), before)->logit;
  }
  keep_first(x, n, k, limit, y);
}

}  // namespace fanlight
