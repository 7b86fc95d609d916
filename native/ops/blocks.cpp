#include "ops/blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/half.h"
#include "kernels/table.h"

namespace fanlight {
namespace {

constexpr size_t kQ4Bytes = 20, kQ8Bytes = 34;  // of a packed block

uint16_t read16(const uint8_t* p) {
  uint16_t x;
  std::memcpy(&x, p, 2);
  return x;
}
float read_half(const uint8_t* p) { return half_value(read16(p)); }
void put16(uint8_t* p, uint16_t x) { std::memcpy(p, &x, 2); }

// A finite number beyond the range becomes the largest one, so that damage never comes from packing.
uint16_t near_half(float x) {
  return std::isfinite(x) ? half_bits(std::clamp(x, -65504.f, 65504.f)) : half_bits(x);
}

// -- blocks of 32: f16 scale, perhaps f16 minimum, perhaps 32 fifth bits; byte j holds weights j (low) and 16 + j (high) --------

void nibbles(const uint8_t* bytes, int8_t* q) {
  for (int j = 0; j < 16; j++) q[j] = static_cast<int8_t>(bytes[j] & 15);
  for (int j = 0; j < 16; j++) q[16 + j] = static_cast<int8_t>(bytes[j] >> 4);
}
// Bit j of four bytes is weight j's. Each byte is copied eight times, and one bit of each copy moved to its place.
void add_fifth_bits(const uint8_t* bytes, int offset, int8_t* q) {
  uint8_t fifth[32];
  for (int b = 0; b < 4; b++) {
    const uint64_t own = bytes[b] * 0x0101010101010101u & 0x8040201008040201u;
    const uint64_t sixteens = ((own + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
    std::memcpy(fifth + 8 * b, &sixteens, 8);
  }
  for (int j = 0; j < 32; j++) q[j] = static_cast<int8_t>((q[j] | fifth[j]) - offset);
}
void scale_all(Unpacked& u, int n, float scale, float minimum) {
  for (int s = 0; s < n; s++) u.scale[s] = scale, u.minimum[s] = minimum;
}

void unpack_q4_0(const uint8_t* b, Unpacked& u) {  // scale * (q - 8)
  nibbles(b + 2, u.q);
  scale_all(u, 1, read_half(b), -8.f * read_half(b));
}
void unpack_q4_1(const uint8_t* b, Unpacked& u) {
  nibbles(b + 4, u.q);
  scale_all(u, 1, read_half(b), read_half(b + 2));
}
void unpack_q5_0(const uint8_t* b, Unpacked& u) {  // scale * (q - 16)
  nibbles(b + 6, u.q);
  add_fifth_bits(b + 2, 16, u.q);
  scale_all(u, 1, read_half(b), 0.f);
}
void unpack_q5_1(const uint8_t* b, Unpacked& u) {
  nibbles(b + 8, u.q);
  add_fifth_bits(b + 4, 0, u.q);
  scale_all(u, 1, read_half(b), read_half(b + 2));
}
void unpack_q8_0(const uint8_t* b, Unpacked& u) {
  std::memcpy(u.q, b + 2, 32);
  scale_all(u, 1, read_half(b), 0.f);
}

constexpr int8_t kUneven[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};  // IQ4: values of a nibble
void uneven(const uint8_t* bytes, int8_t* q) {
  for (int j = 0; j < 16; j++) q[j] = kUneven[bytes[j] & 15], q[16 + j] = kUneven[bytes[j] >> 4];
}
void unpack_iq4_nl(const uint8_t* b, Unpacked& u) {
  uneven(b + 2, u.q);
  scale_all(u, 1, read_half(b), 0.f);
}

// -- blocks of 256: small integer scales under one f16 scale --------------------------------------------------------------------

// 64 bytes of four 2-bit numbers: byte 32 h + i holds weights 128 h + i, + 32, + 64, + 96 from its low end.
void pairs_of_bits(const uint8_t* bytes, int8_t* q) {
  for (int h = 0; h < 2; h++)
    for (int j = 0; j < 4; j++)
      for (int i = 0; i < 32; i++) q[128 * h + 32 * j + i] = static_cast<int8_t>((bytes[32 * h + i] >> (2 * j)) & 3);
}
// 128 bytes of two 4-bit numbers: byte 32 c + i holds weights 64 c + i (low) and 64 c + 32 + i (high).
void nibbles_256(const uint8_t* bytes, int8_t* q) {
  for (int c = 0; c < 4; c++) {
    for (int i = 0; i < 32; i++) q[64 * c + i] = static_cast<int8_t>(bytes[32 * c + i] & 15);
    for (int i = 0; i < 32; i++) q[64 * c + 32 + i] = static_cast<int8_t>(bytes[32 * c + i] >> 4);
  }
}
// Q4_K's and Q5_K's 12 bytes of eight 6-bit scales and minima. b: f16 scale, f16 of the minima, the bytes.
void six_bit_scales(const uint8_t* b, Unpacked& u) {
  const float d = read_half(b), d_min = read_half(b + 2);
  const uint8_t* s = b + 4;
  for (int j = 0; j < 8; j++) {
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    u.scale[j] = d * static_cast<float>(scale);
    u.minimum[j] = -(d_min * static_cast<float>(minimum));
  }
}

void unpack_q2_k(const uint8_t* b, Unpacked& u) {  // 16 x (4-bit scale, 4-bit minimum), 2-bit numbers, two f16
  pairs_of_bits(b + 16, u.q);
  const float d = read_half(b + 80), d_min = read_half(b + 82);
  for (int s = 0; s < 16; s++) {
    u.scale[s] = d * static_cast<float>(b[s] & 15);
    u.minimum[s] = -(d_min * static_cast<float>(b[s] >> 4));
  }
}
// Third bits (4 is taken off where there is none), 2-bit numbers, 12 bytes of sixteen 6-bit scales less 32, one f16. Scale times
// number is -124 to 128: with both signs turned it fits a byte, and one scale serves all.
void unpack_q3_k(const uint8_t* b, Unpacked& u) {
  pairs_of_bits(b + 32, u.q);
  for (int j = 0; j < 8; j++)
    for (int i = 0; i < 32; i++) u.q[32 * j + i] = static_cast<int8_t>(u.q[32 * j + i] - 4 + (((b[i] >> j) & 1) << 2));
  const uint8_t* scales = b + 96;
  for (int s = 0; s < 16; s++) {
    const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4, high = (scales[8 + s % 4] >> (2 * (s / 4))) & 3;
    const int16_t scale = static_cast<int16_t>(32 - (low | high << 4));
    for (int i = 16 * s; i < 16 * s + 16; i++) u.q[i] = static_cast<int8_t>(scale * u.q[i]);
  }
  scale_all(u, 8, -read_half(b + 108), 0.f);
}
void unpack_q4_k(const uint8_t* b, Unpacked& u) {
  nibbles_256(b + 16, u.q);
  six_bit_scales(b, u);
}
void unpack_q5_k(const uint8_t* b, Unpacked& u) {  // as Q4_K, with 32 bytes of fifth bits: bit j of byte i is weight 32 j + i's
  nibbles_256(b + 48, u.q);
  for (int j = 0; j < 8; j++)
    for (int i = 0; i < 32; i++) u.q[32 * j + i] = static_cast<int8_t>(u.q[32 * j + i] | ((b[16 + i] >> j) & 1) << 4);
  six_bit_scales(b, u);
}
// 128 bytes of low nibbles (byte 64 c + i: weights 128 c + i and + 64), 64 of upper bit pairs, sixteen int8 scales, one f16.
void unpack_q6_k(const uint8_t* b, Unpacked& u) {
  alignas(64) int8_t high[kMaxBlock];
  pairs_of_bits(b + 128, high);
  for (int c = 0; c < 2; c++) {
    for (int i = 0; i < 64; i++) u.q[128 * c + i] = static_cast<int8_t>(b[64 * c + i] & 15);
    for (int i = 0; i < 64; i++) u.q[128 * c + 64 + i] = static_cast<int8_t>(b[64 * c + i] >> 4);
  }
  for (int i = 0; i < kMaxBlock; i++) u.q[i] = static_cast<int8_t>((u.q[i] | high[i] << 4) - 32);
  const float d = read_half(b + 208);
  for (int s = 0; s < 16; s++) {
    u.scale[s] = d * static_cast<float>(static_cast<int8_t>(b[192 + s]));
    u.minimum[s] = 0.f;
  }
}
void unpack_iq4_xs(const uint8_t* b, Unpacked& u) {  // f16 scale, 8 x 2 upper and 8 x 4 lower bits of scales less 32, nibbles
  const float d = read_half(b);
  const int high = read16(b + 2);
  for (int j = 0; j < 8; j++) {
    uneven(b + 8 + 16 * j, u.q + 32 * j);
    const int scale = ((b[4 + j / 2] >> (4 * (j % 2))) & 15) | ((high >> (2 * j)) & 3) << 4;
    u.scale[j] = d * static_cast<float>(scale - 32);
    u.minimum[j] = 0.f;
  }
}

// -- numbers -> floats ----------------------------------------------------------------------------------------------------------

void widen_f32(const uint8_t* values, int n, float* y) { std::memcpy(y, values, static_cast<size_t>(n) * 4); }
void widen_f16(const uint8_t* values, int n, float* y) {
  alignas(64) uint16_t halves[kMaxBlock] = {};
  alignas(64) float floats[kMaxBlock];
  std::memcpy(halves, values, static_cast<size_t>(n) * 2);
  kernels().half_to_float(halves, floats, (n + 15) / 16 * 16);
  std::memcpy(y, floats, static_cast<size_t>(n) * 4);
}
void widen_bf16(const uint8_t* values, int n, float* y) {
  for (int i = 0; i < n; i++) y[i] = std::bit_cast<float>(static_cast<uint32_t>(read16(values + 2 * i)) << 16);
}
void widen_f64(const uint8_t* values, int n, float* y) {
  for (int i = 0; i < n; i++) {
    double x;
    std::memcpy(&x, values + 8 * i, 8);
    y[i] = static_cast<float>(x);
  }
}

template <int kSub>
void floats_of(const Unpacked& u, int n, float* y) {
  for (int s = 0; s < n / kSub; s++)
    for (int i = 0; i < kSub; i++) y[s * kSub + i] = u.scale[s] * static_cast<float>(u.q[s * kSub + i]) + u.minimum[s];
}
void to_floats(const StoredType& type, const uint8_t* from, int n, float* y) {
  if (!type.quantised()) return type.widen(from, n, y);
  Unpacked u;
  for (; n > 0; n -= type.block, from += type.bytes, y += type.block) {
    type.unpack(from, u);
    if (type.sub == 16) floats_of<16>(u, type.block, y);
    else floats_of<32>(u, type.block, y);
  }
}

// -- to packed blocks -----------------------------------------------------------------------------------------------------------

void join_nibbles(const int8_t* q, uint8_t* bytes) {
  for (int j = 0; j < 16; j++) bytes[j] = static_cast<uint8_t>(q[j] | q[16 + j] << 4);
}
void keep_integers_q4_1(const StoredType& type, const uint8_t* from, int n, uint8_t* y) {
  Unpacked u;
  for (; n > 0; n -= type.block, from += type.bytes) {
    type.unpack(from, u);
    for (int s = 0; s < type.block / kGroup; s++, y += kQ4Bytes) {
      put16(y, near_half(u.scale[s]));
      put16(y + 2, near_half(u.minimum[s]));
      join_nibbles(u.q + s * kGroup, y + 4);
    }
  }
}
void keep_integers_q8_0(const StoredType& type, const uint8_t* from, int n, uint8_t* y) {
  Unpacked u;
  for (; n > 0; n -= type.block, from += type.bytes) {
    type.unpack(from, u);
    for (int s = 0; s < type.block / kGroup; s++, y += kQ8Bytes) {
      put16(y, near_half(u.scale[s]));
      std::memcpy(y + 2, u.q + s * kGroup, kGroup);
    }
  }
}

constexpr uint16_t kHalfNan = 0x7e00, kLargestHalf = 0x7bff;

float inverse(float d) {  // 0 for zero, and for numbers so small that 1 / d is infinite
  const float x = 1.f / d;
  return std::isfinite(x) ? x : 0.f;
}

// ggml's rule divides by the scale before it is rounded to half precision. For weights that were quantised before, the integers
// are those of the scale as stored, which is rounded up: right for subnormal scales too.
template <bool kAsStored>
void round_q8_0(const float* x, int n, uint8_t* y) {
  const Kernels& k = kernels();
  for (; n > 0; n -= kGroup, x += kGroup, y += kQ8Bytes) {
    float low, high;
    if (!k.extremes(x, &low, &high)) {
      put16(y, kHalfNan);
      std::memset(y + 2, 0, kGroup);
      continue;
    }
    float d = std::max(high, -low) / 127.f;
    uint16_t half = near_half(d);
    if (kAsStored) {
      if (half_value(half) < d && half < kLargestHalf) half++;
      d = std::max(d, half_value(half));  // beyond the range: what ggml's rule gives
    }
    put16(y, half);
    k.round_bytes(x, inverse(d), reinterpret_cast<int8_t*>(y + 2));
  }
}

void round_q4_1(const float* x, int n, uint8_t* y) {
  const Kernels& k = kernels();
  for (; n > 0; n -= kGroup, x += kGroup, y += kQ4Bytes) {
    float low, high;
    if (!k.extremes(x, &low, &high)) {
      put16(y, kHalfNan);
      put16(y + 2, kHalfNan);
      std::memset(y + 4, 0, 16);
      continue;
    }
    const float span = high - low, d = std::isfinite(span) ? span / 15.f : high / 15.f - low / 15.f;
    put16(y, near_half(d));
    put16(y + 2, near_half(low));
    alignas(64) int8_t q[kGroup];
    k.round_nibbles(x, low, inverse(d), q);
    join_nibbles(q, y + 4);
  }
}

const StoredType kStored[] = {
    {"F32", 1, 4, "F32", false, 0, nullptr, widen_f32},
    {"F16", 1, 2, "F16", false, 0, nullptr, widen_f16},
    {"BF16", 1, 2, "BF16", false, 0, nullptr, widen_bf16},
    {"F64", 1, 8, "F32", false, 0, nullptr, widen_f64},
    {"Q4_0", 32, 18, "Q4_1", true, 32, unpack_q4_0, nullptr},
    {"Q4_1", 32, 20, "Q4_1", true, 32, unpack_q4_1, nullptr},
    {"Q5_0", 32, 22, "Q8_0", true, 32, unpack_q5_0, nullptr},
    {"Q5_1", 32, 24, "Q8_0", false, 32, unpack_q5_1, nullptr},
    {"Q8_0", 32, 34, "Q8_0", true, 32, unpack_q8_0, nullptr},
    {"Q2_K", 256, 84, "Q8_0", false, 16, unpack_q2_k, nullptr},
    {"Q3_K", 256, 110, "Q8_0", true, 32, unpack_q3_k, nullptr},
    {"Q4_K", 256, 144, "Q4_1", true, 32, unpack_q4_k, nullptr},
    {"Q5_K", 256, 176, "Q8_0", false, 32, unpack_q5_k, nullptr},
    {"Q6_K", 256, 210, "Q8_0", false, 16, unpack_q6_k, nullptr},
    {"IQ4_NL", 32, 18, "Q8_0", true, 32, unpack_iq4_nl, nullptr},
    {"IQ4_XS", 256, 136, "Q8_0", true, 32, unpack_iq4_xs, nullptr},
};

}  // namespace

const StoredType& stored_type(const std::string& name) {
  std::string known;
  for (const StoredType& t : kStored) {
    if (name == t.name) return t;
    known += (known.empty() ? "" : ", ") + std::string(t.name);
  }
  fail("pack: weights of type '", name, "' are unknown; there are ", known);
}

Conversion::Conversion(const StoredType& from, const std::string& to) : from_(&from) {
  if (to == from.name) how_ = How::kNothing;
  else if (to == "F32") how_ = How::kFloats;
  else if (from.keeps_integers && to == from.packed) how_ = to == "Q4_1" ? How::kIntegersQ4_1 : How::kIntegersQ8_0;
  else if (to == "Q4_1") how_ = How::kRoundQ4_1;
  else how_ = from.quantised() ? How::kRepackQ8_0 : How::kRoundQ8_0;
}

void Conversion::run(const uint8_t* blocks, int n, uint8_t* y) const {
  if (how_ == How::kIntegersQ4_1) return keep_integers_q4_1(*from_, blocks, n, y);
  if (how_ == How::kIntegersQ8_0) return keep_integers_q8_0(*from_, blocks, n, y);
  if (how_ == How::kNothing) {
    std::memcpy(y, blocks, static_cast<size_t>(n / from_->block) * from_->bytes);
    return;
  }
  alignas(64) float x[kMaxBlock];
  to_floats(*from_, blocks, n, x);
  if (how_ == How::kFloats) std::memcpy(y, x, static_cast<size_t>(n) * 4);
  else if (how_ == How::kRoundQ4_1) round_q4_1(x, n, y);
  else if (how_ == How::kRoundQ8_0) round_q8_0<false>(x, n, y);
  else round_q8_0<true>(x, n, y);
}

}  // namespace fanlight
