// Keys and values in pages, and attention over them.
// In a page, for each layer and head: keys in blocks of 16 positions, transposed, [block][head_dim][16]; values [position][v_stride],
// v_stride = head_dim rounded up to 16. A row's sums run over d, then over positions, in order: no other row changes them.

namespace fanlight::FANLIGHT_ISA {

struct CacheF16 {
  using T = uint16_t;
  FL_FN F32 at(const T* p) { return load_f16(p); }
  FL_FN void put(T* p, F32 x) { store_f16(p, min(max(x, splat(-65504.f)), splat(65504.f))); }  // saturate: no infinities
};
struct CacheF32 {
  using T = float;
  FL_FN F32 at(const T* p) { return load(p); }
  FL_FN void put(T* p, F32 x) { store(p, x); }
};

template <class Cache>
FL_FN void store_kv(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
  using T = typename Cache::T;
  T* key = reinterpret_cast<T*>(keys) + static_cast<size_t>(slot / 16) * 16 * head_dim + slot % 16;
  T* value = reinterpret_cast<T*>(values) + static_cast<size_t>(slot) * ((head_dim + 15) / 16 * 16);
  for (int d = 0; d < head_dim; d += 16) {
    const int n = head_dim - d < 16 ? head_dim - d : 16;
    T lanes[16];
    Cache::put(lanes, n == 16 ? load(k + d) : load_part(k + d, n, 0.f));
    for (int i = 0; i < n; i++) key[(d + i) * 16] = lanes[i];
    Cache::put(value + d, n == 16 ? load(v + d) : load_part(v + d, n, 0.f));
  }
}

// Pages lie apart in memory, where the processor's own prefetching loses track: while a page is read, the next is asked for. Few
// rows only: with many, the cache is read so often that it stays near.
template <int R>
FL_FN void ask_for(const uint8_t* next, size_t bytes) {
  if (R <= 4 && next)
    for (size_t i = 0; i < bytes; i += 64) prefetch(next + i);
}

// Scores of R rows against `B` blocks of 16 keys.
template <class Cache, int R, int B>
FL_FN void score_blocks(const AttentionJob& job, const typename Cache::T* keys, float* scores) {
  const int head_dim = job.head_dim;
  F32 s[R][B];
  for (int r = 0; r < R; r++)
    for (int b = 0; b < B; b++) s[r][b] = zero();
#pragma GCC unroll 2
  for (int d = 0; d < head_dim; d++) {
    F32 k[B];
    for (int b = 0; b < B; b++) k[b] = Cache::at(keys + (static_cast<size_t>(b) * head_dim + d) * 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
      for (int b = 0; b < B; b++) s[r][b] = fmadd(k[b], splat(job.q[r][d]), s[r][b]);
  }
  for (int r = 0; r < R; r++)
    for (int b = 0; b < B; b++) {
      F32 score = mul(s[r][b], splat(job.scale));
      if (job.softcap > 0) score = softcap_of(score, splat(job.softcap), splat(1.f / job.softcap));
      store(scores + r * job.scores_stride + b * 16, score);
    }
}

// Scores of the keys [first, n_keys) -> exp(score - max), and zero in the rest of [start, n_padded); returns the sum.
FL_FN float softmax_weights(float* s, int start, int first, int n_keys, int n_padded) {
  for (int i = start; i < first; i++) s[i] = kMinusInf;  // exp makes it 0
  const int whole = n_keys / 16 * 16, tail = n_keys - whole;
  F32 largest = splat(-3.0e38f);
  for (int i = start; i < whole; i += 16) largest = max(largest, load(s + i));
  if (tail) largest = max(largest, load_part(s + whole, tail, -3.0e38f));
  const F32 top = splat(max_of(largest));
  F32 total = zero();
  for (int i = start; i < whole; i += 16) {
    F32 e = exp(sub(load(s + i), top));
    total = add(total, e);
    store(s + i, e);
  }
  int i = whole;
  if (tail) {
    store_part(s + whole, exp(sub(load_part(s + whole, tail, -3.0e38f), top)), tail);
    F32 e = load_part(s + whole, tail, 0.f);
    total = add(total, e);
    store(s + whole, e);
    i += 16;
  }
  for (; i < n_padded; i += 16) store(s + i, zero());
  return sum(total);
}

// C vectors of 16 value columns for R rows.
template <class Cache, int R, int C>
FL_FN void mix_values(const AttentionJob& job, int first, int n_keys, int column, const float* inverse) {
  using T = typename Cache::T;
  const size_t v_stride = static_cast<size_t>((job.head_dim + 15) / 16 * 16);
  F32 y[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) y[r][c] = zero();
  for (int start = first / job.page_tokens * job.page_tokens; start < n_keys; start += job.page_tokens) {
    const int skipped = first > start ? first - start : 0;
    const T* v = reinterpret_cast<const T*>(job.pages[start / job.page_tokens] + job.v_offset) + column + skipped * v_stride;
    const bool is_last = start + job.page_tokens >= n_keys;
    const int n = is_last ? n_keys - start : job.page_tokens;
    const uint8_t* next = is_last ? nullptr : job.pages[start / job.page_tokens + 1] + job.v_offset + static_cast<size_t>(column) * sizeof(T);
    for (int j = skipped; j < n; j++, v += v_stride) {
      ask_for<R>(next, 16 * C * sizeof(T));
      if (next) next += v_stride * sizeof(T);
      F32 x[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) x[c] = Cache::at(v + 16 * c);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        F32 p = splat(job.scores[r * job.scores_stride + start + j]);
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) y[r][c] = fmadd(x[c], p, y[r][c]);
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      const int at = column + 16 * c, left = job.head_dim - at;
      F32 value = mul(y[r][c], splat(inverse[r]));
      if (left >= 16) store(job.out[r] + at, value);
      else store_part(job.out[r] + at, value, left);
    }
}

template <class Cache, int R>
FL_FN void attend_rows(const AttentionJob& job) {
  using T = typename Cache::T;
  int n_keys = 0, first = job.first_key[0];
  for (int r = 0; r < R; r++) {
    n_keys = job.n_keys[r] > n_keys ? job.n_keys[r] : n_keys;
    first = job.first_key[r] < first ? job.first_key[r] : first;
  }
  first = first / 16 * 16;  // whole blocks of keys
  const int n_padded = (n_keys + 15) / 16 * 16;
  constexpr int B = R <= 3 && kMaxAttnRows > 3 ? 2 : 1;  // few rows: two blocks at a time hide the latency
  const size_t block_bytes = static_cast<size_t>(job.head_dim) * 16 * sizeof(T);
  for (int start = first / job.page_tokens * job.page_tokens; start < n_padded; start += job.page_tokens) {
    const uint8_t* const* page = job.pages + start / job.page_tokens;
    const T* keys = reinterpret_cast<const T*>(*page + job.k_offset);
    const bool is_last = start + job.page_tokens >= n_padded;
    const uint8_t* next = is_last ? job.pages[first / job.page_tokens] + job.v_offset : page[1] + job.k_offset;  // after the keys come the values
    const int n = is_last ? n_padded - start : job.page_tokens;
    int j = first > start ? first - start : 0;
    for (; j + 16 * B <= n; j += 16 * B, next += B * block_bytes) {
      ask_for<R>(next, B * block_bytes);
      score_blocks<Cache, R, B>(job, keys + static_cast<size_t>(j) * job.head_dim, job.scores + start + j);
    }
    for (; j < n; j += 16) score_blocks<Cache, R, 1>(job, keys + static_cast<size_t>(j) * job.head_dim, job.scores + start + j);
  }
  float inverse[R];
  for (int r = 0; r < R; r++) inverse[r] = 1.f / softmax_weights(job.scores + r * job.scores_stride, first, job.first_key[r], job.n_keys[r], n_padded);
  int column = 0;
  const int v_stride = (job.head_dim + 15) / 16 * 16;
  for (; column + 64 <= v_stride; column += 64) mix_values<Cache, R, 4>(job, first, n_keys, column, inverse);
  for (; column < v_stride; column += 16) mix_values<Cache, R, 1>(job, first, n_keys, column, inverse);
}

static void store_kv_f16(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
  store_kv<CacheF16>(k, v, head_dim, slot, keys, values);
}
static void store_kv_f32(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
  store_kv<CacheF32>(k, v, head_dim, slot, keys, values);
}
static void attention_f16(const AttentionJob& job) {
  with_rows<kMaxAttnRows>(job.n_rows, [&]<int R>() { attend_rows<CacheF16, R>(job); });
}
static void attention_f32(const AttentionJob& job) {
  with_rows<kMaxAttnRows>(job.n_rows, [&]<int R>() { attend_rows<CacheF32, R>(job); });
}

}  // namespace fanlight::FANLIGHT_ISA
