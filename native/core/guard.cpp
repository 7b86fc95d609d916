#include "core/guard.h"

#include <atomic>
#include <cerrno>

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#define FANLIGHT_SIGBUS 1
#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif
#endif

namespace fanlight {

// Whole pages, [begin, end). Ranges are used again and never freed: the handler may look at them at any time.
struct GuardedRange {
  std::atomic<uintptr_t> begin{0}, end{0};  // 0, 0: free
  std::atomic<bool> torn{false};
  GuardedRange* next = nullptr;
};

namespace {

std::atomic<GuardedRange*> ranges{nullptr};

#if defined(FANLIGHT_SIGBUS)

uintptr_t page = 4096;
int n_guards = 0;
struct sigaction previous;

void on_bus_error(int signal, siginfo_t* info, void*) {
  const int saved = errno;
  const uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (GuardedRange* r = ranges.load(std::memory_order_acquire); r && info->si_code > 0; r = r->next) {
    const uintptr_t begin = r->begin.load(std::memory_order_acquire), end = r->end.load(std::memory_order_acquire);
    if (at < begin || at >= end) continue;
    // What follows is gone as well, most likely; and if not, the file is of no use any more either.
    const uintptr_t from = at / page * page;
    r->torn.store(true, std::memory_order_release);
    const void* zeros = mmap(reinterpret_cast<void*>(from), end - from, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    errno = saved;
    if (zeros != MAP_FAILED) return;  // reads on
  }
  if (info->si_code <= 0 && previous.sa_handler == SIG_IGN) return;  // sent by kill()
  // Not ours. The one before gets it; should that hand it back to us, nobody has a use for it.
  static std::atomic<bool> given_back{false};
  if (given_back.exchange(true) || previous.sa_handler == SIG_IGN) {
    struct sigaction fatal = {};
    fatal.sa_handler = SIG_DFL;
    sigaction(signal, &fatal, nullptr);
  } else {
    sigaction(signal, &previous, nullptr);
  }
  if (info->si_code <= 0) raise(signal);  // it does not come again by itself
  errno = saved;
}

bool installed() {
  struct sigaction now;
  return sigaction(SIGBUS, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus_error;
}

void install() {
  page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction ours = {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&ours.sa_mask);
  if (!installed()) sigaction(SIGBUS, &ours, &previous);
}

void uninstall() {
  if (installed()) sigaction(SIGBUS, &previous, nullptr);
}

#endif

}  // namespace

Guard::Guard(const uint8_t* data, size_t bytes) {
  GuardedRange* r = ranges.load(std::memory_order_acquire);
  while (r && r->end.load(std::memory_order_relaxed) != 0) r = r->next;
  if (!r) {
    r = new GuardedRange;
    r->next = ranges.load(std::memory_order_relaxed);
    ranges.store(r, std::memory_order_release);
  }
  range_ = r;
  r->torn.store(false, std::memory_order_relaxed);
#if defined(FANLIGHT_SIGBUS)
  install();
  n_guards++;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  r->begin.store(begin / page * page, std::memory_order_relaxed);
  r->end.store((begin + bytes + page - 1) / page * page, std::memory_order_release);
#else
  (void)data, (void)bytes;
  r->end.store(1, std::memory_order_release);
#endif
}

Guard::~Guard() {
  range_->end.store(0, std::memory_order_release);
#if defined(FANLIGHT_SIGBUS)
  if (--n_guards == 0) uninstall();
#endif
}

bool Guard::torn() const { return range_->torn.load(std::memory_order_acquire); }

}  // namespace fanlight
