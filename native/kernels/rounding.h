// Rounding of a group of 32 weights to integers, by ggml's rules. The scale is the caller's business (ops/blocks.cpp).

namespace fanlight::FANLIGHT_ISA {

// Smallest and largest; false where a number is infinite or none.
static bool extremes(const float* x, float* low, float* high) {
  F32 a = load(x), b = load(x + 16), none = zero();
  *high = max_of(max(a, b));
  *low = -max_of(max(sub(none, a), sub(none, b)));
  return (eq_bits(mul(a, none), none) & eq_bits(mul(b, none), none)) == 0xffff;
}

// Of x >= 0.
FL_FN F32 whole_part(F32 x) {
  F32 near = round_even(x), one = splat(1.f);
  return add(sub(near, one), zero_if_lt(one, x, near));
}

// x * factor, |.| < 2^7.x: ties away from zero, as C's roundf. Adding a half would carry the number just below 0.5 too.
FL_FN I32 round_away(F32 x, F32 factor) {
  F32 scaled = mul(x, factor), sign = sub(zero_if_lt(splat(2.f), scaled, zero()), splat(1.f));
  return to_int(mul(whole_part(add(abs(scaled), splat(0.49999997f))), sign));
}
static void round_bytes(const float* x, float factor, int8_t* q) {
  store_i8(q, round_away(load(x), splat(factor)));
  store_i8(q + 16, round_away(load(x + 16), splat(factor)));
}

// (x - low) * factor + 0.5 without its fraction, at most 15.
FL_FN I32 round_nibble(F32 x, F32 low, F32 factor) {
  return to_int(whole_part(min(add(mul(sub(x, low), factor), splat(0.5f)), splat(15.f))));
}
static void round_nibbles(const float* x, float low, float factor, int8_t* q) {
  store_i8(q, round_nibble(load(x), splat(low), splat(factor)));
  store_i8(q + 16, round_nibble(load(x + 16), splat(low), splat(factor)));
}

}  // namespace fanlight::FANLIGHT_ISA
