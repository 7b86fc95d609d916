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

}  // namespace fanlight::FANLIGHT_ISA
