// A weight matrix in the kernels' layout, and what it does to rows.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/background.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/tensor.h"

namespace fanlight {

enum class Activation { kNone, kSilu, kGeluTanh, kGelu, kRelu, kTanh };

// Rows of a matrix as a checkpoint stores them; `bytes` is checked against the type and the sizes.
struct Part {
  const uint8_t* data;
  size_t bytes;
  int n_rows;
  std::vector<int> row_order;  // empty: as stored
  bool transposed;             // (n_in, n_rows); float types only
};

// Packing goes on in the background after the constructor has checked everything; who reads the weights waits for it. The parts'
// data must stay until then. `mapped`: they are parts of a mapped file, whose pages are let go once packed.
class Linear {
 public:
  Linear(const std::string& dtype, int n_in, const std::vector<Part>& parts, const float* bias, size_t n_bias,
         const std::string& activation, bool gated, bool mapped);

  int n_in() const { return n_in_; }
  int n_out() const { return n_out_; }
  size_t n_bytes() const { return tile_bytes_ * static_cast<size_t>(n_tiles_); }
  const uint8_t* data() const {
    wait_for(ticket_);
    return weights_.data;
  }

  Tensor apply(const Tensor& x, const Tensor* residual) const;
  Tensor embed(const std::vector<int>& ids) const;

 private:
  void unit(int u, int first, int last, const Activations& a, const Tensor* residual, Tensor& y) const;
  void embed_row(int id, float* y) const;
  Pool::Ahead following() const;

  struct Type;
  static const Type& type_named(const std::string& name);
  static const Type kTypes[];

  const Type* type_;
  int n_in_, n_out_, n_tiles_;
  size_t tile_bytes_;
  Activation activation_;
  bool gated_;
  Weights weights_;
  uint64_t ticket_ = 0;
  std::vector<float> bias_;  // padded to whole units
};

}  // namespace fanlight
