// Filters: fanlight/kernels/reference_filters.py defines them. The whole row is scanned, sixteen logits at a time; only the few
// tokens around a cut are sorted.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "ops/row_parts.h"
#include "ops/rows.h"

namespace fanlight {
namespace {

constexpr int kSortable = 256;      // tokens that are sorted sooner than narrowed down
constexpr int kCopied = 8192;       // tokens that are copied sooner than left in the row
constexpr float kFarthest = 100.f;  // e^-100 is nothing beside 1

double weight(float logit, float max) { return std::exp(static_cast<double>(logit) - static_cast<double>(max)); }

// The tokens around a cut, copied out of the row once they are few, so that the scans after that are short.
struct Around {
  const float* logits;  // the row, or the copy
  int n;
  RowMass passed{0, 0.0};                      // tokens of the row that come before the copied ones
  const std::vector<int32_t>* ids = nullptr;  // of the copied ones

  void copy(const RowRing& ring, int count, RowMass before_them) {
    static thread_local std::vector<float> copied;
    ids = &collect(logits, n, ring, count);
    copied.resize(ids->size());
    for (size_t i = 0; i < copied.size(); i++) copied[i] = logits[(*ids)[i]];
    logits = copied.data(), n = static_cast<int>(copied.size()), passed = before_them;
  }
  RowMass with_passed(RowMass r) const { return {passed.count + r.count, passed.sum_exp + r.sum_exp}; }
};

// The number of tokens that stay, from their weights in order: the fewest that reach `wanted`, `mass` being there already.
template <class Each>
size_t reach(double mass, double wanted, size_t n, const Each& weight_of) {
  for (size_t i = 0; i < n; i++) {
    mass += weight_of(i);
    if (mass >= wanted) return i + 1;
  }
  return n;
}

void remove_all(Tensor& y) { std::fill(y.stored(), y.stored() + y.n_stored(), kRemoved); }

}  // namespace

Tensor top_k(const Tensor& row, int k) {
  const Numbers given = numbers(row, "top_k");
  const float* x = given.x;
  const int n = given.n;
  check(k >= 1, "top_k: k is ", k, ", must be at least 1");
  Tensor y = like(row);
  float limit = kRemoved;
  if (k < n) {
    const auto& kept = select(x, n, k);
    if (kept.size() == static_cast<size_t>(k)) limit = std::min_element(kept.begin(), kept.end(), [](auto& a, auto& b) { return a.logit < b.logit; })->logit;
  }
  kernels().row_keep(x, n, limit, y.stored());
  return few(std::move(y));
}

Tensor top_p(const Tensor& row, double p, int min_keep) {
  const Numbers given = numbers(row, "top_p");
  const float* x = given.x;
  const int n = given.n;
  check(p > 0 && p <= 1, "top_p: p is ", p, ", must be above 0 and at most 1");
  check_min_keep("top_p", min_keep);
  if (p == 1.0) return copy_of(row);
  const RowStats all = row.row_stats();
  if (!is_sound(all)) return copy_of(row);  // the choice after this raises
  const double wanted = p * all.sum_exp;

  // A selection, not a sort of the vocabulary: narrow (low, high] around the cut until few tokens lie in it. The tokens above
  // `high` weigh less than wanted, those above `low` at least as much.
  float high = all.max, low = all.max;
  RowMass over_high{0, 0.0}, over_low{0, 0.0};
  if (all.n_kept <= kSortable) low = kRemoved, over_low = {all.n_kept, all.sum_exp};  // after top_k, say
  for (float depth = 2.f; over_low.sum_exp < wanted && low != kRemoved; depth *= 2) {
    high = low, over_high = over_low;
    low = depth > kFarthest ? kRemoved : all.max - depth;
    over_low = kernels().row_mass(x, n, all.max, next_above(low));
  }
  Around around{x, n};
  auto copy_few = [&](int at_most) {
    const int count = over_low.count - over_high.count;
    if (!around.ids && count <= at_most) around.copy({next_above(low), next_above(high), kInfinity, kInfinity}, count, over_high);
  };
  while (over_low.count - over_high.count > kSortable) {
    const float middle = low == kRemoved ? high - kFarthest : low + (high - low) / 2;
    if (!(middle > low && middle < high)) break;  // all of them are equal
    copy_few(kCopied);
    const RowMass over_middle = around.with_passed(kernels().row_mass(around.logits, around.n, all.max, next_above(middle)));
    if (over_middle.sum_exp < wanted) high = middle, over_high = over_middle;
    else low = middle, over_low = over_middle;
  }
  copy_few(n);
  static thread_local std::vector<Scored> near;
  near.clear();
  for (int i = 0; i < around.n; i++)
    if (around.logits[i] > low && around.logits[i] <= high) near.push_back({around.logits[i], (*around.ids)[static_cast<size_t>(i)]});
  std::sort(near.begin(), near.end(), before);
  const size_t reached = reach(over_high.sum_exp, wanted, near.size(), [&](size_t i) { return weight(near[i].logit, all.max); });

  Tensor y = like(row);
  const size_t above = static_cast<size_t>(over_high.count), k = std::max(above + reached, static_cast<size_t>(min_keep));
  if (k <= above + near.size()) keep_first(x, n, static_cast<int>(k), near[k - above - 1].logit, y.stored());
  else keep_first(x, n, static_cast<int>(k), y.stored());
  return few(std::move(y));
}

Tensor keep_above(const Tensor& row, double limit, int min_keep) {
  const Numbers given = numbers(row, "keep_above");
  const float* x = given.x;
  const int n = given.n;
  check(!std::isnan(limit), "keep_above: the limit is NaN");
  check_min_keep("keep_above", min_keep);
  Tensor y = like(row);
  if (kernels().row_keep(x, n, at_least(limit), y.stored()) < min_keep) {
    bool has_nan = false;
    kernels().row_argmax(x, n, &has_nan);
    if (!has_nan) keep_first(x, n, min_keep, y.stored());
  }
  return few(std::move(y));
}

Tensor drop_above(const Tensor& row, double limit) {
  const Numbers given = numbers(row, "drop_above");
  const float* x = given.x;
  const int n = given.n;
  check(!std::isnan(limit), "drop_above: the limit is NaN");
  const float bound = at_least(limit);
  Scored last{kInfinity, -1};
  int32_t found[256];
  for (int i = 0, count = 0; i < n;) {
    count = kernels().row_collect(x, i, n, next_below(bound), found, 256, &i);
    for (int j = 0; j < count; j++)
      if (x[found[j]] <= last.logit) last = {x[found[j]], found[j]};
  }
  Tensor y = like(row);
  kernels().row_drop(x, n, bound, y.stored());
  if (last.id >= 0) y.stored()[last.id] = last.logit;
  return few(std::move(y));
}

// A token's distance is that of its logit to the mean logit. As in top_p, with rings around the mean in place of (low, high].
Tensor typical_p(const Tensor& row, double mass, int min_keep) {
  const Numbers given = numbers(row, "typical_p");
  const float* x = given.x;
  const int n = given.n;
  check(mass > 0 && mass <= 1, "typical_p: mass is ", mass, ", must be above 0 and at most 1");
  check_min_keep("typical_p", min_keep);
  if (mass == 1.0) return copy_of(row);
  const RowStats all = row.row_stats();
  if (!is_sound(all)) return copy_of(row);
  const double wanted = mass * all.sum_exp, mean = static_cast<double>(all.max) + all.sum_x_exp / all.sum_exp;

  struct Disc {
    double radius;
    float low, high;
    RowMass in;
  };
  Around around{x, n};
  auto disc = [&](double radius) {
    const float low = at_least(mean - radius), high = at_most(mean + radius);
    return Disc{radius, low, high, around.with_passed(kernels().row_mass_within(around.logits, around.n, all.max, low, high))};
  };
  constexpr float kLowest = -std::numeric_limits<float>::max();
  const Disc everything{std::numeric_limits<double>::infinity(), kLowest, all.max, {all.n_kept, all.sum_exp}};
  const float at_mean = at_least(mean);
  Disc inner{0, at_mean, next_below(at_mean), {0, 0.0}}, outer = all.n_kept <= kSortable ? everything : disc(1);
  auto is_short = [&](const Disc& d) { return d.in.sum_exp < wanted || d.in.count < min_keep; };
  while (is_short(outer) && outer.in.count < all.n_kept) inner = outer, outer = outer.radius < kFarthest ? disc(outer.radius * 2) : everything;
  auto copy_few = [&](int at_most) {
    const int count = outer.in.count - inner.in.count;
    if (!around.ids && count <= at_most) around.copy({outer.low, inner.low, inner.high, outer.high}, count, inner.in);
  };
  while (outer.in.count - inner.in.count > kSortable && std::isfinite(outer.radius)) {
    const double middle = inner.radius + (outer.radius - inner.radius) / 2;
    if (!(middle > inner.radius && middle < outer.radius)) break;
    copy_few(kCopied);
    const Disc between = disc(middle);
    if (is_short(between)) inner = between;
    else outer = between;
  }
  copy_few(n);
  struct Distant {
    double distance;
    float logit;
    int id;
  };
  static thread_local std::vector<Distant> near;
  near.clear();
  for (int i = 0; i < around.n; i++) {
    const float logit = around.logits[i];
    if (logit >= outer.low && logit <= outer.high && !(logit >= inner.low && logit <= inner.high))
      near.push_back({std::fabs(static_cast<double>(logit) - mean), logit, (*around.ids)[static_cast<size_t>(i)]});
  }
  std::sort(near.begin(), near.end(), [](const Distant& a, const Distant& b) { return a.distance < b.distance || (a.distance == b.distance && a.id < b.id); });
  size_t reached = reach(inner.in.sum_exp, wanted, near.size(), [&](size_t i) { return weight(near[i].logit, all.max); });
  const size_t inside = static_cast<size_t>(inner.in.count);
  if (inside + reached < static_cast<size_t>(min_keep)) reached = std::min(near.size(), static_cast<size_t>(min_keep) - inside);

  Tensor y = like(row);
  if (inside == 0) {
    remove_all(y);
  } else {
    kernels().row_keep(x, n, inner.low, y.stored());
    kernels().row_drop(y.stored(), n, next_above(inner.high), y.stored());
  }
  for (size_t i = 0; i < reached; i++) y.stored()[near[i].id] = near[i].logit;
  return few(std::move(y));
}

namespace {

// Descending, by the bits: three passes over 11 of them each.
void sort_down(std::vector<float>& v) {
  if (v.size() < 1500) {
    std::sort(v.begin(), v.end(), std::greater<float>());
    return;
  }
  static thread_local std::vector<uint32_t> keys, moved;
  keys.resize(v.size()), moved.resize(v.size());
  constexpr uint32_t kDigits = 1u << 11;
  std::vector<uint32_t> starts(3 * kDigits);
  for (size_t i = 0; i < v.size(); i++) {
    uint32_t u;
    std::memcpy(&u, &v[i], 4);
    keys[i] = u & 0x80000000u ? u : ~(u | 0x80000000u);  // larger floats, smaller keys
    for (uint32_t d = 0; d < 3; d++) starts[d * kDigits + (keys[i] >> (11 * d)) % kDigits]++;
  }
  for (uint32_t d = 0; d < 3; d++) {
    uint32_t* start = starts.data() + d * kDigits;
    for (uint32_t digit = 0, sum = 0; digit < kDigits; digit++) sum += std::exchange(start[digit], sum);
    for (uint32_t key : keys) moved[start[(key >> (11 * d)) % kDigits]++] = key;
    keys.swap(moved);
  }
  for (size_t i = 0; i < v.size(); i++) {
    const uint32_t u = keys[i] & 0x80000000u ? keys[i] : ~keys[i] & 0x7fffffffu;
    std::memcpy(&v[i], &u, 4);
  }
}

}  // namespace

Tensor tail_free(const Tensor& row, double z, int min_keep) {
  const Numbers given = numbers(row, "tail_free");
  const float* x = given.x;
  const int n = given.n;
  check(z > 0 && z <= 1, "tail_free: z is ", z, ", must be above 0 and at most 1");
  check_min_keep("tail_free", min_keep);
  if (z == 1.0) return copy_of(row);
  const RowStats all = row.row_stats();
  if (!is_sound(all) || all.n_kept <= 2) return copy_of(row);
  static thread_local std::vector<float> sorted;
  static thread_local std::vector<double> p;
  sorted.resize(static_cast<size_t>(n) + 1);
  size_t count = 0;
  for (int i = 0; i < n; i++) sorted[count] = x[i], count += x[i] > kRemoved;
  sorted.resize(count), p.resize(count);
  sort_down(sorted);
  const auto light = std::partition_point(sorted.begin(), sorted.end(), [&](float logit) { return static_cast<double>(logit) - all.max > -700; });
  kernels().row_weights(sorted.data(), static_cast<int>(light - sorted.begin()), all.max, p.data());
  std::fill(p.begin() + (light - sorted.begin()), p.end(), 0.0);
  double sum = 0;
  for (double w : p) sum += w;
  const size_t n_curved = p.size() - 2;
  double total = 0;
  for (size_t i = 0; i < n_curved; i++) total += p[i] = std::fabs((p[i + 2] - p[i + 1]) - (p[i + 1] - p[i])) / sum;
  const bool is_flat = !(total > 1e-6);
  size_t k = sorted.size();
  double spent = 0;
  for (size_t i = 0; i < n_curved; i++) {
    spent += is_flat ? 1.0 / static_cast<double>(n_curved) : p[i] / total;
    if (spent > z && i >= static_cast<size_t>(min_keep)) {
      k = i;
      break;
    }
  }
  Tensor y = like(row);
  keep_first(x, n, static_cast<int>(k), sorted[k - 1], y.stored());
  return few(std::move(y));
}

Tensor top_h(const Tensor& row, double h, int min_keep) {
  constexpr int kTokens = 100;  // as in transformers
  const Numbers given = numbers(row, "top_h");
  const float* x = given.x;
  const int n = given.n;
  check(h > 0 && h <= 1, "top_h: h is ", h, ", must be above 0 and at most 1");
  check_min_keep("top_h", min_keep);
  bool has_nan = false;
  const float largest = x[kernels().row_argmax(x, n, &has_nan)];
  if (has_nan || std::isinf(largest)) return copy_of(row);
  std::vector<Scored>& first = select(x, n, std::min(kTokens, n));
  std::sort(first.begin(), first.end(), before);
  double sums[kTokens], total = 0, entropy = 0;
  for (const Scored& s : first) total += weight(s.logit, largest);
  for (size_t i = 0; i < first.size(); i++) {
    const double share = weight(first[i].logit, largest) / total;
    sums[i] = entropy += share > 0 ? -share * std::log(share) : 0.0;
  }
  size_t k = 0;
  while (k < first.size() && sums[k] <= h * entropy) k++;
  k = std::max(k, static_cast<size_t>(min_keep));
  Tensor y = like(row);
  if (k <= first.size()) keep_first(x, n, static_cast<int>(k), first[k - 1].logit, y.stored());
  else keep_first(x, n, static_cast<int>(k), y.stored());
  return few(std::move(y));
}

Tensor keep(const Tensor& row, const std::vector<int>& ids) {
  const float* x = values(row, "keep");
  check(!ids.empty(), "keep: takes at least one id");
  Tensor y(1, row.n_columns());
  std::fill(y.row(0) + y.n_columns(), y.row(0) + y.stride(), 0.f);
  std::fill(y.row(0), y.row(0) + y.n_columns(), kRemoved);
  for (int id : ids) {
    check_id("keep", id, row.n_columns());
    y.row(0)[id] = x[id];
  }
  return few(std::move(y));
}

}  // namespace fanlight
