// Locks and forks.
#pragma once
#include <mutex>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define FANLIGHT_FORK 1
#endif

namespace fanlight {

// A mutex that no forked child inherits locked: a fork waits for it. Only for objects that live as long as the process.
class ForkSafeMutex {
 public:
  ForkSafeMutex() {
#if defined(FANLIGHT_FORK)
    static auto* all = new std::vector<ForkSafeMutex*>;
    if (all->empty())
      pthread_atfork([] { for (auto* m : *all) m->mutex_.lock(); }, [] { for (auto* m : *all) m->mutex_.unlock(); },
                     [] { for (auto* m : *all) m->mutex_.unlock(); });
    all->push_back(this);
#endif
  }
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

}  // namespace fanlight
