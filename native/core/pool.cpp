#include "core/pool.h"

#include <algorithm>

#include "core/fork.h"

namespace fanlight {
namespace {

constexpr size_t kSlice = 256;  // bytes to prefetch between two looks for work
constexpr int kSpins = 6000;  // about 100 microseconds: longer than what happens between two ops of a decode step

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int n_threads) : n_threads_(n_threads), ranges_(static_cast<size_t>(n_threads)) {
  for (int i = 1; i < n_threads; i++) {
    workers_.push_back(std::make_unique<Worker>());
    workers_.back()->state.store(kIdle);
    workers_.back()->thread = std::thread([this, i] { serve(i); });
  }
}

Pool::~Pool() {
  quit_.store(true);
  for (auto& w : workers_) {
    w->state.fetch_add(4);  // a change wakes it; the phase stays idle
    w->state.notify_one();
  }
  for (auto& w : workers_) w->thread.join();
}

void Pool::take_steps(int first) {
  for (int k = 0; k < n_threads_; k++) {
    Range& range = ranges_[static_cast<size_t>((first + n_threads_ - 1 + k) % n_threads_)];  // the caller has the last one
    for (int begin = range.next.load(std::memory_order_relaxed); begin < range.end;) {
      const int step = std::clamp((range.end - begin) / 2, 1, grain_);  // smaller towards the end: nobody waits long for the last
      if (!range.next.compare_exchange_weak(begin, begin + step, std::memory_order_relaxed)) continue;
      call_(context_, begin, begin + step);
      begin = range.next.load(std::memory_order_relaxed);
    }
  }
}

void Pool::serve(int index) {
  Worker& me = *workers_[static_cast<size_t>(index - 1)];
  Ahead ahead;
  for (;;) {
    uint32_t seen = me.state.load(std::memory_order_acquire);
    for (int spins = 0; (seen & 3) != kPosted; seen = me.state.load(std::memory_order_acquire)) {
      if (quit_.load(std::memory_order_relaxed)) return;
      if (ahead.bytes) {
        const size_t slice = std::min(ahead.bytes, kSlice);
        for (size_t at = 0; at < slice; at += 64) __builtin_prefetch(ahead.data + at, 0, 2);
        ahead = {ahead.data + slice, ahead.bytes - slice};
        continue;
      }
      if (++spins < kSpins) relax();
      else me.state.wait(seen, std::memory_order_acquire), spins = 0;
    }
    if (!me.state.compare_exchange_strong(seen, seen + kRunning, std::memory_order_acq_rel)) continue;  // withdrawn
    take_steps(index);
    ahead = index == 1 ? next_ : Ahead{};
    me.state.store(seen + kIdle, std::memory_order_release);
  }
}

void Pool::run_shared(int n_items, int grain) {
  grain_ = grain;
  for (int i = 0; i < n_threads_; i++) {
    ranges_[static_cast<size_t>(i)].next.store(static_cast<int>(int64_t{n_items} * i / n_threads_), std::memory_order_relaxed);
    ranges_[static_cast<size_t>(i)].end = static_cast<int>(int64_t{n_items} * (i + 1) / n_threads_);
  }
  const uint32_t posted = ++loop_ << 2 | kPosted;
  for (auto& w : workers_) {
    w->state.store(posted, std::memory_order_seq_cst);
    w->state.notify_one();
  }
  take_steps(0);
  for (auto& w : workers_) {
    uint32_t expected = posted;
    if (w->state.compare_exchange_strong(expected, posted + kIdle, std::memory_order_acq_rel)) continue;
    for (int spins = 0; w->state.load(std::memory_order_acquire) != posted + kIdle;)
      if (++spins < 20000) relax();
      else std::this_thread::yield();
  }
}

// -- the process's pool

namespace {

struct Shared {
  std::mutex mutex;
  std::shared_ptr<Pool> pool;
  int wanted = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  bool stopped = false;
};
Shared* shared = nullptr;
std::once_flag once;

void start() {
  shared = new Shared;  // never destroyed: a thread may hold the pool while the process ends
#if defined(FANLIGHT_FORK)
  pthread_atfork([] { shared->mutex.lock(); }, [] { shared->mutex.unlock(); },
                 [] {  // only the forking thread lives on in the child: leave the old pool behind, untouched
                   Shared* old = shared;
                   shared = new Shared;
                   shared->wanted = old->wanted;
                   shared->stopped = old->stopped;
                 });
#endif
}

Shared& state() {
  std::call_once(once, start);
  return *shared;
}

}  // namespace

std::shared_ptr<Pool> pool() {
  Shared& s = state();
  std::lock_guard lock(s.mutex);
  if (!s.pool) s.pool = std::make_shared<Pool>(s.stopped ? 1 : s.wanted);
  return s.pool;
}

void set_threads(int n) {
  Shared& s = state();
  std::shared_ptr<Pool> old;  // joined outside of the lock, when its last user lets go
  std::lock_guard lock(s.mutex);
  s.wanted = n;
  old.swap(s.pool);
}

int get_threads() {
  Shared& s = state();
  std::lock_guard lock(s.mutex);
  return s.wanted;
}

void stop_threads() {
  Shared& s = state();
  std::shared_ptr<Pool> old;
  {
    std::lock_guard lock(s.mutex);
    s.stopped = true;
    old.swap(s.pool);
  }
}

}  // namespace fanlight
