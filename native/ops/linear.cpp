// Packing weights into tiles of 16 rows, and the product with them.
//
// A tile interleaves 16 output rows so that one dot instruction advances all of them (kernels/tiles.h has the layouts). A unit is
// what a thread takes at once: 32 outputs, so two tiles, or four of a gated matrix (gate, up, gate, up).
#include "ops/linear.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/pool.h"

namespace fanlight {
namespace {

constexpr int kUnit = 2 * kTile;
constexpr int kFewRows = 4;                    // up to here memory is the limit, and reading ahead helps
constexpr int kBlockRows = 64;
constexpr size_t kStepBytes = size_t{48} * 1024;
constexpr size_t kAheadBytes = size_t{64} * 1024;

using PackFn = void (*)(const uint8_t* const* rows, size_t k_stride, int n_in, uint8_t* tile);

// Float types: [n_in][16]. k_stride is the distance of two k of one row.
template <class T>
void pack_float(const uint8_t* const* rows, size_t k_stride, int n_in, uint8_t* tile) {
  for (int k = 0; k < n_in; k++)
    for (int r = 0; r < kTile; r++, tile += sizeof(T)) {
      if (rows[r]) std::memcpy(tile, rows[r] + static_cast<size_t>(k) * k_stride, sizeof(T));
      else std::memset(tile, 0, sizeof(T));
    }
}

void put16(uint8_t* to, uint16_t x) { std::memcpy(to, &x, 2); }

// Q4_1 block: f16 scale, f16 minimum, 16 bytes; byte j holds k = j (low) and 16 + j (high).
void pack_q4_1(const uint8_t* const* rows, size_t, int n_in, uint8_t* tile) {
  for (int g = 0; g < n_in / kGroup; g++, tile += 320)
    for (int r = 0; r < kTile; r++) {
      static const uint8_t none[20] = {};
      const uint8_t* block = rows[r] ? rows[r] + g * 20 : none;
      std::memcpy(tile + r * 2, block, 2);
      std::memcpy(tile + 32 + r * 2, block + 2, 2);
      for (int i = 0; i < 4; i++) std::memcpy(tile + 64 + i * 64 + r * 4, block + 4 + i * 4, 4);
    }
}

// -8 * x for the bits of a half: exact but where it overflows, and a scale of 8192 has no use.
uint16_t minus_eight_times(uint16_t half) {
  const uint16_t sign = static_cast<uint16_t>(~half & 0x8000u), mag = half & 0x7fffu;
  if (mag >= 0x7c00u) return static_cast<uint16_t>(sign | mag);
  if (mag >= 0x0400u) return static_cast<uint16_t>(sign | (mag + 0x0c00u >= 0x7c00u ? 0x7c00u : mag + 0x0c00u));
  int shift = 0;  // subnormal: shift left until normal, then raise the exponent
  uint16_t m = mag;
  while (shift < 3 && !(m & 0x0400u)) m = static_cast<uint16_t>(m << 1), shift++;
  return static_cast<uint16_t>(sign | (m & 0x0400u ? m + static_cast<uint16_t>((3 - shift) << 10) : m));
}

// Q4_0 block: f16 scale, 16 bytes; weight = scale * (nibble - 8). Kept as Q4_1 with the minimum -8 * scale: the same numbers.
void pack_q4_0(const uint8_t* const* rows, size_t, int n_in, uint8_t* tile) {
  for (int g = 0; g < n_in / kGroup; g++, tile += 320)
    for (int r = 0; r < kTile; r++) {
      static const uint8_t none[18] = {};
      const uint8_t* block = rows[r] ? rows[r] + g * 18 : none;
      uint16_t scale;
      std::memcpy(&scale, block, 2);
      put16(tile + r * 2, scale);
      put16(tile + 32 + r * 2, minus_eight_times(scale));
      for (int i = 0; i < 4; i++) std::memcpy(tile + 64 + i * 64 + r * 4, block + 2 + i * 4, 4);
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
      const uint8_t* block = rows[r] ? rows[r] + g * 34 : none;
      std::memcpy(tile + q8_scales(g) + r * 2, block, 2);
      for (int i = 0; i < 8; i++) {
        uint32_t four;
        std::memcpy(&four, block + 2 + i * 4, 4);
        four ^= 0x80808080u;
        std::memcpy(tile + q8_bytes(g) + i * 64 + r * 4, &four, 4);
      }
    }
}

float half_value(uint16_t h) {
  alignas(64) uint16_t in[16] = {h};
  alignas(64) float out[16];
  kernels().half_to_float(in, out, 16);
  return out[0];
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

Activation activation_named(const std::string& name) {
  if (name == "none") return Activation::kNone;
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGelu;
  if (name == "relu") return Activation::kRelu;
  if (name == "tanh") return Activation::kTanh;
  fail("pack: unknown activation '", name, "'; known are none, silu, gelu_tanh, gelu, relu, tanh");
}

void activate(const Kernels& k, Activation activation, float* x, int n) {
  switch (activation) {
    case Activation::kNone: return;
    case Activation::kSilu: return k.silu(x, n);
    case Activation::kGeluTanh: return k.gelu_tanh(x, n);
    case Activation::kGelu: return k.gelu(x, n);
    case Activation::kRelu: return k.relu(x, n);
    case Activation::kTanh: return k.tanh(x, n);
  }
}

}  // namespace

struct Linear::Type {
  const char* name;
  int group;           // weights a block holds, in the file and in a tile
  size_t file_bytes;   // of a block
  size_t tile_bytes;   // of `tile_blocks` blocks of each of the 16 rows
  int tile_blocks;     // blocks that are laid out together, so that vectors stay aligned
  bool quantised;      // meets int8 activations
  PackFn pack;
  TileFn Kernels::* tile;
  void (*row)(const uint8_t* tile, int r, int n_in, float* y);
};

const Linear::Type Linear::kTypes[] = {
    {"F32", 1, 4, 64, 1, false, pack_float<uint32_t>, &Kernels::tile_f32, row_f32},
    {"F16", 1, 2, 64, 2, false, pack_float<uint16_t>, &Kernels::tile_f16, row_f16},
    {"BF16", 1, 2, 64, 2, false, pack_float<uint16_t>, &Kernels::tile_bf16, row_bf16},
    {"Q4_0", 32, 18, 320, 1, true, pack_q4_0, &Kernels::tile_q4_1, row_q4_1},
    {"Q4_1", 32, 20, 320, 1, true, pack_q4_1, &Kernels::tile_q4_1, row_q4_1},
    {"Q8_0", 32, 34, 1088, 2, true, pack_q8_0, &Kernels::tile_q8_0, row_q8_0},
};

const Linear::Type& Linear::type_named(const std::string& name) {
  for (const Type& t : kTypes)
    if (name == t.name) return t;
  fail("pack: no kernel for weights of type '", name, "'; there are F32, F16, BF16, Q4_0, Q4_1, Q8_0");
}

Linear::Linear(const std::string& dtype, int n_in, const std::vector<Part>& parts, const float* bias, size_t n_bias,
               const std::string& activation, bool gated, bool mapped)
    : type_(&type_named(dtype)), n_in_(n_in), activation_(activation_named(activation)), gated_(gated) {
  check(n_in > 0 && n_in % type_->group == 0, "pack: n_in is ", n_in, ", ", dtype, " needs a positive multiple of ", type_->group);
  check(!parts.empty(), "pack: no parts");
  check(!gated || (parts.size() == 2 && parts[0].n_rows == parts[1].n_rows), "pack: a gated matrix takes two parts of equal size");
  check(!gated || activation_ == Activation::kSilu || activation_ == Activation::kGeluTanh,
        "pack: the activation of a gated matrix can be silu or gelu_tanh, not '", activation, "'");
  const size_t row_bytes = static_cast<size_t>(n_in / type_->group) * type_->file_bytes;

  // Where each output row starts in the file, and how far two of its values are apart.
  std::vector<std::vector<const uint8_t*>> starts;
  size_t k_stride = 0;
  int64_t total = 0;
  for (const Part& p : parts) {
    check(p.n_rows > 0, "pack: a part has ", p.n_rows, " rows");
    check(p.bytes == row_bytes * static_cast<size_t>(p.n_rows), "pack: ", p.n_rows, " rows of ", n_in, " x ", dtype, " take ",
          row_bytes * static_cast<size_t>(p.n_rows), " bytes, the data has ", p.bytes);
    check(!p.transposed || type_->group == 1, "pack: ", dtype, " cannot be transposed");
    check(p.row_order.empty() || p.row_order.size() == static_cast<size_t>(p.n_rows), "pack: row_order has ", p.row_order.size(),
          " entries for ", p.n_rows, " rows");
    const size_t stride = p.transposed ? static_cast<size_t>(p.n_rows) * type_->file_bytes : type_->file_bytes;
    check(starts.empty() || stride == k_stride, "pack: transposed and plain parts of different shape cannot be stacked");
    k_stride = stride;
    auto& list = starts.emplace_back();
    for (int r = 0; r < p.n_rows; r++) {
      const int stored = p.row_order.empty() ? r : p.row_order[static_cast<size_t>(r)];
      check(stored >= 0 && stored < p.n_rows, "pack: row_order holds ", stored, ", rows are 0 to ", p.n_rows - 1);
      list.push_back(p.data + static_cast<size_t>(stored) * (p.transposed ? type_->file_bytes : row_bytes));
    }
    total += p.n_rows;
  }
  check(total < (1 << 28), "pack: ", total, " rows are too many");

  std::vector<const uint8_t*> rows;  // nullptr: padding, zero
  if (gated) {
    n_out_ = parts[0].n_rows;
    for (int r = 0; r < n_out_; r += kTile)
      for (const auto& list : starts)
        for (int i = r; i < r + kTile; i++) rows.push_back(i < n_out_ ? list[static_cast<size_t>(i)] : nullptr);
  } else {
    n_out_ = static_cast<int>(total);
    for (const auto& list : starts) rows.insert(rows.end(), list.begin(), list.end());
  }
  const size_t unit_rows = gated ? 2 * kUnit : kUnit;
  rows.resize((rows.size() + unit_rows - 1) / unit_rows * unit_rows, nullptr);
  n_tiles_ = static_cast<int>(rows.size() / kTile);
  const int n_blocks = n_in / type_->group;
  tile_bytes_ = static_cast<size_t>((n_blocks + type_->tile_blocks - 1) / type_->tile_blocks) * type_->tile_bytes;
  if (bias) {
    check(n_bias == static_cast<size_t>(total), "pack: the bias has ", n_bias, " values for ", total, " rows");
    bias_.assign(rows.size(), 0.f);
    if (gated) {  // as the rows: 16 of gate, 16 of up
      for (int r = 0; r < n_out_; r++)
        for (int side = 0; side < 2; side++)
          bias_[static_cast<size_t>((r / kTile * 2 + side) * kTile + r % kTile)] = bias[side * n_out_ + r];
    } else {
      std::copy(bias, bias + n_bias, bias_.begin());
    }
  }
  weights_ = allocate_weights(n_bytes());
  std::vector<std::pair<const uint8_t*, size_t>> sources;
  if (mapped)
    for (const Part& p : parts) sources.emplace_back(p.data, p.bytes);
  ticket_ = run_in_background([=, pack = type_->pack, target = weights_, tile_bytes = tile_bytes_, n_tiles = n_tiles_, rows = std::move(rows)] {
    const auto body = [&](int begin, int end) {
      for (int t = begin; t < end; t++)
        pack(rows.data() + static_cast<size_t>(t) * kTile, k_stride, n_in, target.data + tile_bytes * static_cast<size_t>(t));
    };
    const std::shared_ptr<Pool> threads = pool();
    if (threads->size() > 2) threads->run(n_tiles, 4, body);
    else body(0, n_tiles);  // the second core is busy with what this is hidden behind
    for (const auto& [data, bytes] : sources) drop_mapped_pages(data, bytes);
  });
}

// A unit's outputs for rows [first, last), at most kBlockRows: tile by tile, so that one tile stays in the nearest cache while
// the rows go by.
void Linear::unit(int u, int first, int last, const Activations& a, const Tensor* residual, Tensor& y) const {
  const Kernels& k = kernels();
  const TileFn tile = k.*(type_->tile);
  const int n_tiles = gated_ ? 4 : 2, column = u * kUnit;
  const uint8_t* w = weights_.data + tile_bytes_ * static_cast<size_t>(u * n_tiles);
  alignas(64) float out[4][kBlockRows * kTile];
  for (int i = 0; i < n_tiles; i++, w += tile_bytes_)
    for (int r = first; r < last; r += k.max_rows) tile(w, n_in_, a, r, std::min(k.max_rows, last - r), out[i] + (r - first) * kTile);
  const auto gate = activation_ == Activation::kSilu ? k.silu_mul : k.gelu_mul;
  for (int r = first, at = 0; r < last; r++, at += kTile) {
    float* row = y.row(r) + column;
    if (gated_) {
      if (!bias_.empty())
        for (int i = 0; i < 4; i++) k.add(out[i] + at, bias_.data() + (u * 4 + i) * kTile, out[i] + at, kTile);
      gate(out[0] + at, out[1] + at, row, kTile);
      gate(out[2] + at, out[3] + at, row + kTile, kTile);
    } else {
      std::memcpy(row, out[0] + at, kTile * sizeof(float));
      std::memcpy(row + kTile, out[1] + at, kTile * sizeof(float));
      if (!bias_.empty()) k.add(row, bias_.data() + column, row, kUnit);
      activate(k, activation_, row, kUnit);
    }
    if (residual) k.add(residual->row(r) + column, row, row, kUnit);
  }
}

Tensor Linear::apply(const Tensor& x, const Tensor* residual) const {
  check(x.n_columns() == n_in_, "linear: x has ", x.n_columns(), " columns, the matrix takes ", n_in_);
  if (residual)
    check(residual->n_rows() == x.n_rows() && residual->n_columns() == n_out_, "linear: the residual is ", residual->n_rows(), " x ",
          residual->n_columns(), ", the result ", x.n_rows(), " x ", n_out_);
  Tensor y(x.n_rows(), n_out_);
  if (x.n_rows() == 0) return y;
  check(!x.is_view(), "linear: x is a row of another tensor; take it with take_rows");
  wait_for(ticket_);
  const Activations a = type_->quantised ? x.int8s() : x.floats();
  const std::shared_ptr<Pool> threads = pool();
  const int tiles_per_unit = gated_ ? 4 : 2, n_units = n_tiles_ / tiles_per_unit;
  // An item is a unit for a block of rows; steps are of about 48 KB of weights where one row reads them all.
  const int n_rows = x.n_rows(), block = kBlockRows / kernels().max_rows * kernels().max_rows, n_blocks = (n_rows + block - 1) / block;
  const size_t unit_bytes = tile_bytes_ * static_cast<size_t>(tiles_per_unit);
  const int by_size = static_cast<int>(kStepBytes / unit_bytes), by_share = n_units / (threads->size() * 2);
  const int grain = n_rows <= kFewRows ? std::max(1, std::min(by_size, by_share)) : n_blocks;
  const auto body = [&](int begin, int end) {
    for (int i = begin; i < end; i++) {
      const int first = i % n_blocks * block;
      unit(i / n_blocks, first, std::min(first + block, n_rows), a, residual, y);
    }
  };
  threads->run(n_units * n_blocks, grain, body, n_rows <= kFewRows ? following() : Pool::Ahead{});
  return y;
}

// What lies behind this matrix: most often the one that is used next, since a model packs its matrices in the order of use.
Pool::Ahead Linear::following() const {
  const uint8_t* end = weights_.data + n_bytes();
  const size_t left = static_cast<size_t>(weights_.block->data() + weights_.block->size() - end);
  return {end, std::min(left, kAheadBytes)};
}

void Linear::embed_row(int id, float* y) const {
  check(id >= 0 && id < n_out_, "embed: id ", id, " is outside 0 to ", n_out_ - 1);
  type_->row(weights_.data + tile_bytes_ * static_cast<size_t>(id / kTile), id % kTile, n_in_, y);
}

Tensor Linear::embed(const std::vector<int>& ids) const {
  check(!gated_, "embed: a gated matrix is no table");
  wait_for(ticket_);
  Tensor y(static_cast<int>(ids.size()), n_in_);
  for (size_t i = 0; i < ids.size(); i++) {
    float* row = y.row(static_cast<int>(i));
    embed_row(ids[i], row);
    std::fill(row + n_in_, row + y.stride(), 0.f);
  }
  return y;
}

}  // namespace fanlight
