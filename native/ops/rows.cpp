#include "ops/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"

namespace fanlight {
namespace {

constexpr int kSortable = 256;  // tokens that are sorted sooner than narrowed down
constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

const float* values(const Tensor& row, const char* op) {
  check(row.n_rows() == 1 && row.n_columns() > 0, op, ": takes one row, got ", row.n_rows(), " x ", row.n_columns());
  return row.row(0);
}

void check_id(const char* op, int id, int n) { check(id >= 0 && id < n, op, ": token ", id, " is outside 0 to ", n - 1); }

Tensor like(const Tensor& row) {
  Tensor y(1, row.n_columns());
  std::fill(y.row(0) + y.n_columns(), y.row(0) + y.stride(), 0.f);
  return y;
}

// What cannot be chosen from: the same three cases as reference_rows.py.
void check_largest(const char* op, float largest, bool has_nan) {
  const std::string name = op;
  if (has_nan) throw NumericError(name + ": the logits hold NaN; the model's weights may be damaged");
  if (largest == -kMinusInf) throw NumericError(name + ": a token has the logit +inf; the model's arithmetic overflowed");
  if (largest == kMinusInf) throw NumericError(name + ": no token is left: all logits are -inf; loosen the filters");
}

int checked_argmax(const Tensor& row, const char* op) {
  const float* x = values(row, op);
  bool has_nan = false;
  const int id = kernels().row_argmax(x, row.n_columns(), &has_nan);
  check_largest(op, x[id], has_nan);
  return id;
}

struct Scored {
  float logit;
  int id;
};
bool before(const Scored& a, const Scored& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

// The k first in the order of `before`, unsorted: a buffer of candidates above a rising threshold, cut back when it is full.
std::vector<Scored>& select(const float* x, int n, int k) {
  static thread_local std::vector<Scored> kept;
  static thread_local std::vector<int32_t> found(4096);
  kept.clear();
  const size_t limit = static_cast<size_t>(k) * 4 + 256;
  float threshold = kMinusInf;
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
    if (kept.size() >= limit || (threshold == kMinusInf && kept.size() > static_cast<size_t>(k))) cut();
  }
  cut();
  return kept;
}

}  // namespace

int argmax(const Tensor& row) { return checked_argmax(row, "argmax"); }

Tensor temperature(const Tensor& row, float t) {
  const float* x = values(row, "temperature");
  check(t > 0 && std::isfinite(t), "temperature: is ", t, ", must be above 0");
  Tensor y = like(row);
  kernels().row_divide(x, row.n_columns(), t, y.row(0));
  return y;
}

Tensor repetition_penalty(const Tensor& row, const std::vector<int>& ids, float penalty) {
  const float* x = values(row, "repetition_penalty");
  check(penalty > 0 && std::isfinite(penalty), "repetition_penalty: is ", penalty, ", must be above 0");
  Tensor y = like(row);
  float* out = y.row(0);
  std::memcpy(out, x, static_cast<size_t>(row.n_columns()) * sizeof(float));
  for (int id : ids) {  // from the input, so that an id met twice is penalised once
    check_id("repetition_penalty", id, row.n_columns());
    out[id] = x[id] > 0 ? x[id] / penalty : x[id] * penalty;
  }
  return y;
}

Tensor top_k(const Tensor& row, int k) {
  const float* x = values(row, "top_k");
  check(k >= 1, "top_k: k is ", k, ", must be at least 1");
  Tensor y = like(row);
  float limit = kMinusInf;
  if (k < row.n_columns()) {
    const auto& kept = select(x, row.n_columns(), k);
    if (kept.size() == static_cast<size_t>(k)) limit = std::min_element(kept.begin(), kept.end(), [](auto& a, auto& b) { return a.logit < b.logit; })->logit;
  }
  kernels().row_keep(x, row.n_columns(), limit, y.row(0));
  return y;
}

Tensor top_p(const Tensor& row, double p) {
  const float* x = values(row, "top_p");
  check(p > 0 && p <= 1, "top_p: p is ", p, ", must be above 0 and at most 1");
  const int n = row.n_columns();
  Tensor y = like(row);
  const RowStats all = kernels().row_stats(x, n);
  if (p == 1.0 || all.has_nan || std::isinf(all.max)) {  // damaged rows pass through: the choice after this raises
    std::memcpy(y.row(0), x, static_cast<size_t>(n) * sizeof(float));
    return y;
  }
  const double wanted = p * all.sum_exp;
  auto above = [](float t) { return std::nextafter(t, std::numeric_limits<float>::infinity()); };

  // A selection, not a sort of the vocabulary: narrow (low, high] around the cut until few tokens lie in it. The tokens above
  // `high` weigh less than wanted, those above `low` at least as much.
  float high = all.max, low = all.max;
  RowMass over_high{0, 0.0}, over_low{0, 0.0};
  if (all.n_kept <= kSortable) low = kMinusInf, over_low = {all.n_kept, all.sum_exp};  // after top_k, say
  for (float depth = 2.f; over_low.sum_exp < wanted && low != kMinusInf; depth *= 2) {
    high = low, over_high = over_low;
    low = depth > 100.f ? kMinusInf : all.max - depth;
    over_low = kernels().row_mass(x, n, all.max, above(low));
  }
  while (over_low.count - over_high.count > kSortable) {
    const float middle = low == kMinusInf ? high - 100.f : low + (high - low) / 2;
    if (!(middle > low && middle < high)) break;  // all of them are equal
    const RowMass over_middle = kernels().row_mass(x, n, all.max, above(middle));
    if (over_middle.sum_exp < wanted) high = middle, over_high = over_middle;
    else low = middle, over_low = over_middle;
  }
  static thread_local std::vector<Scored> near;
  static thread_local std::vector<int32_t> found;
  found.resize(static_cast<size_t>(over_low.count) + 32);
  int next = 0;
  const int count = kernels().row_collect(x, 0, n, low, found.data(), static_cast<int>(found.size()), &next);
  near.clear();
  for (int j = 0; j < count; j++) {
    const int id = found[static_cast<size_t>(j)];
    if (x[id] <= high) near.push_back({x[id], id});
  }
  std::sort(near.begin(), near.end(), before);
  size_t cut = 0;
  for (double mass = over_high.sum_exp; cut + 1 < near.size(); cut++) {
    mass += std::exp(static_cast<double>(near[cut].logit) - static_cast<double>(all.max));
    if (mass >= wanted) break;
  }
  float* out = y.row(0);
  kernels().row_keep(x, n, near[cut].logit, out);
  for (size_t i = cut + 1; i < near.size() && near[i].logit == near[cut].logit; i++) out[near[i].id] = kMinusInf;  // the lowest ids stay
  return y;
}

Tensor min_p(const Tensor& row, double p) {
  const float* x = values(row, "min_p");
  check(p >= 0 && p <= 1, "min_p: p is ", p, ", must be from 0 to 1");
  Tensor y = like(row);
  bool has_nan = false;
  const float largest = x[kernels().row_argmax(x, row.n_columns(), &has_nan)];
  const double limit = p > 0 && !has_nan ? static_cast<double>(largest) + std::log(p) : static_cast<double>(kMinusInf);
  float bound = static_cast<float>(limit);
  if (static_cast<double>(bound) < limit) bound = std::nextafter(bound, std::numeric_limits<float>::infinity());
  kernels().row_keep(x, row.n_columns(), bound, y.row(0));
  return y;
}

Stats stats(const Tensor& row) {
  const RowStats r = kernels().row_stats(values(row, "stats"), row.n_columns());
  check_largest("stats", r.max, r.has_nan);
  const double log_sum = std::log(r.sum_exp);
  return {r.n_kept, r.max, r.max + log_sum, std::max(0.0, log_sum - r.sum_x_exp / r.sum_exp)};
}

std::pair<std::vector<int>, std::vector<float>> top(const Tensor& row, int n) {
  const float* x = values(row, "top");
  check(n >= 0, "top: n is ", n, ", must not be negative");
  std::pair<std::vector<int>, std::vector<float>> result;
  if (n == 0) return result;
  auto& kept = select(x, row.n_columns(), std::min(n, row.n_columns()));
  std::sort(kept.begin(), kept.end(), before);
  for (const Scored& s : kept) result.first.push_back(s.id), result.second.push_back(s.logit);
  return result;
}

std::vector<float> gather(const Tensor& row, const std::vector<int>& ids) {
  const float* x = values(row, "gather");
  std::vector<float> result;
  result.reserve(ids.size());
  for (int id : ids) {
    check_id("gather", id, row.n_columns());
    result.push_back(x[id]);
  }
  return result;
}

int rank(const Tensor& row, int token) {
  const float* x = values(row, "rank");
  check_id("rank", token, row.n_columns());
  int count = kernels().row_count_above(x, row.n_columns(), x[token]);
  for (int i = 0; i < token; i++) count += x[i] == x[token];
  return count;
}

// -- noise: a hash of (seed, position, token). See reference_rows.py.

namespace {

struct Key {
  uint32_t k0, k1;
};
Key key_of(uint64_t seed, uint64_t position) {  // splitmix64: Steele, Lea and Flood 2014
  uint64_t z = seed + 0x9E3779B97F4A7C15u * (position + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return {static_cast<uint32_t>(z), static_cast<uint32_t>(z >> 32)};
}
uint32_t mix32(uint32_t x) {  // lowbias32
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}
double noise(Key key, uint32_t token) {
  const uint32_t hi = mix32(mix32(token ^ key.k0) + key.k1);
  const uint32_t lo = mix32(hi ^ mix32(token + key.k1) ^ key.k0);
  const double v = std::min((static_cast<double>(hi) + (static_cast<double>(lo) + 0.5) * 0x1p-32) * 0x1p-32, 1 - 0x1p-53);
  return -std::log(-std::log1p(-v));
}

}  // namespace

std::vector<double> gumbel(uint64_t seed, uint64_t position, const std::vector<int>& ids) {
  const Key key = key_of(seed, position);
  std::vector<double> result;
  for (int id : ids) {
    check(id >= 0, "gumbel: token ", id, " is negative");
    result.push_back(noise(key, static_cast<uint32_t>(id)));
  }
  return result;
}

std::pair<int, double> gumbel_argmax(const Tensor& row, uint64_t seed, uint64_t position) {
  const float* x = values(row, "gumbel_argmax");
  const int n = row.n_columns();
  const Key key = key_of(seed, position);
  int best = checked_argmax(row, "gumbel_argmax");  // a good start: only tokens whose noise may beat it are looked at
  double score = static_cast<double>(x[best]) + noise(key, static_cast<uint32_t>(best));
  constexpr int kCapacity = 64;
  int32_t found[kCapacity];
  for (int i = 0; i < n;) {
    const int count = kernels().row_gumbel(x, i, n, key.k0, key.k1, score, found, kCapacity, &i);
    for (int j = 0; j < count; j++) {
      const double s = static_cast<double>(x[found[j]]) + noise(key, static_cast<uint32_t>(found[j]));
      if (s > score || (s == score && found[j] < best)) score = s, best = found[j];
    }
  }
  return {best, score};
}

}  // namespace fanlight
