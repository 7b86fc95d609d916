// A weight tile (16 output rows, all of n_in) times up to kMaxRows activation rows. What `linear` spends its time in.
// For every row the sums run in the order of k (floats) or of the groups (quantised), whatever the number of rows.
// Every loop over rows says how far it is unrolled: one that is not keeps the accumulators in memory, at half the speed.

namespace fanlight::FANLIGHT_ISA {

// Asks for what is read ahead, N lines at a time and spread evenly over `n` times. Without a branch: what is nothing is one line.
template <int N>
struct Asking {
  const uint8_t* at;
  size_t stride;
  FL_FN Asking of(const Ahead& ahead, int n) {
    const size_t n_lines = static_cast<size_t>(n) * N;
    return {ahead.at, (ahead.bytes + n_lines - 1) / n_lines};
  }
  __attribute__((always_inline)) void next() {
#pragma GCC unroll 16
    for (int i = 0; i < N; i++, at += stride) prefetch(at);
  }
};

// Q4_1 group: [16 x f16 scale][16 x f16 minimum][4 x 64 bytes]. Byte vector i, lane r holds row r's nibbles
// k = 4 i .. 4 i + 3 (low) and 16 + 4 i .. (high).  y += scale * a_scale * dot(w, a) + minimum * a_scale * sum(a)
constexpr int kQ4GroupBytes = 320;

template <int T>
FL_FN void tile_q4_1_rows(const uint8_t* w, int n_groups, const uint8_t* panel, Ahead ahead, float* out) {
  F32 y[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) y[t] = zero();
  auto asking = Asking<kQ4GroupBytes / 64>::of(ahead, n_groups);
  for (int g = 0; g < n_groups; g++, w += kQ4GroupBytes, panel += T * kPanelBytes) {
    asking.next();
    const int8_t* q = reinterpret_cast<const int8_t*>(panel);
    const float* scale = reinterpret_cast<const float*>(panel + T * kGroup);
    Sum4 even[T], odd[T];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      const Bytes packed = load_bytes(w + 64 + 64 * (i / 2));
      Bytes nibbles = i % 2 ? high_nibbles(packed) : low_nibbles(packed);
      in_order(nibbles);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        const int8_t* a = q + t * kGroup + 4 * (i / 2) + i % 2 * 16;
        Sum4& sum = T == 1 && i % 2 ? odd[t] : even[t];  // one row alone: two chains hide the latency
        sum = i < (T == 1 ? 2 : 1) ? first_u4(nibbles, a) : dot_u4(sum, nibbles, a);
        in_order(sum);
      }
    }
    const F32 w_scale = load_f16(reinterpret_cast<const uint16_t*>(w));
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      const I32 dot = sum_u4(T == 1 ? add_u4(even[t], odd[t]) : even[t]);
      y[t] = fmadd(to_float(dot), mul(w_scale, splat(scale[t])), y[t]);
      in_order(y[t]);
    }
    const F32 w_min = load_f16(reinterpret_cast<const uint16_t*>(w + 32));
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      y[t] = fmadd(w_min, splat(scale[T + t]), y[t]);
      in_order(y[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) store(out + t * kTile, y[t]);
}

// Q8_0 groups come in pairs, one stream to the prefetcher: [2][16 x f16 scale], then 2 x 8 x 64 bytes of (w ^ 0x80); vector i,
// lane r holds k = 4 i .. 4 i + 3. The last group of an odd number has a pair's scales and its own bytes.
constexpr int kQ8PairBytes = 64 + 2 * 512;

template <int T>
FL_FN void tile_q8_0_rows(const uint8_t* w, int n_groups, const uint8_t* panel, Ahead ahead, float* out) {
  F32 y[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) y[t] = zero();
  auto asking = Asking<kQ8PairBytes / 2 / 64 + 1>::of(ahead, n_groups);
  for (int g = 0; g < n_groups; g++, panel += T * kPanelBytes) {
    const uint8_t* pair = w + static_cast<size_t>(g / 2) * kQ8PairBytes;
    const uint8_t* bytes = pair + 64 + g % 2 * 512;
    asking.next();
    const int8_t* q = reinterpret_cast<const int8_t*>(panel);
    const float* scale = reinterpret_cast<const float*>(panel + T * kGroup);
    const int32_t* sum = reinterpret_cast<const int32_t*>(panel + T * (kGroup + 8));
    I32 even[T], odd[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) even[t] = dot_s8_start(sum[t]), odd[t] = splat_i(0);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      Signed b = load_signed(bytes + 64 * i);
      in_order(b);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        I32& acc = T == 1 && i % 2 ? odd[t] : even[t];
        acc = dot_s8(acc, b, q + t * kGroup + 4 * i);
        in_order(acc);
      }
    }
    F32 w_scale = load_f16(reinterpret_cast<const uint16_t*>(pair + g % 2 * 32));
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      I32 dot = T == 1 ? add_i(even[t], odd[t]) : even[t];
      y[t] = fmadd(to_float(dot), mul(w_scale, splat(scale[t])), y[t]);
      in_order(y[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) store(out + t * kTile, y[t]);
}

