// Attention over keys and values in pages (cache_float.h, cache_int8.h).
// Softmax and values are summed up in stretches of kStretch positions, cut at its multiples; `join_stretches` adds these up in order. So
// the work of a row can be shared out, and yet its sums depend on nothing but the row: they run over d, then over positions, in order.

namespace fanlight::FANLIGHT_ISA {

struct Mass {
  float largest, sum;
};

// Scores of the keys [first, n_keys) -> exp(score - largest), and zero in the rest of [start, n_padded). `next`: what to ask for, `step`
// bytes with every 16 keys.
template <int R>
FL_FN Mass softmax_weights(float* s, int start, int first, int n_keys, int n_padded, const uint8_t* next, size_t step) {
  for (int i = start; i < first; i++) s[i] = kMinusInf;  // exp makes it 0
  const int whole = n_keys / 16 * 16, tail = n_keys - whole;
  F32 largest = splat(-kLargest);
  for (int i = start; i < whole; i += 16) largest = max(largest, load(s + i));
  if (tail) largest = max(largest, load_part(s + whole, tail, -kLargest));
  const float most = max_of(largest);
  const F32 top = splat(most);
  F32 total = zero();
  for (int i = start; i < whole; i += 16, next += step) {
    ask_for<R>(next, step);
    F32 e = exp(sub(load(s + i), top));
    total = add(total, e);
    store(s + i, e);
  }
  int i = whole;
  if (tail) {
    store_part(s + whole, exp(sub(load_part(s + whole, tail, -kLargest), top)), tail);
    F32 e = load_part(s + whole, tail, 0.f);
    total = add(total, e);
    store(s + whole, e);
    i += 16;
  }
  for (; i < n_padded; i += 16) store(s + i, zero());
  return {most, sum(total)};
}

// -- a job

// Scores of the keys [first, n_padded), whole blocks of 16, of the stretch that starts at `start`. `after`: what is read after them.
template <class Cache, int R>
FL_FN void score_keys(const AttentionJob& job, const Queries<Cache, R>& queries, int start, int first, int n_padded, const uint8_t* after, float* scores) {
  constexpr int B = at_once<Cache, R>();
  for (int at = first / kPageTokens * kPageTokens; at < n_padded; at += kPageTokens) {
    const uint8_t* const* page = job.pages + (start + at) / kPageTokens;
    const bool is_last = at + kPageTokens >= n_padded;
    const uint8_t* next = is_last ? after : page[1] + job.k_offset;
    const int n = is_last ? n_padded - at : kPageTokens;
    int j = first > at ? first - at : 0;
    for (; j + 16 * B <= n; j += 16 * B) Queries<Cache, R>::template score<B>(job, queries, *page, j, next, scores + at + j);
    for (; j < n; j += 16) Queries<Cache, R>::template score<1>(job, queries, *page, j, next, scores + at + j);
  }
}

template <class Cache, int R>
FL_FN void attend_stretch(const AttentionJob& job, const Queries<Cache, R>& queries, int index) {
  const int start = index * kStretch;
  const auto within = [&](int position) { return position <= start ? 0 : position - start < kStretch ? position - start : kStretch; };
  float* part = job.parts + static_cast<size_t>(index - job.first_stretch) * R * part_floats(job.head_dim);
  int first = kStretch, n_keys = 0;
  for (int r = 0; r < R; r++)
    if (within(job.first_key[r]) < within(job.n_keys[r])) {
      first = first < within(job.first_key[r]) ? first : within(job.first_key[r]);
      n_keys = n_keys > within(job.n_keys[r]) ? n_keys : within(job.n_keys[r]);
    }
  first = first / 16 * 16;  // whole blocks of keys
  const int n_padded = (n_keys + 15) / 16 * 16;
  alignas(64) float weights[R * kStretch];

  if (n_keys) score_keys<Cache, R>(job, queries, start, first, n_padded, job.pages[(start + first) / kPageTokens] + job.v_offset, weights);

  // Meanwhile the second page of values comes, the third while the first is summed up, and so on: memory is never idle.
  const size_t value_bytes = job.value_bytes, step = value_bytes / (R * kStretch / 16);
  const uint8_t* next = n_keys - first / kPageTokens * kPageTokens > kPageTokens ? job.pages[(start + first) / kPageTokens + 1] + job.v_offset : job.ahead;
  for (int r = 0; r < R; r++, next += value_bytes / R) {
    float *row = weights + r * kStretch, *head = part + static_cast<size_t>(r) * part_floats(job.head_dim);
    const int own_first = within(job.first_key[r]), own_end = within(job.n_keys[r]);
    Mass mass{-kLargest, 0.f};
    if (job.softcap > 0)
      for (int i = first; i < n_padded; i += 16) store(row + i, softcap_of(load(row + i), splat(job.softcap), splat(1.f / job.softcap)));
    if (own_first < own_end) mass = softmax_weights<R>(row, first, own_first, own_end, n_padded, next, step);
    else
      for (int i = first; i < n_padded; i += 16) store(row + i, zero());
    head[0] = mass.largest, head[1] = mass.sum;
  }
  if (!n_keys) return;

  const int v_stride = (job.head_dim + 15) / 16 * 16;
  const auto for_pages = [&](const auto& use) __attribute__((always_inline)) {
    const uint8_t* after = index + 1 < job.end_stretch ? job.pages[(start + kStretch) / kPageTokens] + job.k_offset : job.ahead;
    const uint8_t* const* page = job.pages + (start + first) / kPageTokens;
    for (int at = first; at < n_keys; page++) {
      const int begin = at % kPageTokens, left = n_keys - at, n = left < kPageTokens - begin ? left : kPageTokens - begin;
      const uint8_t* next = left - n > kPageTokens ? page[2] + job.v_offset : n < left ? after : nullptr;
      use(PageOfValues{*page + job.v_offset, next, begin, begin + n, at});
      at += n;
    }
  };
  for_pages([&](const PageOfValues& page) __attribute__((always_inline)) { Weights<Cache, R>::scale(page, v_stride, weights); });
  const auto made = Weights<Cache, R>::of(job, weights, first, n_padded);
  const size_t sums_stride = part_floats(job.head_dim);
  constexpr int B = at_once<Cache, R>();
  for_pages([&](const PageOfValues& page) __attribute__((always_inline)) {
    const auto mix = [&]<int C>(int column) __attribute__((always_inline)) {
      Weights<Cache, R>::template mix<C>(page, column, made, part + kPartHead + column, sums_stride, page.at == first);
    };
    int column = 0;
    for (; column + 16 * B <= v_stride; column += 16 * B) mix.template operator()<B>(column);
    for (; column < v_stride; column += 16) mix.template operator()<1>(column);
  });
  Weights<Cache, R>::finish(made, part + kPartHead, sums_stride, v_stride);
}

template <class Cache>
FL_FN void attend(const AttentionJob& job) {
  with_rows<kMaxAttnRows>(job.n_rows, [&]<int R>() {
    const auto queries = Queries<Cache, R>::of(job);
    for (int i = job.first_stretch; i < job.end_stretch; i++) attend_stretch<Cache, R>(job, queries, i);
  });
}

// Each part shrinks to the largest score of all; parts without a visible key have the sum 0.
static void join_stretches(const AttentionJob& job) {
  const size_t floats = part_floats(job.head_dim), step = floats * static_cast<size_t>(job.n_rows);
  const int n = job.end_stretch - job.first_stretch;
  for (int r = 0; r < job.n_rows; r++) {
    float* parts = job.parts + static_cast<size_t>(r) * floats;
    float largest = -kLargest, total = 0.f;
    for (int i = 0; i < n; i++) largest = parts[i * step] > largest ? parts[i * step] : largest;
    for (int i = 0; i < n; i++) {
      float *part = parts + i * step, lanes[16];
      if (part[1] == 0.f) continue;
      store(lanes, exp(splat(part[0] - largest)));
      part[2] = lanes[0];
      total += part[2] * part[1];
    }
    const F32 inverse = splat(1.f / total);
    for (int column = 0; column < job.head_dim; column += 16) {
      F32 y = zero();
      for (int i = 0; i < n; i++) {
        const float* part = parts + i * step;
        if (part[1] != 0.f) y = fmadd(load(part + kPartHead + column), splat(part[2]), y);
      }
      const int left = job.head_dim - column;
      if (left >= 16) store(job.out[r] + column, mul(y, inverse));
      else store_part(job.out[r] + column, mul(y, inverse), left);
    }
  }
}

static void store_kv_f16(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
  store_kv<CacheF16>(k, v, head_dim, slot, keys, values);
}
static void store_kv_f32(const float* k, const float* v, int head_dim, int slot, uint8_t* keys, uint8_t* values) {
  store_kv<CacheF32>(k, v, head_dim, slot, keys, values);
}
static void attention_f16(const AttentionJob& job) { attend<CacheF16>(job); }
static void attention_f32(const AttentionJob& job) { attend<CacheF32>(job); }
static void attention_i8(const AttentionJob& job) { attend<CacheI8>(job); }

}  // namespace fanlight::FANLIGHT_ISA
