// Sixteen lanes as one AVX-512 register. Needs F, BW, VL, DQ, VNNI.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define FANLIGHT_ISA avx512
namespace fanlight::avx512 {

constexpr const char* kName = "avx512";
constexpr int kMaxRows = 8;       // rows that a weight tile meets at once: 8 integer and 8 float accumulators
constexpr int kMaxFloatRows = 8;
constexpr int kMaxAttnRows = 6;
constexpr int kAttnVectors = 24;  // accumulators in attention: 6 x 4

using F32 = __m512;
using I32 = __m512i;
using Bytes = __m512i;  // 64 bytes: lane r holds four consecutive k of output row r
using Pairs = __m512i;  // lane r holds two 16-bit numbers
#define FL_FN static inline __attribute__((always_inline))

FL_FN F32 load(const float* p) { return _mm512_loadu_ps(p); }
FL_FN void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
FL_FN F32 splat(float x) { return _mm512_set1_ps(x); }
FL_FN F32 zero() { return _mm512_setzero_ps(); }
FL_FN __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
FL_FN F32 load_part(const float* p, int n, float fill) { return _mm512_mask_loadu_ps(splat(fill), first(n), p); }
FL_FN void store_part(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }

FL_FN F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
FL_FN F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
FL_FN F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
FL_FN F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
FL_FN F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
FL_FN F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
FL_FN F32 abs(F32 a) { return _mm512_abs_ps(a); }
FL_FN F32 fmadd(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }    // a * b + c
FL_FN F32 fnmadd(F32 a, F32 b, F32 c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
FL_FN F32 round_even(F32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FL_FN F32 times_power_of_two(F32 a, F32 e) { return _mm512_scalef_ps(a, e); }
FL_FN float sum(F32 a) {  // a fixed tree: 8 + 8, 4 + 4, 2 + 2, 1 + 1
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
FL_FN float max_of(F32 a) { return _mm512_reduce_max_ps(a); }

// Comparisons: bit i is lane i. NaN compares false.
FL_FN uint32_t gt_bits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
FL_FN uint32_t ge_bits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
FL_FN uint32_t eq_bits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
FL_FN F32 replace_if_lt(F32 x, F32 limit, F32 by) {  // x < limit ? by : x; NaN stays
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), by, x);
}
FL_FN F32 pick(uint32_t bits, F32 a, F32 b) { return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), b, a); }  // bit i: lane i of a
FL_FN F32 zero_if_lt(F32 x, F32 key, F32 limit) {  // key < limit ? 0 : x
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(key, limit, _CMP_NLT_UQ), x);
}

FL_FN F32 load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
FL_FN void store_f16(uint16_t* p, F32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FL_FN F32 load_bf16(const uint16_t* p) {
  __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

FL_FN I32 splat_i(int32_t x) { return _mm512_set1_epi32(x); }
FL_FN I32 iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
FL_FN I32 add_i(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
FL_FN I32 xor_i(I32 a, I32 b) { return _mm512_xor_si512(a, b); }
FL_FN I32 mul_i(I32 a, I32 b) { return _mm512_mullo_epi32(a, b); }
template <int N>
FL_FN I32 shift_right(I32 a) { return _mm512_srli_epi32(a, N); }
FL_FN F32 to_float(I32 a) { return _mm512_cvtepi32_ps(a); }
FL_FN I32 to_int(F32 a) { return _mm512_cvtps_epi32(a); }  // nearest, ties to even
FL_FN int32_t sum_i(I32 a) { return _mm512_reduce_add_epi32(a); }
FL_FN void store_i8(int8_t* p, I32 a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }

FL_FN void store_i16(int16_t* p, I32 a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a)); }

// Bytes in pairs, widened to 16 bits: each lane adds two products.
FL_FN Pairs load_pairs(const int8_t* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
FL_FN I32 dot_pairs(I32 acc, Pairs x, const int16_t* y) {
  int32_t both;
  std::memcpy(&both, y, 4);
  return _mm512_dpwssd_epi32(acc, x, _mm512_set1_epi32(both));
}

// Integer dot products: each lane adds four products. Weights are stored unsigned (4 bits, or a signed byte ^ 0x80).
FL_FN Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
FL_FN Bytes low_nibbles(Bytes b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
FL_FN Bytes high_nibbles(Bytes b) { return _mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(15)); }
FL_FN I32 dot_u4(I32 acc, Bytes w, const int8_t* a) {
  int32_t x;
  std::memcpy(&x, a, 4);
  return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x));
}
using Sum4 = I32;
FL_FN Sum4 first_u4(Bytes w, const int8_t* a) { return dot_u4(splat_i(0), w, a); }
FL_FN Sum4 add_u4(Sum4 x, Sum4 y) { return add_i(x, y); }
FL_FN I32 sum_u4(Sum4 x) { return x; }
using Signed = Bytes;
FL_FN Signed load_signed(const uint8_t* p) { return load_bytes(p); }
FL_FN I32 dot_s8(I32 acc, Signed w, const int8_t* a) { return dot_u4(acc, w, a); }
FL_FN I32 dot_s8_start(int32_t activation_sum) { return splat_i(-128 * activation_sum); }  // undoes the ^ 0x80

template <class V>
FL_FN void in_order(V&) {}  // avx2.h says what for; here registers suffice

FL_FN void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace fanlight::avx512
