// Keys and values in pages, as int8 with a scale for each position: storing, scores, weighted sums. See cache_float.h.
// The two numbers that one instruction multiplies and adds up stand side by side: keys [block][head_dim / 2, rounded up][16 positions][2],
// values [block][position / 2][16 columns][2]; the float32 scales of the page's positions follow the keys, and the values. Queries and
// weights are rounded to 16 bits, so that the sums of their products are whole numbers, exact in any order.

namespace fanlight::FANLIGHT_ISA {

struct CacheI8 {
  using T = int8_t;
  static constexpr int kVectors = kAttnVectors * 2 / 3;  // widened bytes and their products need registers too
};

// A row as whole numbers up to `limit`: code = round(x * (limit / max |x|)), ties to even, x ~ code * scale. All are 0 where the largest
// is too small for that. Infinities saturate.
struct Rounding {
  float limit, scale, factor;
};
FL_FN Rounding rounding_to(float limit, float largest) {
  if (!(largest > 1e-36f)) return {limit, 0.f, 0.f};
  return {limit, largest / limit, limit / largest};
}
FL_FN Rounding rounding_of(const float* x, int n, float limit) {
  F32 largest = zero();
  for (int d = 0; d < n; d += 16) largest = max(min(abs(load_up_to_16(x + d, n - d)), splat(kLargest)), largest);
  return rounding_to(limit, max_of(largest));
}
FL_FN I32 code_of(F32 x, const Rounding& r) { return to_int(min(max(mul(x, splat(r.factor)), splat(-r.limit)), splat(r.limit))); }

FL_FN int pairs_of(int head_dim) { return (head_dim + 1) / 2; }
FL_FN const float* key_scales(const uint8_t* keys, int head_dim) {
  return reinterpret_cast<const float*>(keys + static_cast<size_t>(kPageTokens) * 2 * static_cast<size_t>(pairs_of(head_dim)));
}
FL_FN const float* value_scales(const uint8_t* values, int v_stride) {
  return reinterpret_cast<const float*>(values + static_cast<size_t>(kPageTokens) * static_cast<size_t>(v_stride));
}

static void store_kv_i8(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
  const int v_stride = (head_dim + 15) / 16 * 16;
  int8_t* key = reinterpret_cast<int8_t*>(keys) + static_cast<size_t>(slot / 16) * 32 * pairs_of(head_dim) + slot % 16 * 2;
  int8_t* value = reinterpret_cast<int8_t*>(values) + slot / 2 * 32 + slot % 2;
  const Rounding of_key = rounding_of(k, head_dim, 127.f), of_value = rounding_of(v, head_dim, 127.f);
  for (int d = 0; d < head_dim; d += 16) {
    const int n = head_dim - d < 16 ? head_dim - d : 16;
    int8_t lanes[16];
    store_i8(lanes, code_of(load_up_to_16(k + d, n), of_key));
    for (int i = 0; i < n; i++) key[(d + i) / 2 * 32 + (d + i) % 2] = lanes[i];
    store_i8(lanes, code_of(load_up_to_16(v + d, n), of_value));
    for (int i = 0; i < n; i++) value[d * kPageTokens + 2 * i] = lanes[i];
  }
  const_cast<float*>(key_scales(keys, head_dim))[slot] = of_key.scale;
  const_cast<float*>(value_scales(values, v_stride))[slot] = of_value.scale;
}

template <int R>
struct Queries<CacheI8, R> {
  float scale[R];

  FL_FN Queries of(const AttentionJob& job) {
    // Sums of head_dim products of 8 and 16 bits stay below 2^31; beyond 512 dimensions with fewer bits.
    const float limit = job.head_dim <= 512 ? 32767.f : 16777215.f / static_cast<float>(job.head_dim);
    Queries queries;
    for (int r = 0; r < R; r++) {
      const Rounding rounding = rounding_of(job.q[r], job.head_dim, static_cast<float>(static_cast<int>(limit)));
      queries.scale[r] = rounding.scale * job.scale;
      for (int d = 0; d < job.head_dim; d += 16) {
        int16_t lanes[16];
        store_i16(lanes, code_of(load_up_to_16(job.q[r] + d, job.head_dim - d), rounding));
        for (int i = 0; i < 16; i++) job.q_codes[((d + i) / 2 * R + r) * 2 + i % 2] = lanes[i];
      }
    }
    return queries;
  }

