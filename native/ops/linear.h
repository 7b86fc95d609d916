// A weight matrix in the kernels' layout, and what it does to rows.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/background.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/tensor.h"
#include "ops/layout.h"

namespace fanlight {

enum class Activation { kNone, kSilu, kGeluTanh, kGelu, kRelu, kTanh };

// Rows of a matrix as a checkpoint stores them; `bytes` is checked against the type and the sizes.
struct Part {
  const uint8_t* data;
  size_t bytes;
  int n_rows;
  std::string dtype;
  std::vector<int> row_order;  // empty: as stored
  bool transposed;             // (n_in, n_rows); float types only
};

// Packing goes on in the background after the constructor has checked everything; who reads the weights waits for it. The parts'
// data must stay until then. `mapped`: they are parts of a mapped file, whose pages are let go once packed.
class Linear {
 public:
  // `quantize`: the packed type that float parts become, where n_in is whole groups.
  Linear(int n_in, const std::vector<Part>& parts, const std::optional<std::string>& quantize, const float* bias, size_t n_bias,
         const std::string& activation, bool gated, bool mapped);

  int n_in() const { return n_in_; }
  int n_out() const { return n_out_; }
  const std::vector<std::string>& part_dtypes() const { return part_dtypes_; }  // what each part was packed as
  std::string dtype() const;                                                    // each of them once: "Q4_1+Q8_0"
  size_t n_bytes() const { return n_bytes_; }
  bool is_finite() const {  // whether all weights are: rounded activations, and soft maxima, would hide it
    wait_for(ticket_);
    return *is_finite_;
  }
  const uint8_t* data() const {
    wait_for(ticket_);
    return weights_.data;
  }

  Tensor apply(const Tensor& x, const Tensor* residual) const;
  // Rows [first, last) of `apply`, to y, y + stride, ..., each padded to 32 columns. `first` is 0 or a multiple of what whole_rows gives.
  void apply_rows(const Tensor& x, int first, int last, float* y, size_t stride) const;
  static int whole_rows(int n);  // n cut to whole calls of the kernels, at least one: where a pass over rows may be interrupted
  Tensor embed(const std::vector<int>& ids) const;

 private:
  // Results: row r is at y + (r - first) * stride.
  struct Target {
    float* y;
    size_t stride;
    int first;
    float* row(int r) const { return y + static_cast<size_t>(r - first) * stride; }
  };
  struct Products;
  void finish(int u, int first, int last, const Products& out, const Tensor* residual, const Target& y) const;
  void unit(int u, int first, int last, const Activations& a, const Tensor* residual, const Target& y) const;
  void product(const Tensor& x, int first, int last, const Tensor* residual, const Target& y) const;
  void embed_row(int id, float* y) const;
  Pool::Ahead following() const;

  // Tiles of one type, or, of a gated matrix, of gate and up in turn.
  struct Segment {
    int first_tile;
    size_t offset;  // of that tile in the weights
    const PackedType* types[2];
    size_t tile_bytes[2];

    size_t offset_of(int tile) const {
      const int i = tile - first_tile;
      return offset + static_cast<size_t>(i / 2) * (tile_bytes[0] + tile_bytes[1]) + (i % 2 ? tile_bytes[0] : 0);
    }
  };
  struct Plan;
  static const Segment& segment_of(const std::vector<Segment>& segments, int tile);

  int n_in_, n_out_, n_tiles_;
  size_t n_bytes_;
  std::vector<Segment> segments_;
  bool any_quantised_;
  std::vector<std::string> part_dtypes_;
  Activation activation_;
  bool gated_;
  Weights weights_;
  uint64_t ticket_ = 0;
  std::shared_ptr<std::atomic<bool>> is_finite_;
  std::vector<float> bias_;  // padded to whole units
};

}  // namespace fanlight
