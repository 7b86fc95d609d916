// One row of n logits: sums beside those of rows.h, and changes of every logit. A removed token has the logit -inf. Included after rows.h.

namespace fanlight::FANLIGHT_ISA {

static RowMass row_mass_within(const float* x, int n, float max, float low, float high) {
  RowMass r{};
  const F32 top = splat(max), floor = splat(low), ceiling = splat(high);
  for (int begin = 0; begin < n; begin += 1024) {
    const int end = n - begin < 1024 ? n : begin + 1024;
    F32 total = zero();
    for (int i = begin; i < end; i += 16) {
      F32 v = load_logits(x, i, n);
      const uint32_t hits = ge_bits(v, floor) & ge_bits(ceiling, v) & valid_bits(i, n);
      if (!hits) continue;
      r.count += __builtin_popcount(hits);
      total = add(total, pick(hits, exp(sub(v, top)), zero()));
    }
    r.sum_exp += sum(total);
  }
  return r;
}

static RowMoments row_moments(const float* x, int n, float shift) {
  RowMoments r{};
  const F32 from = splat(shift), removed = splat(kMinusInf);
  for (int begin = 0; begin < n; begin += 1024) {
    const int end = n - begin < 1024 ? n : begin + 1024;
    F32 total = zero(), squares = zero();
    for (int i = begin; i < end; i += 16) {
      F32 v = load_logits(x, i, n);
      const uint32_t kept = gt_bits(v, removed);
      if (!kept) continue;
      r.count += __builtin_popcount(kept);
      F32 d = pick(kept, sub(v, from), zero());
      total = add(total, d);
      squares = fmadd(d, d, squares);
    }
    r.sum += sum(total);
    r.sum_of_squares += sum(squares);
  }
  return r;
}

// e^d in float64 as a plain loop, which the compiler spreads over the lanes. d = n ln 2 + r, |r| <= ln 2 / 2, ln 2 in two parts; Taylor's
// series of e^r to r^13 / 13!; n is added to the exponent.
static void row_weights(const float* x, int n, float max, double* y) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest whole number in the low bits
  for (int i = 0; i < n; i++) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(max);
    const double shifted = d * 1.4426950408889634 + kRound, whole = shifted - kRound;
    const double r = (d - whole * 0x1.62e42feep-1) - whole * 0x1.a39ef35793c76p-33;
    double p = 1 / 6227020800.;
    p = p * r + 1 / 479001600.;
    p = p * r + 1 / 39916800.;
    p = p * r + 1 / 3628800.;
    p = p * r + 1 / 362880.;
    p = p * r + 1 / 40320.;
    p = p * r + 1 / 5040.;
    p = p * r + 1 / 720.;
    p = p * r + 1 / 120.;
    p = p * r + 1 / 24.;
    p = p * r + 1 / 6.;
    p = p * r + 0.5;
    p = p * r + 1.;
    p = p * r + 1.;
    int64_t bits, power;
    __builtin_memcpy(&bits, &p, 8);
    __builtin_memcpy(&power, &shifted, 8);
    bits += static_cast<int64_t>(static_cast<uint64_t>(power) << 52);
    __builtin_memcpy(&p, &bits, 8);
    y[i] = p;
  }
}

FL_FN uint32_t bits_at(const uint8_t* bits, int i, int n) {  // of tokens i .. i + 15, i a multiple of 16
  uint32_t two = bits[i / 8];
  if (i + 8 < n) two |= static_cast<uint32_t>(bits[i / 8 + 1]) << 8;
  return two;
}

static void row_mask(const float* x, int n, const uint8_t* bits, float* y) {
  for (int i = 0; i < n; i += 16) store_logits(y, i, n, pick(bits_at(bits, i, n), load_logits(x, i, n), splat(kMinusInf)));
}

static void row_bias_mask(const float* x, int n, const uint8_t* bits, float amount, float* y) {
  for (int i = 0; i < n; i += 16) {
    F32 v = load_logits(x, i, n);
    store_logits(y, i, n, pick(bits_at(bits, i, n), add(v, splat(amount)), v));
  }
}

static void row_finite(const float* x, int n, float* y) {
  for (int i = 0; i < n; i += 16) {
    F32 v = load_logits(x, i, n);
    store_logits(y, i, n, pick(eq_bits(v, v), min(v, splat(3.402823466e38f)), zero()));
  }
}

static void row_subtract(const float* x, int n, double by, float* y) {
  for (int i = 0; i < n; i++) y[i] = static_cast<float>(static_cast<double>(x[i]) - by);
}

static void row_blend(const float* a, const float* b, int n, float weight_a, float weight_b, float* y) {
  const F32 removed = splat(kMinusInf), by_a = splat(weight_a), by_b = splat(weight_b);
  for (int i = 0; i < n; i += 16) {
    F32 u = load_logits(a, i, n), v = load_logits(b, i, n);
    const uint32_t gone = eq_bits(u, removed) | eq_bits(v, removed);
    store_logits(y, i, n, pick(gone, removed, add(mul(by_a, u), mul(by_b, v))));
  }
}

static void row_smooth(const float* x, int n, float max, float square, float cube, float* y) {
  const F32 removed = splat(kMinusInf), top = splat(max);
  for (int i = 0; i < n; i += 16) {
    F32 v = load_logits(x, i, n);
    F32 d = sub(v, top);
    d = replace_if_lt(d, splat(-1e12f), splat(-1e12f));
    F32 d2 = mul(d, d);
    F32 curved = add(sub(mul(splat(cube), mul(d2, d)), mul(splat(square), d2)), top);
    store_logits(y, i, n, pick(eq_bits(v, removed), removed, curved));
  }
}

static void row_near_target(const float* x, int n, float logsumexp, float target, float* y) {
  const F32 removed = splat(kMinusInf), one = splat(1.f);
  for (int i = 0; i < n; i += 16) {
    F32 v = load_logits(x, i, n);
    F32 d = mul(abs(sub(exp(sub(v, splat(logsumexp))), splat(target))), splat(1.f / 0.3f));
    F32 curved = sub(splat(5.f), div(mul(splat(10.f), mul(d, d)), add(one, d)));
    store_logits(y, i, n, pick(eq_bits(v, removed), removed, curved));
  }
}

}  // namespace fanlight::FANLIGHT_ISA
