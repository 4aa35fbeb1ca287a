// Signals that ask a run to save and stop.
#pragma once

#include <vector>

namespace swiattn {

// From now on each of these signals only sets a flag. The training loop reads it, agrees on it with
// the other ranks, saves, and leaves with exit code 75. For the life of the process.
void install_stop_signals(const std::vector<int>& signals);

// The signal that arrived, or 0.
int stop_signal();

}  // namespace swiattn
