// Packing weights into tiles of 16 rows, and the product with them.
//
// A tile interleaves 16 output rows so that one dot instruction advances all of them (kernels/tiles.h has the layouts). A unit is
// what a thread takes at once: 32 outputs, so two tiles, or four of a gated matrix (gate, up, gate, up). The tiles of a unit have
// one type, or, of a gated matrix, one of gate and one of up; a matrix whose parts differ has a segment of units for each type.
#include "ops/linear.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/pool.h"
#include "ops/blocks.h"

namespace fanlight {
namespace {

constexpr int kUnit = 2 * kTile;
constexpr int kMaxRows = 1 << 28;              // of a matrix: sizes in bytes fit 64 bits
constexpr int kFewRows = 4;                    // up to here memory is the limit, and reading ahead helps
constexpr int kBlockRows = 64;
constexpr size_t kStepBytes = size_t{48} * 1024;
constexpr size_t kAheadInTile = 4096;          // where one call has all rows, it asks for what it reads so many bytes later
constexpr size_t kAheadBytes = size_t{64} * 1024;

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

void ask_for_unit(const float* y) {
  __builtin_prefetch(y, 1);
  __builtin_prefetch(y + kTile, 1);
}

}  // namespace

// What the four tiles of a unit give, at most kBlockRows rows of each.
struct Linear::Products {
  float* numbers;
  int first;
  float* row(int tile, int r) const { return numbers + (tile * kBlockRows + r - first) * kTile; }
};

// What packing reads and writes; it outlives the constructor in the background's queue.
struct Linear::Plan {
  struct Source {
    Conversion conversion;
    size_t block_bytes, k_stride;  // of a block as stored, and the distance of two of one row
    int block;
  };
  struct Row {
    const uint8_t* data = nullptr;  // nullptr: padding, zero
    int source = 0;
  };
  int n_in;
  std::vector<Source> sources;
  std::vector<Row> rows;  // 16 a tile
  std::vector<Segment> segments;
  Weights target;
  std::vector<std::pair<const uint8_t*, size_t>> mapped;
  std::shared_ptr<std::atomic<bool>> is_finite;

