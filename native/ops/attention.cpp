#include "ops/attention.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "core/check.h"
#include "core/pool.h"

namespace fanlight {

Tensor store_kv(const Tensor& qkv, const KVBatch& batch, int layer, Rope* rope) {
  const KVPool& kv = batch.pool();
  const int head_dim = kv.head_dim(), n_kv = kv.n_kv_head(), kv_columns = 2 * n_kv * head_dim, q_columns = qkv.n_columns() - kv_columns;
  check(layer >= 0 && layer < kv.n_layer(), "store_kv: layer ", layer, " is outside 0 to ", kv.n_layer() - 1);
  check(qkv.n_rows() == batch.n_rows(), "store_kv: qkv has ", qkv.n_rows(), " rows, the batch ", batch.n_rows());
  check(q_columns > 0 && q_columns % (head_dim * n_kv) == 0, "store_kv: qkv has ", qkv.n_columns(), " columns; keys and values take ",
        kv_columns, ", and the rest must be a multiple of ", head_dim * n_kv);
  const int n_rotated = rope ? rope->n_rotated() : 0;
  check(n_rotated <= head_dim, "store_kv: the angles are for ", n_rotated, " dimensions, head_dim is ", head_dim);
  if (rope) rope->reserve(batch.max_position() + 1);
  const Kernels& k = kernels();
  const auto store = kv.type() == KVType::kF16 ? k.store_kv_f16 : kv.type() == KVType::kF32 ? k.store_kv_f32 : k.store_kv_i8;
  Tensor q(qkv.n_rows(), q_columns);
  pool()->run(qkv.n_rows(), 4, [&](int begin, int end) {
    static thread_local std::vector<float> rotated;
    if (rotated.size() < static_cast<size_t>(head_dim)) rotated.resize(static_cast<size_t>(head_dim));
    for (int r = begin; r < end; r++) {
      const KVBatch::Row& at = batch.rows()[static_cast<size_t>(r)];
      const float* x = qkv.row(r);
      const float* cos = rope ? rope->cos(at.position) : nullptr;
      const float* sin = cos + (rope ? n_rotated / 2 : 0);
      float* out = q.row(r);
      if (rope)
        for (int c = 0; c < q_columns; c += head_dim) {
          k.rope(x + c, cos, sin, n_rotated, out + c);
          std::copy(x + c + n_rotated, x + c + head_dim, out + c + n_rotated);
        }
      else
        std::copy(x, x + q_columns, out);
      std::fill(out + q_columns, out + q.stride(), 0.f);
      uint8_t* page = batch.page_of(at);
      for (int h = 0; h < n_kv; h++) {
        const float* key = x + q_columns + h * head_dim;
        const float* value = x + q_columns + (n_kv + h) * head_dim;
        if (rope) {
          k.rope(key, cos, sin, n_rotated, rotated.data());
          std::copy(key + n_rotated, key + head_dim, rotated.data() + n_rotated);
          key = rotated.data();
        }
        store(key, value, head_dim, at.position % KVPool::kPageTokens, page + kv.key_offset(layer, h), page + kv.value_offset(layer, h));
      }
    }
  });
  return q;
}

namespace {

constexpr int kSharesPerThread = 8;  // of the work, so that nobody waits long for the last

// Rows of one sequence that go together, and the stretches of positions that they see.
struct Item {
  int first, count;  // rows
  int first_stretch, n_stretches;
  int n_shares;      // into which the work of one head is divided
  size_t parts;      // if that is more than one: where the first head's are
};
struct Share {
  int item, head, index;
};

template <class T>
struct Scratch {  // kept for the next call: no allocation in a decode step
  std::unique_ptr<T[]> data;
  size_t size = 0;
  T* of(size_t n) {
    if (n > size) data = std::make_unique<T[]>(n), size = n;
    return data.get();
  }
};

}  // namespace

void check_attention(const char* op, const Tensor& q, const KVBatch& batch, int layer, const AttentionRule& rule) {
  const KVPool& kv = batch.pool();
  const int columns = kv.head_dim() * kv.n_kv_head();
  check(layer >= 0 && layer < kv.n_layer(), op, ": layer ", layer, " is outside 0 to ", kv.n_layer() - 1);
  check(q.n_rows() == batch.n_rows(), op, ": q has ", q.n_rows(), " rows, the batch ", batch.n_rows());
  check(q.n_columns() > 0 && q.n_columns() % columns == 0, op, ": q has ", q.n_columns(), " columns, expected a multiple of ", columns);
  check(rule.window >= 0, op, ": window is ", rule.window, ", expected 0 (none) or more");
}

Tensor attention(const Tensor& q, const KVBatch& batch, int layer, const AttentionRule& rule) {
  check_attention("attention", q, batch, layer, rule);
  const KVPool& kv = batch.pool();
  const int head_dim = kv.head_dim(), n_kv = kv.n_kv_head();
  const Kernels& k = kernels();
  const auto attend = kv.type() == KVType::kF16 ? k.attention_f16 : kv.type() == KVType::kF32 ? k.attention_f32 : k.attention_i8;
  const int share = q.n_columns() / head_dim / n_kv;                 // query heads of one key/value head
  const int tokens = std::max(1, k.max_attn_rows / share);          // tokens of one sequence that go together
  const auto& rows = batch.rows();
  const auto first_key = [&](const KVBatch::Row& r) { return fanlight::first_key(r, rule); };
  const auto n_keys = [&](const KVBatch::Row& r) { return fanlight::n_keys(batch, r, rule); };

  static thread_local std::vector<Item> items_of_call;
  static thread_local std::vector<Share> shares_of_call;
  static thread_local Scratch<float> parts_of_call;
  static thread_local Scratch<std::atomic<int>> left_of_call;
  std::vector<Item>& items = items_of_call;
  std::vector<Share>& shares = shares_of_call;
  items.clear(), shares.clear();
  int64_t work = 0, n_stretches = 0;  // work: multiply-adds
  for (int r = 0; r < q.n_rows();) {
    const KVBatch::Row& top = rows[static_cast<size_t>(r)];
    int n = 1, first = first_key(top), end = n_keys(top);
    for (; n < tokens && r + n < q.n_rows() && rows[static_cast<size_t>(r + n)].sequence == top.sequence; n++) {
      first = std::min(first, first_key(rows[static_cast<size_t>(r + n)]));
      end = std::max(end, n_keys(rows[static_cast<size_t>(r + n)]));
    }
    items.push_back({r, n, first / kStretch, (end - 1) / kStretch + 1 - first / kStretch, 1, 0});
    work += int64_t{2} * (end - first) * q.n_columns() * n;
    n_stretches += items.back().n_stretches * n_kv;
    r += n;
  }
  const bool alone = work < 24000;  // shorter than waking a thread
  const int64_t largest_share = alone ? n_stretches : n_stretches / (kSharesPerThread * pool()->size()) + 1;
  const size_t part = part_floats(head_dim);
  const auto parts_of_head = [&](const Item& item) { return part * static_cast<size_t>(item.n_stretches) * static_cast<size_t>(item.count * share); };
  size_t n_parts = 0;
  for (size_t i = items.size(); i-- > 0;) {  // the longest of a prompt first
    Item& item = items[i];
    item.n_shares = static_cast<int>((item.n_stretches + largest_share - 1) / largest_share);
    if (item.n_shares > 1) item.parts = n_parts, n_parts += parts_of_head(item) * static_cast<size_t>(n_kv);
    for (int h = 0; h < n_kv; h++)
      for (int s = 0; s < item.n_shares; s++) shares.push_back({static_cast<int>(i), h, s});
  }
  float* const shared_parts = parts_of_call.of(n_parts);
  std::atomic<int>* const left = left_of_call.of(items.size() * static_cast<size_t>(n_kv));  // shares of an item and head that are not done
  for (size_t i = 0; i < items.size() * static_cast<size_t>(n_kv); i++) left[i].store(items[i / static_cast<size_t>(n_kv)].n_shares, std::memory_order_relaxed);

  Tensor y(q.n_rows(), q.n_columns());
  const int n_shares = static_cast<int>(shares.size());
  const auto stretch_of = [&](const Item& item, int index) { return item.first_stretch + item.n_stretches * index / item.n_shares; };
  const auto first_keys = [&](const Share& at) {
    const Item& item = items[static_cast<size_t>(at.item)];
    const uint8_t* const* pages = batch.pages(rows[static_cast<size_t>(item.first)].sequence);
    return pages[stretch_of(item, at.index) * (kStretch / kPageTokens)] + kv.key_offset(layer, at.head);
  };
  const auto body = [&](int begin, int end) {
    static thread_local Scratch<float> own_parts;
    static thread_local Scratch<int16_t> q_codes;
    for (int i = begin; i < end; i++) {
      const Share& at = shares[static_cast<size_t>(i)];
      const Item& item = items[static_cast<size_t>(at.item)];
      const int sequence = rows[static_cast<size_t>(item.first)].sequence, last = item.first_stretch + item.n_stretches;
      const bool is_whole = item.n_shares == 1;
      float* const parts = is_whole ? own_parts.of(parts_of_head(item)) : shared_parts + item.parts + parts_of_head(item) * static_cast<size_t>(at.head);
      AttentionJob job{};
      job.pages = batch.pages(sequence);
      job.k_offset = kv.key_offset(layer, at.head), job.v_offset = kv.value_offset(layer, at.head), job.value_bytes = kv.value_bytes();
      const Share& following = shares[static_cast<size_t>(std::min(i + 1, n_shares - 1))];  // likely this thread's next
      job.ahead = first_keys(following);
      job.head_dim = head_dim, job.scale = rule.scale, job.softcap = rule.softcap;
      if (kv.type() == KVType::kI8) job.q_codes = q_codes.of(static_cast<size_t>(AttentionJob::kMaxRows * (head_dim + 16)));
      // Calls `use` with as many rows as a kernel takes, until all had their turn; `job.parts` are those of all stretches.
      const auto each_job = [&](const auto& use) {
        job.parts = parts;
        const auto hand_over = [&] {
          use(), job.parts += part * static_cast<size_t>(item.n_stretches * job.n_rows), job.n_rows = 0;
        };
        for (int r = item.first; r < item.first + item.count; r++)
          for (int g = 0; g < share; g++) {
            const KVBatch::Row& row = rows[static_cast<size_t>(r)];
            const int column = (at.head * share + g) * head_dim;
            job.q[job.n_rows] = q.row(r) + column, job.out[job.n_rows] = y.row(r) + column;
            job.first_key[job.n_rows] = first_key(row), job.n_keys[job.n_rows] = n_keys(row);
            if (++job.n_rows == k.max_attn_rows) hand_over();
          }
        if (job.n_rows) hand_over();
      };
      const auto join = [&] { job.first_stretch = item.first_stretch, job.end_stretch = last, k.join_stretches(job); };
      each_job([&] {
        float* const all = job.parts;
        job.first_stretch = stretch_of(item, at.index), job.end_stretch = stretch_of(item, at.index + 1);
        job.parts += part * static_cast<size_t>((job.first_stretch - item.first_stretch) * job.n_rows);
        attend(job);
        job.parts = all;
        if (is_whole) join();
      });
      if (!is_whole && left[at.item * n_kv + at.head].fetch_sub(1, std::memory_order_acq_rel) == 1) each_job(join);
    }
  };
  for (int r = 0; r < y.n_rows(); r++) std::fill(y.row(r) + y.n_columns(), y.row(r) + y.stride(), 0.f);
  if (alone) body(0, n_shares);
  else pool()->run(n_shares, q.n_rows() > 16 ? 2 : 1, body);
  return y;
}

}  // namespace fanlight