  template <int B>
  FL_FN void score(const AttentionJob& job, const Queries& queries, const uint8_t* page, int at, const uint8_t* next, float* scores) {
    const int pairs = pairs_of(job.head_dim);
    const int8_t* keys = reinterpret_cast<const int8_t*>(page + job.k_offset) + static_cast<size_t>(at) * 2 * pairs;
    const float* scales = key_scales(page + job.k_offset, job.head_dim) + at;
    ask_for<R>(key_scales(next, job.head_dim) + at, 64 * B);
    ask_for<R>(value_scales(page + job.v_offset, (job.head_dim + 15) / 16 * 16) + at, 64 * B);
    next += static_cast<size_t>(at) * 2 * pairs;
    const int16_t* q = job.q_codes;
    I32 s[R][B];
    for (int r = 0; r < R; r++)
      for (int b = 0; b < B; b++) s[r][b] = splat_i(0);
    const auto add = [&](int p) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) {
        forget(q);
        Pairs k = load_pairs(keys + static_cast<size_t>(b * pairs + p) * 32);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) s[r][b] = dot_pairs(s[r][b], k, q + 2 * (R * p + r));
      }
    };
    int p = 0;
    for (; p + 2 <= pairs; p += 2, next += 64 * B) ask_for<R>(next, 64 * B), add(p), add(p + 1);
    if (p < pairs) add(p);
    for (int r = 0; r < R; r++)
      for (int b = 0; b < B; b++) store(scores + r * kStretch + b * 16, mul(to_float(s[r][b]), mul(load(scales + b * 16), splat(queries.scale[r]))));
  }
};

template <int R>
struct Weights<CacheI8, R> {
  alignas(64) int16_t codes[R][kStretch];
  float scales[R];

  FL_FN void scale(const PageOfValues& page, int v_stride, float* weights) {
    const float* scales = value_scales(page.values, v_stride);
    for (int j = page.begin; j < page.end; j += 16) {
      const F32 s = load_up_to_16(scales + j, page.end - j);  // those beyond the text may be anything
      for (int r = 0; r < R; r++) {
        float* w = weights + r * kStretch + page.at + j - page.begin;
        store(w, mul(load(w), s));
      }
    }
  }
  FL_FN Weights of(const AttentionJob&, float* weights, int first, int n_padded) {
    Weights made;
    for (int r = 0; r < R; r++) {
      const float* w = weights + r * kStretch;
      F32 largest = zero();
      for (int j = first; j < n_padded; j += 16) largest = max(min(load(w + j), splat(kLargest)), largest);
      const Rounding rounding = rounding_to(32767.f, max_of(largest));
      made.scales[r] = rounding.scale;
      for (int j = first; j < n_padded; j += 16) store_i16(made.codes[r] + j, code_of(load(w + j), rounding));
    }
    return made;
  }

  template <int C>
  FL_FN void mix(const PageOfValues& page, int column, const Weights& of, float* sums, size_t sums_stride, bool is_first) {
    I32 y[R][C];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) y[r][c] = is_first ? splat_i(0) : load_sum<I32>(sums + r * sums_stride + 16 * c);
    const size_t skipped = static_cast<size_t>(column) * kPageTokens;
    const int8_t* v = reinterpret_cast<const int8_t*>(page.values) + skipped + page.begin * 16;
    const uint8_t* next = page.next ? page.next + skipped : nullptr;
    const int16_t* w = of.codes[0] + page.at;
    for (int j = page.begin; j < page.end; j += 4) {  // up to three positions beyond the text: their weights are 0
      if (next) ask_for<R>(next, 64 * C), next += 64 * C;
#pragma GCC unroll 2
      for (int pair = 0; pair < 2; pair++, v += 32, w += 2)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
          forget(w);
          Pairs x = load_pairs(v + c * 16 * kPageTokens);
#pragma GCC unroll 8
          for (int r = 0; r < R; r++) y[r][c] = dot_pairs(y[r][c], x, w + r * kStretch);
        }
    }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) store_sum(sums + r * sums_stride + 16 * c, y[r][c]);
  }
  FL_FN void finish(const Weights& of, float* sums, size_t sums_stride, int v_stride) {
    for (int r = 0; r < R; r++)
      for (int i = 0; i < v_stride; i += 16) {
        float* y = sums + r * sums_stride + i;
        store(y, mul(to_float(load_sum<I32>(y)), splat(of.scales[r])));
      }
  }
};

}  // namespace fanlight::FANLIGHT_ISA
