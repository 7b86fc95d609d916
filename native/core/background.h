// Jobs that run one after another in a thread of their own, which exists only while there are any.
//
// Packing weights goes on here while Python builds the tokenizer. Who needs a job's result waits for its ticket.
#pragma once
#include <cstdint>
#include <functional>

namespace fanlight {

uint64_t run_in_background(std::function<void()> job);  // a ticket
void wait_for(uint64_t ticket);
uint64_t last_ticket();  // of the jobs so far: waiting for it waits for all
bool background_is_idle();

}  // namespace fanlight
