#include "ops/attention.h"

#include <algorithm>

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
  const auto store = kv.is_f16() ? k.store_kv_f16 : k.store_kv_f32;
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

Tensor attention(const Tensor& q, const KVBatch& batch, int layer, const AttentionRule& rule) {
  const KVPool& kv = batch.pool();
  const int head_dim = kv.head_dim(), n_kv = kv.n_kv_head();
  check(layer >= 0 && layer < kv.n_layer(), "attention: layer ", layer, " is outside 0 to ", kv.n_layer() - 1);
  check(q.n_rows() == batch.n_rows(), "attention: q has ", q.n_rows(), " rows, the batch ", batch.n_rows());
  check(q.n_columns() > 0 && q.n_columns() % (head_dim * n_kv) == 0, "attention: q has ", q.n_columns(), " columns, expected a multiple of ",
        head_dim * n_kv);
  check(rule.window >= 0, "attention: window is ", rule.window, ", expected 0 (none) or more");
  const Kernels& k = kernels();
  const auto attend = kv.is_f16() ? k.attention_f16 : k.attention_f32;
  const int share = q.n_columns() / head_dim / n_kv;                 // query heads of one key/value head
  const int tokens = std::max(1, k.max_attn_rows / share);          // tokens of one sequence that go together

  struct Item {
    int first, count;  // rows
  };
  static thread_local std::vector<Item> items_of_call;  // reused: no allocation in a decode step
  std::vector<Item>& items = items_of_call;
  items.clear();
  int64_t work = 0;  // multiply-adds
  const auto& rows = batch.rows();
  for (int r = 0; r < q.n_rows();) {
    int n = 1;
    while (n < tokens && r + n < q.n_rows() && rows[static_cast<size_t>(r + n)].sequence == rows[static_cast<size_t>(r)].sequence) n++;
    items.push_back({r, n});
    work += int64_t{2} * rows[static_cast<size_t>(r + n - 1)].position * q.n_columns() * n;
    r += n;
  }
  Tensor y(q.n_rows(), q.n_columns());
  const int n_items = static_cast<int>(items.size()) * n_kv;
  const size_t scores_stride = static_cast<size_t>((batch.max_position() + 16) / 16 * 16);
  auto body = [&](int begin, int end) {
    static thread_local std::vector<float> scores;
    if (scores.size() < scores_stride * AttentionJob::kMaxRows) scores.resize(scores_stride * AttentionJob::kMaxRows);
    for (int i = begin; i < end; i++) {
      const Item& item = items[items.size() - 1 - static_cast<size_t>(i / n_kv)];  // the longest first
      const int h = i % n_kv, sequence = rows[static_cast<size_t>(item.first)].sequence;
      AttentionJob job{};
      job.pages = batch.pages(sequence);
      job.k_offset = kv.key_offset(layer, h), job.v_offset = kv.value_offset(layer, h);
      job.page_tokens = KVPool::kPageTokens, job.head_dim = head_dim, job.scale = rule.scale, job.softcap = rule.softcap;
      job.scores = scores.data(), job.scores_stride = scores_stride;
      for (int r = item.first; r < item.first + item.count; r++)
        for (int g = 0; g < share; g++) {
          const int column = (h * share + g) * head_dim;
          job.q[job.n_rows] = q.row(r) + column;
          job.out[job.n_rows] = y.row(r) + column;
          const int own = rows[static_cast<size_t>(r)].position;
          job.n_keys[job.n_rows] = rule.causal ? own + 1 : batch.length(sequence);
          job.first_key[job.n_rows] = rule.window && own >= rule.window ? own + 1 - rule.window : 0;
          if (++job.n_rows == k.max_attn_rows) attend(job), job.n_rows = 0;
        }
      if (job.n_rows) attend(job);
    }
  };
  for (int r = 0; r < y.n_rows(); r++) std::fill(y.row(r) + y.n_columns(), y.row(r) + y.stride(), 0.f);
  if (work < 24000) body(0, n_items);  // shorter than waking a thread
  else pool()->run(n_items, q.n_rows() > 16 ? 2 : 1, body);
  return y;
}

}  // namespace fanlight
