// Element-wise ops, norms, rotation and the rounding of activations: one row, or part of one.
// `n` is a multiple of 16 where a function says so; `stride` is the padded length of a row, whose tail is zero.

namespace fanlight::FANLIGHT_ISA {

// Rows to a panel. Groups of 32: scale = max |x| / 127, q = round(x * (127 / max |x|)), ties to even.
static void quantize(const float* x, size_t stride, int n_rows, int n_groups, uint8_t* panel) {
  for (int g = 0; g < n_groups; g++, x += kGroup, panel += n_rows * kPanelBytes) {
    float* scale = reinterpret_cast<float*>(panel + n_rows * kGroup);
    int32_t* total = reinterpret_cast<int32_t*>(panel + n_rows * (kGroup + 8));
    for (int t = 0; t < n_rows; t++) {
      F32 a = load(x + t * stride), b = load(x + t * stride + 16);
      float largest = max_of(max(abs(a), abs(b)));
      F32 inverse = splat(largest > 0 ? 127.f / largest : 0.f);
      I32 ia = to_int(mul(a, inverse)), ib = to_int(mul(b, inverse));
      int8_t* q = reinterpret_cast<int8_t*>(panel + t * kGroup);
      store_i8(q, ia);
      store_i8(q + 16, ib);
      scale[t] = largest / 127.f;
      total[t] = sum_i(add_i(ia, ib));
      scale[n_rows + t] = scale[t] * static_cast<float>(total[t]);
    }
  }
}

static void half_to_float(const uint16_t* x, float* y, int n) {
  for (int i = 0; i < n; i += 16) store(y + i, load_f16(x + i));
}
static void add_rows(const float* a, const float* b, float* y, int n) {
  for (int i = 0; i < n; i += 16) store(y + i, add(load(a + i), load(b + i)));
}
static void silu(float* x, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, silu_of(load(x + i)));
}
static void gelu_tanh(float* x, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, gelu_of(load(x + i)));
}
static void gelu(float* x, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, gelu_erf_of(load(x + i)));
}
static void relu(float* x, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, max(zero(), load(x + i)));  // in this order NaN stays
}
static void tanh_rows(float* x, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, tanh_of(load(x + i)));
}
static void scale_rows(const float* x, float by, float* y, int n) {
  for (int i = 0; i < n; i += 16) store(y + i, mul(load(x + i), splat(by)));
}
static void softcap_rows(const float* x, float cap, float* y, int n) {
  const F32 to = splat(cap), inverse = splat(1.f / cap);
  for (int i = 0; i < n; i += 16) store(y + i, softcap_of(load(x + i), to, inverse));
}
static void silu_mul(const float* gate, const float* up, float* y, int n) {
  for (int i = 0; i < n; i += 16) store(y + i, mul(silu_of(load(gate + i)), load(up + i)));
}
static void gelu_mul(const float* gate, const float* up, float* y, int n) {
  for (int i = 0; i < n; i += 16) store(y + i, mul(gelu_of(load(gate + i)), load(up + i)));
}

// Sixteen partial sums, each along k, joined by the fixed tree of `sum`.
static void rms_norm(const float* x, const float* w, float eps, int n, int stride, float* y) {
  F32 squares = zero();
  for (int i = 0; i < stride; i += 16) squares = fmadd(load(x + i), load(x + i), squares);
  F32 scale = splat(1.f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + eps));
  for (int i = 0; i < stride; i += 16) store(y + i, mul(mul(load(x + i), scale), load(w + i)));
}

static void span_norm(const float* x, const float* w, float eps, int n, float* y) {
  F32 squares = zero();
  const int whole = n / 16 * 16, tail = n - whole;
  for (int i = 0; i < whole; i += 16) squares = fmadd(load(x + i), load(x + i), squares);
  if (tail) squares = fmadd(load_part(x + whole, tail, 0.f), load_part(x + whole, tail, 0.f), squares);
  F32 scale = splat(1.f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + eps));
  for (int i = 0; i < whole; i += 16) store(y + i, mul(mul(load(x + i), scale), load(w + i)));
  if (tail) store_part(y + whole, mul(mul(load_part(x + whole, tail, 0.f), scale), load_part(w + whole, tail, 0.f)), tail);
}

static void layer_norm(const float* x, const float* w, const float* b, float eps, int n, int stride, float* y) {
  F32 total = zero();
  for (int i = 0; i < stride; i += 16) total = add(total, load(x + i));
  F32 mean = splat(sum(total) / static_cast<float>(n)), squares = zero();
  for (int i = 0; i < n; i += 16) {
    F32 d = sub(load(x + i), mean);
    if (n - i < 16) {  // the padded tail is not part of the row
      store_part(y + i, d, n - i);
      d = load_part(y + i, n - i, 0.f);
    }
    squares = fmadd(d, d, squares);
  }
  F32 scale = splat(1.f / __builtin_sqrtf(sum(squares) / static_cast<float>(n) + eps));
  for (int i = 0; i < stride; i += 16)  // w and b are zero in the tail, and so is y
    store(y + i, fmadd(mul(sub(load(x + i), mean), scale), load(w + i), load(b + i)));
}

// (a, b) = halves of what is rotated: (a cos - b sin, b cos + a sin).
static void rope(const float* x, const float* cos, const float* sin, int n_rotated, float* y) {
  const int half = n_rotated / 2;
  int i = 0;
  for (; i + 16 <= half; i += 16) {
    F32 a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(y + i, fnmadd(b, s, mul(a, c)));
    store(y + half + i, fmadd(a, s, mul(b, c)));
  }
  if (int left = half - i) {
    F32 a = load_part(x + i, left, 0.f), b = load_part(x + half + i, left, 0.f);
    F32 c = load_part(cos + i, left, 0.f), s = load_part(sin + i, left, 0.f);
    store_part(y + i, fnmadd(b, s, mul(a, c)), left);
    store_part(y + half + i, fmadd(a, s, mul(b, c)), left);
  }
}

}  // namespace fanlight::FANLIGHT_ISA
