// How long work takes on the GPU.
#pragma once

#include <functional>

namespace swiattn {

// The median time of `repeats` runs in microseconds, after three that warm up. One follows the
// other on the current stream, timed by the events between them: what the host takes to launch a
// run counts just where the GPU has nothing else to do.
double median_microseconds(int repeats, const std::function<void()>& run);

// The mean time in microseconds of as many runs, one behind the other, as fill `milliseconds`,
// after six that warm up and say how many that are.
double sustained_microseconds(double milliseconds, const std::function<void()>& run);

}  // namespace swiattn