// Float tiles: [n_in][16].
struct LoadF32 {
  static constexpr int kBytes = 64;
  FL_FN F32 at(const uint8_t* w) { return load(reinterpret_cast<const float*>(w)); }
};
struct LoadF16 {
  static constexpr int kBytes = 32;
  FL_FN F32 at(const uint8_t* w) { return load_f16(reinterpret_cast<const uint16_t*>(w)); }
};
struct LoadBF16 {
  static constexpr int kBytes = 32;
  FL_FN F32 at(const uint8_t* w) { return load_bf16(reinterpret_cast<const uint16_t*>(w)); }
};
// Two chains, of the even and of the odd k: one would wait for itself where the weights are short.
template <class Load, int T>
FL_FN void tile_float_rows(const uint8_t* w, int n_in, const Activations& a, int row, Ahead ahead, float* out) {
  const float* x = a.rows + static_cast<size_t>(row) * a.stride;
  F32 even[T], odd[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) even[t] = odd[t] = zero();
  auto asking = Asking<2 * Load::kBytes / 64>::of(ahead, n_in / 2 + 1);
  int k = 0;
#pragma GCC unroll 2
  for (; k + 2 <= n_in; k += 2, w += 2 * Load::kBytes) {
    asking.next();
    F32 b = Load::at(w), c = Load::at(w + Load::kBytes);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      even[t] = fmadd(b, splat(x[t * a.stride + k]), even[t]);
      in_order(even[t]);
      odd[t] = fmadd(c, splat(x[t * a.stride + k + 1]), odd[t]);
      in_order(odd[t]);
    }
  }
  if (k < n_in)
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) even[t] = fmadd(Load::at(w), splat(x[t * a.stride + k]), even[t]);
#pragma GCC unroll 8
  for (int t = 0; t < T; t++) store(out + t * kTile, add(even[t], odd[t]));
}

// From a row count known at run time to one known to the compiler: all of kMaxRows, then what is left.
template <int T, class Body>
FL_FN void with_rows(int n_rows, const Body& body) {
  if constexpr (T > 0) {
    if (n_rows == T) body.template operator()<T>();
    else with_rows<T - 1>(n_rows, body);
  }
}

static void tile_f32(const uint8_t* w, int n_in, const Activations& a, int row, int n_rows, Ahead ahead, float* out) {
  with_rows<kMaxFloatRows>(n_rows, [&]<int T>() { tile_float_rows<LoadF32, T>(w, n_in, a, row, ahead, out); });
}
static void tile_f16(const uint8_t* w, int n_in, const Activations& a, int row, int n_rows, Ahead ahead, float* out) {
  with_rows<kMaxFloatRows>(n_rows, [&]<int T>() { tile_float_rows<LoadF16, T>(w, n_in, a, row, ahead, out); });
}
static void tile_bf16(const uint8_t* w, int n_in, const Activations& a, int row, int n_rows, Ahead ahead, float* out) {
  with_rows<kMaxFloatRows>(n_rows, [&]<int T>() { tile_float_rows<LoadBF16, T>(w, n_in, a, row, ahead, out); });
}
FL_FN const uint8_t* panel_of(const Activations& a, int n_in, int row) {  // row % kMaxRows == 0
  return a.panels + static_cast<size_t>(row) * static_cast<size_t>(n_in / kGroup) * kPanelBytes;
}
static void tile_q4_1(const uint8_t* w, int n_in, const Activations& a, int row, int n_rows, Ahead ahead, float* out) {
  with_rows<kMaxRows>(n_rows, [&]<int T>() { tile_q4_1_rows<T>(w, n_in / kGroup, panel_of(a, n_in, row), ahead, out); });
}
static void tile_q8_0(const uint8_t* w, int n_in, const Activations& a, int row, int n_rows, Ahead ahead, float* out) {
  with_rows<kMaxRows>(n_rows, [&]<int T>() { tile_q8_0_rows<T>(w, n_in / kGroup, panel_of(a, n_in, row), ahead, out); });
}

}  // namespace fanlight::FANLIGHT_ISA
