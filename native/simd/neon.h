// Sixteen lanes as four NEON registers. Needs ARMv8.2 with the dot-product extension.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#define FANLIGHT_ISA neon
namespace fanlight::neon {

constexpr const char* kName = "neon";
constexpr int kMaxRows = 3;  // thirty-two registers: 3 x 4 integer and 3 x 4 float accumulators
constexpr int kMaxFloatRows = 3;
constexpr int kMaxAttnRows = 3;
constexpr int kAttnVectors = 6;  // accumulators of sixteen lanes in attention: 24 registers

struct F32 { float32x4_t q[4]; };
struct I32 { int32x4_t q[4]; };
struct Bytes { uint8x16_t q[4]; };
struct Pairs { int16x8_t first[2], second[2]; };
#define FL_FN static inline __attribute__((always_inline))
#define FL_EACH _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)

FL_FN F32 load(const float* p) { F32 r; FL_EACH r.q[i] = vld1q_f32(p + 4 * i); return r; }
FL_FN void store(float* p, F32 x) { FL_EACH vst1q_f32(p + 4 * i, x.q[i]); }
FL_FN F32 splat(float x) { F32 r; FL_EACH r.q[i] = vdupq_n_f32(x); return r; }
FL_FN F32 zero() { return splat(0.f); }
FL_FN F32 load_part(const float* p, int n, float fill) {
  float t[16];
  for (int i = 0; i < 16; i++) t[i] = i < n ? p[i] : fill;
  return load(t);
}
FL_FN void store_part(float* p, F32 x, int n) {
  float t[16];
  store(t, x);
  std::memcpy(p, t, sizeof(float) * static_cast<size_t>(n));
}

FL_FN F32 add(F32 a, F32 b) { FL_EACH a.q[i] = vaddq_f32(a.q[i], b.q[i]); return a; }
FL_FN F32 sub(F32 a, F32 b) { FL_EACH a.q[i] = vsubq_f32(a.q[i], b.q[i]); return a; }
FL_FN F32 mul(F32 a, F32 b) { FL_EACH a.q[i] = vmulq_f32(a.q[i], b.q[i]); return a; }
FL_FN F32 div(F32 a, F32 b) { FL_EACH a.q[i] = vdivq_f32(a.q[i], b.q[i]); return a; }
FL_FN F32 max(F32 a, F32 b) { FL_EACH a.q[i] = vmaxq_f32(a.q[i], b.q[i]); return a; }
FL_FN F32 min(F32 a, F32 b) { FL_EACH a.q[i] = vminq_f32(a.q[i], b.q[i]); return a; }
FL_FN F32 abs(F32 a) { FL_EACH a.q[i] = vabsq_f32(a.q[i]); return a; }
FL_FN F32 fmadd(F32 a, F32 b, F32 c) { FL_EACH c.q[i] = vfmaq_f32(c.q[i], a.q[i], b.q[i]); return c; }
FL_FN F32 fnmadd(F32 a, F32 b, F32 c) { FL_EACH c.q[i] = vfmsq_f32(c.q[i], a.q[i], b.q[i]); return c; }
FL_FN F32 round_even(F32 a) { FL_EACH a.q[i] = vrndnq_f32(a.q[i]); return a; }
FL_FN F32 times_power_of_two(F32 a, F32 e) {
  FL_EACH a.q[i] = vmulq_f32(a.q[i], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(e.q[i]), vdupq_n_s32(127)), 23)));
  return a;
}
FL_FN float sum(F32 a) {  // the same tree as avx512.h
  float32x4_t q = vaddq_f32(vaddq_f32(a.q[0], a.q[2]), vaddq_f32(a.q[1], a.q[3]));
  float32x2_t d = vadd_f32(vget_low_f32(q), vget_high_f32(q));
  return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
FL_FN float max_of(F32 a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.q[0], a.q[1]), vmaxq_f32(a.q[2], a.q[3]))); }

FL_FN uint32_t bits_of(uint32x4_t m, int group) {
  const uint32x4_t weights = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(m, weights)) << (4 * group);
}
FL_FN uint32_t gt_bits(F32 a, F32 b) { uint32_t m = 0; FL_EACH m |= bits_of(vcgtq_f32(a.q[i], b.q[i]), i); return m; }
FL_FN uint32_t ge_bits(F32 a, F32 b) { uint32_t m = 0; FL_EACH m |= bits_of(vcgeq_f32(a.q[i], b.q[i]), i); return m; }
FL_FN uint32_t eq_bits(F32 a, F32 b) { uint32_t m = 0; FL_EACH m |= bits_of(vceqq_f32(a.q[i], b.q[i]), i); return m; }
FL_FN F32 replace_if_lt(F32 x, F32 limit, F32 by) {  // x < limit ? by : x; NaN stays
  FL_EACH x.q[i] = vbslq_f32(vcltq_f32(x.q[i], limit.q[i]), by.q[i], x.q[i]);
  return x;
}
FL_FN F32 pick(uint32_t bits, F32 a, F32 b) {  // bit i: lane i of a
  const uint32x4_t lanes = {1, 2, 4, 8};
  FL_EACH a.q[i] = vbslq_f32(vtstq_u32(vdupq_n_u32(bits >> (4 * i)), lanes), a.q[i], b.q[i]);
  return a;
}
FL_FN F32 zero_if_lt(F32 x, F32 key, F32 limit) {
  FL_EACH x.q[i] = vbslq_f32(vcltq_f32(key.q[i], limit.q[i]), vdupq_n_f32(0.f), x.q[i]);
  return x;
}

