// Weights as checkpoints store them, row by row -> rows of the few types that tiles are made of. Knows bytes; knows no tensor,
// no tile and no thread. What each function computes is defined by kernels/reference_weights.py and kernels/reference_repack.py.
//
// Source: the block layouts and rounding rules of the ggml project.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace fanlight {

constexpr int kMaxBlock = 256;  // weights in the largest block; a multiple of every other

// A block taken apart: weight i is scale[i / sub] * q[i] + minimum[i / sub].
struct Unpacked {
  alignas(64) int8_t q[kMaxBlock];
  float scale[16], minimum[16];
};

struct StoredType {
  const char* name;
  int block;            // weights that lie together,
  size_t bytes;         // in so many bytes
  const char* packed;   // the type it is packed as, where nothing else is asked
  bool keeps_integers;  // that type has the same integers, and scales rounded to half precision
  int sub;              // weights that share a scale
  void (*unpack)(const uint8_t* block, Unpacked& u);      // Q types
  void (*widen)(const uint8_t* values, int n, float* y);  // F types

  bool quantised() const { return block > 1; }
};
const StoredType& stored_type(const std::string& name);

// The conversion of rows from one type to another.
class Conversion {
 public:
  // `to`: F32, Q4_1 or Q8_0; or `from` itself, and nothing is to be done.
  Conversion(const StoredType& from, const std::string& to);

  bool is_nothing() const { return how_ == How::kNothing; }
  void run(const uint8_t* blocks, int n, uint8_t* y) const;  // n weights, up to kMaxBlock, in whole blocks

 private:
  enum class How { kNothing, kFloats, kIntegersQ4_1, kIntegersQ8_0, kRoundQ4_1, kRoundQ8_0, kRepackQ8_0 };
  const StoredType* from_;
  How how_;
};

}  // namespace fanlight
