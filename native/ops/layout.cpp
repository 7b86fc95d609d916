#include "ops/layout.h"

#include <cstring>

#include "core/check.h"
#include "core/half.h"

namespace fanlight {
namespace {

// Float types: [n_in][16]. k_stride is the distance of two k of one row.
template <class T>
void pack_float(const uint8_t* const* rows, size_t k_stride, int n_in, uint8_t* tile) {
  for (int k = 0; k < n_in; k++)
    for (int r = 0; r < kTile; r++, tile += sizeof(T)) {
      if (rows[r]) std::memcpy(tile, rows[r] + static_cast<size_t>(k) * k_stride, sizeof(T));
      else std::memset(tile, 0, sizeof(T));
    }
}

// Q4_1 block: f16 scale, f16 minimum, 16 bytes; byte j holds k = j (low) and 16 + j (high).
void pack_q4_1(const uint8_t* const* rows, size_t, int n_in, uint8_t* tile) {
  for (int g = 0; g < n_in / kGroup; g++, tile += 320)
    for (int r = 0; r < kTile; r++) {
      static const uint8_t none[20] = {};
      const uint8_t* block = rows[r] ? rows[r] + static_cast<size_t>(g) * 20 : none;
      std::memcpy(tile + r * 2, block, 2);
      std::memcpy(tile + 32 + r * 2, block + 2, 2);
      for (int i = 0; i < 4; i++) std::memcpy(tile + 64 + i * 64 + r * 4, block + 4 + i * 4, 4);
    }
}

// Where a Q8_0 tile keeps group g: see kernels/tiles.h.
size_t q8_scales(int g) { return static_cast<size_t>(g / 2) * 1088 + static_cast<size_t>(g % 2) * 32; }
size_t q8_bytes(int g) { return static_cast<size_t>(g / 2) * 1088 + 64 + static_cast<size_t>(g % 2) * 512; }

// Q8_0 block: f16 scale, 32 signed bytes.
void pack_q8_0(const uint8_t* const* rows, size_t, int n_in, uint8_t* tile) {
  for (int g = 0; g < n_in / kGroup; g++)
    for (int r = 0; r < kTile; r++) {
      static const uint8_t none[34] = {};
      const uint8_t* block = rows[r] ? rows[r] + static_cast<size_t>(g) * 34 : none;
      std::memcpy(tile + q8_scales(g) + r * 2, block, 2);
      for (int i = 0; i < 8; i++) {
        uint32_t four;
        std::memcpy(&four, block + 2 + i * 4, 4);
        four ^= 0x80808080u;
        std::memcpy(tile + q8_bytes(g) + i * 64 + r * 4, &four, 4);
      }
    }
}

uint16_t read16(const uint8_t* p) {
  uint16_t x;
  std::memcpy(&x, p, 2);
  return x;
}

// One row of a tile as floats.
void row_f32(const uint8_t* tile, int r, int n_in, float* y) {
  for (int k = 0; k < n_in; k++) std::memcpy(y + k, tile + (static_cast<size_t>(k) * kTile + r) * 4, 4);
}
void row_f16(const uint8_t* tile, int r, int n_in, float* y) {
  for (int k = 0; k < n_in; k++) y[k] = half_value(read16(tile + (static_cast<size_t>(k) * kTile + r) * 2));
}
void row_bf16(const uint8_t* tile, int r, int n_in, float* y) {
  for (int k = 0; k < n_in; k++) {
    const uint32_t bits = static_cast<uint32_t>(read16(tile + (static_cast<size_t>(k) * kTile + r) * 2)) << 16;
    std::memcpy(y + k, &bits, 4);
  }
}
void row_q4_1(const uint8_t* tile, int r, int n_in, float* y) {
  for (int g = 0; g < n_in / kGroup; g++, tile += 320, y += kGroup) {
    const float scale = half_value(read16(tile + r * 2)), minimum = half_value(read16(tile + 32 + r * 2));
    for (int j = 0; j < 16; j++) {
      const uint8_t b = tile[64 + j / 4 * 64 + r * 4 + j % 4];
      y[j] = scale * static_cast<float>(b & 15) + minimum;
      y[16 + j] = scale * static_cast<float>(b >> 4) + minimum;
    }
  }
}
void row_q8_0(const uint8_t* tile, int r, int n_in, float* y) {
  for (int g = 0; g < n_in / kGroup; g++, y += kGroup) {
    const float scale = half_value(read16(tile + q8_scales(g) + r * 2));
    const uint8_t* bytes = tile + q8_bytes(g) + r * 4;
    for (int k = 0; k < kGroup; k++) y[k] = scale * static_cast<float>(static_cast<int8_t>(bytes[k / 4 * 64 + k % 4] ^ 0x80));
  }
}

// Numbers with all bits of the exponent set are infinite or NaN.
template <class T>
bool finite_numbers(const uint8_t* numbers, size_t n, T exponent) {
  T worst = 0;  // without a branch, so that the compiler takes many at once
  for (size_t i = 0; i < n; i++) {
    T x;
    std::memcpy(&x, numbers + i * sizeof(T), sizeof(T));
    worst = std::max<T>(worst, x & exponent);
  }
  return worst != exponent;
}
bool finite_halves(const uint8_t* halves, int n) { return finite_numbers<uint16_t>(halves, static_cast<size_t>(n), 0x7c00u); }
template <class T, T kExponent>
bool finite_float(const uint8_t* tile, int n_in) {
  return finite_numbers<T>(tile, static_cast<size_t>(n_in) * kTile, kExponent);
}
bool finite_q4_1(const uint8_t* tile, int n_in) {
  bool finite = true;
  for (int g = 0; g < n_in / kGroup; g++) finite &= finite_halves(tile + g * 320, 2 * kTile);
  return finite;
}
bool finite_q8_0(const uint8_t* tile, int n_in) {
  bool finite = true;
  for (int g = 0; g < n_in / kGroup; g++) finite &= finite_halves(tile + q8_scales(g), kTile);
  return finite;
}

const PackedType kPacked[] = {
    {"F32", 1, 4, 64, 1, false, pack_float<uint32_t>, &Kernels::tile_f32, row_f32, finite_float<uint32_t, 0x7f800000u>},
    {"F16", 1, 2, 64, 2, false, pack_float<uint16_t>, &Kernels::tile_f16, row_f16, finite_float<uint16_t, 0x7c00u>},
    {"BF16", 1, 2, 64, 2, false, pack_float<uint16_t>, &Kernels::tile_bf16, row_bf16, finite_float<uint16_t, 0x7f80u>},
    {"Q4_1", 32, 20, 320, 1, true, pack_q4_1, &Kernels::tile_q4_1, row_q4_1, finite_q4_1},
    {"Q8_0", 32, 34, 1088, 2, true, pack_q8_0, &Kernels::tile_q8_0, row_q8_0, finite_q8_0},
};

}  // namespace

const PackedType& packed_type(const std::string& name) {
  for (const PackedType& t : kPacked)
    if (name == t.name) return t;
  fail("pack: no kernel for weights of type '", name, "'; there are F32, F16, BF16, Q4_1, Q8_0");
}

}  // namespace fanlight
