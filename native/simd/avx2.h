// Sixteen lanes as two AVX2 registers. Needs AVX2, FMA, F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define FANLIGHT_ISA avx2
namespace fanlight::avx2 {

constexpr const char* kName = "avx2";
constexpr int kMaxRows = 4;       // sixteen registers: 4 x 2 integer accumulators; the float ones go to memory once a group
constexpr int kMaxFloatRows = 3;  // 3 x 2 x 2 accumulators
constexpr int kMaxAttnRows = 3;
constexpr int kAttnVectors = 6;  // accumulators of sixteen lanes in attention: 12 registers

struct F32 { __m256 a, b; };
struct I32 { __m256i a, b; };
struct Bytes { __m256i a, b; };
struct Pairs { __m256i a, b; };
#define FL_FN static inline __attribute__((always_inline))

FL_FN F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
FL_FN void store(float* p, F32 x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
FL_FN F32 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
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

FL_FN F32 add(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
FL_FN F32 sub(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
FL_FN F32 mul(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
FL_FN F32 div(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
FL_FN F32 max(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
FL_FN F32 min(F32 x, F32 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
FL_FN F32 abs(F32 x) {
  __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
FL_FN F32 fmadd(F32 x, F32 y, F32 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
FL_FN F32 fnmadd(F32 x, F32 y, F32 z) { return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)}; }
FL_FN F32 round_even(F32 x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
FL_FN __m256 times_power_of_two_8(__m256 x, __m256 e) {  // by building 2^e; |e| <= 126 here
  __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(e), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(bits));
}
FL_FN F32 times_power_of_two(F32 x, F32 e) { return {times_power_of_two_8(x.a, e.a), times_power_of_two_8(x.b, e.b)}; }
FL_FN float sum(F32 x) {  // the same tree as avx512.h
  __m256 h = _mm256_add_ps(x.a, x.b);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
FL_FN float max_of(F32 x) {
  __m256 h = _mm256_max_ps(x.a, x.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

template <int Op>
FL_FN uint32_t compare_bits(F32 x, F32 y) {
  uint32_t lo = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, Op)));
  uint32_t hi = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, Op)));
  return lo | hi << 8;
}
FL_FN uint32_t gt_bits(F32 x, F32 y) { return compare_bits<_CMP_GT_OQ>(x, y); }
FL_FN uint32_t ge_bits(F32 x, F32 y) { return compare_bits<_CMP_GE_OQ>(x, y); }
FL_FN uint32_t eq_bits(F32 x, F32 y) { return compare_bits<_CMP_EQ_OQ>(x, y); }
FL_FN F32 replace_if_lt(F32 x, F32 limit, F32 by) {  // x < limit ? by : x; NaN stays
  return {_mm256_blendv_ps(by.a, x.a, _mm256_cmp_ps(x.a, limit.a, _CMP_NLT_UQ)),
          _mm256_blendv_ps(by.b, x.b, _mm256_cmp_ps(x.b, limit.b, _CMP_NLT_UQ))};
}
FL_FN __m256 pick_8(uint32_t bits, __m256 x, __m256 y) {
  const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(bits)), lanes), lanes);
  return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(set));
}
FL_FN F32 pick(uint32_t bits, F32 x, F32 y) { return {pick_8(bits, x.a, y.a), pick_8(bits >> 8, x.b, y.b)}; }  // bit i: lane i of x
FL_FN F32 zero_if_lt(F32 x, F32 key, F32 limit) {
  return {_mm256_and_ps(x.a, _mm256_cmp_ps(key.a, limit.a, _CMP_NLT_UQ)),
          _mm256_and_ps(x.b, _mm256_cmp_ps(key.b, limit.b, _CMP_NLT_UQ))};
}

FL_FN __m128i load_8_halves(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
FL_FN F32 load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load_8_halves(p)), _mm256_cvtph_ps(load_8_halves(p + 8))}; }
FL_FN void store_f16(uint16_t* p, F32 x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, mode));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, mode));
}
FL_FN __m256 bf16_8(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_8_halves(p)), 16));
}
FL_FN F32 load_bf16(const uint16_t* p) { return {bf16_8(p), bf16_8(p + 8)}; }

