// IEEE half precision <-> float, one number at a time, in bits: any processor. Knows nothing else.
#pragma once
#include <cstdint>
#include <cstring>

namespace fanlight {

// Shift into float32's fields, then scale by 2^112: exact, subnormals included.
inline float half_value(uint16_t h) {
  uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = static_cast<uint32_t>(h & 0x7fffu) << 13;
  float x;
  std::memcpy(&x, &rest, 4);
  x *= 0x1p112f;
  std::memcpy(&rest, &x, 4);
  if ((h & 0x7c00u) == 0x7c00u) rest = 0x7f800000u | static_cast<uint32_t>(h & 0x3ffu) << 13;  // inf, NaN
  rest |= sign;
  std::memcpy(&x, &rest, 4);
  return x;
}

inline uint16_t half_bits(float x) {  // nearest, ties to even
  uint32_t u;
  std::memcpy(&u, &x, 4);
  uint32_t sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
  if (mag >= 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u | (mag > 0x7f800000u ? 0x200u : 0u));
  if (mag >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (mag < 0x38800000u) {                                               // below 2^-14: subnormal half
    float f;
    std::memcpy(&f, &mag, 4);
    f += 0.5f;  // 2^-24 is then the last place of the sum, so the addition rounds as wanted
    std::memcpy(&mag, &f, 4);
    return static_cast<uint16_t>(sign | (mag - 0x3f000000u));
  }
  mag += 0xfffu + ((mag >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((mag - 0x38000000u) >> 13));
}

}  // namespace fanlight
