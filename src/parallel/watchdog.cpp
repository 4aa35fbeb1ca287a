#include "parallel/watchdog.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

namespace swiattn {

Watchdog::Watchdog(double timeout_seconds, std::function<void(const std::string&)> on_timeout)
    : on_timeout_(std::move(on_timeout)), timeout_(timeout_seconds), thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::set_timeout(double seconds) {
  const std::lock_guard lock(mutex_);
  timeout_ = seconds;
}

void Watchdog::begin(const std::string& what) {
  {
    const std::lock_guard lock(mutex_);
    what_ = what;
    ++wait_;
  }
  changed_.notify_all();
}

void Watchdog::end() {
  {
    const std::lock_guard lock(mutex_);
    what_.clear();
    ++wait_;
  }
  changed_.notify_all();
}

void Watchdog::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !what_.empty(); });
    if (stopping_) return;
    const uint64_t wait = wait_;
    const double timeout = timeout_;
    const bool ended = changed_.wait_for(lock, std::chrono::duration<double>(timeout),
                                         [&] { return stopping_ || wait_ != wait; });
    if (ended) continue;
    const std::string sentence = fmt::format(
        "waited for {} for more than {:g} s; another rank is stuck or gone", what_, timeout);
    lock.unlock();
    on_timeout_(sentence);
    lock.lock();
    return;
  }
}

}  // namespace swiattn