  void pack_tile(int t) const;
  void convert(const Row* tile_rows, int k, int n, uint8_t (*converted)[kMaxBlock * 4]) const;
};

void Linear::Plan::pack_tile(int t) const {
  const Segment& segment = segment_of(segments, t);
  const PackedType& type = *segment.types[t % 2];
  const Row* tile_rows = rows.data() + static_cast<size_t>(t) * kTile;
  uint8_t* const whole = target.data + segment.offset_of(t);
  uint8_t* tile = whole;
  const uint8_t* starts[kTile];
  const Source* only = nullptr;  // where all rows are read alike, and as they are, they need no copy
  bool alike = true;
  for (int r = 0; r < kTile; r++) {
    starts[r] = tile_rows[r].data;
    if (!starts[r]) continue;
    const Source& source = sources[static_cast<size_t>(tile_rows[r].source)];
    if (!only) only = &source;
    alike = alike && source.conversion.is_nothing() && source.k_stride == only->k_stride;
  }
  if (alike) {
    type.pack(starts, only ? only->k_stride : 0, n_in, tile);
    if (!type.finite(whole, n_in)) *is_finite = false;
    return;
  }
  alignas(64) uint8_t converted[kTile][kMaxBlock * 4];
  for (int r = 0; r < kTile; r++) starts[r] = starts[r] ? converted[r] : nullptr;
  for (int k = 0; k < n_in; k += kMaxBlock, tile += type.bytes_of_tile(kMaxBlock)) {
    const int n = std::min(kMaxBlock, n_in - k);
    convert(tile_rows, k, n, converted);
    type.pack(starts, type.row_bytes, n, tile);
  }
  if (!type.finite(whole, n_in)) *is_finite = false;
}

// n values of each of some rows of a transposed part, side by side: along a line of memory lie the same values of several rows.
template <class T>
static void gather(const uint8_t* const* rows, int n_rows, size_t k_stride, int n, uint8_t (*gathered)[kMaxBlock * 8]) {
  for (int i = 0; i < n; i++)
    for (int r = 0; r < n_rows; r++)
      std::memcpy(gathered[r] + static_cast<size_t>(i) * sizeof(T), rows[r] + static_cast<size_t>(i) * k_stride, sizeof(T));
}

// Weights [k, k + n) of a tile's rows, each as its packed type.
void Linear::Plan::convert(const Row* tile_rows, int k, int n, uint8_t (*converted)[kMaxBlock * 4]) const {
  alignas(64) uint8_t gathered[kTile][kMaxBlock * 8];
  const uint8_t* from[kTile];
  for (int r = 0, end = 0; r < kTile && tile_rows[r].data; r = end) {  // rows of one part at a time
    const Source& source = sources[static_cast<size_t>(tile_rows[r].source)];
    for (; end < kTile && tile_rows[end].data && tile_rows[end].source == tile_rows[r].source; end++)
      from[end] = tile_rows[end].data + static_cast<size_t>(k / source.block) * source.k_stride;
    if (source.k_stride != source.block_bytes) {  // transposed
      const auto by_size = source.block_bytes == 2 ? gather<uint16_t> : source.block_bytes == 4 ? gather<uint32_t> : gather<uint64_t>;
      by_size(from + r, end - r, source.k_stride, n, gathered + r);
      for (int i = r; i < end; i++) from[i] = gathered[i];
    }
    for (int i = r; i < end; i++) source.conversion.run(from[i], n, converted[i]);
  }
}

namespace {

void check_part(const Part& p, const StoredType& type, int n_in) {
  check(n_in % type.block == 0, "pack: n_in is ", n_in, ", ", p.dtype, " needs a positive multiple of ", type.block);
  check(p.n_rows > 0 && p.n_rows < kMaxRows, "pack: a part has ", p.n_rows, " rows; expected 1 to ", kMaxRows - 1);
  const size_t bytes = static_cast<size_t>(n_in / type.block) * type.bytes * static_cast<size_t>(p.n_rows);
  check(p.bytes == bytes, "pack: ", p.n_rows, " rows of ", n_in, " x ", p.dtype, " take ", bytes, " bytes, the data has ", p.bytes);
  check(!p.transposed || !type.quantised(), "pack: ", p.dtype, " cannot be transposed");
  check(p.row_order.empty() || p.row_order.size() == static_cast<size_t>(p.n_rows), "pack: row_order has ", p.row_order.size(),
        " entries for ", p.n_rows, " rows");
  for (int stored : p.row_order)
    check(stored >= 0 && stored < p.n_rows, "pack: row_order holds ", stored, ", rows are 0 to ", p.n_rows - 1);
}

// What each part is packed as. Types meet at whole units only; else the parts share one.
std::vector<const PackedType*> types_of(const std::vector<Part>& parts, int n_in, const std::optional<std::string>& quantize, bool gated) {
  std::vector<const PackedType*> types;
  bool at_units = true, any_quantised = false;
  int64_t n_rows = 0;
  for (const Part& p : parts) {
    const StoredType& stored = stored_type(p.dtype);
    const bool asked = !stored.quantised() && quantize && n_in % kGroup == 0;
    types.push_back(&packed_type(asked ? *quantize : stored.packed));
    any_quantised = any_quantised || types.back()->quantised;
    if (types.size() > 1 && types.back() != types[types.size() - 2]) at_units = at_units && n_rows % kUnit == 0;
    n_rows += p.n_rows;
  }
  if (!gated && !at_units) types.assign(parts.size(), &packed_type(any_quantised ? "Q8_0" : "F32"));
  return types;
}

}  // namespace

const Linear::Segment& Linear::segment_of(const std::vector<Segment>& segments, int tile) {
  size_t i = segments.size() - 1;
  while (segments[i].first_tile > tile) i--;
  return segments[i];
}

Linear::Linear(int n_in, const std::vector<Part>& parts, const std::optional<std::string>& quantize, const float* bias, size_t n_bias,
               const std::string& activation, bool gated, bool mapped)
    : n_in_(n_in), activation_(activation_named(activation)), gated_(gated) {
  check(n_in > 0, "pack: n_in is ", n_in, ", it must be positive");
  check(!parts.empty(), "pack: no parts");
  check(!quantize || *quantize == "Q4_1" || *quantize == "Q8_0", "pack: cannot quantize to '", quantize.value_or(""), "'; there are Q4_1, Q8_0");
  check(!gated || (parts.size() == 2 && parts[0].n_rows == parts[1].n_rows), "pack: a gated matrix takes two parts of equal size");
  check(!gated || activation_ == Activation::kSilu || activation_ == Activation::kGeluTanh,
        "pack: the activation of a gated matrix can be silu or gelu_tanh, not '", activation, "'");
  int64_t total = 0;
  for (const Part& p : parts) {
    check_part(p, stored_type(p.dtype), n_in);
    total += p.n_rows;
  }
  check(total < kMaxRows, "pack: ", total, " rows are too many");

  // Where each row of the packed matrix is read.
  const std::vector<const PackedType*> types = types_of(parts, n_in, quantize, gated);
  for (const PackedType* type : types) part_dtypes_.push_back(type->name);
  const auto plan = std::make_shared<Plan>();
  plan->n_in = n_in;
  std::vector<std::vector<Plan::Row>> stored_rows;
  std::vector<int> first_tiles;
  for (const Part& p : parts) {
    const StoredType& stored = stored_type(p.dtype);
    const int index = static_cast<int>(plan->sources.size());
    const size_t row_bytes = static_cast<size_t>(n_in / stored.block) * stored.bytes;
    const size_t k_stride = p.transposed ? static_cast<size_t>(p.n_rows) * stored.bytes : stored.bytes;
    plan->sources.push_back({Conversion(stored, types[plan->sources.size()]->name), stored.bytes, k_stride, stored.block});
    auto& list = stored_rows.emplace_back();
    for (int r = 0; r < p.n_rows; r++) {
      const size_t at = static_cast<size_t>(p.row_order.empty() ? r : p.row_order[static_cast<size_t>(r)]);
      list.push_back({p.data + at * (p.transposed ? stored.bytes : row_bytes), index});
    }
    if (mapped) plan->mapped.emplace_back(p.data, p.bytes);
  }

  std::vector<Plan::Row>& rows = plan->rows;
  if (gated) {
    n_out_ = parts[0].n_rows;
    for (int r = 0; r < n_out_; r += kTile)
      for (const auto& list : stored_rows)
        for (int i = r; i < r + kTile; i++) rows.push_back(i < n_out_ ? list[static_cast<size_t>(i)] : Plan::Row{});
    segments_.push_back({0, 0, {types[0], types[1]}, {}});
  } else {
    n_out_ = static_cast<int>(total);
    for (size_t i = 0; i < parts.size(); i++) {
      if (i == 0 || types[i] != types[i - 1]) segments_.push_back({static_cast<int>(rows.size()) / kTile, 0, {types[i], types[i]}, {}});
      rows.insert(rows.end(), stored_rows[i].begin(), stored_rows[i].end());
    }
  }
  const size_t unit_rows = gated ? 2 * kUnit : kUnit;
  rows.resize((rows.size() + unit_rows - 1) / unit_rows * unit_rows);
  n_tiles_ = static_cast<int>(rows.size() / kTile);
  n_bytes_ = 0;
  any_quantised_ = false;
  for (size_t i = 0; i < segments_.size(); i++) {
    Segment& s = segments_[i];
    s.offset = n_bytes_;
    for (int j = 0; j < 2; j++) {
      s.tile_bytes[j] = s.types[j]->bytes_of_tile(n_in);
      any_quantised_ = any_quantised_ || s.types[j]->quantised;
    }
    n_bytes_ = s.offset_of(i + 1 < segments_.size() ? segments_[i + 1].first_tile : n_tiles_);
  }
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
  plan->segments = segments_;
  plan->is_finite = is_finite_ = std::make_shared<std::atomic<bool>>(true);
  plan->target = weights_;
  ticket_ = run_in_background([plan = std::shared_ptr<const Plan>(plan), n_tiles = n_tiles_] {
    const auto body = [&](int begin, int end) {
      for (int t = begin; t < end; t++) plan->pack_tile(t);
    };
    const std::shared_ptr<Pool> threads = pool();
    if (threads->size() > 2) threads->run(n_tiles, 4, body);
    else body(0, n_tiles);  // the second core is busy with what this is hidden behind
    for (const auto& [data, bytes] : plan->mapped) drop_mapped_pages(data, bytes);
  });
}

std::string Linear::dtype() const {
  std::string joined;
  for (auto name = part_dtypes_.begin(); name != part_dtypes_.end(); ++name)
    if (std::find(part_dtypes_.begin(), name, *name) == name) joined += (joined.empty() ? "" : "+") + *name;
  return joined;
}

// What a unit's tiles gave for rows [first, last), to where they belong.
void Linear::finish(int u, int first, int last, const Products& out, const Tensor* residual, const Target& y) const {
  const Kernels& k = kernels();
  const int column = u * kUnit;
  const auto gate = activation_ == Activation::kSilu ? k.silu_mul : k.gelu_mul;
  for (int r = first; r < last; r++) {
    float* row = y.row(r) + column;
    float* const of[] = {out.row(0, r), out.row(1, r), out.row(2, r), out.row(3, r)};
    if (gated_) {
      if (!bias_.empty())
        for (int i = 0; i < 4; i++) k.add(of[i], bias_.data() + (u * 4 + i) * kTile, of[i], kTile);
      gate(of[0], of[1], row, kTile);
      gate(of[2], of[3], row + kTile, kTile);
    } else {
      std::memcpy(row, of[0], kTile * sizeof(float));
      std::memcpy(row + kTile, of[1], kTile * sizeof(float));
      if (!bias_.empty()) k.add(row, bias_.data() + column, row, kUnit);
      activate(k, activation_, row, kUnit);
    }
    if (residual) k.add(residual->row(r) + column, row, row, kUnit);
  }
}

// A unit's outputs for rows [first, last), at most kBlockRows: tile by tile, so that one tile stays in the nearest cache while
// the rows go by. Of many rows, the memory that the last tile's rows go to is asked for while they are computed, and written at
// once: in a wide matrix, those lines come from far away.
void Linear::unit(int u, int first, int last, const Activations& a, const Tensor* residual, const Target& y) const {
  const Kernels& k = kernels();
  const int n_tiles = gated_ ? 4 : 2;
  const Segment& segment = segment_of(segments_, u * n_tiles);
  const uint8_t* w = weights_.data + segment.offset_of(u * n_tiles);
  alignas(64) float numbers[4 * kBlockRows * kTile];
  const Products out{numbers, first};
  for (int i = 0; i < n_tiles; w += segment.tile_bytes[i % 2], i++) {
    const PackedType& type = *segment.types[i % 2];
    const TileFn tile = k.*(type.tile);
    const int step = type.quantised ? k.max_rows : k.max_float_rows;
    const size_t n_calls = static_cast<size_t>((last - first + step - 1) / step), bytes = segment.tile_bytes[i % 2];
    Ahead ahead{w + kAheadInTile, bytes};
    if (n_calls > 1) ahead = {w + bytes, segment.tile_bytes[(i + 1) % 2] / n_calls};  // the next tile, a part at each call
    for (int r = first; r < last; r += step, ahead.at += ahead.bytes) {
      const int end = std::min(r + step, last);
      if (i == n_tiles - 1 && n_calls > 1)
        for (int t = r; t < end; t++) ask_for_unit(y.row(t) + u * kUnit);
      tile(w, n_in_, a, r, end - r, ahead, out.row(i, r));
      if (i == n_tiles - 1) finish(u, r, end, out, residual, y);
    }
  }
}

Tensor Linear::apply(const Tensor& x, const Tensor* residual) const {
  if (residual)
    check(residual->n_rows() == x.n_rows() && residual->n_columns() == n_out_, "linear: the residual is ", residual->n_rows(), " x ",
          residual->n_columns(), ", the result ", x.n_rows(), " x ", n_out_);
  Tensor y(x.n_rows(), n_out_);
  product(x, 0, x.n_rows(), residual, {y.row(0), static_cast<size_t>(y.stride()), 0});
  return y;
}

void Linear::apply_rows(const Tensor& x, int first, int last, float* y, size_t stride) const {
  product(x, first, last, nullptr, {y, stride, first});
}

int Linear::whole_rows(int n) {
  const int panel = kernels().max_rows;
  return std::max(n / panel, 1) * panel;
}

void Linear::product(const Tensor& x, int from, int to, const Tensor* residual, const Target& y) const {
  check(x.n_columns() == n_in_, "linear: x has ", x.n_columns(), " columns, the matrix takes ", n_in_);
  if (from == to) return;
  check(!x.is_view(), "linear: x is a row of another tensor; take it with take_rows");
  wait_for(ticket_);
  const Activations a = any_quantised_ ? x.int8s() : x.floats();
  const std::shared_ptr<Pool> threads = pool();
  const int tiles_per_unit = gated_ ? 4 : 2, n_units = n_tiles_ / tiles_per_unit;
  // An item is a unit for a block of rows; steps are of about 48 KB of weights where one row reads them all.
  const int n_rows = to - from, at_once = any_quantised_ ? kernels().max_rows : kernels().max_float_rows;
  const int block = kBlockRows / at_once * at_once, n_blocks = (n_rows + block - 1) / block;
  const size_t unit_bytes = n_bytes() / static_cast<size_t>(n_units);
  const int by_size = static_cast<int>(kStepBytes / unit_bytes), by_share = n_units / (threads->size() * 2);
  const int grain = n_rows <= kFewRows ? std::max(1, std::min(by_size, by_share)) : n_blocks;
  const auto body = [&](int begin, int end) {
    for (int i = begin; i < end; i++) {
      const int first = from + i % n_blocks * block;
      unit(i / n_blocks, first, std::min(first + block, to), a, residual, y);
    }
  };
  threads->run(n_units * n_blocks, grain, body, n_rows <= kFewRows ? following() : Pool::Ahead{});
}

// What lies behind this matrix: most often the one that is used next, since a model packs its matrices in the order of use.
Pool::Ahead Linear::following() const {
  const uint8_t* end = weights_.data + n_bytes();
  const size_t left = static_cast<size_t>(weights_.block->data() + weights_.block->size() - end);
  return {end, std::min(left, kAheadBytes)};
}

void Linear::embed_row(int id, float* y) const {
  check(id >= 0 && id < n_out_, "embed: id ", id, " is outside 0 to ", n_out_ - 1);
  const Segment& segment = segment_of(segments_, id / kTile);
  segment.types[0]->row(weights_.data + segment.offset_of(id / kTile), id % kTile, n_in_, y);
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
