// The types that tiles are made of: how 16 rows are interleaved, and how one row is read back. kernels/tiles.h multiplies with them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/table.h"

namespace fanlight {

struct PackedType {
  const char* name;
  int group;           // weights a block holds, in a row and in a tile
  size_t row_bytes;    // of a block
  size_t tile_bytes;   // of `tile_blocks` blocks of each of the 16 rows
  int tile_blocks;     // blocks that are laid out together, so that vectors stay aligned
  bool quantised;      // meets int8 activations
  // Rows are nullptr where they are padding. k_stride: the distance of two k of one row, of float types.
  void (*pack)(const uint8_t* const* rows, size_t k_stride, int n_in, uint8_t* tile);
  TileFn Kernels::* tile;
  void (*row)(const uint8_t* tile, int r, int n_in, float* y);
  bool (*finite)(const uint8_t* tile, int n_in);  // whether all numbers, or scales and minima, are

  size_t bytes_of_tile(int n_in) const {
    return static_cast<size_t>((n_in / group + tile_blocks - 1) / tile_blocks) * tile_bytes;
  }
};
const PackedType& packed_type(const std::string& name);

}  // namespace fanlight
