// Every instruction set that this processor runs, against the generic kernels: a program without Python, so that it runs in an
// emulator too (`make neon`). The definition is in fanlight/kernels/reference.py; tests/kernels compares with that.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/table.h"

namespace {

using namespace fanlight;

std::mt19937 rng(1);
int failures = 0, comparisons = 0;

std::vector<float> numbers(size_t n, float spread = 1.f) {
  std::normal_distribution<float> normal(0.f, spread);
  std::vector<float> v(n);
  for (float& x : v) x = normal(rng);
  return v;
}

void same(const char* isa, const char* what, const std::vector<float>& got, const std::vector<float>& want, float tolerance) {
  comparisons++;
  float largest = 1e-6f, worst = 0;
  for (float x : want) largest = std::fmax(largest, std::fabs(x));
  for (size_t i = 0; i < want.size(); i++) {
    const float d = std::fabs(got[i] - want[i]);
    if (!(d <= worst)) worst = d;  // NaN counts
  }
  if (worst <= tolerance * largest) return;
  std::printf("%s: %s differs by %g of %g\n", isa, what, static_cast<double>(worst), static_cast<double>(largest));
  failures++;
}

void check_tiles(const Kernels& k, const Kernels& g) {
  const int n_in = 96, groups = n_in / kGroup;
  std::vector<uint8_t> bytes(static_cast<size_t>(n_in) * 64 + 4096);  // room for reading ahead
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
  auto scales = [&](size_t at, int n) {
    for (int i = 0; i < n; i++) {
      const uint16_t h = static_cast<uint16_t>(0x2000 + rng() % 0x1000);  // small positive halves
      std::memcpy(bytes.data() + at + static_cast<size_t>(i) * 2, &h, 2);
    }
  };
  const std::vector<float> x = numbers(8 * n_in);
  for (int rows = 1; rows <= 8; rows++) {
    auto run = [&](const Kernels& t, TileFn tile) {  // as many at once as `t` takes
      std::vector<float> out(static_cast<size_t>(rows) * kTile);
      const bool is_quantised = tile == t.tile_q4_1 || tile == t.tile_q8_0;
      const int step = is_quantised ? t.max_rows : t.max_float_rows;
      for (int first = 0; first < rows; first += step) {
        const int n = std::min(step, rows - first);
        const float* at = x.data() + first * n_in;
        std::vector<uint8_t> panels(static_cast<size_t>(n * groups * kPanelBytes));
        t.quantize(at, n_in, n, groups, panels.data());
        tile(bytes.data(), n_in, {at, n_in, panels.data()}, 0, n, {}, out.data() + first * kTile);
      }
      return out;
    };
    for (int i = 0; i < groups; i++) scales(static_cast<size_t>(i) * 320, 32);
    same(k.name, "tile_q4_1", run(k, k.tile_q4_1), run(g, g.tile_q4_1), 2e-6f);
    for (int i = 0; i < groups; i++) scales(static_cast<size_t>(i / 2) * 1088 + static_cast<size_t>(i % 2) * 32, 16);
    same(k.name, "tile_q8_0", run(k, k.tile_q8_0), run(g, g.tile_q8_0), 2e-6f);
    scales(0, n_in * 16);
    same(k.name, "tile_f16", run(k, k.tile_f16), run(g, g.tile_f16), 2e-6f);
    same(k.name, "tile_bf16", run(k, k.tile_bf16), run(g, g.tile_bf16), 2e-6f);
    const std::vector<float> w = numbers(static_cast<size_t>(n_in) * kTile);
    std::memcpy(bytes.data(), w.data(), w.size() * 4);
    same(k.name, "tile_f32", run(k, k.tile_f32), run(g, g.tile_f32), 2e-6f);
  }
}

void check_elements(const Kernels& k, const Kernels& g) {
  const std::vector<float> a = numbers(64, 3.f), b = numbers(64);
  auto unary = [&](auto f) {
    std::vector<float> x = a;
    f(x.data(), 64);
    return x;
  };
  auto binary = [&](auto f) {
    std::vector<float> y(64);
    f(a.data(), b.data(), y.data(), 64);
    return y;
  };
  same(k.name, "silu", unary(k.silu), unary(g.silu), 2e-6f);
  same(k.name, "gelu_tanh", unary(k.gelu_tanh), unary(g.gelu_tanh), 2e-6f);
  same(k.name, "add", binary(k.add), binary(g.add), 0.f);
  same(k.name, "silu_mul", binary(k.silu_mul), binary(g.silu_mul), 2e-6f);
  same(k.name, "gelu_mul", binary(k.gelu_mul), binary(g.gelu_mul), 2e-6f);
  auto rounded = [&](const Kernels& t) {
    std::vector<float> y(2);
    int8_t q[kGroup];
    y.push_back(t.extremes(a.data(), &y[0], &y[1]));
    const float low = y[0], factor = 15.f / (y[1] - y[0]);
    t.round_bytes(a.data(), 7.f, q);
    y.insert(y.end(), q, q + kGroup);
    t.round_nibbles(a.data(), low, factor, q);
    y.insert(y.end(), q, q + kGroup);
    return y;
  };
  same(k.name, "rounding", rounded(k), rounded(g), 0.f);
  for (int n : {1, 7, 31, 32, 45}) {
    const int stride = (n + 31) / 32 * 32;
    auto padded = [&] {
      std::vector<float> v = numbers(static_cast<size_t>(stride));
      for (int i = n; i < stride; i++) v[static_cast<size_t>(i)] = 0;
      return v;
    };
    const std::vector<float> x = padded(), w = padded(), c = padded();
    auto norm = [&](const Kernels& t) {
      std::vector<float> y(static_cast<size_t>(stride));
      t.rms_norm(x.data(), w.data(), 1e-5f, n, stride, y.data());
      return y;
    };
    auto layer = [&](const Kernels& t) {
      std::vector<float> y(static_cast<size_t>(stride));
      t.layer_norm(x.data(), w.data(), c.data(), 1e-5f, n, stride, y.data());
      return y;
    };
    same(k.name, "rms_norm", norm(k), norm(g), 2e-6f);
    same(k.name, "layer_norm", layer(k), layer(g), 1e-4f);
  }
}

void check_attention(const Kernels& k, const Kernels& g, const char* dtype) {
  const int n_keys = 600;
  const char kind = dtype[0] == 'i' ? 'i' : dtype[1];  // i8, f16, f32
  for (int head_dim : {2, 7, 10, 24, 64, 80}) {
    const size_t v_stride = static_cast<size_t>((head_dim + 15) / 16 * 16), even = static_cast<size_t>((head_dim + 1) / 2 * 2);
    const size_t bytes = kind == '1' ? 2 : kind == '3' ? 4 : 1, scales = kind == 'i' ? kPageTokens * sizeof(float) : 0;
    const size_t key_bytes = kPageTokens * (kind == 'i' ? even : static_cast<size_t>(head_dim)) * bytes + scales;
    const size_t value_bytes = kPageTokens * v_stride * bytes + scales;
    const std::vector<float> q = numbers(static_cast<size_t>(2 * head_dim)), kv = numbers(static_cast<size_t>(2 * n_keys * head_dim));
    const std::vector<float> cos = numbers(static_cast<size_t>(head_dim)), sin = numbers(static_cast<size_t>(head_dim));
    std::vector<float> codes_of_page, weights;
    auto run = [&](const Kernels& t, bool is_rotated) {
      const auto store = kind == '1' ? t.store_kv_f16 : kind == '3' ? t.store_kv_f32 : t.store_kv_i8;
      const auto attend = kind == '1' ? t.attention_f16 : kind == '3' ? t.attention_f32 : t.attention_i8;
      std::vector<std::vector<uint8_t>> pages((n_keys - 1) / kPageTokens + 1, std::vector<uint8_t>(key_bytes + value_bytes));
      std::vector<float> rotated(static_cast<size_t>(head_dim));
      for (int p = 0; p < n_keys; p++) {
        uint8_t* page = pages[static_cast<size_t>(p / kPageTokens)].data();
        const float* key = kv.data() + p * head_dim;
        if (is_rotated) t.rope(key, cos.data(), sin.data(), head_dim / 2 * 2, rotated.data()), key = rotated.data();
        store(key, kv.data() + (n_keys + p) * head_dim, head_dim, p % kPageTokens, page, page + key_bytes);
      }
      codes_of_page.assign(pages[0].begin(), pages[0].end());
      std::vector<const uint8_t*> list;
      for (const auto& page : pages) list.push_back(page.data());
      std::vector<float> out(static_cast<size_t>(2 * head_dim)), parts(3 * 2 * part_floats(head_dim));
      std::vector<int16_t> q_codes(static_cast<size_t>(2 * (head_dim + 16)));
      AttentionJob job{};
      job.pages = list.data(), job.v_offset = key_bytes, job.value_bytes = value_bytes, job.ahead = list[0];
      job.head_dim = head_dim, job.scale = 0.3f, job.parts = parts.data(), job.q_codes = q_codes.data();
      job.n_rows = 2, job.end_stretch = 3;
      for (int r = 0; r < 2; r++) {
        job.q[r] = q.data() + r * head_dim, job.out[r] = out.data() + r * head_dim;
        job.n_keys[r] = n_keys - r * 20, job.first_key[r] = r * 270;
      }
      attend(job);
      t.join_stretches(job);
      const int n_padded = 640;
      weights.assign(static_cast<size_t>(2 * n_padded), -1.f);
      for (int r = 0; r < 2; r++) job.out[r] = weights.data() + r * n_padded;
      (kind == '1' ? t.attention_weights_f16 : kind == '3' ? t.attention_weights_f32 : t.attention_weights_i8)(job, n_padded);
      return out;
    };
    const std::string name = std::string("attention_") + dtype, name_of_weights = std::string("attention_weights_") + dtype;
    const std::vector<float> got = run(k, true), got_weights = weights;
    same(k.name, name.c_str(), got, run(g, true), kind == '3' ? 5e-6f : 2e-3f);
    same(k.name, name_of_weights.c_str(), got_weights, weights, kind == '3' ? 5e-6f : 2e-3f);
    if (kind != 'i') continue;
    same(k.name, name.c_str(), run(k, false), run(g, false), 1e-4f);
    run(k, false);
    const std::vector<float> page = codes_of_page;
    run(g, false);
    same(k.name, "store_kv_i8", page, codes_of_page, 0.f);
  }
}

void check_row_changes(const Kernels& k, const Kernels& g, const std::vector<float>& x) {
  const int n = static_cast<int>(x.size());
  const RowRing ring{-4.f, -1.f, 1.f, 6.f};
  auto read = [&](const Kernels& t) {
    const RowMass m = t.row_mass_within(x.data(), n, 9.f, -3.f, 2.f);
    const RowMoments s = t.row_moments(x.data(), n, 0.5f);
    std::vector<int32_t> found(static_cast<size_t>(n) + 16);
    int next = 0;
    const int count = t.row_collect_ring(x.data(), 0, n, ring, found.data(), static_cast<int>(found.size()), &next);
    std::vector<float> result{static_cast<float>(m.count), static_cast<float>(m.sum_exp), static_cast<float>(s.count), static_cast<float>(s.sum),
                              static_cast<float>(s.sum_of_squares), static_cast<float>(count)};
    result.insert(result.end(), found.begin(), found.begin() + count);
    result.resize(static_cast<size_t>(n) + 6, -1.f);
    return result;
  };
  same(k.name, "row sums", read(k), read(g), 1e-6f);
  std::vector<uint8_t> bits(static_cast<size_t>(n) / 8 + 5);
  for (uint8_t& b : bits) b = static_cast<uint8_t>(rng());
  std::vector<float> odd = x, other = numbers(x.size());
  odd[0] = NAN, odd[static_cast<size_t>(n) - 1] = INFINITY;
  auto each = [&](const char* what, float tolerance, auto change) {
    auto run = [&](const Kernels& t) {
      std::vector<float> y(x.size());
      change(t, y.data());
      for (float& f : y) f = std::isinf(f) ? -1e3f : f;
      return y;
    };
    same(k.name, what, run(k), run(g), tolerance);
  };
  each("row_drop", 0.f, [&](const Kernels& t, float* y) { t.row_drop(x.data(), n, 0.5f, y); });
  each("row_mask", 0.f, [&](const Kernels& t, float* y) { t.row_mask(x.data(), n, bits.data() + 1, y); });
  each("row_bias_mask", 0.f, [&](const Kernels& t, float* y) { t.row_bias_mask(x.data(), n, bits.data() + 1, 1.7f, y); });
  each("row_finite", 0.f, [&](const Kernels& t, float* y) { t.row_finite(odd.data(), n, y); });
  each("row_subtract", 0.f, [&](const Kernels& t, float* y) { t.row_subtract(x.data(), n, 3.1, y); });
  each("row_blend", 0.f, [&](const Kernels& t, float* y) { t.row_blend(x.data(), other.data(), n, 1.5f, -0.5f, y); });
  each("row_smooth", 0.f, [&](const Kernels& t, float* y) { t.row_smooth(x.data(), n, 16.f, 0.3f, 0.1f, y); });
  each("row_near_target", 2e-6f, [&](const Kernels& t, float* y) { t.row_near_target(x.data(), n, 17.f, 0.4f, y); });
  std::vector<float> low = x;
  for (float& f : low) f = -std::fabs(std::isinf(f) ? 699.f : f);
  each("row_weights", 1e-7f, [&](const Kernels& t, float* y) {
    std::vector<double> w(x.size());
    t.row_weights(low.data(), n, 0.f, w.data());
    for (int i = 0; i < n; i++) y[i] = static_cast<float>(w[static_cast<size_t>(i)] / std::exp(static_cast<double>(low[static_cast<size_t>(i)])));
  });
}

void check_rows(const Kernels& k, const Kernels& g) {
  for (int n : {1, 7, 16, 33, 5000}) {
    std::vector<float> x = numbers(static_cast<size_t>(n), 4.f);
    for (int i = 1; i < n; i += 3) x[static_cast<size_t>(i)] = -INFINITY;
    auto read = [&](const Kernels& t) {
      bool has_nan = true;
      const RowStats s = t.row_stats(x.data(), n);
      const RowMass m = t.row_mass(x.data(), n, s.max, s.max - 3.f);
      return std::vector<float>{static_cast<float>(s.n_kept), s.max, static_cast<float>(s.sum_exp), static_cast<float>(s.sum_x_exp),
                                static_cast<float>(m.count), static_cast<float>(m.sum_exp), static_cast<float>(t.row_argmax(x.data(), n, &has_nan)),
                                static_cast<float>(t.row_count_above(x.data(), n, 0.f)), has_nan ? 1.f : 0.f};
    };
    same(k.name, "row readings", read(k), read(g), 1e-6f);
    auto lists = [&](const Kernels& t) {
      std::vector<int32_t> found(static_cast<size_t>(n) + 16);
      std::vector<float> result;
      int next = 0;
      const int a = t.row_collect(x.data(), 0, n, 1.f, found.data(), static_cast<int>(found.size()), &next);
      result.assign(found.begin(), found.begin() + a);
      const int b = t.row_gumbel(x.data(), 0, n, 123u, 456u, 6.0, found.data(), static_cast<int>(found.size()), &next);
      result.insert(result.end(), found.begin(), found.begin() + b);
      result.push_back(static_cast<float>(next));
      result.resize(static_cast<size_t>(2 * n + 1), -1.f);
      return result;
    };
    same(k.name, "row lists", lists(k), lists(g), 0.f);
    auto kept = [&](const Kernels& t) {
      std::vector<float> y(static_cast<size_t>(n)), z(static_cast<size_t>(n));
      t.row_keep(x.data(), n, 0.5f, y.data());
      t.row_divide(x.data(), n, 0.7f, z.data());
      for (auto* v : {&y, &z})
        for (float& f : *v) f = std::isinf(f) ? -1e3f : f;
      y.insert(y.end(), z.begin(), z.end());
      return y;
    };
    same(k.name, "row filters", kept(k), kept(g), 0.f);
    check_row_changes(k, g, x);
  }
}

}  // namespace

int main() {
  for (const char* name : {"avx512", "avx2", "neon", "generic"}) {
    if (!use_kernels(name)) continue;
    const Kernels &k = kernels(), &g = *generic_kernels();
    const int before = comparisons;
    check_tiles(k, g);
    check_elements(k, g);
    for (const char* dtype : {"f16", "f32", "i8"}) check_attention(k, g, dtype);
    check_rows(k, g);
    std::printf("%s: %d comparisons\n", name, comparisons - before);
  }
  std::printf("%d failed\n", failures);
  return failures ? 1 : 0;
}
