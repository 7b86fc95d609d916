// Keys and values in pages, as halves or floats: storing, scores, weighted sums. What attention.h is made of; of int8: cache_int8.h.
// In a page, for each layer and head: keys in blocks of 16 positions, [block][head_dim][16 positions]; values in blocks of 16 columns,
// [block][position][16 columns].

namespace fanlight::FANLIGHT_ISA {

constexpr float kLargest = 3.0e38f;  // of what is saturated; below all scores with a minus

struct CacheF16 {
  using T = uint16_t;
  static constexpr int kVectors = kAttnVectors;
  FL_FN F32 at(const T* p) { return load_f16(p); }
  FL_FN void put(T* p, F32 x) { store_f16(p, min(max(x, splat(-65504.f)), splat(65504.f))); }  // saturate: no infinities
};
struct CacheF32 {
  using T = float;
  static constexpr int kVectors = kAttnVectors;
  FL_FN F32 at(const T* p) { return load(p); }
  FL_FN void put(T* p, F32 x) { store(p, x); }
};
FL_FN F32 load_up_to_16(const float* p, int n) { return n >= 16 ? load(p) : load_part(p, n, 0.f); }

template <class Cache>
FL_FN void store_kv(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
  using T = typename Cache::T;
  T* key = reinterpret_cast<T*>(keys) + static_cast<size_t>(slot / 16) * 16 * head_dim + slot % 16;
  T* value = reinterpret_cast<T*>(values) + slot * 16;
  for (int d = 0; d < head_dim; d += 16) {
    const int n = head_dim - d < 16 ? head_dim - d : 16;
    T lanes[16];
    Cache::put(lanes, load_up_to_16(k + d, n));
    for (int i = 0; i < n; i++) key[(d + i) * 16] = lanes[i];
    Cache::put(value + d * kPageTokens, load_up_to_16(v + d, n));
  }
}

// How many vectors of sixteen lanes go together for R rows: as many accumulators as there are registers for.
template <class Cache, int R>
constexpr int at_once() {
  return Cache::kVectors >= 4 * R ? 4 : Cache::kVectors >= 2 * R ? 2 : 1;
}

// What was loaded through p is loaded again, as if p pointed elsewhere now: cheaper than keeping it in a register that an accumulator
// would have to leave.
template <class T>
FL_FN void forget(T*& p) {
  asm volatile("" : "+r"(p));
}

// Pages lie apart in memory, where the processor's own prefetching loses track: while a page is read, the next is asked for. Few
// rows only: with many, the cache is read so often that it stays near.
template <int R>
FL_FN void ask_for(const void* next, size_t bytes) {
  if (R <= 4)
    for (size_t i = 0; i < bytes; i += 64) prefetch(static_cast<const uint8_t*>(next) + i);
}

// Queries as the scores want them, once for all stretches: as they are, or of int8 caches rounded to 16 bits and the pairs of R rows
// side by side.
template <class Cache, int R>
struct Queries {
  FL_FN Queries of(const AttentionJob&) { return {}; }

  // Scores against the `B` blocks of 16 keys from position `at` of a page on; `next`: keys or values to ask for meanwhile.
  template <int B>
  FL_FN void score(const AttentionJob& job, const Queries&, const uint8_t* page, int at, const uint8_t* next, float* scores) {
    using T = typename Cache::T;
    const int head_dim = job.head_dim;
    const T* keys = reinterpret_cast<const T*>(page + job.k_offset) + static_cast<size_t>(at) * head_dim;
    next += static_cast<size_t>(at) * head_dim * sizeof(T);
    const float* q[R];
    for (int r = 0; r < R; r++) q[r] = job.q[r];
    F32 s[R][B];
    for (int r = 0; r < R; r++)
      for (int b = 0; b < B; b++) s[r][b] = zero();
#pragma GCC unroll 2
    for (int d = 0; d < head_dim; d++, next += 16 * B * sizeof(T)) {
      ask_for<R>(next, 16 * B * sizeof(T));
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) {
        F32 k = Cache::at(keys + (static_cast<size_t>(b) * head_dim + d) * 16);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) forget(q[r]), s[r][b] = fmadd(k, splat(q[r][d]), s[r][b]);
      }
    }
    for (int r = 0; r < R; r++)
      for (int b = 0; b < B; b++) store(scores + r * kStretch + b * 16, mul(s[r][b], splat(job.scale)));
  }
};

// Where R rows' sums of a stretch stand while its pages are gone through: vectors of sixteen columns, floats or integers.
template <class V>
FL_FN V load_sum(const float* p) {
  V x;
  std::memcpy(&x, p, sizeof(V));
  return x;
}
template <class V>
FL_FN void store_sum(float* p, V x) {
  std::memcpy(p, &x, sizeof(V));
}

// A page's values, of the positions [begin, end) in it; `at`: the first position's place in the stretch, `next`: what is read after them,
// asked for from its beginning to its end while these are gone through.
struct PageOfValues {
  const uint8_t *values, *next;
  int begin, end, at;
};

// Weights as the values want them: as they are, or of int8 caches times the values' scales and rounded to 16 bits.
template <class Cache, int R>
struct Weights {
  const float* weights;

  FL_FN void scale(const PageOfValues&, int, float*) {}
  FL_FN Weights of(const AttentionJob&, float* weights, int, int) { return {weights}; }

  // Adds up C vectors of 16 columns.
  template <int C>
  FL_FN void mix(const PageOfValues& page, int column, const Weights& of, float* sums, size_t sums_stride, bool is_first) {
    using T = typename Cache::T;
    F32 y[R][C];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) y[r][c] = is_first ? zero() : load_sum<F32>(sums + r * sums_stride + 16 * c);
    const size_t skipped = static_cast<size_t>(column) * kPageTokens;
    const T* v = reinterpret_cast<const T*>(page.values) + skipped + page.begin * 16;
    const uint8_t* next = page.next ? page.next + skipped * sizeof(T) : nullptr;
    const float* w = of.weights + page.at;
    for (int j = page.begin; j < page.end; j++, v += 16, w++) {
      if (next) ask_for<R>(next, 16 * C * sizeof(T)), next += 16 * C * sizeof(T);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) {
        forget(w);
        F32 x = Cache::at(v + c * 16 * kPageTokens);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) y[r][c] = fmadd(x, splat(w[r * kStretch]), y[r][c]);
      }
    }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) store_sum(sums + r * sums_stride + 16 * c, y[r][c]);
  }
  FL_FN void finish(const Weights&, float*, size_t, int) {}
};

}  // namespace fanlight::FANLIGHT_ISA
