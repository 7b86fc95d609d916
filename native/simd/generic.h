// Sixteen lanes as plain arrays: any processor, and the version to read first.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/half.h"

#define FANLIGHT_ISA generic
namespace fanlight::generic {

constexpr const char* kName = "generic";
constexpr int kMaxRows = 2;
constexpr int kMaxFloatRows = 2;
constexpr int kMaxAttnRows = 2;
constexpr int kAttnVectors = 4;

struct F32 { float v[16]; };
struct I32 { int32_t v[16]; };
struct Bytes { uint8_t v[64]; };
struct Pairs { int8_t v[32]; };
#define FL_FN static inline
#define FL_EACH for (int i = 0; i < 16; i++)

FL_FN F32 load(const float* p) { F32 r; std::memcpy(r.v, p, 64); return r; }
FL_FN void store(float* p, const F32& x) { std::memcpy(p, x.v, 64); }
FL_FN F32 splat(float x) { F32 r; FL_EACH r.v[i] = x; return r; }
FL_FN F32 zero() { return splat(0.f); }
FL_FN F32 load_part(const float* p, int n, float fill) { F32 r; FL_EACH r.v[i] = i < n ? p[i] : fill; return r; }
FL_FN void store_part(float* p, const F32& x, int n) { for (int i = 0; i < n; i++) p[i] = x.v[i]; }

FL_FN F32 add(F32 a, const F32& b) { FL_EACH a.v[i] += b.v[i]; return a; }
FL_FN F32 sub(F32 a, const F32& b) { FL_EACH a.v[i] -= b.v[i]; return a; }
FL_FN F32 mul(F32 a, const F32& b) { FL_EACH a.v[i] *= b.v[i]; return a; }
FL_FN F32 div(F32 a, const F32& b) { FL_EACH a.v[i] /= b.v[i]; return a; }
FL_FN F32 max(F32 a, const F32& b) { FL_EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
FL_FN F32 min(F32 a, const F32& b) { FL_EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
FL_FN F32 abs(F32 a) { FL_EACH a.v[i] = std::fabs(a.v[i]); return a; }
FL_FN F32 fmadd(const F32& a, const F32& b, F32 c) { FL_EACH c.v[i] += a.v[i] * b.v[i]; return c; }
FL_FN F32 fnmadd(const F32& a, const F32& b, F32 c) { FL_EACH c.v[i] -= a.v[i] * b.v[i]; return c; }
FL_FN F32 round_even(F32 a) {  // adding 1.5 * 2^23 rounds to a whole number; |a| < 2^22 here
  FL_EACH a.v[i] = (a.v[i] + 12582912.f) - 12582912.f;
  return a;
}
FL_FN F32 times_power_of_two(F32 a, const F32& e) {
  FL_EACH {
    uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(e.v[i]) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    a.v[i] *= power;
  }
  return a;
}
FL_FN float sum(F32 a) {  // the same tree as avx512.h
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
  return a.v[0];
}
FL_FN float max_of(const F32& a) {
  float m = a.v[0];
  FL_EACH m = a.v[i] > m ? a.v[i] : m;
  return m;
}

FL_FN uint32_t gt_bits(const F32& a, const F32& b) { uint32_t m = 0; FL_EACH m |= uint32_t(a.v[i] > b.v[i]) << i; return m; }
FL_FN uint32_t ge_bits(const F32& a, const F32& b) { uint32_t m = 0; FL_EACH m |= uint32_t(a.v[i] >= b.v[i]) << i; return m; }
FL_FN uint32_t eq_bits(const F32& a, const F32& b) { uint32_t m = 0; FL_EACH m |= uint32_t(a.v[i] == b.v[i]) << i; return m; }
FL_FN F32 replace_if_lt(F32 x, const F32& limit, const F32& by) {  // x < limit ? by : x; NaN stays
  FL_EACH x.v[i] = x.v[i] < limit.v[i] ? by.v[i] : x.v[i];
  return x;
}
FL_FN F32 pick(uint32_t bits, F32 a, const F32& b) {  // bit i: lane i of a
  FL_EACH a.v[i] = bits >> i & 1 ? a.v[i] : b.v[i];
  return a;
}
FL_FN F32 zero_if_lt(F32 x, const F32& key, const F32& limit) {
  FL_EACH x.v[i] = key.v[i] < limit.v[i] ? 0.f : x.v[i];
  return x;
}

FL_FN F32 load_f16(const uint16_t* p) { F32 r; FL_EACH r.v[i] = half_value(p[i]); return r; }
FL_FN void store_f16(uint16_t* p, const F32& x) { FL_EACH p[i] = half_bits(x.v[i]); }
FL_FN F32 load_bf16(const uint16_t* p) {
  F32 r;
  FL_EACH {
    uint32_t u = static_cast<uint32_t>(p[i]) << 16;
    std::memcpy(&r.v[i], &u, 4);
  }
  return r;
}

FL_FN I32 splat_i(int32_t x) { I32 r; FL_EACH r.v[i] = x; return r; }
FL_FN I32 iota() { I32 r; FL_EACH r.v[i] = i; return r; }
FL_FN int32_t wrap(uint32_t x) { return static_cast<int32_t>(x); }
FL_FN uint32_t bits(int32_t x) { return static_cast<uint32_t>(x); }
FL_FN I32 add_i(I32 a, const I32& b) { FL_EACH a.v[i] = wrap(bits(a.v[i]) + bits(b.v[i])); return a; }
FL_FN I32 xor_i(I32 a, const I32& b) { FL_EACH a.v[i] ^= b.v[i]; return a; }
FL_FN I32 mul_i(I32 a, const I32& b) { FL_EACH a.v[i] = wrap(bits(a.v[i]) * bits(b.v[i])); return a; }
template <int N>
FL_FN I32 shift_right(I32 a) { FL_EACH a.v[i] = wrap(bits(a.v[i]) >> N); return a; }
FL_FN F32 to_float(const I32& a) { F32 r; FL_EACH r.v[i] = static_cast<float>(a.v[i]); return r; }
FL_FN I32 to_int(const F32& a) { F32 n = round_even(a); I32 r; FL_EACH r.v[i] = static_cast<int32_t>(n.v[i]); return r; }
FL_FN int32_t sum_i(const I32& a) { int32_t s = 0; FL_EACH s += a.v[i]; return s; }
FL_FN void store_i8(int8_t* p, const I32& a) { FL_EACH p[i] = static_cast<int8_t>(a.v[i]); }

FL_FN void store_i16(int16_t* p, const I32& a) { FL_EACH p[i] = static_cast<int16_t>(a.v[i]); }

FL_FN Pairs load_pairs(const int8_t* p) { Pairs r; std::memcpy(r.v, p, 32); return r; }
FL_FN I32 dot_pairs(I32 acc, const Pairs& x, const int16_t* y) {
  FL_EACH acc.v[i] += x.v[2 * i] * y[0] + x.v[2 * i + 1] * y[1];
  return acc;
}

FL_FN Bytes load_bytes(const uint8_t* p) { Bytes r; std::memcpy(r.v, p, 64); return r; }
FL_FN Bytes low_nibbles(Bytes b) { for (int i = 0; i < 64; i++) b.v[i] &= 15; return b; }
FL_FN Bytes high_nibbles(Bytes b) { for (int i = 0; i < 64; i++) b.v[i] >>= 4; return b; }
FL_FN I32 dot_u4(I32 acc, const Bytes& w, const int8_t* a) {
  FL_EACH for (int k = 0; k < 4; k++) acc.v[i] += w.v[4 * i + k] * a[k];
  return acc;
}
using Sum4 = I32;
FL_FN Sum4 first_u4(const Bytes& w, const int8_t* a) { return dot_u4(splat_i(0), w, a); }
FL_FN Sum4 add_u4(const Sum4& x, const Sum4& y) { return add_i(x, y); }
FL_FN I32 sum_u4(const Sum4& x) { return x; }
using Signed = Bytes;
FL_FN Signed load_signed(const uint8_t* p) { return load_bytes(p); }
FL_FN I32 dot_s8(I32 acc, const Signed& w, const int8_t* a) {
  FL_EACH for (int k = 0; k < 4; k++) acc.v[i] += (w.v[4 * i + k] - 128) * a[k];
  return acc;
}
FL_FN I32 dot_s8_start(int32_t) { return splat_i(0); }

template <class V>
FL_FN void in_order(V&) {}  // see avx2.h

FL_FN void prefetch(const void*) {}

}  // namespace fanlight::generic
