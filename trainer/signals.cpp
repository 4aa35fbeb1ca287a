#include "trainer/signals.h"

#include <csignal>
#include <cstring>

namespace swiattn {
namespace {

// A handler can reach nothing but a global of this type.
volatile std::sig_atomic_t arrived = 0;

void remember(int signal) { arrived = signal; }

}  // namespace

void install_stop_signals(const std::vector<int>& signals) {
  for (const int signal : signals) {
    struct sigaction action;
    std::memset(&action, 0, sizeof(action));
    action.sa_handler = remember;
    action.sa_flags = SA_RESTART;  // reads and writes in progress go on
    sigaction(signal, &action, nullptr);
  }
}

int stop_signal() { return arrived; }

}  // namespace swiattn