FL_FN F32 load_f16(const uint16_t* p) {
  F32 r;
  FL_EACH r.q[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return r;
}
FL_FN void store_f16(uint16_t* p, F32 x) { FL_EACH vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.q[i]))); }
FL_FN F32 load_bf16(const uint16_t* p) {
  F32 r;
  FL_EACH r.q[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
  return r;
}

FL_FN I32 splat_i(int32_t x) { I32 r; FL_EACH r.q[i] = vdupq_n_s32(x); return r; }
FL_FN I32 iota() {
  const int32x4_t base = {0, 1, 2, 3};
  I32 r;
  FL_EACH r.q[i] = vaddq_s32(base, vdupq_n_s32(4 * i));
  return r;
}
FL_FN I32 add_i(I32 a, I32 b) { FL_EACH a.q[i] = vaddq_s32(a.q[i], b.q[i]); return a; }
FL_FN I32 xor_i(I32 a, I32 b) { FL_EACH a.q[i] = veorq_s32(a.q[i], b.q[i]); return a; }
FL_FN I32 mul_i(I32 a, I32 b) { FL_EACH a.q[i] = vmulq_s32(a.q[i], b.q[i]); return a; }
template <int N>
FL_FN I32 shift_right(I32 a) {
  FL_EACH a.q[i] = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.q[i]), N));
  return a;
}
FL_FN F32 to_float(I32 a) { F32 r; FL_EACH r.q[i] = vcvtq_f32_s32(a.q[i]); return r; }
FL_FN I32 to_int(F32 a) { I32 r; FL_EACH r.q[i] = vcvtnq_s32_f32(a.q[i]); return r; }
FL_FN int32_t sum_i(I32 a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.q[0], a.q[1]), vaddq_s32(a.q[2], a.q[3]))); }
FL_FN void store_i8(int8_t* p, I32 a) {
  int16x8_t lo = vcombine_s16(vmovn_s32(a.q[0]), vmovn_s32(a.q[1])), hi = vcombine_s16(vmovn_s32(a.q[2]), vmovn_s32(a.q[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}

FL_FN void store_i16(int16_t* p, I32 a) { FL_EACH vst1_s16(p + 4 * i, vmovn_s32(a.q[i])); }

FL_FN Pairs load_pairs(const int8_t* p) {
  const int8x16x2_t x = vld2q_s8(p);
  return {{vmovl_s8(vget_low_s8(x.val[0])), vmovl_s8(vget_high_s8(x.val[0]))}, {vmovl_s8(vget_low_s8(x.val[1])), vmovl_s8(vget_high_s8(x.val[1]))}};
}
FL_FN I32 dot_pairs(I32 acc, Pairs x, const int16_t* y) {
  _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) {
    acc.q[2 * i] = vmlal_n_s16(vmlal_n_s16(acc.q[2 * i], vget_low_s16(x.first[i]), y[0]), vget_low_s16(x.second[i]), y[1]);
    acc.q[2 * i + 1] = vmlal_n_s16(vmlal_n_s16(acc.q[2 * i + 1], vget_high_s16(x.first[i]), y[0]), vget_high_s16(x.second[i]), y[1]);
  }
  return acc;
}

FL_FN Bytes load_bytes(const uint8_t* p) { Bytes r; FL_EACH r.q[i] = vld1q_u8(p + 16 * i); return r; }
FL_FN Bytes low_nibbles(Bytes b) { FL_EACH b.q[i] = vandq_u8(b.q[i], vdupq_n_u8(15)); return b; }
FL_FN Bytes high_nibbles(Bytes b) { FL_EACH b.q[i] = vshrq_n_u8(b.q[i], 4); return b; }
FL_FN int8x16_t four_bytes(const int8_t* a) {
  int32_t x;
  std::memcpy(&x, a, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(x));
}
FL_FN I32 dot_u4(I32 acc, Bytes w, const int8_t* a) {
  int8x16_t x = four_bytes(a);
  FL_EACH acc.q[i] = vdotq_s32(acc.q[i], vreinterpretq_s8_u8(w.q[i]), x);
  return acc;
}
using Sum4 = I32;
FL_FN Sum4 first_u4(Bytes w, const int8_t* a) { return dot_u4(splat_i(0), w, a); }
FL_FN Sum4 add_u4(Sum4 x, Sum4 y) { return add_i(x, y); }
FL_FN I32 sum_u4(Sum4 x) { return x; }
struct Signed { int8x16_t q[4]; };
FL_FN Signed load_signed(const uint8_t* p) {
  Signed r;
  FL_EACH r.q[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(0x80)));
  return r;
}
FL_FN I32 dot_s8(I32 acc, Signed w, const int8_t* a) {
  int8x16_t x = four_bytes(a);
  FL_EACH acc.q[i] = vdotq_s32(acc.q[i], w.q[i], x);
  return acc;
}
FL_FN I32 dot_s8_start(int32_t) { return splat_i(0); }

template <class V>
FL_FN void in_order(V&) {}  // avx2.h says what for; here registers suffice

FL_FN void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace fanlight::neon
