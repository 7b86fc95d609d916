// The Python module fanlight.kernels._native: arguments checked here, the GIL released around the work.
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

#include "buffers.h"
#include "core/check.h"
#include "core/finite.h"
#include "core/guard.h"
#include "core/pool.h"
#include "kv_arrays.h"
#include "ops/attention.h"
#include "ops/attention_weights.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/readings.h"
#include "ops/rows.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace fanlight {
namespace {

std::atomic<bool> profiling{false};
std::atomic<int64_t> profiled_ns{0};

// Counts the time of an op when profiling.
class Clock {
 public:
  Clock() {
    if (on_) start_ = std::chrono::steady_clock::now();
  }
  ~Clock() {
    if (on_) profiled_ns += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  bool on_ = profiling.load(std::memory_order_relaxed);
  std::chrono::steady_clock::time_point start_;
};

// Lets other Python threads run while an op does. When the process ends, a daemon thread must not come back from its op: Python
// would end it by unwinding through C++, which aborts. Such a thread sleeps until the process is gone.
class Outside {
 public:
  Outside() {
    n_outside++;
    state_ = PyEval_SaveThread();
    if (must_stay()) sleep();
  }
  ~Outside() {
    if (must_stay()) sleep();
    PyEval_RestoreThread(state_);
    n_outside--;
  }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;

  // Called with the GIL by the thread that ends the process: no other thread waits for the GIL in here any more afterwards.
  static void end() {
    last_thread = std::this_thread::get_id();
    ending = true;
    nb::gil_scoped_release release;
    stop_threads();
    while (n_outside > 0) std::this_thread::yield();
  }
  static void forked() { n_outside = 0; }  // the other threads did not come along

 private:
  static bool must_stay() { return ending && std::this_thread::get_id() != last_thread; }
  [[noreturn]] static void sleep() {
    n_outside--;
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }

  static inline std::atomic<bool> ending{false};
  static inline std::atomic<int> n_outside{0};
  static inline std::thread::id last_thread;
  PyThreadState* state_ = nullptr;
};

// Around every op.
template <class Op>
auto timed(const Op& op) {
  Clock clock;
  Outside outside;
  return op();
}
// Around an op on `n_rows` rows that is over sooner, for a few, than another thread could take the GIL.
template <class Op>
auto timed_rows(int n_rows, const Op& op) {
  if (n_rows > 4) return timed(op);
  Clock clock;
  return op();
}

Tensor make_tensor(nb::handle data, int n_columns) {
  Bytes bytes(data);
  check(n_columns > 0, "tensor: n_columns is ", n_columns);
  const size_t row_bytes = static_cast<size_t>(n_columns) * sizeof(float);
  check(bytes.size() % row_bytes == 0, "tensor: ", bytes.size(), " bytes are no whole rows of ", n_columns, " float32");
  const size_t n_rows = bytes.size() / row_bytes;
  check(n_rows < (1u << 30), "tensor: ", n_rows, " rows are too many");
  Tensor t(static_cast<int>(n_rows), n_columns);
  for (int r = 0; r < t.n_rows(); r++) {
    std::memcpy(t.row(r), bytes.data() + static_cast<size_t>(r) * row_bytes, row_bytes);
    std::fill(t.row(r) + n_columns, t.row(r) + t.stride(), 0.f);
  }
  return t;
}

nb::ndarray<nb::numpy, float, nb::ndim<2>> to_numpy(const Tensor& t) {
  const size_t rows = static_cast<size_t>(t.n_rows()), columns = static_cast<size_t>(t.n_columns());
  float* copy = new float[rows * columns + 1];
  for (size_t r = 0; r < rows; r++) std::memcpy(copy + r * columns, t.row(static_cast<int>(r)), columns * sizeof(float));
  nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return {copy, {rows, columns}, owner};
}

// An array that owns the numbers: as many axes as sizes.
template <class T, class... Sizes>
nb::ndarray<nb::numpy, T, nb::ndim<sizeof...(Sizes)>> array_of(std::vector<T>&& numbers, Sizes... sizes) {
  auto* kept = new std::vector<T>(std::move(numbers));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return {kept->data(), {static_cast<size_t>(sizes)...}, owner};
}

// What packing still reads. Touched with the GIL only, and never destroyed: the interpreter may be gone by then.
auto* const in_use = new std::vector<std::unique_ptr<Bytes>>;

void finish_packing() {
  {
    nb::gil_scoped_release release;
    wait_for(last_ticket());
  }
  in_use->clear();
  return_free_memory();
}

Linear pack(int n_in, nb::sequence parts, const std::optional<std::string>& quantize, std::optional<nb::object> bias,
            const std::string& activation, bool gated, bool mapped) {
  std::vector<std::unique_ptr<Bytes>> buffers;
  std::vector<Part> list;
  for (nb::handle item : parts) {
    nb::tuple t = nb::cast<nb::tuple>(item);
    check(t.size() == 5, "pack: a part is (data, n_rows, dtype, row_order, transposed)");
    buffers.push_back(std::make_unique<Bytes>(t[0]));
    Part p{buffers.back()->data(), buffers.back()->size(), nb::cast<int>(t[1]), nb::cast<std::string>(t[2]), {}, nb::cast<bool>(t[4])};
    if (!t[3].is_none()) p.row_order = nb::cast<std::vector<int>>(t[3]);
    list.push_back(std::move(p));
  }
  std::vector<float> bias_values;
  if (bias) {
    Bytes bytes(*bias);
    check(bytes.size() % sizeof(float) == 0, "pack: the bias is not float32");
    bias_values.resize(bytes.size() / sizeof(float));
    std::memcpy(bias_values.data(), bytes.data(), bytes.size());
  }
  if (background_is_idle()) in_use->clear();
  Linear packed = timed([&] {
    return Linear(n_in, list, quantize, bias ? bias_values.data() : nullptr, bias_values.size(), activation, gated, mapped);
  });
  for (auto& buffer : buffers) in_use->push_back(std::move(buffer));
  return packed;
}

// Reads every byte of the matrices once with the threads of the ops: the floor of a decode step.
uint64_t read_all(const std::vector<const Linear*>& linears) {
  struct Span {
    const uint8_t* data;
    size_t bytes;
  };
  constexpr size_t kSpan = 256 * 1024;
  std::vector<Span> spans;
  for (const Linear* l : linears)
    for (size_t at = 0; at < l->n_bytes(); at += kSpan) spans.push_back({l->data() + at, std::min(kSpan, l->n_bytes() - at)});
  std::atomic<uint64_t> total{0};
  pool()->run(static_cast<int>(spans.size()), 1, [&](int begin, int end) {
    for (int s = begin; s < end; s++) {
      uint64_t sums[32] = {};
      const Span& span = spans[static_cast<size_t>(s)];
      size_t at = 0;
      for (; at + sizeof(sums) <= span.bytes; at += sizeof(sums)) {
        uint64_t words[32];
        std::memcpy(words, span.data + at, sizeof(words));
        for (int i = 0; i < 32; i++) sums[i] ^= words[i];
      }
      uint64_t x = 0;
      for (uint64_t v : sums) x ^= v;
      for (; at < span.bytes; at++) x ^= span.data[at];
      total.fetch_xor(x, std::memory_order_relaxed);
    }
  });
  return total.load();
}

}  // namespace
}  // namespace fanlight