FL_FN I32 splat_i(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
FL_FN I32 iota() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)}; }
FL_FN I32 add_i(I32 x, I32 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
FL_FN I32 xor_i(I32 x, I32 y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
FL_FN I32 mul_i(I32 x, I32 y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
template <int N>
FL_FN I32 shift_right(I32 x) { return {_mm256_srli_epi32(x.a, N), _mm256_srli_epi32(x.b, N)}; }
FL_FN F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
FL_FN I32 to_int(F32 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
FL_FN int32_t sum_i(I32 x) {
  __m256i h = _mm256_add_epi32(x.a, x.b);
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1));
  return _mm_cvtsi128_si32(q);
}
FL_FN void store_i8(int8_t* p, I32 x) {
  __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

FL_FN void store_i16(int16_t* p, I32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8));
}

FL_FN __m256i load_8_pairs(const int8_t* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
FL_FN Pairs load_pairs(const int8_t* p) { return {load_8_pairs(p), load_8_pairs(p + 16)}; }
FL_FN I32 dot_pairs(I32 acc, Pairs x, const int16_t* y) {
  int32_t both;
  std::memcpy(&both, y, 4);
  __m256i pair = _mm256_set1_epi32(both);
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, pair)), _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, pair))};
}

FL_FN Bytes load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
FL_FN Bytes low_nibbles(Bytes x) {
  __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
FL_FN Bytes high_nibbles(Bytes x) { return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
FL_FN __m256i four_bytes(const int8_t* a) {
  int32_t x;
  std::memcpy(&x, a, 4);
  return _mm256_set1_epi32(x);
}
// A group's dot products of 4-bit weights, as pairs of 16 bits until the group is done: 8 * 2 * 15 * 127 fits 16 bits, so that neither
// maddubs nor a sum of eight of them saturates, and what widens is needed once a group.
struct Sum4 { __m256i a, b; };
FL_FN Sum4 first_u4(Bytes w, const int8_t* a) {
  const __m256i x = four_bytes(a);
  return {_mm256_maddubs_epi16(w.a, x), _mm256_maddubs_epi16(w.b, x)};
}
FL_FN Sum4 add_u4(Sum4 x, Sum4 y) { return {_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)}; }
FL_FN Sum4 dot_u4(Sum4 acc, Bytes w, const int8_t* a) { return add_u4(acc, first_u4(w, a)); }
FL_FN I32 sum_u4(Sum4 x) {
  const __m256i one = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(x.a, one), _mm256_madd_epi16(x.b, one)};
}
struct Signed { __m256i a, b, size_a, size_b; };
FL_FN Signed load_signed(const uint8_t* p) {
  const Bytes stored = load_bytes(p);
  const __m256i top = _mm256_set1_epi8(-128), a = _mm256_xor_si256(stored.a, top), b = _mm256_xor_si256(stored.b, top);
  return {a, b, _mm256_abs_epi8(a), _mm256_abs_epi8(b)};
}
FL_FN __m256i dot_s8_half(__m256i acc, __m256i w, __m256i size, __m256i x) {
  // w * x = |w| * (sign(w) x): |w| <= 128 fits unsigned bytes, x > -128 can be negated, and 2 * 128 * 127 fits 16 bits
  const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
FL_FN I32 dot_s8(I32 acc, Signed w, const int8_t* a) {
  const __m256i x = four_bytes(a);
  return {dot_s8_half(acc.a, w.a, w.size_a, x), dot_s8_half(acc.b, w.b, w.size_b, x)};
}
FL_FN I32 dot_s8_start(int32_t) { return splat_i(0); }

// Holds gcc to the order of the source: reordered, a tile's loop has more live vectors than there are registers, and takes twice as long.
FL_FN void in_order(F32& x) { asm("" : "+x"(x.a), "+x"(x.b)); }
FL_FN void in_order(I32& x) { asm("" : "+x"(x.a), "+x"(x.b)); }
FL_FN void in_order(Bytes& x) { asm("" : "+x"(x.a), "+x"(x.b)); }
FL_FN void in_order(Sum4& x) { asm("" : "+x"(x.a), "+x"(x.b)); }
FL_FN void in_order(Signed& x) { asm("" : "+x"(x.a), "+x"(x.b), "+x"(x.size_a), "+x"(x.size_b)); }

FL_FN void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace fanlight::avx2
