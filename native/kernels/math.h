// Functions of sixteen lanes. Included once for each instruction set, after its simd/*.h.


namespace fanlight::FANLIGHT_ISA {

constexpr float kMinusInf = -__builtin_huge_valf();

// e^x with a relative error of about 2e-7; exactly 0 below -87, and x is at most 88.
// Cody-Waite reduction by ln 2 in two parts, then Cephes' degree-6 polynomial (expf).
FL_FN F32 exp(F32 x) {
  const F32 key = x;
  x = min(max(x, splat(-87.f)), splat(88.f));
  F32 n = round_even(mul(x, splat(1.44269504f)));
  F32 r = fnmadd(n, splat(0.693359375f), x);
  r = fnmadd(n, splat(-2.12194440e-4f), r);
  F32 p = splat(1.9875691500e-4f);
  p = fmadd(p, r, splat(1.3981999507e-3f));
  p = fmadd(p, r, splat(8.3334519073e-3f));
  p = fmadd(p, r, splat(4.1665795894e-2f));
  p = fmadd(p, r, splat(1.6666665459e-1f));
  p = fmadd(p, r, splat(5.0000001201e-1f));
  p = fmadd(p, mul(r, r), add(r, splat(1.f)));
  return zero_if_lt(times_power_of_two(p, n), key, splat(-87.f));
}

FL_FN F32 sigmoid_times(F32 scale, F32 x) {  // scale / (1 + e^-x)
  return div(scale, add(splat(1.f), exp(sub(zero(), x))));
}

FL_FN F32 silu_of(F32 x) { return sigmoid_times(x, x); }

// 0.5 x (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). Source: Hendrycks and Gimpel 2016.
FL_FN F32 gelu_of(F32 x) {
  F32 cubic = fmadd(mul(mul(x, x), x), splat(0.044715f), x);
  return sigmoid_times(x, mul(splat(2 * 0.7978845608f), cubic));
}

// tanh x with a relative error of about 2e-7: Cephes' polynomial (tanhf) near 0, where 1 - 2 / (1 + e^2x) would cancel.
FL_FN F32 tanh_of(F32 x) {
  const F32 size = abs(x), limit = splat(0.625f), near = min(size, limit), z = mul(near, near);
  F32 p = splat(-5.70498872745e-3f);
  p = fmadd(p, z, splat(2.06390887954e-2f));
  p = fmadd(p, z, splat(-5.37397155531e-2f));
  p = fmadd(p, z, splat(1.33314422036e-1f));
  p = fmadd(p, z, splat(-3.33332819422e-1f));
  const F32 small = fmadd(mul(p, z), near, near);
  const F32 large = sub(splat(1.f), div(splat(2.f), add(splat(1.f), exp(mul(splat(2.f), size)))));
  const F32 y = add(zero_if_lt(large, size, limit), sub(small, zero_if_lt(small, size, limit)));  // of |x|
  return sub(mul(splat(2.f), zero_if_lt(y, x, zero())), y);
}

FL_FN F32 softcap_of(F32 x, F32 cap, F32 inverse) { return mul(cap, tanh_of(mul(x, inverse))); }

// 0.5 x (1 + erf(x / sqrt 2)); erf with an absolute error of 1.5e-7: Abramowitz and Stegun 7.1.26.
FL_FN F32 gelu_erf_of(F32 x) {
  const F32 half = splat(0.5f), u = mul(abs(x), splat(0.70710678f));
  const F32 t = div(splat(1.f), fmadd(u, splat(0.3275911f), splat(1.f)));
  F32 p = splat(1.061405429f);
  p = fmadd(p, t, splat(-1.453152027f));
  p = fmadd(p, t, splat(1.421413741f));
  p = fmadd(p, t, splat(-0.284496736f));
  p = fmadd(p, t, splat(0.254829592f));
  const F32 rest = mul(mul(p, t), exp(sub(zero(), mul(u, u))));  // 1 - erf(u), u >= 0
  // x >= 0: x - x rest / 2; x < 0: x rest / 2.
  const F32 tail = mul(mul(half, abs(x)), rest);
  return sub(max(x, zero()), tail);
}

}  // namespace fanlight::FANLIGHT_ISA
