// A pool of threads for loops over independent items. Knows no op.
//
// The items are split into one contiguous range a thread; who finishes early takes steps from the others' ranges. Which thread
// does an item never changes its result. Workers spin for a moment between loops (a decode step is some 200 short loops) and then
// sleep. A worker that has not woken up when the caller is done is not waited for: its job is withdrawn.
//
// Memory, not arithmetic, limits a decode step, so an idle worker reads ahead: `next` names bytes that the next loop's first items
// will want. The first worker has the first range, so that these bytes end up in the cache of the core that needs them.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace fanlight {

class Pool {
 public:
  explicit Pool(int n_threads);
  ~Pool();  // joins the workers
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return n_threads_; }

  struct Ahead {
    const uint8_t* data = nullptr;
    size_t bytes = 0;
  };

  // body(begin, end) over [0, n_items), in steps of up to `grain` items. A second caller at the same time runs its loop alone.
  template <class Body>
  void run(int n_items, int grain, const Body& body, Ahead next = {}) {
    if (n_items <= 0) return;
    if (n_threads_ == 1 || n_items <= grain || !busy_.try_lock()) {
      body(0, n_items);
      return;
    }
    std::lock_guard lock(busy_, std::adopt_lock);
    call_ = [](const void* context, int begin, int end) { (*static_cast<const Body*>(context))(begin, end); };
    context_ = &body;
    next_ = next;
    run_shared(n_items, grain);
  }

 private:
  struct alignas(64) Range {
    std::atomic<int> next{0};
    int end = 0;
  };
  struct alignas(64) Worker {
    std::atomic<uint32_t> state;  // loop number * 4 + phase
    std::thread thread;
  };
  enum Phase : uint32_t { kPosted = 0, kRunning = 1, kIdle = 2 };

  void run_shared(int n_items, int grain);
  void take_steps(int first);
  void serve(int index);

  const int n_threads_;
  std::vector<Range> ranges_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::mutex busy_;
  std::atomic<bool> quit_{false};
  uint32_t loop_ = 0;
  int grain_ = 1;
  void (*call_)(const void*, int, int) = nullptr;
  const void* context_ = nullptr;
  Ahead next_;
};

// The pool that ops use. A forked child gets a new one at its first op; stop_threads() ends the workers (ops then run alone).
std::shared_ptr<Pool> pool();
void set_threads(int n);
int get_threads();
void stop_threads();

}  // namespace fanlight
