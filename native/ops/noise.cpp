// Chance: a hash of (seed, position, token), see reference_rows.py, and PyTorch's generator, see mersenne.py.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/row_parts.h"
#include "ops/rows.h"

namespace fanlight {
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

struct Sum {
  double score;
  int id;
};
bool ahead(const Sum& a, const Sum& b) { return a.score > b.score || (a.score == b.score && a.id < b.id); }

// Logit and noise of every token that is left of a row that stores few.
std::vector<Sum> sums_of_few(const Tensor& row, Key key) {
  const Numbers r = numbers(row, "gumbel");
  std::vector<Sum> sums;
  for (int i = 0; i < r.n; i++)
    if (r.x[i] > kRemoved) sums.push_back({static_cast<double>(r.x[i]) + noise(key, static_cast<uint32_t>(r.ids[i])), r.ids[i]});
  return sums;
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
  const Key key = key_of(seed, position);
  if (row.ids()) {
    checked_argmax(row, "gumbel_argmax");
    const std::vector<Sum> sums = sums_of_few(row, key);
    const Sum best = *std::min_element(sums.begin(), sums.end(), ahead);
    return {best.id, best.score};
  }
  const float* x = values(row, "gumbel_argmax");
  const int n = row.n_columns();
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

std::pair<std::vector<int>, std::vector<double>> gumbel_top(const Tensor& row, uint64_t seed, uint64_t position, int n_wanted) {
  check(n_wanted >= 1, "gumbel_top: n is ", n_wanted, ", must be at least 1");
  checked_argmax(row, "gumbel_top");
  const Key key = key_of(seed, position);
  std::pair<std::vector<int>, std::vector<double>> result;
  if (row.ids()) {
    std::vector<Sum> sums = sums_of_few(row, key);
    std::sort(sums.begin(), sums.end(), ahead);
    sums.resize(std::min(sums.size(), static_cast<size_t>(n_wanted)));
    for (const Sum& s : sums) result.first.push_back(s.id), result.second.push_back(s.score);
    return result;
  }
  const float* x = values(row, "gumbel_top");
  const int n = row.n_columns();
  auto sum_of = [&](int id) { return Sum{static_cast<double>(x[id]) + noise(key, static_cast<uint32_t>(id)), id}; };

  // The n largest logits reach `floor` with their noise, so the n largest sums do: only tokens that may are looked at.
  const size_t k = static_cast<size_t>(std::min(n_wanted, n));
  std::vector<Sum> best;  // a heap, the last in the order first
  for (const Scored& s : select(x, n, static_cast<int>(k))) best.push_back(sum_of(s.id));
  std::sort(best.begin(), best.end(), ahead);
  if (best.size() == k && k < static_cast<size_t>(n)) {
    double floor = best.back().score;
    best.clear();
    constexpr int kCapacity = 64;
    int32_t found[kCapacity];
    for (int i = 0; i < n;) {
      const int count = kernels().row_gumbel(x, i, n, key.k0, key.k1, floor, found, kCapacity, &i);
      for (int j = 0; j < count; j++) {
        const Sum s = sum_of(found[j]);
        if (best.size() == k && !ahead(s, best.front())) continue;
        if (best.size() == k) std::pop_heap(best.begin(), best.end(), ahead), best.pop_back();
        best.push_back(s);
        std::push_heap(best.begin(), best.end(), ahead);
        if (best.size() == k) floor = std::max(floor, best.front().score);
      }
    }
    std::sort(best.begin(), best.end(), ahead);
  }
  for (const Sum& s : best) result.first.push_back(s.id), result.second.push_back(s.score);
  return result;
}

namespace {

class Mersenne {  // MT19937: Matsumoto and Nishimura 1998
 public:
  explicit Mersenne(uint32_t seed) {
    for (uint32_t i = 0; i < kWords; i++) {
      state_[i] = seed;
      seed = 1812433253u * (seed ^ (seed >> 30)) + i + 1;
    }
  }
  uint32_t next() {
    if (at_ == kWords) renew();
    uint32_t y = state_[at_++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
  }

 private:
  static constexpr uint32_t kWords = 624, kAhead = 397;
  void renew() {
    for (uint32_t i = 0; i < kWords; i++) {
      const uint32_t both = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7fffffffu);
      state_[i] = state_[(i + kAhead) % kWords] ^ (both >> 1) ^ (both & 1 ? 0x9908b0dfu : 0u);
    }
    at_ = 0;
  }
  uint32_t state_[kWords], at_ = kWords;
};

}  // namespace

std::vector<uint8_t> green_list(uint32_t seed, int n_vocab, int n_green) {
  constexpr int kMaxVocab = 1 << 24;
  check(n_vocab >= 1 && n_vocab <= kMaxVocab, "green_list: n_vocab is ", n_vocab, ", must be from 1 to ", kMaxVocab);
  check(n_green >= 0 && n_green <= n_vocab, "green_list: n_green is ", n_green, ", must be from 0 to ", n_vocab);
  std::vector<uint32_t> entries(static_cast<size_t>(n_vocab));
  std::iota(entries.begin(), entries.end(), 0u);
  std::vector<uint8_t> bits((static_cast<size_t>(n_vocab) + 31) / 32 * 4);
  Mersenne words(seed);
  for (uint32_t i = 0; i < static_cast<uint32_t>(n_green); i++) {
    uint32_t& other = entries[i + words.next() % (static_cast<uint32_t>(n_vocab) - i)];
    const uint32_t token = other;
    other = entries[i];
    bits[token / 8] |= static_cast<uint8_t>(1u << (token % 8));
  }
  return bits;
}

}  // namespace fanlight
