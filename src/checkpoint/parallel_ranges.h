// Loops over many elements on all cores, for work that is bound by memory.
#pragma once

#include <cstdint>
#include <functional>

namespace swiattn {

// Calls `body` with disjoint ranges [begin, end) that cover [0, count), on as many threads as there
// are cores; ranges begin at multiples of `grain`. What `body` computes must not depend on how the
// range was split. `body` must not throw.
void parallel_ranges(int64_t count, int64_t grain,
                     const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace swiattn
