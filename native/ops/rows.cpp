// Reading a row.
#include "ops/rows.h"

#include <algorithm>
#include <cmath>

#include "ops/row_parts.h"

namespace fanlight {

int argmax(const Tensor& row) { return checked_argmax(row, "argmax"); }

Stats stats(const Tensor& row) {
  return stats_of(checked_stats(row, "stats"));
}

Stats stats_of(const RowStats& r) {
  const double log_sum = std::log(r.sum_exp);
  return {r.n_kept, r.max, r.max + log_sum, std::max(0.0, log_sum - r.sum_x_exp / r.sum_exp)};
}

double deviation(const Tensor& row) {
  checked_stats(row, "deviation");
  return row.row_deviation();
}

std::pair<std::vector<int>, std::vector<float>> top(const Tensor& row, int n) {
  const Numbers r = numbers(row, "top");
  check(n >= 0, "top: n is ", n, ", must not be negative");
  std::pair<std::vector<int>, std::vector<float>> result;
  if (n == 0) return result;
  auto& kept = select(r.x, r.n, std::min(n, r.n));
  std::sort(kept.begin(), kept.end(), before);
  for (const Scored& s : kept) result.first.push_back(r.id(s.id)), result.second.push_back(s.logit);
  return result;
}

std::vector<float> gather(const Tensor& row, const std::vector<int>& ids) {
  const Numbers r = numbers(row, "gather");
  std::vector<float> result;
  result.reserve(ids.size());
  for (int id : ids) {
    check_id("gather", id, row.n_columns());
    const int place = r.place(id);
    result.push_back(place < 0 ? kRemoved : r.x[place]);
  }
  return result;
}

int rank(const Tensor& row, int token) {
  const Numbers r = numbers(row, "rank");
  check_id("rank", token, row.n_columns());
  if (const int place = r.place(token); r.ids && place >= 0 && r.x[place] > kRemoved) {
    int count = kernels().row_count_above(r.x, r.n, r.x[place]);
    for (int i = 0; i < place; i++) count += r.x[i] == r.x[place];
    return count;
  }
  return rank_of(values(row, "rank"), row.n_columns(), token);
}

int rank_of(const float* x, int n, int token) {
  const float limit = x[token];
  if (std::isfinite(limit))  // x >= limit before the token, x > limit after it
    return kernels().row_count_above(x, token, next_below(limit)) + kernels().row_count_above(x + token, n - token, limit);
  int count = kernels().row_count_above(x, n, limit);
  for (int i = 0; i < token; i++) count += x[i] == limit;
  return count;
}

}  // namespace fanlight