NB_MODULE(_native, m) {
  using namespace fanlight;
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr, &Outside::forked);
#endif
  nb::set_leak_warnings(false);  // a daemon thread may hold a model while the process ends
  m.doc() = "The ops of fanlight.kernels.ops in C++.";
  nb::module_ errors = nb::module_::import_("fanlight.errors");
  static nb::object kernel_error = errors.attr("KernelError"), numeric_error = errors.attr("NumericError");
  kernel_error.inc_ref(), numeric_error.inc_ref();  // outlive the interpreter's tear-down
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const KernelError& e) {
      PyErr_SetString(kernel_error.ptr(), e.what());
    } catch (const NumericError& e) {
      PyErr_SetString(numeric_error.ptr(), e.what());
    }
  });

  nb::class_<Tensor>(m, "Tensor")
      .def_prop_ro("shape", [](const Tensor& t) { return std::make_tuple(t.n_rows(), t.n_columns()); })
      .def("numpy", to_numpy);
  nb::class_<Linear>(m, "Linear")
      .def_prop_ro("n_in", &Linear::n_in)
      .def_prop_ro("n_out", &Linear::n_out)
      .def_prop_ro("dtype", &Linear::dtype)
      .def_prop_ro("part_dtypes", &Linear::part_dtypes)
      .def_prop_ro("is_finite", [](const Linear& w) { return timed([&] { return w.is_finite(); }); })
      .def_prop_ro("nbytes", &Linear::n_bytes);
  nb::class_<Guard>(m, "Guard")
      .def("__init__",
           [](Guard* self, nb::handle data) {
             Bytes bytes(data);
             new (self) Guard(bytes.data(), bytes.size());
           },
           "mapping"_a)
      .def_prop_ro("torn", &Guard::torn);
  nb::class_<Rope>(m, "Rope").def_prop_ro("n_rotated", &Rope::n_rotated);
  nb::class_<KVPool> pool_class(m, "KVPool");
  pool_class
      .def_prop_ro("page_tokens", [](const KVPool&) { return KVPool::kPageTokens; })
      .def_prop_ro("page_bytes", &KVPool::page_bytes)
      .def_prop_ro("n_pages", &KVPool::n_pages)
      .def("allocate", &KVPool::allocate)
      .def("release", &KVPool::release, "page"_a)
      .def("copy", &KVPool::copy, "source"_a, "target"_a)
      .def_prop_ro("dtype", &KVPool::dtype)
      .def("read", [](const KVPool& pool, int page, int n) { return read_page(pool, page, n, [](const auto& op) { timed(op); }); }, "page"_a, "n"_a)
      .def("write", [](KVPool& pool, int page, nb::dict arrays) { write_page(pool, page, arrays, [](const auto& op) { timed(op); }); }, "page"_a,
           "arrays"_a);
  nb::class_<KVBatch> batch_class(m, "KVBatch");
  batch_class
      .def_prop_ro("n_rows", &KVBatch::n_rows)
      .def_prop_ro("positions",
                   [](const KVBatch& b) {
                     std::vector<int> positions;
                     for (const KVBatch::Row& r : b.rows()) positions.push_back(r.position);
                     return positions;
                   })
      .def("take", &KVBatch::take, "rows"_a);
  pool_class.def("batch",
                 [](std::shared_ptr<KVPool> pool, const std::vector<std::vector<int>>& tables, const std::vector<int>& starts,
                    const std::vector<int>& counts) { return KVBatch(std::move(pool), tables, starts, counts); },
                 "tables"_a, "starts"_a, "counts"_a);

  m.def("first_not_finite",
        [](nb::handle data, size_t stride, const std::vector<size_t>& offsets, int width, uint64_t exponent) {
          Bytes bytes(data);
          check(stride > 0, "first_not_finite: no numbers to look at");
          return timed([&] { return first_not_finite(bytes.data(), bytes.size() / stride, stride, offsets, width, exponent); });
        },
        "data"_a, "stride"_a, "offsets"_a, "width"_a, "exponent"_a);
  m.def("tensor", make_tensor, "data"_a, "n_columns"_a);
  m.def("pack", pack, "n_in"_a, "parts"_a, nb::kw_only(), "quantize"_a = nb::none(), "bias"_a = nb::none(), "activation"_a = "none", "gated"_a = false,
        "mapped"_a = false);
  m.def("finish_packing", &finish_packing);
  m.def("linear", [](const Tensor& x, const Linear& w, const Tensor* residual) { return timed([&] { return w.apply(x, residual); }); },
        "x"_a, "w"_a, "residual"_a = nb::none());
  m.def("readings",
        [](const Tensor& h, const Linear& w, const std::vector<int>& tokens, int k, float softcap) {
          Readings r = timed([&] { return readings(h, w, tokens, k, softcap); });
          return std::make_tuple(array_of(std::move(r.ids), r.n_rows, r.k), array_of(std::move(r.logits), r.n_rows, r.k),
                                 array_of(std::move(r.logsumexp), r.n_rows), array_of(std::move(r.entropy), r.n_rows),
                                 array_of(std::move(r.token_logits), r.n_rows), array_of(std::move(r.token_ranks), r.n_rows));
        },
        "h"_a, "w"_a, "tokens"_a, "k"_a, "softcap"_a = 0.f);
  m.def("embed", [](const Linear& w, const std::vector<int>& ids) { return timed_rows(static_cast<int>(ids.size()), [&] { return w.embed(ids); }); }, "w"_a, "ids"_a);
  m.def("add", [](const Tensor& a, const Tensor& b) { return timed_rows(a.n_rows(), [&] { return add(a, b); }); }, "a"_a, "b"_a);
  m.def("take_rows", [](const Tensor& x, const std::vector<int>& rows) { return timed_rows(static_cast<int>(rows.size()), [&] { return take_rows(x, rows); }); }, "x"_a, "rows"_a);
  m.def("rms_norm", [](const Tensor& x, const Tensor& weight, float eps) { return timed_rows(x.n_rows(), [&] { return rms_norm(x, weight, eps); }); },
        "x"_a, "weight"_a, "eps"_a);
  m.def("layer_norm",
        [](const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) { return timed_rows(x.n_rows(), [&] { return layer_norm(x, weight, bias, eps); }); },
        "x"_a, "weight"_a, "bias"_a, "eps"_a);

  m.def("span_norm",
        [](const Tensor& x, const Tensor& weight, const std::vector<int>& widths, float eps) {
          return timed_rows(x.n_rows(), [&] { return span_norm(x, weight, widths, eps); });
        },
        "x"_a, "weight"_a, "widths"_a, "eps"_a);
  m.def("scale", [](const Tensor& x, float by) { return timed_rows(x.n_rows(), [&] { return scale(x, by); }); }, "x"_a, "by"_a);
  m.def("softcap", [](const Tensor& x, float cap) { return timed([&] { return softcap(x, cap); }); }, "x"_a, "cap"_a);

  m.def("rope", [](const Tensor& inv_freq, float scale) { return new Rope(inv_freq, scale); }, "inv_freq"_a, "scale"_a = 1.f);
  m.def("kv_pool",
        [](int n_layer, int n_kv_head, int head_dim, const std::string& dtype) { return std::make_shared<KVPool>(n_layer, n_kv_head, head_dim, dtype); },
        "n_layer"_a, "n_kv_head"_a, "head_dim"_a, "dtype"_a);
  m.def("store_kv",
        [](const Tensor& qkv, const KVBatch& batch, int layer, Rope* rope) { return timed_rows(batch.n_rows(), [&] { return store_kv(qkv, batch, layer, rope); }); },
        "qkv"_a, "batch"_a, "layer"_a, "rope"_a.none());
  m.def("attention",
        [](const Tensor& q, const KVBatch& batch, int layer, float scale, int window, float softcap, bool causal) {
          return timed([&] { return attention(q, batch, layer, {scale, window, softcap, causal}); });
        },
        "q"_a, "batch"_a, "layer"_a, "scale"_a, "window"_a = 0, "softcap"_a = 0.f, "causal"_a = true);
  m.def("attention_weights",
        [](const Tensor& q, const KVBatch& batch, int layer, float scale, int window, float softcap, bool causal,
           const std::optional<std::vector<int>>& heads) {
          return timed([&] { return attention_weights(q, batch, layer, {scale, window, softcap, causal}, heads); });
        },
        "q"_a, "batch"_a, "layer"_a, "scale"_a, "window"_a = 0, "softcap"_a = 0.f, "causal"_a = true, "heads"_a = nb::none());

  m.def("row",
        [](const Tensor& x, int index) {
          check(index >= 0 && index < x.n_rows(), "row: ", index, " is outside 0 to ", x.n_rows() - 1);
          return x.n_rows() == 1 ? x : x.view(index);
        },
        "x"_a, "index"_a);
  m.def("argmax", [](const Tensor& row) { return timed([&] { return argmax(row); }); }, "row"_a);
  m.def("temperature", [](const Tensor& row, float t) { return timed([&] { return temperature(row, t); }); }, "row"_a, "temperature"_a);
  m.def("repetition_penalty",
        [](const Tensor& row, const std::vector<int>& ids, float penalty) { return timed([&] { return repetition_penalty(row, ids, penalty); }); },
        "row"_a, "ids"_a, "penalty"_a);
  m.def("bias",
        [](const Tensor& row, nb::handle ids, nb::handle amounts) {
          const std::vector<int> tokens = id_list(ids, "bias: ids");
          const std::vector<float> added = numbers<float, float, double>(amounts, "bias: amounts", "f", "d");
          return timed([&] { return bias(row, tokens, added); });
        },
        "row"_a, "ids"_a, "amounts"_a);
  m.def("bias_mask",
        [](const Tensor& row, nb::handle bits, float amount) {
          Bytes bytes(bits);
          return timed([&] { return bias_mask(row, bytes.data(), bytes.size(), amount); });
        },
        "row"_a, "bits"_a, "amount"_a);
  m.def("finite", [](const Tensor& row) { return timed([&] { return finite(row); }); }, "row"_a);
  m.def("log_softmax", [](const Tensor& row) { return timed([&] { return log_softmax(row); }); }, "row"_a);
  m.def("blend",
        [](const Tensor& a, const Tensor& b, float weight_a, float weight_b) { return timed([&] { return blend(a, b, weight_a, weight_b); }); },
        "a"_a, "b"_a, "weight_a"_a, "weight_b"_a);
  m.def("smooth", [](const Tensor& row, double factor, double curve) { return timed([&] { return smooth(row, factor, curve); }); }, "row"_a,
        "factor"_a, "curve"_a = 1.0);
  m.def("near_target", [](const Tensor& row, float target) { return timed([&] { return near_target(row, target); }); }, "row"_a, "target"_a);
  m.def("top_k", [](const Tensor& row, int k) { return timed([&] { return top_k(row, k); }); }, "row"_a, "k"_a);
  m.def("top_p", [](const Tensor& row, double p, int min_keep) { return timed([&] { return top_p(row, p, min_keep); }); }, "row"_a, "p"_a,
        "min_keep"_a = 1);
  m.def("keep_above", [](const Tensor& row, double limit, int min_keep) { return timed([&] { return keep_above(row, limit, min_keep); }); },
        "row"_a, "limit"_a, "min_keep"_a = 1);
  m.def("drop_above", [](const Tensor& row, double limit) { return timed([&] { return drop_above(row, limit); }); }, "row"_a, "limit"_a);
  m.def("typical_p", [](const Tensor& row, double mass, int min_keep) { return timed([&] { return typical_p(row, mass, min_keep); }); },
        "row"_a, "mass"_a, "min_keep"_a = 1);
  m.def("tail_free", [](const Tensor& row, double z, int min_keep) { return timed([&] { return tail_free(row, z, min_keep); }); }, "row"_a,
        "z"_a, "min_keep"_a = 1);
  m.def("top_h", [](const Tensor& row, double h, int min_keep) { return timed([&] { return top_h(row, h, min_keep); }); }, "row"_a, "h"_a,
        "min_keep"_a = 1);
  m.def("keep",
        [](const Tensor& row, nb::handle ids) {
          const std::vector<int> tokens = id_list(ids, "keep: ids");
          return timed([&] { return keep(row, tokens); });
        },
        "row"_a, "ids"_a);
  m.def("mask",
        [](const Tensor& row, nb::handle bits) {
          Bytes bytes(bits);
          return timed([&] { return mask(row, bytes.data(), bytes.size()); });
        },
        "row"_a, "bits"_a);
  m.def("stats",
        [](const Tensor& row) {
          const Stats s = timed([&] { return stats(row); });
          return std::make_tuple(s.n_kept, s.max, s.logsumexp, s.entropy);
        },
        "row"_a);
  m.def("deviation", [](const Tensor& row) { return timed([&] { return deviation(row); }); }, "row"_a);
  m.def("top", [](const Tensor& row, int n) { return timed([&] { return top(row, n); }); }, "row"_a, "n"_a);
  m.def("gather", [](const Tensor& row, const std::vector<int>& ids) { return timed([&] { return gather(row, ids); }); }, "row"_a, "ids"_a);
  m.def("rank", [](const Tensor& row, int token) { return timed([&] { return rank(row, token); }); }, "row"_a, "token"_a);
  m.def("gumbel", [](uint64_t seed, uint64_t position, const std::vector<int>& ids) { return gumbel(seed, position, ids); }, "seed"_a, "position"_a,
        "ids"_a);
  m.def("gumbel_argmax",
        [](const Tensor& row, uint64_t seed, uint64_t position) { return timed([&] { return gumbel_argmax(row, seed, position); }); }, "row"_a,
        "seed"_a, "position"_a);
  m.def("gumbel_top",
        [](const Tensor& row, uint64_t seed, uint64_t position, int n) { return timed([&] { return gumbel_top(row, seed, position, n); }); },
        "row"_a, "seed"_a, "position"_a, "n"_a);
  m.def("green_list",
        [](nb::int_ seed, int n_vocab, int n_green) {
          const auto low = static_cast<uint32_t>(PyLong_AsUnsignedLongLongMask(seed.ptr()));
          const std::vector<uint8_t> bits = timed([&] { return green_list(low, n_vocab, n_green); });
          return nb::bytes(bits.data(), bits.size());
        },
        "seed"_a, "n_vocab"_a, "n_green"_a);

  m.def("set_threads",
        [](int n) {
          check(n >= 1 && n <= 256, "set_threads: ", n, " is outside 1 to 256");
          set_threads(n);
        },
        "n"_a);
  m.def("get_threads", &get_threads);
  m.def("stop_threads", &Outside::end);
  m.def("isa", [] { return kernels().name; });
  m.def("use_isa",
        [](const std::string& name) { check(use_kernels(name.c_str()), "this machine has no kernels named '", name, "'"); },
        "name"_a);
  m.def("profile", [](bool on) { profiling = on, profiled_ns = 0; }, "on"_a);
  m.def("profile_seconds", [] { return static_cast<double>(profiled_ns.load()) * 1e-9; });
  m.def("read_all", [](const std::vector<const Linear*>& linears) { return timed([&] { return read_all(linears); }); }, "linears"_a);
}
