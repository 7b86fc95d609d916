// Many rows of logits, read and let go of.
//
// Rows are made in groups that stay in the cache the cores share, then each is summed up by one thread: where its largest logits
// lie (a peak for each kPeak columns), the sums, the first k out of the few stretches whose peaks reach that far, the rank.
#include "ops/readings.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "core/check.h"
#include "core/pool.h"
#include "ops/row_parts.h"
#include "ops/rows.h"

namespace fanlight {
namespace {

constexpr size_t kGroupBytes = size_t{8} << 20;  // of logits at once,
constexpr int kFewest = 32, kMost = 256;         // but no fewer rows than pay for reading the weights again
constexpr size_t kApart = 32;                    // floats between two rows: at a power of two they would share the same cache sets

struct Group {
  const Linear& w;
  const std::vector<int>& tokens;
  float cap;
  Readings& out;
  std::vector<float>& largest;
  std::vector<uint8_t>& has_nan;
};

// The first k of a row with peaks[i] the largest of columns i * kPeak on.
void first_k(const float* x, int n, const std::vector<float>& peaks, int k, int32_t* ids, float* logits) {
  static thread_local std::vector<float> ordered;
  static thread_local std::vector<Scored> kept;
  static thread_local std::vector<int32_t> found(kPeak + 16);
  if (k == 0) return;
  // k peaks are k logits, so no logit below the k-th peak is among the first k.
  float bound = kRemoved;
  if (static_cast<size_t>(k) <= peaks.size()) {
    ordered = peaks;
    std::nth_element(ordered.begin(), ordered.begin() + (k - 1), ordered.end(), std::greater<>());
    bound = next_below(ordered[static_cast<size_t>(k - 1)]);
  }
  kept.clear();
  for (size_t i = 0; i < peaks.size(); i++) {
    if (!(peaks[i] > bound)) continue;
    int next = 0;
    const int begin = static_cast<int>(i) * kPeak;
    const int count = kernels().row_collect(x, begin, std::min(n, begin + kPeak), bound, found.data(), kPeak + 16, &next);
    for (int j = 0; j < count; j++) kept.push_back({x[found[static_cast<size_t>(j)]], found[static_cast<size_t>(j)]});
  }
  const auto end = kept.begin() + std::min<ptrdiff_t>(k, static_cast<ptrdiff_t>(kept.size()));
  std::partial_sort(kept.begin(), end, kept.end(), before);
  for (auto s = kept.begin(); s != end; s++) *ids++ = s->id, *logits++ = s->logit;
}

// Row r of the result, out of its logits. A damaged row is noted, and left.
void read_row(const Group& g, float* x, int r) {
  static thread_local std::vector<float> peaks;
  const size_t i = static_cast<size_t>(r), first = i * static_cast<size_t>(g.out.k);
  const int n = g.w.n_out();
  if (g.cap > 0) kernels().softcap(x, g.cap, x, padded(n));
  peaks.resize(static_cast<size_t>((n + kPeak - 1) / kPeak));
  g.has_nan[i] = kernels().row_peaks(x, n, peaks.data());
  g.largest[i] = *std::max_element(peaks.begin(), peaks.end());
  if (g.has_nan[i] || !std::isfinite(g.largest[i])) return;
  const Stats s = stats_of(kernels().row_sums(x, n, g.largest[i]));
  g.out.logsumexp[i] = s.logsumexp, g.out.entropy[i] = s.entropy;
  const auto ids = g.out.ids.begin() + static_cast<ptrdiff_t>(first), end = ids + g.out.k;
  first_k(x, n, peaks, g.out.k, g.out.ids.data() + first, g.out.logits.data() + first);
  const int token = g.tokens[i];
  const auto among = std::find(ids, end, token);
  g.out.token_logits[i] = x[token];
  g.out.token_ranks[i] = among != end ? static_cast<int32_t>(among - ids) : rank_of(x, n, token);
}

}  // namespace

Readings readings(const Tensor& h, const Linear& w, const std::vector<int>& tokens, int k, float softcap) {
  const int n_rows = h.n_rows(), n = w.n_out();
  check(tokens.size() == static_cast<size_t>(n_rows), "readings: ", tokens.size(), " tokens for ", n_rows, " rows; give one for each");
  for (int token : tokens) check_id("readings", token, n);
  check(k >= 0, "readings: k is ", k, ", must not be negative");
  check(softcap >= 0, "readings: softcap is ", softcap, ", expected a positive number, or 0 for none");
  k = std::min(k, n);
  const size_t rows = static_cast<size_t>(n_rows), listed = rows * static_cast<size_t>(k);
  Readings out{n_rows, k, std::vector<int32_t>(listed, -1), std::vector<float>(listed, kRemoved), std::vector<double>(rows),
               std::vector<double>(rows), std::vector<float>(rows), std::vector<int32_t>(rows)};
  std::vector<float> largest(rows);
  std::vector<uint8_t> has_nan(rows);
  const Group group{w, tokens, softcap, out, largest, has_nan};
  const size_t stride = static_cast<size_t>(padded(n)) + kApart;
  const size_t by_size = kGroupBytes / (stride * sizeof(float));
  const int whole = Linear::whole_rows(std::clamp(static_cast<int>(by_size), kFewest, kMost)), at_once = std::min(whole, n_rows);
  const Buffer buffer(static_cast<size_t>(at_once) * stride * sizeof(float));
  float* const logits = reinterpret_cast<float*>(buffer.data());
  for (int first = 0; first < n_rows; first += at_once) {
    const int last = std::min(first + at_once, n_rows);
    w.apply_rows(h, first, last, logits, stride);
    pool()->run(last - first, 1, [&](int begin, int end) {
      for (int r = begin; r < end; r++) read_row(group, logits + static_cast<size_t>(r) * stride, first + r);
    });
    for (int r = first; r < last; r++) {
      const size_t i = static_cast<size_t>(r);
      if (has_nan[i] || !std::isfinite(largest[i])) check_largest(("readings: row " + std::to_string(r)).c_str(), largest[i], has_nan[i]);
    }
  }
  return out;
}

}  // namespace fanlight
