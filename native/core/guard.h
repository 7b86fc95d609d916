// Mapped files that another program may shorten, or whose disk may fail, while they are read.
//
// Reading a page that is gone raises SIGBUS, which ends the process. While a Guard lives, such a page of its range reads as zeros, in
// whatever thread and language it is read, and `torn` tells that it happened. Faults elsewhere go where they went before.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fanlight {

struct GuardedRange;

// The range must stay mapped while this lives. Made and destroyed under one lock (Python's).
class Guard {
 public:
  Guard(const uint8_t* data, size_t bytes);
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  bool torn() const;

 private:
  GuardedRange* range_;
};

}  // namespace fanlight
