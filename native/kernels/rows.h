// One row of n logits: scans that the sampling ops are made of. A removed token has the logit -inf.

namespace fanlight::FANLIGHT_ISA {

FL_FN F32 load_logits(const float* x, int i, int n) {
  return n - i >= 16 ? load(x + i) : load_part(x + i, n - i, kMinusInf);
}
FL_FN void store_logits(float* y, int i, int n, F32 v) {
  if (n - i >= 16) store(y + i, v);
  else store_part(y + i, v, n - i);
}
FL_FN uint32_t valid_bits(int i, int n) { return n - i >= 16 ? 0xffffu : (1u << (n - i)) - 1; }

FL_FN float largest(const float* x, int n, bool* has_nan) {
  F32 m = splat(kMinusInf);
  uint32_t ordered = 0xffffu;
  for (int i = 0; i < n; i += 16) {
    F32 v = load_logits(x, i, n);
    ordered &= eq_bits(v, v);
    m = max(m, v);
  }
  *has_nan = ordered != 0xffffu;
  return max_of(m);
}

static bool row_peaks(const float* x, int n, float* peaks) {
  bool any = false;
  for (int i = 0; i < n; i += kPeak) {
    bool has_nan = false;
    *peaks++ = largest(x + i, n - i < kPeak ? n - i : kPeak, &has_nan);
    any |= has_nan;
  }
  return any;
}

static int row_argmax(const float* x, int n, bool* has_nan) {
  const F32 top = splat(largest(x, n, has_nan));
  for (int i = 0; i < n; i += 16)
    if (uint32_t hit = eq_bits(load_logits(x, i, n), top) & valid_bits(i, n)) return i + __builtin_ctz(hit);
  return 0;
}

// Sixteen float sums for each 1,024 logits, then double: the error stays near that of a pairwise sum.
static RowStats row_sums(const float* x, int n, float max_known) {
  RowStats r{};
  r.max = max_known;
  const F32 top = splat(r.max);
  for (int begin = 0; begin < n; begin += 1024) {
    const int end = n - begin < 1024 ? n : begin + 1024;
    F32 total = zero(), moment = zero();
    for (int i = begin; i < end; i += 16) {
      F32 v = load_logits(x, i, n);
      const uint32_t kept = gt_bits(v, splat(kMinusInf));
      if (!kept) continue;
      r.n_kept += __builtin_popcount(kept);
      F32 d = max(sub(v, top), splat(-200.f));  // -inf * 0 would be NaN
      F32 e = exp(d);
      total = add(total, e);
      moment = fmadd(d, e, moment);
    }
    r.sum_exp += sum(total);
    r.sum_x_exp += sum(moment);
  }
  return r;
}

static RowStats row_stats(const float* x, int n) {
  bool has_nan = false;
  RowStats r = row_sums(x, n, largest(x, n, &has_nan));
  r.has_nan = has_nan;
  return r;
}

static RowMass row_mass(const float* x, int n, float max, float limit) {
  RowMass r{};
  const F32 top = splat(max), bound = splat(limit);
  for (int begin = 0; begin < n; begin += 1024) {
    const int end = n - begin < 1024 ? n : begin + 1024;
    F32 total = zero();
    for (int i = begin; i < end; i += 16) {
      F32 v = load_logits(x, i, n);
      const uint32_t hits = ge_bits(v, bound) & valid_bits(i, n);
      if (!hits) continue;
      r.count += __builtin_popcount(hits);
      total = add(total, zero_if_lt(exp(sub(v, top)), v, bound));
    }
    r.sum_exp += sum(total);
  }
  return r;
}

static void row_divide(const float* x, int n, float by, float* y) {
  for (int i = 0; i < n; i += 16) store_logits(y, i, n, div(load_logits(x, i, n), splat(by)));
}

static int row_keep(const float* x, int n, float limit, float* y) {
  const F32 bound = splat(limit), counted = max(bound, splat(-3.402823466e38f)), removed = splat(kMinusInf);
  int count = 0;
  for (int i = 0; i < n; i += 16) {
    F32 v = load_logits(x, i, n);
    count += __builtin_popcount(ge_bits(v, counted) & valid_bits(i, n));
    store_logits(y, i, n, replace_if_lt(v, bound, removed));
  }
  return count;
}

static void row_drop(const float* x, int n, float limit, float* y) {
  for (int i = 0; i < n; i += 16) {
    F32 v = load_logits(x, i, n);
    store_logits(y, i, n, pick(ge_bits(v, splat(limit)), splat(kMinusInf), v));
  }
}

static int row_count_above(const float* x, int n, float limit) {
  int count = 0;
  for (int i = 0; i < n; i += 16) count += __builtin_popcount(gt_bits(load_logits(x, i, n), splat(limit)));
  return count;
}

// Collects set bits until the buffer cannot take another sixteen. `hits(i)` are the bits of logits i .. i + 15.
template <class Hits>
FL_FN int collect(int begin, int end, int32_t* found, int capacity, int* next, const Hits& hits) {
  int count = 0, i = begin;
  for (; i < end && count + 16 <= capacity; i += 16)
    for (uint32_t bits = hits(i) & valid_bits(i, end); bits; bits &= bits - 1) found[count++] = i + __builtin_ctz(bits);
  *next = i < end ? i : end;
  return count;
}

static int row_collect(const float* x, int begin, int end, float limit, int32_t* found, int capacity, int* next) {
  const F32 bound = splat(limit);
  return collect(begin, end, found, capacity, next, [&](int i) { return gt_bits(load_logits(x, i, end), bound); });
}

static int row_collect_ring(const float* x, int begin, int end, const RowRing& ring, int32_t* found, int capacity, int* next) {
  const F32 a = splat(ring.outer_low), b = splat(ring.inner_low), c = splat(ring.inner_high), d = splat(ring.outer_high);
  return collect(begin, end, found, capacity, next, [&](int i) {
    F32 v = load_logits(x, i, end);
    return (ge_bits(v, a) & ~ge_bits(v, b)) | (gt_bits(v, c) & ~gt_bits(v, d));
  });
}

FL_FN I32 mix32(I32 x) {  // lowbias32: see reference_rows.py
  x = mul_i(xor_i(x, shift_right<16>(x)), splat_i(0x7feb352d));
  x = mul_i(xor_i(x, shift_right<15>(x)), splat_i(static_cast<int32_t>(0x846ca68bu)));
  return xor_i(x, shift_right<16>(x));
}

// A token's noise is g = -log(-log1p(-v)) with v >= hi / 2^32, so logit + g > best needs v < exp(logit - best). Only tokens for
// which this can hold are collected (the factor 1.001 covers the rounding of exp and of the subtraction); the caller decides exactly.
static int row_gumbel(const float* x, int begin, int end, uint32_t k0, uint32_t k1, double best, int32_t* found, int capacity, int* next) {
  const F32 bound = splat(static_cast<float>(best)), widen = splat(1.001f * 2147483648.f);
  const I32 key0 = splat_i(static_cast<int32_t>(k0)), key1 = splat_i(static_cast<int32_t>(k1));
  return collect(begin, end, found, capacity, next, [&](int i) -> uint32_t {
    F32 v = load_logits(x, i, end);
    if (!gt_bits(v, splat(kMinusInf))) return 0;
    I32 token = add_i(splat_i(i), iota());
    I32 hi = mix32(add_i(mix32(xor_i(token, key0)), key1));
    F32 limit = mul(exp(sub(v, bound)), widen);  // of hi / 2; 2^31 above
    return gt_bits(limit, to_float(shift_right<1>(hi)));
  });
}

}  // namespace fanlight::FANLIGHT_ISA
