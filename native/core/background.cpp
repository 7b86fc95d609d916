#include "core/background.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <thread>

#include "core/fork.h"

namespace fanlight {
namespace {

struct Queue {
  ForkSafeMutex mutex;
  std::condition_variable_any changed;
  std::deque<std::function<void()>> jobs;
  bool running = false;  // a thread is at work
  uint64_t submitted = 0;
  std::atomic<uint64_t> completed{0};

  Queue() {
#if defined(FANLIGHT_FORK)
    pthread_atfork(nullptr, nullptr, &Queue::forked);
#endif
  }
  static void forked();

  // Runs until no job is left. A job stays in the queue until it is done, so that a forked child, which has the jobs but not the
  // thread, can do an unfinished one again.
  void work() {
    mutex.lock();
    while (!jobs.empty()) {
      const std::function<void()> job = jobs.front();
      mutex.unlock();
      job();
      mutex.lock();
      jobs.pop_front();
      completed.fetch_add(1, std::memory_order_release);
      changed.notify_all();
    }
    running = false;
    mutex.unlock();
  }
};
Queue* const queue = new Queue;  // never destroyed: its thread may outlive static objects

void Queue::forked() { queue->running = false; }

}  // namespace

uint64_t run_in_background(std::function<void()> job) {
  queue->mutex.lock();
  queue->jobs.push_back(std::move(job));
  const uint64_t ticket = ++queue->submitted;
  const bool start = !queue->running;
  queue->running = true;
  queue->mutex.unlock();
  if (start) std::thread([] { queue->work(); }).detach();
  return ticket;
}

void wait_for(uint64_t ticket) {
  if (queue->completed.load(std::memory_order_acquire) >= ticket) return;
  queue->mutex.lock();
  if (!queue->running && !queue->jobs.empty()) {  // a forked child: nobody else will
    queue->running = true;
    queue->mutex.unlock();
    queue->work();
    return;
  }
  while (queue->completed.load(std::memory_order_acquire) < ticket) queue->changed.wait(queue->mutex);
  queue->mutex.unlock();
}

uint64_t last_ticket() {
  queue->mutex.lock();
  const uint64_t ticket = queue->submitted;
  queue->mutex.unlock();
  return ticket;
}

bool background_is_idle() { return queue->completed.load(std::memory_order_acquire) >= last_ticket(); }

}  // namespace fanlight
